//! The core protocols in miniature, for every interleaving.
//!
//! Each function is one model over the real code.

use std::sync::Arc;

use crate::base::sync::checker::thread;
#[cfg(loom)]
use loom::cell::UnsafeCell;

use crate::base::latch::{self, Latch};
use crate::base::sync::{AtomicUsize, Ordering, mailbox};
use crate::base::time::{self, Deadline, Duration};
use crate::cancel::cause::CauseKind;
use crate::cancel::timer::Timer;
use crate::cancel::token::CancellationToken;
use crate::status::outcome::Outcome;
use crate::sync::condvar::Condvar;
use crate::sync::mutex;
use crate::task::handle::{Content, JoinError, Slot, TaskHandle};
use crate::task::record::{Birth, Record};
use crate::task::registry::{ROOT, Refusal, Registry, Settings, Thread};

pub fn a_wait_never_misses_the_cancel_and_finds_its_cause() {
    let token = CancellationToken::new();
    let theirs = token.clone();
    let canceller = thread::spawn(move || theirs.cancel());
    let cancelled = token.wait();
    assert!(token.is_cancelled());
    assert_eq!(cancelled.cause().kind(), CauseKind::Request);
    assert!(canceller.join().unwrap());
}

pub fn a_flag_that_is_seen_has_its_cause() {
    let parent = CancellationToken::new();
    let child = parent.child_token();
    let canceller = thread::spawn(move || parent.cancel());
    if let Err(cancelled) = child.checkpoint() {
        assert_eq!(cancelled.cause().kind(), CauseKind::Request);
    }
    assert!(canceller.join().unwrap());
    assert!(child.is_cancelled());
}

pub fn a_child_made_during_the_cancel_is_cancelled() {
    let parent = CancellationToken::new();
    let theirs = parent.clone();
    let canceller = thread::spawn(move || theirs.cancel());
    let child = parent.child_token();
    let grandchild = child.child_token();
    drop(child);
    assert!(canceller.join().unwrap());
    assert!(grandchild.is_cancelled());
}

pub fn one_of_two_cancels_wins() {
    let token = CancellationToken::new();
    let theirs = token.clone();
    let other = thread::spawn(move || theirs.cancel());
    let mine = token.cancel();
    assert!(mine ^ other.join().unwrap());
}

pub fn a_wait_for_two_latches_hears_either() {
    let latches = Arc::new([Latch::new(), Latch::new()]);
    let theirs = Arc::clone(&latches);
    let opener = thread::spawn(move || theirs[1].open());
    let [first, second] = &*latches;
    assert_eq!(latch::wait_any(&[first, second], Deadline::NEVER), Some(1));
    assert!(opener.join().unwrap());
}

pub fn a_spawn_against_the_stop_is_cancelled_or_refused() {
    let registry = registry();
    let theirs = Arc::clone(&registry);
    let stopper = thread::spawn(move || {
        let order = theirs.begin_next_stop(time::now()).unwrap();
        order.token.cancel();
        order.tasks.len()
    });
    let accepted = registry.register(birth(&registry));
    let asked = stopper.join().unwrap();
    match accepted {
        Ok(record) => {
            assert!(
                record.token.is_cancelled(),
                "accepted, but never asked to stop"
            );
            assert_eq!((asked, registry.counts().live), (1, 1));
        }
        Err(refusal) => {
            assert_eq!(refusal, Refusal::Stopping);
            assert_eq!((asked, registry.counts().spawned), (0, 0));
        }
    }
}

pub fn two_joiners_share_one_value() {
    let (registry, record) = registered();
    let slot = Slot::new(Box::new(|_| Ok(7_u8)));
    let join = || {
        let handle = TaskHandle::new(Arc::clone(&record), Arc::clone(&slot));
        thread::spawn(move || handle.join())
    };
    let joiners = [join(), join()];
    slot.put(Content::Value(7_u8)); // as its thread does, once it has taken the body
    registry.end(&record, Outcome::Completed, time::now(), Thread::NotOurs);
    record.settle();
    let [first, second] = joiners.map(|joiner| joiner.join().unwrap());
    assert!(
        matches!(
            (&first, &second),
            (Ok(7), Err(JoinError::AlreadyTaken { .. }))
                | (Err(JoinError::AlreadyTaken { .. }), Ok(7))
        ),
        "{first:?} {second:?}"
    );
}

pub fn completion_against_cancel_is_one_outcome() {
    let (registry, record) = registered();
    let (theirs, its) = (Arc::clone(&registry), Arc::clone(&record));
    let task = thread::spawn(move || {
        let outcome = its
            .token
            .cause()
            .map_or(Outcome::Completed, Outcome::Cancelled);
        theirs.end(&its, outcome, time::now(), Thread::NotOurs);
        its.settle();
    });
    record.token.cancel();
    record.settled().latch().wait_until(Deadline::NEVER);
    let counts = registry.counts();
    assert_eq!((counts.completed + counts.cancelled, counts.live), (1, 0));
    task.join().unwrap();
}

pub fn completion_against_abandonment_keeps_the_books() {
    let (registry, record) = registered();
    let (theirs, its) = (Arc::clone(&registry), Arc::clone(&record));
    let task = thread::spawn(move || {
        theirs.end(&its, Outcome::Completed, time::now(), Thread::NotOurs);
        its.settle();
    });
    let abandoned = record.abandon();
    record.settled().latch().wait_until(Deadline::NEVER);
    assert!(record.outcome().is_some(), "let go without an outcome");
    task.join().unwrap();
    assert!(
        matches!(record.outcome(), Some(Outcome::Completed)),
        "the real end is the last word"
    );
    let counts = registry.counts();
    assert_eq!((counts.completed, counts.late), (1, u64::from(abandoned)));
}

pub fn a_callback_registered_during_the_cancel_runs_once() {
    let (token, runs) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let (theirs, counter) = (token.clone(), Arc::clone(&runs));
    let registrar = thread::spawn(move || {
        theirs.on_cancel(move || {
            counter.fetch_add(1, Ordering::SeqCst);
        })
    });
    assert!(token.cancel());
    let guard = registrar.join().unwrap();
    assert_eq!(runs.load(Ordering::SeqCst), 1, "lost, or run twice");
    assert!(!guard.disarm());
}

pub fn a_callback_is_disarmed_or_has_run() {
    let (token, runs) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&runs);
    let guard = token.on_cancel(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let theirs = token.clone();
    let canceller = thread::spawn(move || theirs.cancel());
    let disarmed = guard.wait();
    let runs_after_wait = runs.load(Ordering::SeqCst);
    assert!(canceller.join().unwrap());
    assert_eq!(
        runs_after_wait,
        usize::from(!disarmed),
        "waited, and it was not over"
    );
    assert_eq!(runs.load(Ordering::SeqCst), usize::from(!disarmed));
}

pub fn an_alarm_rings_or_was_moved() {
    let now = time::now();
    let later = now + Duration::from_secs(1);
    let timer = Arc::new(Timer::new());
    let alarm = timer.set(now, || 7_u8, || Ok(())).unwrap();
    let theirs = Arc::clone(&timer);
    let thread = thread::spawn(move || theirs.due(now).0.len());
    let moved = timer.move_to(alarm, later, |_| {});
    let rang = thread.join().unwrap();
    assert_eq!(
        rang,
        usize::from(!moved),
        "moved, and rang all the same, or neither"
    );
    assert_eq!(
        timer.due(later).0.len(),
        usize::from(moved),
        "lost or doubled"
    );
}

pub fn an_alarm_is_taken_back_by_one_of_two_or_rings() {
    let now = time::now();
    let timer = Arc::new(Timer::new());
    let alarm = timer.set(now, || 7_u8, || Ok(())).unwrap();
    let (theirs, others) = (Arc::clone(&timer), Arc::clone(&timer));
    let thread = thread::spawn(move || theirs.due(now).0.len());
    let other = thread::spawn(move || usize::from(others.take_back(alarm).is_some()));
    let mine = usize::from(timer.take_back(alarm).is_some());
    assert_eq!(mine + thread.join().unwrap() + other.join().unwrap(), 1);
}

pub fn an_alarm_that_was_taken_off_is_not_taken_for_one_that_rang() {
    let now = time::now();
    let later = now + Duration::from_secs(1);
    let (timer, kept) = (Arc::new(Timer::new()), Arc::new(AtomicUsize::new(1)));
    let alarm = timer.set(now, || 7_u8, || Ok(())).unwrap();
    let (theirs, others) = (Arc::clone(&timer), Arc::clone(&timer));
    let forgets = Arc::clone(&kept);
    let thread = thread::spawn(move || theirs.due(now).0.len());
    let other = thread::spawn(move || {
        let forget = || forgets.store(0, Ordering::Relaxed);
        others.take_back_and(alarm, forget).is_some()
    });
    let is_late = !timer.move_to(alarm, later, |_| {}) && kept.load(Ordering::Relaxed) == 1;
    let (rang, taken_off) = (thread.join().unwrap(), other.join().unwrap());
    assert!(!taken_off || rang == 0, "taken off, and rang all the same");
    assert!(!is_late || rang == 1, "called late, and did not ring");
}

pub fn a_token_of_two_parents_made_during_a_cancel_is_cancelled_and_has_its_cause() {
    let (first, second) = (CancellationToken::new(), CancellationToken::new());
    let theirs = second.clone();
    let canceller = thread::spawn(move || theirs.cancel());
    let any = CancellationToken::any([&first, &second]);
    if let Err(cancelled) = any.checkpoint() {
        assert!(
            cancelled.cause().at().is_some(),
            "the flag is there without its cause"
        );
    }
    assert!(canceller.join().unwrap());
    assert!(any.is_cancelled());
    assert!(any.cause().unwrap().at().is_some());
}

pub fn a_thread_is_joined_by_exactly_one() {
    let (_registry, record) = registered();
    let its = Arc::clone(&record);
    let task = thread::spawn(move || its.depart().is_some());
    let attached = record.attach(thread::spawn(|| {})).is_some();
    assert!(attached ^ task.join().unwrap(), "joined twice or never");
}

#[cfg(loom)]
pub fn a_gate_lets_one_through_at_a_time_and_nobody_sleeps_before_a_free_one() {
    // Loom watches what is done to the value: two at a time fail, and one who does not see what the one before him did.
    let mutex = Arc::new(mutex::Mutex::new(UnsafeCell::new(())));
    let pass = |mutex: &mutex::Mutex<UnsafeCell<()>>| mutex.lock().with_mut(|_| ());
    let theirs = [Arc::clone(&mutex), Arc::clone(&mutex)];
    let others = theirs.map(|mutex| thread::spawn(move || pass(&mutex)));
    pass(&mutex);
    others.into_iter().for_each(|other| other.join().unwrap());
    assert!(mutex.try_lock().is_some());
}

pub fn a_gate_is_handed_on_when_the_called_one_is_cancelled() {
    one_of_two_waiters_is_cancelled(|held, token| {
        drop(held);
        token.cancel();
    });
}

pub fn a_waiter_that_goes_leaves_the_others_in_line() {
    one_of_two_waiters_is_cancelled(|held, token| {
        token.cancel();
        drop(held);
    });
}

fn one_of_two_waiters_is_cancelled(end: fn(mutex::MutexGuard<'_, ()>, &CancellationToken)) {
    let mutex = Arc::new(mutex::Mutex::new(()));
    let token = CancellationToken::new();
    let held = mutex.lock();
    let (theirs, their_token) = (Arc::clone(&mutex), token.clone());
    let fickle = thread::spawn(move || drop(their_token.lock(&theirs)));
    let theirs = Arc::clone(&mutex);
    let patient = thread::spawn(move || drop(theirs.lock()));
    end(held, &token);
    fickle.join().unwrap();
    patient.join().unwrap();
    assert!(mutex.try_lock().is_some());
}

pub fn a_gate_is_handed_on_when_the_time_of_the_called_one_is_over() {
    let mutex = Arc::new(mutex::Mutex::new(()));
    let held = mutex.lock();
    let theirs = Arc::clone(&mutex);
    let hasty = thread::spawn(move || theirs.lock_deadline(time::now()).is_some());
    let theirs = Arc::clone(&mutex);
    let patient = thread::spawn(move || drop(theirs.lock()));
    drop(held);
    hasty.join().unwrap();
    patient.join().unwrap();
    assert!(mutex.try_lock().is_some());
}

#[cfg(loom)]
pub fn one_who_barges_in_is_followed_by_whoever_was_called() {
    let mutex = Arc::new(mutex::Mutex::new(UnsafeCell::new(())));
    let held = mutex.lock();
    let theirs = Arc::clone(&mutex);
    let waiter = thread::spawn(move || theirs.lock().with_mut(|_| ()));
    drop(held);
    // Beaten once, the waiter is served the second time: under loom that is the limit.
    for _ in 0..2 {
        if let Some(guard) = mutex.try_lock() {
            guard.with_mut(|_| ());
        }
    }
    waiter.join().unwrap();
    assert!(mutex.try_lock().is_some());
}

pub fn one_who_is_served_and_cancelled_leaves_the_gate() {
    let mutex = Arc::new(mutex::Mutex::new(()));
    let token = CancellationToken::new();
    let held = mutex.lock();
    let (theirs, their_token) = (Arc::clone(&mutex), token.clone());
    let fickle = thread::spawn(move || their_token.lock(&theirs).is_ok());
    drop(held);
    drop(mutex.try_lock());
    token.cancel();
    fickle.join().unwrap();
    assert!(mutex.try_lock().is_some());
}

pub fn a_notification_finds_who_waits() {
    let door = Arc::new((mutex::Mutex::new(false), Condvar::new()));
    let theirs = Arc::clone(&door);
    let guest = thread::spawn(move || {
        let is_open = theirs.0.lock();
        assert!(*theirs.1.wait_while(is_open, |is_open| !*is_open));
    });
    *door.0.lock() = true;
    door.1.notify_one();
    guest.join().unwrap();
}

pub fn a_notification_is_not_lost_with_a_cancelled_waiter() {
    one_of_two_guests_is_cancelled(|(is_open, opened), token| {
        *is_open.lock() = true;
        opened.notify_one();
        token.cancel();
    });
}

pub fn a_notification_is_not_lost_with_one_who_is_cancelled_before_the_lock() {
    one_of_two_guests_is_cancelled(|(is_open, opened), token| {
        let mut is_open = is_open.lock();
        *is_open = true;
        opened.notify_one();
        token.cancel();
        drop(is_open);
    });
}

/// A door with those who wait for it to be opened.
type Door = (mutex::Mutex<bool>, Condvar);

fn one_of_two_guests_is_cancelled(open: fn(&Door, &CancellationToken)) {
    let door: Arc<Door> = Arc::new((mutex::Mutex::new(false), Condvar::new()));
    let token = CancellationToken::new();
    let (theirs, their_token) = (Arc::clone(&door), token.clone());
    let fickle = thread::spawn(move || {
        let is_open = theirs.0.lock();
        let is_open = their_token.wait_while(&theirs.1, is_open, |is_open| !*is_open);
        if is_open.is_ok() {
            drop(is_open);
            theirs.1.notify_one();
        }
    });
    let theirs = Arc::clone(&door);
    let patient = thread::spawn(move || {
        let is_open = theirs.0.lock();
        drop(theirs.1.wait_while(is_open, |is_open| !*is_open));
    });
    open(&door, &token);
    fickle.join().unwrap();
    patient.join().unwrap();
}

fn registry() -> Arc<Registry> {
    let (sender, _receiver) = mailbox();
    let settings = Settings::plain(Duration::from_secs(1));
    Arc::new(Registry::new(settings, sender))
}

fn birth(registry: &Registry) -> Birth {
    Birth::plain(ROOT, registry.root_token().child_token())
}

fn registered() -> (Arc<Registry>, Arc<Record>) {
    let registry = registry();
    let record = registry.register(birth(&registry)).unwrap();
    (registry, record)
}
