//! Joins and shutdowns, from everywhere and at every moment: faults 65 to 69 and 73 to 75.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, Sender, bounded, select};
use taskmuster::{
    BuildError, CancellationToken, CauseKind, Diagnosis, Group, GroupError, JoinError, Manager,
    Outcome, ReadyError, RecvError, ShutdownError, ShutdownReport, TaskContext, TaskHandle,
    TaskResult, TaskState, Waited,
};

use crate::books::{
    HANG, arrives, in_patience, in_some_try, let_go, manager, rounds, until_nobody_lives,
};
use crate::race::{Dawdler, Runner, in_time, race, until};
use crate::stuck::{Jail, Stuck};

/// Far longer than anything here takes, far shorter than what it must not take.
const SOON: Duration = Duration::from_secs(60);

/// Starts a task that waits for its cancel and says `Ok`, and returns when it runs.
fn listener(group: &Group) -> TaskHandle<()> {
    let (there, ready) = bounded(1);
    let task = group.spawn("listener", move |ctx| {
        there.send(())?;
        ctx.wait();
        Ok(())
    });
    arrives(&ready);
    task.expect("spawned")
}

/// The same, but one that has something to do before it ends.
fn slow_listener(group: &Group) -> TaskHandle<()> {
    let (there, ready) = bounded(1);
    let task = group.spawn("slow listener", move |ctx| {
        there.send(())?;
        ctx.wait();
        thread::sleep(Duration::from_millis(50));
        Ok(())
    });
    arrives(&ready);
    task.expect("spawned")
}

/// Starts a task that is stuck in this way, and returns when it is about to be.
fn stuck(kind: Stuck, group: &Group, jail: &Jail) -> TaskHandle<()> {
    let (there, ready) = bounded(1);
    let task = kind.spawn(group, jail.cell(), &there);
    arrives(&ready);
    task
}

// ---- 65: a shutdown asked for by those it waits for ----

/// A way to ask for the shutdown and wait for it.
type Ask = fn(&Manager) -> Result<ShutdownReport, ShutdownError>;

const ASKS: [Ask; 4] = [
    Manager::shutdown,
    |manager| manager.shutdown_timeout(Duration::ZERO),
    |manager| manager.shutdown_timeout(Duration::MAX),
    |manager| manager.shutdown_deadline(Instant::now()),
];

/// Asks when it is dropped.
struct AsksOnDrop(Arc<Manager>, Ask, Sender<Result<(), ShutdownError>>);

impl Drop for AsksOnDrop {
    fn drop(&mut self) {
        let _ = self.2.send((self.1)(&self.0).map(drop));
    }
}

thread_local! {
    static LAST_WORDS: RefCell<Option<AsksOnDrop>> = const { RefCell::new(None) };
}

type Asks = fn(&TaskContext, AsksOnDrop) -> TaskResult;

/// Where in a task it is asked.
const PLACES: [(&str, Asks); 8] = [
    ("the body", |_, asks| let_go(asks)),
    ("a shield", |ctx, asks| {
        Ok(ctx.shield(HANG, |_| let_go(asks))?)
    }),
    ("a timeout", |ctx, asks| {
        Ok(ctx.with_timeout(HANG, |_| let_go(asks))?)
    }),
    ("foreign code", |ctx, asks| {
        ctx.foreign("a call", HANG, || let_go(asks))
    }),
    ("a task of a scope", |ctx, asks| {
        Ok(ctx.scope("scope", |scope| {
            let inner = scope.spawn("inner", |_| let_go(asks))?;
            drop(inner.join()); // a shutdown without time may abandon it
            Ok(())
        })?)
    }),
    ("its own callback", |ctx, asks| {
        let _guard = ctx.on_cancel(move || drop(asks));
        ctx.token().cancel();
        Ok(())
    }),
    ("unwinding", |_, asks| {
        let _asks = asks;
        panic!("the end")
    }),
    ("the destructor of a thread-local", |_, asks| {
        LAST_WORDS.set(Some(asks));
        Ok(())
    }),
];

#[test]
fn f065_a_task_that_asks_for_the_shutdown_it_would_wait_for_gets_an_error_wherever_it_asks() {
    for (place, run) in PLACES {
        for ask in ASKS {
            let manager = Arc::new(manager());
            let _listener = listener(manager.root_group());
            let (tell, told) = bounded(1);
            let asks = AsksOnDrop(Arc::clone(&manager), ask, tell);
            let asker = manager.spawn("asker", move |ctx| run(ctx, asks));
            let answer = arrives(&told);
            assert_eq!(answer, Err(ShutdownError::WouldDeadlock), "in {place}");
            assert!(
                matches!(manager.wait(), Waited::Requested(_)),
                "it was requested"
            );
            drop(asker.expect("spawned").outcome()); // read, should it be a panic
            let report = in_time(place, move || manager.shutdown().expect("a report"));
            assert!(
                report.exit_code() != 1 || place == "unwinding",
                "{place}: {report}"
            );
        }
    }
}

#[test]
fn f065_a_callback_of_the_shutdown_itself_may_wait_for_its_report() {
    let manager = Arc::new(manager());
    let listener = listener(manager.root_group());
    let (tell, told) = bounded(1);
    let asks = AsksOnDrop(Arc::clone(&manager), Manager::shutdown, tell);
    listener.token().on_cancel(move || drop(asks)).keep();
    let report = in_time("the shutdown", {
        let manager = Arc::clone(&manager);
        move || manager.shutdown().expect("a report")
    });
    assert_eq!(report.exit_code(), 0, "{report}");
    in_patience(&told).expect("it came back").expect("a report");
}

#[test]
fn f065_a_helper_thread_of_a_task_that_waits_for_the_shutdown_is_let_go_at_the_deadline() {
    let manager = Arc::new(manager());
    let theirs = Arc::clone(&manager);
    let task = manager.spawn("waits for its helper", move |ctx| {
        ctx.checkpoint()?;
        let helper = thread::spawn(move || theirs.shutdown_timeout(Duration::from_millis(200)));
        let report = helper.join().map_err(|_| "it panicked")??;
        Ok(report.exit_code())
    });
    let code = task.expect("spawned");
    until("the end", || code.is_finished());
    assert_eq!(code.join().expect("late, but it completed"), 2);
    assert!(
        manager
            .shutdown()
            .expect("a report")
            .to_string()
            .contains("`waits for its helper`")
    );
}

#[test]
fn f065_tasks_of_two_managers_that_shut_down_each_other_s_manager_come_to_an_end() {
    for _ in 0..rounds(20, 200) {
        let grace = Duration::from_millis(50);
        let pair =
            Arc::new([(); 2].map(|()| Manager::builder().grace(grace).build().expect("a manager")));
        let start = Arc::new(Barrier::new(2));
        let tasks = [0, 1].map(|own| {
            let (pair, start) = (Arc::clone(&pair), Arc::clone(&start));
            let theirs = Arc::clone(&pair);
            let task = pair[own].spawn("crosswise", move |_| {
                start.wait();
                Ok(theirs[1 - own].shutdown()?.exit_code())
            });
            task.expect("spawned")
        });
        for task in &tasks {
            until("the end", || task.is_finished());
        }
        let codes = tasks.map(|task| task.join().expect("a report"));
        assert!(codes.iter().all(|code| matches!(code, 0 | 2)), "{codes:?}");
    }
}

// ---- 66: every operation in every state ----

/// How a task stands when something is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    Computes,
    Deaf,
    Shielded,
    Foreign,
    Asked,
    GroupAsked,
    Draining,
    NeverBegun,
    Completed,
    Failed,
    Panicked,
    Cancelled,
    Exiting,
    Abandoned,
    EndedLate,
    Over,
}

use State::{
    Abandoned, Asked, Cancelled, Completed, Computes, Deaf, Draining, EndedLate, Exiting, Failed,
    Foreign, GroupAsked, NeverBegun, Over, Panicked, Shielded, Waits,
};

impl State {
    const ALL: [Self; 17] = [
        Waits, Computes, Deaf, Shielded, Foreign, Asked, GroupAsked, Draining, NeverBegun,
        Completed, Failed, Panicked, Cancelled, Exiting, Abandoned, EndedLate, Over,
    ];

    fn hears(self) -> bool {
        matches!(self, Waits | Computes | Draining)
    }

    fn is_asked(self) -> bool {
        matches!(self, Asked | GroupAsked | NeverBegun | Cancelled) || self.is_over()
    }

    fn is_over(self) -> bool {
        matches!(self, Abandoned | EndedLate | Over)
    }

    fn lives(self) -> bool {
        self == Abandoned || self.end().is_none()
    }

    /// What the books say of it; `None` while it runs.
    fn end(self) -> Option<&'static str> {
        match self {
            Completed | Exiting | EndedLate => Some("completed"),
            Failed => Some("failed"),
            Panicked => Some("panicked"),
            Cancelled | NeverBegun | Over => Some("cancelled"),
            Abandoned => Some("abandoned"),
            _ => None,
        }
    }

    /// What a join says that does not wait long.
    fn joined(self) -> &'static str {
        self.end().unwrap_or("running")
    }

    /// What the process would end with after a shutdown that gives little time.
    fn exit_code(self) -> u8 {
        match self {
            Deaf | Shielded | Asked | GroupAsked | Exiting | Abandoned | EndedLate => 2,
            Failed | Panicked => 1,
            _ => 0,
        }
    }
}

/// A task in some state, and who it belongs to.
struct Scene {
    /// Keeps it there; goes first.
    release: Option<Sender<()>>,
    state: State,
    manager: Manager,
    group: Group,
    task: TaskHandle<u8>,
}

/// A shutdown that gives so much time gives up on whoever is stuck.
const LITTLE: Duration = Duration::from_millis(40);

struct Lingers(Receiver<()>);

impl Drop for Lingers {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

thread_local! {
    static LINGERS: RefCell<Option<Lingers>> = const { RefCell::new(None) };
}

impl Scene {
    fn set(state: State) -> Self {
        let builder = Manager::builder().grace(2 * HANG);
        let manager = builder.drain(HANG).build().expect("a manager");
        let group = manager.group("g");
        let (there, ready) = bounded(1);
        let (release, released) = bounded::<()>(0);
        if state == NeverBegun {
            group.token().cancel();
        }
        let builder = group.task("task");
        let builder = if state == Draining {
            builder.drains()
        } else {
            builder
        };
        let task = builder.spawn(move |ctx| play(state, ctx, &there, &released));
        let mut scene = Self {
            release: Some(release),
            state,
            manager,
            group,
            task: task.expect("accepted"),
        };
        if state != NeverBegun {
            arrives(&ready);
        }
        match state {
            Asked => assert!(scene.task.cancel()),
            GroupAsked => assert!(scene.group.cancel()),
            Draining => {
                scene.manager.request_shutdown("in the drain time");
                until("the drain", || scene.manager.is_draining());
            }
            Cancelled => drop(scene.task.cancel()),
            Abandoned | EndedLate => {
                assert_eq!(
                    scene
                        .manager
                        .shutdown_timeout(LITTLE)
                        .expect("a report")
                        .exit_code(),
                    2
                );
            }
            Over => assert!(scene.manager.shutdown().expect("a report").is_clean()),
            _ => {}
        }
        if state == EndedLate {
            scene.release = None;
            until("the late end", || scene.manager.counts().late == 1);
        }
        if state.end().is_some() && state != Abandoned {
            // In the books as well, and its thread is on its way out.
            until_nobody_lives(&scene.manager);
            assert!(scene.task.is_finished());
        }
        scene
    }
}

fn play(
    state: State,
    ctx: &TaskContext,
    there: &Sender<()>,
    released: &Receiver<()>,
) -> TaskResult<u8> {
    let deaf = || {
        let _ = there.send(());
        let _ = released.recv();
    };
    match state {
        Waits | Cancelled | Over => {
            there.send(())?;
            return Err(ctx.wait().into());
        }
        Draining => {
            there.send(())?;
            if let Err(RecvError::Cancelled(cancelled)) = ctx.recv(released) {
                return Err(cancelled.into());
            }
        }
        Computes => loop {
            let _ = there.try_send(());
            ctx.checkpoint()?;
            thread::yield_now();
        },
        Deaf | Asked | GroupAsked | Abandoned | EndedLate => deaf(),
        Shielded => ctx.shield(HANG, |_| {
            deaf();
            Ok(())
        })?,
        Foreign => ctx.foreign("a call", HANG, deaf),
        Exiting => {
            LINGERS.set(Some(Lingers(released.clone())));
            there.send(())?;
        }
        Completed => there.send(())?,
        Failed => {
            there.send(())?;
            return Err("broken".into());
        }
        Panicked => {
            there.send(())?;
            panic!("broken");
        }
        NeverBegun => unreachable!("it was cancelled before"),
    }
    Ok(7)
}

fn word(joined: Result<u8, JoinError>) -> &'static str {
    match joined {
        Ok(7) => "completed",
        Err(JoinError::Failed { .. }) => "failed",
        Err(JoinError::Panicked(_)) => "panicked",
        Err(JoinError::Cancelled { .. }) => "cancelled",
        Err(JoinError::Abandoned { .. }) => "abandoned",
        Err(JoinError::StillRunning { .. }) => "running",
        other => panic!("{other:?}"),
    }
}

fn word_of(outcome: Option<Outcome>) -> &'static str {
    match outcome {
        None => "running",
        Some(Outcome::Completed) => "completed",
        Some(Outcome::Failed(_)) => "failed",
        Some(Outcome::Panicked(_)) => "panicked",
        Some(Outcome::Cancelled(_)) => "cancelled",
        Some(Outcome::Abandoned) => "abandoned",
        Some(other) => panic!("{other:?}"),
    }
}

fn agree<T: PartialEq + fmt::Debug + Copy>(is: T, ought: T) {
    assert_eq!(is, ought);
}

type Operation = fn(Scene);

const OPERATIONS: [(&str, Operation); 16] = [
    ("spawn a sibling", |it| {
        let sibling = it.group.spawn("sibling", |_| Ok(7));
        let refused = it.state.is_over() || it.state == GroupAsked;
        agree(sibling.is_err(), refused);
        if let Ok(sibling) = sibling {
            let ought = if it.state == NeverBegun {
                "cancelled"
            } else {
                "completed"
            };
            agree(word(sibling.join_timeout(HANG)), ought);
        }
    }),
    ("cancel", |it| {
        let could = it.state.end().is_none() && !it.state.is_asked();
        agree(it.task.cancel(), could);
        agree(it.task.cancel(), false);
        if it.state.hears() {
            agree(word(it.task.join_timeout(HANG)), "cancelled");
        }
    }),
    ("cancel its token", |it| {
        it.task.token().cancel();
        assert!(!it.task.token().cancel() && it.task.token().is_cancelled());
        let ought = if it.state.hears() {
            "cancelled"
        } else {
            it.state.joined()
        };
        let patience = if it.state.hears() { HANG } else { LITTLE / 10 };
        agree(word(it.task.join_timeout(patience)), ought);
    }),
    ("join for no time", |it| {
        agree(
            word(it.task.join_timeout(Duration::ZERO)),
            it.state.joined(),
        );
    }),
    ("join for some time", |it| {
        agree(word(it.task.join_timeout(LITTLE / 10)), it.state.joined());
        if it.state.joined() == "completed" {
            let again = it.task.join();
            assert!(
                matches!(again, Err(JoinError::AlreadyTaken { .. })),
                "{again:?}"
            );
        }
    }),
    ("try to join", |it| {
        agree(word(it.task.try_join()), it.state.joined());
    }),
    ("read its outcome", |it| {
        agree(word_of(it.task.outcome()), it.state.joined());
        if it.state.exit_code() == 1 {
            let report = it.manager.shutdown().expect("a report");
            agree(report.exit_code(), 0); // somebody has read it
        }
    }),
    ("look at it", |it| {
        let state = it.task.status().state;
        let right = match it.state {
            Abandoned => state == TaskState::Abandoned,
            Asked | GroupAsked => state == TaskState::Stopping,
            Exiting => state == TaskState::Exiting,
            _ if it.state.lives() => state == TaskState::Running,
            _ => matches!(state, TaskState::Exiting | TaskState::Ended),
        };
        assert!(right, "{state:?}");
    }),
    ("stop it", |it| {
        let patience = if it.state.hears() { HANG } else { LITTLE / 10 };
        let ought = if it.state.hears() {
            "cancelled"
        } else {
            it.state.joined()
        };
        agree(word(it.task.stop(patience)), ought);
    }),
    ("wait for it to be ready", |it| {
        let word = match it.task.wait_ready(Duration::ZERO) {
            Err(ReadyError::Cancelled { .. }) => "cancelled",
            Err(ReadyError::Ended { .. }) => "ended",
            Err(ReadyError::NotYet { .. }) => "running",
            other => panic!("{other:?}"),
        };
        let ought = match it.state.end() {
            Some(_) if it.state.is_asked() => "cancelled",
            Some(_) => "ended",
            None => "running",
        };
        agree(word, ought);
    }),
    ("cancel its group", |it| {
        agree(it.group.cancel(), !it.group_is_cancelled());
        assert!(it.task.token().is_cancelled() || it.state.end().is_some());
        assert!(it.group.spawn("late", |_| Ok(())).is_err());
    }),
    ("join its group", |it| {
        let word = match it.group.join_timeout(LITTLE / 10) {
            Ok(()) => "nobody",
            Err(GroupError::Failed(_)) => "failed",
            Err(GroupError::StillRunning { live: 1 }) => "running",
            other => panic!("{other:?}"),
        };
        let ought = match it.state {
            Failed | Panicked => "failed",
            state if state.lives() => "running",
            _ => "nobody",
        };
        agree(word, ought);
    }),
    ("shut down", |it| {
        let time = match it.state {
            Draining => 50 * LITTLE, // of that a tenth is for the stop
            Foreign => LITTLE,
            state if state.exit_code() == 2 => LITTLE,
            _ => HANG,
        };
        let report = it.manager.shutdown_timeout(time).expect("a report");
        it.agree_on_the_code(&report, it.state == Draining);
        agree(report.tasks().len(), 1);
        let again = it.manager.shutdown().expect("a report");
        agree(again.took(), report.took());
    }),
    ("hurry", |it| {
        it.manager.hurry();
        let report = it.manager.shutdown().expect("a report");
        agree(report.was_hurried(), !it.state.is_over());
        it.agree_on_the_code(&report, report.was_hurried());
    }),
    ("list and wait", |it| {
        agree(it.manager.tasks().len(), usize::from(it.state.lives()));
        agree(it.manager.counts().live, u64::from(it.state.lives()));
        let requested = it.state.is_over() || it.state == Draining;
        if requested || !it.state.lives() {
            agree(matches!(it.manager.wait(), Waited::Requested(_)), requested);
        }
        drop(it.task);
        agree(it.manager.tasks().len(), usize::from(it.state.lives()));
    }),
    ("drop the manager", |it| {
        let Scene {
            release,
            state,
            manager,
            task,
            group,
        } = it;
        manager.hurry(); // or it would take the whole grace
        drop(manager);
        let ought = match state {
            state if state.hears() => "cancelled",
            state if state.lives() => "abandoned",
            state => state.joined(),
        };
        // In a hurry who hears it may get no processor, and is late.
        until("what becomes of it", || word_of(task.outcome()) == ought);
        assert!(group.spawn("late", |_| Ok(())).is_err());
        drop(release);
    }),
];

thread_local! {
    /// Whether the play on this thread is spoilt: its task had little time, and no processor in it.
    static IS_LATE: Cell<bool> = const { Cell::new(false) };
}

impl Scene {
    fn agree_on_the_code(&self, report: &ShutdownReport, has_little_time: bool) {
        let (code, ought) = (report.exit_code(), self.state.exit_code());
        if has_little_time && code == 2 && ought != 2 {
            IS_LATE.set(true);
        } else {
            agree(code, ought);
        }
    }

    fn group_is_cancelled(&self) -> bool {
        matches!(self.state, GroupAsked | NeverBegun) || self.state.is_over()
    }
}

#[test]
fn f066_every_operation_in_every_state_of_a_task_has_its_one_result() {
    let cells: Vec<_> = OPERATIONS
        .iter()
        .flat_map(|operation| State::ALL.map(|state| (*operation, state)))
        .collect();
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while let Some(((what, operate), state)) =
                    cells.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let cell = format!("{what} when it is {state:?}");
                    in_some_try(&cell, || {
                        IS_LATE.set(false);
                        let played = std::panic::catch_unwind(|| operate(Scene::set(*state)));
                        assert!(played.is_ok(), "{cell}");
                        (!IS_LATE.get()).then_some(()).ok_or("it is late".into())
                    });
                }
            });
        }
    });
    println!("{} cells", cells.len());
}

#[test]
fn f066_of_many_who_join_in_every_way_as_a_task_ends_one_gets_the_value_and_all_learn_the_end() {
    type Joined = (TaskHandle<u8>, Mutex<Option<Sender<()>>>);
    let manager = manager();
    let later = Dawdler::up_to(20);
    let took = |joined: &Result<u8, JoinError>| match joined {
        Ok(7) => true,
        Err(JoinError::AlreadyTaken { .. }) => false,
        other => panic!("{other:?}"),
    };
    let runners: [Runner<'_, Joined>; 6] = [
        &|(task, _)| took(&task.join()),
        &|(task, _)| took(&task.join_timeout(HANG)),
        &|(task, _)| loop {
            match task.join_timeout(Duration::ZERO) {
                Err(JoinError::StillRunning { .. }) => thread::yield_now(),
                joined => return took(&joined),
            }
        },
        &|(task, _)| {
            select! {
                recv(task.finished()) -> _ => took(&task.try_join()),
                default(HANG) => panic!("it does not end"),
            }
        },
        &|(task, _)| {
            assert_eq!(taskmuster::wait_any(std::slice::from_ref(task)), 0);
            assert!(matches!(task.outcome(), Some(Outcome::Completed)));
            took(&task.try_join())
        },
        &|(_, release)| {
            later.dawdle();
            drop(release.lock().expect("no panic").take());
            false
        },
    ];
    race(rounds(500, 5_000), || {
        let (release, released) = bounded::<()>(0);
        let task = manager.spawn("task", move |_| {
            let _ = released.recv();
            Ok(7)
        });
        (task.expect("spawned"), Mutex::new(Some(release)))
    })
    .between(&runners, |(task, _), got| {
        assert_eq!(got.iter().filter(|got| **got).count(), 1, "one value");
        assert!(matches!(task.join(), Err(JoinError::AlreadyTaken { .. })));
    });
    assert!(manager.shutdown().expect("a report").is_clean());
}

// ---- 67, 69: many shutdowns ----

#[test]
fn f067_shutdowns_from_many_threads_get_one_report_by_the_earliest_of_their_deadlines() {
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for round in 0..rounds(4, 40) {
                    let (manager, jail) = (manager(), Jail::new());
                    let listeners: Vec<_> =
                        (0..3).map(|_| listener(manager.root_group())).collect();
                    let deaf = stuck(Stuck::Receive, manager.root_group(), &jail);
                    let shortest = Duration::from_millis(60);
                    let mut times = [
                        Duration::MAX,
                        HANG,
                        2 * shortest,
                        shortest,
                        HANG / 2,
                        shortest,
                    ];
                    times.rotate_left(round % 6);
                    let (start, begun) = (Barrier::new(times.len()), Instant::now());
                    let reports: Vec<ShutdownReport> = thread::scope(|scope| {
                        let (start, manager) = (&start, &manager);
                        let callers = times.map(|time| {
                            scope.spawn(move || {
                                start.wait();
                                manager.shutdown_timeout(time).expect("a report")
                            })
                        });
                        callers
                            .into_iter()
                            .map(|it| it.join().expect("no panic"))
                            .collect()
                    });
                    assert!(begun.elapsed() >= shortest && begun.elapsed() < HANG / 2);
                    let stragglers = reports[0].stragglers().count();
                    for report in &reports {
                        assert_eq!(report.took(), reports[0].took(), "one report for all");
                        let (code, left) = (report.exit_code(), report.stragglers().count());
                        assert_eq!((code, left), (2, stragglers));
                    }
                    assert!(reports[0].to_string().contains("\n  `receive` "));
                    drop((deaf, jail));
                    // Without a processor the listeners are late as well.
                    until("the late ends", || manager.counts().live == 0);
                    assert!(
                        listeners.iter().all(|it| it.join().is_ok()),
                        "joined once, all of them"
                    );
                }
            });
        }
    });
}

#[test]
fn f067_a_later_shutdown_shortens_the_first_ones_time_and_never_lengthens_it() {
    let (manager, jail) = (Arc::new(manager()), Jail::new());
    let _deaf = stuck(Stuck::Receive, manager.root_group(), &jail);
    let first = thread::spawn({
        let manager = Arc::clone(&manager);
        move || manager.shutdown_timeout(HANG)
    });
    until("the first request", || {
        manager.spawn("late", |_| Ok(())).is_err()
    });
    let begun = Instant::now();
    let shorter = manager
        .shutdown_timeout(Duration::from_millis(100))
        .expect("a report");
    assert!(begun.elapsed() < SOON, "{shorter}");
    let longer = manager.shutdown_timeout(HANG).expect("a report");
    let first = first.join().expect("no panic").expect("a report");
    assert_eq!(first.took(), shorter.took());
    assert_eq!(longer.took(), shorter.took());
}

#[test]
fn f067_a_time_that_is_shortened_before_anybody_was_asked_leaves_some_of_it_for_the_stop() {
    const SHORT: Duration = Duration::from_secs(4);
    let phases = [(HANG, Duration::ZERO), (Duration::ZERO, HANG), (HANG, HANG)];
    thread::scope(|scope| {
        for (lame_duck, drain) in phases {
            for is_short_from_the_start in [true, false] {
                scope.spawn(move || {
                    in_some_try("the time for the stop", || {
                        let builder = Manager::builder().grace(3 * HANG);
                        let builder = builder.lame_duck(lame_duck).drain(drain);
                        let manager = builder.build().expect("a manager");
                        let (there, ready) = bounded(1);
                        let task = manager.task("drainer that does not end").drains();
                        let task = task.spawn(move |ctx| {
                            there.send(())?;
                            ctx.wait();
                            thread::sleep(Duration::from_millis(50));
                            Ok(())
                        });
                        drop(task.expect("spawned"));
                        arrives(&ready);
                        if !is_short_from_the_start {
                            manager.request_shutdown("with time enough");
                            until("the drain", || {
                                manager.is_draining() || !lame_duck.is_zero()
                            });
                        }
                        let report = manager.shutdown_timeout(SHORT).expect("a report");
                        assert!(
                            report.took() >= SHORT / 2,
                            "the time before the stop was given: {report}"
                        );
                        // Whether it then gets a processor is not for the shutdown to say.
                        let is_asked_in_time = |it: &Diagnosis| it.asked > SHORT / 200;
                        let diagnosis = report.tasks()[0].diagnosis();
                        let is_right = diagnosis.is_none_or(is_asked_in_time);
                        is_right.then_some(()).ok_or_else(|| report.to_string())
                    });
                });
            }
        }
    });
}

#[test]
fn f067_a_time_that_is_shortened_while_one_group_does_not_stop_leaves_some_of_it_for_the_others() {
    in_some_try("the time for the others", || {
        let (manager, jail) = (
            Manager::builder()
                .grace(10 * HANG)
                .build()
                .expect("a manager"),
            Jail::new(),
        );
        let groups: Vec<Group> = (0..4)
            .map(|number| manager.group(number.to_string()))
            .collect();
        let last = stuck(Stuck::Receive, &groups[3], &jail);
        let others: Vec<_> = groups[..3].iter().map(slow_listener).collect();
        manager.request_shutdown("with time enough");
        until("the stop of the last", || last.token().is_cancelled());
        assert!(
            others.iter().all(|it| !it.token().is_cancelled()),
            "its share is long"
        );
        let report = manager
            .shutdown_timeout(Duration::from_secs(2))
            .expect("a report");
        let is_right = report.stragglers().count() == 1 && report.counts().completed == 3;
        is_right.then_some(()).ok_or_else(|| report.to_string())
    });
}

#[test]
fn f069_a_thousand_shutdowns_without_a_task_are_at_once_and_say_the_same() {
    let manager = manager();
    let took: Vec<Duration> = thread::scope(|scope| {
        let call = || manager.shutdown().expect("a report").took();
        let callers: Vec<_> = (0..8)
            .map(|_| scope.spawn(move || (0..1_000).map(|_| call()).collect::<Vec<_>>()))
            .collect();
        callers
            .into_iter()
            .flat_map(|it| it.join().expect("no panic"))
            .collect()
    });
    assert!(took[0] < SOON && took.iter().all(|it| *it == took[0]));
    let report = manager.shutdown().expect("a report");
    assert_eq!((report.exit_code(), report.tasks().len()), (0, 0));
    assert!(report.to_string().contains("no tasks"), "{report}");
}

// ---- 73, 74: order and budget ----

/// A group and the groups in it.
struct Branch {
    number: usize,
    group: Group,
    below: Vec<Branch>,
}

/// Grows a forest of groups whose shape follows from `seed`, and starts a task in each that notes when it is asked.
fn grow(
    group: &Group,
    seed: usize,
    depth: usize,
    next: &mut usize,
    asked: &Arc<Mutex<Vec<usize>>>,
) -> Branch {
    let number = *next;
    *next += 1;
    let asked_here = Arc::clone(asked);
    let (there, ready) = bounded(1);
    let task = group.spawn("task", move |ctx| {
        there.send(())?;
        ctx.wait();
        asked_here.lock().map_err(|_| "poisoned")?.push(number);
        Ok(())
    });
    drop(task.expect("spawned"));
    arrives(&ready);
    let width = if depth == 0 {
        0
    } else {
        (seed / (number + 1)) % 4
    };
    let below = (0..width).map(|branch| {
        let inner = group.group(branch.to_string());
        grow(
            &inner,
            seed.wrapping_mul(31) + branch,
            depth - 1,
            next,
            asked,
        )
    });
    Branch {
        number,
        group: group.clone(),
        below: below.collect(),
    }
}

/// Those below before those above, the youngest first.
fn expected_order(branch: &Branch, order: &mut Vec<usize>) {
    for inner in branch.below.iter().rev() {
        expected_order(inner, order);
    }
    order.push(branch.number);
}

#[test]
fn f073_forests_of_groups_are_asked_in_reverse_order_of_their_creation_inner_ones_first() {
    let mut groups = 0;
    for seed in 0..rounds(40, 400) {
        // So long that nobody is asked because the one before is slow.
        let manager = Manager::builder().grace(1_000 * HANG);
        let manager = manager.build().expect("a manager");
        let asked = Arc::default();
        let forest = grow(manager.root_group(), 7_919 * (seed + 3), 3, &mut 0, &asked);
        let report = in_time("the shutdown", move || {
            manager.shutdown().expect("a report")
        });
        assert!(report.is_clean(), "{report}");
        let mut expected = Vec::new();
        expected_order(&forest, &mut expected);
        assert_eq!(
            *asked.lock().expect("no panic"),
            expected,
            "from seed {seed}"
        );
        assert!(forest.group.spawn("late", |_| Ok(())).is_err());
        groups += expected.len();
    }
    println!("{groups} groups");
}

#[test]
fn f074_groups_that_do_not_stop_use_up_neither_the_budget_nor_the_turn_of_the_others() {
    in_some_try("the time for those who hear", || {
        const BUDGET: Duration = Duration::from_secs(2);
        let (manager, jail) = (manager(), Jail::new());
        let (mut outer, mut good, mut deaf) =
            (manager.root_group().clone(), Vec::new(), Vec::new());
        for number in 0..24 {
            let group = outer.group(number.to_string());
            if number % 2 == 0 {
                deaf.push(stuck(Stuck::Receive, &group, &jail));
            } else {
                good.push(listener(&group));
            }
            if number % 5 == 0 {
                outer = group;
            }
        }
        let start = Instant::now();
        let report = manager.shutdown_timeout(BUDGET).expect("a report");
        let took = start.elapsed();
        println!("{took:?} of {BUDGET:?}");
        assert!(took >= BUDGET && took < BUDGET + SOON);
        assert_eq!(report.exit_code(), 2, "{report}");
        let is_right = report.stragglers().count() == deaf.len();
        for task in good {
            assert!(task.token().is_cancelled(), "each had its turn");
            task.join_timeout(HANG).expect("and heard it");
        }
        for task in deaf {
            assert!(task.token().is_cancelled());
            assert_eq!(word_of(task.outcome()), "abandoned");
        }
        is_right.then_some(()).ok_or_else(|| report.to_string())
    });
}

// ---- 75: extreme times ----

const TIMES: [Duration; 6] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    Duration::from_micros(1),
    Duration::from_secs(u64::MAX / 4),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

#[test]
fn f075_extreme_times_mean_at_once_or_never_wherever_a_time_is_taken() {
    let manager = manager();
    let token = CancellationToken::new();
    let (keep, empty) = bounded::<u8>(1);
    let running = listener(manager.root_group());
    for time in TIMES {
        let is_short = time < SOON;
        let cut = token.child_token();
        let waiter = thread::spawn({
            let cut = cut.clone();
            move || cut.wait_timeout(time).is_some()
        });
        if !is_short {
            assert!(cut.cancel(), "or it would wait for ever");
        }
        assert_eq!(waiter.join().expect("no panic"), !is_short);
        let timed = token.child_with_timeout(time).expect("a timer");
        if is_short {
            timed.wait_timeout(HANG).expect("it comes");
        }
        assert_eq!(timed.is_cancelled(), is_short, "{time:?}");
        if is_short {
            assert!(token.sleep(time).is_ok());
            assert!(matches!(
                token.recv_timeout(&empty, time),
                Err(RecvError::Timeout)
            ));
            assert!(matches!(
                running.join_timeout(time),
                Err(JoinError::StillRunning { .. })
            ));
            assert!(matches!(
                manager.root_group().join_timeout(time),
                Err(GroupError::StillRunning { .. })
            ));
            assert!(matches!(
                running.wait_ready(time),
                Err(ReadyError::NotYet { .. })
            ));
        }
        keep.send(1).expect("room");
        assert_eq!(token.recv_timeout(&empty, time).expect("it was there"), 1);
        let ended = manager
            .task("timed")
            .timeout(time)
            .grace(time)
            .spawn(|ctx| {
                let nested = ctx.shield(Duration::MAX, |ctx| {
                    Ok(ctx.with_timeout(Duration::MAX, |_| Ok(7_u8))?)
                })?;
                Ok(ctx.foreign("a call", Duration::MAX, || nested))
            });
        let ended = ended.expect("spawned").join_timeout(time.max(HANG));
        assert!(
            matches!(ended, Ok(7) | Err(JoinError::Cancelled { .. })),
            "{time:?}: {ended:?}"
        );
    }
    let past = Instant::now()
        .checked_sub(Duration::from_secs(60))
        .unwrap_or_else(Instant::now);
    assert!(token.wait_deadline(past).is_none() && token.sleep_until(past).is_ok());
    assert!(matches!(
        running.join_deadline(past),
        Err(JoinError::StillRunning { .. })
    ));
    let late = token.child_with_deadline(past).expect("needs no timer");
    assert_eq!(
        late.cause().map(|cause| cause.kind()),
        Some(CauseKind::Deadline)
    );
    let report = manager.shutdown_deadline(past).expect("a report");
    assert!(report.took() < SOON, "{report}");
}

#[test]
fn f075_managers_with_extreme_graces_and_phases_are_made_or_refused_and_come_to_an_end() {
    for grace in TIMES {
        for phase in TIMES {
            let builder = Manager::builder()
                .grace(grace)
                .lame_duck(phase)
                .drain(phase);
            match builder.build() {
                Ok(manager) => {
                    let (there, ready) = bounded(1);
                    let task = manager
                        .task("task")
                        .drains()
                        .grace(phase)
                        .spawn(move |ctx| {
                            there.send(())?;
                            select! {
                                recv(ctx.draining()) -> _ => Ok(()),
                                recv(ctx.cancelled()) -> _ => Ok(()),
                            }
                        });
                    arrives(&ready);
                    manager.request_shutdown("now");
                    manager.hurry(); // a lame duck for ever is cut short
                    let report = in_time("the shutdown", move || {
                        manager.shutdown().expect("a report")
                    });
                    assert!(
                        matches!(report.exit_code(), 0 | 2),
                        "{grace:?}, {phase:?}: {report}"
                    );
                    until("the end", || {
                        task.as_ref().is_ok_and(TaskHandle::is_finished)
                    });
                }
                Err(BuildError::NoTimeToStop { .. }) => {
                    assert!(phase.saturating_add(phase) >= grace && !phase.is_zero());
                }
                Err(other) => panic!("{other}"),
            }
        }
    }
}
