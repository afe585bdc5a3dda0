//! Tasks that run by the calendar (feature `calendar`).

use std::error::Error;
use std::fmt;
use std::str::FromStr as _;

use chrono::{DateTime, Local, LocalResult, NaiveDate, NaiveDateTime, Offset as _, TimeZone};
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
/// only when the clock is set forward. The syntax is that of [croner](https://docs.rs/croner).
///
/// At the edges of summer time a pattern with a fixed second, minute and hour is used once: at the earlier of two moments
/// of the same name, and at the end of the gap if its moment falls into that. Other patterns are used at both moments, and
/// not for what the gap leaves out.
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
    fn after<Z: TimeZone>(&self, moment: &DateTime<Z>) -> Option<DateTime<Z>> {
        let zone = moment.timezone();
        let moment = moment.with_timezone(&Orderly(zone.clone()));
        let (mut from, mut inclusive) = (moment.clone(), false);
        loop {
            let next = self.0.find_next_occurrence(&from, inclusive).ok()?;
            if next > moment {
                return Some(next.with_timezone(&zone));
            }
            // Time never stands still, whatever the zone says.
            from += Duration::from_secs(1);
            inclusive = true;
        }
    }

    /// The moment to tick at after one at `last`, as it is `now`, and how many have passed unused: of those that came while
    /// a tick was running, the last is used at once.
    fn next(&self, last: DateTime<Local>, now: DateTime<Local>) -> Option<(DateTime<Local>, u64)> {
        let (mut next, mut passed) = (self.after(&last)?, 0);
        while let Some(later) = self.after(&next).filter(|it| *it <= now) {
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

/// A zone that says of its edges what croner goes by: of two moments of the same name the earlier is the first, and there
/// is none in a gap. [`Local`] has them the other way round, and takes the first second of a gap for the first after it.
#[derive(Clone, Debug)]
struct Orderly<Z>(Z);

impl<Z: TimeZone> TimeZone for Orderly<Z> {
    type Offset = Z::Offset;

    fn from_offset(offset: &Self::Offset) -> Self {
        Self(Z::from_offset(offset))
    }

    fn offset_from_local_date(&self, local: &NaiveDate) -> LocalResult<Self::Offset> {
        self.0.offset_from_local_date(local)
    }

    fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> LocalResult<Self::Offset> {
        let utc = |offset: &Self::Offset| local.checked_sub_offset(offset.fix());
        match self.0.offset_from_local_datetime(local) {
            LocalResult::Single(offset) => {
                let back = utc(&offset).map(|utc| self.offset_from_utc_datetime(&utc).fix());
                match back {
                    Some(there) if there == offset.fix() => LocalResult::Single(offset),
                    _ => LocalResult::None,
                }
            }
            LocalResult::Ambiguous(one, other) if utc(&one) > utc(&other) => {
                LocalResult::Ambiguous(other, one)
            }
            as_it_is => as_it_is,
        }
    }

    fn offset_from_utc_date(&self, utc: &NaiveDate) -> Self::Offset {
        self.0.offset_from_utc_date(utc)
    }

    fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> Self::Offset {
        self.0.offset_from_utc_datetime(utc)
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
    use chrono::FixedOffset;

    use super::*;

    /// Berlin in 2025, with the habits of [`Local`] at its edges.
    #[derive(Clone, Debug)]
    struct Berlin;

    impl Berlin {
        fn offset(hours: i32) -> FixedOffset {
            FixedOffset::east_opt(hours * 3_600).expect("an offset")
        }

        /// At this time of this day in March or October, as a clock in the zone would show it.
        fn clock(month: u32, day: u32, hour: u32, minute: u32, second: u32) -> NaiveDateTime {
            let date = NaiveDate::from_ymd_opt(2025, month, day).expect("a day");
            date.and_hms_opt(hour, minute, second).expect("a time")
        }

        fn moment(clock: NaiveDateTime, offset: i32) -> DateTime<Self> {
            let utc = clock.checked_sub_offset(Self::offset(offset));
            Self.from_utc_datetime(&utc.expect("a moment"))
        }
    }

    impl TimeZone for Berlin {
        type Offset = FixedOffset;

        fn from_offset(_: &FixedOffset) -> Self {
            Self
        }

        fn offset_from_local_date(&self, local: &NaiveDate) -> LocalResult<FixedOffset> {
            self.offset_from_local_datetime(&local.and_hms_opt(12, 0, 0).expect("noon"))
        }

        fn offset_from_local_datetime(&self, local: &NaiveDateTime) -> LocalResult<FixedOffset> {
            let (winter, summer) = (Self::offset(1), Self::offset(2));
            let (spring, autumn) = (Self::clock(3, 30, 2, 0, 0), Self::clock(10, 26, 2, 0, 0));
            let hour = Duration::from_secs(3_600);
            if *local <= spring {
                LocalResult::Single(winter)
            } else if *local < spring + hour {
                LocalResult::None
            } else if *local < autumn {
                LocalResult::Single(summer)
            } else if *local < autumn + hour {
                LocalResult::Ambiguous(winter, summer)
            } else {
                LocalResult::Single(winter)
            }
        }

        fn offset_from_utc_date(&self, utc: &NaiveDate) -> FixedOffset {
            self.offset_from_utc_datetime(&utc.and_hms_opt(12, 0, 0).expect("noon"))
        }

        fn offset_from_utc_datetime(&self, utc: &NaiveDateTime) -> FixedOffset {
            let summer = Self::clock(3, 30, 1, 0, 0)..Self::clock(10, 26, 1, 0, 0);
            Self::offset(if summer.contains(utc) { 2 } else { 1 })
        }
    }

    /// How far apart the moments of a pattern are from this one on, in seconds.
    fn steps(pattern: &str, from: DateTime<Berlin>, count: usize) -> Vec<i64> {
        let calendar = Calendar::parse(pattern).expect("a pattern");
        let moments = std::iter::successors(Some(from), |moment| calendar.after(moment));
        let moments: Vec<_> = moments.take(count + 1).collect();
        let step = |pair: &[DateTime<Berlin>]| (pair[1] - pair[0]).num_seconds();
        moments.windows(2).map(step).collect()
    }

    #[test]
    fn every_second_and_every_half_hour_come_once_at_both_edges_of_summer_time() {
        let spring = Berlin::moment(Berlin::clock(3, 30, 1, 0, 0), 1);
        let autumn = Berlin::moment(Berlin::clock(10, 26, 1, 0, 0), 2);
        for start in [spring, autumn] {
            let second = Duration::from_secs(1);
            let just_before = start + Duration::from_secs(3_590);
            assert_eq!(steps("* * * * * *", just_before, 20), [1; 20]);
            // To the end of the hour that comes twice.
            let before_its_end = start + Duration::from_secs(3 * 3_600) - second * 10;
            assert_eq!(steps("* * * * * *", before_its_end, 20), [1; 20]);
            assert_eq!(steps("*/30 * * * *", start, 8), [1_800; 8]);
        }
    }

    #[test]
    fn a_fixed_time_comes_once_a_day_at_both_edges_of_summer_time() {
        let spring = Berlin::moment(Berlin::clock(3, 29, 2, 30, 0), 1);
        // At 3:00, the end of the gap; then at 2:30 again.
        assert_eq!(
            steps("30 2 * * *", spring, 2),
            [86_400 - 1_800, 86_400 - 1_800]
        );
        let autumn = Berlin::moment(Berlin::clock(10, 25, 2, 30, 0), 2);
        assert_eq!(steps("30 2 * * *", autumn, 2), [86_400, 90_000]);
    }

    #[test]
    fn the_next_moment_is_the_first_after_the_last() {
        let calendar = Calendar::parse("30 3 * * *").expect("a pattern");
        let at = |day, hour, minute| {
            let moment = Local.with_ymd_and_hms(2026, 11, day, hour, minute, 0);
            moment.single().expect("no summer time in November")
        };
        assert_eq!(calendar.after(&at(24, 3, 29)), Some(at(24, 3, 30)));
        assert_eq!(calendar.after(&at(24, 3, 30)), Some(at(25, 3, 30)));
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
