//! Why a policy is refused.

use std::error::Error;
use std::fmt;

use crate::base::time::Duration;

/// Why a [`Backoff`](crate::Backoff), a [`Restart`](crate::Restart) or a [`Schedule`](crate::Schedule) is refused: it
/// says something that could never happen.
///
/// Its words say what to change.
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{PolicyError, Restart};
///
/// let refused = Restart::on_failure().limit(0, Duration::from_secs(60)).check();
/// assert_eq!(refused, Err(PolicyError::NoRestarts));
/// Restart::on_failure().limit(1, Duration::from_secs(60)).check()?;
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum PolicyError {
    /// The factor of a backoff is below 1, infinite or not a number.
    Factor(f64),
    /// A backoff that is to grow begins with zero, where it would stay.
    GrowthFromZero,
    /// The cap of a backoff is below its first delay.
    CapBelowFirst {
        /// The first delay.
        first: Duration,
        /// The cap.
        cap: Duration,
    },
    /// A limit of no restarts, together with a policy that restarts.
    NoRestarts,
    /// A limit whose window is zero.
    NoWindow,
    /// The window of a limit ends before the limit could be passed, however quickly the task fails.
    WindowTooShort {
        /// How many restarts the limit allows.
        restarts: u32,
        /// Its window.
        window: Duration,
        /// The shortest time in which the limit could be passed.
        soonest: Duration,
    },
    /// A backoff that is to grow, forgotten after every run.
    ForgetsAlways,
    /// A fixed rate with a period of zero.
    NoPeriod,
    /// A schedule of zero ticks.
    NoTicks,
    /// A trigger for a task without a schedule, or with a calendar.
    NothingToTrigger,
    /// The jitter of a fixed rate is not shorter than its period.
    JitterTooLong {
        /// The jitter.
        jitter: Duration,
        /// The period.
        period: Duration,
    },
}

impl fmt::Display for PolicyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Factor(factor) => write!(
                f,
                "a backoff cannot grow by the factor {factor}: give a finite number of at least 1"
            ),
            Self::GrowthFromZero => f.write_str(
                "a backoff that begins with zero never grows: give a first delay, or use Backoff::none()",
            ),
            Self::CapBelowFirst { first, cap } => write!(
                f,
                "the cap of {cap:?} is below the backoff's first delay of {first:?}: raise the cap or begin lower"
            ),
            Self::NothingToTrigger => f.write_str(
                "only a schedule has a trigger: give one with every() or schedule(), Duration::MAX for never by itself",
            ),
            Self::NoRestarts => f.write_str(
                "a limit of 0 restarts allows none: use Restart::never(), or allow at least 1",
            ),
            Self::NoWindow => f.write_str(
                "a limit within a window of zero is never passed: give a longer window, or use unlimited()",
            ),
            Self::WindowTooShort { restarts, window, soonest } => write!(
                f,
                "{restarts} restarts within {window:?} are never passed, because their delays alone take {soonest:?}: \
                 make the window longer, the limit lower or the backoff shorter"
            ),
            Self::ForgetsAlways => f.write_str(
                "a backoff that is forgotten after every run never grows: give forget_after() more than zero, or use \
                 Backoff::constant()",
            ),
            Self::NoPeriod => f.write_str(
                "a period of zero has no rate: give a period, or use Schedule::spaced(Duration::ZERO)",
            ),
            Self::NoTicks => f.write_str(
                "a schedule of 0 ticks does nothing: allow at least 1, or do not start the task",
            ),
            Self::JitterTooLong { jitter, period } => write!(
                f,
                "a jitter of {jitter:?} would move a tick past the next, a period of {period:?} later: make it shorter"
            ),
        }
    }
}

impl Error for PolicyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_says_what_to_do() {
        let second = Duration::from_secs(1);
        let refusals = [
            (PolicyError::Factor(0.5), "give a finite number"),
            (PolicyError::GrowthFromZero, "Backoff::none()"),
            (
                PolicyError::CapBelowFirst {
                    first: second * 2,
                    cap: second,
                },
                "cap of 1s is below the backoff's first delay of 2s",
            ),
            (PolicyError::NoRestarts, "Restart::never()"),
            (PolicyError::NoWindow, "unlimited()"),
            (
                PolicyError::WindowTooShort {
                    restarts: 5,
                    window: second,
                    soonest: second * 3,
                },
                "5 restarts within 1s are never passed, because their delays alone take 3s",
            ),
            (PolicyError::ForgetsAlways, "Backoff::constant()"),
            (PolicyError::NoPeriod, "Schedule::spaced"),
            (PolicyError::NoTicks, "allow at least 1"),
            (PolicyError::NothingToTrigger, "give one with every()"),
            (
                PolicyError::JitterTooLong {
                    jitter: second,
                    period: second,
                },
                "make it shorter",
            ),
        ];
        for (refusal, words) in refusals {
            assert!(refusal.to_string().contains(words), "{refusal}");
        }
    }
}
