"""What blocks change in amounts: the sum of absolute changes of a column, by currency, behind a position.

Guarantee: pure, exact, and never too small where it is known: a change counts with its absolute value, so that a sum
of +100 and -100 is 200; a change of currency counts in both. The change of a row whose old amount is not known counts
with the whole new amount, which is no bound, and is therefore counted as *unknown*, too; so are what cannot be read as
a finite number, and a TRUNCATE.

Memory is bounded: neighbouring blocks become one where many wait, and count until the last of them has been received.
"""

from __future__ import annotations

import decimal
import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

ENTRIES_LIMIT = 10_000
CURRENCIES_LIMIT = 200
OTHER = "*"  # the currency of what comes in beyond so many

_exact = decimal.Context(prec=400, Emax=decimal.MAX_EMAX, Emin=decimal.MIN_EMIN)


class AmountRule(NamedTuple):
    """A column (or a field of the embedded ledger's documents) of a table that holds an amount. Its currency stands in
    ``currency_column``, or is ``currency`` for all."""

    table: str
    column: str
    currency: str = ""
    currency_column: str | None = None


class AmountSum(NamedTuple):
    """An amount of money: its currency, empty where none is named, and its value."""

    currency: str
    value: Decimal


class AmountChange(NamedTuple):
    """What one statement changes of a table's amounts. ``known``: the parts are a bound."""

    table: str
    parts: tuple[AmountSum, ...]
    known: bool = True


Sums = dict[tuple[str, str], Decimal]  # by table and currency


def amount_in(row: Mapping[str, Any], rule: AmountRule) -> AmountSum | None:
    """The amount in a row, given as JSON values by column or field; None if it has none. Raises ValueError for what
    is no amount."""
    value = row.get(rule.column)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ValueError(f"{rule.column} holds no amount")
    try:
        number = Decimal(str(value))
    except decimal.InvalidOperation as error:
        raise ValueError(f"{rule.column} holds no amount") from error
    if not number.is_finite():
        raise ValueError(f"{rule.column} holds no finite amount")
    currency = rule.currency if rule.currency_column is None else row.get(rule.currency_column)
    return AmountSum("" if currency is None else str(currency)[:64], number)


def between(table: str, before: AmountSum | None, after: AmountSum | None) -> AmountChange:
    """The change from one amount to another; None: there is no such row, or it holds none."""
    if before is not None and after is not None and before.currency == after.currency:
        return AmountChange(table, (AmountSum(after.currency, abs(_exact.subtract(after.value, before.value))),))
    amounts = (amount for amount in (before, after) if amount is not None)
    return AmountChange(table, tuple(AmountSum(amount.currency, abs(amount.value)) for amount in amounts))


def unknown(table: str, after: AmountSum | None = None) -> AmountChange:
    """A change from what is not known to ``after``."""
    return AmountChange(table, between(table, None, after).parts, known=False)


class _BlockAmounts(NamedTuple):
    last: int
    sums: Sums
    unknown: int


class AtRiskSums:
    """The sums of the blocks behind what others have received, block by block."""

    def __init__(self) -> None:
        self.totals: Sums = {}
        self.unknown = 0
        self._entries: deque[_BlockAmounts] = deque()

    def add(self, sequence: int, changes: Iterable[AmountChange]) -> None:
        """A block, behind those before."""
        sums: Sums = {}
        not_known = 0
        for change in changes:
            not_known += not change.known
            for amount in change.parts:
                self._add_to(sums, (change.table, amount.currency), amount.value)
        if not sums and not not_known:
            return
        for key, value in sums.items():
            self.totals[key] = _exact.add(self.totals.get(key, Decimal(0)), value)
        self.unknown += not_known
        self._entries.append(_BlockAmounts(sequence, sums, not_known))
        if len(self._entries) > ENTRIES_LIMIT:
            self._join()

    def received(self, sequence: int) -> None:
        """Somebody else has everything up to ``sequence``."""
        while self._entries and self._entries[0].last <= sequence:
            gone = self._entries.popleft()
            self.unknown -= gone.unknown
            for key, value in gone.sums.items():
                self.totals[key] = _exact.subtract(self.totals[key], value)
        if not self._entries:  # sums of zero would keep their places under the limit of currencies
            self.totals.clear()

    def _add_to(self, sums: Sums, key: tuple[str, str], value: Decimal) -> None:
        if key not in self.totals and key not in sums and len(self.totals) + len(sums) >= CURRENCIES_LIMIT:
            key = (key[0], OTHER)
        sums[key] = _exact.add(sums.get(key, Decimal(0)), value)

    def _join(self) -> None:
        """Make one of neighbours, so that each stands for about as many blocks."""
        old, self._entries = self._entries, deque()
        width = 2 * (old[-1].last - old[0].last + 1) // ENTRIES_LIMIT + 1
        for _, group in itertools.groupby(old, key=lambda entry: (entry.last - old[0].last) // width):
            sums: Sums = {}
            not_known = 0
            for entry in group:
                last, not_known = entry.last, not_known + entry.unknown
                for key, value in entry.sums.items():
                    sums[key] = _exact.add(sums.get(key, Decimal(0)), value)
            self._entries.append(_BlockAmounts(last, sums, not_known))
