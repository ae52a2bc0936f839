"""The library stands by itself: its core and its spool need the standard library only, and nothing of replicator."""

from __future__ import annotations

import ast
import importlib.metadata
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import settle_buffer

PACKAGE = Path(settle_buffer.__file__).parent
USE = """
import sys
sys.path.insert(0, sys.argv[1])
from settle_buffer import Entry, SettleBuffer, SettleConfig, Spool
buffer = SettleBuffer(SettleConfig())
buffer.start("main", sequence=0, digest=b"")
spool = Spool(sys.argv[2])
entries = [Entry("main", 1, 1, b"digest", b"", b"body")]
spool.append(entries)
(release,) = buffer.offer(entries, 0)
assert release.entries == entries
spool.close()
loaded = {name.split(".")[0] for name in sys.modules}
assert not loaded & {"replicator", "trio", "msgpack", "sqlite_utils"}, loaded
"""


def use(site: Path, directory: Path) -> None:
    """Core and spool, with what ``site`` has: no other site-packages, no environment, no current directory."""
    subprocess.run([sys.executable, "-I", "-S", "-c", USE, str(site), str(directory / "spool")], check=True)


def test_core_and_spool_work_without_any_other_package(tmp_path: Path) -> None:
    use(PACKAGE.parent, tmp_path)


def test_it_is_installed_alone(tmp_path: Path) -> None:
    """Its own distribution, built from a copy, because building leaves files behind."""
    source, site = tmp_path / "source", tmp_path / "site"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-build-isolation"]
    subprocess.run([*install, "--target", str(site), str(source)], check=True)
    (found,) = importlib.metadata.distributions(name="settle-buffer", path=[str(site)])
    assert found.requires == ['trio>=0.27; extra == "trio"']
    assert {path.name for path in site.iterdir()} == {"settle_buffer", f"settle_buffer-{found.version}.dist-info"}
    modules = {path.name for path in (site / "settle_buffer").glob("*.*")}
    assert modules == {path.name for path in PACKAGE.glob("*.*")} - {"pyproject.toml"}
    use(site, tmp_path)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"settle_buffer"} | ({"trio"} if path.name == "loop.py" else set())
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
