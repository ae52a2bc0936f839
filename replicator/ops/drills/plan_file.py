"""From a plan's file to a ``DrillPlan``, or to a ConfigError that a person can act on."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from replicator.config.checks import Problem
from replicator.config.locate import line_of
from replicator.config.models import Section
from replicator.config.units import ReadContext
from replicator.errors import ConfigError
from replicator.ops.drills.rules.plan import DrillPlan, problems

FILE_LIMIT_BYTES = 1_000_000
CURE = "start from one of the files in config/drills"


def load_plan(path: Path, environment: Mapping[str, str] = os.environ) -> DrillPlan:
    """Read a plan. Raises ConfigError with the file, the line, what is wrong and the cure."""
    try:
        with path.open("rb") as file:
            data = file.read(FILE_LIMIT_BYTES + 1)
        if len(data) > FILE_LIMIT_BYTES:
            raise _error(path, None, f"more than {FILE_LIMIT_BYTES} bytes", CURE)
        text = data.decode()
    except OSError as error:
        raise _error(path, None, f"the plan cannot be read: {error.strerror}", CURE) from error
    except UnicodeDecodeError as error:
        raise _error(path, data[: error.start].count(b"\n") + 1, "the plan is not UTF-8", "save it as UTF-8") from error
    return parse_plan(text, path, environment)


def parse_plan(text: str, path: Path, environment: Mapping[str, str] = os.environ) -> DrillPlan:
    """``load_plan`` for a text that is at hand."""
    try:
        fields = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        place = re.search(r" \(at line (\d+), column \d+\)$", str(error))
        message = str(error)[: place.start()] if place else str(error)
        line = int(place[1]) if place else None
        raise _error(path, line, message, 'write TOML: key = "value"') from error
    try:
        plan = DrillPlan.model_validate(fields, context=ReadContext(path.absolute().parent, environment))
    except ValidationError as error:  # not chained: its own text may quote what was in the file
        raise _of_problem(text, path, next(_from_pydantic(error))) from None
    for problem in problems(plan):
        raise _of_problem(text, path, problem)
    return plan


def _of_problem(text: str, path: Path, problem: Problem) -> ConfigError:
    where = ".".join(str(part) for part in problem.path if isinstance(part, str))
    return _error(path, line_of(text, problem.path), f"{where}: {problem.message}", problem.cure)


def _error(path: Path, line: int | None, message: str, cure: str) -> ConfigError:
    place = str(path) if line is None else f"{path}, line {line}"
    return ConfigError("bad_plan", message, place=place, cure=cure)


def _from_pydantic(error: ValidationError) -> Iterator[Problem]:
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        path, message = tuple(item["loc"]), item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            yield Problem(path, "this key is not known", _nearest(path))
        elif item["type"] == "missing":
            yield Problem(path, "this is needed and missing", f"add it; {CURE}")
        else:
            yield Problem(path, message[:1].lower() + message[1:], f"correct it; {CURE}")


def _nearest(path: tuple[Any, ...]) -> str:
    """What the unknown key may have been meant to be."""
    section: type[Section] = DrillPlan
    for part in path[:-1]:
        section = _section(section.model_fields.get(str(part))) or section
    keys = [field.alias or name for name, field in section.model_fields.items()]
    near = difflib.get_close_matches(str(path[-1]), keys, 1)
    return f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(keys)}"


def _section(field: FieldInfo | None) -> type[Section] | None:
    kind = None if field is None else field.annotation
    options = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    return next((option for option in options if isinstance(option, type) and issubclass(option, Section)), None)
