//! Waiting for all tasks of a group.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::{self, Latch};
use crate::base::sync::Receiver;
use crate::base::time::{Deadline, Duration};
use crate::cancel::cancelled::Cancelled;
use crate::cancel::checkpoint::Wait;
use crate::status::outcome::Outcome;
use crate::status::state::TaskEnd;
use crate::task::context::TaskContext;
use crate::task::group::Group;
use crate::task::occupant;
use crate::task::record::Record;

/// # Waiting for the whole group
impl Group {
    /// Waits until no task of this group or of those in it is live.
    ///
    /// With [`OnFailure::StopGroup`](crate::OnFailure::StopGroup) for its tasks this is the errgroup of other languages:
    /// the first failure cancels the rest and is the error. The group may be used again afterwards; its failures stay.
    ///
    /// # Errors
    /// [`GroupError::Failed`] when tasks of it failed, now or earlier: those that it [names](GroupFailure::ends) count as
    /// read from then on. Tasks that were cancelled are no failures: where that matters, join their handles, or look at the
    /// group's [`token`](Self::token).
    ///
    /// [`GroupError::WouldDeadlock`] inside one of its own tasks, [`GroupError::Forked`] in a forked copy of the process.
    ///
    /// ```
    /// use taskmuster::{GroupError, Manager, OnFailure};
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let fetch = manager.group("fetch");
    ///     let page = |number| fetch.task(format!("page {number}")).on_failure(OnFailure::StopGroup);
    ///     page(1).spawn::<()>(|ctx| Err(ctx.wait().into()))?; // would take long
    ///     page(2).spawn::<()>(|_| Err("no such page".into()))?;
    ///     let Err(GroupError::Failed(failure)) = fetch.join() else { unreachable!() };
    ///     assert_eq!(failure.to_string(), "task `fetch/page 2` failed: no such page");
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    pub fn join(&self) -> Result<(), GroupError> {
        self.join_by(Deadline::NEVER)
    }

    /// Waits at most `timeout` until no task of this group or of those in it is live.
    ///
    /// # Errors
    /// As [`join`](Self::join), and [`GroupError::StillRunning`].
    pub fn join_timeout(&self, timeout: Duration) -> Result<(), GroupError> {
        self.join_by(Deadline::after(timeout))
    }

    /// Tells of the end of each task of this group and of those in it from now on, in the order in which they end.
    ///
    /// A receiver, so it may be part of a `select!`. What is not received waits in the channel: drop the receiver when
    /// it is not needed any more. It never disconnects while the group exists.
    ///
    /// ```
    /// # use taskmuster::Manager;
    /// # let report = Manager::builder().run(|manager| {
    /// let group = manager.group("workers");
    /// let ends = group.ends();
    /// for number in 0..3 {
    ///     group.spawn(number.to_string(), |_| Ok(()))?;
    /// }
    /// for end in ends.iter().take(3) {
    ///     println!("{} {}", end.name, end.outcome);
    /// }
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    #[must_use]
    pub fn ends(&self) -> Receiver<TaskEnd> {
        self.registry().listen(self.id())
    }

    fn join_by(&self, deadline: Deadline) -> Result<(), GroupError> {
        if self.registry().ledger.is_forked() {
            return Err(GroupError::Forked);
        }
        if occupant::current_record().is_some_and(|record| self.has(&record)) {
            return Err(GroupError::WouldDeadlock);
        }
        if !self.idle().wait_until(deadline) {
            let live = self.registry().live_below(self.id());
            return Err(GroupError::StillRunning { live });
        }
        self.result()
    }

    /// A latch that opens when no task of the group is live.
    pub(crate) fn idle(&self) -> Arc<Latch> {
        self.registry().idle_in(self.id())
    }

    fn has(&self, record: &Record) -> bool {
        Arc::ptr_eq(record.ledger(), &self.registry().ledger)
            && self.registry().is_at_or_below(record.group, self.id())
    }

    fn result(&self) -> Result<(), GroupError> {
        let (records, count) = self.registry().failures_in(self.id());
        match count {
            0 => Ok(()),
            _ => Err(GroupError::Failed(GroupFailure::of(records, count))),
        }
    }

    /// The failures that nobody has read yet: at least so many as are `known` of.
    pub(crate) fn unread_failure(&self, known: usize) -> Option<GroupFailure> {
        let (mut records, _) = self.registry().failures_in(self.id());
        records.retain(|record| record.is_unread());
        let count = records.len().max(known);
        (count > 0).then(|| GroupFailure::of(records, count))
    }
}

impl GroupFailure {
    fn of(records: Vec<Arc<Record>>, count: usize) -> Self {
        let ended = |record: Arc<Record>| {
            let outcome = record.read_outcome()?;
            Some(TaskEnd {
                id: record.id,
                name: Arc::clone(&record.path),
                outcome,
            })
        };
        let mut ended: Vec<(Option<_>, TaskEnd)> = records
            .into_iter()
            .filter_map(|record| Some((record.standing().ended_at, ended(record)?)))
            .collect();
        ended.sort_by_key(|(at, _)| *at);
        Self {
            ended: ended.into_iter().map(|(_, end)| end).collect(),
            count,
        }
    }
}

impl TaskContext {
    /// Waits until no task of `group` or of those in it is live, unless this task is asked to stop meanwhile.
    ///
    /// # Errors
    /// As [`Group::join`], and [`GroupError::Interrupted`].
    #[track_caller]
    pub fn join_group(&self, group: &Group) -> Result<(), GroupError> {
        if group.registry().ledger.is_forked() {
            return Err(GroupError::Forked);
        }
        let pulse = &self.record().pulse;
        pulse.beat(Location::caller());
        if group.has(self.record()) {
            return Err(GroupError::WouldDeadlock);
        }
        let _waiting = pulse.waits_for(Wait::Tasks);
        let idle = group.idle();
        latch::wait_any(
            &[self.token().node().beacon().latch(), &idle],
            Deadline::NEVER,
        );
        self.token().checkpoint().map_err(GroupError::Interrupted)?;
        group.result()
    }
}

/// Why the join of a group gave no clean end.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum GroupError {
    /// Some of its tasks failed.
    Failed(GroupFailure),
    /// The time was over.
    StillRunning {
        /// How many of its tasks had not ended.
        live: usize,
    },
    /// A task tried to wait for the end of a group it is in.
    WouldDeadlock,
    /// The task that waited was itself asked to stop.
    Interrupted(Cancelled),
    /// This process is a fork of the one that runs the tasks.
    Forked,
}

/// The failures of a group.
#[derive(Clone, Debug)]
pub struct GroupFailure {
    /// In the order in which they failed; not empty.
    ended: Vec<TaskEnd>,
    count: usize,
}

impl GroupFailure {
    /// The failures in the order in which they happened, the first of them the cause of what followed. 64 of each group are
    /// kept: of more, those that somebody has read make room, but for the first.
    #[must_use]
    pub fn ends(&self) -> &[TaskEnd] {
        &self.ended
    }

    /// How many tasks failed.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }
}

impl fmt::Display for GroupFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.ended.first() {
            Some(TaskEnd { name, outcome, .. }) => write!(f, "task `{name}` {outcome}")?,
            None => f.write_str("tasks failed")?,
        }
        match self.count.saturating_sub(1) {
            0 => Ok(()),
            more => write!(f, " (and {more} more)"),
        }
    }
}

impl fmt::Display for GroupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => failure.fmt(f),
            Self::StillRunning { live } => write!(f, "{live} tasks of the group are still running"),
            Self::WouldDeadlock => f.write_str("a task cannot wait for the end of its own group"),
            Self::Interrupted(_) => f.write_str("waiting for the group was cancelled"),
            Self::Forked => {
                f.write_str("the group's tasks run in the process this one was forked from")
            }
        }
    }
}

impl Error for GroupError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Interrupted(cancelled) => Some(cancelled),
            Self::Failed(failure) => match failure.ended.first().map(|end| &end.outcome) {
                Some(Outcome::Failed(failure)) => Some(failure),
                Some(Outcome::Panicked(panic)) => Some(panic),
                _ => None,
            },
            Self::StillRunning { .. } | Self::WouldDeadlock | Self::Forked => None,
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use crate::manager::Manager;

    #[test]
    fn whoever_has_stopped_listening_leaves_nothing_in_the_books() {
        let manager = Manager::builder().build().expect("a manager");
        let group = manager.group("group");
        let stays = group.ends();
        for _ in 0..100 {
            drop(group.ends());
        }
        let inner = group.group("inner");
        let task = inner.spawn("task", |_| Ok(7)).expect("spawned");
        drop(inner);
        assert_eq!(task.join().expect("a value"), 7);
        assert_eq!(group.registry().listeners(group.id()), 1);
        assert_eq!(stays.len(), 1);
    }
}
