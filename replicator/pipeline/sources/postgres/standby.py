"""Whether commits wait for us: what ``synchronous_standby_names`` makes of this sidecar.

Guarantee: pure but for ``check``, which only reads. A setting under which a commit can return without us is a failure:
then the zero-loss mode would be a promise that nobody keeps. How the server reads the setting: PostgreSQL's
documentation, "Synchronous Replication" and ``synchronous_standby_names``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from replicator.config.finding import Finding
from replicator.pipeline.sources.postgres.options import PostgresOptions
from replicator.pipeline.sources.postgres.session import database, standby_name
from replicator.postgres.quoting import literal, quoted
from replicator.postgres.session import Connection

_COUNTED = re.compile(r"\s*(?:(first|any)\s+)?(\d+)\s*\((.*)\)\s*", re.IGNORECASE | re.DOTALL)
_NAME = re.compile(r'\s*(?:"((?:[^"]|"")*)"|([^\s",()]+))\s*(?:,|$)')
WAITING = ("on", "remote_write", "remote_apply")


class Standbys(NamedTuple):
    """``number`` of these standbys must confirm a commit. Names are in lower case: the server does not tell cases
    apart. With ``any`` each of them counts, else the first ones that are connected."""

    number: int
    names: tuple[str, ...]
    any: bool = False

    def needs(self, name: str) -> bool:
        """Whether no commit returns without this one."""
        return name.lower() in self.names and "*" not in self.names and self.number >= len(self.names)


def parse_standbys(setting: str) -> Standbys:
    """Read ``synchronous_standby_names``. Raises ValueError for what the server would not take."""
    counted = _COUNTED.fullmatch(setting)
    text = counted[3] if counted else setting
    names: list[str] = []
    at = 0
    while at < len(text) and text[at:].strip():
        found = _NAME.match(text, at)
        if found is None:
            raise ValueError(f"{setting!r} is no list of standbys")
        names.append((found[2] if found[1] is None else found[1].replace('""', '"')).lower())
        at = found.end()
    number = int(counted[2]) if counted else min(1, len(names))
    return Standbys(number, tuple(names), bool(counted and counted[1] and counted[1].lower() == "any"))


def setting_for(name: str) -> str:
    """The setting by which every commit waits for this standby and for no other."""
    return quoted(name)


def judge(setting: str, commit: str, name: str) -> Iterator[Finding]:
    """What the server's settings mean for a standby of this name."""
    cure = (
        f"ALTER SYSTEM SET synchronous_standby_names = {literal(setting_for(name))}; SELECT pg_reload_conf(); commits"
        " wait from then on, so set it once this sidecar streams"
    )
    try:
        standbys = parse_standbys(setting)
    except ValueError as error:
        yield Finding("fail", f"synchronous_standby_names: {error}", cure)
        return
    if not standbys.names:
        yield Finding("fail", "synchronous_standby_names is empty: no commit waits for other regions", cure)
    elif standbys.needs(name):
        yield Finding("ok", f"every commit waits for {name!r}, this sidecar")
    elif name.lower() in standbys.names or "*" in standbys.names:
        what = f"synchronous_standby_names is {setting}: another standby can satisfy it in place of {name!r}"
        yield Finding("fail", what, cure)
    else:
        yield Finding("fail", f"synchronous_standby_names is {setting}: it does not name {name!r}", cure)
    if commit not in WAITING:
        yield Finding(
            "fail",
            f"synchronous_commit is {commit}: by default a commit waits for no standby",
            "ALTER SYSTEM SET synchronous_commit = on; SELECT pg_reload_conf()",
        )


def check(connection: Connection, options: PostgresOptions) -> Iterator[Finding]:
    """The server's settings, and whether somebody else bears our name. Nothing where commits need not wait for us."""
    if not options.synchronous:
        return
    name = standby_name(options)
    row = connection.execute("SELECT current_setting('synchronous_standby_names')").fetchone()
    assert row is not None
    yield from judge(row[0], _commit_setting(options), name)
    others = connection.execute(
        "SELECT count(*) FROM pg_stat_replication r LEFT JOIN pg_replication_slots s ON s.active_pid = r.pid"
        " WHERE lower(r.application_name) = lower(%s) AND s.slot_name IS DISTINCT FROM %s",
        (name, options.slot),
    ).fetchone()
    assert others is not None
    if others[0]:
        what = f"{others[0]} other connections replicate under the name {name!r}, and can confirm in our place"
        yield Finding("fail", what, "give each its own application_name")


def is_waited_for(connection: Connection, slot: str) -> bool:
    """Whether the server counts whoever streams from this slot among those that a commit waits for."""
    row = connection.execute(
        "SELECT r.sync_state FROM pg_stat_replication r JOIN pg_replication_slots s ON s.active_pid = r.pid"
        " WHERE s.slot_name = %s",
        (slot,),
    ).fetchone()
    return row is not None and row[0] in ("sync", "quorum")


def _commit_setting(options: PostgresOptions) -> str:
    """``synchronous_commit`` as a session has it that is not ours: ours do not wait for themselves."""
    with database(options).connect_as_application() as plain:
        row = plain.execute("SHOW synchronous_commit").fetchone()
        assert row is not None
        return str(row[0])
