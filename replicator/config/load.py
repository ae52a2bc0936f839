"""From a file to a Config, or to a ConfigError that a person can act on."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from replicator.config import models
from replicator.config.checks import Problem, problems
from replicator.config.locate import Path as KeyPath
from replicator.config.locate import line_of
from replicator.config.units import ReadContext
from replicator.errors import ConfigError

FILE_LIMIT_BYTES = 1_000_000
SHOWN_PROBLEMS = 20
UNPLACED = FILE_LIMIT_BYTES + 1  # sorts behind every line
EXAMPLES_CURE = "start from one of the files in config/"


def load(path: str | Path, environment: Mapping[str, str] = os.environ) -> models.Config:
    """Read a region's file. Raises ConfigError with the file, the line, what is wrong and the cure."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)  # a device or a pipe, named by mistake, may have no end
        if len(data) > FILE_LIMIT_BYTES:
            raise ConfigError(
                "config_too_large", f"more than {FILE_LIMIT_BYTES} bytes", place=str(path), cure=EXAMPLES_CURE
            )
        text = data.decode()
    except OSError as error:
        raise ConfigError(
            "config_unreadable",
            f"the file cannot be read: {error.strerror}",
            place=str(path),
            cure=f"name a file that is there and readable; {EXAMPLES_CURE}",
        ) from error
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise ConfigError(
            "config_not_utf8", "the file is not UTF-8", place=f"{path}, line {line}", cure="save it as UTF-8"
        ) from error
    return parse(text, path, environment)


def parse(text: str, path: str | Path, environment: Mapping[str, str] = os.environ) -> models.Config:
    """``load`` for a text that is at hand; ``path`` is what relative paths and messages go by."""
    path = Path(path)
    try:
        fields = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        # tomllib says the place only within its text: it moves to where an error's place belongs.
        position = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        place = f"{path}, line {position[1]}" if position else str(path)
        message = str(error)[: position.start()] if position else str(error)
        raise ConfigError("config_syntax", message, place=place, cure='write TOML: key = "value"') from error
    surroundings = ReadContext(path.absolute().parent, environment)
    try:
        config = models.Config.model_validate(fields, context=surroundings)
    except ValidationError as error:
        # Not chained: pydantic's own text may quote what was in the file.
        raise _config_error(list(_from_pydantic(error)), text, path) from None
    if contradictions := list(problems(config)):
        raise _config_error(contradictions, text, path)
    return config


def _config_error(faults: list[Problem], text: str, path: Path) -> ConfigError:
    """All problems in one error: the first gives the place and the cure, the others follow in the message."""
    lines = [(line_of(text, problem.path) or UNPLACED, problem) for problem in faults]
    placed = sorted(lines, key=lambda pair: pair[0])
    line, first = placed[0]
    message = f"{_key(first.path)}: {first.message}"
    for other_line, other in placed[1:SHOWN_PROBLEMS]:
        where = f"line {other_line}, " if other_line < UNPLACED else ""
        message += f"; {where}{_key(other.path)}: {other.message} ({other.cure})"
    if len(placed) > SHOWN_PROBLEMS:
        message += f"; and {len(placed) - SHOWN_PROBLEMS} more"
    return ConfigError(
        "bad_config", message, place=f"{path}, line {line}" if line < UNPLACED else str(path), cure=first.cure
    )


def _key(path: KeyPath) -> str:
    """``[section] key`` as the file has it."""
    if len(path) == 1:
        return f"[{path[0]}]"
    section = ".".join(str(part) for part in path[:-1] if isinstance(part, str))
    return f"[{section}] {path[-1]}"


def _from_pydantic(error: ValidationError) -> Iterator[Problem]:
    # Without input and context: either may quote a secret that stands in the file.
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path = _without_tags(item["loc"])
        kind, message = item["type"], item["msg"].removeprefix("Value error, ")
        if kind == "extra_forbidden":
            yield Problem(path, "this key is not known", _nearest(path, item["loc"]))
        elif kind == "missing":
            yield Problem(path, "this is needed and missing", "add it; config/reference.toml explains it")
        elif kind.startswith("union_tag"):
            kinds = " or ".join(f'"{name}"' for name in _TAGS[str(path[0])])
            yield Problem((*path, "kind"), f"kind is {kinds}", "correct it")
        else:
            yield Problem(path, message[:1].lower() + message[1:], "correct it; config/reference.toml explains it")


def _sections(
    section: type[models.Section], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], type[models.Section]]]:
    """Every section below this one, by its path in the file: ``("source", "postgres")`` where it comes in kinds."""
    yield path, section
    for name, field in section.model_fields.items():
        for below in _section_types(field.annotation):
            kind = below.model_fields.get("kind")
            tag = () if kind is None else get_args(kind.annotation)
            yield from _sections(below, (*path, field.alias or name, *tag))


def _section_types(annotation: Any) -> Iterator[type[models.Section]]:
    if isinstance(annotation, type) and issubclass(annotation, models.Section):
        yield annotation
    for argument in get_args(annotation):
        yield from _section_types(argument)


_SECTIONS = dict(_sections(models.Config))
_TAGS: dict[str, tuple[str, ...]] = {
    path[0]: tuple(other[1] for other in _SECTIONS if len(other) == 2 and other[0] == path[0])
    for path, section in _SECTIONS.items()
    if len(path) == 2 and "kind" in section.model_fields
}


def keys_of(section: type[models.Section]) -> list[str]:
    """The keys of a section as the file names them."""
    return [field.alias or name for name, field in section.model_fields.items()]


def _without_tags(loc: tuple[Any, ...]) -> KeyPath:
    """The path of keys in the file: pydantic names the chosen kind, too."""
    if len(loc) > 1 and loc[1] in _TAGS.get(str(loc[0]), ()):
        return (loc[0], *loc[2:])
    return loc


def _nearest(path: KeyPath, loc: tuple[Any, ...]) -> str:
    """What the unknown key may have been meant to be: here, or in another section."""
    name = str(path[-1])
    section = _SECTIONS.get(tuple(part for part in loc[:-1] if isinstance(part, str)))
    here = keys_of(section) if section is not None else []
    if near := difflib.get_close_matches(name, here, 1):
        return f"did you mean {near[0]!r}?"
    for place, other in _SECTIONS.items():
        if place and name in keys_of(other):
            return f"[{place[0]}] has a key of that name; otherwise remove it"
    return f"known here: {', '.join(here)}"
