"""Tables of the embedded ledger: how they are declared, and how their documents become rows.

Guarantee: a declaration that was accepted has columns that PostgreSQL and SQLite both take: the key's fields, the user
field if there is one, ``document`` and ``version``. A key is text of 1 to 1,024 bytes without NUL, or a whole number of
64 bits; nothing else is ever silently turned into one.
"""

from __future__ import annotations

import dataclasses
import re
import struct
from collections.abc import Sequence
from typing import Any, Literal

from replicator.errors import Rejected
from replicator.format.definition import Column, Definition
from replicator.format.row import pack_row

KEY_LIMIT_BYTES = 1024
KEY_FIELDS_LIMIT = 32
NAME_PATTERN = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}", re.ASCII)
RESERVED_FIELDS = ("document", "version")
RESERVED_PREFIXES = ("sqlite_", "_replicator", "pg_")

KeyType = Literal["string", "integer"]
Key = tuple[str | int, ...]
_int8 = struct.Struct(">q")


@dataclasses.dataclass(frozen=True, slots=True)
class TableDeclaration:
    """A table as its user declares it: its name, the key's fields and their types, the field of the user's id."""

    name: str
    key: tuple[str, ...]
    key_types: tuple[KeyType, ...]
    user: str | None = None


def check_declaration(declaration: TableDeclaration) -> None:
    """Raise Rejected if no table can be made of it."""
    names = [declaration.name, *declaration.key, *([declaration.user] if declaration.user is not None else [])]
    for name in names:
        if not NAME_PATTERN.fullmatch(name):
            raise _refusal(declaration, f"{name[:80]!r} is not a name: 1 to 63 letters, digits or '_', no digit first")
    if declaration.name.lower().startswith(RESERVED_PREFIXES):
        raise _refusal(declaration, "names that begin with " + ", ".join(RESERVED_PREFIXES) + " are not free")
    folded = [name.lower() for name in declaration.key]
    if not 1 <= len(folded) <= KEY_FIELDS_LIMIT or len(set(folded)) != len(folded):
        raise _refusal(declaration, f"a key has 1 to {KEY_FIELDS_LIMIT} different fields")
    if len(declaration.key_types) != len(declaration.key):
        raise _refusal(declaration, "key_type is one type for all fields of the key, or one for each")
    if reserved := set(RESERVED_FIELDS) & {name.lower() for name in names[1:]}:
        raise _refusal(declaration, f"{min(reserved)!r} is a column of every table here")
    if declaration.user is not None and declaration.user not in declaration.key and declaration.user.lower() in folded:
        raise _refusal(declaration, "the user field differs from a field of the key in case only")


def _refusal(declaration: TableDeclaration, message: str) -> Rejected:
    return Rejected("bad_table", message, status=422, place=f"table {declaration.name[:80]}")


def definition_of(declaration: TableDeclaration) -> Definition:
    """The table's definition. All columns are in binary form: PostgreSQL takes it fastest."""
    types = {"string": "text", "integer": "int8"}
    columns = [
        Column(name, types[kind], "binary", nullable=False)
        for name, kind in zip(declaration.key, declaration.key_types, strict=True)
    ]
    if declaration.user is not None and declaration.user not in declaration.key:
        columns.append(Column(declaration.user, "text", "binary"))
    columns.append(Column("document", "json", "binary", nullable=False))
    columns.append(Column("version", "int8", "binary", nullable=False))
    return Definition("public", declaration.name, tuple(columns), declaration.key, declaration.user, documents=True)


class LedgerTable:
    """A table in use: its definition under its relation, and the way from keys and documents to images."""

    def __init__(self, relation: int, definition: Definition) -> None:
        self.relation = relation
        self.definition = definition
        self.name = definition.label
        self.key = definition.key
        self.user = definition.user
        types = {column.name: column.type for column in definition.columns}
        self._integers = tuple(types[name] == "int8" for name in definition.key)
        self._has_user_column = definition.user is not None and definition.user not in definition.key

    def key_from(self, value: Any) -> Key:
        """A key as it stands in a request: a value, or an object by field (a must where there are several)."""
        if isinstance(value, dict):
            if set(value) != set(self.key):
                raise self._bad_key(f"the key has the fields {', '.join(self.key)}")
            return self._key([value[name] for name in self.key])
        if len(self.key) != 1:
            raise self._bad_key(f"the key has several fields; send an object of {', '.join(self.key)}")
        return self._key([value])

    def key_of(self, document: dict[str, Any]) -> Key:
        """The key that stands in a document. Raises Rejected."""
        for name in self.key:
            if name not in document:
                raise self._bad_key(f"the document has no field {name!r}, which is its key")
        return self._key([document[name] for name in self.key])

    def _key(self, values: Sequence[Any]) -> Key:
        size = 0
        for name, value, is_integer in zip(self.key, values, self._integers, strict=True):
            if is_integer:
                # By type, for True is an int to isinstance, and would become the key 1.
                if type(value) is not int or not -(2**63) <= value < 2**63:
                    raise self._bad_key(f"{name!r} is a whole number of 64 bits, not {_shown(value)}")
                size += 8
            else:
                if type(value) is not str or not value or "\0" in value:
                    raise self._bad_key(f"{name!r} is text that is not empty and has no NUL, not {_shown(value)}")
                size += len(text_bytes(value))
        if size > KEY_LIMIT_BYTES:
            raise self._bad_key(f"the key has {size} bytes, at most {KEY_LIMIT_BYTES} are taken")
        return tuple(values)

    def user_of(self, document: dict[str, Any]) -> str | None:
        """The user's id in a document, for its column; None if it has none. Raises Rejected if it is not text."""
        if not self._has_user_column:
            return None
        assert self.user is not None
        user = document.get(self.user)
        if user is None:
            return None
        if type(user) is not str or "\0" in user or len(text_bytes(user)) > KEY_LIMIT_BYTES:
            what = f"{self.user!r} is text of at most {KEY_LIMIT_BYTES} bytes without NUL, not {_shown(user)}"
            raise Rejected("bad_user", what, status=422)
        return user

    def pack_key(self, key: Key) -> bytes:
        """The key image."""
        return pack_row(self._cells(key))

    def canonical_key(self, key: Key) -> bytes:
        """The key's canonical texts, packed as a row: its name in the index of the past."""
        return pack_row([str(value).encode() for value in key])

    def pack(self, key: Key, user: str | None, document: bytes, version: int) -> bytes:
        """The row image."""
        cells: list[bytes | None] = [*self._cells(key)]
        if self._has_user_column:
            cells.append(None if user is None else user.encode())
        return pack_row([*cells, document, _int8.pack(version)])

    def _cells(self, key: Key) -> list[bytes]:
        return [_int8.pack(value) if isinstance(value, int) else value.encode() for value in key]

    def _bad_key(self, message: str) -> Rejected:
        return Rejected("bad_key", message, status=422)


def version_of(row: bytes) -> int:
    """The version in a row image of a documents table: its last column."""
    version: int = _int8.unpack_from(row, len(row) - 8)[0]
    return version


def text_bytes(text: str) -> bytes:
    """UTF-8; raises Rejected at a lone surrogate."""
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise Rejected("not_unicode", "a text holds a lone surrogate, which is no character", status=422) from error


def _shown(value: object) -> str:
    kinds = {dict: "an object", list: "a list", type(None): "null", bool: "a boolean", str: "text"}
    return kinds.get(type(value)) or ascii(str(value))[:40]
