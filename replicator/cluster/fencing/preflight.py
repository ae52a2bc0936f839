"""What the fence of a PostgreSQL database needs, looked at before the start. Changes nothing; names a cure for all."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from replicator.cluster.fencing.session import connect, database_of
from replicator.config.finding import Finding, failed
from replicator.errors import ReplicatorError
from replicator.postgres.quoting import array, quoted
from replicator.postgres.session import OLDEST_VERSION
from replicator.postgres.settings import READ_ONLY

LOOK_SECONDS = 10.0

_ROLE = """
SELECT rolsuper, quote_ident(rolname), current_setting('server_version_num'), pg_is_in_recovery(),
       pg_has_role('pg_signal_backend', 'USAGE'), pg_has_role('pg_read_all_stats', 'USAGE'),
       has_database_privilege(current_database(), 'CREATE'), quote_ident(current_database()),
       current_setting('max_prepared_transactions')::int,
       (SELECT count(*) FROM pg_prepared_xacts WHERE database = current_database()),
       (SELECT count(*) FROM pg_subscription s JOIN pg_database d ON d.oid = s.subdbid
         WHERE d.datname = current_database() AND s.subenabled)
  FROM pg_roles WHERE rolname = current_user
"""
# Who owns them lends the right to set up triggers.
_NOT_OURS = """
WITH RECURSIVE below (oid) AS (
  SELECT to_regclass(name)::oid FROM unnest($1::text[]) AS name
  UNION SELECT inhrelid FROM pg_inherits JOIN below ON inhparent = below.oid)
SELECT c.oid::regclass::text, quote_ident(pg_get_userbyid(c.relowner))
  FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
 WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
   AND n.nspname NOT IN ('information_schema', 'replicator')
   AND ($1::text[] IS NULL OR c.oid IN (SELECT oid FROM below))
   AND NOT pg_has_role(c.relowner, 'USAGE')
 ORDER BY 1
"""


def preflight(dsn: str, tables: Sequence[tuple[str, str]] | None = None) -> list[Finding]:
    """The role and the server, as findings; blocks, and not for within trio. ``tables`` as in ``PostgresFence``."""
    try:
        return trio.run(_look, dsn, tables)
    except ReplicatorError as error:
        return [failed(error)]
    except trio.TooSlowError:
        return [Finding("fail", f"the server did not answer within {LOOK_SECONDS:.0f} s", "see that it runs")]


async def _look(dsn: str, tables: Sequence[tuple[str, str]] | None) -> list[Finding]:
    names = None if tables is None else array(quoted(*name) for name in tables)
    with trio.fail_after(LOOK_SECONDS):
        session = await connect(database_of(dsn), **READ_ONLY)
        try:
            (answers,) = await session.run(_ROLE)
            foreign = await session.run(_NOT_OURS, names)
        finally:
            session.close()
    superuser, role, version, standby, signal, stats, create, database, keeps, prepared, subscriptions = (
        answer or "" for answer in answers
    )
    findings = []
    if int(version) < OLDEST_VERSION:
        findings.append(Finding("fail", f"fence: the server has version {int(version) // 10000}", "use PostgreSQL 14+"))
    if standby == "t":
        findings.append(Finding("fail", "fence: the server is a standby", "connect to the one that takes writes"))
    if superuser == "t":
        findings.append(Finding("ok", f"fence: {role} is a superuser"))
    else:
        findings += _limited(role, database, signal == "t", stats == "t", create == "t", foreign)
    if int(prepared):
        what = f"fence: {prepared} prepared transactions can be committed later, also where no one may write"
        findings.append(Finding("warn", what, "COMMIT PREPARED or ROLLBACK PREPARED them before a switchover"))
    elif int(keeps):
        what = f"fence: max_prepared_transactions is {keeps}; a prepared transaction holds up a switchover"
        findings.append(Finding("warn", what, "set it to 0 if nobody uses two-phase commit"))
    if int(subscriptions):
        what = f"fence: {subscriptions} subscriptions write to this database, and no trigger stops them"
        findings.append(Finding("warn", what, "ALTER SUBSCRIPTION … DISABLE where the region is not the primary"))
    return findings


def _limited(
    role: str, database: str, signal: bool, stats: bool, create: bool, foreign: list[list[str | None]]
) -> list[Finding]:
    """What a role that is no superuser has to be given."""
    findings = []
    for may, what, cure in (
        (signal, "end sessions", f"GRANT pg_signal_backend TO {role}"),
        (stats, "see what sessions do", f"GRANT pg_read_all_stats TO {role}"),
        (create, "make the schema replicator", f"GRANT CREATE ON DATABASE {database} TO {role}"),
    ):
        level, verb = ("ok", "may") if may else ("fail", "may not")
        findings.append(Finding(level, f"fence: {role} {verb} {what}", "" if may else cure))  # type: ignore[arg-type]
    owners = sorted({owner or "" for _, owner in foreign})
    if foreign:
        some = ", ".join(str(table) for table, _ in foreign[:5]) + (", …" if len(foreign) > 5 else "")
        cure = "; ".join(f"GRANT {owner} TO {role}" for owner in owners[:5])
        findings.append(Finding("fail", f"fence: {role} may set up no triggers on {some}", cure))
    what = (
        f"fence: {role} is no superuser: tables made later are fenced within seconds, not at once; tables of a closed"
    )
    what += " region can be altered and dropped by their owners; sessions of superusers cannot be ended"
    findings.append(Finding("warn", what, "let the sidecar's role be a superuser, or live with it"))
    return findings
