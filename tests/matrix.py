"""The tests that meet PostgreSQL itself, on each of its major versions that this machine has.

    python -m tests.matrix [PYTEST ARGUMENTS]

It looks into the directory that ``REPLICATOR_TEST_PG_BIN`` names, where Debian's packages put their programs
(``apt install postgresql-15``), and into the wheel of the other tests. A version of ``SUPPORTED`` that is not here is
listed as such and fails nothing; one that is here and fails a test ends with exit code 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

from rich.console import Console
from rich.table import Table

from tests.servers import packaged

SUPPORTED = range(14, 19)
# What speaks its protocol, reads its catalogs or rests on its rules of locking and durability; the rest of the tests
# with a server ask nothing more of it.
CHOSEN = "contracts or sources or replicas or fencing or promotion or test_workload"
COLUMNS = ("PostgreSQL", "from", "passed", "failed", "skipped", "seconds")


def installations() -> dict[int, Path]:
    """The directory of programs of each major version; the first that is found."""
    named = os.environ.get("REPLICATOR_TEST_PG_BIN")
    places = [Path(named)] if named else []
    places += [*sorted(Path("/usr/lib/postgresql").glob("*/bin")), *packaged()]
    found: dict[int, Path] = {}
    for place in places:
        if (place / "postgres").exists():
            found.setdefault(major(place), place)
    return found


def major(place: Path) -> int:
    said = subprocess.run([place / "postgres", "--version"], check=True, capture_output=True, text=True).stdout
    number = re.search(r"\d+", said)
    assert number is not None, said
    return int(number[0])


def run(place: Path, arguments: list[str]) -> tuple[bool, list[str]]:
    """Whether all passed, and the figures of it."""
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-m", "postgres", "-k", CHOSEN, f"--junitxml={report}", *arguments]
        done = subprocess.run(command, env={**os.environ, "REPLICATOR_TEST_PG_BIN": str(place)})
        (suite,) = xml.etree.ElementTree.parse(report).getroot()
    figures = suite.attrib
    failed, skipped = int(figures["failures"]) + int(figures["errors"]), int(figures["skipped"])
    passed = int(figures["tests"]) - failed - skipped
    return done.returncode == 0, [str(passed), str(failed), str(skipped), f"{float(figures['time']):.0f}"]


def main() -> int:
    table, well = Table(*COLUMNS), True
    table.columns[1].overflow = "fold"
    found = installations()
    for version in SUPPORTED:
        if version in found:
            passed, figures = run(found[version], sys.argv[1:])
            well = well and passed
            table.add_row(str(version), str(found[version]), *figures)
        else:
            table.add_row(str(version), "not on this machine")
    Console().print(table)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
