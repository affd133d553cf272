//! A Postgres of our own, from the binaries on this machine, gone without a trace afterwards.

use std::fs::{self, File};
use std::io;
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use sqlx::{ConnectOptions, Connection};
use tempfile::TempDir;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

/// How long the server may take to accept connections.
const READY_WITHIN: Duration = Duration::from_secs(30);
/// How long an orderly stop may take.
const STOP_WITHIN: Duration = Duration::from_secs(10);
/// How often to look again while waiting.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Another process may take the free port first: how often to try.
const TRIES: usize = 3;

/// A running Postgres on a loopback port, with its data in a temporary directory. Set up as it
/// comes, durable writes included, so that what is measured on it is true.
#[derive(Debug)]
pub struct ThrowawayPostgres {
    server: Server,
    directory: TempDir,
    port: u16,
    binaries: PathBuf,
    account: Option<Account>,
}

impl ThrowawayPostgres {
    /// Creates a database cluster and starts it. As root, Postgres runs as an unprivileged user.
    ///
    /// # Errors
    /// No binaries, with advice on what to install; or what `initdb` or the server said.
    pub async fn start() -> anyhow::Result<Self> {
        let binaries = find_binaries()?;
        let directory = tempfile::Builder::new().prefix("user-events-postgres-").tempdir()?;
        let account = Account::for_directory(directory.path())?;
        let (bin, dir) = (binaries.clone(), directory.path().to_owned());
        spawn_blocking(move || initdb(&bin, &dir, account)).await??;
        let mut tries = 0;
        loop {
            tries += 1;
            let port = free_port()?;
            match start_server(&binaries, directory.path(), account, port).await {
                Ok(server) => return Ok(Self { server, directory, port, binaries, account }),
                Err(error) if tries == TRIES => return Err(error),
                Err(_) => {}
            }
        }
    }

    /// Crashes the server and starts it again on the same port and data: whoever was connected is
    /// cut off, whatever was not committed is gone.
    ///
    /// # Errors
    /// It would not stop, or not start.
    pub async fn crash_and_restart(&mut self) -> anyhow::Result<()> {
        // Without a checkpoint, as when the machine fails. In place: its last words take moments.
        self.server.stop("QUIT", STOP_WITHIN)?;
        self.server =
            start_server(&self.binaries, self.directory.path(), self.account, self.port).await?;
        Ok(())
    }

    /// Where to connect, as superuser.
    pub fn url(&self) -> String {
        url(self.port)
    }

    /// Stops the server in an orderly way and deletes its directory.
    ///
    /// # Errors
    /// It would not stop, or something cannot be deleted.
    pub async fn stop(mut self) -> anyhow::Result<()> {
        spawn_blocking(move || {
            self.server.stop("INT", STOP_WITHIN)?;
            self.directory.close().context("deleting the directory of the throwaway Postgres")
        })
        .await?
    }
}

fn url(port: u16) -> String {
    format!("postgres://postgres@127.0.0.1:{port}/postgres")
}

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The server process. Dropping it ends the process at once.
#[derive(Debug)]
struct Server(Child);

impl Server {
    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    /// Sends a signal and waits for the end; kills if there is none.
    fn stop(&mut self, signal: &str, patience: Duration) -> anyhow::Result<()> {
        if self.has_ended() {
            return Ok(());
        }
        // Through the shell, which has `kill` built in: not every system has it as a program.
        let kill = format!("kill -s {signal} {}", self.0.id());
        Command::new("sh").args(["-c", &kill]).status().context("running sh")?;
        let give_up = Instant::now() + patience;
        while !self.has_ended() {
            if Instant::now() >= give_up {
                self.0.kill()?;
                self.0.wait()?;
                bail!("Postgres did not stop within {patience:?} and was killed");
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Immediate shutdown: its children end with it, and nothing is to be kept.
        self.stop("QUIT", Duration::from_secs(2)).ok();
    }
}

/// Whom Postgres runs as, when not as us: it refuses to run as root.
#[derive(Clone, Copy, Debug)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Account {
    /// None but root needs one: whoever else we are, Postgres runs as the same. The directory,
    /// which we just made, tells who we are; it becomes the account's.
    fn for_directory(directory: &Path) -> anyhow::Result<Option<Self>> {
        if fs::metadata(directory)?.uid() != 0 {
            return Ok(None);
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let account = Self::find(&passwd);
        chown(directory, Some(account.uid), Some(account.gid))
            .context("giving the directory to an unprivileged user")?;
        Ok(Some(account))
    }

    /// `postgres` if there is one, else `nobody`.
    fn find(passwd: &str) -> Self {
        let account = |wanted: &str| {
            let mut fields = passwd.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let found = fields.find(|fields| fields.first() == Some(&wanted))?;
            Some(Self { uid: found.get(2)?.parse().ok()?, gid: found.get(3)?.parse().ok()? })
        };
        let unprivileged = |account: &Self| account.uid != 0;
        account("postgres")
            .filter(unprivileged)
            .or_else(|| account("nobody").filter(unprivileged))
            .unwrap_or(Self { uid: 65_534, gid: 65_534 })
    }
}

/// A program of Postgres, run as the account in the directory, silent and by itself.
fn command(binaries: &Path, name: &str, directory: &Path, account: Option<Account>) -> Command {
    let mut command = Command::new(binaries.join(name));
    // A process group of its own: an interrupt from the terminal is for us to handle.
    command.current_dir(directory).env("HOME", directory).stdin(Stdio::null()).process_group(0);
    if let Some(account) = account {
        command.uid(account.uid).gid(account.gid);
    }
    command
}

fn initdb(binaries: &Path, directory: &Path, account: Option<Account>) -> anyhow::Result<()> {
    let output = command(binaries, "initdb", directory, account)
        .args(["-D", "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"])
        .output()
        .with_context(|| format!("running initdb of {}", binaries.display()))?;
    if !output.status.success() {
        bail!("initdb failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

async fn start_server(
    binaries: &Path,
    directory: &Path,
    account: Option<Account>,
    port: u16,
) -> anyhow::Result<Server> {
    let log = directory.join("server.log");
    let child = command(binaries, "postgres", directory, account)
        .args(["-D", "data", "-k", "", "-c", "listen_addresses=127.0.0.1", "-p"])
        .arg(port.to_string())
        .stdout(Stdio::null())
        .stderr(File::create(&log)?)
        .spawn()
        .with_context(|| format!("running postgres of {}", binaries.display()))?;
    let mut server = Server(child);
    let options: sqlx::postgres::PgConnectOptions = url(port).parse()?;
    let options = options.disable_statement_logging();
    let give_up = Instant::now() + READY_WITHIN;
    loop {
        if server.has_ended() {
            let said = fs::read_to_string(&log).unwrap_or_default();
            bail!("Postgres ended at its start: {}", said.trim());
        }
        match options.connect().await {
            // Another server may have been quicker on this port; ours then ends.
            Ok(connection) => {
                connection.close().await?;
                if !server.has_ended() {
                    return Ok(server);
                }
            }
            Err(error) if Instant::now() >= give_up => {
                return Err(error).context("Postgres does not accept connections");
            }
            Err(_) => sleep(LOOK_EVERY).await,
        }
    }
}

/// The directory with `initdb` and `postgres`.
fn find_binaries() -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = std::env::split_paths(&path)
        .chain(versions("/usr/lib/postgresql"))
        .chain(versions("/usr/local/lib/postgresql"))
        .chain(["/usr/local/pgsql/bin", "/usr/local/bin", "/opt/homebrew/bin"].map(PathBuf::from))
        .chain(pg_config());
    candidates.into_iter().find(|directory| has_binaries(directory)).context(
        "Postgres is not installed here: initdb and postgres are neither on PATH nor in the usual \
         places. Install the server (Debian, Ubuntu: apt-get install postgresql; Fedora: dnf \
         install postgresql-server; macOS: brew install postgresql), or set DATABASE_URL to use \
         one that runs already.",
    )
}

fn has_binaries(directory: &Path) -> bool {
    let executable = |name: &str| {
        fs::metadata(directory.join(name))
            .is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    executable("initdb") && executable("postgres")
}

/// `<root>/<version>/bin`, the newest version first.
fn versions(root: &str) -> Vec<PathBuf> {
    let entries: io::Result<Vec<_>> = fs::read_dir(root).and_then(Iterator::collect);
    let mut versions: Vec<(u32, PathBuf)> = entries
        .unwrap_or_default()
        .into_iter()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path())))
        .collect();
    versions.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    versions.into_iter().map(|(_, directory)| directory.join("bin")).collect()
}

fn pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    Some(PathBuf::from(String::from_utf8(output.stdout).ok()?.trim()))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn is_running(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn it_starts_answers_stops_and_leaves_nothing() {
        let postgres = ThrowawayPostgres::start().await.unwrap();
        let (pid, directory) = (postgres.server.0.id(), postgres.directory.path().to_owned());
        let mut connection = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
        let encoding: String =
            sqlx::query_scalar("SHOW server_encoding").fetch_one(&mut connection).await.unwrap();
        assert_eq!(encoding, "UTF8");
        assert!(is_running(pid) && directory.exists());
        postgres.stop().await.unwrap();
        assert!(!is_running(pid) && !directory.exists());
    }

    #[tokio::test]
    async fn a_crash_keeps_what_was_committed_and_cuts_off_who_was_connected() {
        let mut postgres = ThrowawayPostgres::start().await.unwrap();
        let url = postgres.url();
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("CREATE TABLE kept (n int)").execute(&mut connection).await.unwrap();
        postgres.crash_and_restart().await.unwrap();
        assert_eq!(postgres.url(), url);
        assert!(sqlx::raw_sql("SELECT 1").execute(&mut connection).await.is_err());
        let mut connection = sqlx::PgConnection::connect(&url).await.unwrap();
        sqlx::raw_sql("SELECT n FROM kept").execute(&mut connection).await.unwrap();
        postgres.stop().await.unwrap();
    }

    #[tokio::test]
    async fn dropping_it_leaves_nothing_either() {
        let postgres = ThrowawayPostgres::start().await.unwrap();
        let (pid, directory) = (postgres.server.0.id(), postgres.directory.path().to_owned());
        drop(postgres);
        assert!(!is_running(pid) && !directory.exists());
    }

    #[test]
    fn root_finds_somebody_else() {
        let find = |passwd: &str| {
            let account = Account::find(passwd);
            (account.uid, account.gid)
        };
        let nobody = "root:x:0:0::/root:/bin/sh\nnobody:x:65533:65532::/:/bin/false\n";
        assert_eq!(find(nobody), (65_533, 65_532));
        assert_eq!(find(&format!("{nobody}postgres:x:101:104::/:/bin/sh\n")), (101, 104));
        assert_eq!(find("root:x:0:0::/root:/bin/sh\npostgres:broken\n"), (65_534, 65_534));
    }

    #[test]
    fn the_newest_version_comes_first() {
        let root = tempfile::tempdir().unwrap();
        for version in ["9", "15", "common", "16"] {
            fs::create_dir_all(root.path().join(version).join("bin")).unwrap();
        }
        let found = versions(root.path().to_str().unwrap());
        let names: Vec<_> = ["16/bin", "15/bin", "9/bin"].map(|v| root.path().join(v)).into();
        assert_eq!(found, names);
        assert!(!has_binaries(&found[0]) && versions("/nonexistent").is_empty());
    }
}
