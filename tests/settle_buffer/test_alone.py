"""The library stands by itself: its core and its spool need the standard library only, and nothing of replicator."""

from __future__ import annotations

import ast
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


def test_core_and_spool_work_without_any_other_package(tmp_path: Path) -> None:
    isolated = [sys.executable, "-I", "-S", "-c", USE]  # no site-packages, no environment, no current directory
    subprocess.run([*isolated, str(PACKAGE.parent), str(tmp_path / "spool")], check=True)


@pytest.mark.parametrize("path", sorted(PACKAGE.glob("*.py")), ids=lambda path: path.name)
def test_a_module_imports_only_what_it_may(path: Path) -> None:
    allowed = set(sys.stdlib_module_names) | {"settle_buffer"} | ({"trio"} if path.name == "loop.py" else set())
    for node in ast.walk(ast.parse(path.read_text())):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if isinstance(node, ast.ImportFrom):
            names = [node.module or ""]
        for name in names:
            assert name.split(".")[0] in allowed, f"{path.name} imports {name}"
