"""Every command that the program prints, in a cure or elsewhere, is one that the command line takes as it stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import replicator
from replicator.ops.cli import VERBS, main

SOURCE = Path(replicator.__file__).parent
COMMAND = re.compile(r"\breplicator (?=[a-z])([^;:()<>`\"\n]*)")
NO_COMMAND = re.compile(r"replicator (canary|cluster|demo$|drill$|drills|sidecar|import|rehearsal)")
SAMPLES = {
    "FIRST": "1",
    "LAST": "2",
    "SEQUENCE": "7",
    "ORDINAL": "0",
    "N": "1",
    "M": "2",
    "TIME": "2026-03-01T12:00:00Z",
}


def texts(tree: ast.AST) -> Iterator[str]:
    """The texts of a module that may be shown: neither docstrings nor the examples, which have a test of their own."""
    hidden: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(id(node.value))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "example":
            hidden.update(id(part) for part in ast.walk(node))
        if isinstance(node, ast.JoinedStr):
            hidden.update(id(part) for part in node.values)
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "VALUE" for part in node.values)


def commands(text: str) -> Iterator[list[str]]:
    """The commands in a text, as words: names of verbs, options, and placeholders in capitals. Whatever else follows
    is prose."""
    for found in COMMAND.finditer(text):
        verb, *rest = found[1].replace(",", " , ").split()
        if verb not in VERBS:
            continue
        words, group = [verb], main.get_command(click.Context(main), verb)
        for word in rest:
            is_verb = isinstance(group, click.Group) and word in group.commands and len(words) == 1
            if not (is_verb or word.startswith("-") or re.fullmatch(r"[A-Z]{1,10}|VALUE/?\S*|\S+\.toml", word)):
                break
            words.append(word)
        yield words


def printed() -> list[tuple[str, str]]:
    found: set[tuple[str, str]] = set()
    for path in sorted(SOURCE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        # The command line's own help speaks of the verbs; its commands are the examples.
        for text in texts(tree):
            found.update((str(path.relative_to(SOURCE)), " ".join(words)) for words in commands(text))
    return sorted(found)


PRINTED = printed()


def test_there_are_some() -> None:
    assert len(PRINTED) > 40


@pytest.mark.parametrize(("place", "command"), PRINTED)
def test_it_is_taken_as_it_is_printed(place: str, command: str) -> None:
    words = [SAMPLES.get(word, word) for word in command.split()]
    try:
        command_: click.Command = main
        rest, context = words, click.Context(main)
        while isinstance(command_, click.Group):
            context = command_.make_context(command_.name, list(rest), parent=context)
            _, found, rest = command_.resolve_command(context, [*context._protected_args, *context.args])
            assert found is not None
            command_, rest = found, rest
        context = command_.make_context(command_.name, list(rest), parent=context)
    except click.exceptions.Exit:
        return  # --help
    except click.UsageError as error:
        pytest.fail(f"{place}: replicator {command}: {error.format_message()}")
    named = {parameter.name for parameter in context.command.params}
    if named & {"config", "configs"}:
        is_named = any(word == "CONFIG" or word.endswith(".toml") for word in words) or command == "run VALUE"
        assert is_named or "--url" in words, f"{place}: replicator {command}: whose region?"
