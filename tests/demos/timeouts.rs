//! Every way to wait, and how each ends: press Ctrl-C while all of them wait.

use std::env;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use taskmuster::crossbeam_channel::{bounded, never, select};
use taskmuster::sync::Mutex;
use taskmuster::{
    BoxError, CancellationToken, Cancelled, Manager, RecvError, ShutdownReport, TaskContext,
    TaskResult, TimeoutError,
};

mod command_line;

const HELP: &str = "\
Waits in every way there is, and shows that Ctrl-C or SIGTERM ends them all at once.

Usage: timeouts

Standard input is the one that nothing can end: it is listed in the report, and does not count.

Environment: TASKMUSTER_GRACE=<seconds> to stop in, RUST_LOG=<level>.";

/// Longer than anybody waits for a demonstration.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

fn main() -> ShutdownReport {
    command_line::print_help_if_asked(HELP);
    taskmuster::logging::init();
    taskmuster::run(|manager| {
        if let Some(argument) = env::args_os().nth(1) {
            return Err(command_line::unknown(&argument));
        }
        manager.handle_signals()?;
        let short = manager.group("short");
        short.spawn("timeout", timeout)?;
        short.spawn("deadline", deadline)?;
        short.spawn("nothing came", nothing_came)?;
        short.join()?; // all of these end by themselves

        manager.spawn("sleep", |ctx| Ok(ctx.sleep(LONG)?))?;
        manager.spawn("channel", |ctx| {
            ctx.recv(&never::<()>()).map_err(Into::into)
        })?;
        manager.spawn("select", several)?;
        manager.spawn("socket", socket)?;
        manager.spawn("accept", accept)?;
        manager.spawn("child", child)?;
        manager.task("stdin").spawn_ready(LONG, stdin)?;
        lock(manager)?;
        drop(writeln!(io::stderr(), "all wait: press Ctrl-C")); // if nobody reads it, it waits all the same
        drop(manager.wait());
        Ok(())
    })
}

/// One's own timeout is an error of its own; a cancel from outside would have gone through `other?`.
fn timeout(ctx: &TaskContext) -> TaskResult {
    let query = ctx.with_timeout(Duration::from_millis(20), |ctx| Ok(ctx.sleep(LONG)?));
    match query {
        Err(TimeoutError::Elapsed { limit, .. }) => log::info!("gave up after {limit:?}"),
        other => other?,
    }
    Ok(())
}

/// A deadline that is moved while it is pending: a connection that is used stays open.
fn deadline(ctx: &TaskContext) -> TaskResult {
    let idle = ctx.token().child_with_timeout(Duration::from_millis(50))?;
    for _ in 0..3 {
        ctx.sleep(Duration::from_millis(20))?; // somebody uses it
        idle.set_timeout(Duration::from_millis(50))?;
    }
    let reason: Cancelled = idle.wait();
    log::info!("closed: {reason}");
    Ok(())
}

fn nothing_came(ctx: &TaskContext) -> TaskResult {
    let (_orders, inbox) = bounded::<u32>(1);
    match ctx.recv_timeout(&inbox, Duration::from_millis(20)) {
        Err(RecvError::Timeout) => log::info!("no order in time"),
        other => drop(other?),
    }
    Ok(())
}

/// Several channels, and a token of two parents.
fn several(ctx: &TaskContext) -> TaskResult {
    let connection = CancellationToken::new();
    let either = CancellationToken::any([ctx.token(), &connection]);
    select! {
        recv(either.cancelled()) -> _ => Ok(either.checkpoint()?),
        recv(never::<u32>()) -> order => Err(format!("who sent {order:?}?").into()),
    }
}

/// A read hears no stop flag, but the end of its socket.
fn socket(ctx: &TaskContext) -> TaskResult {
    let peer = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut stream = TcpStream::connect(peer.local_addr()?)?;
    let other_end = stream.try_clone()?;
    let _guard = ctx.on_cancel(move || drop(other_end.shutdown(Shutdown::Both)));
    let read = stream.read(&mut [0; 64])?;
    log::info!("the read ended with {read} bytes");
    Ok(ctx.checkpoint()?)
}

/// An accept hears a connection, if need be one's own, for which a descriptor is kept.
fn accept(ctx: &TaskContext) -> TaskResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let spare = listener.try_clone()?;
    let _guard = ctx.on_cancel(move || {
        drop(spare);
        drop(TcpStream::connect(address));
    });
    loop {
        let (_connection, _) = listener.accept()?;
        ctx.checkpoint()?;
    }
}

/// A child process is ended with its task: SIGTERM to its group, a grace, SIGKILL, always reaped.
fn child(ctx: &TaskContext) -> TaskResult {
    let output = ctx.run(Command::new("sleep").arg("86400"))?;
    Err(format!("who killed it? {}", output.status).into())
}

/// Nothing unblocks a read of the terminal: it is announced, listed in the report, and not waited for.
fn stdin(ctx: &TaskContext) -> TaskResult {
    let read = ctx.foreign("the terminal", Duration::ZERO, || {
        ctx.ready(); // from inside, so that a stop finds it there
        io::stdin().read(&mut [0; 64])
    });
    log::info!("standard input gave {} bytes", read?);
    Ok(())
}

/// A lock that hears the stop: its waiter leaves the queue, and the report would say who holds it.
fn lock(manager: &Manager) -> Result<(), BoxError> {
    let ledger = Arc::new(Mutex::new(0));
    let (locked, is_locked) = bounded(1);
    let held = Arc::clone(&ledger);
    manager.spawn("holder", move |ctx| {
        let mut ledger = ctx.lock(&held)?;
        *ledger += 1;
        locked.send(())?;
        Err::<(), _>(ctx.wait().into())
    })?;
    is_locked.recv()?;
    // A group is asked to stop before what is around it: the waiter goes while the lock is held.
    let inside = manager.group("inside");
    inside.spawn("waiter", move |ctx| Ok(*ctx.lock(&ledger)?))?;
    Ok(())
}
