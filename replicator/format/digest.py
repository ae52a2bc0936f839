"""Digests: what a table contains at one position, in a few bytes for each bucket of keys.

Guarantee: equal contents have equal digests, in whatever order the rows are read. Contents that differ by accident (a
lost, added, doubled or altered row, two rows exchanged) have different digests, save with a chance of about 2^-256.

Format 1: a row's hash is SHA-256 over the table's label, a zero byte and the row's line (``format/canonical.py``), read
as a big-endian number. A bucket's digest is the *sum* of its rows' hashes modulo 2^256, with the number of its rows. A
row's bucket is the CRC-32 of its key line modulo the number of buckets, a power of two. A table's digest is the sum
over its buckets. Test vectors: ``tests/vectors/digests.json``.

A sum, not XOR: with XOR two equal rows cancel out, and a doubled row without a key is not seen. The sum is against
accidents. It is no seal against somebody who may choose rows: sums of hashes can be met on purpose (Wagner's
generalised birthday attack). What protects history from being rewritten is the chain of blocks. The version of a
document is one of its table's columns, so it is under the hash. Pure.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable
from hashlib import sha256
from typing import NamedTuple

MODULUS = 1 << 256
HASH_BYTES = 32
BUCKETS_LIMIT = 1 << 16


class Digest(NamedTuple):
    """So many rows, and the sum of their hashes."""

    rows: int
    sum: int

    def __add__(self, other: object) -> Digest:
        if not isinstance(other, Digest):
            return NotImplemented
        return Digest(self.rows + other.rows, (self.sum + other.sum) % MODULUS)

    def __str__(self) -> str:
        return f"{self.sum:064x}"


EMPTY = Digest(0, 0)


def row_hash(label: str, line: bytes) -> int:
    """A row's hash, as a number."""
    return int.from_bytes(sha256(label.encode() + b"\0" + line).digest(), "big")


def bucket_of(key: bytes, buckets: int) -> int:
    """The bucket of a key line."""
    return zlib.crc32(key) & (buckets - 1)


class TableDigest:
    """Collects a table's digests, bucket by bucket. Raises ValueError unless ``buckets`` is a power of two."""

    def __init__(self, label: str, buckets: int) -> None:
        if not 1 <= buckets <= BUCKETS_LIMIT or buckets & (buckets - 1):
            raise ValueError(f"the number of buckets is a power of two up to {BUCKETS_LIMIT}, not {buckets}")
        self._prefix = label.encode() + b"\0"
        self._mask = buckets - 1
        self._rows = [0] * buckets
        self._sums = [0] * buckets

    def add(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        """Take rows: their key lines and lines."""
        # Local names, and sums that are reduced when they are read: this runs for every row of every comparison.
        prefix, mask, counts, sums = self._prefix, self._mask, self._rows, self._sums
        crc32, number = zlib.crc32, int.from_bytes
        for key, line in rows:
            bucket = crc32(key) & mask
            counts[bucket] += 1
            sums[bucket] += number(sha256(prefix + line).digest(), "big")

    def buckets(self) -> dict[int, Digest]:
        """The digests of the buckets that have rows."""
        return {
            bucket: Digest(rows, total % MODULUS)
            for bucket, (rows, total) in enumerate(zip(self._rows, self._sums, strict=True))
            if rows
        }

    def total(self) -> Digest:
        """The table's digest."""
        return Digest(sum(self._rows), sum(self._sums) % MODULUS)


def differing_buckets(one: dict[int, Digest], other: dict[int, Digest]) -> list[int]:
    """The buckets whose contents differ."""
    return sorted(bucket for bucket in one.keys() | other.keys() if one.get(bucket) != other.get(bucket))
