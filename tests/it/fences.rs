//! The fence, without Kafka: two writers, one partition.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use time::OffsetDateTime;
use user_events_worker::apply::{
    Applied, Batch, Caps, Claim, Content, Fingerprint, Item, OffsetRange, Outcome, SessionOptions,
    Writer, WriterOptions, migrate,
};
use user_events_worker::event::{Decoded, RawRecord, Rules, Tombstones, decode};
use user_events_worker::types::{Offset, RecordOffset, TopicPartition};

use crate::support::{EventBuilder, Scene, event};

fn session(scene: &Scene) -> SessionOptions {
    SessionOptions {
        connect: PgConnectOptions::from_str(&scene.database_url).unwrap(),
        schema: scene.schema.clone(),
        connect_timeout: Duration::from_secs(30),
        statement_timeout: Duration::from_secs(30),
        lock_timeout: Duration::from_secs(30),
        idle_in_transaction_timeout: Duration::from_secs(30),
        statement_cache: true,
    }
}

fn writer(scene: &Scene, worker: &str) -> Writer {
    let caps = Caps { key: 1000, value: 1000, headers: 1000 };
    let (session, worker, group) = (session(scene), worker.to_owned(), scene.group.clone());
    Writer::new(WriterOptions { session, group, worker, caps })
}

/// A batch of a new event, at the given offset, under a claim.
fn batch(claim: &Claim, from: Option<i64>, at: i64) -> Batch {
    batch_of(&event("u", &format!("e{at}"), "page.viewed"), claim, from, at)
}

fn batch_of(event: &EventBuilder, claim: &Claim, from: Option<i64>, at: i64) -> Batch {
    let record = RawRecord {
        source: claim.source.clone(),
        offset: RecordOffset(at),
        timestamp_ms: None,
        key: None,
        value: event.value().map(Into::into),
        headers: vec![],
    };
    let rules = Rules {
        max_record_bytes: 10_000,
        max_future: Duration::from_secs(3600),
        retention: Duration::from_secs(3600),
        tombstones: Tombstones::Skip,
    };
    let fingerprint = Fingerprint::of(&record);
    let Decoded::Event(event) = decode(&record, &rules, OffsetDateTime::now_utc()) else {
        panic!("a good event")
    };
    let range = OffsetRange {
        source: claim.source.clone(),
        epoch: claim.epoch,
        from: from.map(Offset),
        to: Offset(at + 1),
        last: Some(fingerprint),
    };
    let content = Content::Event(event, record);
    Batch { items: vec![Item { range: 0, record: fingerprint, content }], ranges: vec![range] }
}

async fn claimed(writer: &mut Writer, scene: &Scene) -> Claim {
    let source = TopicPartition::new(scene.topic.clone(), 0);
    writer.claim(&[source]).await.unwrap().remove(0)
}

async fn stored(scene: &Scene) -> (i64, Option<i64>) {
    scene
        .fetch_one(
            "SELECT (SELECT count(*) FROM user_events), (SELECT next_offset FROM source_offsets)",
        )
        .await
}

#[tokio::test]
async fn a_claim_fences_every_earlier_owner_even_one_that_stands_at_the_same_offset() {
    let scene = Scene::new(1).await;
    migrate::migrate(&session(&scene)).await.unwrap();
    let (mut zombie, mut owner) = (writer(&scene, "zombie"), writer(&scene, "owner"));
    let old = claimed(&mut zombie, &scene).await;
    let new = claimed(&mut owner, &scene).await;
    assert!(new.epoch > old.epoch);

    let outcome = zombie.apply(&mut batch(&old, None, 0).into()).await;
    assert!(matches!(outcome, Outcome::Fenced(_)), "{outcome:?}");
    assert_eq!(stored(&scene).await, (0, None), "a fenced batch leaves nothing behind");

    let outcome = owner.apply(&mut batch(&new, None, 0).into()).await;
    let applied = Applied { applied: 1, ..Applied::default() };
    assert!(matches!(&outcome, Outcome::Applied(a) if *a == applied), "{outcome:?}");
    assert_eq!(stored(&scene).await, (1, Some(1)));
}

#[tokio::test]
async fn a_batch_that_does_not_begin_where_the_partition_stands_is_fenced() {
    let scene = Scene::new(1).await;
    migrate::migrate(&session(&scene)).await.unwrap();
    let mut writer = writer(&scene, "owner");
    let claim = claimed(&mut writer, &scene).await;
    assert!(matches!(writer.apply(&mut batch(&claim, None, 0).into()).await, Outcome::Applied(_)));

    // The same once more; one behind; one that leaves a gap.
    for (from, at) in [(None, 0), (Some(0), 0), (Some(2), 2)] {
        let outcome = writer.apply(&mut batch(&claim, from, at).into()).await;
        assert!(matches!(outcome, Outcome::Fenced(_)), "{from:?} {at}: {outcome:?}");
        assert_eq!(stored(&scene).await, (1, Some(1)));
    }
    assert!(matches!(
        writer.apply(&mut batch(&claim, Some(1), 1).into()).await,
        Outcome::Applied(_)
    ));
    assert_eq!(stored(&scene).await, (2, Some(2)));
}

#[tokio::test]
async fn after_a_duplicate_a_hundred_batches_are_written_as_if_there_were_another() {
    let scene = Scene::new(1).await;
    migrate::migrate(&session(&scene)).await.unwrap();
    let mut writer = writer(&scene, "owner");
    let claim = claimed(&mut writer, &scene).await;
    let twice = event("u", "twice", "page.viewed");
    for (from, at, duplicates) in [(None, 0, 0), (Some(1), 1, 1)] {
        assert!(writer.expects_new());
        let outcome = writer.apply(&mut batch_of(&twice, &claim, from, at).into()).await;
        let applied = Applied { applied: 1 - duplicates, duplicates, ..Applied::default() };
        assert!(matches!(&outcome, Outcome::Applied(a) if *a == applied), "{outcome:?}");
    }
    for at in 2..102 {
        assert!(!writer.expects_new(), "at {at}");
        let outcome = writer.apply(&mut batch(&claim, Some(at), at).into()).await;
        assert!(matches!(&outcome, Outcome::Applied(a) if a.applied == 1), "{outcome:?}");
    }
    assert!(writer.expects_new());
    assert_eq!(stored(&scene).await, (101, Some(102)));
}
