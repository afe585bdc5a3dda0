//! Deadlines: one heap and one thread for them all.
//!
//! Words: an *alarm* is a moment and what is to happen then, its *fuse*. It is *pending* until it rings or is
//! taken back. The *thread* is there while alarms are pending, and a second longer.
//!
//! Invariants, all under the one lock:
//!
//! 1. An alarm is pending while its slot holds its fuse. Whoever takes the fuse out wins: the thread, to let it ring,
//!    or whoever takes the alarm back. No two alarms have the same generation.
//! 2. A pending alarm has exactly one entry of its current serial in the heap, not later than the
//!    moment. All other entries are stale, and thrown away when they come up.
//! 3. Moving an alarm later only writes the slot: its entry comes up too early and is put back. Moving it earlier makes
//!    a new entry and leaves a stale one. There are never more stale entries than others, but for a few.
//! 4. `thread` is true from the step in which the thread is started until it decides to go, which it does only when
//!    nothing is pending. So while an alarm is pending there is a thread, and it sleeps no longer than until the first entry;
//!    whoever takes the last alarm back wakes it, if that entry is far away.
//! 5. No fuse rings or is dropped under the lock.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::{Monitor, start_thread};
use crate::base::time::{self, Deadline, Duration, Instant, Scale};
use crate::cancel::callback::{self, Callback};

/// How long the thread stays after its last alarm.
const LINGER: Duration = Duration::from_secs(1);

/// How long the thread waits until it tries again what it could not do.
const AGAIN: Duration = Duration::from_millis(10);

/// How many alarms ring between two looks at the clock, so that the lock is never held for long.
const BATCH: usize = 256;

/// How many stale entries are nothing to worry about.
const A_FEW: usize = 64;

/// Pending alarms and their thread.
#[derive(Debug)]
pub(crate) struct Timer<F>(Monitor<State<F>>);

#[derive(Debug)]
struct State<F> {
    heap: BinaryHeap<Reverse<Entry>>,
    /// Set with the first alarm.
    scale: Option<Scale>,
    stale: usize,
    slots: Vec<Slot<F>>,
    vacant: Vec<u32>,
    generation: u32,
    thread: bool,
    /// Until when the thread sleeps, if it does; who sets an earlier alarm writes that moment here and wakes it.
    asleep: Option<Deadline>,
}

/// A tick, a slot and the slot's serial, in one number: ordered by the tick first.
///
/// One number is compared in one step. And a heap reads back what it has just written: a number in the same pieces,
/// a struct in larger ones, for which a processor waits a third of the time that setting an alarm takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u128);

impl Entry {
    fn new(tick: u64, slot: u32, serial: u32) -> Self {
        Self((u128::from(tick) << 64) | (u128::from(slot) << 32) | u128::from(serial))
    }

    fn tick(self) -> u64 {
        (self.0 >> 64) as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the third quarter")]
    fn slot(self) -> usize {
        (self.0 >> 32) as u32 as usize
    }

    #[expect(clippy::cast_possible_truncation, reason = "the last quarter")]
    fn serial(self) -> u32 {
        self.0 as u32
    }
}

#[derive(Debug)]
struct Slot<F> {
    fuse: Option<F>,
    /// When it rings.
    at: Instant,
    generation: u32,
    serial: u32,
}

/// The name of one alarm, for as long as it is pending; then of none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Alarm {
    slot: u32,
    generation: u32,
}

impl Alarm {
    /// Never zero.
    pub(crate) fn to_bits(self) -> u64 {
        (u64::from(self.slot) << 32) | u64::from(self.generation)
    }

    pub(crate) fn from_bits(bits: u64) -> Option<Self> {
        let slot = u32::try_from(bits >> 32).ok()?;
        let generation = u32::try_from(bits & u64::from(u32::MAX)).ok()?;
        (generation != 0).then_some(Self { slot, generation })
    }
}

/// What the thread does next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    Look,
    Sleep(Instant),
    Linger,
}

impl<F> Timer<F> {
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) const fn new() -> Self {
        Self(Monitor::new(State::new()))
    }

    #[cfg(any(loom, shuttle))]
    pub(crate) fn new() -> Self {
        Self(Monitor::new(State::new()))
    }

    /// Sets an alarm.
    ///
    /// `start` starts the thread, which is to call [`run`](Self::run); if it cannot, no alarm is set. `fuse` makes the
    /// fuse, in its place: handing it over ready-made would move it several times.
    pub(crate) fn set(
        &self,
        at: Instant,
        fuse: impl FnOnce() -> F,
        start: impl FnOnce() -> io::Result<()>,
    ) -> io::Result<Alarm> {
        let mut state = self.0.lock();
        if !state.thread {
            // Under the lock: nobody else may count on a thread that cannot be had.
            start()?;
            state.thread = true;
        }
        let alarm = state.occupy(at, fuse);
        let is_urgent = state.comes_sooner(Some(at));
        drop(state);
        if is_urgent {
            self.0.notify_all();
        }
        Ok(alarm)
    }

    /// Takes an alarm back and gives its fuse, if it is still pending.
    pub(crate) fn take_back(&self, alarm: Alarm) -> Option<F> {
        self.take_back_and(alarm, || ())
    }

    /// The same, and if it is pending does `also` in the same step, under the lock: who finds it pending no more then
    /// finds that done.
    pub(crate) fn take_back_and(&self, alarm: Alarm, also: impl FnOnce()) -> Option<F> {
        let mut state = self.0.lock();
        state.slot_of(alarm)?;
        let fuse = state.vacate(alarm.slot);
        also();
        let oversleeps = state.oversleeps();
        drop(state);
        if oversleeps {
            self.0.notify_all();
        }
        fuse
    }

    /// Moves an alarm and changes its fuse, of which nothing is to be dropped; `false` if it is not pending any more.
    pub(crate) fn move_to(&self, alarm: Alarm, at: Instant, change: impl FnOnce(&mut F)) -> bool {
        let mut state = self.0.lock();
        let moved = state.move_to(alarm, at, change);
        let is_urgent = moved && state.comes_sooner(Some(at));
        drop(state);
        if is_urgent {
            self.0.notify_all();
        }
        moved
    }

    /// When a pending alarm rings.
    pub(crate) fn moment_of(&self, alarm: Alarm) -> Option<Instant> {
        self.0.lock().slot_of(alarm).map(|slot| slot.at)
    }

    /// The life of the thread: gives the fuses that are due to `ring`. While that says that it could not do all, it is
    /// called again soon, be it with none.
    pub(crate) fn run(&self, ring: impl Fn(Vec<F>) -> bool) {
        let mut patience = Deadline::after(LINGER);
        let mut all_done = true;
        loop {
            let (due, next) = self.due(time::now());
            let has_work = !due.is_empty() || !all_done;
            if has_work {
                all_done = ring(due);
            }
            if has_work || next != Next::Linger {
                patience = Deadline::after(LINGER);
            }
            match next {
                Next::Look => {}
                _ if !all_done => self.sleep(Deadline::after(AGAIN)),
                Next::Sleep(until) => {
                    self.sleep(Deadline::at(until));
                    // What it slept for may have been taken back.
                    patience = Deadline::after(LINGER);
                }
                Next::Linger if !patience.has_passed() => self.sleep(patience),
                Next::Linger if self.may_go() => return,
                // One was set since the look.
                Next::Linger => {}
            }
        }
    }

    /// Takes out what is due by `now`, and says what to do when it has rung.
    pub(crate) fn due(&self, now: Instant) -> (Vec<F>, Next) {
        let mut due = Vec::new();
        let mut state = self.0.lock();
        let next = loop {
            let (Some(Reverse(first)), Some(scale)) = (state.heap.peek().copied(), state.scale)
            else {
                break Next::Linger;
            };
            if !state.is_current(first) {
                state.heap.pop();
                state.stale = state.stale.saturating_sub(1);
            } else if first.tick() > scale.tick(now) {
                break Next::Sleep(scale.moment(first.tick()));
            } else if due.len() == BATCH {
                break Next::Look;
            } else {
                state.heap.pop();
                due.extend(state.ring_or_put_back(first, now));
            }
        };
        (due, next)
    }

    fn sleep(&self, until: Deadline) {
        let mut state = self.0.lock();
        // An alarm set since the last look may be earlier.
        let mut until = state.first().map_or(until, |at| until.earlier(at));
        if state.has_nothing_pending() {
            // All was taken back since: nobody will wake it for that.
            until = until.earlier(Deadline::after(LINGER));
        }
        if !until.has_passed() {
            state.asleep = Some(until);
            state = self.0.wait_until(state, until);
            state.asleep = None;
        }
    }

    /// The thread decides to go (4).
    fn may_go(&self) -> bool {
        let mut state = self.0.lock();
        let nothing_pending = state.has_nothing_pending();
        if nothing_pending {
            state.thread = false;
            state.heap = BinaryHeap::new();
            state.stale = 0;
            state.slots = Vec::new();
            state.vacant = Vec::new();
        }
        nothing_pending
    }
}

impl<F> State<F> {
    const fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            scale: None,
            stale: 0,
            slots: Vec::new(),
            vacant: Vec::new(),
            generation: 0,
            thread: false,
            asleep: None,
        }
    }

    fn occupy(&mut self, at: Instant, fuse: impl FnOnce() -> F) -> Alarm {
        let slot = self.vacant.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                fuse: None,
                at,
                generation: 0,
                serial: 0,
            });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        // Skips zero, which names nobody.
        self.generation = self.generation.checked_add(1).unwrap_or(1);
        let generation = self.generation;
        if let Some(place) = self.slots.get_mut(slot as usize) {
            place.generation = generation;
            place.fuse = Some(fuse());
            place.at = at;
        }
        self.enter(slot, at);
        Alarm { slot, generation }
    }

    /// Makes the entry of a slot that has none.
    fn enter(&mut self, slot: u32, at: Instant) {
        if let Some(place) = self.slots.get(slot as usize) {
            // Not around the alarm itself: all that is to come in a lifetime must be told apart, however far away that is.
            let scale = *self.scale.get_or_insert_with(|| Scale::around(time::now()));
            let entry = Entry::new(scale.tick(at), slot, place.serial);
            self.heap.push(Reverse(entry));
        }
    }

    /// When the first entry comes up.
    fn first(&self) -> Option<Deadline> {
        let Reverse(entry) = self.heap.peek()?;
        Some(Deadline::at(self.scale?.moment(entry.tick())))
    }

    fn move_to(&mut self, alarm: Alarm, at: Instant, change: impl FnOnce(&mut F)) -> bool {
        let Some(before) = self.slot_of(alarm).map(|place| place.at) else {
            return false;
        };
        let Some(place) = self.slots.get_mut(alarm.slot as usize) else {
            return false;
        };
        place.at = at;
        place.fuse.as_mut().map(change);
        // If later, the entry that is there comes up too early and is put back (3).
        if at < before {
            place.serial = place.serial.wrapping_add(1);
            self.stale += 1;
            self.enter(alarm.slot, at);
            self.sweep();
        }
        true
    }

    /// Empties a slot and lets it be used again.
    fn vacate(&mut self, slot: u32) -> Option<F> {
        let place = self.slots.get_mut(slot as usize)?;
        let fuse = place.fuse.take()?;
        place.serial = place.serial.wrapping_add(1);
        self.stale += 1;
        self.vacant.push(slot);
        self.sweep();
        Some(fuse)
    }

    /// An entry has come up that is due; its slot may say that the alarm was moved later (3).
    fn ring_or_put_back(&mut self, entry: Entry, now: Instant) -> Option<F> {
        let slot = u32::try_from(entry.slot()).ok()?;
        let at = self.slots.get(entry.slot())?.at;
        if at > now {
            self.enter(slot, at);
            return None;
        }
        let fuse = self.vacate(slot);
        // The entry is out of the heap already.
        self.stale = self.stale.saturating_sub(1);
        fuse
    }

    /// Throws the stale entries away when they are the majority: each pays for its own removal.
    fn sweep(&mut self) {
        if self.stale > self.heap.len() / 2 + A_FEW {
            let slots = &self.slots;
            self.heap.retain(|Reverse(entry)| is_current(slots, *entry));
            self.heap.shrink_to(2 * self.heap.len());
            self.stale = 0;
        }
    }

    fn is_current(&self, entry: Entry) -> bool {
        is_current(&self.slots, entry)
    }

    /// Whether the thread sleeps past `at` and is to be woken. Whoever is told so wakes it: the next one need not.
    fn comes_sooner(&mut self, at: Option<Instant>) -> bool {
        let (Some(at), Some(until)) = (at, self.asleep) else {
            return false;
        };
        let is_sooner = until.instant().is_none_or(|until| at < until);
        if is_sooner {
            self.asleep = Some(Deadline::at(at));
        }
        is_sooner
    }

    /// Whether the thread sleeps for what is not pending any more, and longer than it is to stay. At most once in
    /// that time, since it then sleeps no longer.
    fn oversleeps(&mut self) -> bool {
        self.has_nothing_pending() && self.comes_sooner(Deadline::after(LINGER).instant())
    }

    fn has_nothing_pending(&self) -> bool {
        self.slots.len() == self.vacant.len()
    }

    fn slot_of(&self, alarm: Alarm) -> Option<&Slot<F>> {
        self.slots
            .get(alarm.slot as usize)
            .filter(|slot| slot.generation == alarm.generation && slot.fuse.is_some())
    }
}

fn is_current<F>(slots: &[Slot<F>], entry: Entry) -> bool {
    slots
        .get(entry.slot())
        .is_some_and(|slot| slot.fuse.is_some() && slot.serial == entry.serial())
}

/// Somebody for whom a moment was set.
pub(crate) trait Ring: Send + Sync {
    /// The moment has come that was set at this place, by this task; the work to be done now is left to the caller.
    #[must_use = "the callbacks are to be run"]
    fn ring(
        self: Arc<Self>,
        set_at: &'static Location<'static>,
        set_by: Option<Arc<str>>,
    ) -> Vec<Arc<Callback>>;
}

/// What happens when an alarm of the process's timer rings.
pub(crate) struct Fuse {
    pub(crate) target: Arc<dyn Ring>,
    pub(crate) set_at: &'static Location<'static>,
    pub(crate) set_by: Option<Arc<str>>,
}

impl fmt::Debug for Fuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Fuse({})", self.set_at)
    }
}

#[cfg(not(any(loom, shuttle)))]
static TIMER: Timer<Fuse> = Timer::new();

#[cfg(any(loom, shuttle))]
crate::base::sync::checker::lazy_static! {
    static ref TIMER: Timer<Fuse> = Timer::new();
}

/// Sets an alarm of the process's timer, whose thread is started if it is not there.
pub(crate) fn set(at: Instant, fuse: impl FnOnce() -> Fuse) -> io::Result<Alarm> {
    let start = || {
        let thread = start_thread("tm-timer".to_owned(), None, || {
            time::be_punctual();
            TIMER.run(ring_all);
        });
        thread.map(drop)
    };
    TIMER.set(at, fuse, start)
}

/// The timer's thread runs no foreign code, be there nobody else to run it: the crew does, as soon as it has a thread. It
/// is called once for all, so that the more come at a time the less each of them costs.
fn ring_all(fuses: Vec<Fuse>) -> bool {
    let ring = |fuse: Fuse| fuse.target.ring(fuse.set_at, fuse.set_by);
    callback::hand_over(fuses.into_iter().flat_map(ring).collect(), None).is_ok()
}

/// See [`Timer::move_to`].
pub(crate) fn move_to(
    alarm: Alarm,
    at: Instant,
    set_at: &'static Location<'static>,
    mut set_by: Option<Arc<str>>,
) -> bool {
    TIMER.move_to(alarm, at, |fuse| {
        fuse.set_at = set_at;
        std::mem::swap(&mut fuse.set_by, &mut set_by);
    })
}

/// See [`Timer::take_back`]; the fuse is dropped.
pub(crate) fn take_back(alarm: Alarm) {
    drop(TIMER.take_back(alarm));
}

/// See [`Timer::take_back_and`]; says whether it was pending.
pub(crate) fn take_back_and(alarm: Alarm, also: impl FnOnce()) -> bool {
    TIMER.take_back_and(alarm, also).is_some()
}

/// See [`Timer::moment_of`].
pub(crate) fn moment_of(alarm: Alarm) -> Option<Instant> {
    TIMER.moment_of(alarm)
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::sync::unbounded;

    fn timer() -> (Timer<u32>, Instant) {
        (Timer::new(), time::now())
    }

    /// Tests drive the clock themselves: there is no thread.
    fn set(timer: &Timer<u32>, at: Instant, fuse: u32) -> Alarm {
        timer
            .set(at, || fuse, || Ok(()))
            .expect("no thread, no error")
    }

    fn ringing(timer: &Timer<u32>, now: Instant) -> Vec<u32> {
        timer.due(now).0
    }

    fn second(number: u64) -> Duration {
        Duration::from_secs(number)
    }

    #[test]
    fn alarms_ring_in_order_and_once() {
        let (timer, now) = timer();
        for number in [3, 1, 2] {
            set(&timer, now + second(u64::from(number)), number);
        }
        assert_eq!(ringing(&timer, now), []);
        assert_eq!(timer.due(now).1, Next::Sleep(now + second(1)));
        assert_eq!(ringing(&timer, now + second(2)), [1, 2]);
        assert_eq!(ringing(&timer, now + second(9)), [3]);
        assert_eq!(timer.due(now + second(99)), (vec![], Next::Linger));
    }

    #[test]
    fn an_alarm_that_was_taken_back_does_not_ring_and_one_that_rang_is_not_taken_back() {
        let (timer, now) = timer();
        let (first, second_one) = (set(&timer, now, 1), set(&timer, now, 2));
        assert_eq!(timer.take_back(first), Some(1));
        assert_eq!(timer.take_back(first), None);
        assert_eq!(ringing(&timer, now), [2]);
        assert_eq!(timer.take_back(second_one), None);
        assert!(!timer.move_to(second_one, now, |_| {}));
        assert_eq!(timer.moment_of(second_one), None);
    }

    #[test]
    fn a_moved_alarm_rings_at_its_new_moment_only() {
        let (timer, now) = timer();
        let alarm = set(&timer, now + second(5), 7);
        assert!(timer.move_to(alarm, now + second(9), |_| {}));
        assert_eq!(ringing(&timer, now + second(5)), []);
        assert!(timer.move_to(alarm, now + second(6), |_| {}));
        assert_eq!(timer.moment_of(alarm), Some(now + second(6)));
        assert_eq!(ringing(&timer, now + second(6)), [7]);
        assert_eq!(ringing(&timer, now + second(99)), []);
    }

    #[test]
    fn moving_a_million_times_leaves_a_small_heap() {
        let (timer, now) = timer();
        let alarms: Vec<Alarm> = (0..100)
            .map(|it| set(&timer, now + second(50), it))
            .collect();
        for round in 0..10_000_u64 {
            for alarm in &alarms {
                assert!(timer.move_to(*alarm, now + second(1 + round * 7 % 50), |_| {}));
            }
        }
        let state = timer.0.lock();
        assert!(state.heap.len() <= 400, "{}", state.heap.len());
        drop(state);
        assert_eq!(ringing(&timer, now + second(99)).len(), 100);
    }

    #[test]
    fn a_crowd_that_was_taken_back_leaves_a_small_heap() {
        let (timer, now) = timer();
        for number in 0..100_000 {
            let alarm = set(&timer, now + second(9), number);
            assert_eq!(timer.take_back(alarm), Some(number));
        }
        let state = timer.0.lock();
        assert!(state.heap.len() <= 2 * A_FEW + 1, "{}", state.heap.len());
        assert_eq!(state.slots.len(), 1);
    }

    #[test]
    fn the_thread_goes_though_the_last_alarm_was_taken_back_long_before_its_moment() {
        let timer = Arc::new(Timer::new());
        let (theirs, now) = (Arc::clone(&timer), time::now());
        let mut thread = None;
        let start = || {
            thread = Some(start_thread("tm-timer".to_owned(), None, move || {
                theirs.run(|_| true);
            })?);
            Ok(())
        };
        let far = now + second(3_600);
        let alarm = timer.set(far, || 7, start).expect("a thread");
        while timer.0.lock().asleep.is_none() {
            std::thread::yield_now();
        }
        assert_eq!(timer.take_back(alarm), Some(7));
        let thread = thread.expect("it was started");
        thread.join().expect("it goes");
        assert!(!timer.0.lock().thread);
    }

    #[test]
    fn what_could_not_be_done_is_tried_again_and_holds_up_no_other_alarm() {
        let timer = Arc::new(Timer::new());
        let (theirs, (rings, heard)) = (Arc::clone(&timer), unbounded());
        let (let_it, may) = unbounded();
        let mut thread = None;
        let start = || {
            thread = Some(start_thread("tm-timer".to_owned(), None, move || {
                theirs.run(|due| {
                    rings.send(due).expect("it is awaited");
                    may.try_recv().is_ok()
                });
            })?);
            Ok(())
        };
        let none_but = |expected: &[u32]| {
            let next = || heard.recv().expect("the thread is there");
            let due =
                std::iter::repeat_with(next).find(|due| !due.is_empty() || expected.is_empty());
            assert_eq!(due.as_deref(), Some(expected));
        };
        let now = time::now();
        timer.set(now, || 1, start).expect("a thread");
        none_but(&[1]);
        none_but(&[]);
        timer.set(now, || 2, || Ok(())).expect("it has a thread");
        none_but(&[2]);
        none_but(&[]);
        let_it.send(()).expect("it is awaited");
        thread.expect("it was started").join().expect("it goes");
        assert!(heard.iter().all(|due| due.is_empty()));
    }

    #[test]
    fn only_who_is_due_before_the_thread_gets_up_wakes_it_and_only_once() {
        let (timer, now) = timer();
        let mut state = timer.0.lock();
        assert!(!state.comes_sooner(Some(now)), "it is up");
        state.asleep = Some(Deadline::at(now + second(2)));
        assert!(!state.comes_sooner(None) && !state.comes_sooner(Some(now + second(2))));
        assert!(state.comes_sooner(Some(now + second(1))));
        assert!(!state.comes_sooner(Some(now + second(1))), "it was told");
    }

    #[test]
    fn without_a_thread_no_alarm_is_set() {
        let (timer, now) = timer();
        let refused = timer.set(now, || 7, || Err(io::Error::other("no thread")));
        assert!(refused.is_err());
        assert_eq!(ringing(&timer, now), []);
        set(&timer, now, 8);
        assert_eq!(ringing(&timer, now), [8]);
    }

    #[test]
    fn an_alarm_in_a_thousand_years_does_not_keep_the_others_from_ringing() {
        let (timer, now) = timer();
        let far = now + second(1_000 * 366 * 24 * 3_600);
        set(&timer, far, 1);
        set(&timer, now + second(1), 2);
        assert_eq!(timer.due(now).1, Next::Sleep(now + second(1)));
        assert_eq!(ringing(&timer, now + second(1)), [2]);
        assert_eq!(ringing(&timer, now + second(9)), []);
    }

    #[test]
    fn the_bits_of_an_alarm_name_it_and_zero_names_none() {
        let (timer, now) = timer();
        let alarm = set(&timer, now, 7);
        assert_eq!(Alarm::from_bits(alarm.to_bits()), Some(alarm));
        assert_eq!(Alarm::from_bits(0), None);
    }
}
