//! Tasks that run by the calendar (feature `calendar`).

use std::error::Error;
use std::fmt;
use std::str::FromStr as _;

use chrono::{DateTime, Local};
use croner::Cron;
use croner::errors::CronError;

use crate::base::time::Duration;
use crate::cancel::cancelled::Cancelled;
use crate::task::context::TaskContext;

/// How long a wait for a moment of the calendar sleeps before it looks at the wall clock again, which may have been set.
const LOOK: Duration = Duration::from_secs(60);

/// How many moments that have passed are counted one by one: more than pass while a tick runs, and few enough for a clock
/// that was set forward by years to cost no time.
const COUNTED: u64 = 10_000;

/// Moments of the calendar, as cron writes them: `0 3 * * *` is every day at 3 in the morning, local time.
///
/// For [`TaskBuilder::calendar`](crate::TaskBuilder::calendar). This is the one schedule that goes by the wall clock: when
/// that is set, the wait for the next moment notices within a minute. A moment that comes twice because the clock was set
/// back is used once; moments that pass while a tick is running are skipped and counted, 10,000 of them at most: more pass
/// only when the clock is set forward. The syntax, and what happens at the edges of summer time, are those of
/// [croner](https://docs.rs/croner).
///
/// ```
/// use taskmuster::Calendar;
///
/// let nightly = Calendar::parse("0 3 * * *")?;
/// assert_eq!(nightly.to_string(), "0 3 * * *");
/// let words = Calendar::parse("at three").unwrap_err().to_string();
/// assert!(words.starts_with("\"at three\" is no cron pattern"));
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Calendar(Box<Cron>);

impl Calendar {
    /// The moments of a cron pattern: minute, hour, day of the month, month, day of the week; with six fields, the
    /// seconds come first.
    ///
    /// # Errors
    /// [`CalendarError`] when it is no such pattern.
    pub fn parse(pattern: &str) -> Result<Self, CalendarError> {
        match Cron::from_str(pattern) {
            Ok(cron) => Ok(Self(Box::new(cron))),
            Err(reason) => Err(CalendarError {
                pattern: pattern.to_owned(),
                reason,
            }),
        }
    }

    /// The first moment after `moment`.
    fn after(&self, moment: DateTime<Local>) -> Option<DateTime<Local>> {
        self.0.find_next_occurrence(&moment, false).ok()
    }

    /// The moment to tick at after one at `last`, as it is `now`, and how many have passed unused: of those that came while
    /// a tick was running, the last is used at once.
    fn next(&self, last: DateTime<Local>, now: DateTime<Local>) -> Option<(DateTime<Local>, u64)> {
        let (mut next, mut passed) = (self.after(last)?, 0);
        while let Some(later) = self.after(next).filter(|it| *it <= now) {
            passed += 1;
            // What came before now is all one, if it was that much.
            next = if passed < COUNTED { later } else { now };
        }
        Some((next, passed))
    }
}

impl fmt::Display for Calendar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_str().fmt(f)
    }
}

/// Where a task is in its calendar.
#[derive(Debug)]
pub(crate) struct Page {
    calendar: Calendar,
    /// The moment of the last tick, or when the task was started.
    last: DateTime<Local>,
}

impl Page {
    pub(crate) fn new(calendar: Calendar) -> Self {
        let last = Local::now();
        Self { calendar, last }
    }

    /// Waits for the next moment; gives how many passed unused, or `None` if there is none to come.
    ///
    /// # Errors
    /// The task's own cancellation.
    pub(crate) fn wait(&mut self, ctx: &TaskContext) -> Result<Option<u64>, Cancelled> {
        // A moment that has passed already is not slept for.
        ctx.checkpoint()?;
        let Some((next, passed)) = self.calendar.next(self.last, Local::now()) else {
            return Ok(None);
        };
        while let Ok(left) = next.signed_duration_since(Local::now()).to_std() {
            if left.is_zero() {
                break;
            }
            ctx.sleep(left.min(LOOK))?;
        }
        self.last = next;
        Ok(Some(passed))
    }
}

/// A text that is no cron pattern.
#[derive(Debug)]
pub struct CalendarError {
    pattern: String,
    reason: CronError,
}

impl fmt::Display for CalendarError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (pattern, reason) = (&self.pattern, &self.reason);
        write!(
            f,
            "{pattern:?} is no cron pattern: {reason}; write for example \"0 3 * * *\""
        )
    }
}

impl Error for CalendarError {}

#[cfg(test)]
mod tests {
    use chrono::TimeZone as _;

    use super::*;

    #[test]
    fn the_next_moment_is_the_first_after_the_last() {
        let calendar = Calendar::parse("30 3 * * *").expect("a pattern");
        let at = |day, hour, minute| {
            let moment = Local.with_ymd_and_hms(2026, 11, day, hour, minute, 0);
            moment.single().expect("no summer time in November")
        };
        assert_eq!(calendar.after(at(24, 3, 29)), Some(at(24, 3, 30)));
        assert_eq!(calendar.after(at(24, 3, 30)), Some(at(25, 3, 30)));
    }

    #[test]
    fn moments_that_have_passed_are_counted_and_the_last_of_them_is_used() {
        let calendar = Calendar::parse("* * * * * *").expect("a pattern");
        let last = Local.with_ymd_and_hms(2026, 11, 24, 3, 0, 0);
        let last = last.single().expect("no summer time in November");
        let second = |seconds| last + Duration::from_secs(seconds);
        let next = |late| calendar.next(last, second(late)).expect("there is one");
        assert_eq!(next(0), (second(1), 0));
        assert_eq!(next(1), (second(1), 0));
        assert_eq!(next(2), (second(2), 1));
        assert_eq!(next(5_000), (second(5_000), 4_999));
    }

    #[test]
    fn a_clock_that_is_set_forward_by_half_a_century_costs_no_time() {
        let calendar = Calendar::parse("* * * * * *").expect("a pattern");
        let at = |year| Local.with_ymd_and_hms(year, 11, 24, 3, 0, 0).single();
        let (last, now) = (at(1970).expect("a moment"), at(2026).expect("a moment"));
        let (next, passed) = calendar.next(last, now).expect("there is one");
        assert_eq!((next, passed), (now, COUNTED));
    }
}
