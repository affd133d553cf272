//! Rows 13 and 14: errors of the protocol, coordinators that move, brokers that are slow or away,
//! by librdkafka's mock cluster, which answers whatever it is told to. The worker is the real one.

use std::time::{Duration, Instant};

use rdkafka::mocking::{MockCluster, MockCoordinator};
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::RDKafkaApiKey as Api;
use rdkafka::types::RDKafkaRespErr as Answer;

use crate::support::checker::Projection;
use crate::support::load::{Load, Producing};
use crate::support::{Fault, Scene, Worker, eventually};

const REBALANCES: &str = "user_events_rebalances_total";
const REFUSED_COMMITS: &str = "user_events_offset_commit_failures_total";

/// A worker under load on a mock cluster of three brokers. Not to be sent to another thread.
struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    scene: Scene,
    worker: Worker,
    load: Producing,
}

impl Mock {
    async fn new() -> Self {
        let cluster = MockCluster::new(3).unwrap();
        let postgres = std::env::var("DATABASE_URL").expect("DATABASE_URL is set");
        let scene = Scene::without_topic(&cluster.bootstrap_servers(), &postgres, 4);
        cluster.create_topic(&scene.topic, 4, 3).unwrap();
        for partition in 0..4 {
            cluster.partition_leader(&scene.topic, partition, Some(1 + partition % 3)).unwrap();
        }
        let worker = scene
            .worker()
            .set("KAFKA__COMMIT_INTERVAL", "100ms")
            .set("LOG__LEVEL", "info,librdkafka=error")
            .start()
            .await;
        let load = scene.produce(Load::mixed(300));
        worker.holds(4).await;
        scene.progresses(200).await;
        Self { cluster, scene, worker, load }
    }

    /// The same answer to request after request of a kind, until the metric shows it.
    async fn answers(&self, api: Api, answer: Answer, metric: &str) {
        let what = format!("{answer:?} to {api:?}");
        let fault = self.scene.fault(13, what.clone());
        let before = self.worker.metric(metric, "").await;
        self.cluster.request_errors(api, &[answer; 10]);
        eventually(&format!("{metric} shows {what}"), async || {
            (self.worker.metric(metric, "").await > before).then_some(())
        })
        .await;
        self.cluster.clear_request_errors(api);
        self.recovers(fault).await;
    }

    async fn refused_commits(&self) -> f64 {
        self.worker.metric(REFUSED_COMMITS, "").await
    }

    async fn recovers(&self, fault: Fault) {
        assert_eq!(self.worker.get("/livez").await.0, 200);
        fault.ends(&self.scene).await;
    }

    async fn ends(self) {
        let ledger = self.load.stop().await;
        self.scene.check(&ledger, Projection::Whole).await;
        assert_eq!(self.worker.stop().await, Some(0));
    }
}

/// Only the mirror stands still: Postgres has the truth about progress. Every refusal is counted,
/// also after librdkafka has tried again by itself, and also when librdkafka may not log warnings.
#[tokio::test]
async fn whatever_kafka_answers_to_commits_the_work_goes_on() {
    let mock = Mock::new().await;
    for answer in [
        // Final at once.
        Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE,
        Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
        // Tried again by librdkafka.
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    ] {
        let what = format!("{answer:?} to OffsetCommit");
        let counted = mock.refused_commits().await;
        let fault = mock.scene.fault(13, what.as_str());
        mock.cluster.request_errors(Api::OffsetCommit, &[answer; 1_000]);
        // Whatever was under way before has arrived by now.
        mock.scene.progresses(100).await;
        let before = mock.scene.mirrored().await;
        mock.scene.progresses(200).await;
        assert_eq!(mock.scene.mirrored().await, before, "the fault was there: nothing is mirrored");
        eventually(&format!("{what} is counted"), async || {
            (mock.refused_commits().await > counted).then_some(())
        })
        .await;
        mock.cluster.clear_request_errors(Api::OffsetCommit);
        mock.recovers(fault).await;
        eventually("positions are mirrored again", async || {
            (mock.scene.mirrored().await != before).then_some(())
        })
        .await;
    }
    mock.ends().await;
}

/// Once the answers are better, what is mirrored does not wait for another record.
#[tokio::test]
async fn commits_refused_for_a_while_are_made_up_for_without_new_traffic() {
    let Mock { cluster, scene, worker, load } = Mock::new().await;
    let answer = Answer::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    cluster.request_errors(Api::OffsetCommit, &[answer; 1_000]);
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    let counted = worker.metric(REFUSED_COMMITS, "").await;
    eventually("the last positions are refused, too", async || {
        (worker.metric(REFUSED_COMMITS, "").await > counted + 1.0).then_some(())
    })
    .await;
    let positions = scene.positions().await.unwrap();
    assert_ne!(scene.mirrored().await, positions, "the fault was there");
    cluster.clear_request_errors(Api::OffsetCommit);
    eventually("positions are mirrored", async || {
        (scene.mirrored().await == positions).then_some(())
    })
    .await;
    assert_eq!(worker.stop().await, Some(0));
}

/// What librdkafka tries again with success has not failed.
#[tokio::test]
async fn a_commit_that_succeeds_when_tried_again_is_not_counted() {
    let mock = Mock::new().await;
    let before = mock.scene.mirrored().await;
    let loading = Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS;
    mock.cluster.request_errors(Api::OffsetCommit, &[loading]);
    // The first may have been under way before the error was there.
    let mut mirrored = before;
    for _ in 0..3 {
        mirrored = eventually("positions are mirrored", async || {
            let now = mock.scene.mirrored().await;
            (now != mirrored).then_some(now)
        })
        .await;
    }
    assert_eq!(mock.refused_commits().await, 0.0);
    mock.ends().await;
}

#[tokio::test]
async fn long_whatever_kafka_answers_to_members_nothing_is_lost_or_doubled() {
    let mock = Mock::new().await;
    for answer in
        [Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, Answer::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION]
    {
        mock.answers(Api::Heartbeat, answer, REBALANCES).await;
    }
    // Rejoining is refused, too, for a while.
    for answer in [
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        Answer::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    ] {
        mock.cluster.request_errors(Api::JoinGroup, &[answer; 2]);
        mock.answers(Api::Heartbeat, Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID, REBALANCES).await;
    }
    mock.ends().await;
}

/// A broker that answers so keeps the records to itself as long: that is what shows it.
#[tokio::test]
async fn whatever_kafka_answers_to_fetches_nothing_is_lost_or_doubled() {
    let mock = Mock::new().await;
    for answer in [
        Answer::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        Answer::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
        Answer::RD_KAFKA_RESP_ERR_UNKNOWN,
    ] {
        let fault = mock.scene.fault(13, format!("{answer:?} to Fetch"));
        let begun = Instant::now();
        mock.cluster.request_errors(Api::Fetch, &[answer; 10]);
        mock.recovers(fault).await;
        let took = begun.elapsed();
        assert!(
            took > Duration::from_secs(1),
            "the fault was there: {took:?} instead of an instant"
        );
    }
    mock.ends().await;
}

#[tokio::test]
async fn coordinators_and_leaders_that_move_slow_brokers_and_absent_ones_are_overcome() {
    let mock = Mock::new().await;
    let group = || MockCoordinator::Group(mock.scene.group.clone());
    for broker in [2, 3, 1] {
        let fault = mock.scene.fault(14, format!("coordinator on broker {broker}, leaders moved"));
        mock.cluster.coordinator(group(), broker).unwrap();
        for partition in 0..4 {
            let leader = Some(1 + (partition + broker) % 3);
            mock.cluster.partition_leader(&mock.scene.topic, partition, leader).unwrap();
        }
        mock.recovers(fault).await;
    }

    let slow = Duration::from_millis(300);
    let fault = mock.scene.fault(13, "300 ms round trips to every broker");
    (1..=3).for_each(|broker| mock.cluster.broker_round_trip_time(broker, slow).unwrap());
    mock.scene.progresses(300).await;
    (1..=3).for_each(|b| mock.cluster.broker_round_trip_time(b, Duration::ZERO).unwrap());
    mock.recovers(fault).await;

    for broker in 1..=3 {
        let fault = mock.scene.fault(13, format!("broker {broker} away"));
        mock.cluster.broker_down(broker).unwrap();
        eventually("kafka is told to be in trouble", async || {
            (mock.worker.metric("user_events_kafka_up", "").await == 0.0).then_some(())
        })
        .await;
        mock.cluster.broker_up(broker).unwrap();
        mock.recovers(fault).await;
    }
    mock.ends().await;
}
