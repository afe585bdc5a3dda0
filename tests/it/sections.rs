//! Timeouts, shields, foreign code and loops inside a task.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{RecvTimeoutError, bounded};
use taskmuster::{BoxError, CauseKind, JoinError, Manager, SectionKind, TaskReport, TimeoutError};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

#[test]
fn one_s_own_timeout_and_an_outer_cancel_are_different_errors() {
    let manager = manager();
    let own = manager.spawn("own", |ctx| {
        let slow = ctx.with_timeout(Duration::from_millis(2), |ctx| {
            ctx.sleep(HANG)?;
            Ok(())
        });
        let Err(TimeoutError::Elapsed { limit, at }) = slow else {
            return Err("no timeout".into());
        };
        assert_eq!(limit, Duration::from_millis(2));
        assert!(at.file().ends_with("sections.rs"));
        assert!(!ctx.is_cancelled(), "the task itself goes on");
        Ok(ctx.with_timeout(HANG, |_| Ok(7))?)
    });
    assert_eq!(
        own.expect("spawned").join_timeout(HANG).expect("a value"),
        7
    );

    let (there, ready) = bounded(1);
    let outer = manager.spawn::<()>("outer", move |ctx| {
        Ok(ctx.with_timeout(HANG, |ctx| {
            there.send(())?;
            Err(ctx.wait().into())
        })?)
    });
    let outer = outer.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    outer.cancel();
    assert!(matches!(
        outer.join_timeout(HANG),
        Err(JoinError::Cancelled { .. })
    ));

    let fails = manager.spawn::<()>("fails", |ctx| {
        let failed: Result<(), TimeoutError> = ctx.with_timeout(HANG, |_| Err("broken".into()));
        assert!(matches!(failed, Err(TimeoutError::Failed(_))));
        Ok(failed?)
    });
    let Err(JoinError::Failed { error, .. }) = fails.expect("spawned").join_timeout(HANG) else {
        panic!("no failure")
    };
    assert_eq!(error.to_string(), "broken");
}

#[test]
fn an_unheard_timeout_passed_on_is_a_failure_of_the_task_not_its_cancel() {
    let manager = manager();
    let task = manager.spawn::<()>("slow", |ctx| {
        Ok(ctx.with_timeout(Duration::from_millis(1), |ctx| Ok(ctx.sleep(HANG)?))?)
    });
    let ended = task.expect("spawned").join_timeout(HANG);
    assert!(matches!(ended, Err(JoinError::Failed { .. })), "{ended:?}");
}

#[test]
fn nested_timeouts_end_with_the_tightest_and_late_values_count() {
    let manager = manager();
    let task = manager.spawn("nested", |ctx| {
        let outer = ctx.with_timeout(Duration::from_millis(300), |ctx| {
            let deadline = ctx.deadline().ok_or("it has one")?;
            let inner = ctx.with_timeout(HANG, |ctx| {
                assert_eq!(ctx.deadline(), Some(deadline), "the earlier one counts");
                ctx.sleep(HANG)?;
                Ok(())
            });
            assert!(
                matches!(inner, Err(TimeoutError::Failed(_))),
                "not its own timeout"
            );
            inner?;
            Ok(())
        });
        assert!(matches!(outer, Err(TimeoutError::Elapsed { .. })));
        let late = ctx.with_timeout(Duration::ZERO, |ctx| {
            assert!(ctx.is_cancelled());
            Ok("late")
        });
        Ok(late?)
    });
    assert_eq!(
        task.expect("spawned").join_timeout(HANG).expect("a value"),
        "late"
    );
}

#[test]
fn a_shield_hears_its_limit_only_and_is_lifted_by_a_panic_too() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let task = manager.spawn("clean", move |ctx| {
        there.send(())?;
        ctx.wait();
        ctx.shield(HANG, |ctx| {
            ctx.sleep(Duration::from_millis(1))?;
            ctx.shield(HANG, |ctx| Ok(ctx.checkpoint()?))?;
            assert!(
                taskmuster::checkpoint().is_ok(),
                "the ambient context is the shield's"
            );
            Ok(())
        })?;
        let cut = ctx.shield(Duration::from_millis(1), |ctx| Ok(ctx.sleep(HANG)?));
        assert!(matches!(cut, Err(TimeoutError::Elapsed { .. })));
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            ctx.shield(HANG, |_| -> Result<(), BoxError> { panic!("in clean-up") })
        }));
        assert!(panicked.is_err());
        assert!(
            taskmuster::checkpoint().is_err(),
            "and is itself again afterwards"
        );
        assert!(ctx.checkpoint().is_err());
        Ok(7)
    });
    let task = task.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    task.cancel();
    assert_eq!(task.join_timeout(HANG).expect("a value"), 7);
}

#[test]
fn a_shutdown_does_not_wait_for_foreign_code_beyond_its_limit_and_ends_with_0() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let task = manager.spawn("stdin", move |ctx| {
        ctx.foreign("terminal", Duration::ZERO, || {
            let _ = there.send(());
            let _ = released.recv();
        });
        ctx.checkpoint()?;
        Ok(())
    });
    let task = task.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    let start = Instant::now();
    let report = manager.shutdown().expect("a report");
    assert!(start.elapsed() < HANG / 2, "it waited for foreign code");
    assert_eq!(report.exit_code(), 0, "{report}");
    let left = report.stragglers().next().expect("it is listed");
    let section = left
        .diagnosis()
        .and_then(|it| it.section.as_ref())
        .expect("in a section");
    assert_eq!(
        (section.kind, &*section.what),
        (SectionKind::Foreign, "terminal")
    );
    let text = report.to_string();
    assert!(
        text.contains("FOREIGN") && text.contains("has been in `terminal` for"),
        "{text}"
    );
    assert!(matches!(task.join(), Err(JoinError::Abandoned { .. })));
    drop(release);
}

#[test]
fn foreign_code_of_a_helper_does_not_cut_off_the_task_itself() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (over, is_over) = bounded::<()>(0);
    let task = manager.spawn("saves", move |ctx| {
        let (release, released) = bounded::<()>(0);
        std::thread::scope(|threads| {
            let helper = threads.spawn(|| {
                ctx.foreign("terminal", Duration::ZERO, || {
                    let _ = there.send(());
                    let _ = released.recv();
                });
            });
            ctx.wait();
            // It saves, for as long as this takes.
            let cut_off = is_over.recv_timeout(Duration::from_millis(100));
            drop(release);
            helper.join().expect("no panic");
            Ok(cut_off)
        })
    });
    ready.recv_timeout(HANG).expect("it runs");
    let report = manager.shutdown().expect("a report");
    drop(over);
    let cut_off = task.expect("spawned").join().expect("a value");
    assert_eq!(cut_off, Err(RecvTimeoutError::Timeout));
    assert!(report.is_clean() && report.stragglers().next().is_none());
}

#[test]
fn who_comes_back_from_foreign_code_as_the_shutdown_ends_is_awaited() {
    for _ in 0..100 {
        let manager = manager();
        let (there, ready) = bounded(8);
        for _ in 0..8 {
            let there = there.clone();
            let task = manager.spawn("in and out", move |ctx| {
                there.send(())?;
                let mut calls = 0_u32;
                while ctx.checkpoint().is_ok() || calls < 100 {
                    ctx.foreign("a call", Duration::ZERO, std::thread::yield_now);
                    calls += 1;
                }
                Ok(())
            });
            drop(task.expect("spawned"));
        }
        for _ in 0..8 {
            ready.recv_timeout(HANG).expect("it runs");
        }
        let report = manager.shutdown().expect("a report");
        let abandoned = |task: &&TaskReport| !task.is_foreign();
        assert_eq!(
            report.stragglers().find(abandoned).map(TaskReport::name),
            None
        );
        assert_eq!(report.exit_code(), 0, "{report}");
    }
}

#[test]
fn foreign_calls_on_several_threads_of_a_task_leave_no_section_behind() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let deaf = manager.spawn("deaf", move |ctx| {
        let (second_is_in, first_may_leave) = bounded::<()>(0);
        let (first_has_left, second_may_leave) = bounded::<()>(0);
        std::thread::scope(|threads| {
            let (first_is_in, second_may_enter) = bounded::<()>(0);
            threads.spawn(move || {
                ctx.foreign("first", Duration::ZERO, || {
                    drop(first_is_in);
                    let _ = first_may_leave.recv();
                });
                drop(first_has_left);
            });
            threads.spawn(move || {
                let _ = second_may_enter.recv();
                ctx.foreign("second", Duration::ZERO, || {
                    drop(second_is_in);
                    let _ = second_may_leave.recv();
                });
            });
        });
        there.send(())?;
        let _ = released.recv();
        Ok(())
    });
    drop(deaf.expect("spawned"));
    ready.recv_timeout(HANG).expect("it runs");
    let report = manager.shutdown_timeout(Duration::from_millis(200));
    let report = report.expect("a report");
    let straggler = report.stragglers().next().expect("it is deaf");
    assert!(!straggler.is_foreign(), "{report}");
    assert_eq!(report.exit_code(), 2);
    drop(release);
}

#[test]
fn a_shutdown_waits_for_foreign_code_within_its_limit() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let task = manager.spawn("lookup", move |ctx| {
        ctx.foreign("dns lookup", HANG, || {
            let _ = there.send(());
            let _ = released.recv();
        });
        Ok(7)
    });
    let task = task.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    manager.request_shutdown("now");
    while !task.token().is_cancelled() {
        std::thread::yield_now();
    }
    drop(release);
    let report = manager.shutdown().expect("a report");
    assert!(
        report.is_clean() && report.stragglers().next().is_none(),
        "{report}"
    );
    assert_eq!(task.join().expect("a value"), 7);
}

#[test]
fn who_is_left_in_a_shield_is_said_to_be() {
    // On a busy machine it does not wait yet: then once more, with more time.
    let times = [100, 2_000, 20_000].map(Duration::from_millis);
    let waits = times.into_iter().any(|time| {
        let text = report_of_one_left_in_a_shield(time);
        assert!(text.contains("has been in a shield for"), "{text}");
        text.contains("waits for a message")
    });
    assert!(waits, "nobody is said to wait");
}

fn report_of_one_left_in_a_shield(time: Duration) -> String {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let task = manager.spawn("shielded", move |ctx| {
        Ok(ctx.shield(HANG, |ctx| {
            there.send(())?;
            drop(ctx.recv(&released));
            Ok(())
        })?)
    });
    drop(task.expect("spawned"));
    ready.recv_timeout(HANG).expect("it runs");
    let report = manager.shutdown_timeout(time).expect("a report");
    drop(release);
    assert_eq!(report.exit_code(), 2);
    report.to_string()
}

#[test]
fn who_came_out_of_its_sections_is_a_straggler_like_any_other() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (release, released) = bounded::<()>(0);
    let task = manager.spawn("deaf", move |ctx| {
        ctx.foreign("codec", HANG, || ());
        ctx.shield(HANG, |_| Ok(()))?;
        there.send(())?;
        let _ = released.recv();
        Ok(())
    });
    drop(task.expect("spawned"));
    ready.recv_timeout(HANG).expect("it runs");
    let report = manager
        .shutdown_timeout(Duration::from_millis(100))
        .expect("a report");
    drop(release);
    let straggler = report.stragglers().next().expect("one is left");
    let diagnosis = straggler.diagnosis().expect("it has one");
    assert!(diagnosis.section.is_none(), "{report}");
    assert!(report.to_string().contains("deaf  ABANDONED"), "{report}");
    assert_eq!(report.exit_code(), 2, "{report}");
}

#[test]
fn a_loop_ends_in_an_error_and_is_never_silently_short() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let taken = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&taken);
    let endless = manager.spawn::<()>("endless", move |ctx| {
        for number in ctx.iter(0_usize..) {
            counter.store(number?, Ordering::SeqCst);
            let _ = there.try_send(());
        }
        unreachable!("it has no end")
    });
    let endless = endless.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    assert!(matches!(
        endless.stop(HANG),
        Err(JoinError::Cancelled { .. })
    ));
    assert_eq!(
        endless
            .status()
            .last_checkpoint
            .map(|at| at.file().ends_with("sections.rs")),
        Some(true)
    );

    let whole = manager.spawn("whole", |ctx| {
        let data: Vec<u32> = (0..10).collect();
        let sizes: Vec<usize> = ctx
            .chunks(&data, 4)
            .map(|it| it.map(<[u32]>::len))
            .collect::<Result<_, _>>()?;
        assert_eq!(ctx.iter(&data).size_hint(), (0, Some(11)), "or a cancel");
        assert_eq!(ctx.iter(0..).size_hint(), (0, None));
        ctx.token().cancel();
        let mut after = ctx.iter(&data);
        assert!(after.next().is_some_and(|it| it.is_err()) && after.next().is_none());
        assert_eq!(after.size_hint(), (0, Some(0)));
        Ok(sizes)
    });
    assert_eq!(
        whole.expect("spawned").join_timeout(HANG).expect("a value"),
        [4, 4, 2]
    );
}

#[test]
fn the_ambient_context_is_the_task_s_and_nobody_else_s() {
    let manager = manager();
    assert!(taskmuster::current().is_none() && taskmuster::checkpoint().is_ok());
    let task = manager.spawn("deep", |ctx| {
        let ambient = taskmuster::current().ok_or("a task has one")?;
        assert_eq!((ambient.id(), ambient.name()), (ctx.id(), "deep"));
        let helper = std::thread::scope(|scope| {
            let helper = scope.spawn(|| taskmuster::current().is_none());
            helper.join().expect("no panic")
        });
        assert!(helper, "helpers are no tasks");
        ctx.token().cancel();
        let heard = taskmuster::checkpoint().expect_err("cancelled");
        assert_eq!(heard.cause().kind(), CauseKind::Request);
        Ok(ctx.checkpoint().is_err())
    });
    assert!(task.expect("spawned").join_timeout(HANG).expect("a value"));
}
