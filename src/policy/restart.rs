//! Whether a task that ended runs again.

use crate::base::time::{Duration, Instant};
use crate::policy::backoff::Backoff;
use crate::policy::error::PolicyError;
use crate::policy::intensity::{Intensity, Limit};
use crate::policy::verdict::{Again, RunEnd, Stop, Verdict};

/// How many restarts are allowed if nothing was said.
const RESTARTS: u32 = 5;

/// Within what window they are, not counting their delays.
const WINDOW: Duration = Duration::from_secs(60);

/// How long a run must last for the delays to begin anew, if nothing was said.
const FORGET_AFTER: Duration = Duration::from_secs(60);

/// Whether a task runs again after it has ended, how long it waits before, and how often is too often.
///
/// | a run that | [`never()`](Self::never), the default | [`on_failure()`](Self::on_failure) | [`always()`](Self::always) |
/// | --- | --- | --- | --- |
/// | returned `Ok` | stop | stop | again |
/// | returned an error, or panicked | stop | again | again |
/// | returned an error marked [`Permanent`](crate::Permanent) | stop | stop | stop |
/// | was cancelled | stop | stop | stop |
///
/// - **Delay**: [`Backoff::default()`] (100 ms, doubling up to 30 s, each between half of it and all), unless
///   [`backoff`](Self::backoff) says otherwise.
/// - **Limit**: five restarts within one minute and the longest time that their delays can take, unless
///   [`limit`](Self::limit) says otherwise. So a task that fails whenever it starts is given up whatever its backoff is.
/// - **Forgetting**: after a run of at least a minute the delays begin with the first again, unless
///   [`forget_after`](Self::forget_after) says otherwise.
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{Backoff, Restart};
///
/// let restart = Restart::on_failure()
///     .backoff(Backoff::exponential(Duration::from_millis(100)))
///     .limit(5, Duration::from_secs(60));
/// restart.check()?;
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[doc(alias = "supervise")]
#[doc(alias = "retry")]
#[must_use = "a policy does nothing until a task is started with it"]
pub struct Restart {
    when: When,
    backoff: Backoff,
    bound: Bound,
    forget_after: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Never,
    OnFailure,
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bound {
    Default,
    Limit(Limit),
    None,
}

impl Restart {
    /// One run, whatever else is said.
    pub fn never() -> Self {
        Self {
            when: When::Never,
            backoff: Backoff::default(),
            bound: Bound::Default,
            forget_after: FORGET_AFTER,
        }
    }

    /// Again after an error or a panic.
    pub fn on_failure() -> Self {
        Self {
            when: When::OnFailure,
            ..Self::never()
        }
    }

    /// Again however a run ended, also after `Ok`. Every restart counts against the limit, whatever it came from.
    pub fn always() -> Self {
        Self {
            when: When::Always,
            ..Self::never()
        }
    }

    /// How long to wait before each restart.
    pub fn backoff(self, backoff: Backoff) -> Self {
        Self { backoff, ..self }
    }

    /// At most so many restarts within any window of this length: the task is given up when one more is due.
    ///
    /// The edge belongs to the window: a restart exactly one `window` ago counts, one that is a nanosecond older does
    /// not. A restart counts from the moment the run before it ended, so that delays pass within the window.
    pub fn limit(self, restarts: u32, window: Duration) -> Self {
        let bound = Bound::Limit(Limit { restarts, window });
        Self { bound, ..self }
    }

    /// As many restarts as it takes. Not without a [`backoff`](Self::backoff): a task that fails at once would keep a
    /// core busy.
    pub fn unlimited(self) -> Self {
        Self {
            bound: Bound::None,
            ..self
        }
    }

    /// How long a run must last, at least, for the delays to begin with the first again. `Duration::MAX` means they never
    /// do. The limit is not touched: its window forgets by itself.
    pub fn forget_after(self, run: Duration) -> Self {
        Self {
            forget_after: run,
            ..self
        }
    }

    /// Whether it can do what it says; a task with a policy that cannot is not started.
    ///
    /// # Errors
    /// [`PolicyError`], and nothing at all for [`never()`](Self::never):
    /// - if [`Backoff::check`] says so,
    /// - if the backoff is to grow, but is forgotten after runs of any length,
    /// - if the limit allows no restart, or has no window,
    /// - if the limit can never be passed: if so many delays do not fit into the window even though every run fails at
    ///   once, jitter makes each delay as short as it can, and, where that is quicker, a run of
    ///   [`forget_after`](Self::forget_after) lets them begin anew. A sum of exactly one window fits. Of more than 1,024
    ///   restarts, those after the 1,024th are taken to wait no longer than that one.
    pub fn check(&self) -> Result<(), PolicyError> {
        self.check_with(|limit| limit.check(&self.backoff, self.forget_after))
    }

    /// The same for several tasks whose restarts count together: their delays do not follow one another, so that any window
    /// is long enough for them.
    pub(crate) fn check_side_by_side(&self) -> Result<(), PolicyError> {
        self.check_with(Limit::check_numbers)
    }

    fn check_with(
        &self,
        check_limit: impl FnOnce(Limit) -> Result<(), PolicyError>,
    ) -> Result<(), PolicyError> {
        if self.when == When::Never {
            return Ok(());
        }
        self.backoff.check()?;
        if self.forget_after.is_zero() && self.backoff.grows() {
            return Err(PolicyError::ForgetsAlways);
        }
        match self.bound {
            Bound::Limit(limit) => check_limit(limit),
            Bound::Default | Bound::None => Ok(()),
        }
    }

    /// What becomes of a task whose run ended `now` after it `ran` so long; enters it into the books of the task.
    ///
    /// Pure: the same answer to the same history. Any policy gives one, checked or not.
    pub(crate) fn decide(
        &self,
        history: &mut History,
        end: RunEnd,
        ran: Duration,
        now: Instant,
        random: u64,
    ) -> Verdict {
        if let Some(why) = self.stops(end) {
            return Verdict::Stop(why);
        }
        if ran >= self.forget_after {
            history.forget();
        }
        let added = self
            .limit_in_force()
            .map_or(Ok(()), |limit| history.intensity.add(limit, now));
        match added {
            Ok(()) => history.again(&self.backoff, random),
            Err(passed) => Verdict::GiveUp(passed),
        }
    }

    fn stops(&self, end: RunEnd) -> Option<Stop> {
        match (end, self.when) {
            (RunEnd::Cancelled, _) => Some(Stop::Cancelled),
            (RunEnd::FailedPermanently, _) => Some(Stop::Permanent),
            (RunEnd::Completed, When::Never | When::OnFailure) => Some(Stop::Completed),
            (RunEnd::Failed | RunEnd::Panicked, When::Never) => Some(Stop::Failed),
            (RunEnd::Failed | RunEnd::Panicked, When::OnFailure | When::Always)
            | (RunEnd::Completed, When::Always) => None,
        }
    }

    /// The limit that was given, or the default one; `None` without.
    pub(crate) fn limit_in_force(&self) -> Option<Limit> {
        match self.bound {
            Bound::None => None,
            Bound::Limit(limit) => Some(limit),
            Bound::Default => {
                let delays = (1..=RESTARTS).map(|attempt| self.backoff.longest(attempt));
                Some(Limit {
                    restarts: RESTARTS,
                    window: delays.fold(WINDOW, Duration::saturating_add),
                })
            }
        }
    }
}

/// [`Restart::never`].
impl Default for Restart {
    fn default() -> Self {
        Self::never()
    }
}

/// What is remembered of the runs of one task: no more than its limit allows restarts.
#[derive(Clone, Debug)]
pub(crate) struct History {
    intensity: Intensity,
    attempt: u32,
    in_a_row: u32,
    previous: Duration,
}

impl History {
    /// Of a task that is about to run for the first time.
    pub(crate) fn new() -> Self {
        Self {
            intensity: Intensity::default(),
            attempt: 1,
            in_a_row: 0,
            previous: Duration::ZERO,
        }
    }

    /// Which run of the task this is; the first is number 1. Never forgotten, and at the end it stays `u32::MAX`.
    pub(crate) fn attempt(&self) -> u32 {
        self.attempt
    }

    fn forget(&mut self) {
        self.in_a_row = 0;
        self.previous = Duration::ZERO;
    }

    fn again(&mut self, backoff: &Backoff, random: u64) -> Verdict {
        self.attempt = self.attempt.saturating_add(1);
        self.in_a_row = self.in_a_row.saturating_add(1);
        self.previous = backoff.delay(self.in_a_row, self.previous, random);
        Verdict::Again(Again {
            attempt: self.attempt,
            in_a_row: self.in_a_row,
            delay: self.previous,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time;
    use crate::policy::backoff::Jitter;
    use crate::policy::intensity::LimitPassed;
    use crate::policy::random::Random;

    const SECOND: Duration = Duration::from_secs(1);

    fn decide(restart: &Restart, end: RunEnd) -> Verdict {
        restart.decide(&mut History::new(), end, Duration::ZERO, time::now(), 0)
    }

    #[test]
    fn who_runs_again_is_a_table() {
        let (never, on_failure, always) =
            (Restart::never(), Restart::on_failure(), Restart::always());
        let table = [
            (
                RunEnd::Completed,
                [Some(Stop::Completed), Some(Stop::Completed), None],
            ),
            (RunEnd::Failed, [Some(Stop::Failed), None, None]),
            (RunEnd::Panicked, [Some(Stop::Failed), None, None]),
            (RunEnd::FailedPermanently, [Some(Stop::Permanent); 3]),
            (RunEnd::Cancelled, [Some(Stop::Cancelled); 3]),
        ];
        for (end, stops) in table {
            for (restart, stop) in [&never, &on_failure, &always].into_iter().zip(stops) {
                let verdict = decide(restart, end);
                match stop {
                    Some(stop) => assert_eq!(verdict, Verdict::Stop(stop), "{end:?}, {restart:?}"),
                    None => assert!(matches!(verdict, Verdict::Again(_)), "{end:?}, {restart:?}"),
                }
            }
        }
        assert_eq!(Restart::default(), Restart::never());
    }

    /// What the random policy of a history is made of.
    struct Setting {
        restart: Restart,
        backoff: Backoff,
        limit: Option<(u32, Duration)>,
        forget_after: Duration,
    }

    fn millis(most: u64, random: &mut Random) -> Duration {
        Duration::from_millis(random.draw() % (most + 1))
    }

    fn random_setting(random: &mut Random) -> Setting {
        let jitters = [
            Jitter::None,
            Jitter::Full,
            Jitter::Equal,
            Jitter::Decorrelated,
        ];
        let backoff = Backoff::exponential(millis(4, random))
            .cap(millis(20, random))
            .jitter(jitters[usize::try_from(random.draw() % 4).unwrap()]);
        let restarts = u32::try_from(random.draw() % 5).unwrap();
        let limit = (restarts < 4).then(|| (restarts, millis(30, random)));
        let forget_after = millis(10, random);
        let restart = Restart::always()
            .backoff(backoff.clone())
            .forget_after(forget_after);
        Setting {
            restart: match limit {
                Some((restarts, window)) => restart.limit(restarts, window),
                None => restart.unlimited(),
            },
            backoff,
            limit,
            forget_after,
        }
    }

    /// All runs ever that were followed by another: how long each was, when it ended, and the delay after it.
    type Runs = Vec<(Duration, Instant, Duration)>;

    /// What is to be decided, read from the whole past.
    fn reference(
        setting: &Setting,
        runs: &Runs,
        ran: Duration,
        now: Instant,
        random: u64,
    ) -> Verdict {
        if let Some((restarts, window)) = setting.limit {
            let counting = runs
                .iter()
                .filter(|(_, ended, _)| now.duration_since(*ended) <= window);
            let ages: Vec<Duration> = counting
                .map(|(_, ended, _)| now.duration_since(*ended))
                .collect();
            if u32::try_from(ages.len()).unwrap() + 1 > restarts {
                return Verdict::GiveUp(LimitPassed {
                    limit: Limit { restarts, window },
                    within: ages.into_iter().max().unwrap_or_default(),
                });
            }
        }
        let lengths = [ran]
            .into_iter()
            .chain(runs.iter().rev().map(|(ran, ..)| *ran));
        let unstable = lengths
            .take_while(|ran| *ran < setting.forget_after)
            .count();
        let in_a_row = u32::try_from((unstable + 1).min(runs.len() + 1)).unwrap();
        let previous = match in_a_row {
            1 => Duration::ZERO,
            _ => runs.last().unwrap().2,
        };
        Verdict::Again(Again {
            attempt: u32::try_from(runs.len()).unwrap() + 2,
            in_a_row,
            delay: setting.backoff.delay(in_a_row, previous, random),
        })
    }

    #[test]
    fn a_million_random_histories_are_decided_like_a_slow_reference() {
        let start = time::now();
        let mut random = Random::seeded(7);
        let (mut again, mut given_up) = (0, 0);
        for _ in 0..1_000_000 {
            let setting = random_setting(&mut random);
            let mut history = History::new();
            let mut runs = Runs::new();
            let mut now = start;
            for _ in 0..6 {
                let (ran, number) = (millis(12, &mut random), random.draw());
                now += ran;
                let expected = reference(&setting, &runs, ran, now, number);
                let verdict =
                    setting
                        .restart
                        .decide(&mut history, RunEnd::Failed, ran, now, number);
                assert_eq!(verdict, expected, "{:?}, {runs:?}", setting.restart);
                let Verdict::Again(next) = verdict else {
                    given_up += 1;
                    break;
                };
                assert_eq!(history.attempt(), next.attempt);
                runs.push((ran, now, next.delay));
                now += next.delay;
                again += 1;
            }
        }
        assert!(
            again > 1_000_000 && given_up > 100_000,
            "{again}, {given_up}: too one-sided"
        );
    }

    #[test]
    fn a_stable_run_makes_the_delays_begin_anew_but_not_the_attempts() {
        let restart = Restart::on_failure()
            .backoff(Backoff::exponential(SECOND).jitter(Jitter::None))
            .unlimited()
            .forget_after(SECOND * 10);
        let mut history = History::new();
        let mut next = |ran| {
            let verdict = restart.decide(&mut history, RunEnd::Panicked, ran, time::now(), 0);
            match verdict {
                Verdict::Again(next) => (next.attempt, next.in_a_row, next.delay),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(next(Duration::ZERO), (2, 1, SECOND));
        assert_eq!(next(SECOND), (3, 2, SECOND * 2));
        assert_eq!(
            next(Duration::from_nanos(9_999_999_999)),
            (4, 3, SECOND * 4)
        );
        assert_eq!(next(SECOND * 10), (5, 1, SECOND));
        assert_eq!(next(Duration::MAX), (6, 1, SECOND));
    }

    #[test]
    fn a_million_restarts_without_a_limit_leave_nothing_behind() {
        let restart = Restart::always().backoff(Backoff::none()).unlimited();
        let (mut history, now) = (History::new(), time::now());
        for run in 2..=1_000_001 {
            let verdict = restart.decide(&mut history, RunEnd::Completed, SECOND / 2, now, 0);
            let next = Again {
                attempt: run,
                in_a_row: run - 1,
                delay: Duration::ZERO,
            };
            assert_eq!(verdict, Verdict::Again(next));
        }
        assert_eq!(
            format!("{:?}", history.intensity),
            "Intensity { restarts: [] }"
        );
    }

    #[test]
    fn counters_stop_at_the_greatest_number() {
        let restart = Restart::always().unlimited();
        let mut history = History::new();
        (history.attempt, history.in_a_row) = (u32::MAX, u32::MAX);
        let verdict = restart.decide(&mut history, RunEnd::Failed, SECOND, time::now(), 0);
        let next = Again {
            attempt: u32::MAX,
            in_a_row: u32::MAX,
            delay: SECOND * 15,
        };
        assert_eq!(verdict, Verdict::Again(next));
    }

    /// Fails at once every time, with each delay as jitter and chance have it: how many restarts until it is given up.
    fn storm(restart: &Restart, random: u64, most: u32) -> Option<u32> {
        let (mut history, mut now) = (History::new(), time::now());
        for restarts in 0..most {
            match restart.decide(&mut history, RunEnd::Failed, Duration::ZERO, now, random) {
                Verdict::Again(next) => now += next.delay,
                Verdict::GiveUp(_) => return Some(restarts),
                Verdict::Stop(stop) => panic!("{stop:?}"),
            }
        }
        None
    }

    #[test]
    fn a_task_that_fails_at_once_is_given_up_by_the_default_limit_whatever_its_backoff() {
        let backoffs = [
            Backoff::none(),
            Backoff::default(),
            Backoff::constant(SECOND * 3_600),
            Backoff::exponential(SECOND * 10).cap(Duration::MAX),
            Backoff::exponential(SECOND).jitter(Jitter::Full),
            Backoff::constant(SECOND).jitter(Jitter::Decorrelated),
        ];
        for backoff in backoffs {
            let restart = Restart::on_failure().backoff(backoff);
            restart.check().unwrap();
            for random in [0, u64::MAX] {
                assert_eq!(storm(&restart, random, 100), Some(5), "{restart:?}");
            }
        }
        let most = Restart::on_failure().backoff(Backoff::constant(Duration::MAX));
        assert_eq!(most.limit_in_force().unwrap().window, Duration::MAX);
    }

    #[test]
    fn a_limit_is_refused_exactly_if_the_quickest_failures_never_pass_it() {
        let mut random = Random::seeded(8);
        let (mut refused, mut passed) = (0, 0);
        for _ in 0..10_000 {
            let Setting { backoff, limit, .. } = random_setting(&mut random);
            let (restarts, window) = limit.unwrap_or((7, SECOND / 10));
            // Never forgotten, so that the quickest way is to fail at once.
            let restart = Restart::always()
                .backoff(backoff)
                .forget_after(Duration::MAX)
                .limit(restarts, window);
            match restart.check() {
                Ok(()) => {
                    assert_eq!(storm(&restart, 0, 100), Some(restarts), "{restart:?}");
                    passed += 1;
                }
                Err(PolicyError::WindowTooShort { .. }) => {
                    assert_eq!(storm(&restart, 0, 100), None, "{restart:?}");
                    refused += 1;
                }
                Err(_) => {}
            }
        }
        assert!(refused > 300 && passed > 300, "{refused}, {passed}");
    }

    #[test]
    fn a_policy_that_could_not_do_what_it_says_is_refused() {
        let growing = Restart::on_failure().forget_after(Duration::ZERO);
        assert_eq!(growing.check(), Err(PolicyError::ForgetsAlways));
        let constant = growing.backoff(Backoff::constant(SECOND));
        assert_eq!(constant.check(), Ok(()));
        let broken = Restart::always().backoff(Backoff::default().factor(0.5));
        assert_eq!(broken.check(), Err(PolicyError::Factor(0.5)));
        let never = Restart::never().limit(0, Duration::ZERO);
        assert_eq!(never.check(), Ok(()), "what is never used is not judged");
        assert_eq!(
            Restart::always().limit(0, SECOND).check(),
            Err(PolicyError::NoRestarts)
        );
        assert_eq!(Restart::always().unlimited().check(), Ok(()));
    }
}
