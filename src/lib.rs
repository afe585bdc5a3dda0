//! Threads under one roof.

mod base;

mod cancel;

#[cfg(feature = "env_logger")]
pub mod logging;

mod status;

mod policy;

mod task;

mod shutdown;

mod manager;

pub use cancel::cancelled::Cancelled;
pub use cancel::cause::{Cause, CauseKind};
pub use cancel::token::{CancellationToken, DropGuard};
pub use cancel::wait::{RecvError, SendError};
pub use crossbeam_channel;
pub use manager::{
    BuildError, Manager, ManagerBuilder, ShutdownError, ShutdownRequester, Waited, run,
};
pub use policy::failure::OnFailure;
pub use shutdown::diagnosis::{Diagnosis, Stage};
pub use shutdown::report::{ShutdownReport, TaskReport};
#[cfg(feature = "signals")]
pub use shutdown::signal::SignalError;
pub use status::outcome::{Outcome, SharedError};
pub use status::panic::{Panic, Place};
pub use status::state::{TaskCounts, TaskId, TaskState, TaskStatus};
pub use task::context::TaskContext;
pub use task::group::Group;
pub use task::handle::{JoinError, TaskHandle};
pub use task::panic::PanicHook;
pub use task::spawner::{SpawnError, SpawnFailure, TaskBuilder};
pub use task::thread::{BoxError, TaskBody, TaskResult};
