//! The commands an operator uses before and beside `run`.

use std::io::Write as _;

use serde_json::json;

use crate::support::{Scene, WorkerBuilder, event, eventually, unique};

/// What `check` prints, when it exits as expected.
async fn check(worker: WorkerBuilder, ready: bool) -> String {
    let (code, report, errors) = worker.command(&["check"]).output().await;
    assert_eq!(code, Some(i32::from(!ready)), "{report}{errors}");
    let last = if ready { "ready to run" } else { "not ready to run" };
    assert_eq!(report.lines().last(), Some(last), "{report}");
    assert_eq!(report.contains("MISSING"), !ready, "{report}");
    report
}

/// The line of a report that names what is missing.
#[track_caller]
fn missing<'a>(report: &'a str, what: &str) -> &'a str {
    let mut lines = report.lines().filter(|line| line.starts_with("MISSING"));
    lines.find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what} missing in\n{report}"))
}

/// A role that may log in, see the schema and nothing else; its URL.
async fn role(scene: &Scene) -> (String, String) {
    let role = unique("r");
    let schema = &scene.schema;
    scene
        .execute(&format!(
            "CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA \"{schema}\" TO {role};
             GRANT SELECT ON _sqlx_migrations TO {role}"
        ))
        .await;
    let (_, rest) = scene.database_url.split_once('@').expect("a user in DATABASE_URL");
    let url = format!("postgres://{role}@{rest}");
    (role, url)
}

async fn grant_all(scene: &Scene, role: &str) {
    scene
        .execute(&format!(
            "GRANT SELECT, INSERT ON user_events, worker_identity TO {role};
             GRANT SELECT, INSERT, UPDATE ON users, source_offsets, dead_letters TO {role};
             GRANT EXECUTE ON FUNCTION ensure_user_events_month(date) TO {role}"
        ))
        .await;
}

#[tokio::test]
async fn check_says_yes_when_everything_is_there_and_no_when_the_schema_is_not() {
    let scene = Scene::new(3).await;
    let report = check(scene.worker(), false).await;
    let line = missing(&report, "is absent");
    assert!(line.contains(&scene.schema) && line.contains("user-events-worker migrate"), "{line}");
    let schemas: (i64,) = scene
        .fetch_one(&format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{}'", scene.schema))
        .await;
    assert_eq!(schemas, (0,), "check creates no schema");

    scene.migrate().await;
    let report = check(scene.worker(), true).await;
    for line in ["configuration is valid", "postgres answers", "has 3 partitions"] {
        assert!(report.contains(line), "{report}");
    }
    assert!(report.contains("belongs to nobody yet"), "{report}");
    let worker = scene.worker().start().await;
    worker.holds(3).await;
    let report = check(scene.worker(), true).await;
    assert!(report.contains("belongs to this group and cluster"), "{report}");

    scene.execute("UPDATE _sqlx_migrations SET success = false").await;
    let report = check(scene.worker(), false).await;
    missing(&report, "user-events-worker migrate");
}

#[tokio::test]
async fn check_names_a_topic_a_broker_and_a_database_that_are_not_there() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    let nowhere = unique("nowhere");
    let topics = format!("{},{nowhere}", scene.topic);
    let report = check(scene.worker().set("KAFKA__TOPICS", &topics), false).await;
    missing(&report, &nowhere);
    assert!(report.contains(&format!("ok      topic {:?} has 1", scene.topic)), "{report}");

    let away = scene.worker().set("KAFKA__BOOTSTRAP_SERVERS", "127.0.0.1:1");
    let report = check(away, false).await;
    missing(&report, "127.0.0.1:1");
    assert!(report.contains("ok      privileges"), "the rest is still looked at: {report}");

    let away = scene.worker().set("POSTGRES__URL", "postgres://nobody@127.0.0.1:1/none");
    let report = check(away, false).await;
    missing(&report, "postgres does not answer");
    assert!(report.contains("ok      kafka answers"), "{report}");
}

#[tokio::test]
async fn check_names_every_privilege_that_lacks_and_the_grant_that_mends_it() {
    let scene = Scene::new(1).await;
    scene.migrate().await;
    let (role, url) = role(&scene).await;
    let restricted = || scene.worker().set("POSTGRES__URL", &url).set("POSTGRES__MIGRATE", "false");

    let report = check(restricted(), false).await;
    for table in ["user_events", "users", "source_offsets", "dead_letters", "worker_identity"] {
        let line = missing(&report, &format!("INSERT on {table}:"));
        assert!(line.contains(&format!("GRANT INSERT ON {table}")), "{line}");
    }
    missing(&report, "EXECUTE on ensure_user_events_month");
    missing(&report, "this month's ledger partition");

    grant_all(&scene, &role).await;
    scene.execute(&format!("REVOKE UPDATE ON users FROM {role}")).await;
    let report = check(restricted(), false).await;
    missing(&report, "UPDATE on users:");
    assert_eq!(report.matches("MISSING").count(), 1, "and nothing else: {report}");
    scene.execute(&format!("GRANT UPDATE ON users TO {role}")).await;

    let month = "FUNCTION ensure_user_events_month(date)";
    scene.execute(&format!("REVOKE EXECUTE ON {month} FROM {role}")).await;
    let report = check(restricted(), false).await;
    missing(&report, "EXECUTE on ensure_user_events_month");
    missing(&report, "this month's ledger partition");
    scene.execute(&format!("GRANT EXECUTE ON {month} TO {role}")).await;

    check(restricted(), true).await;
    let worker = restricted().start().await;
    scene.send(&[event("u1", "a", "user.created"), event("u1", "b", "x").raw(None)]).await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0), "these grants are enough to work");
}

#[tokio::test]
async fn a_schema_of_another_group_or_cluster_is_refused_by_check_and_run() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().start().await;
    worker.holds(1).await;
    assert_eq!(worker.stop().await, Some(0));
    scene.send(&[event("u1", "a", "user.created")]).await;
    let before: (i64, String) =
        scene.fetch_one("SELECT epoch, claimed_by FROM source_offsets").await;

    let other = unique("other");
    let stranger = || scene.worker().set("KAFKA__GROUP_ID", &other);
    let report = check(stranger(), false).await;
    let line = missing(&report, &other);
    assert!(line.contains(&scene.group) && line.contains("postgres.schema"), "{line}");
    let (code, _, log) = stranger().output().await;
    assert_eq!(code, Some(1));
    assert!(log.contains(&other) && log.contains("schema belongs to consumer group"), "{log}");

    scene.execute("UPDATE worker_identity SET cluster_id = 'elsewhere'").await;
    missing(&check(scene.worker(), false).await, "elsewhere");
    let (code, _, log) = scene.worker().output().await;
    assert_eq!(code, Some(1));
    assert!(log.contains("elsewhere"), "{log}");

    let after: (i64, String) =
        scene.fetch_one("SELECT epoch, claimed_by FROM source_offsets").await;
    assert_eq!(after, before, "nothing was claimed");
    assert_eq!(scene.fetch_one::<(i64,)>("SELECT count(*) FROM user_events").await, (0,));
    let owner: (String, String) =
        scene.fetch_one("SELECT consumer_group, cluster_id FROM worker_identity").await;
    assert_eq!(owner, (scene.group.clone(), "elsewhere".into()));
}

#[tokio::test]
async fn without_migrations_of_its_own_a_worker_waits_for_the_schema_and_says_so() {
    let scene = Scene::new(1).await;
    let worker = scene.worker().set("POSTGRES__MIGRATE", "false").start().await;
    let reasons = eventually("the reason is known", async || {
        let (code, reasons) = worker.get("/readyz").await;
        assert_eq!(code, 503);
        reasons.contains("user-events-worker migrate").then_some(reasons)
    })
    .await;
    assert!(reasons.contains(&scene.schema), "{reasons}");
    assert!(worker.log().contains("postgres is not ready"), "{}", worker.log());
    scene.migrate().await;
    worker.holds(1).await;
}

#[tokio::test]
async fn migrating_again_or_at_the_same_time_changes_nothing() {
    let scene = Scene::new(1).await;
    tokio::join!(scene.migrate(), scene.migrate(), scene.migrate());
    let applied: Vec<(i64, time::OffsetDateTime)> =
        scene.fetch_all("SELECT version, installed_on FROM _sqlx_migrations ORDER BY 1").await;
    scene.migrate().await;
    let again: Vec<(i64, time::OffsetDateTime)> =
        scene.fetch_all("SELECT version, installed_on FROM _sqlx_migrations ORDER BY 1").await;
    assert_eq!(applied, again);
    assert!(!applied.is_empty());
}

#[tokio::test]
async fn help_lists_every_command_and_each_explains_itself() {
    let scene = Scene::new(1).await;
    let help = async |args: &[&str]| {
        let (code, text, errors) = scene.worker().command(args).output().await;
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{args:?}");
        text
    };
    let overview = help(&["--help"]).await;
    let commands: Vec<&str> = overview
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty())
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    for command in ["run", "migrate", "check"] {
        assert!(commands.contains(&command), "{overview}");
    }
    for command in commands.into_iter().filter(|command| *command != "help") {
        let text = help(&[command, "--help"]).await;
        assert!(text.contains("Usage:") && text.contains("--config"), "{text}");
    }
    assert!(help(&["--version"]).await.contains(env!("CARGO_PKG_VERSION")));
    let (code, _, errors) = scene.worker().command(&["rum"]).output().await;
    assert_eq!(code, Some(2));
    assert!(errors.contains("run"), "the nearest command: {errors}");
}

#[tokio::test]
async fn a_key_that_does_not_exist_is_named_with_the_nearest_that_does() {
    let scene = Scene::new(1).await;
    for command in ["run", "check", "migrate"] {
        let worker = scene.worker().set("BATCH__LINGR", "5ms").command(&[command]);
        let (code, out, errors) = worker.output().await;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{errors}");
        for name in ["WORKER_BATCH__LINGR", "WORKER_BATCH__LINGER"] {
            assert!(errors.contains(name), "{errors}");
        }
    }
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[batch]\nlanes = 1\nmax_event = 3").unwrap();
    let path = file.path().to_str().unwrap();
    let (code, _, errors) = scene.worker().command(&["check", "--config", path]).output().await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("batch.max_event") && errors.contains("batch.max_events"), "{errors}");
    let (code, _, errors) = scene.worker().command(&["check", "-c", "/no/file"]).output().await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("/no/file"), "{errors}");
}

#[tokio::test]
async fn the_environment_wins_over_the_file_and_secrets_may_come_from_files() {
    let scene = Scene::new(1).await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    writeln!(file, "[batch]\nlanes = 3\nlinger = \"7ms\"\n[http]\nlisten = \"127.0.0.1:1\"")
        .unwrap();
    let mut secret = tempfile::NamedTempFile::new().unwrap();
    writeln!(secret, "{}", scene.database_url).unwrap();
    let worker = scene
        .worker()
        .command(&["run", "--config", file.path().to_str().unwrap()])
        .unset("POSTGRES__URL")
        .set("POSTGRES__URL_FILE", secret.path().to_str().unwrap())
        .set("BATCH__LINGER", "9ms")
        .start()
        .await;
    worker.holds(1).await;
    let postgres = &worker.status().await["postgres"];
    assert_eq!(postgres.as_array().unwrap().len(), 3, "from the file, above the default");
    let log = worker.log();
    let started = log.lines().find(|line| line.contains("\"starting\"")).unwrap();
    let started: serde_json::Value = serde_json::from_str(started).unwrap();
    let config: serde_json::Value =
        serde_json::from_str(started["config"].as_str().unwrap()).unwrap();
    assert_eq!(config["batch"]["linger"], json!("9ms"), "from the environment, above the file");
    assert_eq!(config["http"]["listen"], json!("127.0.0.1:0"));
    assert_eq!(worker.stop().await, Some(0));

    let both = scene.worker().set("POSTGRES__URL_FILE", secret.path().to_str().unwrap());
    let (code, _, errors) = both.output().await;
    assert_eq!(code, Some(1));
    assert!(errors.contains("both set"), "{errors}");
}
