//! The middle of many figures, and the units they are printed in.

use std::fmt;
use std::time::Duration;

/// The median of many figures and the two quartiles around it.
#[derive(Clone, Copy, Debug)]
pub struct Quartiles {
    /// A quarter of the figures lies below.
    pub lower: f64,
    /// Half of them lie below.
    pub median: f64,
    /// Three quarters lie below.
    pub upper: f64,
}

impl Quartiles {
    /// The quartiles of `figures`.
    ///
    /// # Panics
    ///
    /// When there are no figures.
    #[must_use]
    pub fn of(figures: impl IntoIterator<Item = f64>) -> Self {
        let mut figures: Vec<f64> = figures.into_iter().collect();
        figures.sort_by(f64::total_cmp);
        let at = |quarter: usize| figures[(figures.len() - 1) * quarter / 4];
        Self {
            lower: at(1),
            median: at(2),
            upper: at(3),
        }
    }
}

impl fmt::Display for Quartiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            lower,
            median,
            upper,
        } = self;
        write!(formatter, "{median:8.3}  ({lower:.3} .. {upper:.3})")
    }
}

/// The unit in which a pass is told.
#[derive(Clone, Copy, Debug)]
pub enum Unit {
    /// For what happens in a loop.
    Nanoseconds,
    /// For what starts a thread.
    Microseconds,
    /// For what ends thousands of them.
    Milliseconds,
}

impl Unit {
    /// The length of one of `passes` that took `elapsed` together.
    #[expect(
        clippy::cast_precision_loss,
        reason = "no turn has 2^52 passes, and none needs 52 bits of precision"
    )]
    pub(crate) fn per_pass(self, elapsed: Duration, passes: u64) -> f64 {
        elapsed.as_secs_f64() * self.per_second() / passes as f64
    }

    fn per_second(self) -> f64 {
        match self {
            Self::Nanoseconds => 1e9,
            Self::Microseconds => 1e6,
            Self::Milliseconds => 1e3,
        }
    }
}

impl fmt::Display for Unit {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Nanoseconds => "ns",
            Self::Microseconds => "µs",
            Self::Milliseconds => "ms",
        })
    }
}
