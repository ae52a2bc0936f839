"""What a lease file holds, and how it is replaced.

Guarantee: a file that was written is on disk, and whole: whoever is killed while writing leaves the earlier one. A file
that no sidecar has written is Halted by name; nothing is guessed from it.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import NamedTuple

from replicator.cluster.leases.base import Holder, LeaseView, duration_of, epoch_of, text_of
from replicator.errors import Halted
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


class LeaseRecord(NamedTuple):
    """What the file holds: the highest epoch, and the last grant if it was not released."""

    epoch: int
    holder: Holder | None = None
    lease_id: str = ""
    boot: str = ""
    began_at: float = 0.0  # by the clock of ``boot``
    ttl_seconds: float = math.inf

    def view(self, boot: str, now: float) -> LeaseView:
        """What is left of it. Pure."""
        lasts = math.isinf(self.ttl_seconds) or (
            self.boot == boot and self.began_at <= now < self.began_at + self.ttl_seconds
        )
        return LeaseView(self.holder if lasts else None, self.epoch)


def read_kept(path: Path, strand: str) -> LeaseRecord:
    """What the file says. Raises OSError, or Halted for a file that no sidecar has written for this strand."""
    try:
        with path.open("rb") as file:
            content = file.read(FILE_LIMIT_BYTES + 1)
    except FileNotFoundError:
        return LeaseRecord(0)
    try:
        fields = json.loads(content)
        if fields["strand"] != strand:
            raise ValueError(f"it is the lease of the strand {fields['strand']!r}")
        held = fields["held"]
        if held is None:
            return LeaseRecord(epoch_of(fields["epoch"]))
        holder = Holder(text_of(held["region"]), epoch_of(held["epoch"]), text_of(held["token"]))
        if epoch_of(fields["epoch"]) < holder.epoch:
            raise ValueError("the epoch is behind its holder")
        ttl = math.inf if held["ttl_seconds"] is None else duration_of(held["ttl_seconds"])
        lease_id, boot, began_at = text_of(held["lease_id"]), text_of(held["boot"]), duration_of(held["began_at"])
        return LeaseRecord(fields["epoch"], holder, lease_id, boot, began_at, ttl)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"the file is not what a sidecar has written: {error}"
        cure = "find out what became of it; without it no epoch is known: the next claim needs one above all before"
        raise Halted("lease_file_garbled", message, place=str(path), cure=cure) from error


def write_kept(path: Path, strand: str, kept: LeaseRecord) -> None:
    """On disk when it returns, whole or not at all. Raises OSError."""
    held = None
    if kept.holder is not None:
        held = {
            **kept.holder._asdict(),
            "lease_id": kept.lease_id,
            "boot": kept.boot,
            "began_at": kept.began_at,
            "ttl_seconds": None if math.isinf(kept.ttl_seconds) else kept.ttl_seconds,
        }
    replace_file(path, [json.dumps({"strand": strand, "epoch": kept.epoch, "held": held})])
