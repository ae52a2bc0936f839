"""Notes of what is to be undone outlive whoever wrote them, and only those."""

from __future__ import annotations

from pathlib import Path

import pytest

from replicator.errors import ConfigError, Halted, Unavailable
from replicator.ops.drills import faults
from replicator.ops.drills.cleanup import clean_up
from replicator.ops.drills.undo_log import leftovers, open_note


def test_a_note_that_was_cleared_or_never_written_leaves_nothing(tmp_path: Path) -> None:
    with open_note(tmp_path / "state", "one"):
        pass
    with open_note(tmp_path / "state", "two") as note:
        note.write({"undo": [["true"]]})
        note.clear()
    assert list((tmp_path / "state").iterdir()) == []


def test_a_note_is_undone_by_the_next_unless_its_writer_lives(tmp_path: Path) -> None:
    mark = tmp_path / "undone"
    with open_note(tmp_path / "state", "one") as note:
        note.write({"undo": [["touch", str(mark)]], "timeout_seconds": 5})
        with pytest.raises(Unavailable, match="under way"), leftovers(tmp_path / "state"):
            pass
        assert not mark.exists()
    assert clean_up(tmp_path / "state") == []
    assert mark.exists()
    assert list((tmp_path / "state").iterdir()) == []


def test_of_a_torn_note_the_last_whole_line_counts(tmp_path: Path) -> None:
    mark = tmp_path / "undone"
    with open_note(tmp_path / "state", "one") as note:
        note.write({"undo": [["touch", str(mark)]], "timeout_seconds": 5})
        with note.path.open("a") as file:
            file.write('{"undo": [["fal')
    assert clean_up(tmp_path / "state") == []
    assert mark.exists()


def test_what_cannot_be_undone_stays_noted_and_the_rest_is_done(tmp_path: Path) -> None:
    mark = tmp_path / "undone"
    with open_note(tmp_path / "state", "one") as note:
        note.write({"undo": [["false"], ["touch", str(mark)]], "timeout_seconds": 5})
    (wrong,) = clean_up(tmp_path / "state")
    assert "false: it ended with 1" in wrong
    assert mark.exists()
    assert len(list((tmp_path / "state").iterdir())) == 1


def test_a_fork_is_only_thrown_away_where_a_rehearsal_makes_one(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    with open_note(tmp_path / "state", "one") as note:
        note.write({"fork": {"directory": str(precious), "server": None, "database": "ledger"}})
    assert "no rehearsal's directory" in clean_up(tmp_path / "state")[0]
    with open_note(tmp_path / "state", "two") as note:
        note.write({"fork": {"directory": str(tmp_path / "x.fork"), "server": "host=h", "database": "ledger"}})
    assert any("no rehearsal's database" in wrong for wrong in clean_up(tmp_path / "state"))
    assert precious.exists()


def test_a_state_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be kept"), open_note(tmp_path / "file", "one"):
        pass


async def test_a_command_is_bounded_and_needs_no_shell(tmp_path: Path) -> None:
    await faults.run(["touch", str(tmp_path / "a b; c")], 5)
    assert (tmp_path / "a b; c").exists()
    with pytest.raises(Halted, match=r"did not end within 0\.3 s"):
        await faults.run(["sleep", "60"], 0.3)
    with pytest.raises(Halted, match="cannot be run"):
        await faults.run(["/nowhere/program"], 5)
    with pytest.raises(Halted, match="ended with 7: oh"):
        await faults.run(["sh", "-c", "echo oh; exit 7"], 5)


async def test_a_command_whose_children_live_on_is_not_waited_for() -> None:
    await faults.run(["sh", "-c", "sleep 60 & exit 0"], 20)
