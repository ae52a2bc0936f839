"""What is known of a replica's equality: up to where it is proven, and which keys are not as they must be.

Guarantee: *verified* moves to a sequence only if everything up to there was compared and is right: windows follow each
other without a hole from a place that was proven, and no key that was found wrong is still wrong. What was too much for
a window waits for a scrub of the whole tables; until then nothing behind it is called verified. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from replicator.verify.diagnosis import Diagnosis

KEPT_KEYS = 10_000  # of those that differ; beyond that they are counted by the scrub only


class DivergentKey(NamedTuple):
    """A key that is not as it must be.

    ``right`` is the line that must stand there (None: no row), if ``is_right_known``; ``found_at`` the sequence at
    which it was seen. ``key`` is for people.
    """

    table: str
    key_line: bytes
    key: str
    is_right_known: bool
    right: bytes | None
    found_at: int
    diagnosis: Diagnosis | None


class DivergenceFindings:
    """What is known of one replica, in one strand. ``verified`` is the sequence up to which it is proven equal,
    ``checked`` the one up to which windows were compared."""

    def __init__(self, verified: int) -> None:
        self.verified = verified
        self.checked = verified  # windows reach this far
        self.compared_at: int | None = None  # where rows were compared last
        self.scrubbed: int | None = None  # where whole tables were last
        self.mismatches = 0  # keys that were found wrong, each time that one becomes so
        self.wrong: dict[tuple[str, bytes], DivergentKey] = {}
        self.unlisted: dict[str, int] = {}  # how many keys are wrong, by table, beside those in ``wrong``
        self._is_asked = False
        self._unproven_at: int | None = None  # the last window that was too much to look at

    @property
    def wants_scrub(self) -> bool:
        """Whether a window was too much to look at, so that only a look at the whole tables proves it; or whether
        somebody has asked for one."""
        return self._unproven_at is not None or self._is_asked

    @property
    def is_clean(self) -> bool:
        """Nothing is known to be wrong, nothing is open."""
        return not self.wrong and not self.unlisted and self._unproven_at is None

    def divergent_keys(self) -> dict[str, int]:
        """How many keys are wrong, by table."""
        counts = Counter(table for table, _ in self.wrong)
        counts.update(self.unlisted)
        return dict(counts)

    def begin_at(self, sequence: int, *, is_proven: bool) -> None:
        """Go on from a place that was proven in an earlier life, or from one that a scrub has yet to prove: a replica
        that began as a copy."""
        self.checked = sequence
        self.verified = sequence if is_proven else 0
        self._unproven_at = None if is_proven else sequence

    def remember(self, keys: Iterable[DivergentKey], more: Mapping[str, int]) -> None:
        """These were wrong in an earlier life, and nobody has seen yet that they are right."""
        self.wrong = {(key.table, key.key_line): key for key in keys}
        self.unlisted = dict(more)
        self._is_asked = self._is_asked or not self.is_clean

    def ask_for_scrub(self) -> None:
        """Somebody has seen a difference: look soon."""
        self._is_asked = True

    def set_back(self, sequence: int) -> None:
        """The replica stands at ``sequence`` again: what it gets behind that is to be compared again."""
        self.checked = min(self.checked, sequence)
        self.verified = min(self.verified, sequence)
        for name, key in self.wrong.items():
            if key.found_at > sequence:  # what was right there may be on a chain that was undone
                self.wrong[name] = key._replace(is_right_known=False)
                self._is_asked = True

    def window(self, until: int, wrong: Iterable[DivergentKey], right: Iterable[tuple[str, bytes]]) -> None:
        """A window up to ``until`` was compared: these keys are wrong, those were and are right now."""
        for name in right:
            self.wrong.pop(name, None)
        self._keep(wrong, self.wrong)
        self._checked_to(until)

    def too_large(self, until: int) -> None:
        """The window up to ``until`` has too many keys to be compared by itself."""
        self._unproven_at = until
        self._checked_to(until)

    def scrub(self, at: int, wrong: Iterable[DivergentKey], more: dict[str, int], *, whole: bool = True) -> None:
        """All tables were compared at or behind the sequence ``at``, if it was ``whole``; else some could not be read.
        ``more`` counts wrong keys that are not listed."""
        self._is_asked = False
        known = self.wrong
        # The tables were read at ``at``: what a window found behind that is younger, and stays.
        self.wrong = {name: key for name, key in known.items() if key.found_at > at}
        self.unlisted = dict(more)
        self._keep(wrong, known)
        # A window that was passed over after the scrub had fixed its moments is not proven by it.
        if whole and self._unproven_at is not None and self._unproven_at <= at:
            self._unproven_at = None
        self.scrubbed = at
        self._checked_to(max(at, self.checked) if self.is_clean else self.checked)

    def _keep(self, wrong: Iterable[DivergentKey], known: Mapping[tuple[str, bytes], DivergentKey]) -> None:
        for key in wrong:
            name = (key.table, key.key_line)
            self.mismatches += name not in known
            if name in self.wrong or len(self.wrong) < KEPT_KEYS:
                self.wrong[name] = key
            else:
                self.unlisted[key.table] = self.unlisted.get(key.table, 0) + 1

    def _checked_to(self, until: int) -> None:
        self.checked = max(self.checked, until)
        self.compared_at = max(until, self.compared_at or 0)
        if self.is_clean:
            self.verified = self.checked
