//! The ticks of one schedule, one after the other.

use crate::base::time::{self, Duration, Instant};
use crate::policy::random::part;
use crate::policy::schedule::{Missed, Rhythm, Schedule};

/// Where a schedule stands.
///
/// 1. `due` is the moment of the next tick in the rhythm, `moment` is that and its jitter: never before `due`, and later by
///    no more than the schedule's jitter. Neither is there if it is too far away to come.
/// 2. With a fixed rate the next `due` is counted from the one before, never from `moment` or from when the tick really
///    began, so that neither jitter nor lateness adds up. The one exception is a late tick under [`Missed::Delay`].
/// 3. How late a tick begins is counted from `moment`: jitter alone makes no tick late.
#[derive(Clone, Debug)]
pub(crate) struct Ticks {
    schedule: Schedule,
    due: Option<Instant>,
    moment: Option<Instant>,
    /// Whether a tick was still running when `moment` came.
    overrun: bool,
    /// How many ticks there are to be yet, if that is limited.
    left: Option<u64>,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Next {
    /// The next tick is at this moment; at once, if it has passed.
    At(Instant),
    /// There is no next tick: its moment never comes. One that is triggered may run.
    Never,
    /// There have been as many ticks as there were to be.
    Ended,
}

impl Ticks {
    /// Of a schedule that starts `now`.
    pub(crate) fn new(schedule: Schedule, now: Instant, random: u64) -> Self {
        let (Rhythm::Every(interval) | Rhythm::Spaced(interval)) = schedule.rhythm;
        let due = match interval {
            Duration::MAX => None,
            _ => now.checked_add(schedule.initial_delay),
        };
        let mut ticks = Self {
            left: schedule.times,
            schedule,
            due: None,
            moment: None,
            overrun: false,
        };
        ticks.plan(due, now, random);
        ticks
    }

    /// What to wait for, unless a tick is running.
    pub(crate) fn next(&self) -> Next {
        match (self.left, self.moment) {
            (Some(0), _) => Next::Ended,
            (_, Some(moment)) => Next::At(moment),
            (_, None) => Next::Never,
        }
    }

    /// The tick that was next has run from `began` to `ended`. Gives how many were missed before it began.
    pub(crate) fn ticked(&mut self, began: Instant, ended: Instant, random: u64) -> u64 {
        self.count();
        let (due, missed) = match self.schedule.rhythm {
            Rhythm::Every(period) => self.after(period, began),
            Rhythm::Spaced(pause) => (ended.checked_add(pause), 0),
        };
        self.plan(due, ended, random);
        missed
    }

    /// A tick that somebody asked for has run until `ended`, before the next was due. It counts like any other, and a
    /// fixed pause begins at its end; a fixed rate is not touched.
    pub(crate) fn triggered(&mut self, ended: Instant, random: u64) {
        self.count();
        match self.schedule.rhythm {
            Rhythm::Every(_) => self.overrun |= self.moment.is_some_and(|moment| moment < ended),
            Rhythm::Spaced(_) if self.due.is_none() => {}
            Rhythm::Spaced(pause) => self.plan(ended.checked_add(pause), ended, random),
        }
    }

    fn count(&mut self) {
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// When the tick after the one that `began` is due at a fixed rate, and how many were missed before that: a moment at
    /// which it begins to the nanosecond is one of them.
    fn after(&self, period: Duration, began: Instant) -> (Option<Instant>, u64) {
        let (Some(due), Some(moment)) = (self.due, self.moment) else {
            return (None, 0);
        };
        let late = began.saturating_duration_since(moment).as_nanos();
        let missed = late.checked_div(period.as_nanos()).unwrap_or(0);
        let counted = u64::try_from(missed).unwrap_or(u64::MAX);
        match self.schedule.missed {
            Missed::Skip => {
                let periods = time::from_nanos((missed + 1) * period.as_nanos());
                (due.checked_add(periods), counted)
            }
            Missed::Delay if self.overrun || missed > 0 => (began.checked_add(period), counted),
            Missed::Delay | Missed::Burst => (due.checked_add(period), 0),
        }
    }

    /// Sets the next tick, as it is known `now`.
    fn plan(&mut self, due: Option<Instant>, now: Instant, random: u64) {
        self.due = due;
        self.moment = due.and_then(|due| due.checked_add(part(self.schedule.jitter, random)));
        self.overrun = self.moment.is_some_and(|moment| moment < now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::random::Random;

    const NANO: Duration = Duration::from_nanos(1);
    const SECOND: Duration = Duration::from_secs(1);
    const NEARLY: Duration = Duration::from_nanos(999_999_999);
    const HOUR: Duration = Duration::from_secs(3_600);
    const KINDS: [Missed; 3] = [Missed::Skip, Missed::Delay, Missed::Burst];

    /// Waits for the next tick, wakes `late`, runs it for `ran`; says when it began and how many were missed, in seconds.
    fn run(ticks: &mut Ticks, now: &mut Instant, late: Duration, ran: Duration) -> (Instant, u64) {
        let Next::At(moment) = ticks.next() else {
            panic!("no tick: {ticks:?}");
        };
        let began = moment.max(*now) + late;
        *now = began + ran;
        (began, ticks.ticked(began, *now, 0))
    }

    /// The moments, in seconds, at which ticks begin of which the first runs for 25 s and the others for 2 s, and how
    /// many are missed before each.
    fn after_a_long_one(schedule: Schedule) -> Vec<(u64, u64)> {
        let start = time::now();
        let mut now = start;
        let mut ticks = Ticks::new(schedule, start, 0);
        let runs = [25, 2, 2, 2, 2].map(Duration::from_secs);
        let began = runs.map(|ran| {
            let (began, missed) = run(&mut ticks, &mut now, Duration::ZERO, ran);
            ((began - start).as_secs(), missed)
        });
        began.to_vec()
    }

    #[test]
    fn a_long_tick_is_followed_as_the_picture_shows() {
        let every = |missed| Schedule::every(SECOND * 10).missed(missed);
        let skip = after_a_long_one(every(Missed::Skip));
        assert_eq!(skip, [(0, 0), (25, 1), (30, 0), (40, 0), (50, 0)]);
        let delay = after_a_long_one(every(Missed::Delay));
        assert_eq!(delay, [(0, 0), (25, 1), (35, 0), (45, 0), (55, 0)]);
        let burst = after_a_long_one(every(Missed::Burst));
        assert_eq!(burst, [(0, 0), (25, 0), (27, 0), (30, 0), (40, 0)]);
        for missed in KINDS {
            let spaced = after_a_long_one(Schedule::spaced(SECOND * 10).missed(missed));
            assert_eq!(spaced, [(0, 0), (35, 0), (47, 0), (59, 0), (71, 0)]);
        }
    }

    #[test]
    fn waking_a_little_late_moves_nothing_and_misses_nothing() {
        for missed in KINDS {
            let start = time::now();
            let mut now = start;
            let mut ticks = Ticks::new(Schedule::every(SECOND).missed(missed), start, 0);
            for count in 0..1000 {
                let late = Duration::from_nanos(999_999_998);
                let (began, left_out) = run(&mut ticks, &mut now, late, NANO);
                assert_eq!(
                    (began, left_out),
                    (start + SECOND * count + late, 0),
                    "{missed:?}"
                );
            }
        }
    }

    #[test]
    fn a_tick_is_missed_at_the_nanosecond_it_is_due() {
        for (late, expected) in [
            (NEARLY, 0),
            (SECOND, 1),
            (SECOND + NEARLY, 1),
            (SECOND * 2, 2),
        ] {
            for missed in KINDS {
                let start = time::now();
                let mut now = start;
                let mut ticks = Ticks::new(Schedule::every(SECOND).missed(missed), start, 0);
                let (_, counted) = run(&mut ticks, &mut now, late, Duration::ZERO);
                let next = start + SECOND * (1 + u32::try_from(expected).unwrap());
                let next = match missed {
                    Missed::Skip => next,
                    Missed::Delay if expected > 0 => now + SECOND,
                    Missed::Delay | Missed::Burst => start + SECOND,
                };
                let expected = if missed == Missed::Burst { 0 } else { expected };
                assert_eq!(counted, expected, "{missed:?}, {late:?}");
                assert_eq!(ticks.next(), Next::At(next), "{missed:?}, {late:?}");
            }
        }
    }

    #[test]
    fn a_tick_that_ends_when_the_next_is_due_makes_it_late_a_nanosecond_later() {
        let start = time::now();
        for (ran, second_after) in [(SECOND, SECOND), (SECOND + NANO, SECOND + NANO)] {
            let mut now = start;
            let mut ticks = Ticks::new(Schedule::every(SECOND).missed(Missed::Delay), start, 0);
            run(&mut ticks, &mut now, Duration::ZERO, ran);
            // Half a second of waking late moves the rhythm only if the tick before is to blame.
            let (began, _) = run(&mut ticks, &mut now, SECOND / 2, Duration::ZERO);
            assert_eq!(began, start + second_after + SECOND / 2);
            let third = if ran > SECOND {
                began + SECOND
            } else {
                start + SECOND * 2
            };
            assert_eq!(ticks.next(), Next::At(third));
        }
    }

    /// The planned moments of a schedule, kept apart from [`Ticks`]: one after the other, without arithmetic that jumps.
    struct Reference {
        schedule: Schedule,
        due: Instant,
        moment: Instant,
        overrun: bool,
    }

    impl Reference {
        /// Counts the missed ones one by one and says where the rhythm goes on.
        fn ticked(&mut self, began: Instant, ended: Instant, number: u64) -> u64 {
            let mut missed = 0;
            match self.schedule.rhythm {
                Rhythm::Spaced(pause) => self.due = ended + pause,
                Rhythm::Every(period) => {
                    let before = self.due;
                    let mut passed = self.moment + period;
                    self.due += period;
                    if self.schedule.missed != Missed::Burst {
                        while passed <= began {
                            missed += 1;
                            passed += period;
                            self.due += period;
                        }
                    }
                    let is_late = self.overrun || missed > 0;
                    if self.schedule.missed == Missed::Delay && is_late {
                        self.due = began + period;
                    }
                    assert!(self.due > before);
                }
            }
            self.moment = self.due + part(self.schedule.jitter, number);
            self.overrun = self.moment < ended;
            missed
        }
    }

    fn up_to(most: Duration, random: &mut Random) -> Duration {
        part(most, random.draw())
    }

    /// Every kind in turn; intervals from 4 s to 20 min, to the nanosecond.
    fn random_schedule(round: u32, random: &mut Random) -> Schedule {
        let interval = SECOND * 4 * (1 << (random.draw() % 9)) + up_to(SECOND, random);
        let schedule = if round % 4 == 3 {
            Schedule::spaced(interval)
        } else {
            Schedule::every(interval)
        };
        let jitter = match random.draw() % 3 {
            0 => Duration::ZERO,
            1 => interval / 100,
            _ => interval.saturating_sub(NANO),
        };
        schedule
            .missed(KINDS[usize::try_from(round % 3).unwrap()])
            .initial_delay(up_to(interval * 2, random))
            .jitter(jitter)
    }

    /// Mostly short against the interval, at times several times as long, or just at an edge.
    fn random_span(interval: Duration, random: &mut Random) -> Duration {
        let periods = u32::try_from(random.draw() % 5).unwrap();
        match random.draw() % 16 {
            0 => up_to(interval * 5, random),
            1 => interval * periods,
            2 => interval * periods + NANO,
            3 => (interval * periods).saturating_sub(NANO),
            4..8 => up_to(interval / 2, random),
            _ => up_to(interval / 1000, random),
        }
    }

    /// Runs one schedule for 10 hours and gives how many ticks there were and how many were missed.
    fn ten_hours(schedule: &Schedule, random: &mut Random) -> (u64, u64) {
        let (Rhythm::Every(interval) | Rhythm::Spaced(interval)) = schedule.rhythm;
        let (start, number) = (time::now(), random.draw());
        let mut ticks = Ticks::new(schedule.clone(), start, number);
        let due = start + schedule.initial_delay;
        let mut reference = Reference {
            schedule: schedule.clone(),
            due,
            moment: due + part(schedule.jitter, number),
            overrun: false,
        };
        let (mut now, mut ran, mut missed) = (start, 0, 0);
        while now < start + HOUR * 10 {
            let (due, moment) = (reference.due, reference.moment);
            assert_eq!(ticks.next(), Next::At(moment), "{schedule:?}");
            assert!(
                due <= moment && moment <= due + schedule.jitter,
                "{schedule:?}"
            );
            let began = moment.max(now) + random_span(interval, random) / 4;
            now = began + random_span(interval, random);
            let number = random.draw();
            let counted = ticks.ticked(began, now, number);
            assert_eq!(
                counted,
                reference.ticked(began, now, number),
                "{schedule:?}"
            );
            ran += 1;
            missed += counted;
            if let (Rhythm::Every(period), Missed::Skip) = (schedule.rhythm, schedule.missed) {
                // Every moment of the rhythm so far was either that of a tick or missed, none was both.
                let moments = u32::try_from(ran + missed).unwrap();
                let next = start + schedule.initial_delay + period * moments;
                assert_eq!(reference.due, next, "{schedule:?}");
            }
        }
        (ran, missed)
    }

    #[test]
    fn a_thousand_schedules_keep_their_time_for_ten_hours() {
        let mut random = Random::seeded(9);
        let mut totals = [(0, 0); 3];
        for round in 0..1_000 {
            let schedule = random_schedule(round, &mut random);
            let (ran, missed) = ten_hours(&schedule, &mut random);
            let kind = KINDS
                .iter()
                .position(|kind| *kind == schedule.missed)
                .unwrap();
            totals[kind].0 += ran;
            totals[kind].1 += missed;
        }
        let [skip, delay, burst] = totals;
        assert!(
            skip.0 > 100_000 && skip.1 > 10_000,
            "{totals:?}: too one-sided"
        );
        assert!(
            delay.0 > 100_000 && delay.1 > 10_000,
            "{totals:?}: too one-sided"
        );
        assert!(
            burst.0 > 100_000 && burst.1 == 0,
            "{totals:?}: too one-sided"
        );
    }

    #[test]
    fn a_schedule_ends_after_its_number_of_ticks_however_they_came() {
        let start = time::now();
        let mut now = start;
        let mut ticks = Ticks::new(Schedule::every(SECOND).times(3), start, 0);
        assert_eq!(run(&mut ticks, &mut now, SECOND * 5, Duration::ZERO).1, 5);
        ticks.triggered(now, 0);
        assert_eq!(ticks.next(), Next::At(start + SECOND * 6));
        run(&mut ticks, &mut now, Duration::ZERO, Duration::ZERO);
        assert_eq!(ticks.next(), Next::Ended);
        ticks.triggered(now, 0);
        assert_eq!(ticks.next(), Next::Ended);
    }

    #[test]
    fn a_triggered_tick_moves_a_pause_but_no_rate() {
        let start = time::now();
        let mut rate = Ticks::new(Schedule::every(SECOND).initial_delay(SECOND), start, 0);
        rate.triggered(start + SECOND / 2, 0);
        assert_eq!(rate.next(), Next::At(start + SECOND));
        let mut pause = Ticks::new(Schedule::spaced(SECOND).initial_delay(SECOND), start, 0);
        pause.triggered(start + SECOND / 2, 0);
        assert_eq!(pause.next(), Next::At(start + SECOND * 3 / 2));
    }

    #[test]
    fn a_triggered_tick_that_runs_over_the_next_moment_makes_that_late() {
        let start = time::now();
        let schedule = Schedule::every(SECOND).initial_delay(SECOND);
        for (ended, is_late) in [(NEARLY, false), (SECOND, false), (SECOND + NANO, true)] {
            let mut now = start + ended;
            let mut ticks = Ticks::new(schedule.clone().missed(Missed::Delay), start, 0);
            ticks.triggered(now, 0);
            let (began, missed) = run(&mut ticks, &mut now, SECOND / 2, Duration::ZERO);
            assert_eq!(missed, 0);
            let next = if is_late { began } else { start + SECOND };
            assert_eq!(ticks.next(), Next::At(next + SECOND), "{ended:?}");
        }
    }

    #[test]
    fn what_never_comes_is_never_waited_for() {
        let start = time::now();
        let never = [
            Schedule::every(Duration::MAX),
            Schedule::spaced(Duration::MAX),
            Schedule::every(SECOND).initial_delay(Duration::MAX),
            Schedule::spaced(SECOND).initial_delay(Duration::MAX),
            Schedule::spaced(SECOND).jitter(Duration::MAX),
        ];
        for schedule in never {
            let mut ticks = Ticks::new(schedule.clone().times(2), start, u64::MAX);
            assert_eq!(ticks.next(), Next::Never, "{schedule:?}");
            ticks.triggered(start, u64::MAX);
            assert_eq!(ticks.next(), Next::Never, "{schedule:?}");
            ticks.triggered(start, u64::MAX);
            assert_eq!(ticks.next(), Next::Ended, "{schedule:?}");
        }
        let mut now = start;
        let mut once = Ticks::new(
            Schedule::every(Duration::MAX.saturating_sub(NANO)),
            start,
            0,
        );
        run(&mut once, &mut now, Duration::ZERO, SECOND);
        assert_eq!(once.next(), Next::Never, "the clock does not go so far");
    }

    #[test]
    fn nothing_overflows() {
        let spans = [Duration::ZERO, NANO, HOUR, Duration::MAX / 2, Duration::MAX];
        let start = time::now();
        let moments = [start, start + NANO, start + HOUR * 1_000_000];
        let each = |interval, initial, jitter, missed| {
            let schedules = [Schedule::every(interval), Schedule::spaced(interval)];
            schedules.map(|schedule| {
                schedule
                    .initial_delay(initial)
                    .jitter(jitter)
                    .missed(missed)
            })
        };
        for (interval, initial) in spans.into_iter().flat_map(|a| spans.map(|b| (a, b))) {
            for (jitter, missed) in spans.into_iter().flat_map(|a| KINDS.map(|b| (a, b))) {
                for schedule in each(interval, initial, jitter, missed) {
                    for number in [0, 1 << 63, u64::MAX] {
                        let mut ticks = Ticks::new(schedule.clone(), start, number);
                        for (began, ended) in
                            moments.into_iter().flat_map(|a| moments.map(|b| (a, b)))
                        {
                            // Also a tick that was never due, or that ended before it began.
                            ticks.ticked(began, ended, number);
                            ticks.triggered(ended, number);
                        }
                        assert_ne!(ticks.next(), Next::Ended);
                    }
                }
            }
        }
    }
}
