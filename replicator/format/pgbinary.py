"""PostgreSQL's binary forms of values, read into the text that PostgreSQL prints for them.

Guarantee: each function takes a value's binary bytes and gives exactly its canonical text: that of the type's output
function with ``datestyle`` ISO, ``timezone`` UTC, ``extra_float_digits`` 3 and ``bytea_output`` hex. Bytes that are no
such value raise ValueError or struct.error. The forms are those of the types' send functions, which do not change.
"""

from __future__ import annotations

import datetime
import struct

from replicator.format.floats import float4_text, float8_text

_float4 = struct.Struct(">f")
_float8 = struct.Struct(">d")
_int4 = struct.Struct(">i")
_int8 = struct.Struct(">q")
_numeric = struct.Struct(">HhHH")

_EPOCH_DAY = datetime.date(2000, 1, 1).toordinal()
_EPOCH = datetime.datetime(2000, 1, 1)
_FIRST_MICROSECOND = (1 - _EPOCH_DAY) * 86_400_000_000
_LAST_MICROSECOND = (datetime.date.max.toordinal() + 1 - _EPOCH_DAY) * 86_400_000_000 - 1
_CYCLE_DAYS = 146_097  # 400 years of the Gregorian calendar
_DAY_MICROSECONDS = 86_400_000_000


def bool_text(data: bytes) -> str:
    """``t`` or ``f``."""
    return "t" if bool_number(data) else "f"


def bool_number(data: bytes) -> int:
    """1 or 0."""
    (number,) = data
    return 1 if number else 0


def int_number(data: bytes) -> int:
    """int2, int4, int8: a signed big-endian number."""
    if len(data) not in (2, 4, 8):
        raise ValueError(f"an integer of {len(data)} bytes")
    return int.from_bytes(data, "big", signed=True)


def int_text(data: bytes) -> str:
    """An integer's decimal digits."""
    return str(int_number(data))


def float4_number(data: bytes) -> float:
    """A real."""
    number: float = _float4.unpack(data)[0]
    return number


def float8_number(data: bytes) -> float:
    """A double precision."""
    number: float = _float8.unpack(data)[0]
    return number


def nearest_float4_text(number: float) -> str:
    """The text of the real that is nearest to a double; one beyond all reals keeps its own."""
    try:
        return float4_text(float4_number(_float4.pack(number)))
    except OverflowError:
        return float8_text(number)


def float4_binary_text(data: bytes) -> str:
    """A real's shortest text."""
    return float4_text(float4_number(data))


def float8_binary_text(data: bytes) -> str:
    """A double's shortest text."""
    return float8_text(float8_number(data))


def bytea_text(data: bytes) -> str:
    """``\\x`` and hex."""
    return "\\x" + data.hex()


def uuid_text(data: bytes) -> str:
    """Groups of 8-4-4-4-12 hex digits."""
    if len(data) != 16:
        raise ValueError(f"a uuid of {len(data)} bytes")
    digits = data.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def jsonb_text(data: bytes) -> str:
    """A version, which is 1, and the text."""
    if data[:1] != b"\x01":
        raise ValueError("a jsonb of an unknown version")
    return str(data[1:], "utf-8")


def date_text(data: bytes) -> str:
    """Days since 2000-01-01; the extremes are the infinities."""
    (days,) = _int4.unpack(data)
    if days == 2**31 - 1:
        return "infinity"
    if days == -(2**31):
        return "-infinity"
    date, suffix = _civil(days)
    return date + suffix


def timestamp_text(data: bytes) -> str:
    """Microseconds since 2000-01-01; the extremes are the infinities."""
    return _timestamp(data, "")


def timestamptz_text(data: bytes) -> str:
    """As ``timestamp_text``, in UTC."""
    return _timestamp(data, "+00")


def _timestamp(data: bytes, zone: str) -> str:
    (microseconds,) = _int8.unpack(data)
    if _FIRST_MICROSECOND <= microseconds <= _LAST_MICROSECOND:  # years 1 to 9999, as nearly all are: Python's own way
        text = (_EPOCH + datetime.timedelta(microseconds=microseconds)).isoformat(" ")
        # PostgreSQL drops a fraction's trailing zeros; without a fraction there are 19 characters, and none to drop.
        return (text.rstrip("0") if len(text) > 19 else text) + zone
    if microseconds == 2**63 - 1:
        return "infinity"
    if microseconds == -(2**63):
        return "-infinity"
    days, rest = divmod(microseconds, _DAY_MICROSECONDS)
    date, suffix = _civil(days)
    seconds, fraction = divmod(rest, 1_000_000)
    clock = f"{seconds // 3600:02d}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"
    tail = f".{fraction:06d}".rstrip("0") if fraction else ""
    return f"{date} {clock}{tail}{zone}{suffix}"


def _civil(days: int) -> tuple[str, str]:
    """The date of a day counted from 2000-01-01, and its suffix. Years beyond Python's range are moved by whole cycles
    of 400 years, after which the calendar repeats."""
    ordinal = days + _EPOCH_DAY
    cycles = (ordinal - 1) // _CYCLE_DAYS
    date = datetime.date.fromordinal(ordinal - cycles * _CYCLE_DAYS)
    year = date.year + cycles * 400  # astronomers' years: 0 is 1 BC
    if year > 0:
        return f"{year:04d}-{date.month:02d}-{date.day:02d}", ""
    return f"{1 - year:04d}-{date.month:02d}-{date.day:02d}", " BC"


_NUMERIC_SIGNS = {0x0000: "", 0x4000: "-"}
_NUMERIC_NAMES = {0xC000: "NaN", 0xD000: "Infinity", 0xF000: "-Infinity"}


def numeric_text(data: bytes) -> str:
    """Digits in base 10000 with the first one's weight, a sign, and the count of decimals that are shown."""
    count, weight, sign, scale = _numeric.unpack_from(data)
    if sign in _NUMERIC_NAMES:
        return _NUMERIC_NAMES[sign]
    groups = struct.unpack(f">{count}H", data[8:])
    if any(group > 9999 for group in groups):
        raise ValueError("a numeric with a digit beyond 9999")
    places = weight + 1  # groups before the point; fewer than none: groups of zeros that are left out behind it
    text = "".join([f"{group:04d}" for group in groups])
    if places > 0:
        split = 4 * places  # groups of zeros at the end are not sent: they are filled up again, on both sides
        whole, fraction = text[:split].ljust(split, "0"), text[split:]
    else:
        whole, fraction = "0", "0" * (-4 * places) + text
    shown = f".{fraction[:scale].ljust(scale, '0')}" if scale else ""
    return f"{_NUMERIC_SIGNS[sign]}{whole.lstrip('0') or '0'}{shown}"
