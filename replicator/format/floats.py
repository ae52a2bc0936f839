"""Floating-point numbers as PostgreSQL prints them.

Guarantee: ``float8_text`` and ``float4_text`` give exactly what PostgreSQL 12 and later print with
``extra_float_digits`` above 0: the shortest decimal that lies strictly within the interval of reals that round to the
number, the nearest one if there are several. Python's ``repr`` is that decimal too, except where it stands exactly on
the interval's border: Python takes it (half goes to even), PostgreSQL does not.
"""

from __future__ import annotations

import math
import struct
from decimal import Decimal
from fractions import Fraction

_float4 = struct.Struct(">f")
_bits4 = struct.Struct(">I")
_NAMES = {math.inf: "Infinity", -math.inf: "-Infinity"}
# Below, a shortest decimal cannot stand on the border: the border has more digits than any shortest one.
_BORDER_FROM = 2.0**54
_BORDER_TO = 1e41


def float8_text(value: float) -> str:
    """The text of a ``double precision``."""
    if value != value:  # only NaN is not equal to itself
        return "NaN"
    if value in _NAMES:
        return _NAMES[value]
    digits = repr(value)
    size = abs(value)
    if _BORDER_FROM <= size < _BORDER_TO and _on_border(value, digits):
        above = Fraction(math.ulp(value)) / 2
        below = above / 2 if math.frexp(size)[0] == 0.5 else above  # below a power of two numbers lie twice as dense
        digits = _shortest_within(value, below, above, range(15, 18))
    return _layout(digits, 15)


def float4_text(value: float) -> str:
    """The text of a ``real``; ``value`` is one exactly."""
    if value != value:
        return "NaN"
    if value in _NAMES:
        return _NAMES[value]
    if value == 0:
        return _layout(repr(value), 6)
    size = abs(value)
    # As whole numbers the bits of positive floats are in the order of the floats: one less is the next one below.
    (bits,) = _bits4.unpack(_float4.pack(size))
    below = (Fraction(size) - Fraction(_float4.unpack(_bits4.pack(bits - 1))[0])) / 2
    power_of_two = bits & 0x7FFFFF == 0 and bits >= 2 << 23  # then the next one above is twice as far
    precisions = range(6 if bits >= 1 << 23 else 1, 10)  # six decimals tell any normal numbers apart
    return _layout(_shortest_within(value, below, below * 2 if power_of_two else below, precisions), 6)


def _on_border(value: float, digits: str) -> bool:
    # Half a unit in the last place away: as near to the next number as to this one. Fractions, for floats would round.
    return abs(Fraction(digits) - Fraction(value)) * 2 == Fraction(math.ulp(value))


def _shortest_within(value: float, below: Fraction, above: Fraction, precisions: range) -> str:
    """The shortest decimal that lies nearer than these distances, counted away from zero."""
    exact = abs(Fraction(value))
    sign = "-" if value < 0 else ""
    nearest = Decimal()
    for precision in precisions:
        nearest = Decimal(f"{abs(value):.{precision - 1}e}")
        # Where the distances differ, the nearest decimal can be too far below while the next one above is not.
        for decimal in (nearest, nearest + Decimal((0, (1,), int(nearest.as_tuple().exponent)))):
            if -below < Fraction(decimal) - exact < above:
                return f"{sign}{decimal:e}"
    return f"{sign}{nearest:e}"


def _layout(digits: str, fixed_below: int) -> str:
    """PostgreSQL's choice between ``123.4`` and ``1.234e+20``: by the decimal exponent."""
    sign = "-" if digits.startswith("-") else ""
    mantissa, _, exponent = digits.removeprefix("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    plain = (whole + fraction).lstrip("0")
    point = int(exponent or 0) + len(whole) - (len(whole + fraction) - len(plain))
    plain = plain.rstrip("0")
    if not plain:
        return f"{sign}0"
    scientific = point - 1
    if not -4 <= scientific < fixed_below:
        tail = f".{plain[1:]}" if len(plain) > 1 else ""
        return f"{sign}{plain[0]}{tail}e{'-' if scientific < 0 else '+'}{abs(scientific):02d}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{plain}"
    if len(plain) <= point:
        return f"{sign}{plain}{'0' * (point - len(plain))}"
    return f"{sign}{plain[:point]}.{plain[point:]}"
