//! The core protocols in miniature, for every interleaving of loom.
//!
//! Each function is one model over the real code. Those in [`twins`] are copies with one classic mistake: they must
//! fail, or the models would prove nothing. Run by `tests/loom.rs`.
#![allow(
    missing_docs,
    clippy::missing_panics_doc,
    reason = "not part of the API"
)]

use std::panic::Location;
use std::sync::Arc;

use loom::thread;

use crate::base::latch::{self, Latch};
use crate::base::sync::{AtomicUsize, Ordering, unbounded};
use crate::base::time::{self, Deadline, Duration};
use crate::cancel::cause::CauseKind;
use crate::cancel::timer::Timer;
use crate::cancel::token::CancellationToken;
use crate::policy::failure::OnFailure;
use crate::status::outcome::Outcome;
use crate::task::handle::{Content, JoinError, Slot, TaskHandle};
use crate::task::panic::PanicHook;
use crate::task::record::{Birth, OnDrain, Record};
use crate::task::registry::{Phases, ROOT, Refusal, Registry, Settings, Thread};

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
    let alarm = timer.set(Some(now), || 7_u8, || Ok(())).unwrap();
    let theirs = Arc::clone(&timer);
    let thread = thread::spawn(move || theirs.due(now).0.len());
    let moved = timer.move_to(alarm, Some(later));
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
    let alarm = timer.set(Some(now), || 7_u8, || Ok(())).unwrap();
    let (theirs, others) = (Arc::clone(&timer), Arc::clone(&timer));
    let thread = thread::spawn(move || theirs.due(now).0.len());
    let other = thread::spawn(move || usize::from(others.take_back(alarm).is_some()));
    let mine = usize::from(timer.take_back(alarm).is_some());
    assert_eq!(mine + thread.join().unwrap() + other.join().unwrap(), 1);
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

fn registry() -> Arc<Registry> {
    let (sender, _receiver) = unbounded();
    let settings = Settings {
        grace: Duration::from_secs(1),
        max_tasks: 8,
        history: 8,
        panic_hook: PanicHook::Leave,
        phases: Phases::default(),
    };
    Arc::new(Registry::new(settings, sender))
}

fn birth(registry: &Registry) -> Birth {
    Birth {
        path: Arc::from("task"),
        group: ROOT,
        token: registry.root_token().child_token(),
        grace: None,
        on_drain: OnDrain::GoesOn,
        on_failure: OnFailure::Record,
        counts_for_readiness: false,
        spawned_at: Location::caller(),
    }
}

fn registered() -> (Arc<Registry>, Arc<Record>) {
    let registry = registry();
    let record = registry.register(birth(&registry)).unwrap();
    (registry, record)
}

/// The same protocols with one classic mistake each.
pub mod twins {
    use std::sync::Arc;

    use loom::thread;

    use crate::base::sync::{AtomicBool, Monitor, Mutex, Ordering};
    use crate::base::time::Deadline;
    use crate::cancel::token::CancellationToken;
    use crate::status::outcome::Outcome;
    use crate::status::state::Phase;

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
}
