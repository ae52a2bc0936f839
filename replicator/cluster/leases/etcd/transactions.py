"""The two keys of a strand, and what is asked of them in one transaction each. Pure.

    https://etcd.io/docs/v3.5/learning/api/#transaction

Each transaction compares revisions and writes only if they hold; where they do not, it reads both keys at one revision.
A mere look is one range over the strand's keys, which sees one revision, too. It must be no transaction: one that only
reads and is given up by its client takes an etcd before 3.5.5 down with it (etcd-io/etcd 14110; up to 3.5.6, 14891).
None is a serializable (possibly old) read.
"""

from __future__ import annotations

import base64
import json
from typing import Any

from replicator.cluster.leases.base import Grant
from replicator.cluster.leases.etcd.answers import StrandRecord


class EtcdKeys:
    """The two keys of one strand in etcd, and the requests over them. ``place`` names them in messages."""

    def __init__(self, prefix: str, strand: str) -> None:
        self.place = f"{prefix}/{strand}"
        self._leader = _packed(f"{prefix}/{strand}/leader")
        self._epoch = _packed(f"{prefix}/{strand}/epoch")
        self._first, self._behind = _packed(f"{prefix}/{strand}/"), _packed(f"{prefix}/{strand}0")  # "0" follows "/"
        self._read_both = [{"request_range": {"key": key}} for key in (self._leader, self._epoch)]

    def look(self) -> dict[str, Any]:
        """Read both keys: a range, not a transaction."""
        return {"key": self._first, "range_end": self._behind}

    def looked(self, answer: dict[str, Any]) -> dict[str, Any]:
        """The answer to ``look`` in the form of a transaction's that read both keys. Raises ValueError, KeyError or
        TypeError for what is none."""
        kvs = answer.get("kvs", [])
        if not isinstance(kvs, list):
            raise ValueError("keys and values are a list")
        by_key = [[kv for kv in kvs if kv["key"] == key] for key in (self._leader, self._epoch)]
        return {**answer, "responses": [{"response_range": {"kvs": pairs}} for pairs in by_key]}

    def claim(self, record: StrandRecord, wanted: Grant) -> dict[str, Any]:
        """Write both keys, if both are as they were in this record."""
        holder = record.view.holder
        if holder is None:
            leader = {"key": self._leader, "target": "CREATE", "create_revision": "0"}  # it is not there
        else:
            leader = {"key": self._leader, "target": "MOD", "mod_revision": holder.token}
        # The epoch's key, too: between look and claim the leader's may have come and gone again, in a higher epoch. Its
        # revision is 0 where there is none yet.
        epoch = {"key": self._epoch, "target": "MOD", "mod_revision": str(record.epoch_revision)}
        put_epoch = {"request_put": {"key": self._epoch, "value": _packed(str(wanted.epoch))}}
        return {
            "compare": [leader, epoch],
            "success": [self._put_leader(wanted), put_epoch],
            "failure": self._read_both,
        }

    def keep(self, token: str, grant: Grant) -> dict[str, Any]:
        """Write the leader's key again, if it is still of the revision ``token``."""
        return {
            "compare": [{"key": self._leader, "target": "MOD", "mod_revision": token}],
            "success": [self._put_leader(grant)],
            "failure": self._read_both,
        }

    def never(self) -> dict[str, Any]:
        """What a claim asks for, under a condition that cannot hold: etcd checks the right to it, and does nothing."""
        puts = [{"request_put": {"key": key, "value": ""}} for key in (self._leader, self._epoch)]
        return {
            "compare": [{"key": self._epoch, "target": "VERSION", "result": "LESS", "version": "0"}],
            "success": puts,
            "failure": self._read_both,
        }

    def _put_leader(self, grant: Grant) -> dict[str, Any]:
        value = _packed(json.dumps({"region": grant.region, "epoch": grant.epoch}))
        return {"request_put": {"key": self._leader, "value": value, "lease": grant.lease_id}}


def _packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
