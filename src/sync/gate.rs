//! The gate before a lock: who has passed, who waits, who is called.
//!
//! A user's value lies in a lock that is free for whoever has passed its gate ([`Vault`](crate::base::sync::Vault)). So
//! all waiting is done here, where a cancel and a deadline are heard as well. Words: the *holder* has passed and not left
//! yet; a gate without one is *free*. The *line* is of those who wait; the holder *calls* the first of them when he
//! leaves, and nobody else is called until that one is *back*: then he passes, joins again or goes. Whoever finds a free
//! gate passes, whether somebody was called or not (barging): that keeps the gate busy while the called one wakes up. One
//! who was called and *beaten* too often is *served*: the holder hands the gate to him.
//!
//! Invariants:
//!
//! 1. `word` has the number of the holder, zero while the gate is free, and the bit [`QUEUED`]. Only a thread that finds
//!    the gate free puts its own number there; only the holder takes it away, or puts that of the served one there.
//! 2. The line, and with it the bit, changes only under the lock of the waiting room, and whenever that lock is free the
//!    bit says whether somebody waits or was called and is not back.
//! 3. Somebody joins the line in the step that sees a holder and sets the bit. A holder who sees no bit leaves with one
//!    exchange, which fails if the bit was set meanwhile; one who sees it leaves under the lock of the room, and so after
//!    whoever set it is in the line.
//! 4. The gate is not free with somebody in the line, unless somebody was called and is not back: the holder who leaves
//!    calls the first, and one who was called and goes, for a cancel or a deadline, calls the next if the gate is free.
//!    So no wake-up is lost, and nobody sleeps before a free gate.
//! 5. Whoever was served is the holder, before he knows. If he goes, he leaves like every holder.
//! 6. Whoever joins comes back, once, and leaves nothing of himself in the line.
//! 7. One lock at a time, that of the room; a latch is opened and a cause looked up after it was released.
//! 8. What is told of the holder does not decide anything. While the bit is set it is in the room, for those who wait:
//!    put there by the one who set the bit, or by the holder if the bit was set when he passed.

use std::fmt;
use std::marker::PhantomData;
use std::panic::Location;
use std::sync::{Arc, OnceLock};

use crate::base::callsign;
use crate::base::latch::Latch;
use crate::base::sync::{self, AtomicCell, AtomicUsize, BoundToThread, Mutex, Ordering};
use crate::cancel::cause;
use crate::sync::line::{self, Claim, Line, Return};
use crate::sync::patience::{Intent, Patience, Refused};
use crate::task::record::Awaited;

/// Somebody waits, or was called and is not back (2).
const QUEUED: usize = 1;

/// How often somebody who was called is beaten before he is served. Serving costs the time of a wake-up, during which
/// the gate is nobody's; never to serve costs some their turn for half a second and more.
const BEATEN: u32 = if cfg!(loom) { 1 } else { 4 };

/// A place that one thread passes at a time.
pub(crate) struct Gate {
    word: AtomicUsize,
    /// Where the holder passed; `None` while he is about to say so, or to leave.
    place: AtomicCell<Option<&'static Location<'static>>>,
    /// Made by the first who has to wait.
    room: OnceLock<Arc<Room>>,
}

/// Where those are who wait. Outlives the gate for as long as somebody is told what a task waits for.
struct Room {
    line: Mutex<Line>,
    /// The holder, for those who wait (8).
    holder: AtomicCell<Option<Holder>>,
}

/// Who has passed a gate, and where.
#[derive(Clone, Copy)]
pub(crate) struct Holder {
    thread: usize,
    at: Option<&'static Location<'static>>,
}

/// The right of one thread to be behind a gate; it leaves when this is dropped.
#[must_use = "the gate is left at once"]
pub(crate) struct Pass<'a> {
    gate: &'a Gate,
    /// The word of a gate that he has passed and nobody waits at.
    word: usize,
    /// Who it is that has passed is told by his thread. The value's own guard may be sent to another one, if some crate
    /// of the program switches that on in `parking_lot`.
    _bound: BoundToThread,
}

/// How far somebody has come who waits.
struct Visit {
    /// His word (see [`Pass`]).
    word: usize,
    /// His turn in the line, once he has joined it.
    turn: Option<u64>,
    /// How often he was called and found that somebody else had been faster.
    beaten: u32,
}

/// What came of a look at the gate.
enum Look {
    Passed,
    InLine(Arc<Latch>),
    Refused(Refused),
}

impl Gate {
    #[cfg(not(any(loom, shuttle)))]
    pub(crate) const fn new() -> Self {
        Self {
            word: AtomicUsize::new(0),
            place: AtomicCell::new(None),
            room: OnceLock::new(),
        }
    }

    /// Loom's primitives cannot be made at compile time.
    #[cfg(any(loom, shuttle))]
    pub(crate) fn new() -> Self {
        Self {
            word: AtomicUsize::new(0),
            place: AtomicCell::new(None),
            room: OnceLock::new(),
        }
    }

    /// Passes the gate if it is free.
    #[inline]
    pub(crate) fn try_pass(&self, place: &'static Location<'static>) -> Option<Pass<'_>> {
        let word = own_word();
        // Acquire pairs with the release of whoever left: what he did behind the gate is seen by whoever passes.
        let before = self
            .word
            .compare_exchange(0, word, Ordering::Acquire, Ordering::Relaxed);
        if before.is_ok() {
            self.place.store(Some(place));
            return Some(self.pass_of(word));
        }
        self.barge(word, place)
    }

    /// Passes a free gate before those who wait at it (4: one of them is called already).
    #[cold]
    fn barge(&self, word: usize, place: &'static Location<'static>) -> Option<Pass<'_>> {
        let barged = |before: usize| is_free(before).then_some(word | before);
        let before = self
            .word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, barged);
        let is_queued = before.ok()? & QUEUED != 0;
        let pass = self.pass_of(word);
        self.place.store(Some(place));
        if is_queued {
            self.room().holder.store(Some(pass.holder()));
        }
        Some(pass)
    }

    /// Waits until the gate is free, and passes.
    ///
    /// # Panics
    /// If the calling thread has passed and not left.
    #[cold]
    #[track_caller]
    pub(crate) fn pass(
        &self,
        place: &'static Location<'static>,
        patience: &Patience<'_>,
    ) -> Result<Pass<'_>, Refused> {
        self.assert_not_mine();
        let is_free = sync::comes_soon(|| self.word.load(Ordering::Relaxed) == 0);
        if patience.intent() == Intent::Go {
            return Err(Refused::Cancelled);
        }
        if let Some(pass) = is_free.then(|| self.try_pass(place)).flatten() {
            return Ok(pass);
        }
        let room = self.room();
        let what = Arc::clone(room) as Arc<dyn Awaited>;
        patience.on_books(what, place, || self.wait(room, place, patience))
    }

    fn wait(
        &self,
        room: &Room,
        place: &'static Location<'static>,
        patience: &Patience<'_>,
    ) -> Result<Pass<'_>, Refused> {
        let word = own_word();
        let mut visit = Visit {
            word,
            turn: None,
            beaten: 0,
        };
        let mut intent = Intent::Stay;
        loop {
            match self.look(room, &mut visit, intent) {
                Look::Passed => {
                    let pass = self.pass_of(word);
                    self.place.store(Some(place));
                    room.holder.store(Some(pass.holder()));
                    return Ok(pass);
                }
                Look::InLine(latch) => patience.wait_at(&latch),
                Look::Refused(refused) => return Err(refused),
            }
            intent = patience.intent();
        }
    }

    /// One look at the gate by somebody who waits: he is back from the line, if he was in it, and passes, joins or goes.
    fn look(&self, room: &Room, visit: &mut Visit, intent: Intent) -> Look {
        let mut line = room.line.lock();
        let back = visit.turn.map(|turn| line.come_back(turn));
        if back == Some(Return::Settled) {
            drop(line);
            return self.accept(visit, intent);
        }
        let others = queued(&line);
        let (if_free, if_held) = match intent {
            Intent::Stay => (visit.word | others, QUEUED),
            Intent::LastTry => (visit.word | others, others),
            Intent::Go => (others, others),
        };
        let before = self.change(if_free, if_held);
        match (intent, is_free(before)) {
            (Intent::Stay | Intent::LastTry, true) => Look::Passed,
            (Intent::Stay, false) => {
                if before & QUEUED == 0 {
                    // He cannot leave before the lock of the room is free (3).
                    room.holder.store(Some(self.holder_in(before)));
                }
                visit.beaten += u32::from(back == Some(Return::Called));
                let claim = if visit.beaten < BEATEN {
                    Claim::Call
                } else {
                    Claim::Service
                };
                let (turn, latch) = line.join(visit.turn, number_in(visit.word), claim);
                visit.turn = Some(turn);
                Look::InLine(latch)
            }
            (Intent::LastTry, false) => Look::Refused(Refused::Late),
            (Intent::Go, was_free) => {
                let next = was_free.then(|| call_next(&mut line)).flatten();
                drop(line);
                line::wake(next);
                Look::Refused(Refused::Cancelled)
            }
        }
    }

    /// Somebody was served, and may not want it any more (5).
    fn accept(&self, visit: &Visit, intent: Intent) -> Look {
        match intent {
            Intent::Stay | Intent::LastTry => Look::Passed,
            Intent::Go => {
                self.leave(visit.word);
                Look::Refused(Refused::Cancelled)
            }
        }
    }

    /// Puts `if_free` into the word of a free gate, or `if_held` beside the holder; gives the word before.
    fn change(&self, if_free: usize, if_held: usize) -> usize {
        let changed = |before: usize| {
            Some(if is_free(before) {
                if_free
            } else {
                (before & !QUEUED) | if_held
            })
        };
        // Acquire as in `try_pass`. Nothing is published by a bit: the line is under the room's lock.
        self.word
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, changed)
            .unwrap_or_else(|word| word)
    }

    /// The holder leaves (3).
    #[inline]
    fn leave(&self, word: usize) {
        self.place.store(None);
        // Release pairs with the acquire of whoever passes next.
        let left = self
            .word
            .compare_exchange(word, 0, Ordering::Release, Ordering::Relaxed);
        if left.is_err() {
            self.leave_and_call();
        }
    }

    #[cold]
    fn leave_and_call(&self) {
        let room = self.room();
        let mut line = room.line.lock();
        let (next, word) = match line.serve_first() {
            Some((latch, thread)) => (Some(latch), word_of(thread)),
            None => (call_next(&mut line), 0),
        };
        let holder = (word != 0).then_some(Holder {
            thread: number_in(word),
            at: None,
        });
        room.holder.store(holder);
        // A store will do: with a holder the word changes under the lock of the room only (1, 2).
        self.word.store(word | queued(&line), Ordering::Release);
        drop(line);
        line::wake(next);
    }

    /// Who has passed and not left yet, at this moment.
    pub(crate) fn holder(&self) -> Option<Holder> {
        let word = self.word.load(Ordering::Relaxed);
        (!is_free(word)).then(|| self.holder_in(word))
    }

    /// The numbers of the threads that wait, the first first.
    pub(crate) fn waiting(&self) -> Vec<usize> {
        let room = self.room.get();
        room.map_or_else(Vec::new, |room| room.line.lock().threads())
    }

    #[inline]
    fn pass_of(&self, word: usize) -> Pass<'_> {
        Pass {
            gate: self,
            word,
            _bound: PhantomData,
        }
    }

    fn holder_in(&self, word: usize) -> Holder {
        Holder {
            thread: number_in(word),
            at: self.place.load(),
        }
    }

    #[track_caller]
    fn assert_not_mine(&self) {
        let holder = self.holder();
        let mine = holder.filter(|holder| holder.thread == number_in(own_word()));
        assert!(
            mine.is_none(),
            "{} locks a mutex that it holds itself{}: that would never end",
            callsign::spoken(number_in(own_word())),
            Since(mine.and_then(|mine| mine.at))
        );
    }

    fn room(&self) -> &Arc<Room> {
        self.room.get_or_init(|| {
            Arc::new(Room {
                line: Mutex::new(Line::new()),
                holder: AtomicCell::new(None),
            })
        })
    }
}

impl Pass<'_> {
    fn holder(&self) -> Holder {
        self.gate.holder_in(self.word)
    }
}

impl Drop for Pass<'_> {
    #[inline]
    fn drop(&mut self) {
        self.gate.leave(self.word);
    }
}

impl Awaited for Room {
    fn describe(&self) -> String {
        match self.holder.load() {
            Some(holder) => format!("the lock held by {holder}"),
            None => "a lock that has just become free".to_owned(),
        }
    }
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.describe())
    }
}

/// `writer` since src/save.rs:10
impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", callsign::spoken(self.thread), Since(self.at))
    }
}

/// Nothing, or the line at which something was locked.
struct Since(Option<&'static Location<'static>>);

impl fmt::Display for Since {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .map_or(Ok(()), |at| write!(f, " since {}:{}", at.file(), at.line()))
    }
}

/// The word of a gate that the calling thread has passed, without the bit.
#[inline]
fn own_word() -> usize {
    word_of(own_number())
}

/// The number of the calling thread, which is known by the name of its task, else by its own.
#[inline]
pub(crate) fn own_number() -> usize {
    callsign::number(|| cause::actor().or_else(|| sync::thread_name().map(Arc::from)))
}

#[inline]
fn word_of(thread: usize) -> usize {
    thread << 1
}

fn number_in(word: usize) -> usize {
    word >> 1
}

fn is_free(word: usize) -> bool {
    number_in(word) == 0
}

/// The bit as it must be (2).
fn queued(line: &Line) -> usize {
    if line.is_empty() { 0 } else { QUEUED }
}

/// Calls the first in the line, unless somebody was called already (4).
#[must_use = "whoever was called sleeps until his latch is opened"]
fn call_next(line: &mut Line) -> Option<Arc<Latch>> {
    if line.expects_somebody() {
        None
    } else {
        line.call_first()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    /// Somebody on another thread, as far as the gate can tell.
    fn somebody(thread: usize) -> Visit {
        Visit {
            word: word_of(usize::MAX / 2 - thread),
            turn: None,
            beaten: 0,
        }
    }

    fn word(gate: &Gate) -> usize {
        gate.word.load(Ordering::Relaxed)
    }

    fn is_in_line(look: &Look) -> bool {
        matches!(look, Look::InLine(latch) if !latch.is_open())
    }

    #[test]
    fn the_bit_says_whether_somebody_waits_or_is_on_his_way() {
        let gate = Gate::new();
        let room = gate.room();
        let (here, me) = (Location::caller(), own_word());
        let pass = gate.try_pass(here).expect("it is free");
        assert_eq!(word(&gate), me);
        let (mut first, mut second) = (somebody(1), somebody(2));
        assert!(is_in_line(&gate.look(room, &mut first, Intent::Stay)));
        assert!(is_in_line(&gate.look(room, &mut second, Intent::Stay)));
        assert_eq!(word(&gate), me | QUEUED);
        drop(pass);
        assert_eq!(word(&gate), QUEUED, "the first is called, and not back");

        let pass = gate.try_pass(here).expect("anybody may come before him");
        let holder = room.holder.load().expect("those who wait are told");
        assert_eq!((holder.thread, holder.at), (own_number(), Some(here)));
        let refused = gate.look(room, &mut first, Intent::LastTry);
        assert!(matches!(refused, Look::Refused(Refused::Late)));
        let refused = gate.look(room, &mut second, Intent::Go);
        assert!(matches!(refused, Look::Refused(Refused::Cancelled)));
        assert_eq!(word(&gate), me, "nobody waits any more");
        drop(pass);
        assert_eq!(word(&gate), 0);
        assert!(room.line.lock().is_empty());
    }

    #[test]
    fn one_who_goes_calls_the_next_to_a_free_gate() {
        let gate = Gate::new();
        let room = gate.room();
        let pass = gate.try_pass(Location::caller()).expect("it is free");
        let (mut first, mut second) = (somebody(1), somebody(2));
        assert!(is_in_line(&gate.look(room, &mut first, Intent::Stay)));
        let Look::InLine(latch) = gate.look(room, &mut second, Intent::Stay) else {
            panic!("the gate is not free")
        };
        drop(pass);
        assert!(!latch.is_open(), "one at a time");
        let refused = gate.look(room, &mut first, Intent::Go);
        assert!(matches!(refused, Look::Refused(Refused::Cancelled)));
        assert!(latch.is_open());
        assert!(matches!(
            gate.look(room, &mut second, Intent::LastTry),
            Look::Passed
        ));
        assert_eq!(word(&gate), second.word);
        gate.leave(second.word);
        assert_eq!(word(&gate), 0);
    }

    #[test]
    fn one_who_was_beaten_too_often_is_served() {
        let gate = Gate::new();
        let room = gate.room();
        let mut waiter = somebody(1);
        for _ in 0..=BEATEN {
            let pass = gate.try_pass(Location::caller()).expect("it is free");
            assert!(is_in_line(&gate.look(room, &mut waiter, Intent::Stay)));
            drop(pass);
        }
        assert_eq!(word(&gate), waiter.word, "handed to him");
        assert!(gate.try_pass(Location::caller()).is_none());
        let refused = gate.look(room, &mut waiter, Intent::Go);
        assert!(matches!(refused, Look::Refused(Refused::Cancelled)));
        assert_eq!(word(&gate), 0);
        assert!(room.line.lock().is_empty());
    }
}
