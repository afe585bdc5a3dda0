//! A client: its requests, one after the other, and what becomes of them.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;

use taskmuster::TaskContext;

use crate::http::{Connection, Request, Response, Target};
use crate::worker::Desk;

/// Answers what a client asks until it has had enough or the service stops.
pub(crate) fn serve(ctx: &TaskContext, stream: TcpStream, desk: &Desk) {
    let stream = Arc::new(stream);
    let ear = Arc::clone(&stream);
    // Only the reading: a stop ends the wait for a request, not an answer.
    let _unblock = ctx.on_cancel(move || drop(ear.shutdown(Shutdown::Read)));
    match converse(ctx, stream, desk) {
        Ok(()) => log::debug!("closed"),
        Err(error) => log::debug!("lost: {error}"), // no failure of ours
    }
}

fn converse(ctx: &TaskContext, stream: Arc<TcpStream>, desk: &Desk) -> io::Result<()> {
    let mut connection = Connection::new(stream)?;
    while let Some(request) = connection.receive()? {
        let response = match request {
            Request::Get(target) => respond(ctx, target, desk),
            Request::Other => Response::new("405 Method Not Allowed", "only GET\n"),
            Request::Malformed => Response::new("400 Bad Request", "that is no request\n"),
        };
        if ctx.is_draining() {
            connection.let_this_be_the_last();
        }
        connection.send(&response)?;
    }
    connection.close()
}

fn respond(ctx: &TaskContext, target: Target, desk: &Desk) -> Response {
    let unavailable = || Response::new("503 Service Unavailable", "not now\n");
    match target.path() {
        "/livez" => Response::ok("alive\n"),
        _ if ctx.is_draining() => unavailable(),
        "/readyz" | "/healthz" => Response::ok("ready\n"),
        _ => desk.ask(ctx, target).unwrap_or_else(unavailable),
    }
}
