//! Callbacks, deadlines, tokens of several parents: exactly one winner, always.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use taskmuster::crossbeam_channel::{bounded, select, unbounded};
use taskmuster::{CancellationToken, CauseKind, JoinError, Manager, Outcome};

use crate::HANG;

const ROUNDS: usize = 10_000;

/// Two threads that start each of many rounds at the same moment.
fn race<R: Sync + Send>(
    rounds: usize,
    set_up: impl Fn() -> R,
    left: impl Fn(&R) -> bool,
    right: impl Fn(&R) -> bool + Sync,
    judge: impl Fn(&R, bool, bool),
) {
    let arrived = AtomicUsize::new(0);
    let arrive = |round: usize| {
        arrived.fetch_add(1, Ordering::SeqCst);
        while arrived.load(Ordering::SeqCst) < 2 * (round + 1) {
            thread::yield_now();
        }
    };
    thread::scope(|scope| {
        // Both are closed when the judge panics, so that the other one goes as well.
        let (give, given) = bounded::<Arc<R>>(1);
        let (tell, told) = bounded(1);
        let (arrive, right) = (&arrive, &right);
        scope.spawn(move || {
            for (round, field) in given.iter().enumerate() {
                arrive(round);
                if tell.send(right(&field)).is_err() {
                    return;
                }
            }
        });
        for round in 0..rounds {
            let field = Arc::new(set_up());
            give.send(Arc::clone(&field)).expect("it is there");
            arrive(round);
            // Now the one, now the other comes a little later.
            (0..round % 64).for_each(|_| std::hint::spin_loop());
            let ours = left(&field);
            let theirs = told
                .recv_timeout(HANG)
                .expect("the other one does not hang");
            judge(&field, ours, theirs);
        }
    });
}

struct Counted {
    token: CancellationToken,
    runs: Arc<AtomicUsize>,
}

impl Counted {
    fn new() -> Self {
        Self {
            token: CancellationToken::new(),
            runs: Arc::default(),
        }
    }

    fn work(&self) -> impl FnOnce() + Send + 'static {
        let runs = Arc::clone(&self.runs);
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
        }
    }

    fn runs(&self) -> usize {
        self.runs.load(Ordering::SeqCst)
    }
}

#[test]
fn registering_against_cancel_runs_the_callback_exactly_once() {
    race(
        ROUNDS,
        Counted::new,
        |round| {
            round.token.on_cancel(round.work()).keep();
            true
        },
        |round| round.token.cancel(),
        |round, _, won| {
            assert!(won);
            assert_eq!(round.runs(), 1);
        },
    );
}

#[test]
fn a_callback_is_unregistered_or_has_run_never_both() {
    let ran = AtomicUsize::new(0);
    race(
        ROUNDS,
        || {
            let round = Counted::new();
            let guard = Mutex::new(Some(round.token.on_cancel(round.work())));
            (round, guard)
        },
        |(_, guard)| {
            let guard = guard.lock().take().expect("registered");
            guard.wait()
        },
        |(round, _)| round.token.cancel(),
        |(round, _), disarmed, cancelled| {
            assert!(cancelled);
            assert_eq!(round.runs(), usize::from(!disarmed));
            ran.fetch_add(round.runs(), Ordering::Relaxed);
        },
    );
    let ran = ran.into_inner();
    println!("ran in {ran} of {ROUNDS} rounds");
}

#[test]
fn a_cancel_against_a_timeout_has_one_winner_whose_cause_stays() {
    let timeouts = AtomicUsize::new(0);
    race(
        ROUNDS,
        || {
            let parent = CancellationToken::new();
            let child = parent.child_with_timeout(Duration::from_micros(60));
            (Counted::new(), child.expect("a timer"))
        },
        |(round, token)| {
            token.on_cancel(round.work()).keep();
            token.wait().cause().kind() == CauseKind::Deadline
        },
        |(_, token)| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(60) {
                std::hint::spin_loop();
            }
            token.cancel()
        },
        |(round, token), by_timeout, by_cancel| {
            assert!(by_timeout ^ by_cancel, "both or nobody");
            let kind = token.cause().expect("cancelled").kind();
            assert_eq!(kind == CauseKind::Deadline, by_timeout);
            let deadline = Instant::now() + HANG;
            while round.runs() == 0 && Instant::now() < deadline {
                thread::yield_now(); // a deadline's callbacks are run by another thread
            }
            assert_eq!(round.runs(), 1);
            timeouts.fetch_add(usize::from(by_timeout), Ordering::Relaxed);
        },
    );
    println!("{} timeouts in {ROUNDS} rounds", timeouts.into_inner());
}

#[test]
fn a_deadline_was_moved_in_time_or_it_came_never_both() {
    let fired = AtomicUsize::new(0);
    race(
        ROUNDS,
        || {
            let token = CancellationToken::new();
            token
                .set_timeout(Duration::from_micros(60))
                .expect("a timer");
            token
        },
        |token| {
            let start = Instant::now();
            while start.elapsed() < Duration::from_micros(100) {
                std::hint::spin_loop();
            }
            token.set_timeout(HANG).expect("a timer")
        },
        |_| true,
        |token, moved, _| {
            if moved {
                assert!(!token.is_cancelled(), "moved, and came all the same");
                assert!(token.cancel());
            } else {
                let cancelled = token.wait_timeout(HANG).expect("it has come");
                assert_eq!(cancelled.cause().kind(), CauseKind::Deadline);
                fired.fetch_add(1, Ordering::Relaxed);
            }
        },
    );
    println!("came in {} of {ROUNDS} rounds", fired.into_inner());
}

#[test]
fn a_callback_comes_after_the_flag_and_after_the_waiters_of_the_whole_tree() {
    let token = CancellationToken::new();
    let (child, grandchild) = (token.child_token(), token.child_token().child_token());
    let (tell, told) = bounded(1);
    let seen = token.clone();
    let _guard = token.on_cancel(move || {
        let flags = [
            seen.is_cancelled(),
            child.is_cancelled(),
            grandchild.is_cancelled(),
        ];
        let _ = tell.send((flags, seen.cause().map(|cause| cause.kind())));
    });
    token.cancel();
    let told = told.try_recv().expect("it ran on this thread");
    assert_eq!(told, ([true; 3], Some(CauseKind::Request)));
}

#[test]
fn callbacks_of_one_token_run_youngest_first_and_late_ones_at_once() {
    let token = CancellationToken::new();
    let order = Arc::new(Mutex::new(Vec::new()));
    let note = |number| {
        let order = Arc::clone(&order);
        move || order.lock().push(number)
    };
    let _guards: Vec<_> = (0..3).map(|number| token.on_cancel(note(number))).collect();
    token.cancel();
    let late = token.on_cancel(note(3));
    assert!(!late.disarm());
    assert_eq!(*order.lock(), [2, 1, 0, 3]);
}

#[test]
fn a_callback_may_register_unregister_cancel_and_wait_for_itself() {
    let (token, other) = (CancellationToken::new(), CancellationToken::new());
    let runs = Arc::new(AtomicUsize::new(0));
    let count = |runs: &Arc<AtomicUsize>| {
        let runs = Arc::clone(runs);
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
        }
    };
    let doomed = Arc::new(Mutex::new(Some(token.on_cancel(count(&runs)))));
    let _other_guard = other.on_cancel({
        let token = token.clone();
        move || assert!(!token.cancel(), "it is being cancelled")
    });
    let own = Arc::new(Mutex::new(None));
    let guard = token.on_cancel({
        let (token, other, doomed, own) = (
            token.clone(),
            other.clone(),
            Arc::clone(&doomed),
            Arc::clone(&own),
        );
        let late = count(&runs);
        move || {
            let doomed = doomed.lock().take().expect("not run yet");
            assert!(doomed.disarm(), "the youngest runs first");
            token.on_cancel(late).keep();
            assert!(other.cancel());
            let own: Option<taskmuster::CallbackGuard> = own.lock().take();
            assert!(!own.expect("put there").wait(), "waits for nobody");
        }
    });
    *own.lock() = Some(guard);
    assert!(token.cancel());
    assert_eq!(
        runs.load(Ordering::SeqCst),
        1,
        "the late one, and not the doomed one"
    );
}

#[test]
fn a_callback_that_panics_harms_neither_the_others_nor_the_canceller() {
    let round = Counted::new();
    let _first = round.token.on_cancel(round.work());
    let _panics = round.token.on_cancel(|| panic!("in a callback"));
    let _last = round.token.on_cancel(round.work());
    assert!(round.token.cancel());
    assert_eq!(round.runs(), 2);
}

#[test]
fn dropping_a_guard_never_waits_and_wait_does() {
    let token = CancellationToken::new();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let over = Arc::new(AtomicBool::new(false));
    let done = Arc::clone(&over);
    let blocking = token.on_cancel(move || {
        let _ = there.send(());
        let _ = released.recv();
        done.store(true, Ordering::SeqCst);
    });
    let other = token.on_cancel(|| ());
    let canceller = thread::spawn({
        let token = token.clone();
        move || token.cancel()
    });
    ready.recv_timeout(HANG).expect("it runs");
    // Neither readers nor the guards of others are held up.
    assert!(token.is_cancelled());
    drop(other);
    let waiter = thread::spawn(move || blocking.wait());
    assert!(!over.load(Ordering::SeqCst));
    drop(release);
    assert!(!waiter.join().expect("no panic"), "it had begun");
    assert!(over.load(Ordering::SeqCst));
    assert!(canceller.join().expect("no panic"));
}

#[test]
fn two_tokens_whose_callbacks_cancel_each_other_come_to_an_end() {
    for _ in 0..200 {
        let (one, two) = (CancellationToken::new(), CancellationToken::new());
        let cancels = |other: &CancellationToken| {
            let other = other.clone();
            move || {
                other.cancel();
            }
        };
        let guards = (one.on_cancel(cancels(&two)), two.on_cancel(cancels(&one)));
        let helper = thread::spawn({
            let two = two.clone();
            move || two.cancel()
        });
        let mine = one.cancel();
        let theirs = helper.join().expect("no panic");
        assert!(mine || theirs);
        assert!(one.is_cancelled() && two.is_cancelled());
        drop(guards);
    }
}

#[test]
fn the_shutdown_s_callbacks_run_on_a_thread_that_may_block_and_unblock_their_tasks() {
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    let (there, ready) = bounded(2);
    for name in ["one", "two"] {
        let there = there.clone();
        let (unblock, blocked) = bounded::<()>(1);
        let task = manager.spawn(name, move |ctx| {
            let _guard = ctx.on_cancel(move || {
                let thread = thread::current();
                assert_ne!(thread.name(), Some("tm-warden"));
                let _ = unblock.send(());
            });
            there.send(())?;
            blocked.recv()?; // hears no stop
            ctx.checkpoint()?;
            Ok(())
        });
        drop(task.expect("spawned"));
    }
    for _ in 0..2 {
        ready.recv_timeout(HANG).expect("they run");
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts().cancelled, 2);
}

#[test]
fn deadlines_come_in_order_never_early_and_the_earliest_counts() {
    let start = Instant::now();
    let root = CancellationToken::new();
    let late = root
        .child_with_deadline(start + Duration::from_secs(3_600))
        .expect("a timer");
    let soon = late
        .child_with_deadline(start + Duration::from_millis(20))
        .expect("a timer");
    let later = soon
        .child_with_timeout(Duration::from_secs(7_200))
        .expect("a timer");
    let earliest = later.deadline();
    if !soon.is_cancelled() {
        assert_eq!(earliest, Some(start + Duration::from_millis(20)));
    }
    assert_eq!(root.deadline(), None);
    let cancelled = later.wait_timeout(HANG).expect("its parent's deadline");
    assert!(start.elapsed() >= Duration::from_millis(20), "early");
    let cause = cancelled.cause();
    assert_eq!(cause.kind(), CauseKind::Deadline);
    assert!(
        cause
            .at()
            .is_some_and(|at| at.file().ends_with("cancelling.rs"))
    );
    assert!(!late.is_cancelled() && !root.is_cancelled());
    assert_eq!(
        later.deadline(),
        Some(start + Duration::from_secs(3_600)).min(later.deadline())
    );
}

#[test]
fn a_deadline_that_was_moved_names_the_line_that_moved_it() {
    let token = CancellationToken::new()
        .child_with_timeout(HANG)
        .expect("a timer");
    let line = line!() + 1;
    let moved = token.set_timeout(Duration::from_millis(1));
    assert!(moved.expect("a timer"));
    let cause = token.wait_timeout(HANG).expect("its deadline").cause();
    assert_eq!(cause.at().map(std::panic::Location::line), Some(line));
}

#[test]
fn extreme_deadlines_neither_panic_nor_come_when_they_should_not() {
    let root = CancellationToken::new();
    let never = root
        .child_with_timeout(Duration::MAX)
        .expect("needs no timer");
    assert_eq!(never.deadline(), None);
    let past = root
        .child_with_deadline(Instant::now())
        .expect("needs no timer");
    assert_eq!(
        past.cause().map(|cause| cause.kind()),
        Some(CauseKind::Deadline)
    );
    let zero = root
        .child_with_timeout(Duration::ZERO)
        .expect("needs no timer");
    assert!(zero.is_cancelled());

    assert!(never.set_timeout(HANG).expect("a timer"));
    assert!(never.deadline().is_some());
    assert!(
        never.set_timeout(Duration::MAX).expect("a timer"),
        "taken off"
    );
    assert_eq!(never.deadline(), None);
    assert!(never.set_timeout(Duration::ZERO).expect("a timer"));
    never.wait_timeout(HANG).expect("it has come");
    assert!(!never.set_timeout(HANG).expect("a timer"), "too late");
    assert!(!root.is_cancelled());
}

#[test]
fn a_token_of_several_parents_is_cancelled_with_the_first_and_keeps_its_cause() {
    let (first, second, third) = (
        CancellationToken::new(),
        CancellationToken::new(),
        CancellationToken::new(),
    );
    let any = CancellationToken::any([&first, &second, &third]);
    let below = any.child_token();
    let (any_of_any, ran) = (CancellationToken::any([&below, &first]), Counted::new());
    let _guard = any_of_any.on_cancel(ran.work());
    assert!(!any.is_cancelled());
    second.cancel_with(taskmuster::Cause::request().with_note("the second"));
    for token in [&any, &below, &any_of_any] {
        let cause = token.cause().expect("cancelled");
        assert_eq!(cause.note(), Some("the second"));
    }
    assert_eq!(ran.runs(), 1);
    assert!(!first.is_cancelled() && !third.is_cancelled());

    let born = CancellationToken::any([&first, &any]);
    assert_eq!(
        born.cause().expect("born cancelled").note(),
        Some("the second")
    );
    let own = CancellationToken::any([&first]);
    assert!(own.cancel() && !first.is_cancelled());
    assert!(CancellationToken::any([]).cause().is_none());
}

#[test]
fn whose_cancelled_holds_through_several_parents() {
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    for cancel_own in [true, false] {
        let foreign = CancellationToken::new();
        let canceller = foreign.clone();
        let (there, ready) = bounded(1);
        let task = manager.spawn::<()>("both", move |ctx| {
            let any = CancellationToken::any([ctx.token(), &foreign]);
            there.send(())?;
            Err(any.wait().into())
        });
        let task = task.expect("spawned");
        ready.recv_timeout(HANG).expect("it runs");
        if cancel_own {
            task.cancel();
        } else {
            canceller.cancel();
        }
        let ended = task.join_timeout(HANG).expect_err("no value");
        assert_eq!(
            matches!(ended, JoinError::Cancelled { .. }),
            cancel_own,
            "{ended}"
        );
        assert_eq!(
            matches!(ended, JoinError::Failed { .. }),
            !cancel_own,
            "{ended}"
        );
    }
}

#[test]
fn a_token_of_several_parents_that_is_made_while_one_is_cancelled_is_cancelled() {
    race(
        2_000,
        || {
            (
                CancellationToken::new(),
                CancellationToken::new(),
                Mutex::new(None),
            )
        },
        |(one, two, made)| {
            *made.lock() = Some(CancellationToken::any([one, two]));
            true
        },
        |(_, two, _)| two.cancel(),
        |(_, _, made), _, _| {
            let any = made.lock().take().expect("made");
            assert!(any.is_cancelled());
            assert!(any.cause().expect("a cause").at().is_some());
        },
    );
}

#[test]
fn short_lived_tokens_of_several_parents_leave_nothing_in_them() {
    let (one, two) = (CancellationToken::new(), CancellationToken::new());
    let left = Arc::new(());
    for round in 0..100_000 {
        let any = CancellationToken::any([&one, &two]);
        let held = Arc::clone(&left);
        any.on_cancel(move || drop(held)).keep();
        if round % 3 == 0 {
            any.cancel();
        }
    }
    assert_eq!(Arc::strong_count(&left), 1, "some are still there");
    let survivor = CancellationToken::any([&one, &two]);
    one.cancel();
    assert!(survivor.is_cancelled());
}

#[test]
fn chains_of_any_as_deep_as_a_hundred_thousand_fit_a_small_stack() {
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(|| {
        let root = CancellationToken::new();
        let side = CancellationToken::new();
        let mut deep = CancellationToken::any([&root, &side]);
        for _ in 0..100_000 {
            deep = CancellationToken::any([&deep]);
        }
        assert!(root.cancel());
        let cause = deep.cause().expect("it came all the way down");
        assert_eq!(cause.kind(), CauseKind::Request);
        drop(deep);
    });
    thread.expect("a thread").join().expect("no overflow");
}

#[test]
fn a_task_s_own_deadline_cancels_it_and_one_that_has_passed_keeps_it_from_starting() {
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    let task = manager.task("slow").timeout(Duration::from_millis(5));
    let task = task
        .spawn::<()>(|ctx| Err(ctx.wait().into()))
        .expect("spawned");
    assert!(matches!(
        task.join_timeout(HANG),
        Err(JoinError::Cancelled { .. })
    ));
    let Some(Outcome::Cancelled(cause)) = task.outcome() else {
        panic!("{:?}", task.outcome())
    };
    assert_eq!(cause.kind(), CauseKind::Deadline);

    let ran = Arc::new(AtomicBool::new(false));
    let runs = Arc::clone(&ran);
    let late = manager
        .task("late")
        .deadline(Instant::now())
        .spawn(move |_| {
            runs.store(true, Ordering::SeqCst);
            Ok(())
        });
    assert!(matches!(
        late.expect("accepted").join(),
        Err(JoinError::Cancelled { .. })
    ));
    assert!(!ran.load(Ordering::SeqCst));
}

#[test]
fn the_end_of_a_task_and_a_stop_can_be_waited_for_in_many_ways() {
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    let (release, released) = bounded::<()>(0);
    let (_orders, orders) = unbounded::<u8>();
    let task = manager.spawn("task", move |ctx| Ok(ctx.recv(&released).is_err()));
    let task = task.expect("spawned");
    let still = select! {
        recv(task.finished()) -> _ => false,
        recv(orders) -> _ => false,
        default => true,
    };
    assert!(still);
    drop(release);
    select! {
        recv(task.finished()) -> _ => {}
        recv(orders) -> _ => panic!("nothing is ever sent"),
    }
    assert!(task.try_join().expect("it has ended"));

    let waiters: Vec<_> = (0..3)
        .map(|number| {
            manager.spawn(number.to_string(), move |ctx| {
                ctx.wait();
                Ok(number)
            })
        })
        .collect::<Result<_, _>>()
        .map_err(io::Error::other)
        .expect("spawned");
    waiters[1].cancel();
    assert_eq!(taskmuster::wait_any(&waiters), 1);
    assert!(matches!(
        waiters[0].stop(HANG),
        Ok(0) | Err(JoinError::Cancelled { .. })
    ));
    let (there, ready) = bounded(1);
    let helper = manager.spawn("helper", move |ctx| {
        there.send(())?;
        Ok(ctx.wait_any(&waiters[2..]).is_err())
    });
    ready.recv_timeout(HANG).expect("it runs");
    assert!(
        helper
            .expect("spawned")
            .stop(HANG)
            .is_ok_and(|interrupted| interrupted)
    );
}
