-- The worker's whole schema. Names are not qualified: `migrate` sets search_path to the configured
-- schema first, and one schema serves one consumer group on one Kafka cluster.

-- The ledger: every event applied, once. The key deduplicates: a producer's retry repeats id and
-- time. Months are partitions, so that the hot index stays small and old months are dropped whole.
-- No DEFAULT partition: attaching a month beside one would scan it.
-- Columns stand by falling alignment, which saves padding in every row.
CREATE TABLE user_events (
    event_id        uuid        NOT NULL,
    occurred_at     timestamptz NOT NULL,
    received_at     timestamptz NOT NULL DEFAULT now(),
    kafka_offset    bigint      NOT NULL,
    sequence        bigint,
    kafka_partition integer     NOT NULL,
    kafka_topic     text        NOT NULL,
    source          text        NOT NULL,
    type            text        NOT NULL,
    user_id         text        COLLATE "C" NOT NULL,
    data            jsonb       NOT NULL,
    CONSTRAINT user_events_pkey PRIMARY KEY (event_id, occurred_at)
) PARTITION BY RANGE (occurred_at);

-- One row for what has been dropped: months before `dropped_before` are never created again,
-- because an old event could no longer be recognised as a duplicate.
CREATE TABLE ledger_retention (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    dropped_before date NOT NULL DEFAULT '-infinity'
);
INSERT INTO ledger_retention DEFAULT VALUES;

-- The projection. fillfactor leaves room for HOT updates: no indexed column ever changes.
CREATE TABLE users (
    user_id       text        COLLATE "C" PRIMARY KEY,
    sequence      bigint,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz,
    deleted_at    timestamptz,
    last_event_at timestamptz NOT NULL,
    event_count   bigint      NOT NULL,
    profile       jsonb       NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);

-- Progress, and who may move it. `next_offset` is null until reading has begun; `last_*` is the
-- fingerprint of the last record applied, read again at a claim to notice a recreated topic; it
-- counts only while `next_offset` stands where the worker left it (`last_next`), so that an offset
-- moved by hand is taken as it is.
CREATE TABLE source_offsets (
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    next_offset    bigint,
    epoch          bigint      NOT NULL DEFAULT 1,
    claimed_by     text        NOT NULL,
    claimed_at     timestamptz NOT NULL DEFAULT now(),
    last_offset    bigint,
    last_timestamp bigint,
    last_checksum  bigint,
    last_next      bigint,
    PRIMARY KEY (consumer_group, topic, partition)
) WITH (fillfactor = 50);

-- Records that break the contract, byte for byte up to a cap; beyond it the head is kept, with
-- the length and the hash of the whole. Headers: a JSON array of {name, value}, value in base64.
CREATE TABLE dead_letters (
    kafka_topic      text        NOT NULL,
    kafka_partition  integer     NOT NULL,
    kafka_offset     bigint      NOT NULL,
    reason           text        NOT NULL,
    detail           text        NOT NULL,
    sqlstate         text,
    key              bytea,
    key_length       integer     NOT NULL,
    key_sha256       bytea,
    value            bytea,
    value_length     integer     NOT NULL,
    value_sha256     bytea,
    headers          jsonb       NOT NULL DEFAULT '[]',
    headers_length   integer     NOT NULL,
    headers_sha256   bytea,
    record_timestamp timestamptz,
    record_checksum  bigint      NOT NULL,
    first_seen_at    timestamptz NOT NULL DEFAULT now(),
    last_seen_at     timestamptz NOT NULL DEFAULT now(),
    times_seen       integer     NOT NULL DEFAULT 1,
    resolution       text,
    resolved_at      timestamptz,
    -- The checksum tells records of a recreated topic from those of the one before.
    PRIMARY KEY (kafka_topic, kafka_partition, kafka_offset, record_checksum)
);
CREATE INDEX dead_letters_open ON dead_letters (first_seen_at) WHERE resolution IS NULL;

-- Whose schema this is: one row, written by the first worker to start.
CREATE TABLE worker_identity (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    consumer_group text        NOT NULL,
    cluster_id     text        NOT NULL,
    first_seen_at  timestamptz NOT NULL DEFAULT now()
);

-- Makes sure the ledger has the month of `day` (UTC). Answers 'exists', 'created' or 'expired'.
-- SECURITY DEFINER, so that the worker's role needs no ownership. CREATE .. LIKE and ATTACH take
-- no lock that would block writers of other months; the advisory lock lets one creator through.
CREATE FUNCTION ensure_user_events_month(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    month    date := date_trunc('month', day)::date;
    child    text := 'user_events_' || to_char(month, 'YYYY_MM');
    lower_at timestamptz := month::timestamp AT TIME ZONE 'UTC';
    upper_at timestamptz := (month + interval '1 month') AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('user_events_month', 'user_events'::regclass::oid::bigint));
    -- After the lock: whoever drops months holds it, too.
    IF month < (SELECT dropped_before FROM ledger_retention) THEN
        RETURN 'expired';
    END IF;
    IF EXISTS (SELECT FROM pg_inherits
               WHERE inhparent = 'user_events'::regclass AND inhrelid = to_regclass(child)) THEN
        RETURN 'exists';
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE user_events INCLUDING ALL)', child);
    EXECUTE format('ALTER TABLE user_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                   child, lower_at, upper_at);
    RETURN 'created';
END
$$;
REVOKE ALL ON FUNCTION ensure_user_events_month(date) FROM PUBLIC;

-- Drops whole months that end on or before `day` (UTC), and answers their names. Run by the
-- owner (`migrate --drop-expired`), never by the worker.
CREATE FUNCTION drop_user_events_months(day date) RETURNS SETOF text
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    keep_from date := date_trunc('month', day)::date;
    child     text;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('user_events_month', 'user_events'::regclass::oid::bigint));
    UPDATE ledger_retention SET dropped_before = greatest(dropped_before, keep_from);
    FOR child IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'user_events'::regclass
          AND to_date(right(c.relname, 7), 'YYYY_MM') < keep_from
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', child);
        RETURN NEXT child;
    END LOOP;
END
$$;
REVOKE ALL ON FUNCTION drop_user_events_months(date) FROM PUBLIC;
