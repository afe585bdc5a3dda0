//! Tasks that run by the calendar (feature `calendar`).

use std::error::Error;
use std::fmt;
use std::str::FromStr as _;

use chrono::{DateTime, Local};
use croner::Cron;
use croner::errors::CronError;

use crate::base::time::Duration;
use crate::task::context::{TaskContext, TaskResult};

/// How long a wait for a moment of the calendar sleeps before it looks at the wall clock again, which may have been set.
const LOOK: Duration = Duration::from_secs(60);

/// Moments of the calendar, as cron writes them: `0 3 * * *` is every day at 3 in the morning, local time.
///
/// For [`TaskBuilder::calendar`](crate::TaskBuilder::calendar). This is the one schedule that goes by the wall clock: when
/// that is set, the wait for the next moment notices within a minute. A moment that comes twice because the clock was set
/// back is used once; moments that pass while a tick is running are skipped and counted. The syntax, and what happens at
/// the edges of summer time, are those of [croner](https://docs.rs/croner).
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
    pub(crate) fn wait(&mut self, ctx: &TaskContext) -> TaskResult<Option<u64>> {
        let mut passed = 0;
        let Some(mut next) = self.calendar.after(self.last) else {
            return Ok(None);
        };
        // Those that came while a tick was running; the last of them is used at once.
        while let Some(later) = self.calendar.after(next).filter(|it| *it <= Local::now()) {
            passed += 1;
            next = later;
        }
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
}
