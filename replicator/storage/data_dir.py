"""A region's data directory: every path in it, one sidecar at a time, and the same files for as long as it runs.

Guarantee: the lock goes with the process, however it ends. A file that is deleted or replaced under a running sidecar
is noticed within about a second: what is written to a file without a name is durable as it seems, and is gone with the
process.

Nothing else in the tree spells a name of this directory. Beside the files that are named here there may be, of any of
them, what belongs to it or was moved out of its way: ``-wal`` and ``-shm`` (SQLite's own; copied and moved with their
file), ``.new`` (being written, worth nothing after a kill), ``.lock``, and, for people to look at and remove,
``.damaged-N`` (it could not be read), ``.replaced-N`` (``bootstrap --replace``) and ``.broken-N`` (a seal that does not
prove itself).
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import trio

from replicator.errors import ConfigError

LOOK_SECONDS = 1.0


@dataclasses.dataclass(frozen=True, slots=True)
class DataDir:
    """The paths in a region's data directory ``path``. Each says what it is, who writes it, and what it costs to
    lose."""

    path: Path

    @property
    def lock(self) -> Path:
        """An empty file that whoever works on the directory (the sidecar, ``bootstrap``, ``journal compact``) holds a
        lock on. Made anew at each start; if it goes while a sidecar runs, a second one is not kept out."""
        return self.path / "lock"

    @property
    def journal(self) -> Path:
        """The region's blocks, hash-chained: what all that is derived is proven against and made again from. Written by
        capture in a primary, by settling in a replica. A replica that loses it fetches it again, as far back as the
        region that it follows still has it; of a primary's, what no other region has received is gone."""
        return self.path / "journal.sqlite3"

    @property
    def spool(self) -> Path:
        """What a replica has received and has not settled; written by its settle buffer before a block counts as
        received. What waited there is fetched again; waivers, certificates and late blocks go with it, and so does, if
        the primary is lost, what only this region had received."""
        return self.path / "spool.sqlite3"

    @property
    def history(self) -> Path:
        """Which statements touched each key: an index that the sidecar builds from its journal, for reads of the past
        and for repairs. It is built again, which takes time."""
        return self.path / "history.sqlite3"

    @property
    def ledger_state(self) -> Path:
        """An embedded ledger's tables, unless ``[source] state`` places them elsewhere; written by the ledger behind
        its journal. They are replayed again from the journal if it reaches back to the first block; if not, the region
        is made anew from another one."""
        return self.path / "ledger.sqlite3"

    @property
    def requests(self) -> Path:
        """Which idempotency keys an embedded ledger has answered, and the versions of deleted rows; written by the
        ledger behind its journal. Built again, but for what was pruned from the journal: such a request would be done
        twice."""
        return self.path / "requests.sqlite3"

    @property
    def role(self) -> Path:
        """What a region of a cluster has promised, its state and its epoch; written by its controller before anything
        follows from it. Without it the region takes part as its configuration and its journal say, and may break a
        promise: make it anew (``bootstrap --replace``) rather than start it."""
        return self.path / "role.json"

    @property
    def identity(self) -> Path:
        """Whose directory it is: the region's name, role, strand, cluster and replica's database, and an id that was
        drawn once; written at the first start, and by ``bootstrap``. Without it the next start takes the directory for
        whatever it is configured as."""
        return self.path / "identity.json"

    @property
    def lease(self) -> Path:
        """The lease that persons give by hand, unless ``[lease] path`` names a file for a whole machine; written by
        claiming and releasing. Without it the highest epoch is forgotten, and two regions may come to lead in one: stop
        all of them first."""
        return self.path / "lease.json"

    @property
    def partial_copy(self) -> Path:
        """That a copy of another region is under way, and which; written by ``bootstrap``, removed when the copy is
        whole. Without it half a copy is still known by its mark in the replica, and is begun anew."""
        return self.path / "copy.json"

    @property
    def rewind(self) -> Path:
        """That this region is going back to a fork, and by which seal; written before the first thing is undone,
        removed after the last. Without it a rewind that was cut short is not known: make the region anew."""
        return self.path / "rewind.json"

    @property
    def proof(self) -> Path:
        """The directory of what is made once more from the journal, to compare the files above with; there only while
        that goes on, and worth nothing afterwards."""
        return self.path / "proof"

    @property
    def damage(self) -> Path:
        """Which files were found to be damaged; written when one is. Without it a restart knows nothing of it until the
        file is read there again."""
        return self.path / "damage.json"

    @property
    def divergence(self) -> Path:
        """Which keys of a replica were found to differ, and are not yet known to be right; written by its watch.
        Without it a restart knows nothing of them until the next scrub."""
        return self.path / "divergence.json"

    @property
    def resync(self) -> Path:
        """The worklist of the last resync; written by it. A resync that is under way has to be asked for again."""
        return self.path / "resync.sqlite3"

    @property
    def repairs(self) -> Path:
        """The directory of what repairs have replaced, a report each, for audits; nothing reads them."""
        return self.path / "repairs"

    def repair_report(self, at: str) -> Path:
        """What the repair at this time (RFC 3339) found and replaced; written before the first row is. It is the only
        copy of the rows that stood there."""
        return self.repairs / f"repair-{at.replace(':', '')}.json"

    @property
    def drill_results(self) -> Path:
        """How the last drills ended; written when one is reported. Without it no drill is known to have been held."""
        return self.path / "drills.json"

    @property
    def drill_notes(self) -> Path:
        """The directory of what drills under way have to undo; written by ``replicator drill``, unless ``--state``
        names another. Without a note nobody undoes what a killed drill has done."""
        return self.path / "drills"

    @property
    def orphans(self) -> Path:
        """The directory of the seals, one each time that this region came back with blocks of its own. They may be the
        only copy of what was committed: keep them until every orphan is settled, and as long as audits need them."""
        return self.path / "orphans"

    def seal(self, name: str) -> SealDir:
        """The seal of this name (``first-last-hash``)."""
        return SealDir(self.orphans / name)

    def seals(self) -> list[SealDir]:
        """The seals that stand, in the order of their names; not those being written or put aside as broken."""
        found = (SealDir(path) for path in sorted(self.orphans.glob("*")) if "." not in path.name)
        return [seal for seal in found if seal.seal.exists()]


@dataclasses.dataclass(frozen=True, slots=True)
class SealDir:
    """The paths of one seal: a directory that appears under its name when it is whole, and is not written again, save
    for the outcomes. A replica's spool is moved into it, too, when the region goes back."""

    path: Path

    @property
    def seal(self) -> Path:
        """What is sealed, and the sums of the other files; written last. Without it the directory is no seal."""
        return self.path / "seal.json"

    @property
    def blocks(self) -> Path:
        """The blocks byte for byte, as the feed sends them. Of orphans it is the only copy once they are undone."""
        return self.path / "blocks.frames"

    @property
    def report(self) -> Path:
        """What each transaction did, and how it stood to the region in charge when it was sealed."""
        return self.path / "report.json"

    @property
    def page(self) -> Path:
        """The report for people, one HTML file."""
        return self.path / "report.html"

    @property
    def summed(self) -> tuple[Path, ...]:
        """The files whose sums are in ``seal``."""
        return self.blocks, self.report, self.page

    @property
    def outcomes(self) -> Path:
        """Which orphans were sent again and which a person has settled; a line is added for each. Without it nobody
        knows what was re-applied."""
        return self.path / "handled.jsonl"

    @property
    def part(self) -> SealDir:
        """Where the seal is written before it has its name; removed and begun again if a process was killed there."""
        return SealDir(self.path.with_name(f"{self.path.name}.part"))

    @property
    def scratch(self) -> DataDir:
        """Journal and history of the region in charge, as fetched to judge by; removed when the seal stands."""
        return DataDir(self.path.with_name(f"{self.path.name}.scratch"))


@contextlib.contextmanager
def locked(data_dir: DataDir) -> Iterator[None]:
    """Keep a second sidecar out of the data directory, which is made if it is not there. Raises ConfigError."""
    with _lock_file(data_dir) as file:
        try:  # the file stays when the lock goes: a name that was removed could be locked twice, as two files
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                "data_dir_in_use",
                "another sidecar runs on this data directory",
                place=f"[region] data_dir = {data_dir.path}",
                cure="stop the other one, or give this region a directory of its own",
            ) from None
        yield


def _lock_file(data_dir: DataDir) -> IO[str]:
    try:
        data_dir.path.mkdir(parents=True, exist_ok=True)
        return data_dir.lock.open("w")
    except OSError as error:
        raise ConfigError(
            "data_dir_unusable",
            f"the data directory cannot be made or written to: {error.strerror}",
            place=f"[region] data_dir = {data_dir.path}",
            cure="name a directory that this user may write to, on a disk that takes writes",
        ) from error


def identity(path: Path) -> tuple[int, int] | None:
    """Which file this is; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


async def changed(path: Path, begun: tuple[int, int] | None) -> None:
    """Return once there is another file, or none. File systems tell of it in no portable way: look now and then."""
    while await trio.to_thread.run_sync(identity, path) == begun:  # noqa: ASYNC110  # nothing sets an event
        await trio.sleep(LOOK_SECONDS)
