//! Waiting for whole groups.

use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

use taskmuster::crossbeam_channel::{bounded, never, select};
use taskmuster::{
    Backoff, Child, GroupError, JoinError, Manager, OnFailure, Outcome, Restart, Strategy,
    Supervisor, TaskHandle, TaskResult, TaskState,
};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

#[test]
fn a_group_is_joined_when_it_and_those_in_it_have_no_task_left() {
    let manager = manager();
    let outer = manager.group("outer");
    let inner = outer.group("inner");
    assert!(outer.join().is_ok(), "nobody is there");
    let (release, released) = bounded::<()>(0);
    let slow = inner.spawn("slow", move |_| Ok(released.recv().is_err()));
    let quick = outer.spawn("quick", |_| Ok(()));
    quick.expect("spawned").join().expect("it completed");
    let waits = outer.join_timeout(Duration::from_millis(1));
    assert!(
        matches!(waits, Err(GroupError::StillRunning { live: 1 })),
        "{waits:?}"
    );
    drop(release);
    outer.join_timeout(HANG).expect("all ended");
    assert!(slow.expect("spawned").try_join().expect("it has ended"));
}

#[test]
fn the_first_failure_cancels_the_rest_and_is_named_as_the_cause() {
    let manager = manager();
    let group = manager.group("fan out");
    let (fail, failing) = bounded::<()>(0);
    let (there, ready) = bounded(3);
    for number in 0..3 {
        let (failing, there) = (failing.clone(), there.clone());
        let task = group
            .task(number.to_string())
            .on_failure(OnFailure::StopGroup);
        let task = task.spawn::<()>(move |ctx| {
            there.send(())?;
            if number == 1 {
                let _ = failing.recv();
                return Err("the first".into());
            }
            ctx.wait();
            Err("a consequence".into())
        });
        drop(task.expect("spawned"));
    }
    for _ in 0..3 {
        ready.recv_timeout(HANG).expect("they run");
    }
    drop(fail);
    let Err(GroupError::Failed(failure)) = group.join_timeout(HANG) else {
        panic!("no failure")
    };
    assert_eq!(failure.count(), 3, "all are kept");
    assert_eq!(&*failure.ends()[0].name, "fan out/1");
    assert_eq!(
        failure.to_string(),
        "task `fan out/1` failed: the first (and 2 more)"
    );
    assert!(
        manager.shutdown().expect("a report").is_clean(),
        "all were read"
    );
}

#[test]
fn ends_are_told_in_order_and_select() {
    let manager = manager();
    let group = manager.group("told");
    let below = group.group("below");
    let ends = group.ends();
    let orders = never::<u8>();
    for (number, group) in [(1, &group), (2, &below)] {
        let task = group
            .spawn(number.to_string(), |_| Ok(()))
            .expect("spawned");
        select! {
            recv(ends) -> end => {
                let end = end.expect("the group exists");
                assert_eq!((end.id, &*end.name), (task.id(), task.name()));
                assert!(matches!(end.outcome, Outcome::Completed));
            }
            recv(orders) -> _ => unreachable!(),
            default(HANG) => panic!("not told"),
        }
    }
    drop(ends);
    group
        .spawn("unheard", |_| Ok(()))
        .expect("spawned")
        .join()
        .expect("nobody listens");
}

#[test]
fn a_task_cannot_wait_for_its_own_group_and_hears_its_cancel_while_it_waits_for_another() {
    let manager = manager();
    let (own, other) = (manager.group("own"), manager.group("other"));
    let (release, released) = bounded::<()>(0);
    let slow = other.spawn("slow", move |_| Ok(released.recv().is_err()));
    let (group, wait_for) = (own.clone(), other.clone());
    let (there, ready) = bounded(1);
    let waiter = own.spawn("waiter", move |ctx| {
        assert!(matches!(group.join(), Err(GroupError::WouldDeadlock)));
        assert!(matches!(
            ctx.join_group(&group),
            Err(GroupError::WouldDeadlock)
        ));
        there.send(())?;
        Ok(matches!(
            ctx.join_group(&wait_for),
            Err(GroupError::Interrupted(_))
        ))
    });
    let waiter = waiter.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    assert!(waiter.stop(HANG).expect("a value"));
    drop((release, slow));
    other.join_timeout(HANG).expect("it ended");
}

#[test]
fn joins_that_race_with_ends_and_spawns_return() {
    for _ in 0..300 {
        let manager = manager();
        let group = manager.group("racy");
        let start = Arc::new(Barrier::new(2));
        let (theirs, go) = (group.clone(), Arc::clone(&start));
        let spawner = thread::spawn(move || -> TaskResult {
            go.wait();
            for number in 0..4 {
                theirs.spawn(number.to_string(), |_| Ok(()))?;
            }
            Ok(())
        });
        start.wait();
        group.join_timeout(HANG).expect("it comes to an end");
        spawner.join().expect("no panic").expect("spawned");
        group.join_timeout(HANG).expect("it comes to an end");
        assert_eq!(manager.counts().live, 0);
    }
}

#[test]
fn whoever_was_woken_because_nobody_is_left_finds_the_last_end_in_the_channel() {
    let manager = manager();
    for round in 0..1_000 {
        let group = manager.group("group");
        let ends = group.ends();
        drop(group.spawn("task", |_| Ok(())).expect("spawned"));
        group.join().expect("it completes");
        assert_eq!(ends.len(), 1, "in round {round}");
    }
}

#[test]
fn a_task_whose_workers_the_shutdown_stops_first_is_stopped_by_it_and_has_not_failed() {
    let manager = manager();
    let workers = manager.group("workers");
    let worker = workers.spawn::<()>("worker", |ctx| Err(ctx.wait().into()));
    let worker = worker.expect("spawned");
    let elsewhere = manager.group("elsewhere");
    let cancelled = elsewhere.spawn::<()>("cancelled", |ctx| Err(ctx.wait().into()));
    let cancelled = cancelled.expect("spawned");
    let (there, ready) = bounded(2);
    let joins = |name: &'static str, other: TaskHandle<()>| {
        let there = there.clone();
        let task = manager.spawn(name, move |ctx| {
            there.send(())?;
            Ok(ctx.join(&other)?)
        });
        task.expect("spawned")
    };
    let coordinator = joins("coordinator", worker);
    let unlucky = joins("unlucky", cancelled);
    for _ in 0..2 {
        ready.recv_timeout(HANG).expect("they run");
    }
    elsewhere.cancel();
    let unlucky = unlucky.join();
    assert!(
        matches!(unlucky, Err(JoinError::Failed { .. })),
        "{unlucky:?}"
    );
    let report = manager.shutdown().expect("a report");
    let stopped = coordinator.join();
    assert!(
        matches!(stopped, Err(JoinError::Cancelled { .. })),
        "{stopped:?}"
    );
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_failure_in_a_group_that_is_gone_is_one_of_the_group_around_it() {
    let manager = manager();
    let outer = manager.group("outer");
    for number in 0..100 {
        let middle = outer.group("middle");
        let inner = middle.group("inner");
        let fails = inner.spawn::<()>(number.to_string(), |_| Err("on purpose".into()));
        let handle = fails.expect("spawned");
        drop((middle, inner));
        assert!(handle.join().is_err());
        let groups_are_gone = || handle.status().state == TaskState::Ended;
        while !groups_are_gone() {
            thread::yield_now();
        }
        for group in [&outer, manager.root_group()] {
            let Err(GroupError::Failed(failure)) = group.join() else {
                panic!("{number}: no failure")
            };
            assert_eq!(failure.count(), number + 1);
            assert_eq!(failure.ends().len(), (number + 1).min(64));
            assert_eq!(&*failure.ends()[0].name, "outer/middle/inner/0");
        }
    }
}

#[test]
fn whoever_answers_for_failures_keeps_them_from_the_group_around() {
    let manager = manager();
    let outer = manager.group("outer");
    let scoped = outer.scope("scope", |scope| {
        scope.on_failure(OnFailure::Record);
        let fails = scope.spawn::<()>("fails", |_| Err("on purpose".into()))?;
        assert!(fails.join().is_err());
        Ok(())
    });
    scoped.expect("the failure was read");
    let restart = Restart::on_failure().backoff(Backoff::none());
    let supervisor = Supervisor::new(Strategy::OneForOne)
        .restart(restart)
        .child(Child::new("child", |ctx| match ctx.attempt() {
            1 => Err("on purpose".into()),
            _ => Ok(()),
        }));
    let supervisor = outer.task("supervisor").supervise(supervisor);
    supervisor.expect("started").join().expect("it completes");
    outer.join().expect("nobody failed for good");
}
