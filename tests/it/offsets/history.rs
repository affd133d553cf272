//! `offsets history`.

use super::events;
use crate::support::Scene;

#[tokio::test]
async fn history_lists_who_moved_what_and_why_the_newest_first() {
    let scene = Scene::new(2).await;
    let worker = scene.worker().start().await;
    scene.send(&[events(0, 4, 0), events(4, 4, 1)].concat()).await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));

    let topic = scene.topic.clone();
    let which = ["offsets", "move", "--topic", &topic, "--partition", "1", "--to-offset", "1"];
    let why = ["--execute", "--reason", "  ticket 42: resend  "];
    let unnamed = scene.worker().env("USER", "kim").command(&[&which[..], &why].concat());
    assert_eq!(unnamed.output().await.0, Some(0));
    scene.moves(&["--to-earliest"]).await;

    let history = scene.history().await;
    let (newest, oldest) = (&history[0], &history[1]);
    assert_eq!(history.len(), 2);
    assert_eq!((&newest["partition"], &newest["moved_by"]), (&0.into(), &"ann".into()));
    assert_eq!((&newest["from_offset"], &newest["to_offset"]), (&4.into(), &0.into()));
    assert_eq!((&oldest["partition"], &oldest["reason"]), (&1.into(), &"ticket 42: resend".into()));
    let host = hostname::get().unwrap().to_string_lossy().into_owned();
    assert_eq!(oldest["moved_by"], format!("kim@{host}"));
    let (user,): (String,) = scene.fetch_one("SELECT session_user::text").await;
    assert_eq!(oldest["database_user"], user);
    let (by,): (String,) =
        scene.fetch_one("SELECT claimed_by FROM source_offsets WHERE partition = 0").await;
    assert_eq!(by, "operator: ann", "and `show` tells, too");

    let table = scene.offsets(&["history", "--limit", "1"]).await;
    assert_eq!(table.lines().count(), 2, "{table}");
    assert!(table.contains("ann") && table.contains("a test"), "{table}");
    let none = scene.offsets(&["history", "--topic", "elsewhere", "--json"]).await;
    assert_eq!(none.trim(), "[]");
}
