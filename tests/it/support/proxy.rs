//! A TCP proxy of the test's own: a network that can be made bad, and good again, while it is used.
//!
//! It stands between a client and one server. What is held back is kept, not thrown away: TCP
//! would send it again, so that a network which heals delivers it late and whole.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How one direction treats what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Way {
    /// Every piece waits this long.
    pub delay: Duration,
    /// Pieces of at most so many bytes, with a breath between them; 0: as they come.
    pub slice: usize,
    /// Nothing passes, nobody is told.
    pub silent: bool,
    /// A connection is reset once so many bytes have passed it from now on; 0: never.
    pub reset_after: u64,
}

impl Way {
    /// Nothing passes, nobody is told.
    pub fn silent() -> Self {
        Self { silent: true, ..Self::default() }
    }

    /// Late by this much.
    pub fn late(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// In small pieces.
    pub fn sliced(slice: usize) -> Self {
        Self { slice, ..Self::default() }
    }

    /// Breaks in the middle of something larger than this.
    pub fn breaks_after(bytes: u64) -> Self {
        Self { reset_after: bytes, ..Self::default() }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Rules {
    /// From the client to the server.
    up: Way,
    /// From the server to the client.
    down: Way,
    /// Changed: connections made before are reset.
    cuts: u64,
    /// Changed: connections made before lose their server, and their client is not told.
    abandoned: u64,
}

/// What happened, to prove that a fault was there.
#[derive(Debug, Default)]
pub struct Seen {
    connections: AtomicU64,
    resets: AtomicU64,
    abandoned: AtomicU64,
    held: AtomicU64,
    pieces: AtomicU64,
    delayed: AtomicU64,
}

macro_rules! counts {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        impl Seen {
            $($(#[$doc])* pub fn $name(&self) -> u64 {
                self.$name.load(Ordering::Relaxed)
            })*
        }
    };
}

counts! {
    /// Connections accepted.
    connections,
    /// Connections reset by the proxy.
    resets,
    /// Connections whose client was left alone.
    abandoned,
    /// Times that something was held back.
    held,
    /// Small pieces forwarded.
    pieces,
    /// Pieces that waited.
    delayed,
}

/// See the module. Ends, with all its connections, when dropped.
pub struct Proxy {
    addr: SocketAddr,
    rules: watch::Sender<Rules>,
    target: watch::Sender<Option<SocketAddr>>,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of its own. Connections wait until [`Self::leads_to`] says where to.
    pub async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (rules, _) = watch::channel(Rules::default());
        let (target, _) = watch::channel(None);
        let seen = Arc::new(Seen::default());
        let accepting = accept(listener, rules.clone(), target.clone(), seen.clone());
        Self { addr, rules, target, seen, task: tokio::spawn(accepting) }
    }

    /// The server it leads to, as `host:port`.
    pub async fn leads_to(&self, server: &str) {
        let addr = tokio::net::lookup_host(server).await.unwrap().next().unwrap();
        self.target.send_replace(Some(addr));
    }

    /// The Postgres it leads to, by its URL; answers the URL of the way through the proxy.
    pub async fn leads_to_postgres(&self, url: &str) -> String {
        let (server, database) = url.rsplit_once('/').unwrap();
        let (login, address) = server.rsplit_once('@').unwrap();
        self.leads_to(address).await;
        format!("{login}@{}/{database}", self.addr())
    }

    /// Where clients connect.
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.addr.port()
    }

    /// What happened so far.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// From now on, in this direction from the client to the server, and in that one back.
    pub fn set(&self, up: Way, down: Way) {
        self.rules.send_modify(|rules| (rules.up, rules.down) = (up, down));
    }

    /// Good again.
    pub fn heal(&self) {
        self.set(Way::default(), Way::default());
    }

    /// Resets every connection there is.
    pub fn cut(&self) {
        self.rules.send_modify(|rules| rules.cuts += 1);
    }

    /// Half-open: the server's side of every connection there is goes away, the client is not told.
    pub fn abandon(&self) {
        self.rules.send_modify(|rules| rules.abandoned += 1);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(
    listener: TcpListener,
    rules: watch::Sender<Rules>,
    target: watch::Sender<Option<SocketAddr>>,
    seen: Arc<Seen>,
) {
    // Dropped with this future: connections end with the proxy.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        seen.connections.fetch_add(1, Ordering::Relaxed);
        let link = Link { rules: rules.subscribe(), seen: seen.clone() };
        connections.spawn(link.serve(client, target.subscribe()));
        while connections.try_join_next().is_some() {}
    }
}

/// How a connection ended.
enum End {
    Closed,
    Reset,
    Abandoned,
}

#[derive(Clone)]
struct Link {
    rules: watch::Receiver<Rules>,
    seen: Arc<Seen>,
}

impl Link {
    async fn serve(self, mut client: TcpStream, mut target: watch::Receiver<Option<SocketAddr>>) {
        let Ok(addr) = target.wait_for(Option::is_some).await.map(|addr| addr.unwrap()) else {
            return;
        };
        let Ok(mut server) = TcpStream::connect(addr).await else {
            client.set_zero_linger().ok();
            return;
        };
        client.set_nodelay(true).ok();
        server.set_nodelay(true).ok();
        let end = {
            let (from_client, to_client) = client.split();
            let (from_server, to_server) = server.split();
            tokio::select! {
                end = self.clone().pump(from_client, to_server, |rules| rules.up) => end,
                end = self.clone().pump(from_server, to_client, |rules| rules.down) => end,
                end = self.clone().told() => end,
            }
        };
        match end {
            End::Closed => {}
            End::Reset => {
                self.seen.resets.fetch_add(1, Ordering::Relaxed);
                client.set_zero_linger().ok();
                server.set_zero_linger().ok();
            }
            End::Abandoned => {
                self.seen.abandoned.fetch_add(1, Ordering::Relaxed);
                drop(server);
                // Until the client gives up by itself; what it says goes nowhere.
                let mut nowhere = [0; 4096];
                while client.read(&mut nowhere).await.is_ok_and(|read| read > 0) {}
            }
        }
    }

    /// Waits until all connections of this age are cut or abandoned.
    async fn told(mut self) -> End {
        let before = *self.rules.borrow();
        loop {
            if self.rules.changed().await.is_err() {
                return End::Closed;
            }
            let now = *self.rules.borrow_and_update();
            if now.cuts != before.cuts {
                return End::Reset;
            }
            if now.abandoned != before.abandoned {
                return End::Abandoned;
            }
        }
    }

    async fn pump(
        mut self,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
        which: fn(&Rules) -> Way,
    ) -> End {
        let mut buffer = vec![0; 64 * 1024];
        let (mut passed, mut limit) = (0, 0);
        loop {
            let read = match from.read(&mut buffer).await {
                Ok(0) | Err(_) => return End::Closed,
                Ok(read) => read,
            };
            let way = which(&self.rules.borrow_and_update());
            if way.reset_after != limit {
                (passed, limit) = (0, way.reset_after);
            }
            self.hold(way, which).await;
            let allowed = match limit {
                0 => read,
                limit => read.min((limit.saturating_sub(passed)) as usize),
            };
            if self.forward(&buffer[..allowed], &mut to, way).await.is_err() {
                return End::Closed;
            }
            passed += allowed as u64;
            if allowed < read {
                return End::Reset;
            }
        }
    }

    async fn hold(&mut self, way: Way, which: fn(&Rules) -> Way) {
        if way.silent {
            self.seen.held.fetch_add(1, Ordering::Relaxed);
            // An error means that the proxy is gone, and this future with it.
            self.rules.wait_for(|rules| !which(rules).silent).await.ok();
        }
        if !way.delay.is_zero() {
            self.seen.delayed.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(way.delay).await;
        }
    }

    async fn forward(
        &self,
        bytes: &[u8],
        to: &mut (impl AsyncWrite + Unpin),
        way: Way,
    ) -> std::io::Result<()> {
        let size = if way.slice == 0 { bytes.len().max(1) } else { way.slice };
        for piece in bytes.chunks(size) {
            to.write_all(piece).await?;
            if way.slice > 0 {
                self.seen.pieces.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
        }
        Ok(())
    }
}
