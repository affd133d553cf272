//! Bad networks: rows 15 and 33. The services are well; what lies between is not.

use std::time::Duration;

use crate::support::checker::Projection;
use crate::support::load::{Load, Producing};
use crate::support::proxy::{Proxy, Seen, Way};
use crate::support::{Scene, Services, Worker, WorkerBuilder, eventually};

/// A worker under load, with a proxy before one of its services.
struct Network {
    /// Of the matrix.
    row: u8,
    scene: Scene,
    proxy: Proxy,
    worker: Worker,
    load: Producing,
}

impl Network {
    async fn to_postgres(configured: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> Self {
        let scene = Scene::in_database(4).await;
        let proxy = Proxy::new().await;
        let url = proxy.leads_to_postgres(&scene.database_url).await;
        let worker = configured(scene.worker().set("POSTGRES__URL", &url).set("BATCH__LANES", "2"));
        Self::begin(33, scene, proxy, worker).await
    }

    async fn begin(row: u8, scene: Scene, proxy: Proxy, worker: WorkerBuilder) -> Self {
        let worker = worker.start().await;
        let load = scene.produce(Load::mixed(300));
        worker.holds(4).await;
        scene.progresses(300).await;
        Self { row, scene, proxy, worker, load }
    }

    /// Makes the network bad until `over`, then good again; the rest must follow by itself.
    async fn suffers(&self, what: &str, begin: impl FnOnce(&Proxy), over: impl AsyncFn() -> bool) {
        let fault = self.scene.fault(self.row, what);
        begin(&self.proxy);
        eventually(&format!("enough of {what}"), async || over().await.then_some(())).await;
        assert_eq!(self.worker.get("/livez").await.0, 200, "restarting it would not help");
        self.proxy.heal();
        fault.ends(&self.scene).await;
    }

    /// Until the proxy has seen so much more of something.
    fn until(&self, count: fn(&Seen) -> u64, more: u64) -> impl AsyncFn() -> bool {
        let goal = count(self.proxy.seen()) + more;
        async move || count(self.proxy.seen()) >= goal
    }

    async fn metric_is(&self, name: &str, value: f64) -> bool {
        self.worker.metric(name, "").await == value
    }

    async fn ends(self) {
        let ledger = self.load.stop().await;
        self.scene.check(&ledger, Projection::Whole).await;
        eventually("readiness comes back", async || {
            (self.worker.get("/readyz").await.0 == 200).then_some(())
        })
        .await;
        assert_eq!(self.worker.stop().await, Some(0));
    }

    /// Transactions left open, and connections beyond one per lane, would be leaks.
    async fn leaves_no_connection_behind(&self) {
        eventually("two connections, none of them in a transaction for long", async || {
            let found: (i64, i64) = self
                .scene
                .fetch_one(
                    "SELECT count(*), count(*) FILTER (WHERE state LIKE 'idle in%'
                         AND now() - state_change > interval '1 s')
                     FROM pg_stat_activity
                     WHERE datname = current_database() AND application_name = 'user-events-worker'",
                )
                .await;
            (found.0 <= 2 && found.1 == 0).then_some(())
        })
        .await;
    }
}

/// Short enough that a silence is noticed within the test.
fn impatient(worker: WorkerBuilder) -> WorkerBuilder {
    worker
        .set("POSTGRES__STATEMENT_TIMEOUT", "2s")
        .set("POSTGRES__LOCK_TIMEOUT", "1s")
        .set("POSTGRES__CONNECT_TIMEOUT", "1s")
        .set("POSTGRES__IDLE_IN_TRANSACTION_TIMEOUT", "2s")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_and_a_choppy_network_to_postgres_lose_and_double_nothing() {
    let network = Network::to_postgres(|worker| worker).await;
    let late = Way::late(Duration::from_millis(50));
    let enough = network.until(Seen::delayed, 50);
    network.suffers("50 ms more to postgres", |proxy| proxy.set(late, late), enough).await;
    let sliced = Way::sliced(100);
    let enough = network.until(Seen::pieces, 1_000);
    network.suffers("pieces of 100 B to postgres", |proxy| proxy.set(sliced, sliced), enough).await;
    network.leaves_no_connection_behind().await;
    network.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_to_postgres_cut_within_batches_lose_and_double_nothing() {
    let network = Network::to_postgres(|worker| worker).await;
    let enough = network.until(Seen::resets, 10);
    let breaks = |proxy: &Proxy| proxy.set(Way::breaks_after(20_000), Way::default());
    network.suffers("requests to postgres cut off", breaks, enough).await;
    let enough = network.until(Seen::resets, 10);
    let breaks = |proxy: &Proxy| proxy.set(Way::default(), Way::breaks_after(400));
    network.suffers("answers of postgres cut off", breaks, enough).await;
    network.leaves_no_connection_behind().await;
    network.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_begin_that_is_too_slow_leaves_no_transaction_open() {
    let network = Network::to_postgres(impatient).await;
    let late = Way::late(Duration::from_secs(3));
    let connections = network.until(Seen::connections, 4);
    let slow = |proxy: &Proxy| proxy.set(late, late);
    network.suffers("3 s more to postgres, twice a statement's time", slow, connections).await;
    network.leaves_no_connection_behind().await;
    network.ends().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_to_postgres_that_swallows_everything_is_told_and_overcome() {
    let network = Network::to_postgres(impatient).await;
    for (what, up, down) in [
        ("questions to postgres swallowed", Way::silent(), Way::default()),
        ("answers of postgres swallowed", Way::default(), Way::silent()),
    ] {
        let told = async || {
            network.proxy.seen().held() > 0
                && network.metric_is("user_events_postgres_up", 0.0).await
                && network.worker.get("/readyz").await.0 == 503
        };
        network.suffers(what, |proxy| proxy.set(up, down), told).await;
    }
    let abandoned = network.until(Seen::abandoned, 1);
    network.suffers("connections to postgres half open", Proxy::abandon, abandoned).await;
    network.leaves_no_connection_behind().await;
    network.ends().await;
}

/// A Kafka of the test's own: it must send its clients to the proxy.
async fn to_kafka(configured: impl FnOnce(WorkerBuilder) -> WorkerBuilder) -> (Network, Services) {
    let proxy = Proxy::new().await;
    let services = Services::kafka_behind(&proxy).await;
    let postgres = std::env::var("DATABASE_URL").expect("DATABASE_URL is set");
    let scene = Scene::on(services.brokers(), &postgres, 4).await;
    let worker = scene.worker().set("KAFKA__BOOTSTRAP_SERVERS", &proxy.addr());
    let worker = configured(worker);
    (Network::begin(15, scene, proxy, worker).await, services)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_a_bad_network_to_kafka_loses_and_doubles_nothing() {
    let (network, _services) = to_kafka(|worker| worker).await;
    let late = Way::late(Duration::from_millis(50));
    let enough = network.until(Seen::delayed, 50);
    network.suffers("50 ms more to kafka", |proxy| proxy.set(late, late), enough).await;
    let sliced = Way::sliced(100);
    let enough = network.until(Seen::pieces, 1_000);
    network.suffers("pieces of 100 B to kafka", |proxy| proxy.set(sliced, sliced), enough).await;
    let enough = network.until(Seen::resets, 5);
    let breaks = |proxy: &Proxy| proxy.set(Way::default(), Way::breaks_after(20_000));
    network.suffers("answers of kafka cut off", breaks, enough).await;
    let enough = network.until(Seen::resets, 1);
    network.suffers("connections to kafka reset", Proxy::cut, enough).await;
    let told = async || network.metric_is("user_events_kafka_up", 0.0).await;
    let silent = |proxy: &Proxy| proxy.set(Way::silent(), Way::silent());
    network.suffers("kafka silent until it is told", silent, told).await;
    network.ends().await;
}

/// Longer than the session, so that the group goes on without the worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_a_network_to_kafka_silent_for_longer_than_the_session_is_overcome() {
    let (network, _services) = to_kafka(|worker| worker).await;
    let second = network.scene.worker().start().await;
    let taken = async || second.assigned().await == 4;
    let silent = |proxy: &Proxy| proxy.set(Way::silent(), Way::silent());
    network.suffers("kafka silent until another took over", silent, taken).await;
    network.worker.holds(2).await;
    second.holds(2).await;
    network.ends().await;
    assert_eq!(second.stop().await, Some(0));
}

/// Nobody tells the client. It finds out by a question about the ends of a log, which may take 3 s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_connections_to_kafka_that_are_half_open_are_given_up() {
    let (network, _services) = to_kafka(|worker| worker).await;
    let fault = network.scene.fault(network.row, "connections to kafka half open");
    network.proxy.abandon();
    eventually("half open", async || (network.proxy.seen().abandoned() > 0).then_some(())).await;
    fault.ends(&network.scene).await;
    network.ends().await;
}
