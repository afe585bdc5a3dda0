//! Readiness, and starts in order.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use taskmuster::crossbeam_channel::bounded;
use taskmuster::{Manager, ReadyError, StartFailure};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

#[test]
fn whoever_waits_for_a_task_to_be_ready_hears_it_or_its_end() {
    let manager = manager();
    let (go, going) = bounded::<()>(0);
    let slow = manager.spawn("slow", move |ctx| {
        let _ = going.recv();
        ctx.ready();
        ctx.ready();
        ctx.wait();
        Ok(())
    });
    let slow = slow.expect("spawned");
    assert!(matches!(
        slow.wait_ready(Duration::from_millis(1)),
        Err(ReadyError::NotYet { .. })
    ));
    assert!(!slow.status().ready);
    drop(go);
    slow.wait_ready(HANG).expect("it said so");
    assert!(slow.status().ready);
    let ends = manager
        .spawn::<()>("ends", |_| Err("cannot bind".into()))
        .expect("spawned");
    let error = ends.wait_ready(HANG).expect_err("it never says so");
    assert_eq!(
        error.to_string(),
        "task `ends` ended before it was ready: failed: cannot bind"
    );
    let source = error.source().expect("what it failed with");
    assert_eq!(source.to_string(), "cannot bind");
    assert!(
        manager.shutdown().expect("a report").is_clean(),
        "the failure was read"
    );
}

#[test]
fn a_manager_is_ready_when_those_are_who_must_be_and_not_in_a_shutdown() {
    let manager = manager();
    drop(
        manager
            .spawn("background", |ctx| {
                ctx.wait();
                Ok(())
            })
            .expect("spawned"),
    );
    assert!(manager.is_ready());
    let server = manager.task("server").spawn_ready(HANG, |ctx| {
        ctx.ready();
        ctx.wait();
        Ok(7)
    });
    let server = server.expect("ready");
    assert!(manager.is_ready());
    manager.request_shutdown("now");
    assert!(!manager.is_ready(), "not any more");
    assert!(server.join_timeout(HANG).is_ok());
}

#[test]
fn a_task_that_is_not_ready_in_time_is_stopped() {
    let manager = manager();
    let (tell, told) = bounded(1);
    let late = manager
        .task("late")
        .spawn_ready(Duration::from_millis(5), move |ctx| {
            ctx.wait();
            tell.send(())?;
            Ok(())
        });
    let error = late.expect_err("it never says so");
    assert!(
        matches!(
            error.failure(),
            StartFailure::NotReady(ReadyError::NotYet { .. })
        ),
        "{error}"
    );
    // It may have been cancelled before it began; if it began, it stops.
    drop(manager.shutdown().expect("a report"));
    drop(told);
    let late = manager.task("too late").spawn_ready(HANG, |_| Ok(()));
    assert!(matches!(
        late.expect_err("closed").failure(),
        StartFailure::NotSpawned(_)
    ));
}

#[test]
fn a_shutdown_during_a_start_is_no_failure_of_the_body_that_waits_for_it() {
    for wants_to_say_so in [true, false] {
        let report = Manager::builder().grace(HANG).run(|manager| {
            manager.task("server").spawn_ready(HANG, move |ctx| {
                ctx.request_shutdown("a signal comes");
                let stopped = ctx.wait();
                if wants_to_say_so {
                    Err(stopped.into())
                } else {
                    Ok(())
                }
            })?;
            unreachable!("it is never ready");
        });
        assert_eq!(report.body_error(), None, "{report}");
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_failure_of_a_start_that_is_stopped_is_a_failure_all_the_same() {
    let report = Manager::builder().grace(HANG).run(|manager| {
        manager.task("server").spawn_ready(HANG, |ctx| {
            ctx.request_shutdown("a signal comes");
            ctx.wait();
            Err::<(), _>("the port is lost".into())
        })?;
        unreachable!("it is never ready");
    });
    assert_eq!(report.exit_code(), 1, "{report}");
}

#[test]
fn a_start_in_order_that_fails_is_rolled_back_in_reverse() {
    let manager = manager();
    let group = manager.group("services");
    let log = Arc::new(Mutex::new(Vec::new()));
    let service = |name: &'static str| {
        let log = Arc::clone(&log);
        move |ctx: &taskmuster::TaskContext| {
            log.lock().push(format!("{name} up"));
            ctx.ready();
            ctx.wait();
            log.lock().push(format!("{name} down"));
            Ok(())
        }
    };
    let started = group
        .startup(HANG)
        .then(group.task("one"), service("one"))
        .then(group.task("two"), service("two"))
        .then(group.task("three"), |_| Err("no port".into()))
        .then(group.task("four"), service("four"))
        .start();
    let error = started.expect_err("the third does not start");
    assert_eq!(error.task(), "services/three");
    assert_eq!(*log.lock(), ["one up", "two up", "two down", "one down"]);
    assert_eq!(manager.counts().live, 0);
}

/// Runs with longer and longer times, until the machine was quick enough that all had begun in time.
fn until_all_begin_in_time(run: impl FnMut(Duration) -> bool) {
    let times = [200, 1_000, 10_000].map(Duration::from_millis);
    assert!(times.into_iter().any(run), "somebody never begins");
}

#[test]
fn a_task_that_is_not_ready_in_time_has_stopped_before_those_it_builds_on() {
    until_all_begin_in_time(|time| {
        let order = order_of_the_stops_if_one_is_not_ready_within(time);
        let all = ["top down", "base down"];
        assert!(all.ends_with(&order), "{order:?}"); // who has not begun does not stop
        order == all
    });
}

fn order_of_the_stops_if_one_is_not_ready_within(time: Duration) -> Vec<&'static str> {
    let manager = manager();
    let group = manager.group("services");
    let log = Arc::new(Mutex::new(Vec::new()));
    let note = |words: &'static str| {
        let log = Arc::clone(&log);
        move || log.lock().push(words)
    };
    let (base_down, top_down) = (note("base down"), note("top down"));
    let started = group
        .startup(time)
        .then(group.task("base"), move |ctx| {
            ctx.ready();
            ctx.wait();
            base_down();
            Ok(())
        })
        .then(group.task("top"), move |ctx| {
            ctx.wait();
            // It takes its leave of the base.
            std::thread::sleep(Duration::from_millis(20));
            top_down();
            Ok(())
        })
        .start();
    let late = started.expect_err("late").task().to_owned();
    let order = log.lock().clone();
    assert!(late == "services/top" || order.len() < 2, "{late}");
    order
}

#[test]
fn a_task_that_waits_for_its_turn_to_start_has_its_whole_timeout() {
    until_all_begin_in_time(|time| is_ready_behind_a_slow_one(2 * time));
}

/// Both take as long to start as the other one may run.
fn is_ready_behind_a_slow_one(timeout: Duration) -> bool {
    let manager = manager();
    let group = manager.group("services");
    let started = group
        .startup(3 * HANG)
        .then(group.task("slow"), move |ctx| {
            std::thread::sleep(timeout);
            ctx.ready();
            Ok(())
        })
        .then(group.task("bounded").timeout(timeout), |ctx| {
            ctx.ready();
            ctx.wait();
            Ok(())
        })
        .start();
    started.is_ok_and(|started| started[1].join_timeout(HANG).is_ok())
}
