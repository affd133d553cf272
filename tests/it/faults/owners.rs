//! Who may write a partition: two workers that are both sure to own it, and a claim that can no
//! longer be served.
//!
//! The rules of claiming, and the tests that hold them:
//!
//! | rule | test |
//! |---|---|
//! | the group does not wait for a claim | `chaos_the_group_does_not_wait_for_a_postgres_that_is_away` |
//! | a claim waits for a zombie's transaction, as long as the time-outs allow | `chaos_a_zombie_inside_its_transaction_holds_up_its_successor_for_a_while_only`, `a_claim_waits_for_a_lock_no_longer_than_its_timeout`, `the_locks_of_a_sleeping_worker_are_freed_by_postgres` |
//! | a claim fences every earlier owner for good | `a_claim_fences_every_earlier_owner_even_one_that_stands_at_the_same_offset`, `a_batch_under_an_old_claim_is_not_written_however_well_its_offset_fits` |
//! | reading begins exactly at the claimed offset | `a_skip_forward_while_the_worker_is_stopped_leaves_those_records_out`, `start_from.rs`, `log_changes.rs` |
//! | records read under an earlier claim are void | `chaos_a_partition_that_leaves_and_returns_while_its_records_wait_in_a_queue_loses_none` |
//! | a fenced worker waits for Kafka | `chaos_a_zombie_that_wakes_after_its_partitions_moved_is_fenced_and_shares_work_again` |
//! | it claims again behind an operator | `rewind.rs` |
//! | it claims again in a database that went back | below |
//! | it claims again once its ownership is confirmed, and two owners alternate slowly | below |
//! | a pending assignment is served before leaving | below |
//! | a COMMIT in doubt is settled by a claim | `ambiguous.rs` |

use std::time::{Duration, Instant};

use crate::support::checker::Projection;
use crate::support::load::Load;
use crate::support::{Scene, event, eventually};

use super::{never_stepped_back, watch_for_steps_back};

const SESSION: Duration = Duration::from_secs(2);

#[tokio::test]
async fn chaos_two_owners_of_the_same_partitions_take_slow_turns_and_write_every_batch_once() {
    let scene = Scene::new(2).await;
    watch_for_steps_back(&scene).await;
    let load = scene.produce(Load::mixed(300));
    let worker =
        scene.worker().set("KAFKA__SESSION_TIMEOUT", "2s").set("KAFKA__CLAIM_PATIENCE", "1s");
    let began = Instant::now();
    let one = worker.start().await;
    one.holds(2).await;
    let fault = scene.fault(6, "two owners of the same partitions");
    let two = worker.failpoint("twin-group=return").start().await;
    for _ in 0..3 {
        for owner in [&one, &two] {
            let fenced = async || owner.metric("user_events_fenced_total", "").await;
            let before = fenced().await;
            eventually("the other one takes its turn", async || {
                (fenced().await > before).then_some(())
            })
            .await;
            scene.progresses(100).await;
        }
    }
    let epochs = scene.count("SELECT sum(epoch)::bigint FROM source_offsets").await;
    let sessions = began.elapsed().as_secs_f64() / SESSION.as_secs_f64();
    let bound = 2.0 * 2.0 * (sessions + 1.0);
    assert!((epochs as f64) < bound, "{epochs} claims within {sessions:.0} sessions");
    assert_eq!(two.stop().await, Some(0));
    fault.ends(&scene).await;
    one.holds(2).await;
    let ledger = load.stop().await;
    scene.check(&ledger, Projection::Whole).await;
    never_stepped_back(&scene).await;
    assert_eq!(one.stop().await, Some(0));
}

#[tokio::test]
async fn in_a_database_that_went_back_a_worker_claims_again_and_applies_the_rest_anew() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    let events: Vec<_> =
        (0..10).map(|n| event(&format!("u{n}"), &format!("{n}"), "login")).collect();
    scene.send(&events).await;
    scene.caught_up().await;
    let fault = scene.fault(27, "a database that went back");
    // As a replica that had seen neither the last events nor the last claim.
    scene
        .execute(
            "BEGIN;
             DELETE FROM users WHERE user_id IN (SELECT user_id FROM user_events WHERE kafka_offset >= 6);
             DELETE FROM user_events WHERE kafka_offset >= 6;
             UPDATE source_offsets SET epoch = epoch - 1, next_offset = 6, last_next = 6;
             COMMIT",
        )
        .await;
    fault.ends(&scene).await;
    assert_eq!(scene.count("SELECT count(*) FROM user_events").await, 10);
    assert_eq!(scene.count("SELECT sum(event_count)::bigint FROM users").await, 10);
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn a_worker_told_to_end_while_its_claims_wait_leaves_in_good_order() {
    let scene = Scene::new(2).await;
    scene.migrate().await;
    let mut lock = scene.hold("LOCK TABLE source_offsets IN EXCLUSIVE MODE").await;
    let worker = scene.worker().set("POSTGRES__LOCK_TIMEOUT", "1s").start().await;
    lock.blocks_somebody().await;
    assert_eq!(worker.assigned().await, 2);
    assert_eq!(worker.stop().await, Some(0));
    lock.release().await;
    // Nothing of it stays in the way of the next one.
    scene.send(&[event("ann", "1", "login")]).await;
    let _next = scene.worker().start().await;
    scene.caught_up().await;
}
