//! How many restarts are too many.

use std::collections::VecDeque;
use std::fmt;

use crate::base::time::{self, Duration, Instant};
use crate::policy::backoff::Backoff;
use crate::policy::error::PolicyError;

/// At most so many restarts within any window of this length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) restarts: u32,
    pub(crate) window: Duration,
}

/// The restarts that still count against a [`Limit`]: never more of them than it allows.
///
/// The decision is that of Erlang's `supervisor` (`add_restart` in OTP's `supervisor.erl`): a restart of exactly one
/// window ago still counts, and the one that is to come counts with the others; if they are more than the limit allows,
/// that was one too many. Three things differ: the clock counts nanoseconds, not seconds; a restart stands in the books
/// from the moment it was decided, so that its delay passes within the window; one that was refused is not entered.
#[derive(Clone, Debug, Default)]
pub(crate) struct Intensity {
    /// The eldest first.
    restarts: VecDeque<Instant>,
}

impl Intensity {
    /// Enters a restart decided `now`, unless that would be more than `limit` allows.
    pub(crate) fn add(&mut self, limit: Limit, now: Instant) -> Result<(), LimitPassed> {
        while self.eldest_age(now).is_some_and(|age| age > limit.window) {
            self.restarts.pop_front();
        }
        let allowed = usize::try_from(limit.restarts).unwrap_or(usize::MAX);
        if self.restarts.len() < allowed {
            self.restarts.push_back(now);
            return Ok(());
        }
        Err(LimitPassed {
            limit,
            within: self.eldest_age(now).unwrap_or_default(),
        })
    }

    fn eldest_age(&self, now: Instant) -> Option<Duration> {
        let eldest = self.restarts.front()?;
        Some(now.saturating_duration_since(*eldest))
    }
}

/// One restart more than the limit allows was due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LimitPassed {
    /// What is allowed, and was used up.
    pub(crate) limit: Limit,
    /// The time since the eldest restart that counted.
    pub(crate) within: Duration,
}

/// `restarted 5 times in the last 1.20 s; its limit is 5 within 60s`
impl fmt::Display for LimitPassed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Limit { restarts, window } = self.limit;
        let times = if restarts == 1 { "time" } else { "times" };
        let within = time::human(self.within);
        write!(
            f,
            "restarted {restarts} {times} in the last {within}; its limit is {restarts} within {window:?}"
        )
    }
}

impl Limit {
    /// Whether this limit can ever be passed by a task that waits like `backoff` before each restart and begins with the
    /// first delay again after a run of `forget_after`.
    pub(crate) fn check(
        self,
        backoff: &Backoff,
        forget_after: Duration,
    ) -> Result<(), PolicyError> {
        self.check_numbers()?;
        let soonest = self.soonest(backoff, forget_after);
        if soonest <= self.window {
            return Ok(());
        }
        Err(PolicyError::WindowTooShort {
            restarts: self.restarts,
            window: self.window,
            soonest,
        })
    }

    /// Whether there is a restart that it allows, and a window to count it in.
    pub(crate) fn check_numbers(self) -> Result<(), PolicyError> {
        if self.restarts == 0 {
            return Err(PolicyError::NoRestarts);
        }
        if self.window.is_zero() {
            return Err(PolicyError::NoWindow);
        }
        Ok(())
    }

    /// The shortest time from the first of the restarts that count to the end of the run after the last: each delay as
    /// short as jitter makes it, and each run over at once, except where a run of `forget_after` saves more of later
    /// delays than it costs.
    ///
    /// Such runs cut the restarts into pieces that each begin with the first delay. As no delay is shorter than the one
    /// before, pieces of equal length are the best, and with every further cut there is less to be saved: the time falls
    /// with the number of pieces, then rises, and a binary search finds its lowest point.
    fn soonest(self, backoff: &Backoff, forget_after: Duration) -> Duration {
        let delays = ShortestDelays::new(backoff, self.restarts);
        let in_pieces = |pieces: u32| {
            let (length, longer) = (self.restarts / pieces, self.restarts % pieces);
            let short = u128::from(pieces - longer) * delays.sum(length);
            let long = u128::from(longer) * delays.sum(length.saturating_add(1));
            short + long + u128::from(pieces - 1) * forget_after.as_nanos()
        };
        let (mut least, mut most) = (1, self.restarts.max(1));
        while least < most {
            let middle = least + (most - least) / 2;
            if in_pieces(middle + 1) < in_pieces(middle) {
                least = middle + 1;
            } else {
                most = middle;
            }
        }
        time::from_nanos(in_pieces(least))
    }
}

/// The sums of the shortest delays before the first so many restarts in a row, in nanoseconds.
///
/// At most 2³² delays of less than 2⁹⁴ ns: nothing here or in `soonest` comes near 2¹²⁸.
struct ShortestDelays {
    sums: Vec<u128>,
    last: u128,
}

impl ShortestDelays {
    /// How many are added up one by one. Further ones count like the last of these, which is exact once the cap is
    /// reached and else too little: a limit that can be passed is never refused.
    const ADDED: u32 = 1024;

    fn new(backoff: &Backoff, restarts: u32) -> Self {
        let (mut sum, mut last) = (0, 0);
        let mut sums = vec![0];
        for attempt in 1..=restarts.min(Self::ADDED) {
            last = backoff.shortest(attempt).as_nanos();
            sum += last;
            sums.push(sum);
        }
        Self { sums, last }
    }

    fn sum(&self, restarts: u32) -> u128 {
        let index = usize::try_from(restarts).unwrap_or(usize::MAX);
        let added = self.sums.get(index).or(self.sums.last());
        let beyond = restarts.saturating_sub(Self::ADDED);
        added.copied().unwrap_or_default() + u128::from(beyond) * self.last
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::backoff::Jitter;
    use crate::policy::random::Random;

    const NANO: Duration = Duration::from_nanos(1);
    const SECOND: Duration = Duration::from_secs(1);

    fn just_below(span: Duration) -> Duration {
        span.saturating_sub(NANO)
    }

    fn limit(restarts: u32, window: Duration) -> Limit {
        Limit { restarts, window }
    }

    /// A number from 0 to `most`.
    fn up_to(most: u32, random: &mut Random) -> u32 {
        u32::try_from(random.draw() % (u64::from(most) + 1)).unwrap()
    }

    #[test]
    fn the_edge_belongs_to_the_window() {
        let start = time::now();
        let limit = limit(1, SECOND);
        let second_restart_after = |age| {
            let mut intensity = Intensity::default();
            intensity.add(limit, start).unwrap();
            intensity.add(limit, start + age)
        };
        assert!(second_restart_after(just_below(SECOND)).is_err());
        let passed = second_restart_after(SECOND).unwrap_err();
        assert_eq!(
            passed,
            LimitPassed {
                limit,
                within: SECOND
            }
        );
        assert_eq!(second_restart_after(SECOND + NANO), Ok(()));
    }

    #[test]
    fn a_million_random_histories_are_judged_like_a_slow_reference() {
        let start = time::now();
        let mut random = Random::seeded(5);
        let (mut passed, mut added) = (0, 0);
        for _ in 0..1_000_000 {
            let limit = limit(up_to(4, &mut random), NANO * up_to(20, &mut random));
            let mut intensity = Intensity::default();
            // All restarts ever, and when the clock stands where.
            let mut all: Vec<Instant> = Vec::new();
            let mut now = start;
            for _ in 0..8 {
                // Steps of the size of the window hit its edge and the nanoseconds around it.
                now += match up_to(3, &mut random) {
                    0 => Duration::ZERO,
                    1 => NANO * up_to(5, &mut random),
                    2 => limit.window / 2,
                    _ => just_below(limit.window + NANO * up_to(2, &mut random)),
                };
                let inside = |restart: &&Instant| now.duration_since(**restart) <= limit.window;
                let counting = all.iter().filter(inside).count();
                let allowed = counting < usize::try_from(limit.restarts).unwrap();
                let answer = intensity.add(limit, now);
                assert_eq!(answer.is_ok(), allowed, "{limit:?}, {now:?}, {all:?}");
                assert!(intensity.restarts.len() <= usize::try_from(limit.restarts).unwrap());
                if let Err(told) = answer {
                    let eldest = all.iter().find(inside).copied().unwrap_or(now);
                    assert_eq!(
                        told.within,
                        now.duration_since(eldest),
                        "{limit:?}, {all:?}"
                    );
                    passed += 1;
                } else {
                    all.push(now);
                    added += 1;
                }
            }
        }
        assert!(
            passed > 1_000_000 && added > 1_000_000,
            "{passed}, {added}: too one-sided"
        );
    }

    #[test]
    fn a_storm_of_restarts_leaves_no_more_in_memory_than_the_limit_allows() {
        let (start, limit) = (time::now(), limit(10, SECOND));
        let mut intensity = Intensity::default();
        for step in 0..100_000 {
            let added = intensity.add(limit, start + Duration::from_millis(1) * step);
            assert_eq!(added.is_ok(), step % 1_001 < 10, "{step}");
            assert!(intensity.restarts.len() <= 10);
        }
        assert!(intensity.restarts.capacity() < 32);
    }

    #[test]
    fn the_message_has_the_numbers() {
        let passed = |restarts| LimitPassed {
            limit: limit(restarts, SECOND * 60),
            within: Duration::from_millis(1_200),
        };
        assert_eq!(
            passed(5).to_string(),
            "restarted 5 times in the last 1.20 s; its limit is 5 within 60s"
        );
        assert!(passed(1).to_string().starts_with("restarted 1 time in"));
    }

    /// The time that restarts take at least, by trying every set of runs that last `forget_after`.
    fn soonest_of_all(backoff: &Backoff, restarts: u32, forget_after: Duration) -> Duration {
        let ways = 0..1_u32 << (restarts - 1);
        let time = |stable_runs: u32| {
            let (mut time, mut in_a_row) = (Duration::ZERO, 1);
            for restart in 0..restarts {
                time = time.saturating_add(backoff.shortest(in_a_row));
                in_a_row += 1;
                // The last run has no delay after it that counts.
                if restart + 1 < restarts && stable_runs >> restart & 1 == 1 {
                    time = time.saturating_add(forget_after);
                    in_a_row = 1;
                }
            }
            time
        };
        ways.map(time).min().unwrap()
    }

    #[test]
    fn the_soonest_that_a_limit_can_be_passed_is_the_least_of_all_ways() {
        let mut random = Random::seeded(6);
        let jitters = [
            Jitter::None,
            Jitter::Equal,
            Jitter::Full,
            Jitter::Decorrelated,
        ];
        for round in 0..2_000 {
            let first = Duration::from_millis(u64::from(up_to(3_000, &mut random)));
            let backoff = Backoff::constant(first)
                .factor([1.0, 1.5, 2.0, 10.0][round % 4])
                .cap(first * (1 + up_to(40, &mut random)))
                .jitter(jitters[round / 4 % 4]);
            let forget_after = match up_to(4, &mut random) {
                0 => Duration::ZERO,
                1 => Duration::MAX,
                _ => Duration::from_millis(u64::from(up_to(30_000, &mut random))),
            };
            let restarts = 1 + up_to(8, &mut random);
            let soonest = limit(restarts, SECOND).soonest(&backoff, forget_after);
            let reference = soonest_of_all(&backoff, restarts, forget_after);
            // Waits that grow by a broken factor are rounded, so that cuts of the same worth differ by a nanosecond.
            assert!(
                soonest.abs_diff(reference) <= NANO * restarts,
                "{soonest:?}, not {reference:?}: {backoff:?}, {restarts}, {forget_after:?}"
            );
        }
    }

    #[test]
    fn a_limit_is_refused_a_nanosecond_before_its_delays_fit() {
        // 1 + 2 + 4 s.
        let backoff = Backoff::exponential(SECOND).jitter(Jitter::None);
        let check = |window| limit(3, window).check(&backoff, Duration::MAX);
        assert_eq!(check(SECOND * 7), Ok(()));
        let refused = PolicyError::WindowTooShort {
            restarts: 3,
            window: just_below(SECOND * 7),
            soonest: SECOND * 7,
        };
        assert_eq!(check(just_below(SECOND * 7)), Err(refused));
        // A run of half a second saves the wait of 4 s: 1 + 0.5 + 1 + 2, and a second one another second.
        let check = |window| limit(3, window).check(&backoff, SECOND / 2);
        assert_eq!(check(SECOND * 4), Ok(()));
        assert!(check(just_below(SECOND * 4)).is_err());
    }

    #[test]
    fn no_numbers_are_too_great_for_the_check() {
        let most = limit(u32::MAX, Duration::MAX);
        for backoff in [
            Backoff::constant(Duration::MAX),
            Backoff::exponential(SECOND).cap(Duration::MAX),
            Backoff::constant(Duration::MAX).jitter(Jitter::Decorrelated),
        ] {
            for forget_after in [Duration::ZERO, SECOND, Duration::MAX] {
                let soonest = most.soonest(&backoff, forget_after);
                assert!(soonest > SECOND * 1_000, "{backoff:?}");
            }
        }
        let checked = most.check(&Backoff::none(), Duration::ZERO);
        assert_eq!(checked, Ok(()));
        let year = Backoff::constant(SECOND * 31_536_000);
        assert!(limit(u32::MAX, SECOND).check(&year, SECOND).is_err());
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        let check = |limit: Limit| limit.check(&Backoff::none(), Duration::MAX);
        assert_eq!(check(limit(0, SECOND)), Err(PolicyError::NoRestarts));
        assert_eq!(check(limit(1, Duration::ZERO)), Err(PolicyError::NoWindow));
        assert_eq!(check(limit(1, NANO)), Ok(()));
    }
}
