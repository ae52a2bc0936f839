"""The values of a configuration: durations, sizes, paths, addresses, secrets.

Durations are ``500ms``, ``2s``, ``5m``, ``1h``, ``7d``. Sizes are ``512B``, ``64kB``, ``64MB``, ``1GB`` (powers of
1000) and ``64KiB``, ``64MiB``, ``1GiB`` (powers of 1024). A number without its unit is refused: it is ambiguous.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, BeforeValidator, GetCoreSchemaHandler, ValidationInfo
from pydantic_core import CoreSchema, core_schema

SECRET_LIMIT_BYTES = 65_536
_DURATION_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86_400}
_SIZE_BYTES = {
    "B": 1,
    **{"kB": 10**3, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12},
    **{"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40},
}
_NUMBER_AND_UNIT = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,6})?) ?([A-Za-z]+)", re.ASCII)


class ReadContext(NamedTuple):
    """What a file's values are read by: the directory that relative paths start from, and the environment."""

    directory: Path
    environment: Mapping[str, str]


class Address(NamedTuple):
    """Where to listen. Port 0 takes any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class Secret:
    """A value that is never printed: ``reveal`` is the only way to it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself; not for messages or logs."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other._value == self._value

    def __hash__(self) -> int:
        return hash(self._value)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(read_secret)


def read_secret(value: object, info: ValidationInfo) -> Secret:
    """A secret from ``{ env = "NAME" }``, ``{ file = "path" }`` or a plain string. Raises ValueError without it."""
    if isinstance(value, Secret):
        return value
    if isinstance(value, str):
        return _not_empty(value, "the value")
    if not isinstance(value, dict) or len(value) != 1 or not isinstance(next(iter(value.values())), str):
        raise ValueError('a secret is { env = "NAME" }, { file = "path" } or a string')
    kind, name = next(iter(value.items()))
    if kind == "env":
        value = _surroundings(info).environment.get(name)
        if value is None:
            raise ValueError(f"the environment variable {name} is not set")
        return _not_empty(value, f"the environment variable {name}")
    if kind == "file":
        return _secret_file(_surroundings(info).directory / Path(name).expanduser())
    raise ValueError(f'a secret comes from "env" or "file", not from {kind!r}')


def _secret_file(path: Path) -> Secret:
    try:
        with path.open("rb") as file:
            content = file.read(SECRET_LIMIT_BYTES + 1)
        if len(content) > SECRET_LIMIT_BYTES:
            raise ValueError(f"the secret's file {path} has more than {SECRET_LIMIT_BYTES} bytes")
        # Editors end a file with a line feed, which is no part of the secret; spaces might be.
        return _not_empty(content.decode().rstrip("\r\n"), f"the secret's file {path}")
    except UnicodeDecodeError:  # not chained: it holds the bytes
        raise ValueError(f"the secret's file {path} is not UTF-8 text") from None
    except OSError as error:
        raise ValueError(f"the secret's file {path} cannot be read: {error.strerror}") from error


def _not_empty(value: str, what: str) -> Secret:
    if not value:
        raise ValueError(f"{what} is empty")
    if "\x00" in value:
        raise ValueError(f"{what} holds a NUL character")
    return Secret(value)


def read_duration(value: object) -> object:
    """Seconds from ``2s``."""
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        scale = _DURATION_SECONDS.get(match[2])
        if scale is not None and float(match[1]) > 0:
            return float(match[1]) * scale
    raise ValueError('a duration above zero is needed, such as "500ms", "2s", "5m", "1h" or "7d"')


def _read_duration_or_auto(value: object) -> object:
    return value if value == "auto" else read_duration(value)


def read_size(value: object) -> object:
    """Bytes from ``64MB``."""
    if isinstance(value, str) and (match := _NUMBER_AND_UNIT.fullmatch(value)):
        scale = _SIZE_BYTES.get(match[2])
        if scale is not None and 1 <= float(match[1]) * scale < 2**63:
            return int(float(match[1]) * scale)
    raise ValueError('a size is needed, such as "512B", "64kB", "64MB", "64MiB" or "1GB"')


def _read_path(value: Path, info: ValidationInfo) -> Path:
    if not value.parts:
        raise ValueError("a path is needed")
    # Not resolved: a link that is set to another place later must still lead there.
    return Path(os.path.normpath(_surroundings(info).directory / value.expanduser()))


def _read_address(value: object) -> Address:
    pattern = r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9.*_-]+)):(?P<port>[0-9]{1,5})"
    match = re.fullmatch(pattern, value) if isinstance(value, str) else None
    if match is None or int(match["port"]) > 65_535:
        raise ValueError('an address is host:port, such as "127.0.0.1:7400" or "[::]:7400"')
    return Address(match["six"] or match["host"], int(match["port"]))


def _surroundings(info: ValidationInfo) -> ReadContext:
    assert isinstance(info.context, ReadContext)
    return info.context


Duration = Annotated[float, BeforeValidator(read_duration)]
DurationOrAuto = Annotated[float | Literal["auto"], BeforeValidator(_read_duration_or_auto)]
Size = Annotated[int, BeforeValidator(read_size)]
FilePath = Annotated[Path, AfterValidator(_read_path)]
Listen = Annotated[Address, BeforeValidator(_read_address)]
