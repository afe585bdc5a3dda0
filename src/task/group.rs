//! Tasks that share a fate.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::time::Duration;
use crate::cancel::cause::{Cause, CauseKind};
use crate::cancel::token::CancellationToken;
use crate::task::record::{GroupId, Record};
use crate::task::registry::{Failures, ROOT, Registry};
use crate::task::spec;

/// Tasks that share a fate: they are cancelled together and stop at the same point of the shutdown.
///
/// A cheap clone that owns nothing: hand it to code that starts tasks. Groups nest; the manager's own tasks are in its
/// root group, and [`TaskContext::group`](crate::TaskContext::group) is the group of the task that asks. Dropping all
/// handles of a group changes nothing for its tasks.
///
/// At the shutdown groups stop in reverse order of creation, like destructors: make first what must stop last.
///
/// ```
/// use taskmuster::Manager;
///
/// let report = Manager::builder().run(|manager| {
///     let sinks = manager.group("sinks"); // made first, stops last
///     let sources = manager.group("sources");
///     sinks.spawn("disk", |ctx| Err::<(), _>(ctx.wait().into()))?;
///     let reader = sources.spawn("reader", |_| Ok(7))?;
///     assert_eq!(reader.name(), "sources/reader");
///     assert_eq!(reader.join()?, 7);
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
#[derive(Clone)]
pub struct Group(Arc<Inner>);

struct Inner {
    id: GroupId,
    path: Arc<str>,
    token: CancellationToken,
    registry: Arc<Registry>,
}

impl Group {
    /// The group of a manager's own tasks.
    pub(crate) fn root(registry: &Arc<Registry>) -> Self {
        let token = registry.root_token();
        Self(Arc::new(Inner {
            id: ROOT,
            path: Arc::from(""),
            token,
            registry: Arc::clone(registry),
        }))
    }

    /// Makes a group in this group.
    ///
    /// Once this group's stop has begun, the new one takes no tasks either.
    #[must_use]
    pub fn group(&self, name: impl AsRef<str>) -> Self {
        self.group_below(name.as_ref(), &self.0.token, Failures::OfAllAbove)
    }

    /// A group in this group whose tasks bear this group's name alone, and for whose failures its maker answers.
    pub(crate) fn nameless_group(&self) -> Self {
        let path = Arc::clone(&self.0.path);
        self.group_of(path, &self.0.token, Failures::OfItsMaker)
    }

    /// A group in this group whose token hangs below another one, which is this group's or below it.
    pub(crate) fn group_below(
        &self,
        name: &str,
        token: &CancellationToken,
        failures: Failures,
    ) -> Self {
        self.group_of(spec::path(self.name(), name).into(), token, failures)
    }

    fn group_of(&self, path: Arc<str>, token: &CancellationToken, failures: Failures) -> Self {
        let (token, id) = if self.0.registry.ledger.is_forked() {
            // Nothing is accepted here: what is behind the locks of the books may be so for ever.
            (CancellationToken::new(), GroupId::NOWHERE)
        } else {
            let token = token.child_token();
            let id = self.0.registry.create_group(self.0.id, &token, failures);
            (token, id)
        };
        Self(Arc::new(Inner {
            id,
            path,
            token,
            registry: Arc::clone(&self.0.registry),
        }))
    }

    /// Gives the group a grace of its own: the time its tasks have at the shutdown before the next group is asked to stop.
    ///
    /// At most half of the time left, while others are to be asked. Without it the longest grace of the tasks counts,
    /// or a fair share of the time left. It never extends the shutdown's one deadline.
    #[must_use = "gives the group back"]
    pub fn grace(self, grace: Duration) -> Self {
        self.0.registry.set_grace(self.0.id, grace);
        self
    }

    /// The name with those of the groups around it: `ingest/readers`. Empty for a manager's root group.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.0.path
    }

    /// The token all tasks of the group hang below.
    #[must_use]
    pub fn token(&self) -> &CancellationToken {
        &self.0.token
    }

    /// Cancels the tasks of this group and of those in it, and takes no new ones; `true` for the call that did it.
    ///
    /// Returns without waiting for them: join their handles, or let the shutdown do it.
    #[expect(clippy::must_use_candidate, reason = "asking twice is harmless")]
    #[track_caller]
    pub fn cancel(&self) -> bool {
        self.0.registry.refuse(self.0.id);
        self.0.token.cancel()
    }

    /// Asks the manager to shut down, from the place of the caller.
    pub(crate) fn request_shutdown(&self, note: String, at: &'static Location<'static>) {
        let cause = Cause::at_place(CauseKind::Shutdown, at).with_note(note);
        self.0.registry.request.raise(cause, None);
    }

    /// What the failure of `record`, a task of this group, means for others.
    pub(crate) fn answer_failure(&self, record: &Record) {
        use crate::policy::failure::OnFailure;
        match record.on_failure {
            OnFailure::Record => {}
            OnFailure::StopGroup => {
                let cause = Cause::of_task(CauseKind::SiblingFailed, &record.path);
                self.0.registry.refuse(self.0.id);
                let due = self.0.token.cancel_leaving_work(cause);
                self.0.registry.run_callbacks(due);
            }
            OnFailure::ShutDown => {
                self.0.registry.ledger.note_critical_failure();
                let cause = Cause::of_task(CauseKind::CriticalFailure, &record.path);
                self.0.registry.request.raise(cause, None);
            }
        }
    }

    pub(crate) fn id(&self) -> GroupId {
        self.0.id
    }

    pub(crate) fn registry(&self) -> &Arc<Registry> {
        &self.0.registry
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.registry.release_group(self.id);
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("name", &self.0.path)
            .finish_non_exhaustive()
    }
}
