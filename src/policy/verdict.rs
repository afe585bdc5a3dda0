//! How a run of a task ended, and what follows from it.

use std::error::Error;

use crate::base::time::Duration;
use crate::policy::intensity::LimitPassed;
use crate::policy::permanent::is_permanent;

/// How a run of a task ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunEnd {
    Completed,
    Failed,
    FailedPermanently,
    Panicked,
    Cancelled,
}

impl RunEnd {
    /// With an error that is not the task's own cancellation: who asks has looked for that before.
    pub(crate) fn failed(error: &(dyn Error + 'static)) -> Self {
        if is_permanent(error) {
            Self::FailedPermanently
        } else {
            Self::Failed
        }
    }
}

/// What becomes of a task after a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Verdict {
    /// That was its last run, as the policy has it.
    Stop(Stop),
    /// It runs again.
    Again(Again),
    /// It should run again, but did too often.
    GiveUp(LimitPassed),
}

/// Why there is no further run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stop {
    /// It completed, and is not one that runs always.
    Completed,
    /// It failed or panicked, and is one that never runs again.
    Failed,
    /// Its error is marked as permanent.
    Permanent,
    /// It was cancelled.
    Cancelled,
}

/// The run to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Again {
    /// Which run of the task it will be; the first restart is number 2.
    pub(crate) attempt: u32,
    /// Which restart in a row it is, without a stable run between; from 1 on. The delay goes by this.
    pub(crate) in_a_row: u32,
    /// How long to wait before.
    pub(crate) delay: Duration,
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::policy::permanent::Permanent;

    #[test]
    fn an_error_marked_as_permanent_ends_a_run_for_good() {
        let plain = io::Error::other("disk full");
        assert_eq!(RunEnd::failed(&plain), RunEnd::Failed);
        let marked = io::Error::other(Permanent::new(plain));
        assert_eq!(RunEnd::failed(&marked), RunEnd::FailedPermanently);
    }
}
