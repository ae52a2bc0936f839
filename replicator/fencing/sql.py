"""What the fence installs in a PostgreSQL database, all of it in the schema ``replicator``.

    replicator_fence   a trigger on every table, before each statement that changes it; calls fence()
    fence()            lets the statement pass, or refuses it with SQLSTATE 25006 and says where the primary is
    open_from          two sequences that hold the time, in microseconds since 1970, within which the fence is open;
    open_until         sequences, because every transaction sees their value of now, whatever its isolation and age
    guard()            runs in a session of its own while the fence is open; at the end it closes and ends sessions
    fencing            one row: the epoch, what refused writers are told, and which tables are fenced

The fence is open exactly while this holds, and each statement looks for itself:
the server's clock is within the two times, *and* the guard lives, which is seen by the lock that it holds.

- A time that has passed closes without anybody's help, also after the machine was paused.
- A server that was restarted has no guard, so it is closed until a sidecar opens it.
- A clock that is set back before ``open_from`` closes; so a step back can stretch a term to twice its length, not more.

Sessions of the sidecar write always: they have set ``replicator.writer``. This is against mistakes and for failover, not
against somebody who sets it on purpose; it works where applications and sidecar share a role, and for superusers.
"""

from __future__ import annotations

LOCKS = 1_919_250_540  # "repl": the first key of all advisory locks of the fence
GUARD, MUTEX, INSTALLING = 1, 2, 3
NAME = "replicator"  # application_name of the sidecar's sessions, or "replicator …"

_NOW_US = "date_part('epoch', clock_timestamp()) * 1e6"
_OURS = f"(application_name = '{NAME}' OR application_name LIKE '{NAME} %')"
# In this order: a time that has passed is the cheapest reason, and the lock is only tried (and had, for the rest of the
# transaction that is refused) where there should be a guard.
_OPEN = f"""pg_sequence_last_value('replicator.open_from') <= {_NOW_US}
      AND pg_sequence_last_value('replicator.open_until') > {_NOW_US}
      AND NOT pg_try_advisory_xact_lock_shared({LOCKS}, {GUARD})"""
_WRITER = "current_setting('replicator.writer', true) = 'on'"
_IS_OURS = _OURS.replace("application_name", "current_setting('application_name')")

OBJECTS = (
    "CREATE SCHEMA IF NOT EXISTS replicator",
    "GRANT USAGE ON SCHEMA replicator TO PUBLIC",
    "CREATE SEQUENCE IF NOT EXISTS replicator.open_from MINVALUE 0 START 0",
    "CREATE SEQUENCE IF NOT EXISTS replicator.open_until MINVALUE 0 START 0",
    """CREATE TABLE IF NOT EXISTS replicator.fencing (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL DEFAULT 0,
        primary_url text, retry_after integer, tables text[])""",
    "INSERT INTO replicator.fencing DEFAULT VALUES ON CONFLICT DO NOTHING",
    "GRANT SELECT ON replicator.open_from, replicator.open_until, replicator.fencing TO PUBLIC",
    f"""CREATE OR REPLACE FUNCTION replicator.is_open() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN coalesce({_OPEN}, false);
END $$""",
    # Raises always. What is told is what the row says in the writer's snapshot: good enough for a hint.
    f"""CREATE OR REPLACE FUNCTION replicator.refuse(what text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  told replicator.fencing;
BEGIN
  SELECT * INTO told FROM replicator.fencing;
  IF {_IS_OURS} AND replicator.is_open() THEN
    RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
      MESSAGE = what || ' refused: the application_name ' || current_setting('application_name') || ' is the sidecar''s',
      HINT = 'give the application a name of its own';
  END IF;
  RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction',
    MESSAGE = what || ' refused: this region is not the primary and takes no writes',
    HINT = CASE WHEN told.primary_url IS NOT NULL THEN 'the primary is at ' || told.primary_url
                ELSE 'the primary is being moved, or is not known' END
        || coalesce('; try again in ' || told.retry_after || ' s', '');
END $$""",
    f"""CREATE OR REPLACE FUNCTION replicator.fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF {_WRITER} OR (NOT {_IS_OURS}
      AND {_OPEN}) THEN
    RETURN NULL;
  END IF;
  PERFORM replicator.refuse(TG_OP || ' on ' || TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME);
  RETURN NULL;
END $$""",
    """CREATE OR REPLACE FUNCTION replicator.fence_table(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE 'CREATE OR REPLACE TRIGGER replicator_fence BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ' || target
       || ' FOR EACH STATEMENT EXECUTE FUNCTION replicator.fence()';
  EXECUTE 'ALTER TABLE ONLY ' || target || ' ENABLE ALWAYS TRIGGER replicator_fence';
END $$""",
    # All tables and partitions, or the configured ones with what is below them. tgtype 62: BEFORE, all four, statement.
    """CREATE OR REPLACE FUNCTION replicator.in_scope() RETURNS TABLE (target regclass, fenced boolean)
LANGUAGE sql STABLE AS $$
  WITH RECURSIVE chosen AS (SELECT tables FROM replicator.fencing),
  below (oid) AS (
    SELECT to_regclass(name)::oid FROM chosen, unnest(tables) AS name
    UNION SELECT inhrelid FROM pg_inherits JOIN below ON inhparent = below.oid)
  SELECT c.oid::regclass, EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = 'replicator_fence'
                                    AND t.tgenabled = 'A' AND t.tgtype = 62 AND t.tgfoid = 'replicator.fence'::regproc)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
     AND n.nspname NOT IN ('information_schema', 'replicator')
     AND ((SELECT tables FROM chosen) IS NULL OR c.oid IN (SELECT oid FROM below))
$$""",
    # The sessions of applications that began before ``moment``. Others cannot write any more.
    f"""CREATE OR REPLACE FUNCTION replicator.sessions(moment timestamptz) RETURNS TABLE (pid integer, kind text, name text,
  began timestamptz, transaction timestamptz, writes boolean) LANGUAGE sql AS $$
  SELECT pid, backend_type, application_name, backend_start, xact_start, backend_xid IS NOT NULL FROM pg_stat_activity
   WHERE datname = current_database() AND pid <> pg_backend_pid() AND NOT {_OURS}
     AND backend_start < moment AND (backend_type = 'client backend' OR backend_xid IS NOT NULL
     AND backend_type NOT IN ('parallel worker', 'walsender', 'autovacuum worker'))
$$""",
    # Ends them, and waits for their end. Returns what has not ended within the time; empty if nothing.
    """CREATE OR REPLACE FUNCTION replicator.end_sessions(patience_seconds float8) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
  moment timestamptz := clock_timestamp();
  told integer[] := '{}';
  refused integer[] := '{}';
  waits integer;
  left_over text;
  one record;
BEGIN
  LOOP
    waits := 0;
    left_over := '';
    PERFORM pg_stat_clear_snapshot();
    FOR one IN SELECT * FROM replicator.sessions(moment) LOOP
      IF one.kind = 'client backend' AND one.pid <> ALL (told) THEN
        told := told || one.pid;
        BEGIN
          PERFORM pg_terminate_backend(one.pid);
        EXCEPTION WHEN insufficient_privilege THEN
          refused := refused || one.pid;
        END;
      END IF;
      -- A session that we may not end does no harm once it has no transaction from before.
      CONTINUE WHEN one.pid = ANY (refused) AND (one.transaction IS NULL OR one.transaction > moment);
      waits := waits + 1;
      left_over := left_over || format('%s%s %s (%s)', CASE WHEN waits > 1 THEN ', ' ELSE '' END, one.kind, one.pid, one.name);
    END LOOP;
    EXIT WHEN waits = 0 OR clock_timestamp() > moment + patience_seconds * interval '1 second';
    PERFORM pg_sleep(0.0005);
  END LOOP;
  RETURN left_over;
END $$""",
    # 'open': prolonged. 'late': the time is over. 'older': a newer epoch is known. 'closed': a guard has to open it.
    f"""CREATE OR REPLACE FUNCTION replicator.prolong(term bigint, from_us bigint, until_us bigint) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
  IF until_us <= {_NOW_US} THEN RETURN 'late'; END IF;
  IF term < (SELECT epoch FROM replicator.fencing) THEN RETURN 'older'; END IF;
  IF NOT replicator.is_open() THEN RETURN 'closed'; END IF;
  IF term > (SELECT epoch FROM replicator.fencing) THEN UPDATE replicator.fencing SET epoch = term; END IF;
  IF until_us > pg_sequence_last_value('replicator.open_until') THEN
    PERFORM setval('replicator.open_from', from_us);
    PERFORM setval('replicator.open_until', until_us);
  END IF;
  RETURN 'open';
END $$""",
    f"""CREATE OR REPLACE FUNCTION replicator.shut(url text, seconds integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
  PERFORM setval('replicator.open_until', 0);
  UPDATE replicator.fencing SET primary_url = url, retry_after = seconds
   WHERE (primary_url, retry_after) IS DISTINCT FROM (url, seconds);
END $$""",
    # Opens, if that is still allowed, and stays until the time is over. Whoever prolongs takes the mutex, too: so either
    # the guard sees the new time, or the one who prolongs sees that it is closed.
    f"""CREATE OR REPLACE PROCEDURE replicator.guard(term bigint, from_us bigint, until_us bigint) LANGUAGE plpgsql AS $$
DECLARE
  left_us float8;
BEGIN
  PERFORM pg_advisory_lock({LOCKS}, {GUARD});
  PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
  UPDATE replicator.fencing SET epoch = term, primary_url = NULL, retry_after = NULL WHERE epoch <= term;
  IF NOT FOUND OR until_us <= {_NOW_US} THEN
    PERFORM pg_advisory_unlock({LOCKS}, {GUARD});
    RETURN;
  END IF;
  PERFORM setval('replicator.open_from', from_us);
  PERFORM setval('replicator.open_until', until_us);
  COMMIT;
  LOOP
    left_us := pg_sequence_last_value('replicator.open_until') - {_NOW_US};
    IF left_us <= 0 OR pg_sequence_last_value('replicator.open_from') > {_NOW_US} THEN
      PERFORM pg_advisory_xact_lock({LOCKS}, {MUTEX});
      EXIT WHEN pg_sequence_last_value('replicator.open_until') <= {_NOW_US}
             OR pg_sequence_last_value('replicator.open_from') > {_NOW_US};
    ELSE
      PERFORM pg_sleep(least(left_us, 50000) / 1e6);
    END IF;
    COMMIT;
  END LOOP;
  PERFORM setval('replicator.open_until', 0);
  COMMIT;
  PERFORM replicator.end_sessions(10);
  PERFORM pg_advisory_unlock({LOCKS}, {GUARD});
END $$""",
    # New and altered tables, and those that are dropped; takes a superuser.
    f"""CREATE OR REPLACE FUNCTION replicator.fence_altered() RETURNS event_trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT target, fenced, command_tag FROM pg_event_trigger_ddl_commands() JOIN replicator.in_scope()
                 ON target = objid AND classid = 'pg_class'::regclass LOOP
    IF NOT ({_WRITER}) IS TRUE AND NOT replicator.is_open() THEN
      PERFORM replicator.refuse(one.command_tag || ' ' || one.target);
    ELSIF NOT one.fenced THEN
      PERFORM replicator.fence_table(one.target);
    END IF;
  END LOOP;
END $$""",
    f"""CREATE OR REPLACE FUNCTION replicator.fence_dropped() RETURNS event_trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  one record;
BEGIN
  FOR one IN SELECT object_identity FROM pg_event_trigger_dropped_objects()
              WHERE object_type = 'table' AND NOT is_temporary AND schema_name <> 'replicator' LOOP
    IF NOT ({_WRITER}) IS TRUE AND NOT replicator.is_open() THEN
      PERFORM replicator.refuse(tg_tag || ' ' || one.object_identity);
    END IF;
  END LOOP;
END $$""",
    "REVOKE EXECUTE ON FUNCTION replicator.fence_table(regclass), replicator.end_sessions(float8),"
    " replicator.sessions(timestamptz), replicator.prolong(bigint, bigint, bigint), replicator.shut(text, integer)"
    " FROM PUBLIC",
    "REVOKE EXECUTE ON PROCEDURE replicator.guard(bigint, bigint, bigint) FROM PUBLIC",
)

EVENT_TRIGGERS = (
    "DROP EVENT TRIGGER IF EXISTS replicator_fence_altered",
    "DROP EVENT TRIGGER IF EXISTS replicator_fence_dropped",
    "CREATE EVENT TRIGGER replicator_fence_altered ON ddl_command_end"
    " WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA')"
    " EXECUTE FUNCTION replicator.fence_altered()",
    "CREATE EVENT TRIGGER replicator_fence_dropped ON sql_drop EXECUTE FUNCTION replicator.fence_dropped()",
    "ALTER EVENT TRIGGER replicator_fence_altered ENABLE ALWAYS",
    "ALTER EVENT TRIGGER replicator_fence_dropped ENABLE ALWAYS",
)

NOW_US = f"SELECT ({_NOW_US})::bigint"
GUARD_PID = (
    "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND mode = 'ExclusiveLock' AND granted AND objsubid = 2"
    f" AND classid = {LOCKS} AND objid = {GUARD}"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
PREPARED = "SELECT gid FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared"
UNFENCED = "SELECT target::text FROM replicator.in_scope() WHERE NOT fenced"
INSTALLED = "SELECT to_regprocedure('replicator.guard(bigint, bigint, bigint)') IS NOT NULL"
