//! How long a bench may take.

use std::env;
use std::time::Duration;

use criterion::Criterion;

/// How long a bench may take: chosen by whoever starts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effort {
    /// Everything once, without meaning: `cargo test --benches`.
    Smoke,
    /// Under half a minute a bench: `TASKMUSTER_BENCH=quick`.
    Quick,
    /// Under three minutes a bench.
    Full,
}

impl Effort {
    /// Reads the choice from the command line and the environment.
    #[must_use]
    pub fn chosen() -> Self {
        let is_bench = env::args().any(|argument| argument == "--bench");
        let is_quick = env::var_os("TASKMUSTER_BENCH").is_some_and(|effort| effort == "quick");
        match (is_bench, is_quick) {
            (false, _) => Self::Smoke,
            (true, true) => Self::Quick,
            (true, false) => Self::Full,
        }
    }

    /// One of three values.
    #[must_use]
    pub fn pick<T>(self, smoke: T, quick: T, full: T) -> T {
        match self {
            Self::Smoke => smoke,
            Self::Quick => quick,
            Self::Full => full,
        }
    }

    /// The number of rounds of a duel.
    #[must_use]
    pub fn rounds(self) -> usize {
        self.pick(1, 31, 101)
    }

    /// How long a turn of one contender lasts, at least.
    #[must_use]
    pub fn turn(self) -> Duration {
        self.pick(
            Duration::ZERO,
            Duration::from_millis(2),
            Duration::from_millis(5),
        )
    }

    /// Criterion, told to be about as patient.
    #[must_use]
    pub fn criterion(self) -> Criterion {
        Criterion::default()
            .sample_size(self.pick(10, 10, 50))
            .warm_up_time(Duration::from_millis(self.pick(1, 50, 300)))
            .measurement_time(Duration::from_millis(self.pick(1, 200, 1000)))
            .configure_from_args()
    }

    /// Criterion for passes that handle a crowd each, and do not count what takes longest: as few as it makes do with.
    #[must_use]
    pub fn criterion_of_crowds(self) -> Criterion {
        let patience = Duration::from_millis(self.pick(1, 1, 50));
        self.criterion()
            .sample_size(10)
            .warm_up_time(patience)
            .measurement_time(patience)
    }
}
