//! Callbacks: faults 46 to 53.

use std::panic;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{RecvTimeoutError, bounded, unbounded};
use taskmuster::{CallbackGuard, CancellationToken, Group, OnFailure};

use crate::books::{HANG, arrives, in_patience, manager, rounds, until_nobody_lives};
use crate::child;
use crate::race::{in_time, race, until};
use crate::token::noted;

/// What a callback does here: it counts its runs, and the drops of what it captured.
#[derive(Clone, Default)]
pub(crate) struct Tally(Arc<Counts>);

#[derive(Default)]
struct Counts {
    runs: AtomicUsize,
    drops: AtomicUsize,
}

impl Tally {
    pub(crate) fn work(&self) -> impl FnOnce() + Send + 'static {
        let capture = CountsItsDrop(self.clone());
        move || {
            capture.0.0.runs.fetch_add(1, Ordering::SeqCst);
        }
    }

    pub(crate) fn runs(&self) -> usize {
        self.0.runs.load(Ordering::SeqCst)
    }

    pub(crate) fn drops(&self) -> usize {
        self.0.drops.load(Ordering::SeqCst)
    }
}

struct CountsItsDrop(Tally);

impl Drop for CountsItsDrop {
    fn drop(&mut self) {
        self.0.0.drops.fetch_add(1, Ordering::SeqCst);
    }
}

// ---- 46, 47: callbacks registered late, and taken back in time ----

#[test]
fn f046_a_callback_for_what_is_cancelled_already_runs_at_once_and_once_whatever_kind_of_token_it_is()
 {
    let explicit = CancellationToken::new();
    let (child, below) = (explicit.child_token(), explicit.child_token().child_token());
    let any = CancellationToken::any([&CancellationToken::new(), &below]);
    explicit.cancel();
    let born = explicit.child_token();
    let born_any = CancellationToken::any([&born]);
    let late = CancellationToken::new().child_with_timeout(Duration::ZERO);
    let elapsed = CancellationToken::new();
    assert!(
        elapsed
            .set_timeout(Duration::from_millis(1))
            .expect("a timer")
    );
    elapsed.wait_timeout(HANG).expect("it comes");
    for token in [
        explicit,
        child,
        below,
        any,
        born,
        born_any,
        late.expect("a token"),
        elapsed,
    ] {
        let (tally, inner) = (Tally::default(), Tally::default());
        let (again, nested) = (token.clone(), inner.work());
        let work = tally.work();
        let thread = thread::current().id();
        let guard = token.on_cancel(move || {
            assert_eq!(
                thread::current().id(),
                thread,
                "on the thread that registers"
            );
            work();
            assert!(!again.on_cancel(nested).disarm());
        });
        assert_eq!((tally.runs(), inner.runs()), (1, 1), "{token:?}");
        assert!(!guard.wait(), "too late");
        assert!(!token.cancel());
        assert_eq!((tally.runs(), inner.runs()), (1, 1), "{token:?}");
        assert_eq!((tally.drops(), inner.drops()), (1, 1), "{token:?}");
    }
}

#[test]
fn f047_a_callback_registered_as_its_token_is_cancelled_runs_exactly_once() {
    race(rounds(20_000, 1_000_000), || {
        (CancellationToken::new(), Tally::default())
    })
    .between(
        &[
            &|(token, tally)| {
                token.on_cancel(tally.work()).keep();
                true
            },
            &|(token, _)| token.cancel(),
        ],
        |(_, tally), answers| {
            assert_eq!(answers, [true; 2]);
            assert_eq!((tally.runs(), tally.drops()), (1, 1));
        },
    );
}

type Guarded = (CancellationToken, Tally, Mutex<Option<CallbackGuard>>);

#[test]
fn f047_a_callback_is_taken_back_or_has_run_never_both() {
    let ran = AtomicUsize::new(0);
    let take_back: fn(CallbackGuard, usize) -> bool = |guard, way| match way {
        0 => guard.disarm(),
        _ => guard.wait(),
    };
    for way in 0..2 {
        race(rounds(20_000, 1_000_000), || {
            let (token, tally) = (CancellationToken::new(), Tally::default());
            let guard = token.on_cancel(tally.work());
            (token, tally, Mutex::new(Some(guard)))
        })
        .between(
            &[
                &|(_, tally, guard): &Guarded| {
                    let guard = guard.lock().expect("no panic").take().expect("registered");
                    let in_time = take_back(guard, way);
                    // After `wait` it is over, one way or the other.
                    assert!(way == 0 || tally.runs() == usize::from(!in_time));
                    in_time
                },
                &|(token, _, _)| token.cancel(),
            ],
            |(_, tally, _), answers| {
                assert!(answers[1]);
                assert_eq!((tally.runs(), tally.drops()), (usize::from(!answers[0]), 1));
                ran.fetch_add(tally.runs(), Ordering::Relaxed);
            },
        );
    }
    println!(
        "ran in {} of {} rounds",
        ran.into_inner(),
        rounds(40_000, 2_000_000)
    );
}

#[test]
fn f047_guards_dropped_as_a_deadline_comes_leave_each_callback_run_once_or_never() {
    let ran = AtomicUsize::new(0);
    race(rounds(5_000, 50_000), || {
        let token = CancellationToken::new();
        token
            .set_timeout(Duration::from_micros(100))
            .expect("a timer");
        let tally = Tally::default();
        let guard = token.on_cancel(tally.work());
        (token, tally, Mutex::new(Some(guard)))
    })
    .between(
        &[
            &|(token, _, guard): &Guarded| {
                while !token.is_cancelled() {
                    std::hint::spin_loop();
                }
                let guard = guard.lock().expect("no panic").take().expect("registered");
                guard.wait()
            },
            &|(token, _, _)| token.wait_timeout(HANG).is_some(),
        ],
        |(_, tally, _), answers| {
            assert!(answers[1]);
            assert_eq!((tally.runs(), tally.drops()), (usize::from(!answers[0]), 1));
            ran.fetch_add(tally.runs(), Ordering::Relaxed);
        },
    );
    println!("ran in {} rounds", ran.into_inner());
}

#[test]
fn f047_what_a_task_leaves_to_its_token_goes_with_the_task_unless_somebody_else_has_the_token() {
    let manager = manager();
    let [own, shared] = [Tally::default(), Tally::default()];
    let task = |name: &str| manager.task(name).timeout(HANG);
    let work = own.work();
    let keeps = task("keeps its token").spawn(move |ctx| {
        ctx.on_cancel(work).keep();
        Ok(())
    });
    let keeps = keeps.expect("spawned");
    keeps.join().expect("it completes");
    until("its callback to be dropped", || own.drops() == 1);
    let work = shared.work();
    let gives = task("gives its token away").spawn(move |ctx| {
        ctx.on_cancel(work).keep();
        Ok(ctx.token().clone())
    });
    let token = gives.expect("spawned").join().expect("a token");
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert!(token.is_cancelled());
    assert_eq!((own.runs(), shared.runs(), shared.drops()), (0, 1, 1));
}

// ---- 48: callbacks that panic ----

/// Panics when it is dropped, with a payload that panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic::panic_any(Fuse);
    }
}

struct Fuse;

impl Drop for Fuse {
    fn drop(&mut self) {
        panic!("the payload as well");
    }
}

/// Three callbacks of one token that panic in different ways, between two that do not.
fn register_bombs(token: &CancellationToken, tally: &Tally) -> Vec<CallbackGuard> {
    let bomb = Bomb;
    vec![
        token.on_cancel(tally.work()),
        token.on_cancel(|| panic!("a text")),
        token.on_cancel(|| panic::panic_any(Bomb)),
        token.on_cancel(move || drop(bomb)),
        token.on_cancel(tally.work()),
    ]
}

/// Has such callbacks run by everybody who runs callbacks.
#[test]
#[ignore = "a role of a child process"]
fn callbacks_panic_everywhere() {
    taskmuster::logging::init();
    let manager = manager();
    let tallies = [
        Tally::default(),
        Tally::default(),
        Tally::default(),
        Tally::default(),
    ];
    let explicit = CancellationToken::new();
    let guards = register_bombs(&explicit, &tallies[0]);
    assert!(explicit.cancel(), "the canceller hears nothing of it");
    drop(guards);

    let timed = CancellationToken::new();
    std::mem::forget(register_bombs(&timed, &tallies[1]));
    // False, if it comes before this thread is back.
    let _ = timed
        .set_timeout(Duration::from_millis(1))
        .expect("a timer");
    until("the deadline's callbacks", || tallies[1].runs() == 2);

    let (there, ready) = bounded(1);
    let tally = tallies[2].clone();
    let task = manager.spawn("task", move |ctx| {
        std::mem::forget(register_bombs(ctx.token(), &tally));
        there.send(())?;
        ctx.wait();
        Ok(())
    });
    task.expect("spawned");
    arrives(&ready);
    let late = manager.root_group().token().clone();
    std::mem::forget(register_bombs(&late, &tallies[3]));
    // Bombs that are taken back explode where that is done, and harm nobody either.
    let unrun = Bomb;
    assert!(
        CancellationToken::new()
            .on_cancel(move || drop(unrun))
            .disarm()
    );
    let report = manager.shutdown().expect("a report");
    for tally in &tallies {
        assert_eq!(tally.runs(), 2, "the others were run");
    }
    child::end(&report)
}

#[test]
fn f048_a_callback_that_panics_harms_neither_the_others_nor_whoever_runs_it_and_is_logged() {
    let exit = child::start("callbacks::callbacks_panic_everywhere").exit();
    exit.assert_code(0);
    let logged = exit.stderr.matches("the callback registered at").count();
    // Three of each token: one whose capture panics counts, since it panics while it runs.
    assert_eq!(logged, 12, "{}", exit.stderr);
    exit.assert_says("callbacks.rs:");
}

// ---- 49: callbacks that block ----

#[test]
fn f049_a_callback_that_blocks_holds_up_neither_readers_nor_waiters_nor_other_guards_nor_other_tokens()
 {
    let root = CancellationToken::new();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let (tally, other) = (Tally::default(), Tally::default());
    let elder = root.on_cancel(tally.work()); // runs after the one that blocks
    let blocking = root.on_cancel(move || {
        let _ = there.send(());
        let _ = released.recv();
    });
    let child = root.child_token();
    let waiter = thread::spawn({
        let child = child.clone();
        move || child.wait_timeout(HANG).is_some()
    });
    let canceller = thread::spawn({
        let root = root.clone();
        move || root.cancel()
    });
    arrives(&ready);
    in_time("what others do meanwhile", {
        let (root, tally, other) = (root.clone(), tally.clone(), other.clone());
        move || {
            assert!(root.is_cancelled() && child.is_cancelled() && root.cause().is_some());
            assert!(child.wait_timeout(HANG).is_some() && root.cancelled().try_recv().is_err());
            assert!(!root.cancel());
            assert!(root.child_token().is_cancelled());
            assert!(!root.on_cancel(other.work()).disarm(), "runs at once");
            assert!(elder.disarm(), "the elder has not begun");
            drop(blocking);
            assert_eq!(tally.runs(), 0);
        }
    });
    assert!(waiter.join().expect("no panic"));
    assert_eq!(other.runs(), 1);
    drop(release);
    assert!(canceller.join().expect("no panic"));
    assert_eq!((tally.runs(), tally.drops()), (0, 1));
}

#[test]
fn f049_three_callbacks_of_deadlines_that_block_do_not_delay_those_of_other_deadlines() {
    let (release, released) = bounded::<()>(0);
    let (there, ready) = unbounded();
    let blocking: Vec<CancellationToken> = (0..3)
        .map(|_| {
            let (token, there, released) =
                (CancellationToken::new(), there.clone(), released.clone());
            token
                .on_cancel(move || {
                    let _ = there.send(());
                    let _ = released.recv();
                })
                .keep();
            token
                .set_timeout(Duration::from_millis(1))
                .expect("a timer");
            token
        })
        .collect();
    for _ in &blocking {
        arrives(&ready); // each has a thread of its own
    }
    for _ in 0..100 {
        let (token, tally) = (CancellationToken::new(), Tally::default());
        let _guard = token.on_cancel(tally.work());
        token
            .set_timeout(Duration::from_micros(10))
            .expect("a timer");
        until("a callback behind those that block", || tally.runs() == 1);
    }
    drop(release);
}

#[test]
fn f049_a_callback_that_blocks_during_a_shutdown_is_passed_by_the_others_awaited_until_the_deadline_and_named()
 {
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(2);
    let blocks = manager.spawn("blocks", {
        let there = there.clone();
        move |ctx| {
            ctx.on_cancel(move || {
                let _ = released.recv();
            })
            .keep();
            there.send(())?;
            ctx.wait();
            Ok(())
        }
    });
    let unblocked = manager.spawn("unblocked", move |ctx| {
        let (unblock, blocked) = bounded::<()>(1);
        let _guard = ctx.on_cancel(move || drop(unblock));
        there.send(())?;
        Ok(blocked.recv().is_err())
    });
    for _ in 0..2 {
        arrives(&ready);
    }
    manager.request_shutdown("with time enough for the others");
    let unblocked = unblocked.expect("spawned").join_timeout(HANG);
    assert!(unblocked.expect("it ended"));
    until_nobody_lives(&manager);
    drop(blocks.expect("spawned"));
    let rest = Duration::from_millis(500);
    let begin = Instant::now();
    let report = manager.shutdown_timeout(rest).expect("a report");
    assert!(begin.elapsed() >= rest, "it was not awaited: {report}");
    assert_eq!(report.exit_code(), 2, "{report}");
    assert_eq!(report.late_callbacks().len(), 1, "{report}");
    let line = report.late_callbacks()[0].line();
    let words = format!("callbacks.rs:{line} was not over in time");
    assert!(report.to_string().contains(&words), "{report}");
    drop(release);
}

#[test]
fn f049_a_callback_of_a_group_that_failed_holds_up_no_callback_of_another_group() {
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(2);
    let [blocking, unblocked] = ["blocking", "unblocked"].map(|name| manager.group(name));
    let (unblock, blocked) = bounded::<()>(1);
    unblocked.token().on_cancel(move || drop(unblock)).keep();
    let reader = unblocked.spawn("reader", {
        let there = there.clone();
        move |_| {
            there.send(())?;
            Ok(in_patience(&blocked))
        }
    });
    arrives(&ready);
    blocking
        .token()
        .on_cancel(move || {
            let _ = there.send(());
            let _ = released.recv();
        })
        .keep();
    let fails = |group: &Group| {
        let task = group.task("fails").on_failure(OnFailure::StopGroup);
        task.spawn::<()>(|_| Err("on purpose".into()))
            .expect("spawned")
    };
    assert!(fails(&blocking).join().is_err());
    arrives(&ready);
    assert!(fails(&unblocked).join().is_err());
    let read = reader.expect("spawned").join().expect("a value");
    assert_eq!(read, Err(RecvTimeoutError::Disconnected));
    drop(release);
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn f049_the_callbacks_of_a_shutdown_have_all_run_when_it_is_over() {
    let manager = manager();
    let tally = Tally::default();
    let (last, others) = bounded::<()>(0);
    for _ in 0..20 {
        let (work, others) = (tally.work(), others.clone());
        let work = move || {
            // Until the first one runs, which runs last.
            let _ = others.recv();
            work();
        };
        manager.root_group().token().on_cancel(work).keep();
    }
    let lets_go = move || drop(last);
    let lets_go = manager.spawn("task", move |ctx| {
        ctx.on_cancel(lets_go).keep();
        Ok(ctx.wait())
    });
    until("the task waits", || manager.counts().live == 1);
    drop(lets_go.expect("spawned"));
    let report = manager.shutdown().expect("a report");
    assert_eq!(report.exit_code(), 0, "{report}");
    assert_eq!((tally.runs(), report.late_callbacks()), (20, [].as_slice()));
}

#[test]
fn f049_a_callback_that_waits_for_the_end_of_the_shutdown_that_set_it_going_gets_its_report() {
    let manager = Arc::new(manager());
    let (report, reported) = bounded(1);
    let theirs = Arc::clone(&manager);
    let token = manager.root_group().token().clone();
    token
        .on_cancel(move || {
            drop(report.send(theirs.shutdown().expect("a report")));
        })
        .keep();
    let direct = manager.shutdown().expect("a report");
    let from_within = arrives(&reported);
    // Had it waited for itself, it would have been late.
    assert!(direct.is_clean() && from_within.is_clean(), "{direct}");
}

// ---- 50 to 53: what callbacks may do ----

type Pair = (
    CancellationToken,
    CancellationToken,
    Arc<[Mutex<Option<CallbackGuard>>; 2]>,
    [Tally; 2],
);

/// Two tokens whose callbacks take each other back.
fn that_unregister_each_other() -> Pair {
    let guards: Arc<[Mutex<Option<CallbackGuard>>; 2]> = Arc::default();
    let tallies = [Tally::default(), Tally::default()];
    let tokens = [CancellationToken::new(), CancellationToken::new()];
    for (own, token) in tokens.iter().enumerate() {
        let (work, theirs) = (tallies[own].work(), Arc::clone(&guards));
        let guard = token.on_cancel(move || {
            work();
            let other = theirs[1 - own].lock().expect("no panic").take();
            let _ = other.map(CallbackGuard::disarm);
            // Its own, if the other one has not taken that.
            let own = theirs[own].lock().expect("no panic").take();
            let _ = own.map(CallbackGuard::wait);
        });
        *guards[own].lock().expect("no panic") = Some(guard);
    }
    let [one, two] = tokens;
    (one, two, guards, tallies)
}

#[test]
fn f050_callbacks_that_take_back_themselves_and_each_other_run_at_most_once_and_end() {
    let both = AtomicUsize::new(0);
    race(rounds(5_000, 200_000), that_unregister_each_other).between(
        &[&|(one, ..)| one.cancel(), &|(_, two, ..)| two.cancel()],
        |(.., tallies), won| {
            assert_eq!(won, [true; 2]);
            let runs = tallies.each_ref().map(Tally::runs);
            assert!(
                runs.iter().all(|runs| *runs <= 1) && runs.iter().sum::<usize>() >= 1,
                "{runs:?}"
            );
            assert_eq!(tallies.each_ref().map(Tally::drops), [1, 1]);
            both.fetch_add(runs.iter().sum::<usize>() - 1, Ordering::Relaxed);
        },
    );
    println!("both ran in {} rounds", both.into_inner());
}

#[test]
fn f051_a_wait_for_a_callback_that_runs_elsewhere_ends_with_it_and_a_drop_does_not_wait() {
    for round in 0..rounds(200, 2_000) {
        let token = CancellationToken::new();
        let (there, ready) = bounded(1);
        let (release, released) = bounded::<()>(0);
        let over = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&over);
        let guard = token.on_cancel(move || {
            let _ = there.send(());
            let _ = released.recv();
            done.store(true, Ordering::SeqCst);
        });
        let canceller = thread::spawn({
            let token = token.clone();
            move || token.cancel()
        });
        arrives(&ready);
        if round % 2 == 0 {
            drop(guard);
            assert!(!over.load(Ordering::SeqCst), "the drop has not waited");
            drop(release);
        } else {
            let waiter = thread::spawn(move || guard.wait());
            drop(release);
            assert!(!waiter.join().expect("no panic"), "it had begun");
            assert!(over.load(Ordering::SeqCst), "the wait has waited");
        }
        assert!(canceller.join().expect("no panic"));
    }
}

type Deed = fn(&CancellationToken);

/// What a callback may do with a token of any relation to its own.
const DEEDS: [(&str, Deed); 14] = [
    ("cancel", |token| {
        token.cancel();
    }),
    ("cancel_with", |token| {
        token.cancel_with(noted("from a callback"));
    }),
    ("drop a guard", |token| drop(token.drop_guard())),
    ("disarm a guard", |token| drop(token.drop_guard().disarm())),
    ("child", |token| drop(token.child_token().child_token())),
    ("any", |token| {
        drop(CancellationToken::any([token, &token.child_token()]));
    }),
    ("child with a timeout", |token| {
        drop(token.child_with_timeout(Duration::from_millis(1)));
    }),
    ("a timeout", |token| {
        drop(token.set_timeout(Duration::from_secs(60)));
    }),
    ("a timeout of zero", |token| {
        drop(token.set_timeout(Duration::ZERO));
    }),
    ("register", |token| drop(token.on_cancel(|| ()))),
    ("register for ever", |token| {
        token.on_cancel(|| ()).keep();
    }),
    ("look", |token| {
        drop((token.cause(), token.checkpoint(), token.deadline()));
    }),
    ("wait", |token| drop(token.wait_timeout(Duration::ZERO))),
    ("receiver", |token| drop(token.cancelled().clone())),
];

#[test]
fn f052_a_callback_may_do_everything_with_every_token_around_its_own() {
    in_time("a callback", || {
        for (deed, act) in DEEDS {
            for relation in 0..6 {
                let parent = CancellationToken::new();
                let own = parent.child_token();
                let child = own.child_token();
                let sibling = parent.child_token();
                let any = CancellationToken::any([&own, &sibling]);
                let stranger = CancellationToken::new();
                let around = [&parent, &own, &child, &sibling, &any, &stranger];
                let (target, tally) = (around[relation].clone(), Tally::default());
                let (work, later) = (tally.work(), tally.work());
                let guard = own.on_cancel(move || {
                    act(&target);
                    work();
                });
                let elder_runs = own.on_cancel(later); // the youngest first
                assert!(own.cancel(), "{deed}, {relation}");
                assert_eq!(tally.runs(), 2, "{deed}, {relation}");
                assert!(!guard.disarm() && !elder_runs.disarm());
                assert!(child.is_cancelled() && any.is_cancelled());
                let may_cancel = ["cancel", "cancel_with", "drop a guard", "a timeout of zero"];
                assert!(!parent.is_cancelled() || may_cancel.contains(&deed));
            }
        }
    });
}

#[test]
fn f053_rings_of_tokens_whose_callbacks_cancel_the_next_one_come_to_an_end() {
    for length in [2, 3, 16] {
        race(rounds(2_000, 20_000), || {
            let ring: Vec<_> = (0..length).map(|_| CancellationToken::new()).collect();
            let tally = Tally::default();
            for (own, token) in ring.iter().enumerate() {
                let (next, work) = (ring[(own + 1) % length].clone(), tally.work());
                token
                    .on_cancel(move || {
                        work();
                        next.cancel();
                    })
                    .keep();
            }
            (ring, tally)
        })
        .between(
            &[&|(ring, _)| ring[0].cancel(), &|(ring, _)| {
                ring[length / 2].cancel()
            }],
            |(ring, tally), won| {
                assert!(won[0] || won[1]);
                assert!(ring.iter().all(CancellationToken::is_cancelled));
                assert_eq!((tally.runs(), tally.drops()), (length, length));
            },
        );
    }
}
