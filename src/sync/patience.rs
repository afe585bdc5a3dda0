//! What ends a wait besides that which is waited for.

use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::{self, Latch};
use crate::base::time::Deadline;
use crate::cancel::cancelled::Cancelled;
use crate::cancel::token::CancellationToken;
use crate::task::context::TaskContext;
use crate::task::occupant;
use crate::task::record::Awaited;

/// How the description of a wait ends that does not hear the stop of the task that waits.
pub(crate) const DEAF: &str = ", deaf to its stop";

/// Whose cancel ends a wait, and which moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience<'a> {
    listener: Listener<'a>,
    deadline: Deadline,
}

#[derive(Clone, Copy, Debug)]
enum Listener<'a> {
    Task(&'a TaskContext),
    Token(&'a CancellationToken),
    Nobody,
}

/// What somebody who waits wants when he looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// To have it, or to wait on.
    Stay,
    /// To have it, or to go: his time is over.
    LastTry,
    /// To go: he was cancelled.
    Go,
}

/// Why somebody went with empty hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    Cancelled,
    Late,
}

impl<'a> Patience<'a> {
    pub(crate) fn of_task(context: &'a TaskContext, deadline: Deadline) -> Self {
        Self {
            listener: Listener::Task(context),
            deadline,
        }
    }

    pub(crate) fn of_token(token: &'a CancellationToken, deadline: Deadline) -> Self {
        Self {
            listener: Listener::Token(token),
            deadline,
        }
    }

    /// That of a thread which hears no cancel.
    pub(crate) fn deaf(deadline: Deadline) -> Self {
        Self {
            listener: Listener::Nobody,
            deadline,
        }
    }

    /// Waits for the latch, the cancel or the deadline.
    pub(crate) fn wait_at(&self, latch: &Latch) {
        match self.token() {
            Some(token) => {
                latch::wait_any(&[token.node().beacon().latch(), latch], self.deadline);
            }
            None => {
                latch.wait_until(self.deadline);
            }
        }
    }

    /// A cancel comes before everything, and what is there before the end of the time.
    pub(crate) fn intent(&self) -> Intent {
        if self.token().is_some_and(CancellationToken::is_cancelled) {
            Intent::Go
        } else if self.deadline.has_passed() {
            Intent::LastTry
        } else {
            Intent::Stay
        }
    }

    /// Waits with `what` on the books of the task that waits, if it is one.
    pub(crate) fn on_books<R>(
        &self,
        what: Arc<dyn Awaited>,
        place: &'static Location<'static>,
        wait: impl FnOnce() -> R,
    ) -> R {
        if let Listener::Task(context) = self.listener {
            let _awaiting = context.awaiting(what);
            return wait();
        }
        let Some(context) = occupant::current() else {
            return wait();
        };
        let what = match self.listener {
            Listener::Nobody => Arc::new(Unheard(what)),
            _ => what,
        };
        context.record().pulse.beat(place);
        let _awaiting = context.awaiting(what);
        wait()
    }

    pub(crate) fn token(&self) -> Option<&'a CancellationToken> {
        match self.listener {
            Listener::Task(context) => Some(context.token()),
            Listener::Token(token) => Some(token),
            Listener::Nobody => None,
        }
    }
}

impl Refused {
    /// What to tell somebody who could only be refused because `token` was cancelled.
    pub(crate) fn as_cancelled(self, token: &CancellationToken) -> Cancelled {
        debug_assert_eq!(self, Self::Cancelled, "there was no deadline");
        Cancelled::of(token.node())
    }
}

/// What a task waits for without hearing its stop.
struct Unheard(Arc<dyn Awaited>);

impl Awaited for Unheard {
    fn describe(&self) -> String {
        self.0.describe() + DEAF
    }
}

impl fmt::Debug for Unheard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
