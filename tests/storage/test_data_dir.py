"""Every path in a region's data directory has one place where it is spelled and explained."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import replicator
from replicator.errors import ConfigError
from replicator.storage import data_dir
from replicator.storage.data_dir import DataDir, SealDir, locked

HOME = DataDir(Path("data"))
PACKAGE = Path(replicator.__file__).parent
# Of other directories: the one that ``drill --report`` names, and the user's own one for notes of drills.
OTHERS = {
    ("ops/cli/drill.py", "report.html"),
    ("ops/drills/run.py", "report.html"),
    ("ops/drills/run.py", "report.json"),
    ("ops/drills/run.py", "drills"),
}


def paths_of(place: DataDir | SealDir) -> dict[str, Path]:
    values = {name: getattr(place, name) for name, value in vars(type(place)).items() if isinstance(value, property)}
    return {name: value for name, value in values.items() if isinstance(value, Path)}


NAMES = {path.name for place in (HOME, HOME.seal("1-2-ab")) for path in paths_of(place).values()} - {"1-2-ab"}


def spelled(tree: ast.AST) -> Iterator[ast.Constant]:
    """File names anywhere; names without a suffix, which are ordinary words too, where a path is made of them."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "." in node.value:
            yield node
        elif isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and isinstance(node.right, ast.Constant):
            yield node.right


def test_no_other_module_spells_a_name_of_the_data_directory() -> None:
    found = [
        (str(file.relative_to(PACKAGE)), constant.value)
        for file in PACKAGE.rglob("*.py")
        if file != Path(data_dir.__file__)
        for constant in spelled(ast.parse(file.read_text()))
        if constant.value in NAMES
    ]
    assert set(found) == OTHERS


@pytest.mark.parametrize("kind", [DataDir, SealDir])
def test_every_path_is_explained_and_has_a_name_of_its_own(kind: type[DataDir | SealDir]) -> None:
    paths = paths_of(kind(Path("data")))
    assert len(set(paths.values())) == len(paths)
    for name in paths:
        assert len(inspect.getdoc(getattr(kind, name)) or "") > 25, name


def test_the_page_on_the_data_directory_names_every_path() -> None:
    page = (PACKAGE.parent / "docs" / "internals" / "data-directory.md").read_text()
    assert [path.name for path in paths_of(HOME).values() if f"`{path.name}" not in page] == []


def test_a_seal_stands_once_it_has_its_name_and_its_sums(tmp_path: Path) -> None:
    home = DataDir(tmp_path)
    assert home.seals() == []
    begun, whole, broken = home.seal("4-9-cd"), home.seal("1-2-ab"), home.seal("1-2-ab.broken-1")
    for seal in (begun, begun.part, whole, broken):
        seal.path.mkdir(parents=True)
    for seal in (begun.part, whole, broken):
        seal.seal.touch()
    assert home.seals() == [whole]


def test_a_data_directory_is_made_and_taken_by_one(tmp_path: Path) -> None:
    home = DataDir(tmp_path / "new" / "data")
    with locked(home), pytest.raises(ConfigError, match="another sidecar"), locked(home):
        pass
    with locked(home):
        pass
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError) as raised, locked(DataDir(tmp_path / "file")):
        pass
    assert raised.value.reason == "data_dir_unusable"
