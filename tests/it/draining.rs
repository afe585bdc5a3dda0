//! What comes before anybody is asked to stop, and graces of groups.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{bounded, select, unbounded};
use taskmuster::{BuildError, Manager, RecvError};

use crate::HANG;

#[test]
fn queues_run_dry_before_anybody_is_asked_to_stop() {
    let manager = Manager::builder()
        .grace(HANG)
        .drain(HANG / 2)
        .build()
        .expect("a manager");
    let (orders, queue) = unbounded::<u32>();
    let (there, ready) = bounded(2);
    let handled = Arc::new(AtomicUsize::new(0));
    let asked_too_early = Arc::new(AtomicBool::new(false));
    let intake = manager.task("intake").drains().spawn({
        let there = there.clone();
        move |ctx| {
            for order in 0..100 {
                ctx.send(&orders, order)?;
            }
            there.send(())?;
            select! {
                recv(ctx.draining()) -> _ => Ok(()),
                recv(ctx.cancelled()) -> _ => Err("asked before it could drain".into()),
            }
        }
    });
    let worker = manager.task("worker").drains().spawn({
        let handled = Arc::clone(&handled);
        move |ctx| loop {
            match ctx.recv(&queue) {
                Ok(_) => {
                    handled.fetch_add(1, Ordering::SeqCst);
                    std::thread::yield_now();
                }
                Err(RecvError::Disconnected) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    });
    let (seen, early) = (Arc::clone(&handled), Arc::clone(&asked_too_early));
    let background = manager.spawn("background", move |ctx| {
        there.send(())?;
        ctx.wait();
        early.store(seen.load(Ordering::SeqCst) < 100, Ordering::SeqCst);
        Ok(())
    });
    drop((
        intake.expect("spawned"),
        worker.expect("spawned"),
        background.expect("spawned"),
    ));
    for _ in 0..2 {
        ready.recv_timeout(HANG).expect("they run");
    }
    let start = Instant::now();
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(
        report.counts().completed,
        3,
        "nobody was cancelled: {report}"
    );
    assert_eq!(handled.load(Ordering::SeqCst), 100);
    assert!(!asked_too_early.load(Ordering::SeqCst));
    assert!(
        start.elapsed() < HANG / 2,
        "the drain time was not used up for nothing"
    );
}

#[test]
fn who_does_not_finish_in_the_drain_time_is_asked_to_stop() {
    let manager = Manager::builder()
        .grace(HANG)
        .drain(Duration::from_millis(20))
        .build()
        .expect("a manager");
    let (there, ready) = bounded(1);
    let slow = manager.task("slow").drains().spawn(move |ctx| {
        there.send(())?;
        ctx.wait();
        Ok(ctx.is_draining())
    });
    let slow = slow.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    let start = Instant::now();
    manager.request_shutdown("now");
    assert!(slow.join_timeout(HANG).expect("a value"));
    assert!(
        start.elapsed() >= Duration::from_millis(20),
        "asked too early"
    );
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn a_lame_duck_goes_on_and_a_hurry_ends_it() {
    let manager = Manager::builder()
        .grace(HANG)
        .lame_duck(HANG / 2)
        .build()
        .expect("a manager");
    let (there, ready) = bounded(1);
    let server = manager.spawn("server", move |ctx| {
        there.send(())?;
        ctx.wait();
        Ok(())
    });
    let server = server.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    manager.request_shutdown("now");
    assert!(matches!(manager.wait(), taskmuster::Waited::Requested(_)));
    assert!(!server.token().is_cancelled() && !manager.is_draining());
    let late = manager
        .spawn("late", |ctx| Ok(ctx.is_draining()))
        .expect("still taken");
    assert!(!late.join_timeout(HANG).expect("a value"));
    let start = Instant::now();
    manager.hurry();
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean() && start.elapsed() < HANG / 4, "{report}");
    assert!(manager.is_draining());
}

#[test]
fn with_nobody_left_no_time_before_the_stop_is_waited_for() {
    let builder = Manager::builder()
        .grace(HANG)
        .lame_duck(HANG / 4)
        .drain(HANG / 4);
    let start = Instant::now();
    let report = builder.run(|manager| Ok(manager.spawn("quick", |_| Ok(()))?.join()?));
    assert!(report.is_clean() && start.elapsed() < HANG / 4, "{report}");
}

#[test]
fn times_that_leave_nothing_for_the_stop_are_refused() {
    let refused = Manager::builder()
        .grace(Duration::from_secs(10))
        .lame_duck(Duration::from_secs(4))
        .drain(Duration::from_secs(6))
        .build();
    let Err(error @ BuildError::NoTimeToStop { .. }) = refused else {
        panic!("{refused:?}")
    };
    assert!(
        error.to_string().contains("make the grace longer"),
        "{error}"
    );
}

#[test]
fn nested_groups_have_graces_of_their_own() {
    let manager = Manager::builder().grace(HANG).build().expect("a manager");
    let outer = manager.group("outer").grace(Duration::from_millis(10));
    let inner = outer.group("inner").grace(Duration::from_millis(10));
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(3);
    let deaf = |group: &taskmuster::Group| {
        let (there, released) = (there.clone(), released.clone());
        group.spawn("deaf", move |_| {
            there.send(())?;
            let _ = released.recv();
            Ok(())
        })
    };
    let deaf = (
        deaf(&inner).expect("spawned"),
        deaf(&outer).expect("spawned"),
    );
    let (tell, told) = bounded(1);
    let last = manager.spawn("last", move |ctx| {
        there.send(())?;
        ctx.wait();
        tell.send(())?;
        Ok(())
    });
    drop(last.expect("spawned"));
    for _ in 0..3 {
        ready.recv_timeout(HANG).expect("they run");
    }
    let start = Instant::now();
    manager.request_shutdown("now");
    told.recv_timeout(HANG).expect("asked after the two graces");
    // Both graces, one after the other, and far less than fair shares of 20 s would be.
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(start.elapsed() < Duration::from_secs(5));
    drop(release);
    assert!(manager.shutdown().expect("a report").is_clean());
    drop(deaf);
}
