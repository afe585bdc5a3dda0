//! Shields, causes, unwinding and silence: faults 61 to 64.

use std::panic::{self, AssertUnwindSafe};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Sender, bounded};
use taskmuster::{
    CauseKind, JoinError, Manager, Outcome, TaskContext, TaskResult, TimeoutError, Waited,
};

use crate::books::{HANG, arrives, manager, rounds};
use crate::child::program::becomes_so;
use crate::race::{race, until};
use crate::token::{note_of, noted};

// ---- 61 to 64: shields, causes, unwinding, silence ----

#[test]
fn f061_shields_nested_ended_by_panics_and_kept_beyond_their_end_hear_what_they_should() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let task = manager.spawn("cleans up", move |ctx| {
        there.send(())?;
        ctx.wait();
        // The outer one's limit ends it while the inner one goes on, which has its own.
        let start = Instant::now();
        let outer = ctx.shield(Duration::from_millis(20), |outer| {
            outer.shield(Duration::from_millis(60), |inner| {
                assert!(
                    matches!(inner.sleep(HANG), Err(it) if it.cause().kind() == CauseKind::Deadline)
                );
                Ok(())
            })?;
            Ok(outer.checkpoint()?)
        });
        assert!(
            matches!(outer, Err(TimeoutError::Elapsed { .. })),
            "{outer:?}"
        );
        assert!(start.elapsed() >= Duration::from_millis(60));
        // A timeout inside a shield hears the shield's limit, and the shield hears nothing of the task.
        let inside = ctx.shield(Duration::from_millis(20), |shield| {
            let cut: Result<(), TimeoutError> =
                shield.with_timeout(HANG, |ctx| Ok(ctx.sleep(HANG)?));
            assert!(
                matches!(cut, Err(TimeoutError::Failed(_))),
                "not its own timeout"
            );
            Ok(cut?)
        });
        assert!(
            matches!(inside, Err(TimeoutError::Elapsed { .. })),
            "{inside:?}"
        );
        // Ended by a panic at any depth, the one around it counts again.
        let depth = ctx.shield(HANG, |one| {
            let caught = panic::catch_unwind(AssertUnwindSafe(|| {
                one.shield(HANG, |two| {
                    two.shield(HANG, |_| -> TaskResult { panic!("three deep") })?;
                    Ok(())
                })
            }));
            assert!(
                caught.is_err() && one.checkpoint().is_ok() && taskmuster::checkpoint().is_ok()
            );
            Ok(())
        });
        depth?;
        assert!(ctx.checkpoint().is_err() && taskmuster::checkpoint().is_err());
        // Kept beyond its end, a shield's context is bound by its limit and nothing else.
        let mut kept = None;
        ctx.shield(Duration::from_millis(10), |_| {
            kept = taskmuster::current();
            Ok(())
        })?;
        let kept = kept.ok_or("there is one")?;
        assert!(kept.sleep(HANG).is_err(), "its limit has come");
        Ok(kept.name() == ctx.name())
    });
    let task = task.expect("spawned");
    arrives(&ready);
    assert!(task.stop(HANG).expect("a value"));
}

#[test]
fn f061_a_shield_without_end_is_bound_by_the_deadline_of_the_shutdown() {
    let manager = manager();
    let ((there, ready), (release, released)) = (bounded(1), bounded::<()>(0));
    let task = manager.spawn("for ever", move |ctx| {
        Ok(ctx.shield(Duration::MAX, |_| {
            there.send(())?;
            let _ = released.recv();
            Ok(())
        })?)
    });
    arrives(&ready);
    let start = Instant::now();
    let report = manager
        .shutdown_timeout(Duration::from_millis(200))
        .expect("a report");
    assert!(start.elapsed() >= Duration::from_millis(200));
    assert_eq!(report.exit_code(), 2, "{report}");
    assert!(
        report.to_string().contains("has been in a shield for"),
        "{report}"
    );
    drop(release);
    let task = task.expect("spawned");
    until("the end", || task.is_finished());
    assert!(task.join().is_ok(), "and late it completes");
}

#[test]
fn f062_of_two_reasons_the_first_wins_and_everybody_hears_the_same_one() {
    let manager = manager();
    race(rounds(500, 5_000), || {
        let (there, ready) = bounded(1);
        let task = manager.spawn("task", move |ctx| -> TaskResult {
            let child = ctx.token().child_token();
            there.send(child.clone())?;
            ctx.wait();
            Err(child.wait().into())
        });
        let task = task.expect("spawned");
        let child = arrives(&ready);
        (task, child)
    })
    .between(
        &[
            &|(task, _)| task.cancel_with(noted("one")),
            &|(task, _)| task.cancel_with(noted("two")),
            &|(task, _)| task.token().cancel_with(noted("three")),
        ],
        |(task, child), won| {
            let winners: Vec<&str> = ["one", "two", "three"]
                .into_iter()
                .zip(won)
                .filter_map(|(note, won)| won.then_some(note))
                .collect();
            let [winner] = winners[..] else {
                panic!("{winners:?} won")
            };
            let Err(JoinError::Cancelled { cancelled, .. }) = task.join_timeout(HANG) else {
                panic!("not cancelled")
            };
            let Some(Outcome::Cancelled(cause)) = task.outcome() else {
                panic!("{:?}", task.outcome())
            };
            for note in [
                note_of(child),
                note_of(task.token()),
                cause.note().map(str::to_owned),
            ] {
                assert_eq!(note.as_deref(), Some(winner));
            }
            assert_eq!(cancelled.cause().note(), Some(winner));
        },
    );
}

/// Does everything a task can do, in a destructor.
struct Dying<'a> {
    ctx: &'a TaskContext,
    manager: &'a Manager,
    tell: Sender<Vec<(&'static str, bool)>>,
}

impl Drop for Dying<'_> {
    fn drop(&mut self) {
        assert!(thread::panicking());
        let (ctx, manager) = (self.ctx, self.manager);
        let (_keep, empty) = bounded::<u8>(1);
        let soon = Duration::from_millis(1);
        let cancelled = ctx.is_cancelled();
        let deeds = vec![
            ("checkpoint", ctx.checkpoint().is_err() == cancelled),
            (
                "ambient checkpoint",
                taskmuster::checkpoint().is_err() == cancelled,
            ),
            ("current", taskmuster::current().is_some()),
            ("wait", ctx.wait_timeout(soon).is_some() == cancelled),
            ("sleep", ctx.sleep(soon).is_err() == cancelled),
            ("receive", ctx.recv_timeout(&empty, soon).is_err()),
            ("deadline", ctx.deadline().is_none()),
            (
                "shield",
                ctx.shield(HANG, |ctx| Ok(ctx.checkpoint()?)).is_ok(),
            ),
            ("timeout", ctx.with_timeout(HANG, |_| Ok(())).is_ok()),
            ("foreign", ctx.foreign("a call", HANG, || true)),
            ("callback", ctx.on_cancel(|| ()).disarm() != cancelled),
            (
                "loop",
                ctx.iter(0..3).count() == if cancelled { 1 } else { 3 },
            ),
            (
                "spawn",
                ctx.group()
                    .spawn("heir", |_| Ok(7))
                    .is_ok_and(|it| it.join().is_ok()),
            ),
            (
                "scope",
                ctx.scope("heirs", |scope| {
                    Ok(scope.spawn("heir", |_| Ok(8))?.join()?)
                })
                .is_ok()
                    != cancelled,
            ),
            (
                "caught panic",
                panic::catch_unwind(|| panic!("within")).is_err(),
            ),
            (
                "wait for all",
                !cancelled || matches!(manager.wait(), Waited::Cancelled(_)),
            ),
            // An heir was joined, which may be a moment before the books are closed over it.
            ("list", becomes_so(|| manager.tasks().len() == 1)),
            ("cancel", ctx.token().cancel() != cancelled),
            ("shutdown", manager.shutdown().is_err()),
        ];
        drop(self.tell.send(deeds));
    }
}

#[test]
fn f063_in_a_destructor_while_unwinding_everything_returns_and_nothing_panics() {
    for cancelled_before in [false, true] {
        let manager = Arc::new(manager());
        let (tell, told) = bounded(1);
        let theirs = Arc::clone(&manager);
        let task = manager.spawn::<()>("dies", move |ctx| {
            if cancelled_before {
                ctx.token().cancel();
            }
            let _dying = Dying {
                ctx,
                manager: &theirs,
                tell,
            };
            panic!("the end");
        });
        let deeds = arrives(&told);
        let wrong: Vec<_> = deeds.iter().filter(|(_, right)| !right).collect();
        assert!(wrong.is_empty(), "{cancelled_before}: {wrong:?}");
        let Err(JoinError::Panicked(panic)) = task.expect("spawned").join_timeout(HANG) else {
            panic!("it panicked")
        };
        assert_eq!(panic.message(), Some("the end"));
        assert!(manager.shutdown().expect("a report").is_clean());
    }
}

#[test]
fn f064_who_never_checks_is_told_from_who_checked_once_and_from_who_does_not_listen() {
    let manager = manager();
    let open = Arc::new(AtomicBool::new(false));
    let ignored = Arc::new(AtomicUsize::new(0));
    let (there, ready) = bounded(3);
    let mut lines = Vec::new();
    for name in ["never", "once", "deaf"] {
        let (open, ignored, there) = (Arc::clone(&open), Arc::clone(&ignored), there.clone());
        let task = manager.spawn(name, move |ctx| {
            if name != "never" {
                drop(ctx.checkpoint());
            }
            there.send(())?;
            while !open.load(Ordering::SeqCst) {
                if name == "deaf" && ctx.checkpoint().is_err() {
                    ignored.fetch_add(1, Ordering::SeqCst);
                }
                thread::sleep(Duration::from_millis(1));
            }
            Ok(())
        });
        lines.push(task.expect("spawned").status().spawned_at.line());
    }
    for _ in 0..3 {
        arrives(&ready);
    }
    manager.request_shutdown("with time enough to ignore it");
    until("some checkpoints", || ignored.load(Ordering::SeqCst) > 10);
    let report = manager
        .shutdown_timeout(Duration::from_millis(500))
        .expect("a report");
    open.store(true, Ordering::SeqCst);
    let said: Vec<String> = report
        .stragglers()
        .map(|it| it.diagnosis().expect("it has one").to_string())
        .collect();
    assert_eq!(said.len(), 3, "{report}");
    let spawned = format!("spawned at {}:{}", file!(), lines[0]);
    assert!(
        said[0].contains("has reached no checkpoint") && said[0].contains(&spawned),
        "{}",
        said[0]
    );
    assert!(
        said[1].contains("has reached no checkpoint") && said[1].contains("sections.rs:"),
        "{}",
        said[1]
    );
    assert!(said[2].contains("it ignores their result"), "{}", said[2]);
}
