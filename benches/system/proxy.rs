//! Distance to Postgres: a TCP proxy that holds back everything on its way there.
//!
//! The whole delay is on the way to the server, so that a round trip takes that much longer; the
//! answers come back at once. What is under way waits in a queue and does not hold up what follows:
//! a longer line, not a thinner one. Threads, because tokio's timer counts in whole milliseconds.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pieces under way at most, of 64 KiB each.
const UNDER_WAY: usize = 1024;
const PIECE: usize = 64 * 1024;

/// Listens until the process ends; answers where.
pub(crate) fn start(server: SocketAddr, delay: Duration) -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").context("binding a proxy")?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            thread::spawn(move || {
                if let Err(error) = serve(&client, server, delay) {
                    eprintln!("proxy: {error:#}");
                }
            });
        }
    });
    Ok(address)
}

fn serve(client: &TcpStream, server: SocketAddr, delay: Duration) -> Result<()> {
    let server = TcpStream::connect(server).context("connecting to Postgres")?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (ahead, under_way) = sync_channel(UNDER_WAY);
    let (mut from, to) = (client.try_clone()?, server.try_clone()?);
    thread::spawn(move || deliver(&under_way, to));
    thread::spawn(move || {
        let mut buffer = vec![0; PIECE];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            let piece = (Instant::now() + delay, buffer[..read].to_vec());
            if ahead.send(piece).is_err() {
                return;
            }
        }
    });
    // Either side may simply be gone at the end of a run: that is no error.
    std::io::copy(&mut &server, &mut &*client).ok();
    client.shutdown(Shutdown::Both).ok();
    Ok(())
}

fn deliver(under_way: &Receiver<(Instant, Vec<u8>)>, mut server: TcpStream) {
    for (due, piece) in under_way {
        thread::sleep(due.saturating_duration_since(Instant::now()));
        if server.write_all(&piece).is_err() {
            return;
        }
    }
    server.shutdown(Shutdown::Write).ok();
}
