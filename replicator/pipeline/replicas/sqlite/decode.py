"""Row images into what SQLite stores, by the thousand. Pure.

The idea: rows of one length mostly have one *layout*, the lengths of their columns. The first row of a length gives the
layout; rows after it that have the same are read by one struct, whole numbers at once. Others take the plain way.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import cast

from replicator.format.definition import Column
from replicator.format.row import UNCHANGED, Cell, Unchanged, unpack_row
from replicator.format.values import Stored, kind_of, storage_of

LAYOUTS_LIMIT = 32  # per batch; rows of ever new lengths gain nothing from layouts
_WHOLE = {"int2": (2, "h"), "int4": (4, "i"), "int8": (8, "q")}
DECODE_ERRORS = (ValueError, KeyError, TypeError, IndexError, struct.error)

Read = Callable[[bytes], Stored]


class _RowLayout:
    """One struct for rows whose columns are as long as these, and what is left to be read one by one."""

    def __init__(self, cells: Sequence[Cell], columns: Sequence[Column], reads: Sequence[Read]) -> None:
        self.lengths = lengths = tuple(len(cell) for cell in cells if isinstance(cell, bytes))
        self.rest: list[tuple[int, Read]] = []
        form = [">h"]
        for place, (length, column) in enumerate(zip(lengths, columns, strict=True)):
            size, code = _WHOLE.get(kind_of(column.type), (-1, "")) if column.format == "binary" else (-1, "")
            form.append(f"i{code}" if size == length else f"i{length}s")
            if size != length:
                self.rest.append((place, reads[place]))
        self.unpack = struct.Struct("".join(form)).unpack


class Decoder:
    """Decodes images of these columns."""

    def __init__(self, columns: Sequence[Column]) -> None:
        self._columns = columns
        self._reads = [storage_of(column) for column in columns]

    def rows(self, images: Sequence[bytes]) -> list[list[Stored]]:
        """Images without unchanged columns. Raises one of ``DECODE_ERRORS``."""
        layouts: dict[int, _RowLayout] = {}
        count = len(self._columns)
        out = []
        for image in images:
            layout = layouts.get(len(image))
            if layout is not None:
                # It has the same length, so it can be unpacked; but its columns may be cut elsewhere. Unpacked are the
                # count of columns, then each column's length and value.
                values = layout.unpack(image)
                if values[1::2] == layout.lengths and values[0] == count:
                    row = list(values[2::2])
                    for place, read in layout.rest:
                        row[place] = read(row[place])
                    out.append(row)
                    continue
            cells = unpack_row(image)
            out.append(self._read(cells))
            # A null has a length of -1 and no value: no struct reads that.
            if layout is None and len(layouts) < LAYOUTS_LIMIT and None not in cells:
                layouts[len(image)] = _RowLayout(cells, self._columns, self._reads)
        return out

    def _read(self, cells: Sequence[Cell]) -> list[Stored]:
        if len(cells) != len(self._reads) or UNCHANGED in cells:
            raise ValueError(f"{len(cells)} columns, not {len(self._reads)}, or an unchanged one out of place")
        complete = cast(Sequence[bytes | None], cells)
        return [None if cell is None else read(cell) for read, cell in zip(self._reads, complete, strict=True)]

    def patch(self, image: bytes) -> tuple[list[int], list[Stored]]:
        """The places that a patch changes, and the row with None where it does not."""
        cells = unpack_row(image)
        places = [place for place, cell in enumerate(cells) if not isinstance(cell, Unchanged)]
        row = [
            None if cell is None or isinstance(cell, Unchanged) else read(cell)
            for read, cell in zip(self._reads, cells, strict=True)
        ]
        return places, row
