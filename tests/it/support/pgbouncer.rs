//! A PgBouncer of the test's own, in transaction mode.

use std::os::unix::fs::{PermissionsExt, chown};
use std::process::Stdio;

use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::eventually;

/// A running PgBouncer. Killed when dropped.
pub struct PgBouncer {
    child: Child,
    url: String,
    _dir: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts one before the Postgres of `database_url`, with so many server connections, fewer
    /// than its clients: then transactions of one client run on different servers.
    ///
    /// # Panics
    /// When PgBouncer is not installed: not being able to test is a failure.
    pub async fn start(database_url: &str, pool_size: usize) -> Self {
        let binary = ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer", "/usr/local/bin/pgbouncer"]
            .into_iter()
            .find(|path| std::path::Path::new(path).exists())
            .expect("pgbouncer is installed: run scripts/setup");
        let (user, place) = database_url.trim_start_matches("postgres://").split_once('@').unwrap();
        let (address, database) = place.split_once('/').unwrap();
        let (host, port) = address.split_once(':').unwrap();
        // Bound and let go: PgBouncer does not tell which port it chose.
        let own = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let dir = tempfile::Builder::new().prefix("user-events-pgbouncer.").tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let settings = format!(
            "[databases]\n{database} = host={host} port={port} dbname={database}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {own}\nunix_socket_dir =\n\
             auth_type = trust\nauth_file = {users}\npool_mode = transaction\n\
             default_pool_size = {pool_size}\nmax_client_conn = 100\nserver_round_robin = 1\n\
             logfile = {log}\npidfile = {pid}\n",
            users = path("users.txt").display(),
            log = path("pgbouncer.log").display(),
            pid = path("pgbouncer.pid").display(),
        );
        std::fs::write(path("users.txt"), format!("\"{user}\" \"\"\n")).unwrap();
        std::fs::write(path("pgbouncer.ini"), settings).unwrap();
        let mut command = Command::new(binary);
        command.arg(path("pgbouncer.ini")).kill_on_drop(true);
        // It refuses to run as root.
        if nix::unistd::geteuid().is_root() {
            const NOBODY: u32 = 65_534;
            for name in ["", "users.txt", "pgbouncer.ini"] {
                chown(path(name), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
            command.uid(NOBODY).gid(NOBODY);
        }
        let streams = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = streams.spawn().unwrap();
        let log = path("pgbouncer.log");
        eventually("pgbouncer listens", async || {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(child.try_wait().unwrap().is_none(), "pgbouncer ended: {said}");
            tokio::net::TcpStream::connect(("127.0.0.1", own)).await.ok()
        })
        .await;
        let url = format!("postgres://{user}@127.0.0.1:{own}/{database}");
        Self { child, url, _dir: dir }
    }

    /// Where it listens, as a URL to the database behind it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Is it still there?
    pub fn runs(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}
