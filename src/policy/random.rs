//! Random numbers, to be passed to the decisions that want one.

use std::hash::{BuildHasher, RandomState};

use crate::base::time::{self, Duration};

/// A source of numbers that spread delays: not of secrets.
///
/// `SplitMix64` of Steele, Lea and Flood ("Fast Splittable Pseudorandom Number Generators", OOPSLA 2014) with the
/// constants of Sebastiano Vigna's public-domain `splitmix64.c`: a counter whose every value is stirred. Every seed is a
/// good one, and every number comes once in 2⁶⁴.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The same numbers for the same seed, on every machine.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self(seed)
    }

    /// Other numbers each time: the seed comes from the keys that std gives each new hash map, which the system draws.
    pub(crate) fn from_entropy() -> Self {
        Self::seeded(RandomState::new().hash_one(()))
    }

    /// The next number; all 64 bits are equally random.
    pub(crate) fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let stirred = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let stirred = (stirred ^ (stirred >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        stirred ^ (stirred >> 31)
    }
}

/// A span from `least` to `most`, both included; see [`part`].
pub(crate) fn between(least: Duration, most: Duration, random: u64) -> Duration {
    least.saturating_add(part(most.saturating_sub(least), random))
}

/// A part of `span`, from nothing to all of it, each nanosecond as likely as the other: `random` 0 gives nothing, the
/// greatest gives all.
///
/// The multiplication of Lemire ("Fast Random Integer Generation in an Interval", 2019) without its correction: what it
/// corrects is a bias of one in 2⁶⁴.
pub(crate) fn part(span: Duration, random: u64) -> Duration {
    // The nanoseconds of a duration have up to 94 bits: the product is taken in two halves, lest it overflow 128.
    let (choices, random) = (span.as_nanos() + 1, u128::from(random));
    let (high, low) = (choices >> 64, choices & u128::from(u64::MAX));
    time::from_nanos(high * random + ((low * random) >> 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_reference() {
        let mut random = Random::seeded(1_234_567);
        let drawn = [(); 5].map(|()| random.draw());
        let reference = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(drawn, reference);
    }

    #[test]
    fn two_sources_from_entropy_give_different_numbers() {
        let drawn = [(); 4].map(|()| Random::from_entropy().draw());
        assert!(drawn.iter().any(|number| *number != drawn[0]), "{drawn:?}");
    }

    #[test]
    fn a_part_goes_from_nothing_to_all() {
        for nanos in [0, 1, 2, 999, 1_000_000_007, u64::MAX - 1] {
            let span = Duration::from_nanos(nanos);
            assert_eq!(part(span, 0), Duration::ZERO);
            assert_eq!(part(span, u64::MAX), span);
        }
        assert_eq!(part(Duration::MAX, 0), Duration::ZERO);
        assert!(part(Duration::MAX, u64::MAX) <= Duration::MAX);
        assert!(part(Duration::MAX, u64::MAX) > Duration::MAX / 1000 * 999);
    }

    #[test]
    fn each_part_has_its_equal_share_of_the_numbers() {
        // Of 1,000 numbers at equal distances every tenth of a span of ten choices gets exactly 100.
        let mut shares = [0; 10];
        for step in 0..1000_u128 {
            let random = u64::try_from((step << 64) / 1000).unwrap();
            let nanos = part(Duration::from_nanos(9), random).as_nanos();
            shares[usize::try_from(nanos).unwrap()] += 1;
        }
        // Rounding moves a number that stands on the line between two tenths.
        assert!(
            shares.iter().all(|share| (99..=101).contains(share)),
            "{shares:?}"
        );
        assert_eq!(shares.iter().sum::<i32>(), 1000);
    }
}
