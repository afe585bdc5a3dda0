//! The acceptor: takes connections in and gives each a task.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
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
    // A connection of our own ends the wait for one.
    let _unblock = ctx.on_cancel(move || {
        drop(TcpStream::connect_timeout(&bound, Duration::from_secs(1)));
    });
    eprintln!("listening on http://{bound}");
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
