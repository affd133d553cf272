//! The demo, which brings everything it needs.

use crate::support::Scene;

#[tokio::test]
async fn chaos_the_demo_accounts_for_every_record_it_produced() {
    let scene = Scene::new(1).await;
    let demo = scene.worker().command(&["demo", "--count", "5000", "--tombstones", "0.001"]);
    let (code, out, log) = demo.output().await;
    assert_eq!(code, Some(0), "{out}\n{log}");
    for told in ["/status", "/metrics", "produced", "applied", "p99"] {
        assert!(out.contains(told), "the demo tells {told}: {out}");
    }
}
