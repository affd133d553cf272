//! A copy of a Postgres, which stands still until it is promoted.

use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use sqlx::{Connection, PgConnection};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};

use super::eventually;

/// A standby server. Killed when dropped.
pub struct Replica {
    dir: tempfile::TempDir,
    child: Child,
    port: u16,
    owner: (u32, u32),
}

impl Replica {
    /// Copies the Postgres at `url` as it is now, and starts the copy as a standby that hears
    /// nothing more of it.
    pub async fn of(url: &str) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
        let owner = postgres_user(url).await;
        let dir =
            tempfile::Builder::new().prefix("user-events-replica.").tempdir_in("/tmp").unwrap();
        chown(dir.path(), Some(owner.0), Some(owner.1)).unwrap();
        let data = dir.path().join("data");
        let copied = command("pg_basebackup", owner, dir.path())
            .args(["--dbname", url, "--checkpoint=fast", "--wal-method=stream", "--pgdata"])
            .arg(&data)
            .status()
            .await
            .unwrap();
        assert!(copied.success(), "pg_basebackup: {copied}");
        std::fs::write(data.join("standby.signal"), "").unwrap();
        let child = command("postgres", owner, dir.path())
            .arg("-D")
            .arg(&data)
            .args(["-p", &port.to_string(), "-c", "hot_standby=on"])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let replica = Self { dir, child, port, owner };
        replica.answers(true).await;
        replica
    }

    /// Makes it a primary, and waits until it takes writes.
    pub async fn promote(&mut self) {
        assert!(self.child.try_wait().unwrap().is_none(), "the replica runs");
        let promoted = command("pg_ctl", self.owner, self.dir.path())
            .args(["promote", "-w", "-D"])
            .arg(self.dir.path().join("data"))
            .status()
            .await
            .unwrap();
        assert!(promoted.success(), "pg_ctl promote: {promoted}");
        self.answers(false).await;
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("postgres://postgres@{}/postgres", self.address())
    }

    async fn answers(&self, in_recovery: bool) {
        eventually("the replica answers", async || {
            let mut conn = PgConnection::connect(&self.url()).await.ok()?;
            let answer: bool =
                sqlx::query_scalar("SELECT pg_is_in_recovery()").fetch_one(&mut conn).await.ok()?;
            (answer == in_recovery).then_some(())
        })
        .await;
    }
}

/// Whose files the data of the Postgres at `url` are: its programs refuse to run as root.
async fn postgres_user(url: &str) -> (u32, u32) {
    let mut conn = PgConnection::connect(url).await.unwrap();
    let data: String =
        sqlx::query_scalar("SHOW data_directory").fetch_one(&mut conn).await.unwrap();
    let found = std::fs::metadata(data).unwrap();
    (found.uid(), found.gid())
}

fn command(name: &str, (uid, gid): (u32, u32), home: &Path) -> Command {
    let mut command = Command::new(binary(name));
    command.current_dir(home).env("HOME", home).stdin(Stdio::null()).stdout(Stdio::null());
    command.stderr(Stdio::null());
    if nix::unistd::geteuid().is_root() {
        command.uid(uid).gid(gid);
    }
    command
}

/// The newest of the installed versions, as `scripts/services` takes it.
fn binary(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .max()
        .map(|version| PathBuf::from(format!("/usr/lib/postgresql/{version}/bin/{name}")));
    newest.unwrap_or_else(|| PathBuf::from(name))
}
