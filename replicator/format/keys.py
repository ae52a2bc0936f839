"""Reading keys out of row images, on the hot path.

Guarantee: a reader gives the key image (``format/row.py``) of every row image of its table, and refuses an image that
is too short, has another count of columns, or has a key column that is null or unchanged. It decodes nothing behind the
key's last column. There is one reader for each shape of key, because this runs once a row.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from operator import itemgetter

from replicator.format.definition import Definition

_length = struct.Struct(">i")
_count = struct.Struct(">h")
_BAD_KEY = "a row image with another count of columns, or a key that is null, unchanged or cut off"


def key_reader(definition: Definition) -> Callable[[bytes], bytes]:
    """What reads the key image out of a row image of the table; it raises ValueError or struct.error."""
    places = definition.key_places
    count = _count.pack(len(definition.columns))
    if places == (0,):
        return _first_column(count)
    if places == tuple(range(len(places))):
        return _leading_columns(count, len(places))
    return _any_columns(count, places)


def _first_column(count: bytes) -> Callable[[bytes], bytes]:
    read = _length.unpack_from

    def key_of(image: bytes) -> bytes:
        (size,) = read(image, 2)
        # A slice beyond the end would be cut in silence, and two rows could then have one key.
        if size < 0 or size > len(image) - 6 or image[:2] != count:
            raise ValueError(_BAD_KEY)
        return b"\x00\x01" + image[2 : 6 + size]

    return key_of


def _leading_columns(count: bytes, columns: int) -> Callable[[bytes], bytes]:
    read = _length.unpack_from
    head = _count.pack(columns)

    def key_of(image: bytes) -> bytes:
        # The key's columns stand as they have to in its image: their lengths only say where it ends.
        at = 2
        for _ in range(columns):
            (size,) = read(image, at)
            if size < 0:
                raise ValueError(_BAD_KEY)
            at += 4 + size
        if at > len(image) or image[:2] != count:
            raise ValueError(_BAD_KEY)
        return head + image[2:at]

    return key_of


def _any_columns(count: bytes, places: tuple[int, ...]) -> Callable[[bytes], bytes]:
    read = _length.unpack_from
    head = _count.pack(len(places))
    in_key = [place in places for place in range(max(places) + 1)]
    in_row_order = sorted(places)
    order = [in_row_order.index(place) for place in places]
    in_key_order = itemgetter(*order) if len(order) > 1 else tuple  # ``itemgetter`` of one item gives no tuple

    def key_of(image: bytes) -> bytes:
        pieces = []
        at = 2
        for is_key in in_key:
            (size,) = read(image, at)
            if is_key:
                if size < 0:
                    raise ValueError(_BAD_KEY)
                pieces.append(image[at : at + 4 + size])
            at += 4 + size if size > 0 else 4
        if at > len(image) or image[:2] != count:
            raise ValueError(_BAD_KEY)
        return head + b"".join(in_key_order(pieces))

    return key_of
