//! What the courier is sent to do.

use std::fmt;
use std::sync::Arc;

/// A piece of work that may block on foreign code.
pub(crate) enum Errand {
    /// To join the threads that are all but gone.
    JoinDeparted,
    /// To run this, which has a name for the report in case it blocks.
    Run(What, Box<dyn FnOnce() + Send>),
    /// Nothing: a look at whether there is anything left to do.
    Nudge,
}

/// What the courier is busy with.
#[derive(Clone, Debug)]
pub(crate) enum What {
    /// The real join of the thread of this task.
    Join(Arc<str>),
    /// Callbacks for which no thread was to be had.
    Callbacks,
    /// A line of log.
    Log,
    /// The logger's flush.
    Flush,
}

impl Errand {
    pub(crate) fn run(what: What, work: impl FnOnce() + Send + 'static) -> Self {
        Self::Run(what, Box::new(work))
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::JoinDeparted => f.write_str("Errand(the joins)"),
            Self::Run(what, _) => write!(f, "Errand({what})"),
            Self::Nudge => f.write_str("Errand(nothing)"),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Join(task) => write!(f, "the join of the thread of `{task}`"),
            Self::Callbacks => f.write_str("a callback"),
            Self::Log => f.write_str("a line of log"),
            Self::Flush => f.write_str("the flush of the log"),
        }
    }
}
