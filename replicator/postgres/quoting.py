"""Names, literals and arrays as SQL takes them, whatever is in them. Pure.

Literals rest on ``standard_conforming_strings``, which every session has (``settings``).
"""

from __future__ import annotations

from collections.abc import Iterable


def quoted(*names: str) -> str:
    """A name, or a name within a schema."""
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)


def listed(names: Iterable[str]) -> str:
    """Names, as a list of columns."""
    return ", ".join(map(quoted, names))


def literal(text: str) -> str:
    """A text."""
    return "'" + text.replace("'", "''") + "'"


def array(texts: Iterable[str]) -> str:
    """An array of texts in its text form, for a parameter."""
    return "{" + ",".join('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' for text in texts) + "}"
