-- Every position an operator moved: written in the transaction that moves it, by the `offsets move`
-- command, and never changed. The worker itself neither reads nor writes this table.
CREATE TABLE offset_moves (
    id             bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- Not the transaction's start: it may have waited for the batch under way.
    moved_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Who says they did it, and which role Postgres knows they did it with.
    moved_by       text        NOT NULL,
    database_user  text        NOT NULL DEFAULT session_user,
    reason         text        NOT NULL CHECK (reason <> ''),
    consumer_group text        NOT NULL,
    topic          text        NOT NULL,
    partition      integer     NOT NULL,
    -- Null: never read until then.
    from_offset    bigint,
    to_offset      bigint      NOT NULL,
    -- Offsets, so at most so many records: markers and compaction leave gaps.
    skipped        bigint      NOT NULL,
    repeated       bigint      NOT NULL,
    -- Null: no row until then.
    old_epoch      bigint,
    new_epoch      bigint      NOT NULL,
    -- The log's ends, as the command saw them.
    log_start      bigint      NOT NULL,
    log_end        bigint      NOT NULL
);
