//! Real calls that hear no stop flag, and how `on_cancel` unblocks them.

use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{BoxError, CancellationToken, JoinError, Manager, TaskContext, TaskResult};

use crate::HANG;

/// Runs `blocked`, asks it to stop once it has said that it is about to block, and expects that it does.
fn is_unblocked(
    blocked: impl FnOnce(&TaskContext, &dyn Fn()) -> TaskResult<()> + Send + 'static,
) -> Result<(), JoinError> {
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    let (there, ready) = bounded(1);
    let task = manager.spawn("blocked", move |ctx| {
        blocked(ctx, &|| {
            let _ = there.send(());
        })
    });
    let task = task.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    let stopped = task.stop(HANG);
    assert!(
        !matches!(stopped, Err(JoinError::StillRunning { .. })),
        "not unblocked"
    );
    stopped
}

#[test]
fn a_read_from_a_socket_ends_when_the_socket_is_shut_down() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let mut stream = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
    let (peer, _) = listener.accept().expect("accepted");
    let stopped = is_unblocked(move |ctx, about_to_block| {
        let other = stream.try_clone()?;
        let _guard = ctx.on_cancel(move || drop(other.shutdown(Shutdown::Both)));
        about_to_block();
        let read = stream.read(&mut [0; 16])?;
        assert_eq!(read, 0, "nobody wrote");
        ctx.checkpoint()?;
        Ok(())
    });
    assert!(
        matches!(stopped, Err(JoinError::Cancelled { .. })),
        "{stopped:?}"
    );
    drop(peer);
}

#[test]
fn an_accept_ends_when_somebody_connects_to_its_own_address() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let stopped = is_unblocked(move |ctx, about_to_block| {
        let address = listener.local_addr()?;
        let _guard = ctx.on_cancel(move || drop(TcpStream::connect(address)));
        about_to_block();
        loop {
            let (connection, _) = listener.accept()?;
            ctx.checkpoint()?;
            drop(connection);
        }
    });
    assert!(
        matches!(stopped, Err(JoinError::Cancelled { .. })),
        "{stopped:?}"
    );
}

/// Stands in for a database: a statement that runs for ever and hears only its own interrupt, from another thread.
#[derive(Clone, Default)]
struct Connection(Arc<AtomicBool>);

impl Connection {
    fn interrupt_handle(&self) -> impl FnOnce() + Send + 'static {
        let flag = Arc::clone(&self.0);
        move || flag.store(true, Ordering::SeqCst)
    }

    fn run_for_ever(&self) -> io::Result<()> {
        while !self.0.load(Ordering::SeqCst) {
            std::hint::spin_loop();
        }
        Err(io::Error::other("interrupted"))
    }
}

#[test]
fn a_statement_ends_when_its_interrupt_handle_is_used() {
    let stopped = is_unblocked(|ctx, about_to_block| {
        let connection = Connection::default();
        let _guard = ctx.on_cancel(connection.interrupt_handle());
        about_to_block();
        let result = connection.run_for_ever();
        ctx.checkpoint()?; // the stop is the reason, not the statement
        Ok(result?)
    });
    assert!(
        matches!(stopped, Err(JoinError::Cancelled { .. })),
        "{stopped:?}"
    );
}

#[test]
fn what_blocks_within_a_timeout_is_unblocked_by_it() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    let task = manager.spawn("reads", move |ctx| {
        let mut stream = TcpStream::connect(listener.local_addr()?)?;
        let answer = ctx.with_timeout(Duration::from_millis(10), |ctx| {
            let other = stream.try_clone()?;
            let _guard = ctx.on_cancel(move || drop(other.shutdown(Shutdown::Both)));
            let read = stream.read(&mut [0; 16])?;
            ctx.checkpoint()?;
            Ok(read)
        });
        Ok(matches!(
            answer,
            Err(taskmuster::TimeoutError::Elapsed { .. })
        ))
    });
    let task = task.expect("spawned");
    assert!(task.join_timeout(HANG).expect("a value"));
}

#[test]
fn a_guard_that_is_dropped_leaves_the_socket_alone() -> Result<(), BoxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (mut peer, _) = listener.accept()?;
    let token = CancellationToken::new();
    let other = stream.try_clone()?;
    drop(token.on_cancel(move || drop(other.shutdown(Shutdown::Both))));
    token.cancel();
    io::Write::write_all(&mut &stream, b"still open")?;
    let mut read = [0; 10];
    peer.read_exact(&mut read)?;
    assert_eq!(&read, b"still open");
    Ok(())
}
