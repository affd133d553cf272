//! Row 10: two workers with one `group.instance.id`. In the classic protocol the younger one wins
//! (`faults/membership.rs`); where the broker assigns, the older one does.

use crate::support::Scene;
use crate::support::checker::Projection;
use crate::support::load::Load;

#[tokio::test]
async fn of_two_workers_with_one_instance_id_in_a_group_the_broker_assigns_the_younger_ends() {
    let scene = Scene::new(4).await;
    let load = scene.produce(Load::mixed(300));
    let worker = scene
        .worker()
        .set("KAFKA__GROUP_PROTOCOL", "consumer")
        .set("KAFKA__GROUP_INSTANCE_ID", "the-same");
    let older = worker.start().await;
    older.holds(4).await;
    scene.progresses(200).await;
    let fault = scene.fault(10, "a twin, where the broker assigns");
    let mut younger = worker.start().await;
    assert_eq!(younger.ended().await, Some(1), "a member that is refused exits non-zero");
    fault.ends(&scene).await;
    let log = younger.log();
    let said = log.lines().filter(|line| line.contains("\"ERROR\"")).any(|line| {
        line.contains("group.instance.id") || line.to_lowercase().contains("instance id")
    });
    assert!(said, "the reason is in the log");
    older.holds(4).await;
    scene.progresses(200).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    assert_eq!(older.stop().await, Some(0));
}
