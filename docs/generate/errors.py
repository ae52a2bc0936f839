"""The page of error reasons, found in the source: every place that makes an error of the tree.

A reason is a short slug that never changes: it is in the log, in ``status``, in JSON and in the metrics. Several places
of one reason are one section, with each message and its cure. A place that hands on the reason of another error is none
of its own.

Guarantee: a reason that cannot be read from the source and is not handed on fails the page, so none is left out.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from docs.generate.markdown import cell, head
from docs.generate.source import UNKNOWN, Module, Scope, Sources, argument, called
from replicator.ops.drills.canary_writers import CANARY
from replicator.postgres.errors import FENCE, REPLICA, SessionReasons, meaning_of
from replicator.postgres.errors import SOURCE as POSTGRES_SOURCE

SESSIONS = (REPLICA, POSTGRES_SOURCE, FENCE, CANARY)
SOURCE = Path(__file__).parent.parent.parent / "replicator"
KINDS = {  # the classes of ``errors.py`` that say what happens; those below them are what they are
    "Halted": "halts",
    "Unavailable": "waits",
    "Rejected": "refused",
    "ConfigError": "configuration",
    "ReplicatorError": "told",
}
MEANINGS = {
    "halts": "The strand, or the verb, stops until a person acts; the rest of the sidecar goes on. 503 over HTTP",
    "waits": "Something outside cannot be used now: it waits, visibly, and tries again. 503 with Retry-After over HTTP",
    "refused": "The request is refused as it is, and nothing was changed. A status of 4xx over HTTP, mostly",
    "configuration": "The file or the command line is wrong, and nothing was started. Exit code 2",
    "told": "What a verb found or was told",
}

INTRODUCTION = """\
Every error names the place, what is wrong and the cure, and has a *reason*: a short word that never changes. It stands
in brackets at the end of a log line, in the JSON of an answer (`reason`, `message`, `place`, `cure`), in `status`, and
as the label `reason` of `replicator_stage_trouble_seconds`. "…" stands for a name or a figure.

| what happens | which means |
|---|---|
"""


class ErrorClass(NamedTuple):
    """A class of the tree: what happens, and how it calls its parent's ``__init__`` if it has one of its own."""

    kind: str
    init: ast.Call | None
    scope: Scope


class Place(NamedTuple):
    """One place in the source that makes an error."""

    reason: str
    kind: str
    message: str
    cure: str


def page() -> str:
    """Every reason, by name, with what is said and what cures it."""
    by_reason: dict[str, list[Place]] = defaultdict(list)
    for place in places(Sources(SOURCE)):
        by_reason[place.reason].append(place)
    meanings = "".join(f"| *{kind}* | {text} |\n" for kind, text in MEANINGS.items())
    sections = [_section(reason, found) for reason, found in sorted(by_reason.items())]
    return head("Error reasons", "the places that make errors") + INTRODUCTION + meanings + "\n" + "\n".join(sections)


def _section(reason: str, found: list[Place]) -> str:
    kinds = ", ".join(f"*{kind}*" for kind in MEANINGS if any(place.kind == kind for place in found))
    by_cure: dict[str, set[str]] = defaultdict(set)
    for place in found:
        by_cure[place.cure].add(place.message)
    if len(by_cure) > 1 and not by_cure.get("", {UNKNOWN}) - {UNKNOWN}:
        by_cure.pop("", None)
    lines = [_line(sorted(messages), cure) for cure, messages in sorted(by_cure.items())]
    return f"## `{reason}`\n\n{kinds}\n\n" + "\n".join(line for line in lines if line) + "\n"


def _line(messages: list[str], cure: str) -> str:
    """The messages that one cure is for."""
    said = "; ".join(f"“{cell(message)}”" for message in messages if message.strip(f"{UNKNOWN} :"))
    cured = f"*Cure:* {cell(cure)}" if cure.strip(UNKNOWN) else "*Cure:* told with it" if cure else ""
    return "- " + "<br>".join(part for part in (said, cured) if part) if said or cured else ""


def places(sources: Sources) -> Iterator[Place]:
    """Every place, in the order of the files. Raises LookupError for a reason that cannot be read."""

    def is_error(call: ast.Call, module: Module) -> bool:
        return isinstance(call.func, ast.Name) and error_class(sources, call.func.id, module) is not None

    for call, scope in sources.calls(is_error):
        error = error_class(sources, called(call), scope.module)
        assert error is not None
        yield from _of_call(sources, error, call, scope)
    for module in sources.modules.values():
        yield from _of_tables(sources, Scope(module))
    for session in SESSIONS:
        yield from _of_session(session)


def error_class(sources: Sources, name: str, module: Module) -> ErrorClass | None:
    """The class of the tree that a name stands for in a module; None for any other name."""
    found = sources.class_of(name, module)
    if found is None:
        return None
    node, there = found
    parents = [error_class(sources, base.id, there) for base in node.bases if isinstance(base, ast.Name)]
    parent = next((one for one in parents if one is not None), None)
    kind = KINDS.get(name) if there.name.endswith(".errors") else None
    if parent is None and kind is None:
        return None
    inherited = None if parent is None or kind is not None else parent.init
    init = next((call for call in ast.walk(node) if isinstance(call, ast.Call) and _is_init(call)), inherited)
    function = next((one for one in node.body if isinstance(one, ast.FunctionDef) and one.name == "__init__"), None)
    return ErrorClass(kind or (parent.kind if parent else ""), init, Scope(there, function, init))


def _is_init(call: ast.Call) -> bool:
    """Whether this is ``super().__init__`` with a reason."""
    return called(call) == "__init__" and len(call.args) > 1


def _of_call(sources: Sources, error: ErrorClass, call: ast.Call, scope: Scope) -> Iterator[Place]:
    node, message, cure = argument(call, 0, "reason"), argument(call, 1, "message"), argument(call, -1, "cure")
    reasons, cures = sources.texts(node, scope), sources.texts(cure, scope)
    own = [UNKNOWN] if error.init is None else sources.texts(error.init.args[0], error.scope)
    if UNKNOWN not in own:  # the class brings its reason along, and its places begin with what is wrong
        assert error.init is not None
        reasons, message = own, node
        said = sources.texts(error.init.args[1], error.scope)
        messages = sources.texts(message, scope) if said == [UNKNOWN] else said
    else:
        messages = sources.texts(message, scope)
        reasons = _of_names(sources, node, scope.module) or reasons
        if UNKNOWN in reasons and not _is_handed_on(node, scope):
            raise LookupError(f"{scope.module.path}: the reason of {ast.unparse(call)[:90]} cannot be read")
    if cures == [""] and error.init is not None:
        cures = [
            text for text in sources.texts(argument(error.init, -1, "cure"), error.scope) if text != UNKNOWN
        ] or cures
    for reason, text, cured in _combined(reasons, messages, cures):
        if reason != UNKNOWN:
            yield Place(reason, error.kind, text, cured)


def _combined(reasons: list[str], messages: list[str], cures: list[str]) -> list[tuple[str, str, str]]:
    """What belongs together: as many of each were decided side by side; otherwise any may go with any."""
    if len(reasons) == len(cures) == len(messages):
        return list(zip(reasons, messages, cures, strict=True))
    if len(reasons) == len(cures):
        return [(r, m, c) for (r, c), m in itertools.product(zip(reasons, cures, strict=True), messages)]
    if len(reasons) == len(messages):
        return [(r, m, c) for (r, m), c in itertools.product(zip(reasons, messages, strict=True), cures)]
    return list(itertools.product(reasons, messages, cures))


def _of_tables(sources: Sources, scope: Scope) -> Iterator[Place]:
    """Rows of a module's tables that name a class, a reason and a cure, as those of SQLSTATEs do."""
    for table in scope.module.values.values():
        for node in ast.walk(table):
            cells = node.elts if isinstance(node, ast.Tuple) else node.args if isinstance(node, ast.Call) else []
            for number, one in enumerate(cells[:-1]):
                error = error_class(sources, one.id, scope.module) if isinstance(one, ast.Name) else None
                reason, cure = sources.texts(cells[number + 1], scope), sources.texts(cells[-1], scope)
                if error is not None and re.fullmatch("[a-z0-9_]+", reason[0]):
                    yield Place(reason[0], error.kind, UNKNOWN, cure[0] if number + 2 < len(cells) else "")


def _of_names(sources: Sources, node: ast.expr | None, module: Module) -> list[str]:
    """What ``reasons.field`` can be: that field of each ``…Reasons`` of the kind that the module knows."""
    if not isinstance(node, ast.Attribute) or not ast.unparse(node.value).endswith("reasons"):
        return []
    kinds = [sources.class_of(name, module) for name in ("ExchangeReasons", "SessionReasons")]
    kind = next((kind for kind in kinds if kind is not None), None)
    if kind is None:
        return []
    fields = {ast.unparse(each.target): each.value for each in kind[0].body if isinstance(each, ast.AnnAssign)}
    place = list(fields).index(node.attr)
    found = set(sources.texts(fields[node.attr], Scope(kind[1]))) if fields[node.attr] is not None else set()
    for call, scope in sources.calls(lambda call, there: sources.class_of(called(call), there) == kind):
        given = argument(call, place, node.attr)
        found |= set(sources.texts(given, scope)) if given is not None else set()
    return sorted(found)


def _of_session(names: SessionReasons) -> Iterator[Place]:
    """What one kind of PostgreSQL session calls what the server reports; the message is the server's own."""
    yield Place(names.waits, KINDS["Unavailable"], UNKNOWN, "it goes on by itself once the cause is gone")
    yield Place(names.halts, KINDS["Halted"], UNKNOWN, "see the message and the server's log")
    named = [(state, *pair) for state, pair in names.named.items()]
    for state, reason, cure in [*named, *((state, reason, cure) for state, _, reason, cure in names.phrases)]:
        meaning = meaning_of(state)
        yield Place(reason, KINDS[meaning.error.__name__], UNKNOWN, cure or meaning.cure)


def _is_handed_on(node: ast.expr | None, scope: Scope, depth: int = 0) -> bool:
    """Whether the reason is that of another error, or of another program's answer."""
    if node is None or depth > 4:
        return False
    for one in ast.walk(node):
        if (isinstance(one, ast.Attribute) and one.attr == "reason") or (
            isinstance(one, ast.Constant) and one.value == "reason"
        ):
            return True
    names = [one.id for one in ast.walk(node) if isinstance(one, ast.Name)]
    given = [scope.given[name] for name in names if name in scope.given]
    local = [] if scope.function is None else _values_of(scope.function, names)
    return any(_is_handed_on(value, there, depth + 1) for value, there in [*given, *((v, scope) for v in local)])


def _values_of(function: ast.AST, names: list[str]) -> list[ast.expr]:
    """What these names are given in a function, also by unpacking, and what a ``match`` captures them from."""
    found: list[ast.expr] = []
    for node in ast.walk(function):
        if isinstance(node, ast.Assign) and any(
            isinstance(n, ast.Name) and n.id in names for t in node.targets for n in ast.walk(t)
        ):
            found.append(node.value)
        if isinstance(node, ast.Match) and any(isinstance(p, ast.MatchAs) and p.name in names for p in ast.walk(node)):
            found.append(node.subject)
    return found
