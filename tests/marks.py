"""What a test needs beside Python and SQLite is read from its code, so that its marks are true without anybody's care.

A test has the mark of each of ``STARTS`` that its function reaches: by what its own code names, the code of its
fixtures, and so on through everything in ``tests``. A parameter that is called after a server stands for it. A server
that starts in a test without its mark fails the test (``check``): so the marks cannot miss one.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import CodeType, FunctionType, ModuleType

import pytest

STARTS = {
    ("tests.servers", "Postgres"): "postgres",
    ("tests.servers", "postgres_bin"): "postgres",
    ("tests.etcd", "Etcd"): "etcd",
    ("subprocess", ""): "processes",
    ("trio", "run_process"): "processes",
}
SERVERS = ("postgres", "etcd")

_granted: set[str] | None = None  # by the marks of the test that runs; None: no test runs


def grant(item: pytest.Item) -> None:
    """This test runs from now on."""
    global _granted
    _granted = {mark.name for mark in item.iter_markers()}


def check(server: str) -> None:
    """A server of this name is about to start."""
    assert _granted is None or server in _granted, f"the test has no mark {server!r}: see tests/marks.py"


def needs(item: pytest.Function) -> set[str]:
    """The marks of a test."""
    fixtures = item._fixtureinfo.name2fixturedefs
    roots = [item.function, *(each.func for name in item.fixturenames for each in fixtures.get(name, ()))]
    found = {mark for root in roots for mark in reached(root)}
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    words = {word for value in parameters if isinstance(value, str) for word in value.split()}
    return found | words.intersection(SERVERS)


@functools.cache
def reached(root: object) -> frozenset[str]:
    """The marks of all that code reaches from here."""
    marks, seen, ahead = set(), {id(root)}, [root]
    while ahead:
        for named in _named(ahead.pop()):
            place = str(getattr(named, "__module__", None) or getattr(named, "__name__", ""))
            mark = STARTS.get((place, getattr(named, "__qualname__", "")))
            if mark:
                marks.add(mark)
            elif id(named) not in seen and place.startswith("tests"):
                seen.add(id(named))
                ahead.append(named)
    return frozenset(marks)


def _named(what: object) -> Iterator[object]:
    """What a function or a class of the tests names, its bases included."""
    if isinstance(what, type):
        yield from what.__bases__
        for member in vars(what).values():
            yield from _named(getattr(member, "fget", member))
    what = getattr(what, "__wrapped__", what)
    if isinstance(what, FunctionType):
        names = set(_names(what.__code__))
        for named in [what.__globals__[name] for name in names & what.__globals__.keys()]:
            yield named
            if isinstance(named, ModuleType):
                yield from [vars(named)[name] for name in names & vars(named).keys()]


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from _names(inner)
