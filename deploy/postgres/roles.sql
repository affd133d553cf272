-- Three roles: one owns the schema and migrates it; the worker's may do exactly what a batch needs; the
-- operator's may show and move positions (`offsets`), and nothing else. Run it as a superuser (or a role that may create roles) in the worker's database,
-- twice:
--
--   1. before the first migration: creates the roles and the schema;
--   2. after every migration: grants what exists by then. Running it again changes nothing.
--
--   psql -f deploy/postgres/roles.sql "$ADMIN_URL"
--   WORKER_POSTGRES__SCHEMA=user_events WORKER_POSTGRES__URL="$OWNER_URL" user-events-worker migrate
--   psql -f deploy/postgres/roles.sql "$ADMIN_URL"
--   WORKER_POSTGRES__SCHEMA=user_events WORKER_POSTGRES__URL="$WORKER_URL" WORKER_POSTGRES__MIGRATE=false \
--     user-events-worker run
--
-- Names to change to yours, throughout: user_events (the schema), user_events_owner,
-- user_events_worker, user_events_operator. Better than to share the last: a role for each operator that
-- is a member of it (GRANT user_events_operator TO ann), which `offsets history` then names. The roles have no password here: give them one, or whatever pg_hba.conf asks
-- for (ALTER ROLE user_events_worker PASSWORD '..').

DO $$
BEGIN
    IF to_regrole('user_events_owner') IS NULL THEN
        CREATE ROLE user_events_owner LOGIN;
    END IF;
    IF to_regrole('user_events_worker') IS NULL THEN
        CREATE ROLE user_events_worker LOGIN;
    END IF;
    IF to_regrole('user_events_operator') IS NULL THEN
        CREATE ROLE user_events_operator LOGIN;
    END IF;
END
$$;

-- Only the owner creates anything here.
CREATE SCHEMA IF NOT EXISTS user_events AUTHORIZATION user_events_owner;
GRANT USAGE ON SCHEMA user_events TO user_events_worker;
GRANT USAGE ON SCHEMA user_events TO user_events_operator;

-- Nothing is granted on the ledger's months: they are reached through their parent. No DELETE and no
-- TRUNCATE anywhere, no UPDATE of the ledger, and the retention mark is read by the function alone.
DO $$
BEGIN
    IF to_regclass('user_events._sqlx_migrations') IS NULL THEN
        RAISE NOTICE 'no schema yet: migrate as user_events_owner, then run this file again';
        RETURN;
    END IF;
    GRANT SELECT ON user_events._sqlx_migrations TO user_events_worker;
    -- SELECT, because ON CONFLICT and RETURNING read.
    GRANT SELECT, INSERT ON user_events.user_events TO user_events_worker;
    GRANT SELECT, INSERT ON user_events.worker_identity TO user_events_worker;
    GRANT SELECT, INSERT, UPDATE ON user_events.users TO user_events_worker;
    GRANT SELECT, INSERT, UPDATE ON user_events.source_offsets TO user_events_worker;
    GRANT SELECT, INSERT, UPDATE ON user_events.dead_letters TO user_events_worker;
    -- Runs with the owner's rights (SECURITY DEFINER): the one way in which the worker makes a table.
    GRANT EXECUTE ON FUNCTION user_events.ensure_user_events_month(date) TO user_events_worker;

    -- A move writes its own record, which nobody may change. INSERT, because a position may be set
    -- before any worker came.
    GRANT SELECT ON user_events._sqlx_migrations TO user_events_operator;
    GRANT SELECT, INSERT ON user_events.worker_identity TO user_events_operator;
    GRANT SELECT, INSERT, UPDATE ON user_events.source_offsets TO user_events_operator;
    GRANT SELECT, INSERT ON user_events.offset_moves TO user_events_operator;
END
$$;
