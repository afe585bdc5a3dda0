//! The states of a task, and the only ways from one to the next.
//!
//! | state | permits | left when | for |
//! |---|---|---|---|
//! | `Registered` | listing, cancel, join, abandonment | its thread begins | `Running` |
//! | | | it was cancelled before it began | `Ended` |
//! | | | the shutdown's deadline passes | `Abandoned` |
//! | `Running` | the same | the body is over | `Ended` |
//! | | | the shutdown's deadline passes | `Abandoned` |
//! | `Abandoned` | the same, a second look at the outcome | the body is over after all | `Ended`, late |
//! | `Ended` | reading the outcome, for ever | never | |
//!
//! A task whose thread could not be created was never accepted: it leaves the books, not the table.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::status::outcome::Outcome;

/// Where a task is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Registered,
    Running,
    Abandoned,
    Ended,
}

/// How a task came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a late end was counted as abandoned before"]
pub(crate) enum End {
    InTime,
    Late,
}

impl Phase {
    /// The thread begins. An abandoned task stays abandoned, even if the machine was so slow that it only starts now.
    pub(crate) fn begin(&mut self) {
        if *self == Self::Registered {
            *self = Self::Running;
        }
    }

    /// The body is over.
    pub(crate) fn end(&mut self) -> End {
        debug_assert_ne!(*self, Self::Ended, "a task ends once");
        let end = if *self == Self::Abandoned {
            End::Late
        } else {
            End::InTime
        };
        *self = Self::Ended;
        end
    }

    /// The shutdown gives up; `false` if the task had ended.
    #[must_use = "a task that has ended must not be reported as abandoned"]
    pub(crate) fn abandon(&mut self) -> bool {
        let alive = *self != Self::Ended;
        if alive {
            *self = Self::Abandoned;
        }
        alive
    }
}

/// The number of a task: unique within its manager, in order of creation, never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TaskId(pub(crate) u64);

impl fmt::Display for TaskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "#{}", self.0)
    }
}

/// What a task is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TaskState {
    /// Registered; its thread has not begun.
    Starting,
    /// Running.
    Running,
    /// Running, and asked to stop.
    Stopping,
    /// Not ended when the shutdown's deadline came.
    Abandoned,
    /// Ended, but its thread still runs destructors of thread-locals.
    Exiting,
    /// Ended.
    Ended,
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Abandoned => "abandoned",
            Self::Exiting => "exiting",
            Self::Ended => "ended",
        })
    }
}

/// A look at one task at one moment.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskStatus {
    /// Its number.
    pub id: TaskId,
    /// Its name with those of its groups: `ingest/reader`.
    pub name: Arc<str>,
    /// What it is doing.
    pub state: TaskState,
    /// How long ago it was spawned.
    pub age: Duration,
    /// How many checkpoints it has passed.
    pub checkpoints: usize,
    /// The last checkpoint or wait it passed.
    pub last_checkpoint: Option<&'static Location<'static>>,
    /// Whether it has said that it is [ready](crate::TaskContext::ready).
    pub ready: bool,
    /// Which run of its body this is, from 1 on; more than that only for tasks that are restarted.
    pub attempt: u32,
    /// How many ticks it has had, if it is periodic.
    pub ticks: u64,
    /// How many ticks it missed, if it is periodic.
    pub missed_ticks: u64,
    /// The line that spawned it.
    pub spawned_at: &'static Location<'static>,
}

/// The end of one task; heard from [`Group::ends`](crate::Group::ends).
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TaskEnd {
    /// Its number.
    pub id: TaskId,
    /// Its name with those of its groups.
    pub name: Arc<str>,
    /// What became of it.
    pub outcome: Outcome,
}

/// How many tasks a manager has had, exactly.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TaskCounts {
    /// Accepted so far.
    pub spawned: u64,
    /// Not ended.
    pub live: u64,
    /// Returned `Ok`.
    pub completed: u64,
    /// Returned an error of their own.
    pub failed: u64,
    /// Panicked.
    pub panicked: u64,
    /// Stopped because they were asked to.
    pub cancelled: u64,
    /// Runs that ended and were followed by another one of the same task.
    pub restarts: u64,
    /// Ended, in any of these ways, only after a shutdown had given up on them.
    pub late: u64,
}

impl TaskCounts {
    /// Counts one that has ended.
    pub(crate) fn add(&mut self, outcome: &Outcome) {
        match outcome {
            Outcome::Completed => self.completed += 1,
            Outcome::Failed(_) => self.failed += 1,
            Outcome::Panicked(_) => self.panicked += 1,
            Outcome::Cancelled(_) | Outcome::Abandoned => self.cancelled += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_states_is_kept() {
        let mut task = Phase::Registered;
        task.begin();
        assert_eq!(task, Phase::Running);
        assert_eq!(task.end(), End::InTime);
        assert!(!task.abandon(), "what has ended cannot be abandoned");

        let mut straggler = Phase::Registered;
        assert!(straggler.abandon());
        straggler.begin();
        assert_eq!(straggler, Phase::Abandoned);
        assert_eq!(straggler.end(), End::Late);
        assert_eq!(straggler, Phase::Ended);
    }
}
