//! Points in time that cannot overflow.
//!
//! The only file that reads the clock. `Instant::now() + Duration::MAX` panics, so every deadline of the
//! crate is a [`Deadline`]: a duration too long to be added means "never".

pub(crate) use std::time::{Duration, Instant};

/// The present moment on the monotonic clock.
pub(crate) fn now() -> Instant {
    #[cfg(any(test, shuttle))]
    if let Some(moment) = clock::virtual_now() {
        return moment;
    }
    Instant::now()
}

/// A clock that a test sets, for its own thread.
#[cfg(any(test, shuttle))]
pub(crate) mod clock {
    use std::cell::Cell;

    use crate::base::time::Instant;

    thread_local! {
        static NOW: Cell<Option<Instant>> = const { Cell::new(None) };
    }

    pub(crate) fn virtual_now() -> Option<Instant> {
        NOW.try_with(Cell::get).ok().flatten()
    }

    /// Sets the clock of this thread; `None` lets it follow the real one again.
    pub(crate) fn set(moment: Option<Instant>) {
        NOW.set(moment);
    }

    #[cfg(not(any(loom, shuttle)))]
    thread_local! {
        static LEAPS: Cell<bool> = const { Cell::new(false) };
    }

    /// Sets the clock of this thread, and lets time pass when the thread waits for it.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn set_leaping(moment: Option<Instant>) {
        LEAPS.set(moment.is_some());
        set(moment);
    }

    /// On a thread that need not wait, the clock goes to `moment`; `false` on others.
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) fn leap_to(moment: Instant) -> bool {
        let leaps = LEAPS.get();
        if leaps {
            set(virtual_now().max(Some(moment)));
        }
        leaps
    }

    /// Sets the clock forward, if that is forward.
    #[cfg(shuttle)]
    pub(crate) fn advance_to(moment: Instant) {
        NOW.set(NOW.get().map(|now| now.max(moment)));
    }
}

/// Has the calling thread woken on time: Linux lets a sleeper sleep 50 µs too long, to wake several at once.
///
/// For a thread that others rely on for their time; `false` where the kernel knows nothing of it.
pub(crate) fn be_punctual() -> bool {
    #[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
    return nix::sys::prctl::set_timerslack(1).is_ok();
    #[cfg(not(all(target_os = "linux", not(any(loom, shuttle)))))]
    return false;
}

/// A moment by which something must have happened, or never.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Deadline(Option<Instant>);

impl Deadline {
    pub(crate) const NEVER: Self = Self(None);

    /// `span` from now; never, if that is further away than the clock can say.
    pub(crate) fn after(span: Duration) -> Self {
        Self(now().checked_add(span))
    }

    pub(crate) fn at(moment: Instant) -> Self {
        Self(Some(moment))
    }

    /// `span` after `moment`; never, if that is further away than the clock can say.
    pub(crate) fn counted_from(moment: Instant, span: Duration) -> Self {
        Self(moment.checked_add(span))
    }

    pub(crate) fn instant(self) -> Option<Instant> {
        self.0
    }

    /// The time left: zero when the deadline has passed, `None` when it never will.
    pub(crate) fn remaining(self) -> Option<Duration> {
        self.0.map(|moment| moment.saturating_duration_since(now()))
    }

    pub(crate) fn has_passed(self) -> bool {
        self.remaining() == Some(Duration::ZERO)
    }

    pub(crate) fn earlier(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(mine), Some(theirs)) => Self(Some(mine.min(theirs))),
            (mine, theirs) => Self(mine.or(theirs)),
        }
    }

    pub(crate) fn later(self, other: Self) -> Self {
        match (self.0, other.0) {
            (Some(mine), Some(theirs)) => Self(Some(mine.max(theirs))),
            _ => Self::NEVER,
        }
    }

    /// This deadline moved forward by `span`, for what must be done shortly before it.
    pub(crate) fn minus(self, span: Duration) -> Self {
        Self(
            self.0
                .map(|moment| moment.checked_sub(span).unwrap_or(moment)),
        )
    }
}

/// So many nanoseconds; the longest duration there is, if they are more than it holds.
pub(crate) fn from_nanos(nanos: u128) -> Duration {
    const SECOND: u128 = 1_000_000_000;
    match (u64::try_from(nanos / SECOND), u32::try_from(nanos % SECOND)) {
        (Ok(seconds), Ok(rest)) => Duration::new(seconds, rest),
        _ => Duration::MAX,
    }
}

/// Moments as whole numbers, for where they are compared all the time: nanoseconds, with one moment as the middle.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale(Instant);

impl Scale {
    const MIDDLE: u64 = 1 << 63;

    /// Any moment will do that is within 292 years of those to come.
    pub(crate) fn around(middle: Instant) -> Self {
        Self(middle)
    }

    pub(crate) fn tick(self, moment: Instant) -> u64 {
        let nanoseconds = |span: Duration| {
            let whole = span.as_secs().saturating_mul(1_000_000_000);
            whole.saturating_add(u64::from(span.subsec_nanos()))
        };
        match moment.checked_duration_since(self.0) {
            Some(after) => Self::MIDDLE.saturating_add(nanoseconds(after)),
            None => Self::MIDDLE.saturating_sub(nanoseconds(self.0.duration_since(moment))),
        }
    }

    /// The moment of a tick; of one that is further away than the clock can say, the middle.
    pub(crate) fn moment(self, tick: u64) -> Instant {
        let moment = match tick.checked_sub(Self::MIDDLE) {
            Some(after) => self.0.checked_add(Duration::from_nanos(after)),
            None => self
                .0
                .checked_sub(Duration::from_nanos(Self::MIDDLE - tick)),
        };
        moment.unwrap_or(self.0)
    }
}

/// A duration as a person reads it: `0.4 ms`, `12 ms`, `3.20 s`, `2 min 05 s`.
pub(crate) fn human(span: Duration) -> String {
    let seconds = span.as_secs_f64();
    match seconds {
        s if s < 0.01 => format!("{:.1} ms", s * 1e3),
        s if s < 0.9995 => format!("{:.0} ms", s * 1e3),
        s if s < 60.0 => format!("{s:.2} s"),
        _ => format!("{} min {:02} s", span.as_secs() / 60, span.as_secs() % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_deadline_too_far_away_never_passes() {
        let deadline = Deadline::after(Duration::MAX);
        assert_eq!(deadline, Deadline::NEVER);
        assert_eq!(deadline.remaining(), None);
        assert!(!deadline.has_passed());
    }

    #[test]
    fn the_earlier_of_two_deadlines_is_never_the_one_that_never_comes() {
        let soon = Deadline::after(Duration::from_secs(1));
        let later = Deadline::after(Duration::from_secs(2));
        assert_eq!(soon.earlier(later), soon);
        assert_eq!(Deadline::NEVER.earlier(soon), soon);
        assert_eq!(soon.earlier(Deadline::NEVER), soon);
        assert_eq!(Deadline::NEVER.earlier(Deadline::NEVER), Deadline::NEVER);
    }

    #[test]
    fn a_deadline_of_zero_has_passed() {
        assert!(Deadline::after(Duration::ZERO).has_passed());
    }

    #[test]
    fn nanoseconds_make_a_duration_or_the_longest_there_is() {
        for span in [
            Duration::ZERO,
            Duration::from_nanos(1),
            Duration::from_millis(1_999),
            Duration::MAX,
        ] {
            assert_eq!(from_nanos(span.as_nanos()), span);
        }
        assert_eq!(from_nanos(Duration::MAX.as_nanos() + 1), Duration::MAX);
        assert_eq!(from_nanos(u128::MAX), Duration::MAX);
    }

    #[test]
    fn ticks_are_ordered_like_their_moments_and_lead_back_to_them() {
        let early = now();
        let middle = early + Duration::from_secs(1);
        let scale = Scale::around(middle);
        let moments = [0, 999_999_999, 1_000_000_000, 1_000_000_001, 5_000_000_000]
            .map(|offset| early + Duration::from_nanos(offset));
        let ticks = moments.map(|moment| scale.tick(moment));
        assert!(ticks.is_sorted_by(|earlier, later| earlier < later));
        assert_eq!(ticks.map(|tick| scale.moment(tick)), moments);
    }

    #[test]
    fn durations_read_like_speech() {
        let said = |micros| human(Duration::from_micros(micros));
        assert_eq!(said(400), "0.4 ms");
        assert_eq!(said(12_000), "12 ms");
        assert_eq!(said(999_990), "1.00 s");
        assert_eq!(said(3_200_000), "3.20 s");
        assert_eq!(said(125_000_000), "2 min 05 s");
    }
}
