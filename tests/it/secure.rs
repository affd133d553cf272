//! TLS and SASL against a real broker, and TLS against a real Postgres.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::support::{Scene, Service, Services, WorkerBuilder, event, eventually};

/// As in `scripts/services`.
const PASSWORD: &str = "worker-secret";

/// An authority, a server's certificate by it, and another authority that nobody asked.
struct Certificates {
    dir: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = |name: &str| {
            let mut params = CertificateParams::new([]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            let key = KeyPair::generate().unwrap();
            std::fs::write(dir.path().join(name), params.self_signed(&key).unwrap().pem()).unwrap();
            Issuer::new(params, key)
        };
        let ours = authority("ca.pem");
        authority("stranger.pem");
        let key = KeyPair::generate().unwrap();
        let names = ["127.0.0.1".to_owned(), "localhost".to_owned()];
        let server = CertificateParams::new(names).unwrap().signed_by(&key, &ours).unwrap();
        std::fs::write(dir.path().join("server.key"), key.serialize_pem()).unwrap();
        std::fs::write(dir.path().join("server.crt"), server.pem()).unwrap();
        let both = key.serialize_pem() + &server.pem();
        std::fs::write(dir.path().join("server.pem"), both).unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// A worker of a scene whose Kafka wants to know who it is.
fn secured(scene: &Scene, services: &Services, ca: &Path) -> WorkerBuilder {
    scene
        .worker()
        .set("KAFKA__BOOTSTRAP_SERVERS", services.secured())
        .set("KAFKA__SECURITY_PROTOCOL", "sasl_ssl")
        .set("KAFKA__SSL_CA_LOCATION", ca.to_str().unwrap())
        .set("KAFKA__SASL_USERNAME", "worker")
        .set("KAFKA__SASL_PASSWORD", PASSWORD)
}

async fn applies(scene: &Scene, worker: &WorkerBuilder, id: &str) {
    let worker = worker.start().await;
    scene.send(&[event("u", id, "user.created")]).await;
    scene.caught_up().await;
    assert_eq!(worker.stop().await, Some(0));
}

#[tokio::test]
async fn kafka_is_read_over_tls_by_plain_scram_and_oauthbearer() {
    let certificates = Certificates::new();
    let services = Services::kafka_secured_by(&certificates.path("server.pem")).await;
    let database_url = std::env::var("DATABASE_URL").expect("run by `make test`");
    let scene = Scene::on(services.brokers(), &database_url, 1).await;
    let worker = secured(&scene, &services, &certificates.path("ca.pem"));
    for mechanism in ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] {
        applies(&scene, &worker.clone().set("KAFKA__SASL_MECHANISM", mechanism), mechanism).await;
    }
    let token = worker
        .clone()
        .unset("KAFKA__SASL_USERNAME")
        .unset("KAFKA__SASL_PASSWORD")
        .set("KAFKA__SASL_MECHANISM", "OAUTHBEARER")
        .set("KAFKA__LIBRDKAFKA__ENABLE_SASL_OAUTHBEARER_UNSECURE_JWT", "true")
        .set("KAFKA__LIBRDKAFKA__SASL_OAUTHBEARER_CONFIG", "principal=worker");
    applies(&scene, &token, "oauthbearer").await;
    let (stored,): (i64,) = scene.fetch_one("SELECT count(*) FROM user_events").await;
    assert_eq!(stored, 4);
}

#[tokio::test]
async fn a_wrong_password_or_a_broker_nobody_vouches_for_is_told_and_never_trusted() {
    let certificates = Certificates::new();
    let services = Services::kafka_secured_by(&certificates.path("server.pem")).await;
    let database_url = std::env::var("DATABASE_URL").expect("run by `make test`");
    let scene = Scene::on(services.brokers(), &database_url, 1).await;
    let worker = secured(&scene, &services, &certificates.path("ca.pem"))
        .set("KAFKA__SASL_MECHANISM", "SCRAM-SHA-512");
    let cases = [
        ("Authentication failed", worker.clone().set("KAFKA__SASL_PASSWORD", "kanarie")),
        (
            "certificate verify failed",
            worker
                .clone()
                .set("KAFKA__SSL_CA_LOCATION", certificates.path("stranger.pem").to_str().unwrap()),
        ),
    ];
    for (words, worker) in cases {
        let (code, said, log) = worker.clone().command(&["check"]).output().await;
        let said = said + &log;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(words), "{words}: {said}");
        let worker = worker.start().await;
        eventually("the worker says why kafka does not let it in", async || {
            worker.log().contains(words).then_some(())
        })
        .await;
        assert_eq!(worker.get("/readyz").await.0, 503);
        assert_eq!(worker.get("/livez").await.0, 200, "it waits, and is alive");
        assert!(!worker.log().contains("kanarie"), "no secret is told");
        assert_eq!(worker.stop().await, Some(0));
    }
}

/// Has a Postgres speak TLS, and take nothing else from the network.
async fn encrypt(services: &Services, certificates: &Certificates) {
    let data = services.postgres_data();
    let owner = data.metadata().unwrap();
    for name in ["server.key", "server.crt"] {
        let at = data.join(name);
        std::fs::copy(certificates.path(name), &at).unwrap();
        chown(&at, Some(owner.uid()), Some(owner.gid())).unwrap();
        std::fs::set_permissions(&at, PermissionsExt::from_mode(0o600)).unwrap();
    }
    let conf = std::fs::read_to_string(data.join("postgresql.conf")).unwrap();
    std::fs::write(data.join("postgresql.conf"), conf + "ssl = on\n").unwrap();
    std::fs::write(data.join("pg_hba.conf"), "hostssl all all 127.0.0.1/32 trust\n").unwrap();
    services.stop_postgres_immediate().await;
    services.start_postgres().await;
}

#[tokio::test]
async fn postgres_is_written_over_tls_only_to_a_server_the_right_authority_vouches_for() {
    let certificates = Certificates::new();
    let services = Services::start(&[Service::Postgres]).await;
    encrypt(&services, &certificates).await;
    let brokers = std::env::var("KAFKA_BOOTSTRAP_SERVERS").expect("run by `make test`");
    let with = |mode: &str, ca: &str| {
        let ca = certificates.path(ca);
        format!("{}?sslmode={mode}&sslrootcert={}", services.database_url(), ca.display())
    };
    let scene = Scene::on(&brokers, &with("verify-full", "ca.pem"), 1).await;
    applies(&scene, &scene.worker(), "verify-full").await;
    let encrypted: Vec<(bool,)> =
        scene.fetch_all("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").await;
    assert_eq!(encrypted, [(true,)]);

    for url in [with("verify-full", "stranger.pem"), with("disable", "ca.pem")] {
        let worker = scene.worker().set("POSTGRES__URL", &url);
        let (code, said, _) = worker.command(&["check"]).output().await;
        assert_eq!(code, Some(1), "{said}");
        let words = ["certificate", "no pg_hba.conf entry"];
        assert!(words.iter().any(|words| said.contains(words)), "{said}");
    }
}
