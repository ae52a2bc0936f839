"""The gate: SQL that lets no application's statement change a table of a closed region. All in schema ``replicator``.

    replicator_fence   a trigger on every table, before each statement that changes it; calls fence()
    fence()            lets the statement pass, or refuses it with SQLSTATE 25006 and says where the primary is
    open_from          two sequences that hold the time, in microseconds since 1970, within which the fence is open;
    open_until         sequences, because all transactions see their value of now, whatever their isolation and age
    fencing            one row: the epoch, what refused writers are told, and which tables are fenced

The fence is open exactly while the server's clock is within the two times *and* the guard lives (``term_sql``), which
is seen by the lock that it holds. Each statement looks for itself, which takes the server some microseconds.

- A time that has passed closes without anybody's help, also after the machine was paused.
- A server that was restarted has no guard, so it is closed until a sidecar opens it.
- A clock that is set back to before ``open_from`` closes; so setting it back can double a term, not more.

The sidecar's own sessions write always: they have set ``replicator.writer``. This is for failover and against mistakes,
not against somebody who sets it on purpose; so it holds for superusers, and where applications share our role.
A session that only *names* itself like the sidecar's may never write: it would not be ended with the others.

Not seen by it: COMMIT PREPARED, a native subscription's apply worker, changes of single sequences and large objects.
"""

from __future__ import annotations

from replicator.postgres.locks import GUARD, LOCKS
from replicator.postgres.settings import APPLICATION_NAME

NOW_US = "date_part('epoch', clock_timestamp()) * 1e6"
OURS = f"(application_name = '{APPLICATION_NAME}' OR application_name LIKE '{APPLICATION_NAME} %')"
# The guard holds the lock exclusively, so whoever gets it, too, has proof that no guard lives. Shared: statements that
# look at the same moment must not take each other for the guard. It comes last: whoever gets it has it until its
# transaction, which is refused, is rolled back.
_OPEN = f"""pg_sequence_last_value('replicator.open_from') <= {NOW_US}
      AND pg_sequence_last_value('replicator.open_until') > {NOW_US}
      AND NOT pg_try_advisory_xact_lock_shared({LOCKS}, {GUARD})"""
_WRITER = "current_setting('replicator.writer', true) = 'on'"
_NAMED_LIKE_US = OURS.replace("application_name", "current_setting('application_name')")
# Where commits wait for other regions (K >= 1), a closed region's own would wait for ever: nobody follows it.
_BY_HAND = "who repairs a replica by hand first says: SET replicator.writer = on; SET synchronous_commit = local"

OBJECTS = (
    "CREATE SCHEMA IF NOT EXISTS replicator",
    "GRANT USAGE ON SCHEMA replicator TO PUBLIC",
    # They may be 0: that is how the fence is closed.
    "CREATE SEQUENCE IF NOT EXISTS replicator.open_from MINVALUE 0 START 0",
    "CREATE SEQUENCE IF NOT EXISTS replicator.open_until MINVALUE 0 START 0",
    # ``closings`` counts how often it was closed: what was sent before that to open it is void.
    """CREATE TABLE IF NOT EXISTS replicator.fencing (
        one boolean PRIMARY KEY DEFAULT true CHECK (one), epoch bigint NOT NULL DEFAULT 0,
        closings bigint NOT NULL DEFAULT 0, primary_url text, retry_after integer, tables text[])""",
    "INSERT INTO replicator.fencing DEFAULT VALUES ON CONFLICT DO NOTHING",
    "GRANT SELECT ON replicator.open_from, replicator.open_until, replicator.fencing TO PUBLIC",
    # Null before the first opening, for a sequence that was never set has no last value: that is closed.
    f"""CREATE OR REPLACE FUNCTION replicator.is_open() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
  RETURN coalesce({_OPEN}, false);
END $$""",
    # Raises always. The hint comes from the writer's own snapshot, which is good enough for that.
    f"""CREATE OR REPLACE FUNCTION replicator.refuse(what text, more text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  state replicator.fencing;
  is_like_us boolean := {_NAMED_LIKE_US} AND replicator.is_open();
BEGIN
  SELECT * INTO state FROM replicator.fencing;
  RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction', DETAIL = more,
    MESSAGE = what || ' refused: ' || CASE WHEN is_like_us
      THEN 'the application_name ' || current_setting('application_name') || ' belongs to the sidecar'
      ELSE 'this region is not the primary and takes no writes' END,
    HINT = CASE WHEN is_like_us THEN 'give the application a name of its own'
      WHEN state.primary_url IS NOT NULL THEN 'the primary is at ' || state.primary_url
      ELSE 'the primary is being moved, or is not known' END
      || coalesce('; try again in ' || state.retry_after || ' s', '');
END $$""",
    f"""CREATE OR REPLACE FUNCTION replicator.fence() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF {_WRITER} OR (NOT {_NAMED_LIKE_US}
      AND {_OPEN}) THEN
    RETURN NULL;
  END IF;
  PERFORM replicator.refuse(TG_OP || ' on ' || TG_TABLE_SCHEMA || '.' || TG_TABLE_NAME, '');
  RETURN NULL;
END $$""",
    # ALWAYS: also where session_replication_role says that triggers do not fire. ONLY: a partition has a trigger of its
    # own, for applications may write to it by its name.
    """CREATE OR REPLACE FUNCTION replicator.fence_table(target regclass) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  EXECUTE 'CREATE OR REPLACE TRIGGER replicator_fence BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON ' || target
       || ' FOR EACH STATEMENT EXECUTE FUNCTION replicator.fence()';
  EXECUTE 'ALTER TABLE ONLY ' || target || ' ENABLE ALWAYS TRIGGER replicator_fence';
END $$""",
    # All tables and partitions, or the configured ones with what is below them. tgtype 62: BEFORE, all four, statement.
    # IN, not EXISTS: with thousands of tables the planner makes a square of the latter.
    """CREATE OR REPLACE FUNCTION replicator.in_scope() RETURNS TABLE (target regclass, fenced boolean)
LANGUAGE sql STABLE AS $$
  WITH RECURSIVE chosen AS (SELECT tables FROM replicator.fencing),
  below (oid) AS (
    SELECT to_regclass(name)::oid FROM chosen, unnest(tables) AS name
    UNION SELECT inhrelid FROM pg_inherits JOIN below ON inhparent = below.oid)
  SELECT c.oid::regclass, c.oid IN (SELECT tgrelid FROM pg_trigger WHERE tgname = 'replicator_fence'
                                       AND tgenabled = 'A' AND tgtype = 62 AND tgfoid = 'replicator.fence'::regproc)
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
   WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_'
     AND n.nspname NOT IN ('information_schema', 'replicator')
     AND ((SELECT tables FROM chosen) IS NULL OR c.oid IN (SELECT oid FROM below))
$$""",
    # Event triggers run as whoever changes the schema, who may set up no trigger on our behalf: hence our rights, and a
    # search_path in which nobody else can put a function before the server's.
    f"""CREATE OR REPLACE FUNCTION replicator.fence_altered() RETURNS event_trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  ddl record;
  scope record;
BEGIN
  FOR ddl IN SELECT objid, command_tag FROM pg_event_trigger_ddl_commands() WHERE classid = 'pg_class'::regclass LOOP
    SELECT * INTO scope FROM replicator.in_scope() WHERE target = ddl.objid;
    CONTINUE WHEN NOT FOUND;
    IF ({_WRITER}) IS NOT TRUE AND NOT replicator.is_open() THEN
      PERFORM replicator.refuse(ddl.command_tag || ' ' || scope.target, '{_BY_HAND}');
    ELSIF NOT scope.fenced THEN
      PERFORM replicator.fence_table(scope.target);
    END IF;
  END LOOP;
END $$""",
    f"""CREATE OR REPLACE FUNCTION replicator.fence_dropped() RETURNS event_trigger LANGUAGE plpgsql
SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
  dropped record;
BEGIN
  FOR dropped IN SELECT object_identity FROM pg_event_trigger_dropped_objects()
                  WHERE object_type = 'table' AND NOT is_temporary AND schema_name <> 'replicator' LOOP
    IF ({_WRITER}) IS NOT TRUE AND NOT replicator.is_open() THEN
      PERFORM replicator.refuse(tg_tag || ' ' || dropped.object_identity, '{_BY_HAND}');
    END IF;
  END LOOP;
END $$""",
    "REVOKE EXECUTE ON FUNCTION replicator.fence_table(regclass) FROM PUBLIC",
)

# Take a superuser. With them a new table is fenced in the transaction that makes it, and a closed region's tables are
# not altered and dropped; without them new tables wait for the next look.
EVENT_TRIGGERS = (
    "CREATE EVENT TRIGGER replicator_fence_altered ON ddl_command_end"
    " WHEN TAG IN ('CREATE TABLE', 'CREATE TABLE AS', 'SELECT INTO', 'ALTER TABLE', 'CREATE SCHEMA')"
    " EXECUTE FUNCTION replicator.fence_altered()",
    "CREATE EVENT TRIGGER replicator_fence_dropped ON sql_drop EXECUTE FUNCTION replicator.fence_dropped()",
    "ALTER EVENT TRIGGER replicator_fence_altered ENABLE ALWAYS",
    "ALTER EVENT TRIGGER replicator_fence_dropped ENABLE ALWAYS",
)
DROP_EVENT_TRIGGERS = (
    "DROP EVENT TRIGGER IF EXISTS replicator_fence_altered",
    "DROP EVENT TRIGGER IF EXISTS replicator_fence_dropped",
)
DROP_OBJECTS = (
    "DROP FUNCTION IF EXISTS replicator.fence_altered(), replicator.fence_dropped(), replicator.in_scope(),"
    " replicator.fence_table(regclass), replicator.fence(), replicator.refuse(text, text), replicator.is_open()",
    "DROP TABLE IF EXISTS replicator.fencing",
    "DROP SEQUENCE IF EXISTS replicator.open_from, replicator.open_until",
    "REVOKE USAGE ON SCHEMA replicator FROM PUBLIC",
)
UNFENCED = "SELECT target::text FROM replicator.in_scope() WHERE NOT fenced ORDER BY 1"
FENCED = "SELECT tgrelid::regclass::text FROM pg_trigger WHERE tgfoid = 'replicator.fence'::regproc ORDER BY 1"
IS_SUPERUSER = "SELECT FROM pg_roles WHERE rolname = current_user AND rolsuper"
