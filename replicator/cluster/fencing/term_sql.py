"""Terms: SQL that opens the fence for a time, keeps watch over it, and ends the sessions of applications.

    prolong()       moves the end of a term that runs
    guard()         opens, and stays in the server until the end, when it ends the applications' sessions: it needs no
                    sidecar for that
    shut()          closes
    end_sessions()  ends the applications' sessions, and waits for their end

Whoever moves the time holds the mutex. So either the guard sees a new end, or who prolongs sees that the guard gave up;
and a guard that was sent for before a closing comes too late, however slow the way.
"""

from __future__ import annotations

from replicator.cluster.fencing.gate_sql import NOW_US, OURS
from replicator.postgres.locks import GUARD, LOCKS, MUTEX

GUARD_ROUND_US = 50_000  # how long the guard sleeps at most; the end of a term is met more exactly
GUARD_PATIENCE_SECONDS = 10

OBJECTS = (
    # The sessions of applications that began before ``moment``. Those that began later found it closed. Beside clients:
    # background workers that have written, save those that end with their leader or write no rows.
    f"""CREATE OR REPLACE FUNCTION replicator.sessions(moment timestamptz) RETURNS TABLE (pid integer, kind text,
  name text, transaction timestamptz) LANGUAGE sql AS $$
  SELECT pid, backend_type, application_name, xact_start FROM pg_stat_activity
   WHERE datname = current_database() AND pid <> pg_backend_pid() AND NOT {OURS}
     AND backend_start < moment AND (backend_type = 'client backend' OR backend_xid IS NOT NULL
     AND backend_type NOT IN ('parallel worker', 'walsender', 'autovacuum worker'))
$$""",
    # Gives what has not ended within the time; empty if nothing.
    """CREATE OR REPLACE FUNCTION replicator.end_sessions(patience_seconds float8) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  moment timestamptz := clock_timestamp();
  signalled integer[] := '{}';
  not_permitted integer[] := '{}';
  remaining text[];
  backend record;
BEGIN
  LOOP
    remaining := '{}';
    PERFORM pg_stat_clear_snapshot();  -- a transaction sees the sessions of its first look again and again
    FOR backend IN SELECT * FROM replicator.sessions(moment) LOOP
      IF backend.kind = 'client backend' AND backend.pid <> ALL (signalled) THEN
        signalled := signalled || backend.pid;
        BEGIN
          PERFORM pg_terminate_backend(backend.pid);
        EXCEPTION WHEN insufficient_privilege THEN
          not_permitted := not_permitted || backend.pid;
        END;
      END IF;
      -- A session that we may not end does no harm once it has no transaction from before.
      CONTINUE WHEN backend.pid = ANY (not_permitted) AND (backend.transaction IS NULL OR backend.transaction > moment);
      remaining := remaining || format('%s %s (%s)', backend.kind, backend.pid, backend.name);
    END LOOP;
    EXIT WHEN remaining = '{}' OR clock_timestamp() > moment + patience_seconds * interval '1 second';
    PERFORM pg_sleep(0.0005);
  END LOOP;
  RETURN array_to_string(remaining[:5], ', ');
END $$""",
    # open: prolonged · late: the time is over · older: a newer epoch is known · closed: it takes a guard to open it.
    # The names of OUT parameters are part of a function's type, which CREATE OR REPLACE does not change: they stay.
    f"""CREATE OR REPLACE FUNCTION replicator.prolong(term bigint, from_us bigint, until_us bigint, OUT said text,
  OUT seen bigint) LANGUAGE plpgsql AS $$
DECLARE
  known bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);  -- a crash closes, whatever was written
  PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
  SELECT epoch, closings INTO known, seen FROM replicator.fencing;
  said := CASE WHEN until_us <= {NOW_US} THEN 'late' WHEN term < known THEN 'older'
               WHEN replicator.is_open() THEN 'open' ELSE 'closed' END;
  -- An answer of the lease store that overtook this one has given more: a term is never shortened.
  IF said = 'open' AND until_us > pg_sequence_last_value('replicator.open_until') THEN
    PERFORM setval('replicator.open_from', from_us);  -- first: who looks between the two still finds the old end
    PERFORM setval('replicator.open_until', until_us);
  END IF;
  IF said = 'open' AND term > known THEN
    UPDATE replicator.fencing SET epoch = term;
  END IF;
END $$""",
    f"""CREATE OR REPLACE FUNCTION replicator.shut(url text, seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
  -- No rollback takes this back, and every statement sees it from here on: it closes even if what follows fails.
  PERFORM setval('replicator.open_until', 0);
  UPDATE replicator.fencing SET closings = closings + 1, primary_url = url, retry_after = seconds;
END $$""",
    f"""CREATE OR REPLACE PROCEDURE replicator.guard(term bigint, from_us bigint, until_us bigint, seen bigint)
LANGUAGE plpgsql AS $$
DECLARE
  left_us float8;
BEGIN
  -- The guard before takes the mutex to end: waiting for it with the mutex in hand would keep it alive.
  PERFORM pg_advisory_lock({LOCKS}, {GUARD});
  PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
  UPDATE replicator.fencing SET epoch = term, primary_url = NULL, retry_after = NULL
   WHERE epoch <= term AND closings = seen AND until_us > {NOW_US};
  IF NOT FOUND THEN
    PERFORM pg_advisory_unlock({LOCKS}, {GUARD});
    RETURN;
  END IF;
  PERFORM setval('replicator.open_from', from_us);
  PERFORM setval('replicator.open_until', until_us);
  COMMIT;  -- lets go of the mutex; the guard's lock is the session's
  -- What ends sessions must not fail: it waits for no disk, and not for ever for the mutex.
  PERFORM set_config('synchronous_commit', 'off', false), set_config('lock_timeout', '1s', false);
  LOOP
    left_us := pg_sequence_last_value('replicator.open_until') - ({NOW_US});
    IF left_us > 0 AND pg_sequence_last_value('replicator.open_from') <= {NOW_US} THEN
      PERFORM pg_sleep(least(left_us, {GUARD_ROUND_US}) / 1e6);
    ELSE
      BEGIN
        PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
      EXCEPTION WHEN lock_not_available THEN NULL;
      END;
      -- Again, now under the mutex: it may have been prolonged in between.
      EXIT WHEN pg_sequence_last_value('replicator.open_until') <= {NOW_US}
             OR pg_sequence_last_value('replicator.open_from') > {NOW_US};
    END IF;
    COMMIT;  -- a transaction as long as the term would keep vacuum from its work
  END LOOP;
  -- Closed before sessions are ended: whoever connects from here on needs no ending.
  PERFORM setval('replicator.open_until', 0);
  COMMIT;
  PERFORM replicator.end_sessions({GUARD_PATIENCE_SECONDS});
  PERFORM pg_advisory_unlock({LOCKS}, {GUARD});
END $$""",
    "REVOKE EXECUTE ON FUNCTION replicator.end_sessions(float8), replicator.sessions(timestamptz),"
    " replicator.prolong(bigint, bigint, bigint), replicator.shut(text, integer) FROM PUBLIC",
    "REVOKE EXECUTE ON PROCEDURE replicator.guard(bigint, bigint, bigint, bigint) FROM PUBLIC",
)
DROP_OBJECTS = (
    "DROP PROCEDURE IF EXISTS replicator.guard(bigint, bigint, bigint, bigint)",
    "DROP FUNCTION IF EXISTS replicator.end_sessions(float8), replicator.sessions(timestamptz),"
    " replicator.prolong(bigint, bigint, bigint), replicator.shut(text, integer)",
)
ANCHOR = f"SELECT ({NOW_US})::bigint, pg_is_in_recovery()"
# objsubid 2: an advisory lock of two keys.
END_GUARD = f"""
SELECT pg_terminate_backend(pid) FROM pg_locks
 WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND objsubid = 2 AND classid = {LOCKS}
   AND objid = {GUARD} AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared LIMIT 5"
LOOK = f"""
SELECT replicator.is_open(), epoch, round((pg_sequence_last_value('replicator.open_until') - {NOW_US}) / 1e6)
  FROM replicator.fencing
"""
INSTALLED = "SELECT to_regprocedure('replicator.guard(bigint, bigint, bigint, bigint)') IS NOT NULL"
