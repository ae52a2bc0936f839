"""What is known of a replica's equality at one moment, as values to be shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True, slots=True)
class DivergentKeyView:
    """A key of the replica that is not as it must be: since when it is known, the first block whose change is missing,
    the last one that touched it, which regions the journal speaks against, and the likely cause."""

    table: str
    key: str
    found_at: int
    first_block: int | None = None
    last_block: int | None = None
    odd: tuple[str, ...] = ()
    cause: str = ""


@dataclasses.dataclass(frozen=True, slots=True)
class VerifyView:
    """What is known of a replica's equality.

    ``verified`` is the sequence up to which it is proven, ``age_seconds`` how long blocks behind it have been waiting
    to be proven, ``compared_at`` where rows were compared last. ``mismatches`` counts keys that were found wrong,
    ``divergent_keys`` those that are wrong now, by table; ``wrong`` are the first of them. Of the last whole scrub:
    its sequence, age, rows and duration; ``scrub_table`` is what one that runs is reading. ``trouble`` says why the
    watch does not work.
    """

    verified: int
    age_seconds: float
    compared_at: int | None = None
    checkpoints: int = 0
    mismatches: int = 0
    divergent_keys: Mapping[str, int] = dataclasses.field(default_factory=dict)
    wrong: tuple[DivergentKeyView, ...] = ()
    scrubs: int = 0
    scrub_sequence: int | None = None
    scrub_age_seconds: float | None = None
    scrub_rows: int = 0
    scrub_seconds: float = 0.0
    scrub_table: str = ""
    trouble: str = ""
