"""What etcd's JSON says, read. Pure.

The gateway writes 64-bit numbers as strings, bytes in base64, and leaves out what is zero, empty or false. ValueError,
KeyError, TypeError or AttributeError for what is not of that form; Halted for a key of ours that no region has written.
"""

from __future__ import annotations

import base64
import json
from typing import Any, NamedTuple

from replicator.cluster.leases.base import Holder, LeaseView, epoch_of
from replicator.errors import Halted


class ResponseHeader(NamedTuple):
    """Who answered, and in which term of etcd's own leader."""

    cluster_id: int
    member_id: int
    term: int
    revision: int


class StoredValue(NamedTuple):
    """A key's value, the revision that wrote it, and the etcd lease that it goes with (0: none)."""

    value: bytes
    mod_revision: int
    lease_id: int


class StrandRecord(NamedTuple):
    """Both keys of a strand at one revision. ``epoch_revision`` is 0 where there is no epoch yet."""

    header: ResponseHeader
    view: LeaseView
    lease_id: int
    epoch_revision: int


def number(value: object) -> int:
    """A 64-bit number; what is left out is zero."""
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, str | int) or len(str(value)) > 20:
        raise ValueError("a number is needed")
    return int(value)


def read_header(fields: dict[str, Any]) -> ResponseHeader:
    """The head of every answer."""
    names = ("cluster_id", "member_id", "raft_term", "revision")
    header = ResponseHeader(*(number(fields.get(name)) for name in names))
    if not all(header):
        raise ValueError("the head of an answer names cluster, member, term and revision")
    return header


def read_seen(answer: dict[str, Any], place: str) -> StrandRecord:
    """The answer to a transaction whose branch read the leader's key and the epoch's. Raises Halted for keys with other
    contents than ours."""
    leader, epoch = (_read_stored(response["response_range"]) for response in answer["responses"])
    try:
        holder, lease_id = None, 0
        if leader is not None:
            lease_id = leader.lease_id
            fields = json.loads(leader.value)
            holder = Holder(str(fields["region"]), epoch_of(fields["epoch"]), str(leader.mod_revision))
        highest = 0 if epoch is None else epoch_of(int(epoch.value))
        if holder is not None and (highest < holder.epoch or not lease_id):
            raise ValueError("the epoch is behind its holder, or the holder's time does not end")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        message = f"the keys hold what no region has written: {error}"
        cure = "see who writes there (etcdctl get --prefix), give the lease a prefix of its own"
        raise Halted("lease_key_garbled", message, place=place, cure=cure) from error
    return StrandRecord(
        read_header(answer["header"]), LeaseView(holder, highest), lease_id, 0 if epoch is None else epoch.mod_revision
    )


def _read_stored(found: dict[str, Any]) -> StoredValue | None:
    kvs = found.get("kvs", [])
    if not kvs:
        return None
    (kv,) = kvs
    value = base64.b64decode(kv.get("value", ""), validate=True)
    return StoredValue(value, number(kv.get("mod_revision")), number(kv.get("lease")))
