//! Records that break the contract, stored byte for byte up to a cap.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::apply::batch::{Batch, Content};
use crate::event::{Header, RawRecord, Reason, Rejection};

/// How many bytes of each part are kept.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    /// Bytes of a key.
    pub key: usize,
    /// Bytes of a value.
    pub value: usize,
    /// Bytes of all headers together, names included.
    pub headers: usize,
}

/// A part of a record: whole when within its cap, else the head, with the hash of the whole.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Kept {
    bytes: Option<Vec<u8>>,
    length: i32,
    sha256: Option<Vec<u8>>,
}

impl Kept {
    /// A copy, so that what is kept does not hold on to the whole record.
    fn of(bytes: Option<&[u8]>, cap: usize) -> Self {
        let length = bytes.map_or(0, <[u8]>::len);
        let sha256 = bytes.filter(|_| length > cap).map(|b| Sha256::digest(b).to_vec());
        let bytes = bytes.map(|b| b[..cap.min(length)].to_vec());
        Self { bytes, length: i32::try_from(length).unwrap_or(i32::MAX), sha256 }
    }
}

/// A record that cannot be applied, as it will be stored.
///
/// `Debug` shows the reason and sizes only: the bytes may carry personal data.
pub struct DeadLetter {
    /// Why, for the producer.
    pub rejection: Rejection,
    /// SQLSTATE, when it was Postgres that refused.
    pub sqlstate: Option<String>,
    key: Kept,
    value: Kept,
    /// JSON text.
    headers: String,
    headers_length: i32,
    headers_sha256: Option<Vec<u8>>,
    record_timestamp: Option<OffsetDateTime>,
}

impl std::fmt::Debug for DeadLetter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetter")
            .field("reason", &self.rejection.reason)
            .field("value_length", &self.value.length)
            .finish_non_exhaustive()
    }
}

impl DeadLetter {
    /// Keeps what is needed of a record that was rejected.
    pub fn new(record: RawRecord, rejection: Rejection, caps: Caps) -> Self {
        let (headers, headers_length, headers_sha256) = keep_headers(&record.headers, caps.headers);
        Self {
            rejection,
            sqlstate: None,
            key: Kept::of(record.key.as_deref(), caps.key),
            value: Kept::of(record.value.as_deref(), caps.value),
            headers,
            headers_length,
            headers_sha256,
            record_timestamp: record.timestamp_ms.and_then(from_millis),
        }
    }

    /// A record that decoded well and that Postgres refused nevertheless.
    pub fn refused(record: RawRecord, sqlstate: Option<String>, message: &str, caps: Caps) -> Self {
        let detail = format!("Postgres refused this event: {message}");
        let rejection = Rejection { reason: Reason::RejectedByDatabase, detail };
        Self { sqlstate, ..Self::new(record, rejection, caps) }
    }

    /// Bytes held.
    pub fn size(&self) -> usize {
        let held = |kept: &Kept| kept.bytes.as_ref().map_or(0, Vec::len);
        held(&self.key) + held(&self.value) + self.headers.len() + self.rejection.detail.len() + 256
    }
}

/// Headers as a JSON array of `{name, value}`: order, repeats, nulls and raw bytes survive.
fn keep_headers(headers: &[Header], cap: usize) -> (String, i32, Option<Vec<u8>>) {
    let mut hash = Sha256::new();
    let mut length = 0;
    let mut kept = Vec::new();
    for header in headers {
        let value = header.value.as_deref();
        length += header.name.len() + value.map_or(0, <[u8]>::len);
        hash.update(header.name.as_bytes());
        hash.update([0]);
        hash.update(value.unwrap_or_default());
        if length <= cap {
            kept.push(json!({ "name": &*header.name, "value": value.map(|v| BASE64.encode(v)) }));
        }
    }
    let sha256 = (length > cap).then(|| hash.finalize().to_vec());
    (serde_json::Value::from(kept).to_string(), i32::try_from(length).unwrap_or(i32::MAX), sha256)
}

fn from_millis(ms: i64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()
}

/// Stores the batch's dead letters; a record seen before counts another sighting.
pub(super) async fn insert(conn: &mut PgConnection, batch: &Batch) -> sqlx::Result<()> {
    let letters: Vec<_> = batch
        .items
        .iter()
        .filter_map(|item| match &item.content {
            Content::DeadLetter(letter) => Some((item, letter.as_ref())),
            _ => None,
        })
        .collect();
    if letters.is_empty() {
        return Ok(());
    }
    let source = |i: usize| &batch.ranges[letters[i].0.range].source;
    let all = 0..letters.len();
    let topics: Vec<&str> = all.clone().map(|i| source(i).topic.as_ref()).collect();
    let partitions: Vec<i32> = all.clone().map(|i| source(i).partition).collect();
    let column = Column(&letters);
    sqlx::query!(
        r#"INSERT INTO dead_letters AS d
             (kafka_topic, kafka_partition, kafka_offset, reason, detail, sqlstate,
              key, key_length, key_sha256, value, value_length, value_sha256,
              headers, headers_length, headers_sha256, record_timestamp, record_checksum)
           SELECT kafka_topic, kafka_partition, kafka_offset, reason, detail, sqlstate,
              key, key_length, key_sha256, value, value_length, value_sha256,
              headers::jsonb, headers_length, headers_sha256, record_timestamp, record_checksum
           FROM UNNEST(
              $1::text[], $2::int[], $3::bigint[], $4::text[], $5::text[], $6::text[],
              $7::bytea[], $8::int[], $9::bytea[], $10::bytea[], $11::int[], $12::bytea[],
              $13::text[], $14::int[], $15::bytea[], $16::timestamptz[], $17::bigint[])
             AS d(kafka_topic, kafka_partition, kafka_offset, reason, detail, sqlstate,
              key, key_length, key_sha256, value, value_length, value_sha256,
              headers, headers_length, headers_sha256, record_timestamp, record_checksum)
           ON CONFLICT (kafka_topic, kafka_partition, kafka_offset, record_checksum) DO UPDATE
           SET times_seen = d.times_seen + 1, last_seen_at = now()"#,
        &topics as _,
        &partitions,
        &letters.iter().map(|(item, _)| item.record.offset.0).collect::<Vec<_>>(),
        &column.of(|l| l.rejection.reason.code()) as _,
        &column.of(|l| l.rejection.detail.as_str()) as _,
        &column.of(|l| l.sqlstate.as_deref()) as _,
        &column.of(|l| l.key.bytes.as_deref()) as _,
        &column.of(|l| l.key.length),
        &column.of(|l| l.key.sha256.as_deref()) as _,
        &column.of(|l| l.value.bytes.as_deref()) as _,
        &column.of(|l| l.value.length),
        &column.of(|l| l.value.sha256.as_deref()) as _,
        &column.of(|l| l.headers.as_str()) as _,
        &column.of(|l| l.headers_length),
        &column.of(|l| l.headers_sha256.as_deref()) as _,
        &column.of(|l| l.record_timestamp) as _,
        &letters.iter().map(|(item, _)| i64::from(item.record.checksum)).collect::<Vec<_>>(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Columns of one list of structs: they cannot differ in length, which UNNEST would not notice.
struct Column<'a>(&'a [(&'a super::batch::Item, &'a DeadLetter)]);

impl<'a> Column<'a> {
    fn of<T>(&self, field: impl Fn(&'a DeadLetter) -> T) -> Vec<T> {
        self.0.iter().map(|(_, letter)| field(letter)).collect()
    }
}
