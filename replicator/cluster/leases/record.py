"""What a lease file holds, what each step makes of it, and how it is replaced.

The steps are pure. Each raises ``LeaseLost`` where the lease is not to be had; then nothing changes.

Guarantee: a file that was written is on disk, and whole: whoever is killed while writing leaves the earlier one. A file
that no sidecar has written is Halted by name; nothing is guessed from it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, StrictStr, ValidationError

from replicator.cluster.leases.base import Epoch, Grant, Holder, LeaseLost, LeaseView, Seconds, may_claim
from replicator.errors import Halted
from replicator.format.json_fields import first_problem
from replicator.storage.atomic_file import replace_file

FILE_LIMIT_BYTES = 64 * 1024
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Which start of the machine this is; empty where the system does not say. Then a grant from before the start is
    known by its time, which lies ahead of the clock, or it ends within its ttl."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def lock_file(path: Path) -> Path:
    """The file beside a lease's that is locked for a step: the lease's own is another one after each step."""
    return path.with_name(f"{path.name}.lock")


class BootMoment(NamedTuple):
    """When a step is taken: the machine's start, and seconds of its clock."""

    boot: str
    now: float


class LeaseRecord(NamedTuple):
    """What the file holds: the highest epoch, and the last grant if it was not released."""

    epoch: int
    holder: Holder | None = None
    lease_id: str = ""
    boot: str = ""
    began_at: float = 0.0  # by the clock of ``boot``
    ttl_seconds: float = math.inf

    def view(self, at: BootMoment) -> LeaseView:
        """What is left of it."""
        lasts = math.isinf(self.ttl_seconds) or (
            self.boot == at.boot and self.began_at <= at.now < self.began_at + self.ttl_seconds
        )
        return LeaseView(self.holder if lasts else None, self.epoch)

    def claimed(
        self, wanted: Holder, lease_id: str, instead_of: Holder | None, at: BootMoment, ttl_seconds: float, place: str
    ) -> LeaseRecord:
        """After a claim of ``wanted``, which has a new token, as a new lease."""
        view = self.view(at)
        if view.holder is not None and view.holder[:2] == wanted[:2]:
            return self._begun(at, ttl_seconds)  # an earlier claim whose answer was lost
        may_claim(view, wanted.region, wanted.epoch, instead_of, place)
        return LeaseRecord(wanted.epoch, wanted, lease_id)._begun(at, ttl_seconds)

    def renewed(self, grant: Grant, at: BootMoment, ttl_seconds: float, place: str) -> LeaseRecord:
        """After a renewal: its time begins anew."""
        self._holder(grant, at, place)
        return self._begun(at, ttl_seconds)

    def kept_mine(self, grant: Grant, token: str, at: BootMoment, place: str) -> LeaseRecord:
        """After the claim was given a new token, so that nobody can claim in place of the old one."""
        return self._replace(holder=self._holder(grant, at, place)._replace(token=token))

    def released(self, grant: Grant) -> LeaseRecord:
        """After this grant was given back; the same if it is another's by now."""
        return LeaseRecord(self.epoch) if self.holder is not None and self.lease_id == grant.lease_id else self

    def _begun(self, at: BootMoment, ttl_seconds: float) -> LeaseRecord:
        return self._replace(boot=at.boot, began_at=at.now, ttl_seconds=ttl_seconds)

    def _holder(self, grant: Grant, at: BootMoment, place: str) -> Holder:
        view = self.view(at)
        if view.holder is None or self.lease_id != grant.lease_id:
            who = f"{view.holder.region} holds it in epoch {view.holder.epoch}" if view.holder else "nobody holds it"
            message = f"{grant.region} does not hold the lease in epoch {grant.epoch}: {who}"
            raise LeaseLost(message, view, place=place)
        return view.holder


def read_kept(path: Path, strand: str) -> LeaseRecord:
    """What the file says. Raises OSError, or Halted for a file that no sidecar has written for this strand."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return LeaseRecord(0)
    try:
        stored = _LeaseFile.model_validate_json(content)
        if stored.strand != strand:
            raise ValueError(f"it is the lease of the strand {stored.strand!r}")
        if stored.held is not None and stored.epoch < stored.held.epoch:
            raise ValueError("the epoch is behind its holder")
    except ValueError as error:
        said = first_problem(error) if isinstance(error, ValidationError) else error
        message = f"the file is not what a sidecar has written: {said}"
        cure = "find out what became of it; without it no epoch is known: the next claim needs one above all before"
        raise Halted("lease_file_garbled", message, place=str(path), cure=cure) from None
    return LeaseRecord(stored.epoch) if stored.held is None else stored.held.kept(stored.epoch)


def write_kept(path: Path, strand: str, kept: LeaseRecord) -> None:
    """On disk when it returns, whole or not at all. Raises OSError."""
    held = None
    if kept.holder is not None:
        ttl_seconds = None if math.isinf(kept.ttl_seconds) else kept.ttl_seconds
        lease = {"lease_id": kept.lease_id, "boot": kept.boot, "began_at": kept.began_at, "ttl_seconds": ttl_seconds}
        held = kept.holder._asdict() | lease
    replace_file(path, [json.dumps({"strand": strand, "epoch": kept.epoch, "held": held})])


class _Held(BaseModel):
    """The last grant, as the file tells it. ``ttl_seconds`` is null for one that does not end."""

    region: StrictStr
    epoch: Epoch
    token: StrictStr
    lease_id: StrictStr
    boot: StrictStr
    began_at: Seconds
    ttl_seconds: Seconds | None

    def kept(self, epoch: int) -> LeaseRecord:
        """The same, in a file whose highest epoch is this one."""
        ttl_seconds = math.inf if self.ttl_seconds is None else self.ttl_seconds
        holder = Holder(self.region, self.epoch, self.token)
        return LeaseRecord(epoch, holder, self.lease_id, self.boot, self.began_at, ttl_seconds)


class _LeaseFile(BaseModel):
    """The file. ``held`` is null where the lease was released, or never claimed."""

    strand: StrictStr
    epoch: Epoch
    held: _Held | None
