"""Coming back: a region that was in charge, or followed who was, and holds blocks that nobody else received.

In the order of what happens: ``fork`` (where the two chains part) → ``seal`` (the orphan blocks and their report are
kept, for good) → ``rewind`` (tables, indexes, journal and spool go back to the fork) → the region follows like any
other. Later, by a person: ``orphans`` (what was sealed, judged against now, and sent again by ``primary_client``).
"""
