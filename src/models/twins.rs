//! The core protocols with one classic mistake each.
//!
//! They must fail, or the models would prove nothing.

use std::sync::Arc;

use crate::base::sync::checker::thread;

use crate::base::latch;
use crate::base::sync::{AtomicBool, Monitor, Mutex, Ordering};
use crate::base::time::Deadline;
use crate::cancel::token::CancellationToken;
use crate::status::outcome::Outcome;
use crate::status::state::Phase;
use crate::sync::line::{self, Claim, Line};
use crate::sync::mutex;

/// Looks at the flag before it takes the lock it sleeps under.
pub fn a_wait_that_looks_too_early() {
    let gate = Arc::new((AtomicBool::new(false), Monitor::new(())));
    let theirs = Arc::clone(&gate);
    let canceller = thread::spawn(move || {
        theirs.0.store(true, Ordering::SeqCst);
        theirs.1.notify_all();
    });
    if !gate.0.load(Ordering::SeqCst) {
        let guard = gate.1.lock();
        drop(gate.1.wait_until(guard, Deadline::NEVER));
    }
    canceller.join().unwrap();
}

/// Decides under one lock and registers under another.
pub fn a_spawn_that_decides_before_it_registers() {
    let books = Arc::new((
        Mutex::new(false),
        Mutex::new(Vec::<CancellationToken>::new()),
    ));
    let theirs = Arc::clone(&books);
    let stopper = thread::spawn(move || {
        *theirs.0.lock() = true;
        let tasks = theirs.1.lock().clone();
        tasks.iter().for_each(|task| {
            task.cancel();
        });
    });
    let token = CancellationToken::new();
    let refused = *books.0.lock();
    if !refused {
        books.1.lock().push(token.clone());
    }
    stopper.join().unwrap();
    assert!(
        refused || token.is_cancelled(),
        "accepted, but never asked to stop"
    );
}

/// Looks whether the list is closed under one lock and enters it under another.
pub fn a_registration_that_looks_and_then_enters() {
    let list = Arc::new((Mutex::new(false), Mutex::new(Vec::<u8>::new())));
    let theirs = Arc::clone(&list);
    let canceller = thread::spawn(move || {
        *theirs.0.lock() = true;
        std::mem::take(&mut *theirs.1.lock()).len()
    });
    let closed = *list.0.lock();
    let run_here = usize::from(closed);
    if !closed {
        list.1.lock().push(7);
    }
    let run_there = canceller.join().unwrap();
    assert_eq!(run_here + run_there, 1, "a callback was lost");
}

/// Looks whether the alarm is pending and moves it in two steps.
pub fn an_alarm_that_is_moved_in_two_steps() {
    let slot = Arc::new(Mutex::new(Some(7_u8)));
    let theirs = Arc::clone(&slot);
    let thread = thread::spawn(move || theirs.lock().take().is_some());
    let pending = slot.lock().is_some();
    if pending {
        *slot.lock() = Some(7);
    }
    let rang = thread.join().unwrap();
    assert!(pending ^ rang, "moved, and rang all the same");
}

/// Looks for the value and takes it in two steps.
pub fn a_join_that_looks_and_then_takes() {
    let slot = Arc::new(Mutex::new(Some(7_u8)));
    let take = |slot: Arc<Mutex<Option<u8>>>| {
        let there = slot.lock().is_some();
        if there {
            slot.lock().take().expect("the value that was seen")
        } else {
            7
        }
    };
    let theirs = Arc::clone(&slot);
    let other = thread::spawn(move || take(theirs));
    take(slot);
    other.join().unwrap();
}

/// Looks under one lock whether there is an outcome and writes it under another.
pub fn a_cancel_that_looks_and_then_ends_the_task() {
    let life = Arc::new((Mutex::new(None::<Outcome>), Mutex::new(0)));
    let end = |life: &(Mutex<Option<Outcome>>, Mutex<u32>), outcome| {
        let is_over = life.0.lock().is_some();
        if !is_over {
            *life.0.lock() = Some(outcome);
            *life.1.lock() += 1;
        }
    };
    let its = Arc::clone(&life);
    let task = thread::spawn(move || end(&its, Outcome::Completed));
    end(&life, Outcome::Abandoned);
    task.join().unwrap();
    assert_eq!(*life.1.lock(), 1, "one outcome");
}

/// Abandons in two steps: the end in between is overwritten.
pub fn an_abandonment_that_looks_and_then_writes() {
    let life = Arc::new((Mutex::new(Phase::Running), Mutex::new(None::<Outcome>)));
    let its = Arc::clone(&life);
    let task = thread::spawn(move || {
        *its.0.lock() = Phase::Ended;
        *its.1.lock() = Some(Outcome::Completed);
    });
    let running = *life.0.lock() == Phase::Running;
    if running {
        *life.1.lock() = Some(Outcome::Abandoned);
    }
    task.join().unwrap();
    let last = life.1.lock().clone();
    assert!(
        matches!(last, Some(Outcome::Completed)),
        "the real end is the last word"
    );
}

/// The gate of a lock in miniature.
#[derive(Clone)]
struct Gate(Arc<Mutex<(bool, Line)>>);

impl Gate {
    fn held() -> Self {
        Self(Arc::new(Mutex::new((true, Line::new()))))
    }

    fn leave(&self) {
        let mut gate = self.0.lock();
        gate.0 = false;
        let next = if gate.1.expects_somebody() {
            None
        } else {
            gate.1.call_first()
        };
        drop(gate);
        line::wake(next);
    }

    fn is_held(&self) -> bool {
        self.0.lock().0
    }

    /// Passes, or waits in line to look again; `false` after a wait.
    fn pass_or_wait(&self, token: &CancellationToken) -> bool {
        let mut gate = self.0.lock();
        if !gate.0 {
            gate.0 = true;
            return true;
        }
        let (turn, latch) = gate.1.join(None, 0, Claim::Call);
        drop(gate);
        let cancel = token.node().beacon().latch();
        latch::wait_any(&[cancel, &latch], Deadline::NEVER);
        self.0.lock().1.come_back(turn);
        false
    }
}

/// Goes when it is cancelled, whether it was called or not, and calls nobody in its place.
pub fn a_called_waiter_that_goes_silently() {
    let gate = Gate::held();
    let token = CancellationToken::new();
    let (theirs, their_token) = (gate.clone(), token.clone());
    let fickle = thread::spawn(move || {
        while !their_token.is_cancelled() {
            if theirs.pass_or_wait(&their_token) {
                theirs.leave();
                return;
            }
        }
    });
    let theirs = gate.clone();
    let patient = thread::spawn(move || {
        let never = CancellationToken::new();
        while !theirs.pass_or_wait(&never) {}
        theirs.leave();
    });
    gate.leave();
    token.cancel();
    fickle.join().unwrap();
    patient.join().unwrap();
}

/// Sees a holder under one lock and joins the line under the next: the holder may have left in between.
pub fn a_waiter_that_looks_and_then_joins() {
    let gate = Gate::held();
    let theirs = gate.clone();
    let waiter = thread::spawn(move || {
        if theirs.is_held() {
            let (_, latch) = theirs.0.lock().1.join(None, 0, Claim::Call);
            latch.wait_until(Deadline::NEVER);
        }
    });
    gate.leave();
    waiter.join().unwrap();
}

/// Goes with the notification it was called for.
pub fn a_notified_waiter_that_goes_silently() {
    let door = Arc::new((mutex::Mutex::new(false), Mutex::new(Line::new())));
    let token = CancellationToken::new();
    let wait = |door: &(mutex::Mutex<bool>, Mutex<Line>), token: &CancellationToken| {
        let mut is_open = door.0.lock();
        while !*is_open {
            let (turn, latch) = door.1.lock().join(None, 0, Claim::Call);
            drop(is_open);
            let cancel = token.node().beacon().latch();
            latch::wait_any(&[cancel, &latch], Deadline::NEVER);
            door.1.lock().come_back(turn);
            if token.is_cancelled() {
                return;
            }
            is_open = door.0.lock();
        }
        drop(is_open);
        let next = door.1.lock().call_first();
        line::wake(next);
    };
    let (theirs, their_token) = (Arc::clone(&door), token.clone());
    let fickle = thread::spawn(move || wait(&theirs, &their_token));
    let theirs = Arc::clone(&door);
    let patient = thread::spawn(move || wait(&theirs, &CancellationToken::new()));
    *door.0.lock() = true;
    let next = door.1.lock().call_first();
    line::wake(next);
    token.cancel();
    fickle.join().unwrap();
    patient.join().unwrap();
}
