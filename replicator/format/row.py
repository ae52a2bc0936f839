"""Row images: a row as bytes that nobody decodes on the way.

Guarantee: the image that a source writes is the one that every replica reads, byte for byte.

Layout, that of one tuple in PostgreSQL's ``COPY … WITH (FORMAT binary)``: a 16-bit count of columns, then for each
column a 32-bit length and that many bytes, all big-endian; length -1 is NULL. One length is ours: -2 is *unchanged*,
a large value that the source did not send again because the update left it alone. Whether a column's bytes are
PostgreSQL's text or its binary form is said once, in the table's definition. Rows of any source take this form, so a
batch of them is a COPY by concatenation.

A *key image* is the same layout over the key's columns only, in the definition's order.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable, Sequence
from typing import Final

COLUMN_LIMIT = 1664  # PostgreSQL's own limit of columns in a row


class Unchanged(enum.Enum):
    """The type of UNCHANGED: the value stays what it was."""

    UNCHANGED = -2

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED: Final = Unchanged.UNCHANGED
Cell = bytes | None | Unchanged

_NULL_LENGTH = b"\xff\xff\xff\xff"
_UNCHANGED_LENGTH = b"\xff\xff\xff\xfe"
_count = struct.Struct(">h")
_length = struct.Struct(">i")


def pack_row(cells: Sequence[Cell]) -> bytes:
    """A row image of these column values."""
    out = [_count.pack(len(cells))]
    for cell in cells:
        if cell is None:
            out.append(_NULL_LENGTH)
        elif cell is UNCHANGED:
            out.append(_UNCHANGED_LENGTH)
        else:
            out.append(_length.pack(len(cell)))
            out.append(cell)
    return b"".join(out)


def unpack_row(image: bytes) -> list[Cell]:
    """The column values of a row image. Raises ValueError if it is not a whole one."""
    if len(image) < 2:
        raise ValueError("a row image has a count of columns")
    count = (image[0] << 8) | image[1]  # without a sign: a negative count is refused as a large one
    if count > COLUMN_LIMIT:
        raise ValueError(f"{count} columns, at most {COLUMN_LIMIT} are possible")
    cells: list[Cell] = []
    at = 2
    read_length = _length.unpack_from
    try:
        for _ in range(count):
            (size,) = read_length(image, at)
            at += 4
            if size >= 0:
                cells.append(image[at : at + size])  # cut short at the image's end: ``at`` then tells
                at += size
            elif size == -1:
                cells.append(None)
            elif size == -2:
                cells.append(UNCHANGED)
            else:
                raise ValueError(f"a column of length {size}")
    except struct.error as error:
        raise ValueError("a row image that ends early") from error
    if at != len(image):
        raise ValueError("a row image that does not end with its last column")
    return cells


def key_image(image: bytes, key_columns: Iterable[int]) -> bytes:
    """The key image of a row: the columns at these places, in this order."""
    cells = unpack_row(image)
    return pack_row([cells[place] for place in key_columns])
