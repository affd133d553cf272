//! Rows 14 and 19, on a Kafka of three brokers: leaders and the group's coordinator move under load;
//! an unclean election cuts a log short. The controller is a fourth process, and stays.

use std::collections::BTreeMap;
use std::time::Duration;

use nix::sys::signal::Signal;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{ClientConfig, TopicPartitionList};

use crate::recovery::no_lag;
use crate::recovery::{halted, row};
use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{
    EventBuilder, Scene, Services, Worker, WorkerBuilder, event, eventually, unique,
};

/// Three brokers, and who leads what there, as they say themselves.
struct Cluster {
    services: Services,
    client: BaseConsumer,
}

/// A partition: its leader, and the replicas in sync.
type Led = (i32, Vec<i32>);

impl Cluster {
    async fn new() -> Self {
        let services = Services::kafka_cluster(3).await;
        let client =
            ClientConfig::new().set("bootstrap.servers", services.brokers()).create().unwrap();
        Self { services, client }
    }

    /// A scene without its topic, whose group is coordinated by broker 1.
    async fn scene(&self, partitions: i32) -> Scene {
        let postgres = std::env::var("DATABASE_URL").expect("DATABASE_URL is set");
        let mut scene = Scene::without_topic(self.services.brokers(), &postgres, partitions);
        // Kafka makes its topic when a member first asks for its coordinator.
        let member: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.services.brokers())
            .set("group.id", &scene.group)
            .create()
            .unwrap();
        eventually("groups are coordinated", async || {
            let mut list = TopicPartitionList::new();
            list.add_partition(&scene.topic, 0);
            member.committed_offsets(list, Duration::from_secs(5)).ok()
        })
        .await;
        while self.coordinator(&scene.group).await != 1 {
            scene.group = unique("g");
        }
        scene
    }

    /// Every partition of a topic, once all brokers agree that it is there.
    async fn led(&self, topic: &str) -> BTreeMap<i32, Led> {
        eventually(&format!("a broker describes {topic}"), async || {
            let metadata = self.client.fetch_metadata(Some(topic), Duration::from_secs(5)).ok()?;
            let partitions = metadata.topics().first()?.partitions();
            let led = |p: &rdkafka::metadata::MetadataPartition| {
                let mut isr = p.isr().to_vec();
                isr.sort_unstable();
                (p.id(), (p.leader(), isr))
            };
            (!partitions.is_empty()).then(|| partitions.iter().map(led).collect())
        })
        .await
    }

    /// Who coordinates a group: the leader of the partition of Kafka's own topic that its name
    /// belongs to (`GroupCoordinator.partitionFor`).
    async fn coordinator(&self, group: &str) -> i32 {
        let offsets = self.led("__consumer_offsets").await;
        // As `String.hashCode` of Java does.
        let hash = group.bytes().fold(0i32, |h, b| h.wrapping_mul(31).wrapping_add(i32::from(b)));
        let partition = hash.checked_abs().unwrap_or(0) % i32::try_from(offsets.len()).unwrap();
        offsets[&partition].0
    }

    /// Waits until a partition of a topic is led like this.
    async fn becomes(&self, topic: &str, partition: i32, leader: i32, isr: &[i32]) {
        eventually(&format!("broker {leader} leads {topic}[{partition}]"), async || {
            let led = self.led(topic).await;
            (led[&partition] == (leader, isr.to_vec())).then_some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_chaos_leaders_and_coordinators_that_move_under_load_lose_and_double_nothing() {
    let cluster = Cluster::new().await;
    let scene = cluster.scene(6).await;
    let spread: [&[i32]; 3] = [&[1, 2, 3], &[2, 3, 1], &[3, 1, 2]];
    scene.create_topic_on(&[spread, spread].concat(), &[("min.insync.replicas", "2")]).await;
    let worker = scene.worker().start().await;
    let load = scene.produce(Load::mixed(300));
    worker.holds(6).await;
    scene.progresses(200).await;
    let at_home = cluster.led(&scene.topic).await;

    // The group's coordinator goes first, and leads two of the partitions as well.
    for broker in [1, 2, 3] {
        let fault = scene.fault(14, format!("broker {broker} of 3 killed: leaders gone"));
        let coordinator = cluster.coordinator(&scene.group).await;
        cluster.services.kill_broker(broker).await;
        eventually(&format!("nothing is led by broker {broker} any more"), async || {
            let led = cluster.led(&scene.topic).await;
            let elsewhere = |leader| leader != broker && leader > 0;
            let moved = led.values().all(|(leader, _)| elsewhere(*leader));
            (moved && elsewhere(cluster.coordinator(&scene.group).await)).then_some(())
        })
        .await;
        let moved = cluster.coordinator(&scene.group).await;
        eprintln!("broker {broker} killed: coordinator {coordinator} -> {moved}");
        fault.ends(&scene).await;
        let fault = scene.fault(14, format!("broker {broker} of 3 back: leaders return"));

        cluster.services.start_broker(broker).await;
        eventually(&format!("broker {broker} leads again what it led"), async || {
            (cluster.led(&scene.topic).await == at_home).then_some(())
        })
        .await;
        eventually("and coordinates again", async || {
            (cluster.coordinator(&scene.group).await == 1).then_some(())
        })
        .await;
        fault.ends(&scene).await;
    }
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    no_lag(&worker, 6).await;
    let claims = scene.count("SELECT sum(epoch)::bigint FROM source_offsets").await;
    eprintln!("{claims} claims of 6 partitions");
    assert!(!worker.log().contains("partition halted"), "{}", worker.log());
    assert_eq!(worker.stop().await, Some(0));
}

/// So many events, each of a user of its own.
fn events(name: &str, count: usize, partition: i32) -> Vec<EventBuilder> {
    let numbered = |n| event(&format!("{name}{n:02}"), &format!("{name}-{n}"), "page.viewed");
    (0..count).map(|n| numbered(n).to(partition)).collect()
}

/// A topic of two partitions. Of the first, brokers 2 and 3 have copies, and either may lead it
/// whatever it holds; the second is led by broker 1, which stays.
struct Cut {
    cluster: Cluster,
    scene: Scene,
}

/// How many records both replicas hold, and how many the leader alone, all of them applied.
const KEPT: usize = 10;
const LOST: usize = 20;

impl Cut {
    async fn new() -> Self {
        let cluster = Cluster::new().await;
        let mut scene = cluster.scene(2).await;
        scene
            .create_topic_on(&[&[2, 3], &[1, 2]], &[("unclean.leader.election.enable", "true")])
            .await;
        scene.trusts_leaders();
        Self { cluster, scene }
    }

    /// A worker that stays in its group however long it is frozen here, so that nothing but the
    /// log itself makes it look.
    fn worker(&self) -> WorkerBuilder {
        self.scene.worker().set("KAFKA__SESSION_TIMEOUT", "60s").set("KAFKA__LAG_INTERVAL", "30s")
    }

    /// A worker that has applied records which only broker 2 has a copy of.
    async fn applied(&self) -> Worker {
        let worker = self.worker().start().await;
        worker.holds(2).await;
        // What a reader sees every replica in sync has.
        self.cluster.becomes(&self.scene.topic, 0, 2, &[2, 3]).await;
        self.scene.send(&events("kept", KEPT, 0)).await;
        self.scene.caught_up().await;
        self.cluster.services.kill_broker(3).await;
        self.cluster.becomes(&self.scene.topic, 0, 2, &[2]).await;
        self.scene.send(&events("lost", LOST, 0)).await;
        self.scene.caught_up().await;
        assert_eq!(self.scene.positions().await.unwrap()[&0], 30);
        worker
    }

    /// Broker 2 dies, and 3 leads with what it has; then so many records more are written there.
    async fn happens(&self, more: usize) {
        self.cluster.services.kill_broker(2).await;
        self.cluster.services.start_broker(3).await;
        self.cluster.becomes(&self.scene.topic, 0, 3, &[3]).await;
        assert_eq!(self.scene.ends().await[&0], 10, "the fault was there: the log is cut short");
        let sent = self.scene.send(&events("more", more, 0)).await;
        assert_eq!(sent[0], (0, 10), "written where others were applied");
    }

    /// The worker has stopped there and nowhere else, and an operator gets it going again.
    async fn is_told(&self, worker: Worker, more: usize, reason: &str) {
        let fault = self.scene.fault(19, format!("log cut short, moved by an operator: {reason}"));
        eventually("the worker looks", async || {
            let row = row(&worker, &self.scene.topic, 0).await?;
            assert_eq!(self.scene.positions().await?[&0], 30, "records were skipped in silence");
            (row["state"] == "halted").then_some(())
        })
        .await;
        let told = halted(&worker, &self.scene, 0).await;
        assert!(told.contains(reason), "{told}");
        self.scene.send(&events("beside", 15, 1)).await;
        eventually("the other partition goes on", async || {
            (self.scene.positions().await?.get(&1) == Some(&15)).then_some(())
        })
        .await;
        assert_eq!(worker.metric("user_events_partitions_halted", "").await, 1.0);
        assert_eq!(self.scene.positions().await.unwrap()[&0], 30, "it stands where it stood");
        assert_eq!(self.users("more%").await, 0, "nothing of the other log was applied");

        let (code, _, log) = self.scene.worker().command(&self.moving()).output().await;
        assert_eq!(code, Some(0), "{log}");
        fault.ends(&self.scene).await;
        for (name, sent) in [("kept", KEPT), ("lost", LOST), ("more", more), ("beside", 15)] {
            assert_eq!(self.users(&format!("{name}%")).await, sent as i64, "{name}");
        }
        assert_eq!(worker.metric("user_events_partitions_halted", "").await, 0.0);
        assert_eq!(worker.stop().await, Some(0));
    }

    fn moving(&self) -> [&str; 12] {
        let which = ["offsets", "move", "--topic", &self.scene.topic, "--partition", "0"];
        let how = ["--to-earliest", "--execute", "--reason", "an unclean election", "--by", "ann"];
        [which, how].concat().try_into().unwrap()
    }

    /// How many users of such names had exactly one event.
    async fn users(&self, like: &str) -> i64 {
        let sql = format!(
            "SELECT CASE WHEN bool_and(event_count = 1) IS FALSE THEN -1 ELSE count(*) END
             FROM users WHERE user_id LIKE '{like}'"
        );
        self.scene.count(&sql).await
    }
}

const BEYOND: &str = "position 30 lies beyond the end of the log (15)";
const ANOTHER: &str = "the record at offset 29 is not the one that was applied";

#[tokio::test]
async fn long_chaos_a_log_cut_short_under_a_running_worker_halts_its_partition_and_no_other() {
    let cut = Cut::new().await;
    let worker = cut.applied().await;
    worker.signal(Signal::SIGSTOP);
    cut.happens(5).await;
    worker.signal(Signal::SIGCONT);
    cut.is_told(worker, 5, BEYOND).await;
}

#[tokio::test]
async fn long_chaos_a_log_cut_short_under_a_running_worker_and_longer_again_halts() {
    let cut = Cut::new().await;
    let worker = cut.applied().await;
    worker.signal(Signal::SIGSTOP);
    cut.happens(40).await;
    worker.signal(Signal::SIGCONT);
    cut.is_told(worker, 40, ANOTHER).await;
}

#[tokio::test]
async fn long_chaos_a_log_cut_short_while_no_worker_ran_halts_its_partition_and_no_other() {
    let cut = Cut::new().await;
    assert_eq!(cut.applied().await.stop().await, Some(0));
    cut.happens(5).await;
    cut.is_told(cut.worker().start().await, 5, BEYOND).await;
}

#[tokio::test]
async fn long_chaos_a_log_cut_short_while_no_worker_ran_and_longer_again_halts() {
    let cut = Cut::new().await;
    assert_eq!(cut.applied().await.stop().await, Some(0));
    cut.happens(40).await;
    cut.is_told(cut.worker().start().await, 40, ANOTHER).await;
}
