//! The outer bound: binary COPY, which nothing beats, but which fails at the first duplicate.

use sqlx::{Connection, PgConnection};
use time::OffsetDateTime;
use time::macros::datetime;
use user_events_worker::apply::{Batch, measure};
use user_events_worker::event::Event;

use super::plain::events;

const COPY: &str =
    "COPY user_events (event_id, occurred_at, kafka_offset, sequence, kafka_partition,
                       kafka_topic, source, type, user_id, data) FROM STDIN WITH (FORMAT binary)";
const COLUMNS: i16 = 10;
/// Signature, flags, length of the header's extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Postgres counts microseconds from here.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);

pub(super) async fn apply(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
    let mut transaction = conn.begin().await?;
    let mut copy = transaction.copy_in_raw(COPY).await?;
    copy.send(encode(batch)).await?;
    copy.finish().await?;
    measure::project(&mut transaction, batch).await?;
    transaction.commit().await
}

fn encode(batch: &Batch) -> Vec<u8> {
    let topic = batch.ranges.first().map_or("", |range| &range.source.topic);
    let mut rows: Vec<_> = events(batch).collect();
    rows.sort_by_key(|(event, ..)| (event.id, event.time));
    let mut out = Vec::with_capacity(rows.len() * 400);
    out.extend_from_slice(HEADER);
    for (event, offset, partition) in rows {
        row(&mut out, event, topic, offset, partition);
    }
    out.extend_from_slice(&(-1i16).to_be_bytes());
    out
}

fn row(out: &mut Vec<u8>, event: &Event, topic: &str, offset: i64, partition: i32) {
    out.extend_from_slice(&COLUMNS.to_be_bytes());
    field(out, event.id.0.as_bytes());
    let micros = (event.time - EPOCH).whole_microseconds() as i64;
    field(out, &micros.to_be_bytes());
    field(out, &offset.to_be_bytes());
    match event.sequence {
        Some(sequence) => field(out, &sequence.get().to_be_bytes()),
        None => out.extend_from_slice(&(-1i32).to_be_bytes()),
    }
    field(out, &partition.to_be_bytes());
    field(out, topic.as_bytes());
    field(out, event.source.as_bytes());
    field(out, event.kind.type_name().as_bytes());
    field(out, event.user_id.as_str().as_bytes());
    // jsonb: a version, and the text.
    let data = event.data.as_str();
    out.extend_from_slice(&(data.len() as i32 + 1).to_be_bytes());
    out.push(1);
    out.extend_from_slice(data.as_bytes());
}

fn field(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend_from_slice(&(bytes.len() as i32).to_be_bytes());
    out.extend_from_slice(bytes);
}
