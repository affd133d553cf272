//! A producer that keeps a ledger of its own, and the comparison with what Postgres holds.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::task::JoinHandle;

use crate::support::{EventBuilder, Scene, event, eventually};

const USERS: usize = 23;
const CHUNK: usize = 25;
const PAUSE: Duration = Duration::from_millis(25);

/// What was acknowledged: the independent side of every comparison.
#[derive(Default)]
pub(super) struct Ledger {
    positions: BTreeSet<(i32, i64)>,
    /// The number of the last event of each user.
    last: BTreeMap<String, usize>,
    next: usize,
}

impl Ledger {
    /// Numbers its events from here, to differ from another ledger's.
    pub(super) fn from(next: usize) -> Self {
        Self { next, ..Self::default() }
    }

    /// Takes over what another one was told of.
    pub(super) fn absorb(&mut self, other: Self) {
        self.positions.extend(other.positions);
        self.last.extend(other.last);
    }

    /// The next events, numbered through; every one sets `n` in its user's profile.
    fn events(&mut self, count: usize) -> Vec<EventBuilder> {
        let numbers = self.next..self.next + count;
        self.next += count;
        let event = |n: usize| {
            let user = format!("u{}", n % USERS);
            let event = event(&user, &format!("e{n}"), "user.updated");
            self.last.insert(user, n);
            event.data(&format!(r#"{{"n":{n}}}"#))
        };
        numbers.map(event).collect()
    }

    /// Sends so many events and waits for their acknowledgements.
    pub(super) async fn send(&mut self, scene: &Scene, count: usize) {
        let events = self.events(count);
        self.positions.extend(scene.send(&events).await);
    }

    /// The same, to one partition.
    pub(super) async fn send_to(&mut self, scene: &Scene, partition: i32, count: usize) {
        let events: Vec<_> =
            self.events(count).into_iter().map(|event| event.to(partition)).collect();
        self.positions.extend(scene.send(&events).await);
    }

    /// Every event once, no other; offsets at the ends; counts that add up; no dead letter.
    pub(super) async fn holds(&self, scene: &Scene) {
        scene.caught_up().await;
        let topic = &scene.topic;
        let rows: Vec<(i32, i64)> = scene
            .fetch_all(&format!(
                "SELECT kafka_partition, kafka_offset FROM user_events WHERE kafka_topic = '{topic}'"
            ))
            .await;
        let found: BTreeSet<_> = rows.iter().copied().collect();
        let lost: Vec<_> = self.positions.difference(&found).collect();
        let strange: Vec<_> = found.difference(&self.positions).collect();
        assert!(lost.is_empty() && strange.is_empty(), "lost {lost:?}, never sent {strange:?}");
        assert_eq!(rows.len(), self.positions.len(), "nothing twice");
        let (letters,): (i64,) = scene
            .fetch_one(&format!("SELECT count(*) FROM dead_letters WHERE kafka_topic = '{topic}'"))
            .await;
        assert_eq!(letters, 0, "an outage makes no dead letters");
    }

    /// [`Self::holds`], and the projection: for a scene whose schema has only this topic.
    pub(super) async fn is_applied(&self, scene: &Scene) {
        self.holds(scene).await;
        let (counted,): (i64,) =
            scene.fetch_one("SELECT coalesce(sum(event_count), 0)::bigint FROM users").await;
        assert_eq!(counted, self.positions.len() as i64, "each event counted once");
    }

    /// Each user's profile is that of the last event: order was kept.
    pub(super) async fn is_in_order(&self, scene: &Scene) {
        let rows: Vec<(String, i64)> =
            scene.fetch_all("SELECT user_id, (profile->>'n')::bigint FROM users").await;
        let found: BTreeMap<_, _> = rows.into_iter().map(|(user, n)| (user, n as usize)).collect();
        assert_eq!(found, self.last);
    }
}

/// A producer at work in the background: about a thousand events a second until stopped.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicUsize>,
    task: JoinHandle<Ledger>,
}

impl Load {
    pub(super) fn start(scene: &Arc<Scene>) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, counter, scene) = (stop.clone(), sent.clone(), scene.clone());
        let task = tokio::spawn(async move {
            let mut ledger = Ledger::default();
            while !stopped.load(Ordering::Relaxed) {
                ledger.send(&scene, CHUNK).await;
                counter.fetch_add(CHUNK, Ordering::Relaxed);
                tokio::time::sleep(PAUSE).await;
            }
            ledger
        });
        Self { stop, sent, task }
    }

    /// Waits until so many more were acknowledged.
    pub(super) async fn goes_on(&self, more: usize) {
        let goal = self.sent.load(Ordering::Relaxed) + more;
        eventually("the load goes on", async || {
            (self.sent.load(Ordering::Relaxed) >= goal).then_some(())
        })
        .await;
    }

    /// Ends it; answers what was sent.
    pub(super) async fn stop(self) -> Ledger {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await.unwrap()
    }
}

/// Waits until Postgres holds at least so many events.
pub(super) async fn applied_at_least(scene: &Scene, events: i64) {
    eventually("events are applied", async || {
        let positions = scene.positions().await?;
        (positions.values().sum::<i64>() >= events).then_some(())
    })
    .await;
}
