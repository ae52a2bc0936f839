"""A strand and its replica, for the tests of setting aside: a journal to write to, and a database that refuses."""

from __future__ import annotations

from pathlib import Path

from replicator.format.block import HAS_DEFINITIONS, BlockPart, Draft
from replicator.pipeline.replay.quarantine import QuarantinePolicy
from replicator.pipeline.replay.replayer import Replayer
from replicator.pipeline.replicas.base import Replica
from replicator.pipeline.replicas.quarantine import QuarantinedStatement
from replicator.storage.journal.store import Journal
from tests.contracts.replica_kinds import STRAND, Kind, contents, row, table

WALLETS = table([("id", "integer"), ("owner", "text"), ("balance", "integer")], ["id"], user="owner")
EVENTS = table([("what", "text"), ("amount", "integer")], [], name="events")
SETS_ASIDE = QuarantinePolicy(sets_aside=True)


def wallet(number: int | str, balance: int, owner: str = "ann") -> bytes:
    return row(str(number), owner, str(balance))


class Strand:
    """Blocks go in by ``write``; ``replayer`` brings the replica after them."""

    def __init__(
        self, kind: Kind, directory: Path, policy: QuarantinePolicy = SETS_ASIDE, replica: Replica | None = None
    ) -> None:
        self.kind = kind
        self.journal = Journal(directory / "journal.db")
        self.journal.open()
        self.replica = replica or kind.replica()
        self.replayer = Replayer(self.journal, self.replica, STRAND, 1 << 20, 1000, policy)

    def write(self, *statements: bytes, flags: int = 0) -> None:
        """One transaction."""
        sequence = self.journal.head(STRAND).sequence + 1
        draft = Draft(f"tx{sequence}", f"0/{sequence:X}", sequence * 1000, flags, len(statements), b"".join(statements))
        self.journal.append(STRAND, [draft], 1)

    def write_large(self, parts: list[list[bytes]]) -> None:
        """One transaction in parts."""
        sequence = self.journal.head(STRAND).sequence + 1
        items: list[BlockPart | Draft] = [BlockPart(len(part), b"".join(part)) for part in parts]
        count = sum(map(len, parts))
        self.journal.append(STRAND, [*items, Draft(f"tx{sequence}", "", sequence, 0, count, None)], 1)

    def define(self, *statements: bytes) -> None:
        self.write(*statements, flags=HAS_DEFINITIONS)

    def replay(self) -> None:
        """Bring the replica to the journal's end."""
        if not self.replayer.is_open:
            self.replayer.open()
        head = self.journal.head(STRAND)
        while self.replayer.applied.position.sequence < head.sequence:
            self.replayer.step()
        assert self.replayer.applied.position == head
        assert self.replica.applied(STRAND) == self.replayer.applied, "the position is stored with the rows"

    def again(self, policy: QuarantinePolicy = SETS_ASIDE) -> None:
        """As after a restart of the sidecar, with this policy."""
        self.replica.close()
        self.replica = self.kind.replica()
        self.replayer = Replayer(self.journal, self.replica, STRAND, 1 << 20, 1000, policy)
        self.replayer.open()

    def refuse(self, name: str = "wallets", condition: str = "balance < 0") -> None:
        """Somebody gives the replica a constraint: rows of which the condition holds are refused."""
        if self.kind.name == "postgres":
            self.kind.execute(f'ALTER TABLE "{name}" ADD CONSTRAINT refused CHECK (NOT ({condition}))')
            return
        for event in ("INSERT", "UPDATE"):
            fields = condition
            for column in ("id", "balance", "amount", "note"):
                fields = fields.replace(column, f"NEW.{column}")
            self.kind.execute(
                f'CREATE TRIGGER "refused_{name}_{event}" BEFORE {event} ON "{name}" WHEN {fields}'
                " BEGIN SELECT RAISE(ABORT, 'refused by hand'); END"
            )

    def allow(self, name: str = "wallets") -> None:
        """The constraint goes."""
        if self.kind.name == "postgres":
            self.kind.execute(f'ALTER TABLE "{name}" DROP CONSTRAINT refused')
            return
        for event in ("INSERT", "UPDATE"):
            self.kind.execute(f'DROP TRIGGER "refused_{name}_{event}"')

    def open(self) -> list[QuarantinedStatement]:
        """What is set aside."""
        return self.replica.quarantine().open(STRAND)

    def places(self) -> list[tuple[int, int, str, str]]:
        """Its places, operations and reasons."""
        return [(one.sequence, one.ordinal, one.op, one.reason) for one in self.open()]

    def wallets(self) -> dict[str, str]:
        """Balances by id."""
        return {str(cells[0]): str(cells[2]) for cells in contents(self.kind)}


def refuse_deletes(kind: Kind, condition: str = "true") -> None:
    """Such wallets cannot be deleted: a trigger that replay is not spared, as one of our own would be."""
    kind.execute(
        "CREATE FUNCTION replicator.refers() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE foreign_key_violation USING MESSAGE = 'referred'; END $$"
    )
    kind.execute(
        f"CREATE TRIGGER refers BEFORE DELETE ON wallets FOR EACH ROW WHEN ({condition})"
        " EXECUTE FUNCTION replicator.refers()"
    )
    kind.execute("ALTER TABLE wallets ENABLE ALWAYS TRIGGER refers")
