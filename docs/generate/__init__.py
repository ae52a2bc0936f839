"""The pages that are made from the source, so that they cannot disagree with it.

    python -m docs.generate            writes them
    python -m docs.generate --check    writes nothing; exit code 1 names those that are not as the source says

A page is a function of the source alone: it names no date, no path and no line.
"""
