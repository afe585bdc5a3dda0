//! How long to wait before the next try.

use crate::base::time::Duration;
use crate::policy::error::PolicyError;
use crate::policy::random::{between, part};

/// The first delay of the default.
const FIRST: Duration = Duration::from_millis(100);

/// The cap of a backoff that was given none and does not begin higher.
const CAP: Duration = Duration::from_secs(30);

/// How long to wait before each new try.
///
/// | | first delay | factor | cap | jitter |
/// | --- | --- | --- | --- | --- |
/// | [`Backoff::none()`] | zero | 1 | | none |
/// | [`Backoff::constant(d)`](Self::constant) | `d` | 1 | | none |
/// | [`Backoff::exponential(d)`](Self::exponential) | `d` | 2 | 30 s, or `d` if that is longer | equal |
/// | the default | 100 ms | 2 | 30 s | equal |
///
/// Before the n-th new try in a row the wait is `first × factor`<sup>`n-1`</sup>, but never more than the cap; then the
/// [`Jitter`] makes it shorter. It is exact to the nanosecond as far as an `f64` is, for any number of tries.
///
/// ```
/// use std::time::Duration;
/// use taskmuster::{Backoff, Jitter};
///
/// // 200 ms, 600 ms, 1.8 s, 5.4 s, 10 s, 10 s, …: each at least half as long, so that no two tasks keep in step
/// let backoff = Backoff::exponential(Duration::from_millis(200))
///     .factor(3.0)
///     .cap(Duration::from_secs(10))
///     .jitter(Jitter::Equal);
/// backoff.check()?;
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a backoff does nothing until something is told to use it"]
pub struct Backoff {
    first: Duration,
    factor: f64,
    /// `None`: [`CAP`], or the first delay if that is longer.
    cap: Option<Duration>,
    jitter: Jitter,
}

/// What chance does to the delays of a [`Backoff`], so that those who failed together do not try again together.
///
/// The formulas and their names are Marc Brooker's ("Exponential Backoff And Jitter", AWS Architecture Blog, 2015), whose
/// simulation found full and decorrelated jitter to cost the least when many clients contend for one thing. Here `d` is
/// the delay before jitter, and `random(a, b)` is anything from `a` to `b`, both included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Jitter {
    /// `d`: no chance at all.
    None,
    /// `random(0, d)`: spreads best; a wait may be next to nothing.
    Full,
    /// `d/2 + random(0, d/2)`: spreads less, but there is always a pause. The default of
    /// [`Backoff::exponential`]: a restart that follows at once is what a backoff is there to prevent.
    #[default]
    Equal,
    /// `min(cap, random(first, 3 × the previous delay))`, the first time `random(first, 3 × first)`: grows by itself,
    /// so that the factor of the backoff is not used.
    Decorrelated,
}

impl Backoff {
    /// No wait at all.
    pub fn none() -> Self {
        Self::constant(Duration::ZERO)
    }

    /// The same wait each time, without jitter unless one is asked for.
    pub fn constant(delay: Duration) -> Self {
        Self {
            first: delay,
            factor: 1.0,
            cap: None,
            jitter: Jitter::None,
        }
    }

    /// A wait that doubles each time from `first` on, up to a cap of 30 seconds, or of `first` if that is longer; with
    /// [`Jitter::Equal`].
    pub fn exponential(first: Duration) -> Self {
        Self {
            factor: 2.0,
            jitter: Jitter::Equal,
            ..Self::constant(first)
        }
    }

    /// By how much a wait is longer than the one before: at least 1, and finite.
    pub fn factor(self, factor: f64) -> Self {
        Self { factor, ..self }
    }

    /// The longest wait: not below the first. `Duration::MAX` means no cap.
    pub fn cap(self, cap: Duration) -> Self {
        Self {
            cap: Some(cap),
            ..self
        }
    }

    /// What chance does to each wait.
    pub fn jitter(self, jitter: Jitter) -> Self {
        Self { jitter, ..self }
    }

    /// Whether it can do what it says; whatever takes a backoff checks that first.
    ///
    /// # Errors
    /// [`PolicyError`] if the factor is below 1 or not finite, if the backoff is to grow from zero, or if the cap is
    /// below the first delay.
    pub fn check(&self) -> Result<(), PolicyError> {
        if !(self.factor.is_finite() && self.factor >= 1.0) {
            return Err(PolicyError::Factor(self.factor));
        }
        if self.first.is_zero() && self.factor > 1.0 {
            return Err(PolicyError::GrowthFromZero);
        }
        match self.cap {
            Some(cap) if cap < self.first => Err(PolicyError::CapBelowFirst {
                first: self.first,
                cap,
            }),
            _ => Ok(()),
        }
    }

    /// The wait before the `attempt`-th new try in a row (1: the first), after one of `previous` (zero: none yet).
    ///
    /// Any input gives a wait that is not above the cap, checked or not.
    pub(crate) fn delay(&self, attempt: u32, previous: Duration, random: u64) -> Duration {
        let delay = self.undisturbed(attempt);
        match self.jitter {
            Jitter::None => delay,
            Jitter::Full => part(delay, random),
            Jitter::Equal => between(delay / 2, delay, random),
            Jitter::Decorrelated => self.decorrelated(previous, random),
        }
    }

    /// The least that [`delay`](Self::delay) can say.
    pub(crate) fn shortest(&self, attempt: u32) -> Duration {
        match self.jitter {
            Jitter::None => self.undisturbed(attempt),
            Jitter::Full => Duration::ZERO,
            Jitter::Equal => self.undisturbed(attempt) / 2,
            Jitter::Decorrelated => self.first.min(self.longest_ever()),
        }
    }

    /// The most that [`delay`](Self::delay) can say.
    pub(crate) fn longest(&self, attempt: u32) -> Duration {
        match self.jitter {
            Jitter::None | Jitter::Full | Jitter::Equal => self.undisturbed(attempt),
            Jitter::Decorrelated => self
                .first
                .saturating_mul(3_u32.saturating_pow(attempt))
                .min(self.longest_ever()),
        }
    }

    /// Whether a later wait can be longer than the first.
    pub(crate) fn grows(&self) -> bool {
        let is_to_grow = self.factor > 1.0 || self.jitter == Jitter::Decorrelated;
        is_to_grow && !self.first.is_zero() && self.longest_ever() > self.first
    }

    /// The wait without jitter.
    fn undisturbed(&self, attempt: u32) -> Duration {
        let cap = self.longest_ever();
        // Neither a factor that was not checked nor zero times infinity may get into the product.
        if attempt <= 1 || self.first.is_zero() || self.factor.is_nan() || self.factor <= 1.0 {
            return self.first.min(cap);
        }
        let growth = self.factor.powf(f64::from(attempt - 1));
        // An error: more seconds than a duration holds.
        let grown = Duration::try_from_secs_f64(self.first.as_secs_f64() * growth).unwrap_or(cap);
        grown.min(cap)
    }

    fn decorrelated(&self, previous: Duration, random: u64) -> Duration {
        let most = previous.max(self.first).saturating_mul(3);
        between(self.first, most, random).min(self.longest_ever())
    }

    fn longest_ever(&self) -> Duration {
        self.cap.unwrap_or(CAP.max(self.first))
    }
}

/// [`Backoff::exponential`] from 100 ms on.
impl Default for Backoff {
    fn default() -> Self {
        Self::exponential(FIRST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::time;
    use crate::policy::random::Random;

    const JITTERS: [Jitter; 4] = [
        Jitter::None,
        Jitter::Full,
        Jitter::Equal,
        Jitter::Decorrelated,
    ];

    const ATTEMPTS: [u32; 9] = [0, 1, 2, 3, 10, 64, 1_000, 1 << 31, u32::MAX];

    fn millis(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn all(backoff: &Backoff) -> [Backoff; 4] {
        JITTERS.map(|jitter| backoff.clone().jitter(jitter))
    }

    /// The wait without jitter, by multiplying once for each try.
    fn multiplied(first: Duration, factor: f64, cap: Duration, attempt: u32) -> Duration {
        let mut seconds = first.as_secs_f64();
        for _ in 1..attempt {
            seconds = (seconds * factor).min(cap.as_secs_f64());
        }
        Duration::from_secs_f64(seconds)
    }

    /// The `number / 2`<sup>64</sup>-th part of the choices from `least` to `most`.
    fn chosen(least: Duration, most: Duration, number: u64) -> Duration {
        let choices = most.as_nanos() - least.as_nanos() + 1;
        least + time::from_nanos(choices * u128::from(number) / (1 << 64))
    }

    #[test]
    fn a_million_random_delays_are_those_of_a_slow_reference() {
        let mut random = Random::seeded(4);
        for round in 0..1_000_000 {
            let first = Duration::from_nanos(1 + random.draw() % 10_000_000_000);
            let factor = [1.0, 1.25, 1.5, 2.0, 3.0, 10.0][round % 6];
            let cap = first + Duration::from_nanos(random.draw() % 3_600_000_000_000);
            let jitter = JITTERS[round / 6 % 4];
            let attempt = 1 + u32::try_from(random.draw() % 40).unwrap();
            let (previous, number) = (part(cap, random.draw()), random.draw());
            let backoff = Backoff::exponential(first)
                .factor(factor)
                .cap(cap)
                .jitter(jitter);

            let undisturbed = multiplied(first, factor, cap, attempt);
            let (least, most) = match jitter {
                Jitter::None => (undisturbed, undisturbed),
                Jitter::Full => (Duration::ZERO, undisturbed),
                Jitter::Equal => (undisturbed / 2, undisturbed),
                Jitter::Decorrelated => (first, previous.max(first) * 3),
            };
            let reference = chosen(least, most, number).min(cap);
            let delay = backoff.delay(attempt, previous, number);
            // Forty multiplications are rounded forty times.
            let tolerance = Duration::from_nanos(2) + reference.mul_f64(1e-13);
            let what = (&backoff, attempt, previous, number, delay, reference);
            assert!(delay.abs_diff(reference) <= tolerance, "{what:?}");
            assert!(
                backoff.shortest(attempt) <= delay && delay <= cap,
                "{what:?}"
            );
        }
    }

    #[test]
    fn a_doubled_wait_is_exact() {
        let backoff = Backoff::exponential(millis(100)).jitter(Jitter::None);
        let waits = [1, 2, 3, 4, 9, 10, 11, u32::MAX];
        let waits = waits.map(|attempt| backoff.delay(attempt, Duration::ZERO, 0));
        let expected = [100, 200, 400, 800, 25_600, 30_000, 30_000, 30_000].map(millis);
        assert_eq!(waits, expected);
    }

    #[test]
    fn each_jitter_reaches_its_bounds_and_keeps_to_them_for_every_attempt() {
        let backoff = Backoff::exponential(millis(100)).factor(1.7);
        for attempt in ATTEMPTS {
            let [none, full, equal, decorrelated] = all(&backoff);
            let most = none.delay(attempt, Duration::ZERO, u64::MAX);
            let ends = |backoff: &Backoff, previous| {
                [0, u64::MAX].map(|number| backoff.delay(attempt, previous, number))
            };
            assert_eq!(ends(&none, Duration::ZERO), [most, most]);
            assert_eq!(ends(&full, Duration::ZERO), [Duration::ZERO, most]);
            assert_eq!(ends(&equal, Duration::ZERO), [most / 2, most]);
            let first = millis(100);
            assert_eq!(ends(&decorrelated, Duration::ZERO), [first, first * 3]);
            assert_eq!(ends(&decorrelated, first * 7), [first, first * 21]);
            assert_eq!(ends(&decorrelated, Duration::MAX), [first, CAP]);
        }
    }

    #[test]
    fn equally_spaced_numbers_give_equally_spaced_waits() {
        for backoff in all(&Backoff::exponential(millis(800))) {
            let ends = [0, u64::MAX].map(|number| backoff.delay(2, millis(900), number));
            let step = ends[1].abs_diff(ends[0]) / 1000;
            for count in 0..1000_u32 {
                let number = u64::try_from((u128::from(count) << 64) / 1000).unwrap();
                let wait = backoff.delay(2, millis(900), number);
                let expected = ends[0] + step * count;
                assert!(
                    wait.abs_diff(expected) <= Duration::from_nanos(1),
                    "{wait:?}, not {expected:?}: {backoff:?}"
                );
            }
        }
    }

    #[test]
    fn the_shortest_and_the_longest_are_what_can_be_said() {
        for backoff in all(&Backoff::exponential(millis(300)).factor(2.5)) {
            let mut longest = Duration::ZERO;
            for attempt in 1..=12 {
                longest = backoff.delay(attempt, longest, u64::MAX);
                assert_eq!(backoff.longest(attempt), longest, "{backoff:?}, {attempt}");
                let shortest = backoff.delay(attempt, longest, 0);
                assert_eq!(
                    backoff.shortest(attempt),
                    shortest,
                    "{backoff:?}, {attempt}"
                );
            }
        }
    }

    #[test]
    fn nothing_overflows_and_nothing_is_above_the_cap() {
        let spans = [
            Duration::ZERO,
            Duration::from_nanos(1),
            millis(1_500),
            Duration::from_secs(u64::MAX / 3),
            Duration::MAX,
        ];
        let factors = [
            f64::NAN,
            f64::INFINITY,
            f64::NEG_INFINITY,
            -2.0,
            0.0,
            0.5,
            1.0,
            1.0 + f64::EPSILON,
            2.0,
            f64::MAX,
        ];
        for (first, cap, previous) in triples(spans) {
            for factor in factors {
                for backoff in all(&Backoff::constant(first).factor(factor).cap(cap)) {
                    for attempt in ATTEMPTS {
                        for number in [0, 1, 1 << 63, u64::MAX] {
                            let wait = backoff.delay(attempt, previous, number);
                            assert!(wait <= cap, "{wait:?}: {backoff:?}, {attempt}");
                            assert!(backoff.shortest(attempt) <= wait);
                        }
                    }
                }
            }
        }
    }

    fn triples<T: Copy, const N: usize>(values: [T; N]) -> impl Iterator<Item = (T, T, T)> {
        let pairs = values.into_iter().flat_map(move |a| values.map(|b| (a, b)));
        pairs.flat_map(move |(a, b)| values.map(|c| (a, b, c)))
    }

    #[test]
    fn a_wait_of_many_years_is_not_rounded_below_itself() {
        let first = Duration::new(u64::MAX / 2, 123_456_789);
        for attempt in ATTEMPTS {
            let constant = Backoff::constant(first);
            assert_eq!(constant.delay(attempt, first, 0), first);
            let slow = constant.factor(1.0 + f64::EPSILON);
            assert!(slow.delay(attempt, first, 0) >= first);
        }
    }

    #[test]
    fn no_backoff_waits_for_nothing() {
        for backoff in all(&Backoff::none()) {
            assert_eq!(backoff.check(), Ok(()));
            assert!(!backoff.grows());
            assert_eq!(
                backoff.delay(u32::MAX, Duration::ZERO, u64::MAX),
                Duration::ZERO
            );
        }
    }

    #[test]
    fn a_cap_that_was_not_given_never_cuts_the_first_wait() {
        let minute = Duration::from_secs(60);
        let backoff = Backoff::exponential(minute).jitter(Jitter::None);
        assert_eq!(backoff.delay(1, Duration::ZERO, 0), minute);
        assert_eq!(backoff.delay(9, Duration::ZERO, 0), minute);
        assert!(!backoff.grows());
        assert!(Backoff::default().grows());
        assert!(
            Backoff::constant(millis(1))
                .jitter(Jitter::Decorrelated)
                .grows()
        );
    }

    #[test]
    fn a_backoff_that_could_not_do_what_it_says_is_refused() {
        let backoff = Backoff::exponential(millis(100));
        for factor in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.999, 0.0, -2.0] {
            let refused = backoff.clone().factor(factor).check();
            assert!(matches!(refused, Err(PolicyError::Factor(_))), "{factor}");
        }
        assert_eq!(backoff.clone().factor(1.0).check(), Ok(()));
        assert_eq!(backoff.clone().factor(f64::MAX).check(), Ok(()));
        assert_eq!(backoff.clone().cap(millis(100)).check(), Ok(()));
        assert_eq!(backoff.clone().cap(Duration::MAX).check(), Ok(()));
        assert_eq!(
            backoff.cap(millis(99)).check(),
            Err(PolicyError::CapBelowFirst {
                first: millis(100),
                cap: millis(99)
            })
        );
        assert_eq!(
            Backoff::exponential(Duration::ZERO).check(),
            Err(PolicyError::GrowthFromZero)
        );
        assert_eq!(Backoff::constant(Duration::ZERO).check(), Ok(()));
    }
}
