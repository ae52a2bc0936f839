"""The page of the configuration: what ``config/reference.toml`` says of each key, and what the models take for it.

The tests hold the file and the models together: every key is in it, with its default. So the page is the file, read as
tables, and the kind of a value comes from the model.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from docs.generate.markdown import cell, code, head, table
from replicator.config import models
from replicator.config.units import Secret

REFERENCE = Path(__file__).parent.parent.parent / "config" / "reference.toml"
_HEADER = re.compile(r"\[\[?([a-z_.]+)\]\]?\s*(?:#\s*(.*))?")
_KEY = re.compile(r"(# )?([a-z_]+) = (.*)")
_MORE = re.compile(r"\s{8,}#\s*(.*)")

INTRODUCTION = """\
One TOML file describes one region. The whole of it, with every key and its default, is
`config/reference.toml`: it runs as it is. This page is that file as tables. Shorter files to begin
with are beside it in `config/`.

| value | written |
|---|---|
| duration | `"500ms"` `"2s"` `"5m"` `"1h"` `"7d"` |
| size | `"512B"` `"64kB"` `"64MB"` `"1GB"` are powers of 1000, `"64KiB"` `"64MiB"` `"1GiB"` powers of 1024 |
| secret | `{ env = "NAME" }`, `{ file = "path" }` or a string; never printed, and read once, at the start |
| path | relative to the file |

An unknown key is refused, with its line and the nearest known key. `replicator preflight CONFIG` checks the file and
everything that it names, and changes nothing.
"""


class Key(NamedTuple):
    """A key as the reference shows it. ``is_example``: it stands behind ``#``, and what it is set to is an example."""

    name: str
    value: str
    text: str
    is_example: bool


class Part(NamedTuple):
    """A section, in one of its kinds."""

    section: str
    is_repeated: bool
    text: str
    keys: list[Key]

    @property
    def kind(self) -> str:
        """The ``kind`` that it is for; empty where a section has one form only."""
        return next((key.value.strip('"') for key in self.keys if key.name == "kind"), "")


def page() -> str:
    """The whole page."""
    parts = [_section(part) for part in read_reference(REFERENCE.read_text())]
    return head("Configuration", "config/reference.toml and the models") + INTRODUCTION + "\n" + "\n".join(parts)


def read_reference(text: str) -> Iterator[Part]:
    """The sections in the order of the file."""
    part: Part | None = None
    for line in text.splitlines():
        line = line.removeprefix("#: ")
        if header := _HEADER.fullmatch(line.strip()):
            if part is not None:
                yield part
            part = Part(header[1], line.startswith("[["), header[2] or "", [])
        elif part is not None and (found := _KEY.fullmatch(line)):
            value, _, comment = found[3].partition(" #")
            part.keys.append(Key(found[2], value.strip(), comment.strip(), found[1] is not None))
        elif part is not None and part.keys and (more := _MORE.fullmatch(line)):
            part.keys[-1] = part.keys[-1]._replace(text=f"{part.keys[-1].text} {more[1]}")
    if part is not None:
        yield part


def _section(part: Part) -> str:
    name = f"[[{part.section}]]" if part.is_repeated else f"[{part.section}]"
    kind = f', kind = "{part.kind}"' if part.kind else ""
    fields = fields_of(part.section, part.kind)
    rows = [(f"`{key.name}`", _kind_of(*fields[key.name]), _default(key), _meaning(key)) for key in part.keys]
    text = f"{cell(part.text[:1].upper() + part.text[1:])}.\n\n" if part.text else ""
    return f"## `{name}`{kind}\n\n{text}{table(('key', 'value', 'default', 'meaning'), rows)}"


def _default(key: Key) -> str:
    if key.text.startswith("needed"):
        return f"needed; for example {code(key.value)}"
    if key.is_example or key.text.startswith("no default"):
        return f"none; for example {code(key.value)}"
    return code(key.value)


def _meaning(key: Key) -> str:
    text = re.sub(r"^(needed|no default); ?|^needed$", "", key.text)
    return cell(text)


def fields_of(section: str, kind: str) -> dict[str, tuple[str, Any]]:
    """For each key as the file names it: the model's name for it, and its type."""
    model: Any = models.Config
    for name in section.split("."):
        model = _model(_field(model, name), kind)
    return {(field.alias or name): (name, field.annotation) for name, field in model.model_fields.items()}


def _field(model: Any, key: str) -> Any:
    return next(field.annotation for name, field in model.model_fields.items() if key in (name, field.alias))


def _model(annotation: Any, kind: str) -> Any:
    """The section's model within an annotation: of several, the one of this kind."""
    found = [one for one in _leaves(annotation) if isinstance(one, type) and issubclass(one, models.Section)]
    if len(found) == 1:
        return found[0]
    for one in found:
        if kind in typing.get_args(one.model_fields["kind"].annotation) or (not kind and "limits" in one.model_fields):
            return one
    raise LookupError(f"no section of kind {kind!r} in {annotation}")


def _leaves(annotation: Any) -> Iterator[Any]:
    origin = typing.get_origin(annotation)
    if origin is Literal or origin is None:
        yield annotation
    elif origin in (typing.Union, types.UnionType, tuple, typing.Annotated):
        for one in typing.get_args(annotation):
            yield from _leaves(one)
    else:
        yield annotation


def _kind_of(name: str, annotation: Any) -> str:
    """What a key takes, for people; units are in the model's names."""
    if name.endswith("_seconds"):
        return 'duration, or `"auto"`' if str in _leaves(annotation) or _has_auto(annotation) else "duration"
    if name.endswith("_bytes"):
        return "size"
    leaves = [one for one in _leaves(annotation) if one not in (type(None), Ellipsis)]
    choices = [value for one in leaves if typing.get_origin(one) is Literal for value in typing.get_args(one)]
    if choices:
        return " or ".join(f'`"{value}"`' for value in choices)
    if typing.get_origin(annotation) is dict or any(typing.get_origin(one) is dict for one in leaves):
        return "table"
    kinds = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path", Secret: "secret"}
    names = [kinds.get(one, "text") for one in leaves]
    return f"list of {names[0]}s" if _is_list(annotation) else names[0]


def _is_list(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple or any(map(_is_list, typing.get_args(annotation)))


def _has_auto(annotation: Any) -> bool:
    return any("auto" in typing.get_args(one) for one in _leaves(annotation) if typing.get_origin(one) is Literal)
