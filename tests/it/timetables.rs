//! Many periodic jobs on few threads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{
    Backoff, Job, JoinError, Manager, Permanent, Restart, Schedule, TaskContext, TaskResult,
    Timetable,
};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

fn until(condition: impl Fn() -> bool) {
    let deadline = Instant::now() + HANG;
    while !condition() {
        assert!(Instant::now() < deadline, "it does not happen");
        std::thread::yield_now();
    }
}

#[test]
fn a_thousand_jobs_have_one_thread_between_their_ticks() {
    let manager = manager();
    let ticks = Arc::new(AtomicUsize::new(0));
    let mut timetable = Timetable::new();
    for number in 0..1_000 {
        let ticks = Arc::clone(&ticks);
        let first = Duration::from_millis(number % 100);
        let schedule = Schedule::every(HANG * 1_000).initial_delay(first);
        timetable = timetable.job(Job::new(format!("job {number}"), schedule, move |_| {
            ticks.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }));
    }
    let house = manager.task("house").timetable(timetable).expect("started");
    until(|| ticks.load(Ordering::SeqCst) == 1_000);
    until(|| manager.counts().live == 1);
    assert_eq!(manager.counts().spawned, 1_001);
    assert!(matches!(house.stop(HANG), Err(JoinError::Cancelled { .. })));
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn a_job_whose_backoff_is_for_ever_has_no_tick_to_come() {
    let manager = manager();
    let runs = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&runs);
    let for_ever = Restart::on_failure().backoff(Backoff::constant(Duration::MAX));
    let job = Job::new(
        "job",
        Schedule::spaced(Duration::ZERO).times(2),
        move |_| match counter.fetch_add(1, Ordering::SeqCst) {
            0 => Err("the first".into()),
            _ => Ok(()),
        },
    );
    let timetable = Timetable::new().job(job.restart(for_ever.unlimited()));
    let house = manager.task("house").timetable(timetable).expect("started");
    house.join_timeout(HANG).expect("completed");
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_job_never_overlaps_itself_and_its_missed_ticks_are_counted() {
    let manager = manager();
    let at_once = Arc::new(AtomicUsize::new(0));
    let body = move |_: &TaskContext| -> TaskResult {
        assert_eq!(at_once.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        std::thread::sleep(Duration::from_millis(5));
        at_once.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    };
    let schedule = Schedule::every(Duration::from_millis(1)).times(5);
    let timetable = Timetable::new().job(Job::new("slow", schedule, body));
    let house = manager.task("house").timetable(timetable).expect("started");
    house.join_timeout(HANG).expect("no tick is to come");
    let status = house.status();
    assert!(status.ticks == 5 && status.missed_ticks >= 4, "{status:?}");
    assert_eq!(manager.counts().completed, 6);
}

#[test]
fn failing_ticks_go_on_and_a_job_that_is_given_up_leaves_the_others() {
    let manager = manager();
    let often = || Schedule::every(Duration::from_millis(1));
    let limit = Restart::on_failure()
        .backoff(Backoff::none())
        .limit(2, HANG);
    let (tell, told) = bounded(0);
    let mut failures = 0;
    let timetable = Timetable::new()
        .job(Job::new("goes on", often().times(4), move |_| {
            failures += 1;
            if failures % 2 == 0 {
                panic!("an even tick")
            } else {
                Err("an odd tick".into())
            }
        }))
        .job(Job::new("given up", often(), |_| Err("always".into())).restart(limit))
        .job(Job::new("permanent", often(), |_| {
            Err(Permanent::new("no such thing").into())
        }))
        .job(
            Job::new("late", often(), |ctx| Ok(ctx.sleep(HANG)?))
                .run_timeout(Duration::ZERO)
                .restart(Restart::never()),
        )
        .job(Job::new("lives", often(), move |ctx| {
            Ok(ctx.send(&tell, ())?)
        }));
    let house = manager.task("house").timetable(timetable).expect("started");
    for _ in 0..20 {
        told.recv_timeout(HANG).expect("it lives on");
    }
    until(|| manager.counts().failed + manager.counts().panicked == 8);
    assert!(matches!(house.stop(HANG), Err(JoinError::Cancelled { .. })));
    let report = manager.shutdown().expect("a report");
    assert_eq!(
        report.unread_failures(),
        2,
        "the last of those that were given up: {report}"
    );
}

#[test]
fn a_tick_is_asked_to_stop_with_its_timetable_and_by_the_shutdown() {
    for by_shutdown in [false, true] {
        let manager = manager();
        let (there, ready) = bounded(1);
        let job = Job::new("waits", Schedule::every(HANG), move |ctx| {
            there.send(())?;
            ctx.wait();
            Ok(())
        });
        let house = manager
            .task("house")
            .timetable(Timetable::new().job(job))
            .expect("started");
        ready.recv_timeout(HANG).expect("it ticks");
        if !by_shutdown {
            assert!(matches!(house.stop(HANG), Err(JoinError::Cancelled { .. })));
            assert_eq!(manager.counts().live, 0);
        }
        let report = manager.shutdown().expect("a report");
        assert!(report.is_clean(), "{report}");
        assert_eq!(report.counts().completed, 1);
    }
}

#[test]
fn a_timetable_that_could_never_do_what_it_says_is_refused() {
    let manager = manager();
    let job = Job::new("never", Schedule::every(Duration::ZERO), |_| Ok(()));
    let refused = manager.task("house").timetable(Timetable::new().job(job));
    let words = refused.expect_err("refused").to_string();
    assert!(words.contains("period"), "{words}");
}

#[test]
fn a_tick_that_cannot_be_started_is_a_failed_tick_and_not_the_end_of_all_jobs() {
    let manager = Manager::builder().grace(HANG).max_tasks(2);
    let manager = manager.build().expect("a manager");
    let (release, released) = bounded::<()>(0);
    let ticks = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&ticks);
    let schedule = Schedule::every(Duration::from_millis(1));
    let timetable = Timetable::new().job(Job::new("job", schedule, move |_| {
        counter.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }));
    let house = manager.task("house").timetable(timetable).expect("started");
    let hog = loop {
        // Between two ticks there is room for one more task.
        let released = released.clone();
        let hog = manager.spawn("hog", move |_| {
            let _ = released.recv();
            Ok(())
        });
        if let Ok(hog) = hog {
            break hog;
        }
    };
    let refused = house.status().ticks;
    until(|| house.status().ticks > refused); // one for which there was no thread
    drop(release);
    hog.join_timeout(HANG).expect("it was let go");
    let before = ticks.load(Ordering::SeqCst);
    until(|| ticks.load(Ordering::SeqCst) > before);
    assert!(matches!(house.stop(HANG), Err(JoinError::Cancelled { .. })));
}

#[test]
fn a_job_that_cancels_the_ticks_of_all_ends_the_timetable() {
    let manager = manager();
    let schedule = Schedule::every(Duration::from_millis(1));
    let timetable = Timetable::new().job(Job::new("saboteur", schedule, |ctx| {
        ctx.group().cancel();
        Ok(())
    }));
    let house = manager.task("house").timetable(timetable).expect("started");
    let Err(JoinError::Failed { error, .. }) = house.join_timeout(HANG) else {
        panic!("it does not end")
    };
    assert!(
        error.to_string().contains("its group is stopping"),
        "{error}"
    );
}
