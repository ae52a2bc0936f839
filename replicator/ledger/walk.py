"""Walking through a transaction's JSON: its fields one by one, its statements one by one.

Guarantee: only one statement is held as JSON values at a time, however many there are; what is malformed is refused
with its place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from replicator.errors import Rejected
from replicator.ledger.exact_json import not_json, read_at, skip_space


class Fields:
    """Walks the fields of the object that ``text`` is: gives each name and where its value begins; whoever reads the
    value says where it ended."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.end = skip_space(text, 0)

    def __iter__(self) -> Iterator[tuple[str, int]]:
        text, names = self._text, set[str]()
        if text[self.end : self.end + 1] != "{":
            read_at(text, self.end)  # what is not JSON at all is refused as that
            raise Rejected("bad_request", "a transaction is an object", status=422, place="transaction")
        at = skip_space(text, self.end + 1)
        while text[at : at + 1] != "}" or names:  # behind a comma a name has to follow
            name, at = read_at(text, at)
            if not isinstance(name, str):
                raise not_json("a name was expected", at)
            if name in names:
                raise Rejected("duplicate_name", f"{name[:80]!r} stands twice", place="transaction")
            names.add(name)
            yield name, skip_space(text, _expect(text, at, ":"))
            at = skip_space(text, self.end)
            if text[at : at + 1] == "}":
                break
            at = skip_space(text, _expect(text, at, ","))
        if skip_space(text, at + 1) != len(text):
            raise not_json("something follows the transaction", at + 1)


def read_list(text: str, at: int, take: Callable[[Any], None]) -> int:
    """Hand each statement of the list that begins at ``at`` to ``take``; gives where the list ends. What is raised gets
    the statement's place."""
    if text[at : at + 1] != "[":
        raise Rejected("bad_request", "statements is a list", status=422, place="statements")
    at = skip_space(text, at + 1)
    if text[at : at + 1] == "]":
        return at + 1
    number = 0
    while True:
        try:
            value, at = read_at(text, at)
            take(value)
        except Rejected as error:
            error.place = error.place or f"statements[{number}]"
            raise
        number += 1
        character = text[at : at + 1]
        if character not in (",", "]"):
            at = skip_space(text, at)
            character = text[at : at + 1]
        if character == "]":
            return at + 1
        at = skip_space(text, _expect(text, at, ","))


def _expect(text: str, at: int, character: str) -> int:
    at = skip_space(text, at)
    if text[at : at + 1] != character:
        raise not_json(f"{character!r} was expected", at)
    return at + 1
