//! What the courier is sent to do.

use std::fmt;
use std::sync::Arc;

/// A piece of work that may block on foreign code, with a name for the report in case it does.
pub(crate) struct Errand {
    pub(crate) what: What,
    pub(crate) run: Box<dyn FnOnce() + Send>,
}

/// The kinds of errand.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The real join of a thread that is all but gone.
    Join(Arc<str>),
    /// A line of log.
    Log,
    /// The logger's flush.
    Flush,
    /// Nothing: a look at whether there is anything left to do.
    Nudge,
}

impl Errand {
    pub(crate) fn new(what: What, run: impl FnOnce() + Send + 'static) -> Self {
        Self {
            what,
            run: Box::new(run),
        }
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Errand({})", self.what)
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(task) => write!(f, "the join of the thread of `{task}`"),
            Self::Log => f.write_str("a line of log"),
            Self::Flush => f.write_str("the flush of the log"),
            Self::Nudge => f.write_str("nothing"),
        }
    }
}
