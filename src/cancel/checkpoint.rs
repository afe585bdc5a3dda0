//! The sign of life a task leaves at each checkpoint.

use std::panic::Location;

use crate::base::sync::{AtomicCell, AtomicUsize, Ordering};

/// Where a task was last, how many checkpoints it has passed, and what it waits for.
///
/// Written by the task, read by the warden. Time is the reader's business: the writer pays two stores, no clock and no
/// read-modify-write. Used from several threads at once the counter is a sign of life, not a total.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    place: AtomicCell<Option<&'static Location<'static>>>,
    passed: AtomicUsize,
    waiting: AtomicCell<Option<Wait>>,
    /// The task whose end is waited for, by its number, while `waiting` says [`Wait::Join`].
    joining: AtomicCell<u64>,
}

/// What a task waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wait {
    Cancel,
    Sleep,
    Receive,
    Send,
    Join,
    Tasks,
    /// Something that describes itself (`Record::awaited`).
    Other,
}

impl Pulse {
    /// Leaves the place and counts. Relaxed: nothing else is published by the counter.
    #[inline]
    pub(crate) fn beat(&self, place: &'static Location<'static>) {
        self.place.store(Some(place));
        self.passed.store(
            self.passed.load(Ordering::Relaxed).wrapping_add(1),
            Ordering::Relaxed,
        );
    }

    /// Says what the task waits for, until the guard goes.
    pub(crate) fn waits_for(&self, what: Wait) -> Waiting<'_> {
        self.waiting.store(Some(what));
        Waiting(self)
    }

    /// Says that the task waits for the end of the task with this number.
    pub(crate) fn waits_for_task(&self, number: u64) -> Waiting<'_> {
        self.joining.store(number);
        self.waits_for(Wait::Join)
    }

    /// The last checkpoint or wait.
    pub(crate) fn place(&self) -> Option<&'static Location<'static>> {
        self.place.load()
    }

    pub(crate) fn passed(&self) -> usize {
        self.passed.load(Ordering::Relaxed)
    }

    pub(crate) fn waiting(&self) -> Option<Wait> {
        self.waiting.load()
    }

    /// The number of the task that is waited for, if it is one.
    pub(crate) fn joining(&self) -> Option<u64> {
        (self.waiting() == Some(Wait::Join)).then(|| self.joining.load())
    }
}

/// Until it is dropped the pulse says that its task waits.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a Pulse);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.waiting.store(None);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn a_pulse_keeps_the_last_place_and_the_number_of_beats() {
        let pulse = Pulse::default();
        assert_eq!((pulse.place(), pulse.passed()), (None, 0));
        let here = Location::caller();
        pulse.beat(here);
        pulse.beat(here);
        assert_eq!((pulse.place(), pulse.passed()), (Some(here), 2));
        assert!(AtomicCell::<Option<&'static Location<'static>>>::is_lock_free());
    }

    #[test]
    fn a_wait_is_on_the_books_for_as_long_as_it_lasts() {
        let pulse = Pulse::default();
        let waiting = pulse.waits_for(Wait::Receive);
        assert_eq!(
            (pulse.waiting(), pulse.joining()),
            (Some(Wait::Receive), None)
        );
        drop(waiting);
        assert_eq!(pulse.waiting(), None);
        let waiting = pulse.waits_for_task(7);
        assert_eq!(
            (pulse.waiting(), pulse.joining()),
            (Some(Wait::Join), Some(7))
        );
        drop(waiting);
    }
}
