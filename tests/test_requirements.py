"""What is installed is locked by its hash, and the lock files hold what pyproject.toml asks for."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
BUILD = PROJECT["dependency-groups"]["build"]
RUN = PROJECT["project"]["dependencies"] + BUILD
TEST = RUN + PROJECT["project"]["optional-dependencies"]["test"]
_PIN = re.compile(r"^([a-z0-9-]+)==(\S+)(.*?)(?=^[a-z]|\Z)", re.MULTILINE | re.DOTALL)


def pins(name: str) -> dict[str, list[str]]:
    """The versions by name; some differ by Python."""
    found: dict[str, list[str]] = {}
    for package, version, rest in _PIN.findall((ROOT / "requirements" / name).read_text()):
        assert "--hash=sha256:" in rest, package
        found.setdefault(package, []).append(version)
    return found


@pytest.mark.parametrize(("name", "asked"), [("run.txt", RUN), ("test.txt", TEST)])
def test_all_that_is_asked_for_is_locked(name: str, asked: list[str]) -> None:
    locked = pins(name)
    for line in asked:
        requirement = Requirement(line)
        versions = locked[canonicalize_name(requirement.name)]
        assert all(requirement.specifier.contains(version) for version in versions), f"{line}: make lock"


def test_tests_run_with_what_production_runs_with() -> None:
    run, test = pins("run.txt"), pins("test.txt")
    assert {name: test.get(name) for name in run} == run


@pytest.mark.parametrize("name", ["run.txt", "test.txt"])
def test_a_lock_names_no_index(name: str) -> None:
    """Where packages come from is the machine's to say."""
    assert not re.search(r"://|--(extra-)?index", (ROOT / "requirements" / name).read_text())


def test_what_builds_the_project_is_what_is_locked() -> None:
    assert PROJECT["build-system"]["requires"] == BUILD
