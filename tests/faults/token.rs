//! The flag itself, and every wait for it: faults 43 to 45.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use taskmuster::crossbeam_channel::{Receiver, Sender, after, bounded, select};
use taskmuster::{
    CancellationToken, Cause, CauseKind, JoinError, Outcome, RecvError, TaskHandle, TaskResult,
};

use crate::books::{HANG, arrives, in_patience, manager, rounds, until_nobody_lives};
use crate::race::{Dawdler, Runner, race};

pub(crate) fn note_of(token: &CancellationToken) -> Option<String> {
    token.cause()?.note().map(str::to_owned)
}

pub(crate) fn noted(note: &str) -> Cause {
    Cause::request().with_note(note)
}

// ---- 43: cancel twice, after the end, from many threads ----

#[test]
fn f043_of_eight_cancels_of_one_token_at_once_exactly_one_wins() {
    let plain: Runner<'_, CancellationToken> = &CancellationToken::cancel;
    let with_cause: Runner<'_, CancellationToken> = &|token| token.cancel_with(noted("a cause"));
    let guarded: Runner<'_, CancellationToken> = &|token| {
        drop(token.drop_guard()); // a guard does not say whether it won
        false
    };
    race(rounds(5_000, 100_000), CancellationToken::new).between(
        &[
            plain, with_cause, plain, guarded, plain, with_cause, plain, plain,
        ],
        |token, won| {
            let winners = won.iter().filter(|won| **won).count();
            let by_guard = note_of(token).as_deref() == Some("drop guard");
            assert_eq!(winners + usize::from(by_guard), 1, "{token:?}");
            assert!(!token.cancel() && token.is_cancelled(), "it is sticky");
        },
    );
}

struct Family {
    root: CancellationToken,
    middle: CancellationToken,
    leaf: CancellationToken,
    any: CancellationToken,
}

impl Family {
    fn new() -> Self {
        let root = CancellationToken::new();
        let middle = root.child_token();
        let leaf = middle.child_token();
        let any = CancellationToken::any([&leaf, &CancellationToken::new()]);
        Self {
            root,
            middle,
            leaf,
            any,
        }
    }
}

#[test]
fn f043_cancels_of_a_whole_family_at_once_leave_each_with_the_cause_of_its_nearest_winner() {
    race(rounds(5_000, 100_000), Family::new).between(
        &[
            &|family| family.root.cancel_with(noted("root")),
            &|family| family.middle.cancel_with(noted("middle")),
            &|family| family.leaf.cancel_with(noted("leaf")),
            &|family| family.any.cancel_with(noted("any")),
        ],
        |family, won| {
            assert!(won[0], "nobody else cancels the root");
            let mut expected = "root";
            let tokens = [&family.root, &family.middle, &family.leaf, &family.any];
            for ((token, name), won) in tokens
                .iter()
                .zip(["root", "middle", "leaf", "any"])
                .zip(won)
            {
                if *won {
                    expected = name;
                }
                assert_eq!(note_of(token).as_deref(), Some(expected), "of {name}");
            }
        },
    );
}

#[test]
fn f043_cancels_of_a_task_as_it_ends_have_one_winner_and_one_outcome() {
    let manager = manager();
    let (completed, cancelled) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let later = Dawdler::up_to(30);
    race(rounds(500, 5_000), || {
        let go = Arc::new(AtomicBool::new(false));
        let group = manager.group("g");
        let seen = Arc::clone(&go);
        let task = group.spawn("task", move |ctx| {
            while !seen.load(Ordering::SeqCst) {
                ctx.checkpoint()?;
                thread::yield_now();
            }
            Ok(7)
        });
        (task.expect("spawned"), group, go)
    })
    .between(
        &[
            &|(task, _, _)| {
                later.dawdle();
                task.cancel()
            },
            &|(task, _, _)| {
                later.dawdle();
                task.token().cancel()
            },
            &|(_, group, _)| {
                later.dawdle();
                group.cancel()
            },
            &|(_, _, go)| {
                later.dawdle();
                !go.swap(true, Ordering::SeqCst)
            },
        ],
        |(task, group, _), won| {
            assert!(!(won[0] && won[1]), "one flag has one winner");
            assert!(won[2], "nobody else cancels the group");
            match task.join_timeout(HANG) {
                Ok(7) => completed.fetch_add(1, Ordering::Relaxed),
                Err(JoinError::Cancelled { .. }) => cancelled.fetch_add(1, Ordering::Relaxed),
                other => panic!("{other:?}"),
            };
            let outcome = format!("{:?}", task.outcome());
            assert!(!task.cancel() && !task.token().cancel() && !group.cancel());
            assert_eq!(
                format!("{:?}", task.outcome()),
                outcome,
                "the end is the end"
            );
        },
    );
    println!("{completed:?} completed, {cancelled:?} cancelled");
}

// ---- 44: cancel before the task starts ----

#[test]
fn f044_a_task_cancelled_as_it_is_spawned_does_not_run_or_hears_it_at_its_first_checkpoint() {
    let manager = manager();
    let begun = Arc::new(AtomicUsize::new(0));
    let refused = AtomicUsize::new(0);
    let spawn = |(group, handle): &(taskmuster::Group, Mutex<Option<TaskHandle<()>>>)| {
        let begun = Arc::clone(&begun);
        let spawned = group.spawn("task", move |ctx| -> TaskResult {
            begun.fetch_add(1, Ordering::SeqCst);
            loop {
                ctx.checkpoint()?;
                thread::yield_now();
            }
        });
        match spawned {
            Ok(spawned) => drop(handle.lock().expect("no panic").replace(spawned)),
            Err(_) => drop(refused.fetch_add(1, Ordering::SeqCst)),
        }
        true
    };
    let later = Dawdler::up_to(150);
    let by_token: Runner<'_, (taskmuster::Group, Mutex<Option<TaskHandle<()>>>)> = &|(group, _)| {
        later.dawdle();
        group.token().cancel()
    };
    let by_group: Runner<'_, (taskmuster::Group, Mutex<Option<TaskHandle<()>>>)> = &|(group, _)| {
        later.dawdle();
        group.cancel()
    };
    for way in [by_token, by_group] {
        race(rounds(1_000, 10_000), || {
            (manager.group("g"), Mutex::new(None))
        })
        .between(&[&spawn, way], |(_, handle), _| {
            if let Some(task) = handle.lock().expect("no panic").take() {
                let ended = task.join_timeout(HANG);
                assert!(
                    matches!(ended, Err(JoinError::Cancelled { .. })),
                    "{ended:?}"
                );
                assert!(matches!(task.outcome(), Some(Outcome::Cancelled(_))));
            }
        });
    }
    until_nobody_lives(&manager);
    let counts = manager.counts();
    assert_eq!(counts.spawned, counts.cancelled);
    println!(
        "{} begun, {} cancelled before, {} refused",
        begun.load(Ordering::SeqCst),
        counts.cancelled - begun.load(Ordering::SeqCst) as u64,
        refused.load(Ordering::SeqCst)
    );
    assert!(manager.shutdown().expect("a report").is_clean());
}

// ---- 45: cancel between check and wait ----

/// A token with channels on which nothing ever comes and into which nothing ever goes.
struct Waits {
    token: CancellationToken,
    other: CancellationToken,
    empty: (Sender<u8>, Receiver<u8>),
    full: (Sender<u8>, Receiver<u8>),
}

impl Waits {
    fn new() -> Self {
        Self {
            token: CancellationToken::new(),
            other: CancellationToken::new(),
            empty: bounded(1),
            full: bounded(0),
        }
    }
}

type Hears = fn(&Waits) -> bool;

/// A look at the flag, and then a wait for it; true if it heard the cancel.
const WAITS: [(&str, Hears); 10] = [
    ("wait", |it| {
        it.token.checkpoint().is_err() || it.token.wait_timeout(HANG).is_some()
    }),
    ("wait_deadline", |it| {
        it.token.is_cancelled() || it.token.wait_deadline(Instant::now() + HANG).is_some()
    }),
    ("sleep", |it| {
        it.token.checkpoint().is_err() || it.token.sleep(HANG).is_err()
    }),
    ("recv", |it| {
        let received = it.token.recv_timeout(&it.empty.1, HANG);
        matches!(received, Err(RecvError::Cancelled(_)))
    }),
    ("send", |it| {
        let sent = it.token.send_timeout(&it.full.0, 1, HANG);
        sent.is_err_and(|unsent| unsent.is_cancelled() && unsent.into_inner() == 1)
    }),
    ("select", |it| {
        select! {
            recv(it.token.cancelled()) -> _ => true,
            recv(it.empty.1) -> _ => false,
            recv(after(HANG)) -> _ => false,
        }
    }),
    ("callback", |it| {
        let (tell, told) = bounded(1);
        let _guard = it.token.on_cancel(move || {
            let _ = tell.send(());
        });
        in_patience(&told).is_ok()
    }),
    ("child", |it| {
        it.token.child_token().wait_timeout(HANG).is_some()
    }),
    ("any", |it| {
        let any = CancellationToken::any([&it.other, &it.token]);
        any.wait_timeout(HANG).is_some()
    }),
    ("child with a deadline", |it| {
        let child = it.token.child_with_timeout(2 * HANG).expect("a timer");
        child
            .wait_timeout(HANG)
            .is_some_and(|it| it.cause().kind() == CauseKind::Request)
    }),
];

#[test]
fn f045_a_cancel_between_a_look_and_a_wait_is_never_missed_by_any_wait() {
    for pair in WAITS.chunks(2) {
        let [(one, first), (two, second)] = pair else {
            panic!("pairs")
        };
        race(rounds(2_000, 20_000), Waits::new).between(
            &[first, second, &|it| it.token.cancel()],
            |_, heard| {
                assert_eq!(heard, [true; 3], "{one}, {two}");
            },
        );
    }
}

#[test]
fn f045_a_cancel_of_a_task_on_its_way_into_a_wait_for_others_is_never_missed() {
    let manager = manager();
    let group = manager.group("others");
    let other = group.spawn("other", |ctx| -> TaskResult { Err(ctx.wait().into()) });
    let others = Arc::new([other.expect("spawned")]);
    for round in 0..rounds(300, 3_000) {
        let (others, group) = (Arc::clone(&others), group.clone());
        let (there, ready) = bounded(0);
        let waiter = manager.spawn("waiter", move |ctx| {
            there.send(())?;
            Ok(match round % 4 {
                0 => matches!(ctx.join(&others[0]), Err(JoinError::Interrupted { .. })),
                1 => ctx.wait_any(&others[..]).is_err(),
                2 => ctx.join_group(&group).is_err(),
                _ => ctx.sleep(HANG).is_err(),
            })
        });
        let waiter = waiter.expect("spawned");
        arrives(&ready);
        (0..round % 97).for_each(|_| std::hint::spin_loop());
        assert!(waiter.stop(HANG).expect("a value"), "in round {round}");
    }
    assert!(!others[0].is_finished());
}
