//! Tasks that run again: restarts, schedules, retries.

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{bounded, unbounded};
use taskmuster::{
    Backoff, BoxError, GaveUp, JoinError, Manager, Missed, Permanent, PolicyError, Restart, Retry,
    Schedule, SpawnFailure, TaskHandle, TimeoutError, Trigger,
};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

fn at_once() -> Restart {
    Restart::on_failure().backoff(Backoff::none()).unlimited()
}

fn until_ticks<T>(task: &TaskHandle<T>, ticks: u64) {
    let deadline = Instant::now() + HANG;
    while task.status().ticks < ticks {
        assert!(Instant::now() < deadline, "{:?}", task.status());
        std::thread::yield_now();
    }
}

#[test]
fn failures_and_panics_are_run_again_and_the_value_is_that_of_the_last_run() {
    let manager = manager();
    let mut runs = 0;
    let task = manager.task("again").restart(at_once()).spawn(move |ctx| {
        runs += 1;
        assert_eq!(ctx.attempt(), runs);
        match runs {
            1 => Err("an error".into()),
            2 => panic!("a panic"),
            _ => Ok(runs),
        }
    });
    let task = task.expect("spawned");
    assert_eq!(task.join_timeout(HANG).expect("a value"), 3);
    assert_eq!(task.status().attempt, 3);
    let counts = manager.counts();
    assert_eq!(
        (counts.spawned, counts.completed, counts.restarts),
        (1, 1, 2)
    );
    assert!(
        manager.shutdown().expect("a report").is_clean(),
        "what was run again is no failure"
    );
}

#[test]
fn a_permanent_error_and_never_end_at_once_and_always_goes_on_until_it_is_stopped() {
    let manager = manager();
    let permanent = manager
        .task("permanent")
        .restart(at_once())
        .spawn::<()>(|ctx| {
            assert_eq!(ctx.attempt(), 1);
            Err(Permanent::new("no such file").into())
        });
    let Err(JoinError::Failed { error, .. }) = permanent.expect("spawned").join_timeout(HANG)
    else {
        panic!("no failure")
    };
    assert_eq!(error.to_string(), "no such file");
    let never = manager
        .task("never")
        .restart(Restart::never())
        .spawn::<()>(|_| panic!("once"));
    let Err(JoinError::Panicked(panic)) = never.expect("spawned").join_timeout(HANG) else {
        panic!("no panic")
    };
    assert!(
        panic
            .place()
            .is_some_and(|place| place.file.ends_with("repeating.rs")),
        "{panic}"
    );

    let always = Restart::always().backoff(Backoff::none()).unlimited();
    let (tell, told) = bounded(0);
    let always = manager.task("always").restart(always).spawn(move |ctx| {
        let attempt = ctx.attempt();
        ctx.send(&tell, attempt)?;
        Ok(attempt)
    });
    let always = always.expect("spawned");
    for attempt in 1..=5 {
        assert_eq!(told.recv_timeout(HANG), Ok(attempt));
    }
    // The fifth is over then, which would complete the task if it were the last.
    while always.status().attempt < 6 {
        std::thread::yield_now();
    }
    assert!(matches!(
        always.stop(HANG),
        Err(JoinError::Cancelled { .. })
    ));
}

#[test]
fn a_storm_of_failures_ends_by_its_limit_with_the_last_failure_as_the_source() {
    let manager = manager();
    let runs = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&runs);
    let restart = Restart::on_failure()
        .backoff(Backoff::none())
        .limit(1_000, HANG);
    let storm = manager
        .task("storm")
        .restart(restart)
        .spawn::<()>(move |_| {
            let run = counter.fetch_add(1, Ordering::SeqCst) + 1;
            if run % 2 == 0 {
                panic!("run {run}")
            } else {
                Err(format!("run {run}").into())
            }
        });
    let Err(JoinError::Failed { error, .. }) = storm.expect("spawned").join_timeout(HANG) else {
        panic!("no failure")
    };
    let gave_up = error.downcast_ref::<GaveUp>().expect("it gave up");
    assert_eq!((gave_up.attempts(), gave_up.task()), (1_001, "storm"));
    assert_eq!(gave_up.source().expect("the last").to_string(), "run 1001");
    assert_eq!(runs.load(Ordering::SeqCst), 1_001);
    assert_eq!(manager.counts().restarts, 1_000);
}

#[test]
fn giving_up_after_a_panic_keeps_the_panic_and_its_attempt() {
    let manager = manager();
    let restart = Restart::on_failure()
        .backoff(Backoff::none())
        .limit(2, HANG);
    let task = manager
        .task("panics")
        .critical()
        .restart(restart)
        .spawn::<()>(|_| panic!("always"));
    let Err(JoinError::Failed { error, .. }) = task.expect("spawned").join_timeout(HANG) else {
        panic!("no failure")
    };
    let last = error.source().expect("the last").to_string();
    assert!(
        last.starts_with("panicked in attempt 3 at") && last.ends_with(": always"),
        "{last}"
    );
    let report = manager.shutdown().expect("a report");
    assert_eq!(
        report.exit_code(),
        1,
        "a critical task that gives up: {report}"
    );
}

#[test]
fn the_pause_before_a_restart_hears_the_stop_and_nothing_is_run_again() {
    let manager = manager();
    let restart = Restart::on_failure()
        .backoff(Backoff::constant(HANG * 100))
        .unlimited();
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let task = manager
        .task("pauses")
        .restart(restart)
        .spawn::<()>(move |_| {
            counter.fetch_add(1, Ordering::SeqCst);
            Err("once".into())
        });
    let task = task.expect("spawned");
    // A failure after the stop would be the task's own end: the restart is decided first.
    let deadline = Instant::now() + HANG;
    while manager.counts().restarts < 1 {
        assert!(Instant::now() < deadline, "{:?}", task.status());
        std::thread::yield_now();
    }
    assert!(matches!(task.stop(HANG), Err(JoinError::Cancelled { .. })));
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn policies_that_could_never_do_what_they_say_are_refused_with_the_closure() {
    let manager = manager();
    let refused = manager
        .task("zero")
        .restart(Restart::on_failure().limit(0, HANG))
        .spawn(|_| Ok(7));
    let refused = refused.expect_err("refused");
    assert!(
        matches!(
            refused.failure(),
            SpawnFailure::Policy(PolicyError::NoRestarts)
        ),
        "{refused}"
    );
    let refused = manager
        .task("period")
        .every(Duration::ZERO)
        .spawn(|_| Ok(()));
    let refused = refused.expect_err("refused");
    assert!(
        matches!(
            refused.failure(),
            SpawnFailure::Policy(PolicyError::NoPeriod)
        ),
        "{refused}"
    );
    assert_eq!(manager.counts().spawned, 0);
}

#[test]
fn a_schedule_ticks_never_early_and_ends_with_its_last_value() {
    let manager = manager();
    let start = Instant::now();
    let (tell, told) = unbounded();
    let schedule = Schedule::every(Duration::from_millis(5))
        .initial_delay(Duration::from_millis(5))
        .times(4);
    let mut number = 0;
    let task = manager.task("ticks").schedule(schedule).spawn(move |_| {
        number += 1;
        tell.send(Instant::now())?;
        Ok(number)
    });
    let task = task.expect("spawned");
    assert_eq!(task.join_timeout(HANG).expect("a value"), 4);
    let ticks: Vec<Instant> = told.iter().collect();
    assert_eq!(ticks.len(), 4);
    for (tick, earliest) in ticks.iter().zip(1_u32..) {
        assert!(
            *tick >= start + earliest * Duration::from_millis(5),
            "tick {earliest} is early"
        );
    }
    assert_eq!(task.status().ticks, 4);
}

#[test]
fn failing_ticks_do_not_end_a_schedule_unless_its_policy_says_so() {
    let manager = manager();
    let mut tick = 0;
    let goes_on = manager
        .task("goes on")
        .schedule(Schedule::every(Duration::from_millis(1)).times(5));
    let goes_on = goes_on.spawn(move |_| {
        tick += 1;
        match tick {
            2 => Err("an error".into()),
            3 => panic!("a panic"),
            _ => Ok(tick),
        }
    });
    assert_eq!(
        goes_on
            .expect("spawned")
            .join_timeout(HANG)
            .expect("a value"),
        5
    );

    let schedule = Schedule::every(Duration::from_millis(1));
    let ends = manager
        .task("ends")
        .schedule(schedule.clone())
        .restart(Restart::never());
    let ends = ends
        .spawn::<()>(|_| Err("the first".into()))
        .expect("spawned");
    assert!(matches!(
        ends.join_timeout(HANG),
        Err(JoinError::Failed { .. })
    ));
    assert_eq!(ends.status().ticks, 1);

    let limit = Restart::on_failure()
        .backoff(Backoff::none())
        .limit(3, HANG);
    let gives_up = manager.task("gives up").schedule(schedule).restart(limit);
    let gives_up = gives_up
        .spawn::<()>(|_| Err("again".into()))
        .expect("spawned");
    assert!(matches!(
        gives_up.join_timeout(HANG),
        Err(JoinError::Failed { .. })
    ));
    assert_eq!(gives_up.status().ticks, 4);
}

#[test]
fn a_schedule_whose_backoff_is_for_ever_waits_for_its_stop() {
    let manager = manager();
    let for_ever = Restart::on_failure().backoff(Backoff::constant(Duration::MAX));
    let mut runs = 0;
    let task = manager
        .task("for ever")
        .schedule(Schedule::spaced(Duration::ZERO).times(2))
        .restart(for_ever.unlimited())
        .spawn(move |_| {
            runs += 1;
            if runs == 1 {
                return Err("the first".into());
            }
            Ok(())
        });
    let task = task.expect("spawned");
    until_ticks(&task, 1);
    let early = task.join_timeout(Duration::from_millis(50));
    assert!(early.is_err(), "it went on at once");
    assert!(matches!(task.stop(HANG), Err(JoinError::Cancelled { .. })));
}

#[test]
fn ticks_that_come_too_late_are_skipped_and_counted() {
    let manager = manager();
    let schedule = Schedule::every(Duration::from_millis(2))
        .missed(Missed::Skip)
        .times(2);
    let mut first = true;
    let task = manager.task("slow").schedule(schedule).spawn(move |_| {
        if std::mem::take(&mut first) {
            std::thread::sleep(Duration::from_millis(11));
        }
        Ok(())
    });
    let task = task.expect("spawned");
    task.join_timeout(HANG).expect("it ended");
    let status = task.status();
    assert!(status.ticks == 2 && status.missed_ticks >= 4, "{status:?}");
}

#[test]
fn a_tick_has_a_deadline_of_its_own() {
    let manager = manager();
    let mut tick = 0;
    let task = manager
        .task("slow ticks")
        .schedule(Schedule::spaced(Duration::ZERO).times(3))
        .run_timeout(Duration::from_millis(2))
        .spawn(move |ctx| {
            tick += 1;
            if tick < 3 {
                let cut = ctx.sleep(HANG);
                assert!(cut.is_err());
                cut?;
            }
            Ok(tick)
        });
    assert_eq!(
        task.expect("spawned").join_timeout(HANG).expect("a value"),
        3
    );

    let once = manager
        .task("once")
        .restart(Restart::never())
        .run_timeout(Duration::from_millis(1));
    let once = once
        .spawn::<()>(|ctx| Ok(ctx.sleep(HANG)?))
        .expect("spawned");
    let Err(JoinError::Failed { error, .. }) = once.join_timeout(HANG) else {
        panic!("no failure")
    };
    assert!(
        matches!(error.downcast_ref(), Some(TimeoutError::Elapsed { .. })),
        "{error}"
    );
}

#[test]
fn a_trigger_runs_a_tick_at_once_and_two_shots_are_one() {
    let manager = manager();
    let trigger = Trigger::new();
    assert!(trigger.fire());
    assert!(!trigger.fire(), "one is pending");
    let task = manager
        .task("triggered")
        .every(Duration::MAX)
        .trigger(&trigger)
        .spawn(|_| Ok(()));
    let task = task.expect("spawned");
    until_ticks(&task, 1);
    trigger.fire();
    until_ticks(&task, 2);
    assert!(matches!(task.stop(HANG), Err(JoinError::Cancelled { .. })));
    assert_eq!(task.status().ticks, 2);

    let restarted = manager.task("never").restart(Restart::always());
    let refused = restarted.trigger(&trigger).spawn(|_| Ok(()));
    let refused = refused.expect_err("there is nothing to trigger");
    let nothing = SpawnFailure::Policy(PolicyError::NothingToTrigger);
    assert_eq!(refused.failure().to_string(), nothing.to_string());
}

#[test]
fn a_retry_ends_with_success_its_last_attempt_a_permanent_error_or_the_stop() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let task = manager.spawn("retries", move |ctx| {
        let none = Backoff::none();
        let third = ctx.retry(none.clone(), |attempt| {
            if attempt == 3 { Ok(attempt) } else { Err("no") }
        });
        assert_eq!(third?, 3);
        let last = ctx.retry::<(), _>(Retry::times(4, none.clone()), |_| Err("never"));
        let last = last.expect_err("it never succeeds");
        assert_eq!(
            (last.attempts(), last.to_string()),
            (4, "failed after 4 attempts".to_owned())
        );
        let permanent = ctx.retry::<(), _>(none, |_| Err(Permanent::new("gone")));
        assert_eq!(permanent.expect_err("at once").attempts(), 1);
        let shrinking = Backoff::constant(HANG).factor(0.5);
        let refused = ctx.retry::<(), _>(shrinking, |_| -> Result<_, BoxError> { unreachable!() });
        let refused = refused.expect_err("the backoff says nonsense");
        assert_eq!(refused.attempts(), 0);
        assert!(matches!(refused.source(), Some(error) if error.is::<PolicyError>()));
        let in_time = ctx.with_timeout(HANG, |ctx| {
            let slow = ctx.retry::<(), _>(Backoff::constant(HANG * 10), |_| Err("no"));
            assert_eq!(slow.expect_err("no time for another").attempts(), 1);
            Ok(())
        });
        in_time?;
        there.send(())?;
        ctx.retry::<(), _>(Backoff::constant(HANG * 10), |_| Err("no"))?;
        Ok(())
    });
    let task = task.expect("spawned");
    ready.recv_timeout(HANG).expect("it came that far");
    assert!(
        matches!(task.stop(HANG), Err(JoinError::Cancelled { .. })),
        "as its own cancel"
    );
}

#[test]
fn two_hundred_schedules_end_with_the_shutdown() {
    let manager = manager();
    let ticks = Arc::new(AtomicUsize::new(0));
    for number in 0..200 {
        let ticks = Arc::clone(&ticks);
        let task = manager.task(format!("tick {number}")).stack_size(64 * 1024);
        let task = task.every(Duration::from_millis(20)).spawn(move |_| {
            ticks.fetch_add(1, Ordering::Relaxed);
            Ok(())
        });
        drop(task.expect("spawned"));
    }
    let deadline = Instant::now() + HANG;
    while ticks.load(Ordering::Relaxed) < 400 {
        assert!(Instant::now() < deadline);
        std::thread::yield_now();
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts().cancelled, 200);
}

#[test]
#[cfg(feature = "calendar")]
fn a_calendar_ticks_at_its_moments_and_hears_the_stop() {
    let manager = manager();
    let every_second = taskmuster::Calendar::parse("* * * * * *").expect("a pattern");
    let mut tick = 0;
    let task = manager
        .task("calendar")
        .calendar(every_second)
        .spawn::<()>(move |_| {
            tick += 1;
            if tick == 1 {
                Err("the first".into())
            } else {
                Ok(())
            }
        });
    let task = task.expect("spawned");
    until_ticks(&task, 2);
    assert!(matches!(task.stop(HANG), Err(JoinError::Cancelled { .. })));
}
