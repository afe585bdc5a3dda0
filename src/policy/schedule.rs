//! When a periodic task runs.

use crate::base::time::Duration;
use crate::policy::error::PolicyError;

/// When a periodic task runs: at a fixed rate or with a fixed pause, from when on, how often.
///
/// Each run is a *tick*. Ticks of one task never overlap. Only the monotonic clock counts: neither daylight saving time
/// nor a change of the system's clock moves a tick. `Duration::MAX`, as period, pause or initial delay, means never: such
/// a schedule has no ticks at all; and a moment too far away for the clock never comes.
///
/// Not for dates and times of day: a `Calendar` is (feature `calendar`).
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{Missed, Schedule};
///
/// // Ten times: after 30 s and then every 5 minutes, each up to 10 s later than that; what is late is made up for.
/// let schedule = Schedule::every(Duration::from_secs(300))
///     .initial_delay(Duration::from_secs(30))
///     .jitter(Duration::from_secs(10))
///     .missed(Missed::Burst)
///     .times(10);
/// schedule.check()?;
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[doc(alias = "interval")]
#[doc(alias = "ticker")]
#[must_use = "a schedule does nothing until a task is started with it"]
pub struct Schedule {
    pub(crate) rhythm: Rhythm,
    pub(crate) initial_delay: Duration,
    pub(crate) jitter: Duration,
    pub(crate) missed: Missed,
    pub(crate) times: Option<u64>,
}

/// What the time to the next tick is counted from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rhythm {
    /// A fixed rate: from the moment of the tick before.
    Every(Duration),
    /// A fixed pause: from the end of the tick before.
    Spaced(Duration),
}

/// What becomes of the ticks of [`Schedule::every`] whose moment passed while the task could not run them.
///
/// A tick is *late* if its moment comes while the one before still runs, or if the system wakes the thread a whole period
/// after it. (That it wakes a little late, as it always does, makes no tick late and moves nothing.) A late tick runs at
/// once, whatever is said here; what differs is what follows it. The moments that pass until it runs, other than its own,
/// are the *missed* ones.
///
/// A task runs every 10 s, and its first tick takes 25 s, all others 2 s. The tick of second 10 is late and runs at 25,
/// and the moment of second 20 passes before that:
///
/// ```text
/// second  0         10        20        30        40        50
/// moment  |         |         |         |         |         |
/// Skip    [=======================][]   []        []        []    missed: 1
/// Delay   [=======================][]        []        []         missed: 1
/// Burst   [=======================][][] []        []        []    missed: 0
/// ```
///
/// The names and the meaning are those of tokio's `MissedTickBehavior`, but there a tick is late after 5 ms. With jitter,
/// a tick's moment is where jitter has put it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "MissedTickBehavior")]
#[doc(alias = "misfire")]
pub enum Missed {
    /// Those that were missed do not run. The next is at the next moment of the rhythm, which may be soon after the late
    /// one. Ticks and missed ones together are as many as the moments that came.
    #[default]
    Skip,
    /// Those that were missed do not run, and the rhythm moves: the next is one period after the late one began.
    Delay,
    /// None is missed: all run, one after the other without a pause, until the rhythm is reached again. A task whose
    /// ticks take longer than the period never gets there.
    Burst,
}

impl Schedule {
    /// At a fixed rate: the n-th tick is n periods after the first, however long ticks take. The first is at once,
    /// unless there is an [`initial_delay`](Self::initial_delay).
    pub fn every(period: Duration) -> Self {
        Self::with(Rhythm::Every(period))
    }

    /// With a fixed pause: each tick is so long after the end of the one before, which also holds if that failed. The
    /// first is at once, unless there is an [`initial_delay`](Self::initial_delay).
    pub fn spaced(pause: Duration) -> Self {
        Self::with(Rhythm::Spaced(pause))
    }

    fn with(rhythm: Rhythm) -> Self {
        Self {
            rhythm,
            initial_delay: Duration::ZERO,
            jitter: Duration::ZERO,
            missed: Missed::default(),
            times: None,
        }
    }

    /// How long after the start the first tick is. Zero by default; give the period to begin a period later.
    pub fn initial_delay(self, delay: Duration) -> Self {
        Self {
            initial_delay: delay,
            ..self
        }
    }

    /// Moves every tick, the first as well, by chance: never earlier, later by up to this.
    ///
    /// A fixed rate goes on as if there were no jitter, so that delays do not add up; there it must be shorter than the
    /// period.
    pub fn jitter(self, most: Duration) -> Self {
        Self {
            jitter: most,
            ..self
        }
    }

    /// What becomes of missed ticks: [`Missed::Skip`] by default. [`spaced`](Self::spaced) misses none.
    pub fn missed(self, missed: Missed) -> Self {
        Self { missed, ..self }
    }

    /// Ends the schedule after so many ticks. Those that were missed do not count.
    pub fn times(self, ticks: u64) -> Self {
        Self {
            times: Some(ticks),
            ..self
        }
    }

    /// Whether it can do what it says; a task with a schedule that cannot is not started.
    ///
    /// # Errors
    /// [`PolicyError`] if the period of a fixed rate is zero, if its jitter is not shorter than its period, or if there
    /// are to be no ticks.
    pub fn check(&self) -> Result<(), PolicyError> {
        if self.times == Some(0) {
            return Err(PolicyError::NoTicks);
        }
        match self.rhythm {
            Rhythm::Every(Duration::ZERO) => Err(PolicyError::NoPeriod),
            Rhythm::Every(period) if self.jitter >= period => Err(PolicyError::JitterTooLong {
                jitter: self.jitter,
                period,
            }),
            Rhythm::Every(_) | Rhythm::Spaced(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_schedule_that_could_not_do_what_it_says_is_refused() {
        let refusals = [
            (Schedule::every(Duration::ZERO), PolicyError::NoPeriod),
            (Schedule::every(SECOND).times(0), PolicyError::NoTicks),
            (Schedule::spaced(SECOND).times(0), PolicyError::NoTicks),
            (
                Schedule::every(SECOND).jitter(SECOND),
                PolicyError::JitterTooLong {
                    jitter: SECOND,
                    period: SECOND,
                },
            ),
        ];
        for (schedule, error) in refusals {
            assert_eq!(schedule.check(), Err(error), "{schedule:?}");
        }
    }

    #[test]
    fn what_can_happen_is_not_refused() {
        let nearly = Duration::from_nanos(999_999_999);
        let sound = [
            Schedule::every(Duration::from_nanos(1)),
            Schedule::every(Duration::MAX),
            Schedule::every(SECOND).jitter(nearly),
            Schedule::every(SECOND).initial_delay(Duration::MAX),
            Schedule::spaced(Duration::ZERO).times(1),
            Schedule::spaced(Duration::ZERO).jitter(Duration::MAX),
        ];
        for schedule in sound {
            assert_eq!(schedule.check(), Ok(()), "{schedule:?}");
        }
    }
}
