//! Why somebody was asked to stop, by whom, and from which line.

use std::cell::RefCell;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::callsign;
use crate::base::text::{excerpt, printable};

/// Why a token was cancelled: the kind of reason, the source line that asked, the task that asked, and a note.
///
/// The first cause wins: a token keeps the one it was cancelled with. Cheap to clone.
///
/// ```
/// use taskmuster::{CancellationToken, Cause, CauseKind};
///
/// let token = CancellationToken::new();
/// token.cancel_with(Cause::request().with_note("the user closed the document"));
/// let cause = token.cause().ok_or("not cancelled")?;
/// assert_eq!(cause.kind(), CauseKind::Request);
/// assert_eq!(cause.note(), Some("the user closed the document"));
/// assert!(cause.at().is_some());
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone)]
pub struct Cause(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    kind: CauseKind,
    at: Option<&'static Location<'static>>,
    by: Option<Arc<str>>,
    note: Option<Box<str>>,
}

/// The kinds of reason to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CauseKind {
    /// Somebody called `cancel` on a token, a handle or a group.
    Request,
    /// SIGINT, SIGTERM or SIGHUP, or their like on other systems.
    Signal,
    /// The manager was asked to shut down, or the body of `run` ended.
    Shutdown,
    /// A deadline passed.
    Deadline,
    /// A task of the same group failed, and its policy stops the group.
    SiblingFailed,
    /// A critical task failed, and its policy shuts the manager down.
    CriticalFailure,
    /// The manager was dropped without a shutdown.
    ManagerDropped,
}

impl Cause {
    /// A plain request from the calling line and task.
    #[must_use]
    #[track_caller]
    pub fn request() -> Self {
        Self::here(CauseKind::Request)
    }

    /// A cause that has the calling line and task as its origin.
    #[track_caller]
    pub(crate) fn here(kind: CauseKind) -> Self {
        Self::at_place(kind, Location::caller())
    }

    /// A cause that has a line further up and the calling task as its origin.
    pub(crate) fn at_place(kind: CauseKind, at: &'static Location<'static>) -> Self {
        Self(Arc::new(Inner {
            kind,
            at: Some(at),
            by: actor(),
            note: None,
        }))
    }

    /// A cause that was set at an earlier moment, there and by that task.
    pub(crate) fn set_before(
        kind: CauseKind,
        at: &'static Location<'static>,
        by: Option<Arc<str>>,
    ) -> Self {
        Self(Arc::new(Inner {
            kind,
            at: Some(at),
            by,
            note: None,
        }))
    }

    /// A cause that no line of the program asked for.
    pub(crate) fn from_outside(kind: CauseKind) -> Self {
        Self(Arc::new(Inner {
            kind,
            at: None,
            by: None,
            note: None,
        }))
    }

    /// A cause that lies in a task.
    pub(crate) fn of_task(kind: CauseKind, task: &Arc<str>) -> Self {
        Self(Arc::new(Inner {
            kind,
            at: None,
            by: Some(Arc::clone(task)),
            note: None,
        }))
    }

    /// The same cause with words for the one who reads the report; the first 4 KiB of them are kept.
    #[must_use]
    pub fn with_note(mut self, note: impl Into<String>) -> Self {
        Arc::make_mut(&mut self.0).note = Some(excerpt(note.into()).into_boxed_str());
        self
    }

    /// The kind of reason.
    #[must_use]
    pub fn kind(&self) -> CauseKind {
        self.0.kind
    }

    /// The source line that asked, where a line of the program did.
    #[must_use]
    pub fn at(&self) -> Option<&'static Location<'static>> {
        self.0.at
    }

    /// The task that asked, or whose failure is the reason; `None` outside of tasks.
    #[must_use]
    pub fn by(&self) -> Option<&str> {
        self.0.by.as_deref()
    }

    /// What the one who asked had to say.
    #[must_use]
    pub fn note(&self) -> Option<&str> {
        self.0.note.as_deref()
    }

    /// Whether both are one and the same event, not merely alike.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Inner { kind, at, by, note } = &*self.0;
        match (kind, by) {
            (CauseKind::SiblingFailed, Some(task)) => {
                write!(f, "failure of `{task}` in the same group")?;
            }
            (CauseKind::CriticalFailure, Some(task)) => {
                write!(f, "failure of the critical task `{task}`")?;
            }
            (kind, Some(task)) => write!(f, "{kind} by `{task}`")?,
            (kind, None) => write!(f, "{kind}")?,
        }
        if let Some(at) = at {
            write!(f, " at {}:{}", at.file(), at.line())?;
        }
        note.as_ref()
            .map_or(Ok(()), |note| write!(f, " ({})", printable(note)))
    }
}

impl fmt::Debug for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cause({self})")
    }
}

impl fmt::Display for CauseKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "request",
            Self::Signal => "signal",
            Self::Shutdown => "shutdown",
            Self::Deadline => "deadline",
            Self::SiblingFailed => "failure of a sibling",
            Self::CriticalFailure => "critical failure",
            Self::ManagerDropped => "manager dropped",
        })
    }
}

thread_local! {
    /// The task that runs on this thread, by its printed name.
    static ACTOR: RefCell<Option<Arc<str>>> = const { RefCell::new(None) };
}

/// Says which task acts on this thread from now on.
pub(crate) fn act_as(task: Option<Arc<str>>) {
    callsign::rename(task.as_ref());
    // Only destructors of other thread-locals can come too late for this, and they act for nobody.
    let before = ACTOR.try_with(|actor| actor.replace(task));
    drop(before);
}

/// Whether a task acts on this thread.
pub(crate) fn is_acting() -> bool {
    ACTOR.try_with(|actor| actor.borrow().is_some()) == Ok(true)
}

/// The task that acts on this thread.
pub(crate) fn actor() -> Option<Arc<str>> {
    ACTOR
        .try_with(|actor| actor.borrow().clone())
        .ok()
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_says_who_asked_where_and_why() {
        act_as(Some(Arc::from("ingest/reader")));
        let cause = Cause::request().with_note("enough");
        act_as(None);
        let line = cause.at().expect("a request has a place").line();
        assert_eq!(cause.by(), Some("ingest/reader"));
        assert_eq!(
            cause.to_string(),
            format!("request by `ingest/reader` at {}:{line} (enough)", file!())
        );
    }

    #[test]
    fn little_is_kept_of_a_long_note() {
        let cause = Cause::request().with_note("x".repeat(1 << 20));
        let note = cause.note().expect("it has one");
        assert!(note.len() < 5_000 && note.ends_with('…'), "{note}");
    }

    #[test]
    fn a_failure_names_the_task_that_failed() {
        let task = Arc::from("upload");
        let cause = Cause::of_task(CauseKind::SiblingFailed, &task);
        assert_eq!(cause.to_string(), "failure of `upload` in the same group");
        assert_eq!(Cause::from_outside(CauseKind::Signal).to_string(), "signal");
    }
}
