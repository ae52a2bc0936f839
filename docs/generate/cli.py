"""The page of the command line, from click's own commands: what ``--help`` says, verb by verb."""

from __future__ import annotations

import inspect
import re

import click

from docs.generate.markdown import cell, head, table
from replicator.ops.cli import VERBS, main

INTRODUCTION = """\
Every verb has `--help` with an example. Most take the region's configuration file, and ask its running sidecar at the
address in it, with the token in it.

| exit code | meaning |
|---|---|
| 0 | it is as asked |
| 1 | it is not: not ready, not reachable, failed |
| 2 | the usage or the configuration is wrong; the place and the cure are named |

A verb may define further ones; they are in its text. Shell completion is click's:
`eval "$(_REPLICATOR_COMPLETE=bash_source replicator)"` (or `zsh_source`, `fish_source`).
"""


def page() -> str:
    """The whole page."""
    context = click.Context(main, info_name="replicator")
    verbs = table(("verb", "does"), [(f"[`{verb}`](#{verb})", cell(line)) for verb, line in VERBS.items()])
    sections = [_section(main.get_command(context, verb), f"replicator {verb}", 2) for verb in VERBS]
    return (
        head("The command line", "the commands themselves") + INTRODUCTION + "\n" + verbs + "\n" + "\n".join(sections)
    )


def _section(command: click.Command | None, name: str, depth: int) -> str:
    assert command is not None
    context = click.Context(command, info_name=name)
    usage = f"{name} {' '.join(command.collect_usage_pieces(context))}"
    title = name.removeprefix("replicator ")
    parts = [f"{'#' * depth} {title}\n", f"```text\n{usage}\n```\n", _text(command)]
    if options := [_option(parameter, context) for parameter in command.params if isinstance(parameter, click.Option)]:
        parts.append(table(("option", "meaning"), options))
    if isinstance(command, click.Group):
        names = command.list_commands(context)
        parts += [_section(command.get_command(context, sub), f"{name} {sub}", depth + 1) for sub in names]
    return "\n".join(part for part in parts if part)


def _option(option: click.Option, context: click.Context) -> tuple[str, str]:
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    value = "" if option.is_flag or option.count else f" {cell(option.make_metavar(context))}"
    notes = ["needed"] if option.required else []
    if not option.is_flag and option.default and isinstance(option.default, str | int | float):
        notes.append(f"default {option.default}")
    if option.multiple:
        notes.append("may be repeated")
    return names + value, cell(option.help or "") + (f" ({'; '.join(notes)})" if notes else "")


def _text(command: click.Command) -> str:
    """The docstring: paragraphs as they are, examples and what click leaves unwrapped as blocks."""
    paragraphs = re.split(r"\n[ \t]*\n", inspect.cleandoc(command.help or ""))
    shown = []
    for paragraph in paragraphs:
        if paragraph.lstrip().startswith("\b"):
            title, _, block = paragraph.lstrip("\b\n ").partition("\n")
            if title.strip() == "Example:":
                shown.append(f"```text\n{inspect.cleandoc(block)}\n```")
            else:
                shown.append(f"```text\n{inspect.cleandoc(title + chr(10) + block)}\n```")
        else:
            shown.append(_escaped(paragraph.strip()))
    return "\n\n".join(part for part in shown if part) + "\n"


def _escaped(paragraph: str) -> str:
    for mark in ("<", ">", "*", "["):
        paragraph = paragraph.replace(mark, {"<": "&lt;", ">": "&gt;"}.get(mark, f"\\{mark}"))
    return paragraph
