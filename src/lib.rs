//! Threads with an owner: stoppable, watched, accounted for.
//!
//! Every thread you start is owned, named, stoppable, watched, and accounted for when the program ends.
//!
//! A thread-based, synchronous task manager for blocking and CPU-heavy programs that want no async runtime.
//!
//! - [`run`] lends a [`Manager`] to the body of `main`, stops everything afterwards, and gives a [`ShutdownReport`] to
//!   return from `main`.
//! - [`Manager::spawn`] starts a task on a thread of its own; the task gets a [`TaskContext`] for its
//!   [checkpoints](TaskContext::checkpoint) and [waits](TaskContext#waiting), the caller a [`TaskHandle`].
//! - A [`Group`] is what code that starts tasks is handed; groups stop in reverse order of creation.
//! - [`TaskBuilder::restart`] and [`schedule`](TaskBuilder::schedule) run a task again, a [`Timetable`] many of them, a
//!   [`Supervisor`] some together; [`Group::scope`] lends tasks that borrow; [`Group::startup`] starts some in order.
//! - A [`CancellationToken`] is for the functions and helper threads that tasks call.
//! - Child processes (feature `process`) belong to a task and end with it: `TaskContext::run`, `spawn_child`.
//! - A [`sync::Mutex`] and a [`sync::Condvar`] are waited for like everything else: a cancel ends the wait at once.
//! - [`Outcome`] is what became of a task, [`Cause`] why it was asked to stop, [`Diagnosis`] why it did not.
//!
//! ```
//! use std::time::Duration;
//! use taskmuster::{Manager, ShutdownReport};
//!
//! fn main() -> ShutdownReport {
//!     Manager::builder().grace(Duration::from_secs(10)).run(|manager| {
//! #       #[cfg(all(feature = "signals", not(any(loom, shuttle))))]
//!         manager.handle_signals()?; // Ctrl-C and SIGTERM
//!         let primes = manager.spawn("primes", |ctx| {
//!             let mut found = 0_u32;
//!             for n in 2..5_000_u32 {
//!                 ctx.checkpoint()?; // about a nanosecond
//!                 found += u32::from((2..n).take_while(|d| d * d <= n).all(|d| n % d != 0));
//!             }
//!             Ok(found)
//!         })?;
//!         assert_eq!(primes.join()?, 669);
//!         Ok(()) // leaving the body starts the shutdown
//!     })
//! }
//! ```
//!
//! # Features
//! - `signals` (default): [`Manager`]`::handle_signals`, for Ctrl-C, SIGTERM and SIGHUP.
//! - `process` (default): child processes.
//! - `calendar`: tasks that run by cron patterns.
//! - `env_logger`: `logging::init`, a logger whose lines carry the task's name. Any other logger of [log] does as well.
//!
//! [log]: https://docs.rs/log
//!
//! # Not for
//! Async code (use tokio and tokio-util), data parallelism (use rayon), a million tiny jobs (use a pool). A thread
//! cannot be killed from outside: a task that never looks is abandoned at the deadline, and named.

#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::exit,
    clippy::mem_forget,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::clone_on_ref_ptr,
    clippy::significant_drop_in_scrutinee
)]
#![cfg_attr(
    any(test, loom, shuttle),
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "tests and models fail by panicking"
    )
)]
#![cfg_attr(
    any(loom, shuttle),
    allow(
        dead_code,
        reason = "what no model checker has the like of is left out of the models"
    )
)]

mod base;

mod cancel;

#[cfg(feature = "env_logger")]
pub mod logging;

mod status;

mod policy;

mod task;

pub mod sync;

#[cfg(all(feature = "process", not(any(loom, shuttle))))]
mod process;

#[cfg(not(any(loom, shuttle)))]
mod run;

mod shutdown;

mod manager;

#[cfg(any(loom, shuttle))]
#[doc(hidden)]
pub mod models;

#[cfg(all(doctest, feature = "signals"))]
mod readme;

pub use cancel::cancelled::Cancelled;
pub use cancel::cause::{Cause, CauseKind};
pub use cancel::deadline::DeadlineError;
pub use cancel::on_cancel::CallbackGuard;
pub use cancel::token::{CancellationToken, DropGuard};
pub use cancel::wait::{RecvError, SendError};
pub use crossbeam_channel;
pub use manager::{
    BuildError, Manager, ManagerBuilder, ShutdownError, ShutdownRequester, Waited, run,
};
pub use policy::backoff::{Backoff, Jitter};
pub use policy::error::PolicyError;
pub use policy::failure::OnFailure;
pub use policy::permanent::Permanent;
pub use policy::restart::Restart;
pub use policy::schedule::{Missed, Schedule};
#[cfg(all(feature = "process", not(any(loom, shuttle))))]
pub use process::child::ChildProcess;
#[cfg(all(feature = "process", not(any(loom, shuttle))))]
pub use process::output::{ExitError, ProcessOutput};
#[cfg(all(feature = "process", not(any(loom, shuttle))))]
pub use process::run_error::RunError;
#[cfg(all(feature = "calendar", not(any(loom, shuttle))))]
pub use run::calendar::{Calendar, CalendarError};
#[cfg(not(any(loom, shuttle)))]
pub use run::repeat::{GaveUp, RepeatingTask, Trigger};
#[cfg(not(any(loom, shuttle)))]
pub use run::retry::{Retry, RetryError};
#[cfg(not(any(loom, shuttle)))]
pub use run::scope::{Scope, ScopeError, ScopeSpawnError};
#[cfg(not(any(loom, shuttle)))]
pub use run::startup::{StartError, StartFailure, Startup};
#[cfg(not(any(loom, shuttle)))]
pub use run::supervisor::{Child, Strategy, Supervisor};
#[cfg(not(any(loom, shuttle)))]
pub use run::timetable::{Job, Timetable};
pub use shutdown::diagnosis::{Diagnosis, InSection, Stage};
pub use shutdown::report::{ShutdownReport, TaskReport};
#[cfg(all(feature = "signals", not(any(loom, shuttle))))]
pub use shutdown::signal::SignalError;
pub use status::outcome::{Failure, Outcome, SharedError};
pub use status::panic::{Panic, Place};
pub use status::state::{TaskCounts, TaskEnd, TaskId, TaskState, TaskStatus};
pub use task::context::{BoxError, TaskBody, TaskContext, TaskResult};
pub use task::gather::{GroupError, GroupFailure};
pub use task::group::Group;
pub use task::handle::{JoinError, ReadyError, TaskHandle, wait_any};
pub use task::loops::Checked;
pub use task::occupant::{checkpoint, current};
pub use task::panic::PanicHook;
pub use task::record::SectionKind;
pub use task::section::TimeoutError;
pub use task::spawner::{SpawnError, SpawnFailure, TaskBuilder};
