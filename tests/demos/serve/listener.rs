//! The acceptor: takes connections in and gives each a task.

use std::io::{self, ErrorKind, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use anyhow::Context as _;
use taskmuster::{Group, TaskContext, TaskResult};

use crate::client;
use crate::worker::Desk;

/// Accepts until it is asked to stop: while the service drains, too, so that clients hear that it does.
pub(crate) fn accept(
    ctx: &TaskContext,
    address: &str,
    clients: &Group,
    desk: &Arc<Desk>,
) -> TaskResult {
    let listener =
        TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?;
    let bound = listener.local_addr()?;
    // A connection of our own ends the wait for one. Its descriptor is kept for it: the clients may have all others.
    let spare = listener.try_clone()?;
    let _unblock = ctx.on_cancel(move || {
        drop(spare);
        knock(&bound);
    });
    // If nobody reads it, nobody can be told, and the service goes on.
    drop(writeln!(io::stderr(), "listening on http://{bound}"));
    ctx.ready();
    loop {
        let accepted = listener.accept();
        ctx.checkpoint()?;
        match accepted {
            Ok((stream, peer)) => {
                let desk = Arc::clone(desk);
                let admitted = clients.spawn(peer.to_string(), move |ctx| {
                    client::serve(ctx, stream, &desk);
                    Ok(())
                });
                if let Err(refused) = admitted {
                    log::warn!("{refused}"); // and its connection is closed with it
                }
            }
            Err(error) => {
                log::warn!("cannot accept: {error}"); // too many open files, say: it passes
                ctx.sleep(Duration::from_millis(100))?;
            }
        }
    }
}

/// Has the acceptor look whether it is asked to stop. Another thread may be faster and have the spare descriptor: then it
/// takes another attempt.
fn knock(address: &SocketAddr) {
    for _ in 0..10 {
        match TcpStream::connect_timeout(address, Duration::from_secs(1)) {
            Ok(_) => return,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => return, // it has ended by itself
            Err(error) => log::warn!("cannot wake the acceptor: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    }
}
