"""The package's layers: imports point down, no folder or module is part of a cycle, and a class name means one thing.

Whatever a module imports counts: also for types only, and also within a function.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up. A room may import those before it in the list, and rooms within it must not form a cycle.
LAYERS = (
    "errors",
    "supervise",
    "format",
    "storage",
    "config",
    "postgres",
    "transport",
    "pipeline",
    "ledger",
    "verify",
    "cluster",
    "status",
    "runtime",
    "ops",
)
TOP_LIMIT = 15  # entries that a newcomer sees at the top of the package, ``__init__`` apart


def modules() -> dict[str, Path]:
    """Every module of the two packages, by its dotted name; a package's face goes by the package's name."""
    paths = [path for package in ("replicator", "settle_buffer") for path in (ROOT / package).rglob("*.py")]
    names = {path: ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in paths}
    return {name.removesuffix(".__init__"): path for path, name in names.items()}


def imports(path: Path, known: Mapping[str, Path]) -> Iterator[str]:
    """The known modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            for alias in node.names:
                names = (f"{node.module}.{alias.name}", node.module or "")
                yield from [name for name in names if name in known][:1]


MODULES = modules()
GRAPH = {name: set(imports(path, MODULES)) - {name} for name, path in MODULES.items()}


def room(module: str) -> str:
    """The entry at the top of ``replicator`` that a module belongs to; empty for one of another package."""
    package, _, rest = module.partition(".")
    return rest.partition(".")[0] if package == "replicator" else ""


def folder(module: str) -> str:
    """The folder that a module lies in; modules at the top of the package stand for themselves."""
    package = module if MODULES[module].name == "__init__.py" else module.rpartition(".")[0]
    return module if package == "replicator" else package


def assert_no_cycle(graph: Mapping[str, Iterable[str]]) -> None:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_the_top_is_the_layers() -> None:
    rooms = {room(module) for module in GRAPH if module.startswith("replicator.")}
    assert rooms == {*LAYERS, "__main__"}
    assert len(rooms) <= TOP_LIMIT


def test_imports_point_down() -> None:
    heights = {name: height for height, name in enumerate(LAYERS)}
    up = [
        f"{module} imports {imported}"
        for module, others in GRAPH.items()
        for imported in others
        if room(module) in heights and room(imported) in heights and heights[room(module)] < heights[room(imported)]
    ]
    assert up == []


def test_no_modules_import_each_other() -> None:
    assert_no_cycle(GRAPH)


def test_no_folders_import_each_other() -> None:
    folders: dict[str, set[str]] = {}
    for module, others in GRAPH.items():
        folders.setdefault(folder(module), set()).update(folder(other) for other in others)
    assert_no_cycle({name: others - {name} for name, others in folders.items()})


def test_the_settle_buffer_stands_alone() -> None:
    assert {other for module in GRAPH if module.startswith("settle_buffer") for other in GRAPH[module]} <= {
        module for module in GRAPH if module.startswith("settle_buffer")
    }


def test_a_class_name_means_one_thing() -> None:
    places: dict[str, list[str]] = {}
    for module, path in MODULES.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                places.setdefault(node.name, []).append(module)
    assert {name: modules for name, modules in places.items() if len(modules) > 1} == {}
