"""What a region keeps of its role: whole, or as it was before."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from replicator.cluster.decisions.model import DurableState
from replicator.cluster.decisions.states import RoleState
from replicator.cluster.failover.durable_state import TRANSITIONS_LIMIT, DurableStateFile, RoleTransition, StoredState
from replicator.cluster.leases.base import NEVER, Grant
from replicator.errors import Corrupt, Unavailable

FIRST = StoredState(DurableState(RoleState.FOLLOWING, "replica", epoch=3, promised=4))
GRANT = Grant("main", "paris", 7, "token", "lease", 12.5, 10.0)


def test_nothing_was_kept(tmp_path: Path) -> None:
    assert DurableStateFile(tmp_path / "role.json").read() is None


def test_it_comes_back_and_a_grant_is_to_be_proven_again(tmp_path: Path) -> None:
    file = DurableStateFile(tmp_path / "role.json")
    happened = (RoleTransition(1, "promoted", "primary", 7, "in epoch 7"),)
    file.keep(StoredState(DurableState(RoleState.PRIMARY, "primary", epoch=7, led=7), GRANT, happened))
    kept = file.read()
    assert kept is not None
    assert kept.memory == DurableState(RoleState.PRIMARY, "primary", epoch=7, led=7)
    assert kept.transitions == happened
    assert kept.grant is not None
    assert kept.grant.epoch == 7
    assert kept.grant.asked_at == NEVER


def test_the_past_is_bounded(tmp_path: Path) -> None:
    file = DurableStateFile(tmp_path / "role.json")
    past = tuple(RoleTransition(number, "suspect", "suspecting", 1, "") for number in range(TRANSITIONS_LIMIT * 2))
    file.keep(FIRST._replace(transitions=past))
    kept = file.read()
    assert kept is not None
    assert kept.transitions == past[-TRANSITIONS_LIMIT:]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_leaves_what_was_kept_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    file = DurableStateFile(tmp_path / "role.json")
    file.keep(FIRST)

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        if call == "fsync":
            broken.setattr(os, "fsync", fail)
        else:
            broken.setattr(Path, "replace", fail)
        with pytest.raises(Unavailable, match="No space"):
            file.keep(FIRST._replace(memory=DurableState(RoleState.HALTED, "replica")))
    assert file.read() == FIRST


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", '{"format": 2}', '{"format": 1, "memory": {}, "grant": null, "happened": []}', "[" * 5000],
)
def test_a_file_that_cannot_be_read_halts(tmp_path: Path, text: str) -> None:
    path = tmp_path / "role.json"
    path.write_text(text)
    with pytest.raises(Corrupt) as caught:
        DurableStateFile(path).read()
    assert caught.value.reason == "role_unreadable"
    assert "bootstrap" in caught.value.cure


FILE_TEXT = (
    '{"format": 1, "memory": {"state": "primary", "half": "primary", "epoch": 7, "promised": 7, "led": 7, "mine": 0,'
    ' "closed_at": null, "handed_to": "", "changed_at": 12.5, "approved": false, "undo": [],'
    ' "reopening": false, "why": "a drill"},'
    ' "grant": {"strand": "main", "region": "paris", "epoch": 7, "token": "token", "lease_id": "lease",'
    ' "ttl_seconds": 10.0}, "happened": [[1, "promoted", "primary", 7, "in epoch 7"]]}'
)


def test_the_file_has_the_form_that_other_releases_read(tmp_path: Path) -> None:
    path = tmp_path / "role.json"
    path.write_text(FILE_TEXT)
    kept = DurableStateFile(path).read()
    assert kept is not None
    DurableStateFile(path).keep(kept)
    assert path.read_text() == FILE_TEXT
