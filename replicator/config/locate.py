"""Where in a TOML text a key stands. tomllib does not tell, so headers and keys are found line by line.

Guarantee: the line of the key, or of the nearest thing around it that is there (its table's header), or None. Good
enough to point a person to the place; it decides nothing.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from typing import Any

Path = tuple[str | int, ...]

_HEADER = re.compile(r"\s*\[{1,2}[^\[\]]+\]{1,2}\s*(#.*)?$")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")


def line_of(text: str, path: Path) -> int | None:
    """The line, counted from 1, of the key at ``path`` or of the innermost table around it that has one."""
    best_length, best_line = 0, None
    for line, place in _places(text):
        length = _common(place, path)
        # All of the place (a table around the key), or all of the key; a key beside it shares only the table's names.
        if length in (len(place), len(path)) and length > best_length:
            best_length, best_line = length, line
    return best_line


def _places(text: str) -> Iterator[tuple[int, Path]]:
    table: Path = ()
    counts: dict[Path, int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if _HEADER.match(line):
            names = _names(line)
            if not names:
                continue
            table = _counted(names, counts)
            if line.lstrip().startswith("[["):
                counts[table] = counts.get(table, -1) + 1
                table = (*table, counts[table])
            yield number, table
        elif match := _KEY.match(line):  # by its name alone: the value may go on over further lines
            yield number, (*table, *_names(f"{match[1]} = 0"))


def _names(line: str) -> tuple[str, ...]:
    """The key path of a header or of ``key = 0``; empty if it is neither (a line of a longer string, say)."""
    try:
        fields: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    names = []
    while isinstance(fields, dict | list) and fields:
        if isinstance(fields, list):  # a header in two brackets: a list of one table
            fields = fields[0]
            continue
        name, fields = next(iter(fields.items()))
        names.append(name)
    return tuple(names)


def _counted(names: tuple[str, ...], counts: dict[Path, int]) -> Path:
    """The names, with the current number of each array of tables among all but the last of them."""
    path: Path = ()
    for place, name in enumerate(names):
        path = (*path, name)
        if path in counts and place < len(names) - 1:
            path = (*path, counts[path])
    return path


def _common(one: Path, other: Path) -> int:
    length = 0
    for mine, yours in zip(one, other, strict=False):
        if mine != yours:
            break
        length += 1
    return length
