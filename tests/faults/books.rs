//! Managers under test, and whether their books balance.

use std::collections::BTreeSet;
use std::env;
use std::fmt::Debug;
use std::time::Duration;

use taskmuster::crossbeam_channel::{Receiver, RecvTimeoutError};
use taskmuster::{JoinError, Manager, TaskCounts, TaskEnd, TaskHandle, TaskResult};

use crate::child::program::{Patience, becomes_so};

/// Far longer than anything here takes, even on a machine that is busy with other things too or stands still for half a
/// minute.
pub(crate) const HANG: Duration = Duration::from_secs(120);

/// A manager that has all the time in the world.
pub(crate) fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

/// The result of a task that ends; a hang fails within seconds with what the manager knows.
#[track_caller]
pub(crate) fn soon<T>(manager: &Manager, handle: &TaskHandle<T>) -> Result<T, JoinError> {
    let mut patience = Patience::new();
    loop {
        match patience.wait(|limit| handle.join_timeout(limit)) {
            (Err(JoinError::StillRunning { .. }), true) => {}
            (Err(JoinError::StillRunning { .. }), false) => {
                let (name, live) = (handle.name(), manager.tasks());
                manager.hurry(); // or its drop would take all the time in the world
                panic!("`{name}` hangs; live tasks: {live:#?}");
            }
            (result, _) => return result,
        }
    }
}

/// What must come; a hang fails within seconds.
#[track_caller]
pub(crate) fn arrives<T>(receiver: &Receiver<T>) -> T {
    in_patience(receiver).expect("it hangs, or its sender is gone")
}

/// What comes before the patience is at its end.
pub(crate) fn in_patience<T>(receiver: &Receiver<T>) -> Result<T, RecvTimeoutError> {
    let mut patience = Patience::new();
    loop {
        match patience.wait(|limit| receiver.recv_timeout(limit)) {
            (Err(RecvTimeoutError::Timeout), true) => {}
            (came, _) => return came,
        }
    }
}

/// Whatever was spawned has ended in one way, or lives.
#[track_caller]
pub(crate) fn assert_balanced(counts: TaskCounts) {
    let ended = counts.completed + counts.failed + counts.panicked + counts.cancelled;
    assert_eq!(counts.spawned, ended + counts.live, "{counts:?}");
}

/// The same, and every task that was spawned has ended and was told of exactly once: `ends` has listened to the root
/// group from the start.
#[track_caller]
pub(crate) fn assert_all_ended_once(counts: TaskCounts, ends: &Receiver<TaskEnd>) {
    assert_balanced(counts);
    assert_eq!(counts.live, 0, "{counts:?}");
    // A late end is told of a moment after it was counted.
    let told: BTreeSet<_> = (0..counts.spawned).map(|_| arrives(ends).id).collect();
    assert_eq!(
        told.len() as u64,
        counts.spawned,
        "an end was told of twice"
    );
    assert!(ends.is_empty(), "an end was told of that is none");
}

/// Waits until the books are closed over all tasks: for who has not ended although the shutdown is over, and because a
/// join may return a moment before that.
pub(crate) fn until_nobody_lives(manager: &Manager) {
    let is_over = becomes_so(|| manager.counts().live == 0);
    assert!(is_over, "live tasks: {:#?}", manager.tasks());
}

/// Does something until it comes out right, a few times at most: for what a machine that is busy elsewhere may spoil now
/// and then, and a fault each time.
#[track_caller]
pub(crate) fn in_some_try<T>(what: &str, mut attempt: impl FnMut() -> Result<T, String>) -> T {
    let mut spoilt = Vec::new();
    for _ in 0..5 {
        match attempt() {
            Ok(right) => return right,
            Err(why) => {
                println!("{what} once more: {why}");
                spoilt.push(why);
            }
        }
    }
    panic!("{what} comes out wrong each time: {}", spoilt.join("\n"))
}

/// Whether the slow proofs are asked for.
pub(crate) fn is_long() -> bool {
    env::var_os("TASKMUSTER_LONG").is_some()
}

/// `short`, or `long` when the slow proofs are asked for.
pub(crate) fn rounds(short: usize, long: usize) -> usize {
    if is_long() { long } else { short }
}

/// A body, or the end of one, that is the last to hold something.
#[expect(clippy::unnecessary_wraps, reason = "a body gives a result")]
pub(crate) fn let_go<T>(held: T) -> TaskResult {
    drop(held);
    Ok(())
}

/// The error of something that must not succeed, whose value may be anything.
#[track_caller]
pub(crate) fn refused<T, E: Debug>(result: Result<T, E>) -> E {
    match result {
        Ok(_) => panic!("it was not refused"),
        Err(error) => error,
    }
}
