//! Attempts, one after the other: faults 37 to 42.

#![expect(clippy::unit_arg, reason = "a body that does one thing is one line")]

use std::cell::RefCell;
use std::error::Error;
use std::fmt;
use std::mem;
use std::panic;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use taskmuster::{
    Backoff, Child, GaveUp, Group, Job, JoinError, Manager, Missed, Permanent, PolicyError,
    Restart, Retry, Schedule, SpawnFailure, Strategy, Supervisor, TaskContext, TaskHandle,
    TaskResult, Timetable, Trigger,
};

use crate::books::{
    HANG, arrives, assert_balanced, manager, refused, rounds, soon, until_nobody_lives,
};
use crate::child;
use crate::logger;
use crate::nasty::{Bomb, Loaded, OnDrop, silence_bombs};
use crate::preload::assert_played;
use crate::race::until;
use crate::usage;

const HOUR: Duration = Duration::from_secs(3_600);
const MILLI: Duration = Duration::from_millis(1);

fn at_once() -> Restart {
    Restart::on_failure().backoff(Backoff::none()).unlimited()
}

fn in_an_hour() -> Restart {
    at_once().backoff(Backoff::constant(HOUR))
}

fn at_most(restarts: u32) -> Restart {
    at_once().limit(restarts, HOUR)
}

/// A child that has all the time in the world to stop, and to be gone before it is started again.
fn patient_child(
    name: &str,
    body: impl FnMut(&TaskContext) -> TaskResult + Send + 'static,
) -> Child {
    Child::new(name, body).grace(HANG)
}

/// A supervisor of one child.
fn family(restart: Restart, child: Child) -> Supervisor {
    Supervisor::new(Strategy::OneForOne)
        .restart(restart)
        .child(child)
}

/// What a task that gave up said last, and after how many attempts.
#[track_caller]
fn gave_up(manager: &Manager, task: &TaskHandle<()>) -> (u32, String) {
    let Err(JoinError::Failed { error, .. }) = soon(manager, task) else {
        panic!("{:?} did not give up", task.outcome());
    };
    let gave_up = error.downcast_ref::<GaveUp>().expect("it gave up");
    let last = gave_up.source().expect("the last failure").to_string();
    (gave_up.attempts(), last)
}

#[track_caller]
fn assert_cancelled<T: fmt::Debug>(ended: &Result<T, JoinError>, what: &str) {
    let is_cancelled = matches!(ended, Err(JoinError::Cancelled { .. }));
    assert!(is_cancelled, "{what}: {ended:?}");
}

/// What an error says, and what its sources say.
fn words_of(error: &JoinError) -> String {
    let mut words = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        words = format!("{words}: {error}");
        source = error.source();
    }
    words
}

// ---- 37: a storm of retries ----

/// Counts the attempts of a storm, and looks at the memory in use after a tenth of them and after all.
struct Tally {
    attempts: AtomicU32,
    most: u32,
    early: AtomicU64,
    late: AtomicU64,
}

impl Tally {
    fn of(attempts: u32) -> Arc<Self> {
        Arc::new(Self {
            attempts: AtomicU32::new(0),
            most: attempts,
            early: AtomicU64::new(0),
            late: AtomicU64::new(0),
        })
    }

    /// One attempt: it fails, unless it is the last.
    fn fail(&self) -> TaskResult {
        let attempt = self.attempts.fetch_add(1, Ordering::SeqCst) + 1;
        if attempt == self.most / 10 {
            self.early.store(usage::resident(), Ordering::SeqCst);
        }
        if attempt < self.most {
            return Err("not yet".into());
        }
        self.late.store(usage::resident(), Ordering::SeqCst);
        Ok(())
    }

    /// The same, with a panic now and then.
    fn fail_or_panic(&self) -> TaskResult {
        let failed = self.fail();
        assert!(
            failed.is_ok() || self.attempts.load(Ordering::SeqCst) % 8 > 0,
            "every eighth"
        );
        failed
    }
}

type Storm = fn(&Manager, Arc<Tally>);

const STORMS: [(&str, u32, Storm); 7] = [
    ("restarts", 100_000, |manager, tally| {
        let task = manager.task("storm").restart(at_once());
        let task = task.spawn(move |_| tally.fail_or_panic()).expect("spawned");
        soon(manager, &task).expect("it ends well");
    }),
    ("retries", 100_000, |manager, tally| {
        let task = manager.spawn("storm", move |ctx| {
            ctx.retry(Backoff::none(), |_| tally.fail())?;
            Ok(())
        });
        soon(manager, &task.expect("spawned")).expect("it ends well");
    }),
    ("ticks", 100_000, |manager, tally| {
        let schedule = Schedule::spaced(Duration::ZERO).times(u64::from(tally.most));
        let task = manager.task("storm").schedule(schedule);
        let task = task.spawn(move |_| tally.fail_or_panic()).expect("spawned");
        soon(manager, &task).expect("it ends well");
    }),
    ("children", 2_000, |manager, tally| {
        let child = patient_child("child", move |_| tally.fail_or_panic());
        let task = manager.task("storm").supervise(family(at_once(), child));
        soon(manager, &task.expect("started")).expect("it ends well");
    }),
    ("families", 1_000, |manager, tally| {
        let fails = patient_child("fails", move |_| tally.fail_or_panic()).permanent();
        let waits = patient_child("waits", |ctx| Err(ctx.wait().into()));
        let supervisor = Supervisor::new(Strategy::OneForAll).restart(at_once().limit(999, HOUR));
        let task = manager
            .task("storm")
            .supervise(supervisor.child(waits).child(fails));
        let (attempts, _) = gave_up(manager, &task.expect("started"));
        assert_eq!(attempts, 1_000);
    }),
    ("supervisors", 500, |manager, tally| {
        let fails = patient_child("fails", move |_| tally.fail_or_panic());
        let mut inner = family(Restart::never(), fails);
        let outer = patient_child("inner", move |ctx| inner.run(ctx, "inner"));
        let task = manager.task("storm").supervise(family(at_once(), outer));
        soon(manager, &task.expect("started")).expect("it ends well");
    }),
    ("jobs", 2_000, |manager, tally| {
        let schedule = Schedule::spaced(Duration::ZERO).times(u64::from(tally.most));
        let job = Job::new("job", schedule, move |_| tally.fail_or_panic());
        let task = manager.task("storm").timetable(Timetable::new().job(job));
        soon(manager, &task.expect("started")).expect("it ends well");
    }),
];

#[test]
#[ignore = "a role of a child process"]
fn fails_a_hundred_thousand_times() {
    panic::set_hook(Box::new(|_| {}));
    for (name, attempts, storm) in STORMS {
        let (manager, tally) = (manager(), Tally::of(attempts));
        let spent = usage::processor_time();
        storm(&manager, Arc::clone(&tally));
        let spent = usage::processor_time().saturating_sub(spent);
        drop(manager.shutdown().expect("a report"));
        assert_balanced(manager.counts());
        assert_eq!(manager.counts().live, 0);
        let [early, late] = [&tally.early, &tally.late].map(|it| it.load(Ordering::SeqCst));
        let ran = tally.attempts.load(Ordering::SeqCst);
        eprintln!("{name}: {ran} attempts, {early} KiB, then {late} KiB, {spent:?} of CPU");
        assert_eq!(ran, attempts, "{name}");
        assert!(late < early + 1_024, "{name}: memory grows");
    }
}

#[test]
fn f037_a_storm_of_a_hundred_thousand_failures_leaves_no_memory_behind() {
    let program = child::start("attempts::fails_a_hundred_thousand_times");
    for (name, ..) in STORMS {
        program.wait_for_line(&format!("{name}: "));
    }
    assert_played(program);
}

#[test]
#[ignore = "a role of a child process"]
fn is_given_up_and_pauses() {
    panic::set_hook(Box::new(|_| {}));
    let manager = manager();
    // Without a word about a limit there is one.
    let restart = Restart::on_failure().backoff(Backoff::none());
    let task = manager.task("restarted").restart(restart.clone());
    let task = task
        .spawn::<()>(|_| Err("at once".into()))
        .expect("spawned");
    assert_eq!(gave_up(&manager, &task).0, 6);
    let fails = || Err::<(), _>("at once".into());
    let task = manager
        .task("child")
        .supervise(family(restart, patient_child("c", move |_| fails())));
    assert_eq!(gave_up(&manager, &task.expect("started")).0, 6);
    // Those who wait for another attempt need no processor for that.
    for (name, pause) in PAUSES {
        let beats = Beats::default();
        drop(pause(manager.root_group(), name, beats.clone()));
        arrives(&beats.began);
    }
    let begin = usage::processor_time();
    thread::sleep(Duration::from_millis(600));
    let spent = usage::processor_time().saturating_sub(begin);
    eprintln!("{spent:?} of CPU");
    assert!(spent < Duration::from_millis(200), "{spent:?}");
}

#[test]
fn f037_a_storm_ends_by_its_limit_and_a_pause_costs_no_processor() {
    assert_played(child::start("attempts::is_given_up_and_pauses"));
}

#[test]
fn f037_a_backoff_that_cannot_do_what_it_says_is_refused_by_a_retry_as_well() {
    let manager = manager();
    let task = manager.spawn("retries", |ctx| {
        for (backoff, why) in [
            (
                Backoff::exponential(Duration::ZERO),
                PolicyError::GrowthFromZero,
            ),
            (
                Backoff::constant(MILLI).factor(0.5),
                PolicyError::Factor(0.5),
            ),
        ] {
            let mut attempts = 0;
            let retry = Retry::times(3, backoff);
            let error = refused(ctx.retry::<(), _>(retry, |_| {
                attempts += 1;
                Err("no")
            }));
            assert_eq!((attempts, error.attempts()), (0, 0), "{error}");
            let source = error.source().and_then(|it| it.downcast_ref());
            assert_eq!(source, Some(&why), "{error}");
            assert!(error.to_string().contains(&why.to_string()), "{error}");
        }
        Ok(())
    });
    soon(&manager, &task.expect("spawned")).expect("it ends well");
}

// ---- 38: a delay of a retry when the shutdown comes ----

/// Tells when an attempt begins, and counts them.
#[derive(Clone)]
struct Beats {
    tell: Sender<()>,
    began: Receiver<()>,
    attempts: Arc<AtomicU32>,
}

impl Default for Beats {
    fn default() -> Self {
        let (tell, began) = unbounded();
        Self {
            tell,
            began,
            attempts: Arc::default(),
        }
    }
}

impl Beats {
    fn beat(&self) {
        self.attempts.fetch_add(1, Ordering::SeqCst);
        self.tell.send(()).expect("it is here");
    }

    fn fail(&self) -> TaskResult {
        self.beat();
        Err("the first".into())
    }

    fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::SeqCst)
    }
}

type Pause = fn(&Group, &str, Beats) -> TaskHandle<()>;

/// Tasks whose next attempt is an hour away.
const PAUSES: [(&str, Pause); 9] = [
    ("of a restart", |group, name, beats| {
        let task = group.task(name).restart(in_an_hour());
        task.spawn(move |_| beats.fail()).expect("spawned")
    }),
    ("of a retry", |group, name, beats| {
        let backoff = Backoff::constant(HOUR);
        let task = group.spawn(name, move |ctx| Ok(ctx.retry(backoff, |_| beats.fail())?));
        task.expect("spawned")
    }),
    ("of a rate", |group, name, beats| {
        let task = group.task(name).every(HOUR);
        task.spawn(move |_| Ok(beats.beat())).expect("spawned")
    }),
    ("of a tick that failed", |group, name, beats| {
        let task = group.task(name).every(MILLI).restart(in_an_hour());
        task.spawn(move |_| beats.fail()).expect("spawned")
    }),
    ("between ticks", |group, name, beats| {
        let task = group.task(name).schedule(Schedule::spaced(HOUR));
        task.spawn(move |_| Ok(beats.beat())).expect("spawned")
    }),
    ("for a trigger", |group, name, beats| {
        let trigger = Trigger::new();
        trigger.fire();
        let task = group.task(name).every(Duration::MAX).trigger(&trigger);
        task.spawn(move |_| beats.fail()).expect("spawned")
    }),
    ("of a supervisor", |group, name, beats| {
        let supervisor = Supervisor::new(Strategy::OneForAll)
            .restart(in_an_hour())
            .child(patient_child("waits", |ctx| Err(ctx.wait().into())))
            .child(patient_child("fails", move |_| beats.fail()));
        group.task(name).supervise(supervisor).expect("started")
    }),
    ("of a job", |group, name, beats| {
        let job = Job::new("job", Schedule::every(HOUR), move |_| Ok(beats.beat()));
        let timetable = Timetable::new().job(job);
        group.task(name).timetable(timetable).expect("started")
    }),
    ("of a job that failed", |group, name, beats| {
        let job = Job::new("job", Schedule::every(MILLI), move |_| beats.fail());
        let timetable = Timetable::new().job(job.restart(in_an_hour()));
        group.task(name).timetable(timetable).expect("started")
    }),
];

type Stop = fn(&Manager, &Group, &TaskHandle<()>);

const STOPS: [(&str, Stop); 5] = [
    ("its handle", |_, _, task| {
        assert!(task.cancel());
    }),
    ("its group", |_, group, _| {
        assert!(group.cancel());
    }),
    ("its deadline", |_, _, task| {
        let _is_moved = task
            .token()
            .set_timeout(MILLI)
            .expect("a thread for deadlines");
    }),
    ("the shutdown", |manager, _, _| {
        manager.request_shutdown("now");
    }),
    ("a hurry", |manager, _, _| manager.hurry()),
];

#[test]
fn f038_every_pause_ends_at_once_by_every_stop_and_no_attempt_follows() {
    for (number, (what, pause)) in PAUSES.into_iter().enumerate() {
        for (by, stop) in STOPS {
            for is_asleep in [true, false] {
                let what = format!("the pause {what}, ended by {by}");
                let (manager, beats) = (manager(), Beats::default());
                let group = manager.group("g");
                let task = pause(&group, &format!("pause {number}"), beats.clone());
                arrives(&beats.began);
                if is_asleep {
                    usage::until_it_sleeps(&format!("g/pause {number}"));
                }
                stop(&manager, &group, &task);
                let error = refused(soon(&manager, &task));
                // The stop may come during the attempt, and a deadline may leave no time for another.
                let is_stopped = matches!(error, JoinError::Cancelled { .. });
                let is_its_own = words_of(&error).ends_with("the first");
                assert!(is_stopped || is_its_own, "{what}: {error:?}");
                drop(manager.shutdown().expect("a report"));
                assert_eq!(beats.attempts(), 1, "{what}");
                assert_eq!(manager.counts().live, 0, "{what}");
            }
        }
    }
}

type Attempts = fn(&Group, Arc<AtomicU32>) -> TaskHandle<()>;

/// Tasks that try again without a pause, for ever; they do not look whether they are to stop.
const WITHOUT_PAUSE: [(&str, Attempts); 6] = [
    ("restarts", |group, attempts| {
        let task = group.task("t").restart(at_once());
        let task = task.spawn(move |_| {
            attempts.fetch_add(1, Ordering::SeqCst);
            Err("again".into())
        });
        task.expect("spawned")
    }),
    ("retries", |group, attempts| {
        let task = group.spawn("t", move |ctx| {
            Ok(ctx.retry(Backoff::none(), |_| {
                attempts.fetch_add(1, Ordering::SeqCst);
                Err("again")
            })?)
        });
        task.expect("spawned")
    }),
    ("a rate", |group, attempts| {
        let schedule = Schedule::every(Duration::from_nanos(1)).missed(Missed::Burst);
        let task = group.task("t").schedule(schedule);
        let task = task.spawn(move |_| {
            attempts.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        task.expect("spawned")
    }),
    ("a trigger", |group, attempts| {
        let trigger = Trigger::new();
        let again = trigger.clone();
        trigger.fire();
        let task = group.task("t").every(HOUR).trigger(&trigger);
        let task = task.spawn(move |_| {
            attempts.fetch_add(1, Ordering::SeqCst);
            again.fire();
            Ok(())
        });
        task.expect("spawned")
    }),
    ("children", |group, attempts| {
        let child = patient_child("c", move |_| {
            attempts.fetch_add(1, Ordering::SeqCst);
            Ok(())
        });
        let supervisor = family(at_once(), child.permanent());
        group.task("t").supervise(supervisor).expect("started")
    }),
    ("jobs", |group, attempts| {
        let job = Job::new("j", Schedule::spaced(Duration::ZERO), move |_| {
            attempts.fetch_add(1, Ordering::SeqCst);
            Err("again".into())
        });
        let timetable = Timetable::new().job(job);
        group.task("t").timetable(timetable).expect("started")
    }),
];

#[test]
fn f038_a_cancel_between_two_attempts_is_never_lost() {
    let manager = manager();
    for (what, start) in WITHOUT_PAUSE {
        for round in 0..rounds(60, 5_000) {
            let (group, attempts) = (manager.group("g"), Arc::new(AtomicU32::new(0)));
            let task = Arc::new(start(&group, Arc::clone(&attempts)));
            let (theirs, count) = (Arc::clone(&task), Arc::clone(&attempts));
            let barrier = Arc::new(Barrier::new(2));
            let other = Arc::clone(&barrier);
            let canceller = thread::spawn(move || {
                other.wait();
                while (count.load(Ordering::SeqCst) as usize) < round % 8 {
                    thread::yield_now();
                }
                theirs.cancel();
                count.load(Ordering::SeqCst)
            });
            barrier.wait();
            let ended = soon(&manager, &task);
            let before = canceller.join().expect("it does not panic");
            match ended {
                Err(JoinError::Cancelled { .. }) => {}
                Err(JoinError::Failed { error, .. }) if error.to_string() == "again" => {}
                other => panic!("{what}: {other:?}"),
            }
            // One had begun, or was about to, when the cancel came.
            let after = attempts.load(Ordering::SeqCst);
            assert!(after <= before + 1, "{what}: {after} after {before}");
        }
    }
    until_nobody_lives(&manager);
}

#[test]
fn f038_attempts_go_on_while_work_is_finished_and_end_with_the_stop() {
    for drains in [false, true] {
        let builder = Manager::builder().grace(HANG);
        let manager = if drains {
            builder.drain(HANG / 2).build().expect("a manager")
        } else {
            builder.lame_duck(HANG / 2).build().expect("a manager")
        };
        let holds = manager.task("holds").drains();
        let holds = holds.spawn::<()>(|ctx| Err(ctx.wait().into()));
        drop(holds.expect("spawned"));
        let (beats, (order, orders)) = (Beats::default(), bounded::<()>(0));
        let inner = beats.clone();
        let task = manager.task("again").restart(at_once());
        let task = task.spawn::<()>(move |ctx| {
            inner.beat();
            ctx.recv(&orders)?;
            Err("again".into())
        });
        let task = task.expect("spawned");
        arrives(&beats.began);
        manager.request_shutdown("now");
        for _ in 0..3 {
            order.send(()).expect("it listens");
            arrives(&beats.began);
        }
        assert!(!task.is_finished());
        manager.hurry();
        assert_cancelled(&soon(&manager, &task), "it was hurried");
        assert_eq!(beats.attempts(), 4);
        assert_eq!(manager.shutdown().expect("a report").counts().restarts, 3);
    }
}

#[test]
fn f038_a_task_that_always_runs_again_and_drains_ends_with_the_run_that_finishes() {
    let manager = Manager::builder().grace(HANG).drain(HANG / 2);
    let manager = manager.build().expect("a manager");
    let (beats, always) = (Beats::default(), Restart::always().backoff(Backoff::none()));
    let inner = beats.clone();
    let task = manager.task("always").drains().restart(always);
    let task = task.spawn(move |ctx| {
        inner.beat();
        let _ = ctx.draining().recv();
        Ok(7)
    });
    let task = task.expect("spawned");
    arrives(&beats.began);
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!((beats.attempts(), report.counts().completed), (1, 1));
    assert_eq!(soon(&manager, &task).expect("a value"), 7);
}

#[test]
#[ignore = "a role of a child process"]
fn fails_when_it_is_stopped() {
    let said = logger::listen();
    let (there, ready) = unbounded();
    let waits_and = |ends: fn() -> TaskResult| {
        let there = there.clone();
        move |ctx: &TaskContext| {
            there.send(())?;
            ctx.wait();
            ends()
        }
    };
    let fails = || waits_and(|| Err("the last words".into()));
    let manager = manager();
    let restarted = manager.task("restarted").restart(in_an_hour());
    let ticks = manager.task("ticks").every(MILLI);
    let tasks = [
        restarted.spawn(fails()).expect("spawned"),
        ticks.spawn(fails()).expect("spawned"),
    ];
    let always = manager.task("always").restart(Restart::always());
    let always = always.spawn(waits_and(|| Ok(()))).expect("spawned");
    // A job and a child are tasks of their own: theirs is the failure, not the timetable's and the supervisor's.
    let job = Job::new("job", Schedule::every(MILLI), fails());
    let timetable = Timetable::new().job(job);
    let child = patient_child("child", fails());
    let supervisor = family(at_most(1), child);
    let timetable = manager.task("house").timetable(timetable);
    let supervisor = manager.task("family").supervise(supervisor);
    // A permanent child that is asked to stop and returns is down, even if there were too many restarts.
    let mut first = true;
    let ends = waits_and(|| Ok(()));
    let permanent = patient_child("permanent", move |ctx| {
        if mem::take(&mut first) {
            return Ok(());
        }
        ends(ctx)
    });
    let permanent = family(at_most(1), permanent.permanent());
    let permanent = manager.task("permanent").supervise(permanent);
    for _ in 0..6 {
        arrives(&ready);
    }
    let report = manager.shutdown().expect("a report");
    for task in tasks {
        let failed = refused(soon(&manager, &task));
        assert!(words_of(&failed).contains("the last words"), "{failed}");
    }
    soon(&manager, &always).expect("it completed");
    for task in [timetable, supervisor, permanent] {
        let task = task.expect("started");
        let failed = task.outcome().is_some_and(|it| it.is_failure());
        assert!(!failed, "{:?}", task.outcome());
    }
    // Those of the job and of the child: the others were read just now.
    assert_eq!(report.unread_failures(), 2, "{report}");
    assert_eq!((report.exit_code(), report.counts().restarts), (1, 1));
    let lies = said.with("again");
    assert!(lies.is_empty(), "{lies:?}");
}

#[test]
fn f038_a_failure_during_the_stop_is_the_end_and_nobody_says_that_it_is_tried_again() {
    assert_played(child::start("attempts::fails_when_it_is_stopped"));
}

#[cfg(feature = "calendar")]
#[test]
fn f038_a_calendar_whose_moments_have_passed_meanwhile_hears_the_stop_before_the_next() {
    let manager = manager();
    let every_second = taskmuster::Calendar::parse("* * * * * *").expect("a pattern");
    let (beats, (go, going)) = (Beats::default(), bounded::<()>(0));
    let inner = beats.clone();
    let task = manager.task("calendar").calendar(every_second);
    let task = task.spawn(move |_| {
        inner.beat();
        let _ = going.recv();
        Ok(())
    });
    let task = task.expect("spawned");
    arrives(&beats.began);
    task.cancel();
    thread::sleep(Duration::from_millis(1_100)); // a moment passes
    drop(go);
    assert_cancelled(&soon(&manager, &task), "a calendar");
    assert_eq!(beats.attempts(), 1);
}

// ---- 39: a retried body that panics while it is made ----

/// What a body is made by, each time anew.
fn make_a_body() -> Box<dyn Fn() -> TaskResult> {
    panic!("no body")
}

#[test]
fn f039_a_body_that_panics_while_it_is_made_is_a_failure_each_time_until_the_limit() {
    let manager = manager();
    let made = Arc::new(AtomicU32::new(0));
    let body = || {
        let made = Arc::clone(&made);
        move |_: &TaskContext| {
            made.fetch_add(1, Ordering::SeqCst);
            make_a_body()()
        }
    };
    let often = || Schedule::spaced(Duration::ZERO);
    let restarted = manager.task("restarted").restart(at_most(3));
    let ticks = manager.task("ticks").schedule(often()).restart(at_most(3));
    for task in [restarted, ticks] {
        let (attempts, last) = gave_up(&manager, &task.spawn(body()).expect("spawned"));
        assert_eq!((attempts, made.swap(0, Ordering::SeqCst)), (4, 4));
        assert!(last.ends_with("no body"), "{last}");
    }
    let supervisor = family(at_most(3), patient_child("child", body()));
    let supervisor = manager.task("family").supervise(supervisor);
    let (attempts, last) = gave_up(&manager, &supervisor.expect("started"));
    assert_eq!((attempts, made.swap(0, Ordering::SeqCst)), (4, 4));
    assert!(last.contains("no body"), "{last}");
    let job = Job::new("job", often(), body()).restart(at_most(3));
    let timetable = manager.task("house").timetable(Timetable::new().job(job));
    soon(&manager, &timetable.expect("started")).expect("no job is left");
    assert_eq!(made.load(Ordering::SeqCst), 4);
    until_nobody_lives(&manager);
}

/// An error that panics when it is asked for its source.
#[derive(Debug)]
struct Sourceless;

impl fmt::Display for Sourceless {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sourceless")
    }
}

impl Error for Sourceless {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        panic!("there is no source")
    }
}

#[test]
fn f039_an_error_that_panics_when_it_is_looked_at_is_a_failed_run_like_any_other() {
    let manager = manager();
    let mut runs = 0;
    let task = manager.task("restarted").restart(at_once());
    let task = task.spawn(move |_| {
        runs += 1;
        if runs < 4 {
            return Err(Box::new(Sourceless));
        }
        Ok(runs)
    });
    assert_eq!(soon(&manager, &task.expect("spawned")).expect("a value"), 4);
}

/// Bodies whose captures explode when they are dropped.
fn with_a_bomb(mut body: impl FnMut() -> TaskResult) -> impl FnMut(&TaskContext) -> TaskResult {
    let bomb = Bomb(1);
    move |_| {
        let _bomb = &bomb;
        body()
    }
}

#[test]
#[ignore = "a role of a child process"]
fn drops_bombs_between_attempts() {
    silence_bombs();
    let manager = manager();
    let spawn = |restart, body: fn() -> TaskResult| {
        let task = manager.task("bombs").restart(restart);
        soon(&manager, &task.spawn(with_a_bomb(body)).expect("spawned"))
    };
    // The first trouble is kept.
    let error = refused(spawn(at_most(2), || Err("the last".into())));
    assert!(words_of(&error).contains("gave up"), "{error}");
    let error = refused(spawn(at_once(), || Err(Permanent::new("for good").into())));
    assert!(words_of(&error).contains("for good"), "{error}");
    let error = refused(spawn(Restart::never(), || panic!("by itself")));
    assert!(words_of(&error).contains("by itself"), "{error}");
    // There is none but the bomb.
    let error = refused(spawn(at_once(), || Ok(())));
    assert!(matches!(error, JoinError::Panicked(_)), "{error}");
    eprintln!("captures");

    for is_loaded in [true, false] {
        let mut left = 5;
        let task = manager.task("bombs").restart(at_once());
        let task = task.spawn(move |ctx| {
            left -= 1;
            match (left, is_loaded) {
                (0, _) => Ok(ctx.attempt()),
                (_, true) => Err(Box::new(Loaded(Mutex::new(Bomb(2))))),
                (_, false) => panic::panic_any(Bomb(2)),
            }
        });
        assert_eq!(soon(&manager, &task.expect("spawned")).expect("a value"), 5);
    }
    let task = manager.spawn("bombs", |ctx| {
        let retried = ctx.retry(Backoff::none(), |attempt| {
            if attempt < 5 {
                Err(Loaded(Mutex::new(Bomb(2))))
            } else {
                Ok(attempt)
            }
        });
        Ok(retried?)
    });
    assert_eq!(soon(&manager, &task.expect("spawned")).expect("a value"), 5);
    eprintln!("errors");

    let often = || Schedule::spaced(Duration::ZERO);
    let ticks = manager.task("bombs").schedule(often().times(5));
    let ticks = ticks.spawn(|_| Ok(Bomb(1))).expect("spawned");
    mem::forget(soon(&manager, &ticks).expect("the last"));
    for is_panic in [true, false] {
        let mut tick = 0;
        let ticks = manager.task("bombs").schedule(often());
        let ticks = ticks.restart(Restart::never()).spawn(move |_| {
            tick += 1;
            match (tick, is_panic) {
                (..3, _) => Ok(Bomb(1)),
                (_, true) => panic!("by itself"),
                (_, false) => Err("by itself".into()),
            }
        });
        let error = refused(soon(&manager, &ticks.expect("spawned")));
        assert!(words_of(&error).contains("by itself"), "{error}");
    }
    eprintln!("values");

    let child = |name: &str| {
        let bomb = Bomb(1);
        patient_child(name, move |ctx| {
            let _bomb = &bomb;
            Err(ctx.wait().into())
        })
    };
    let supervisor = Supervisor::new(Strategy::OneForAll).restart(at_once());
    let supervisor = supervisor.child(child("one")).child(child("two"));
    let supervisor = manager.task("family").supervise(supervisor);
    let stopped = supervisor.expect("started").stop(HANG);
    assert_cancelled(&stopped, "a supervisor");
    let job = |name: &str| Job::new(name, often().times(2), with_a_bomb(|| Ok(())));
    let timetable = Timetable::new().job(job("one")).job(job("two"));
    let timetable = manager.task("house").timetable(timetable);
    soon(&manager, &timetable.expect("started")).expect("it completed");
    // Also where nothing is ever started.
    drop(
        Supervisor::new(Strategy::OneForAll)
            .child(child("one"))
            .child(child("two")),
    );
    drop(Timetable::new().job(job("one")).job(job("two")));
    eprintln!("bodies");
    until_nobody_lives(&manager);
}

#[test]
fn f039_whatever_explodes_when_it_is_dropped_between_attempts_hits_no_other_attempt() {
    let program = child::start("attempts::drops_bombs_between_attempts");
    for part in ["captures", "errors", "values", "bodies"] {
        program.wait_for_line(part);
    }
    assert_played(program);
}

// ---- 40: a periodic task that overruns its period ----

/// When ticks began and ended, as they saw it themselves; the third takes a while.
#[derive(Clone, Default)]
struct Ticked(Arc<Mutex<Vec<(Instant, Instant)>>>);

impl Ticked {
    fn tick(&self, slow: Duration) {
        let began = Instant::now();
        if self.all().len() == 2 {
            thread::sleep(slow);
        }
        self.0
            .lock()
            .expect("no panic")
            .push((began, Instant::now()));
    }

    fn all(&self) -> Vec<(Instant, Instant)> {
        self.0.lock().expect("no panic").clone()
    }
}

/// Whole periods in a span.
fn whole(span: Duration, period: Duration) -> u64 {
    u64::try_from(span.as_nanos() / period.as_nanos()).expect("a short span")
}

#[test]
fn f040_ticks_that_overrun_neither_overlap_nor_pile_up_nor_come_early() {
    let (period, slow, ticks) = (MILLI * 4, MILLI * 30, 12);
    for missed in [Missed::Skip, Missed::Delay, Missed::Burst] {
        for is_a_job in [false, true] {
            let (manager, ticked) = (manager(), Ticked::default());
            let schedule = Schedule::every(period).missed(missed).times(ticks);
            let (inner, start) = (ticked.clone(), Instant::now());
            let body = move |_: &TaskContext| Ok(inner.tick(slow));
            let task = if is_a_job {
                let timetable = Timetable::new().job(Job::new("job", schedule, body));
                manager.task("t").timetable(timetable).expect("started")
            } else {
                let task = manager.task("t").schedule(schedule);
                task.spawn(body).expect("spawned")
            };
            soon(&manager, &task).expect("all ticks were there");
            let (all, status) = (ticked.all(), task.status());
            let what = format!("{missed:?}, a job: {is_a_job}: {status:?}, {all:?}");
            assert_eq!((all.len() as u64, status.ticks), (ticks, ticks), "{what}");
            assert!(all.windows(2).all(|two| two[0].1 <= two[1].0), "{what}");
            // The moment of each is at least so many periods after the start as there were ticks before it.
            for ((began, _), earliest) in all.iter().zip(0_u32..) {
                assert!(*began >= start + period * earliest, "early: {what}");
            }
            // While the third ran, the moment of the fourth came first, and these others.
            let while_it_ran = whole(all[2].1 - all[2].0, period) - 1;
            let is_right = match missed {
                Missed::Burst => status.missed_ticks == 0,
                _ => status.missed_ticks >= while_it_ran,
            };
            assert!(is_right, "{while_it_ran} were missed: {what}");
            if missed == Missed::Skip {
                // Ticks and missed ones are the moments that came until the last.
                let moments = status.ticks + status.missed_ticks;
                let last = all.last().expect("there are twelve").0;
                assert!(whole(last - start, period) + 1 >= moments, "{what}");
            }
        }
    }
}

#[test]
fn f040_a_job_that_overruns_makes_no_other_job_late() {
    let manager = manager();
    let (go, going) = bounded::<()>(0);
    let (tell, told) = bounded(0);
    let slow = Job::new("slow", Schedule::every(MILLI), move |_| {
        let _ = going.recv();
        Ok(())
    });
    let quick = Job::new("quick", Schedule::every(MILLI), move |ctx| {
        Ok(ctx.send(&tell, ())?)
    });
    let timetable = Timetable::new().job(slow).job(quick);
    let house = manager.task("house").timetable(timetable).expect("started");
    for _ in 0..20 {
        arrives(&told);
    }
    let live = manager.tasks();
    let slow = live.iter().filter(|task| &*task.name == "house/slow");
    assert_eq!(slow.count(), 1, "{live:#?}");
    drop((go, told));
    assert_cancelled(&house.stop(HANG), "a timetable");
}

#[test]
fn f040_a_tick_for_which_there_is_no_thread_fails_alone() {
    // Room for the timetable and one tick.
    let manager = Manager::builder().grace(HANG).max_tasks(2);
    let manager = manager.build().expect("a manager");
    let (beats, (go, going)) = (Beats::default(), bounded::<()>(0));
    let inner = beats.clone();
    let holds = Job::new("holds", Schedule::every(HOUR), move |_| {
        inner.beat();
        let _ = going.recv();
        Ok(())
    });
    let (often, ticked) = (
        Schedule::spaced(MILLI).initial_delay(MILLI * 20),
        Beats::default(),
    );
    let inner = ticked.clone();
    let crowded = Job::new("crowded", often.clone(), move |_| Ok(inner.beat()));
    // Its policy has the last word.
    let given_up = Job::new("given up", often, |_| Ok(())).restart(at_most(3));
    let timetable = Timetable::new().job(holds).job(crowded).job(given_up);
    let house = manager.task("house").timetable(timetable).expect("started");
    arrives(&beats.began);
    until("ticks that find no room", || house.status().ticks > 10);
    assert_eq!(ticked.attempts(), 0);
    drop(go);
    arrives(&ticked.began);
    assert!(!house.is_finished());
    assert_cancelled(&house.stop(HANG), "a timetable");
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
}

// ---- 41: a period of zero, for ever, or changed ----

#[test]
fn f041_a_period_of_zero_is_refused_wherever_it_is_given_and_the_closure_comes_back() {
    let manager = manager();
    let trigger = Trigger::new();
    for task in [
        manager.task("zero").every(Duration::ZERO),
        manager.task("zero").every(Duration::ZERO).trigger(&trigger),
        manager
            .task("zero")
            .every(Duration::ZERO)
            .restart(at_once()),
    ] {
        let capture = Arc::new(());
        let captured = Arc::clone(&capture);
        let error = refused(task.spawn(move |_| Ok(Arc::strong_count(&captured))));
        let SpawnFailure::Policy(why) = error.failure() else {
            panic!("{error}")
        };
        assert_eq!(*why, PolicyError::NoPeriod);
        assert_eq!(Arc::strong_count(&capture), 2, "the closure is lost");
        drop(error);
        assert_eq!(Arc::strong_count(&capture), 1);
    }
    let job = Job::new("zero", Schedule::every(Duration::ZERO), |_| Ok(()));
    let refused = refused(manager.task("house").timetable(Timetable::new().job(job)));
    assert!(refused.to_string().contains("period of zero"), "{refused}");
    assert!(manager.tasks().is_empty());
}

#[test]
fn f041_a_period_for_ever_never_comes_but_is_triggered_counted_and_stopped() {
    let manager = manager();
    let never = [
        Schedule::every(Duration::MAX),
        Schedule::spaced(Duration::MAX),
        Schedule::every(MILLI).initial_delay(Duration::MAX),
    ];
    for schedule in never {
        let (beats, trigger) = (Beats::default(), Trigger::new());
        let inner = beats.clone();
        let task = manager.task("never").schedule(schedule.clone().times(2));
        let task = task.trigger(&trigger).spawn(move |_| Ok(inner.beat()));
        let task = task.expect("spawned");
        for shots in 1..=2 {
            assert!(!task.is_finished());
            assert!(trigger.fire());
            arrives(&beats.began);
            until("the tick", || task.status().ticks == shots);
        }
        soon(&manager, &task).expect("there were two");
        let stays = manager.task("never").schedule(schedule).spawn(|_| Ok(()));
        let stays = stays.expect("spawned");
        let early = stays.join_timeout(MILLI * 5);
        assert!(
            matches!(early, Err(JoinError::StillRunning { .. })),
            "{early:?}"
        );
        assert_cancelled(&stays.stop(HANG), "a task that never ticks");
        assert_eq!((stays.status().ticks, beats.attempts()), (0, 2));
    }
    let job = Job::new("never", Schedule::every(Duration::MAX), |_| Ok(()));
    let house = manager.task("house").timetable(Timetable::new().job(job));
    soon(&manager, &house.expect("started")).expect("no tick is to come");
}

#[test]
fn f041_a_period_that_changes_is_another_schedule_and_begins_at_once() {
    let manager = manager();
    let start = |period| {
        let (beats, task) = (Beats::default(), manager.task("changes"));
        let inner = beats.clone();
        let schedule = Schedule::every(period).initial_delay(period);
        let task = task.schedule(schedule).spawn(move |_| Ok(inner.beat()));
        (task.expect("spawned"), beats)
    };
    let (before, slowly) = start(HOUR);
    assert_cancelled(&before.stop(HANG), "the one before");
    let (after, quickly) = start(MILLI);
    arrives(&quickly.began);
    assert_eq!(slowly.attempts(), 0);
    assert_cancelled(&after.stop(HANG), "the one after");
}

// ---- 42: a restart while the old run has not ended ----

thread_local! {
    /// Destroyed after the body is over.
    static LINGERS: RefCell<Option<OnDrop>> = const { RefCell::new(None) };
}

/// Looks whether a body begins while a thread-local of its last run is still being destroyed.
#[derive(Clone, Default)]
struct Lingering {
    is_lingering: Arc<AtomicBool>,
    overlapped: Arc<AtomicBool>,
}

impl Lingering {
    /// Leaves something behind in the thread that takes `time` to go.
    fn linger(&self, beats: &Beats, time: Duration) {
        if self.is_lingering.load(Ordering::SeqCst) {
            self.overlapped.store(true, Ordering::SeqCst);
        }
        self.is_lingering.store(true, Ordering::SeqCst);
        let (mine, next) = (self.clone(), beats.began.clone());
        // Until the next run begins, which it must not, or the time is over.
        let lingers = OnDrop::new(move || {
            let _own = next.recv();
            let _ = next.recv_timeout(time);
            mine.is_lingering.store(false, Ordering::SeqCst);
        });
        LINGERS.set(Some(lingers));
    }
}

#[test]
fn f042_a_child_is_not_started_again_while_thread_locals_of_its_last_run_are_destroyed() {
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
    ] {
        let manager = manager();
        let (beats, lingering) = (Beats::default(), Lingering::default());
        let (inner, leaves) = (beats.clone(), lingering.clone());
        let child = patient_child("lingers", move |_| {
            leaves.linger(&inner, MILLI * 40);
            inner.fail()
        });
        let waits = patient_child("waits", |ctx| Err(ctx.wait().into()));
        let supervisor = Supervisor::new(strategy).restart(at_most(3));
        let supervisor = supervisor.child(child).child(waits);
        let supervisor = manager.task("family").supervise(supervisor);
        assert_eq!(gave_up(&manager, &supervisor.expect("started")).0, 4);
        assert!(!lingering.overlapped.load(Ordering::SeqCst), "{strategy:?}");
    }
}

#[test]
fn f042_a_tick_does_not_begin_while_thread_locals_of_the_one_before_are_destroyed() {
    let manager = manager();
    let (beats, lingering) = (Beats::default(), Lingering::default());
    let (inner, leaves) = (beats.clone(), lingering.clone());
    let job = Job::new("job", Schedule::every(MILLI).times(4), move |_| {
        leaves.linger(&inner, MILLI * 40);
        inner.fail()
    });
    let timetable = manager.task("house").timetable(Timetable::new().job(job));
    soon(&manager, &timetable.expect("started")).expect("there were four");
    assert!(!lingering.overlapped.load(Ordering::SeqCst));
}

#[test]
fn f042_a_child_whose_thread_never_goes_is_the_end_of_its_supervisor() {
    let manager = manager();
    let (go, going) = bounded::<()>(0);
    let (beats, (ended, ends)) = (Beats::default(), bounded(1));
    let inner = beats.clone();
    let child = Child::new("stays", move |_| {
        let (going, ended) = (going.clone(), ended.clone());
        let stays = OnDrop::new(move || {
            let _ = going.recv();
            let _ = ended.send(());
        });
        LINGERS.set(Some(stays));
        inner.fail()
    });
    let supervisor = family(at_once(), child.grace(MILLI * 20));
    let supervisor = manager.task("family").supervise(supervisor);
    let error = refused(soon(&manager, &supervisor.expect("started")));
    let words = "`family/stays` did not stop within its grace";
    assert!(words_of(&error).contains(words), "{error}");
    assert_eq!(beats.attempts(), 1);
    drop(go);
    arrives(&ends);
}

#[test]
fn f042_a_supervisor_that_is_restarted_finds_a_deaf_child_of_its_last_run_and_does_not_start_it() {
    let manager = manager();
    let (beats, (go, going)) = (Beats::default(), bounded::<()>(0));
    let live = Arc::new(AtomicU32::new(0));
    let (inner, lives) = (beats.clone(), Arc::clone(&live));
    let deaf = Child::new("deaf", move |_| {
        assert_eq!(lives.fetch_add(1, Ordering::SeqCst), 0, "two at once");
        inner.beat();
        let _ = going.recv();
        lives.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    });
    let (fail, failing) = bounded::<()>(0);
    let fails = patient_child("fails", move |ctx| {
        ctx.recv(&failing)?;
        Err("as told".into())
    });
    let mut inner = Supervisor::new(Strategy::OneForAll)
        .restart(at_most(1))
        .child(deaf.grace(MILLI * 20))
        .child(fails);
    let outer = patient_child("inner", move |ctx| inner.run(ctx, "inner"));
    let outer = manager.task("outer").supervise(family(at_most(3), outer));
    let outer = outer.expect("started");
    arrives(&beats.began);
    fail.send(()).expect("it listens");
    let (_, last) = gave_up(&manager, &outer);
    assert!(!last.contains("unreachable"), "{last}");
    assert_eq!(beats.attempts(), 1);
    drop(go);
    until("the deaf one", || manager.counts().live == 0);
    let words = format!("{:#?}", manager.shutdown().expect("a report"));
    assert!(!words.contains("unreachable"), "{words}");
}

#[test]
fn f042_however_often_children_fail_none_is_ever_there_twice() {
    for round in 0..rounds(30, 3_000) {
        let manager = manager();
        let strategy = match round % 3 {
            0 => Strategy::OneForOne,
            1 => Strategy::OneForAll,
            _ => Strategy::RestForOne,
        };
        let twice = Arc::new(AtomicBool::new(false));
        let mut supervisor = Supervisor::new(strategy).restart(at_most(20));
        for number in 0..4_usize {
            let micros = 50 * u64::try_from((round + number) % 7).expect("a small number");
            let (twice, live) = (Arc::clone(&twice), Arc::new(AtomicU32::new(0)));
            supervisor = supervisor.child(patient_child(&number.to_string(), move |ctx| {
                if live.fetch_add(1, Ordering::SeqCst) > 0 {
                    twice.store(true, Ordering::SeqCst);
                }
                // Two of them fail sooner or later, in every order.
                let stopped = match number % 2 {
                    0 => ctx.wait_timeout(Duration::from_micros(micros)),
                    _ => Some(ctx.wait()),
                };
                live.fetch_sub(1, Ordering::SeqCst);
                match stopped {
                    Some(stopped) => Err(stopped.into()),
                    None => Err("by itself".into()),
                }
            }));
        }
        let supervisor = manager.task("family").supervise(supervisor);
        assert_eq!(gave_up(&manager, &supervisor.expect("started")).0, 21);
        assert!(!twice.load(Ordering::SeqCst), "{strategy:?}");
        until_nobody_lives(&manager);
    }
}
