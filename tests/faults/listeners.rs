//! Who is told: loggers that block, panic, call back or are gone, listeners who do not listen, and looks at everybody
//! while all changes. Faults 82 to 86.

use std::cell::{Cell, RefCell};
use std::env;
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{JoinError, Manager, Outcome, SpawnFailure, TaskHandle, TaskResult};

use crate::books::{HANG, arrives, manager, rounds, until_nobody_lives};
use crate::child::{self, program::Program};
use crate::race::{in_time, race, until};

/// How the role is to be played.
const HOW: &str = "FAULTS_HOW";

fn passes(role: &str, how: &str) {
    let mut role = child::role(role);
    role.env(HOW, how).env("RUST_BACKTRACE", "0"); // they panic a lot
    let exit = Program::start(&mut role).exit();
    assert_eq!(
        exit.status.code(),
        Some(0),
        "{how}: {}{}",
        exit.stdout,
        exit.stderr
    );
}

/// Runs a role in all these ways at once.
fn passes_in_all_ways(role: &str, ways: &[&str]) {
    thread::scope(|scope| {
        for way in ways {
            scope.spawn(move || passes(role, way));
        }
    });
}

/// A logger that does something with each line.
struct Logger(Box<dyn Fn(&str) + Send + Sync>);

static LOGGER: OnceLock<Logger> = OnceLock::new();
static LINES: AtomicUsize = AtomicUsize::new(0);

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        LINES.fetch_add(1, Ordering::SeqCst);
        (self.0)(&record.args().to_string());
    }

    fn flush(&self) {
        (self.0)("a flush");
    }
}

/// Every line goes there, those of every end too.
fn install_logger(each: impl Fn(&str) + Send + Sync + 'static) {
    let logger = LOGGER.get_or_init(|| Logger(Box::new(each)));
    log::set_logger(logger).expect("the only one");
    log::set_max_level(log::LevelFilter::Trace);
}

fn lines() -> usize {
    LINES.load(Ordering::SeqCst)
}

/// A task of each kind of end, and one that waits for the stop.
fn spawn_all_kinds(manager: &Manager) -> Vec<TaskHandle<u8>> {
    let (there, ready) = bounded(1);
    let tasks = vec![
        manager.spawn("completes", |_| Ok(7)),
        manager.spawn("fails", |_| Err("broken".into())),
        manager.spawn("panics", |_| -> TaskResult<u8> { panic!("broken") }),
        manager.spawn("waits", move |ctx| {
            there.send(())?;
            Err(ctx.wait().into())
        }),
    ];
    arrives(&ready);
    tasks
        .into_iter()
        .map(|task| task.expect("spawned"))
        .collect()
}

/// All of them end as they should, whatever the logger does.
fn check_all_kinds(tasks: &[TaskHandle<u8>]) {
    assert!(matches!(tasks[0].join_timeout(HANG), Ok(7)));
    assert!(matches!(
        tasks[1].join_timeout(HANG),
        Err(JoinError::Failed { .. })
    ));
    assert!(matches!(
        tasks[2].join_timeout(HANG),
        Err(JoinError::Panicked(_))
    ));
    assert!(!tasks[3].is_finished());
}

// ---- 82: who is told blocks ----

/// The logger never returns from any line it is given.
#[test]
#[ignore = "a role of a child process"]
fn logger_never_returns() {
    install_logger(|_| {
        loop {
            thread::park();
        }
    });
    let manager = manager();
    let tasks = spawn_all_kinds(&manager);
    check_all_kinds(&tasks);
    // Each end leaves a thread in the logger; nobody's outcome is held up by that.
    let more: Vec<_> = (0..100_u8)
        .map(|number| manager.spawn("more", move |_| Ok(number)).expect("spawned"))
        .collect();
    for (number, task) in more.iter().enumerate() {
        assert_eq!(task.join_timeout(HANG).expect("a value") as usize, number);
    }
    manager.request_shutdown("with time enough for who listens");
    let stopped = tasks[3].join_timeout(HANG);
    assert!(matches!(stopped, Err(JoinError::Cancelled { .. })));
    until_nobody_lives(&manager);
    let time = Duration::from_millis(500);
    let report = manager.shutdown_timeout(time).expect("a report");
    assert_eq!(
        (report.counts().completed, report.counts().live),
        (101, 0),
        "{report}"
    );
    let text = report.to_string();
    assert!(text.contains("its thread is still in the logger"), "{text}");
    assert_eq!(report.exit_code(), 2, "threads are left: {text}");
    process::exit(0)
}

/// The logger blocks for a while at each line of an end; the limit of threads says why no more are to be had.
#[test]
#[ignore = "a role of a child process"]
fn logger_holds_threads_until_the_limit() {
    static OPEN: AtomicBool = AtomicBool::new(false);
    install_logger(|line| {
        while line.starts_with("task `") && !OPEN.load(Ordering::SeqCst) {
            thread::yield_now();
        }
    });
    let manager = Manager::builder()
        .grace(HANG)
        .max_tasks(4)
        .build()
        .expect("a manager");
    let refused = (0..200).find_map(|_| match manager.spawn("task", |_| Ok(())) {
        Ok(task) => {
            task.join_timeout(HANG).expect("not held up by the logger");
            None
        }
        Err(refused) => Some(refused),
    });
    let refused = refused.expect("the limit is reached");
    assert!(
        matches!(refused.failure(), SpawnFailure::Exiting(_)),
        "{refused}"
    );
    OPEN.store(true, Ordering::SeqCst);
    until("room for one more", || {
        manager.spawn("task", |_| Ok(())).is_ok()
    });
    child::end(&manager.shutdown().expect("a report"))
}

#[test]
fn f082_a_logger_that_blocks_holds_up_no_outcome_and_no_shutdown_beyond_its_deadline() {
    thread::scope(|scope| {
        scope.spawn(|| passes("listeners::logger_never_returns", ""));
        scope.spawn(|| passes("listeners::logger_holds_threads_until_the_limit", ""));
    });
}

#[test]
fn f082_listeners_who_do_not_listen_or_are_gone_hold_up_nobody_and_lose_nothing_they_asked_for() {
    let manager = manager();
    let group = manager.group("g");
    let (slow, gone) = (group.ends(), group.ends());
    drop(gone);
    let number = rounds(500, 5_000);
    for _ in 0..number {
        let task = group.spawn("task", |_| Ok(())).expect("spawned");
        task.join_timeout(HANG).expect("not held up");
    }
    group.join_timeout(HANG).expect("all ended");
    until("the last end to be told", || slow.len() == number);
    let mut ids: Vec<_> = slow.try_iter().map(|end| end.id).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), number, "each end once");
}

// ---- 83: who is told panics ----

/// What goes wrong in the logger at each line.
#[test]
#[ignore = "a role of a child process"]
fn logger_panics() {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("the payload as well");
        }
    }
    let how = env::var(HOW).expect("the test says how");
    install_logger(move |_| match how.as_str() {
        "with a text" => panic!("in the logger"),
        _ => std::panic::panic_any(Bomb),
    });
    drop(manager()); // warns of the drop
    let manager = manager();
    let tasks = spawn_all_kinds(&manager);
    check_all_kinds(&tasks);
    tasks[3]
        .token()
        .on_cancel(|| panic!("in a callback"))
        .keep();
    let timed = tasks[3]
        .token()
        .child_with_timeout(Duration::from_millis(1))
        .expect("a timer");
    timed
        .on_cancel(|| panic!("in a deadline's callback"))
        .keep();
    timed.wait();
    let report = manager.shutdown().expect("a report");
    assert!(matches!(tasks[3].outcome(), Some(Outcome::Cancelled(_))));
    assert!(report.is_clean(), "the failures were read: {report}");
    until("the lines of all ends", || lines() >= 9); // they come after the outcomes
    // The panics of the logger are nobody's failure, and `run` is not disturbed either.
    let report = Manager::builder().grace(HANG).run(|manager| {
        manager.handle_signals()?;
        manager.spawn("task", |_| Ok(()))?.join()?;
        Ok(())
    });
    assert!(report.is_clean(), "{report}");
    process::exit(0)
}

#[test]
fn f083_a_logger_that_panics_at_every_line_changes_nothing() {
    passes_in_all_ways(
        "listeners::logger_panics",
        &["with a text", "with a payload that panics"],
    );
}

// ---- 84: who is told calls back ----

thread_local! {
    static CALLING_BACK: Cell<bool> = const { Cell::new(false) };
}

/// The manager that logs, and its tasks.
type Stage = (Mutex<Option<Arc<Manager>>>, Mutex<Vec<TaskHandle<u8>>>);

/// At each line the logger does what it is told with the manager that logs.
#[test]
#[ignore = "a role of a child process"]
fn logger_calls_back() {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    static SPAWNED: AtomicUsize = AtomicUsize::new(0);
    let how = env::var(HOW).expect("the test says how");
    let stage = STAGE.get_or_init(Stage::default);
    let does = how.clone();
    install_logger(move |_| {
        if CALLING_BACK.replace(true) {
            return; // not of its own lines
        }
        let manager = stage.0.lock().expect("no panic").clone();
        if let Some(manager) = manager {
            call_back(&does, &manager, stage, &SPAWNED);
        }
        CALLING_BACK.set(false);
    });
    in_time("all of it", move || {
        let manager = Arc::new(manager());
        let endures = ![
            "cancels",
            "asks for the shutdown",
            "hurries",
            "shuts down",
            "drops it",
        ]
        .contains(&&*how);
        if endures {
            *stage.0.lock().expect("no panic") = Some(Arc::clone(&manager));
            let tasks = spawn_all_kinds(&manager);
            check_all_kinds(&tasks);
            *stage.1.lock().expect("no panic") = tasks;
        } else {
            // With these tasks there, the next line ends all.
            *stage.1.lock().expect("no panic") = spawn_all_kinds(&manager);
            *stage.0.lock().expect("no panic") = Some(Arc::clone(&manager));
        }
        let last = manager.spawn("the last", |_| Ok(7));
        drop(last.map(|task| task.join_timeout(HANG)));
        if how == "drops it" {
            drop(manager); // whoever lets go last, this thread or the logger's
            let held = stage.0.lock().expect("no panic").take();
            drop(held);
        } else {
            let report = manager.shutdown().expect("a report");
            assert!(report.counts().live == 0 || how == "hurries", "{report}");
        }
        for task in stage.1.lock().expect("no panic").iter() {
            until("the end", || task.is_finished());
        }
    });
    until("the lines", || lines() > 3);
    process::exit(0)
}

fn call_back(how: &str, manager: &Arc<Manager>, (hold, tasks): &Stage, spawned: &AtomicUsize) {
    match how {
        "spawns" => {
            if spawned.fetch_add(1, Ordering::SeqCst) < 50 {
                if let Ok(task) = manager.spawn("from the logger", |_| Ok(8)) {
                    assert!(task.join_timeout(HANG).is_ok());
                }
            }
        }
        "lists" => {
            drop((
                manager.tasks(),
                manager.counts(),
                manager.is_ready(),
                format!("{manager:?}"),
            ));
        }
        "makes groups" => {
            let group = manager.group("from the logger");
            drop((
                group.group("below"),
                group.cancel(),
                group.join_timeout(Duration::ZERO),
            ));
        }
        "cancels" => {
            for task in tasks.lock().expect("no panic").iter() {
                task.cancel();
            }
            manager.root_group().token().cancel();
        }
        "joins" => {
            for task in tasks.lock().expect("no panic").iter().take(3) {
                drop((task.outcome(), task.join_timeout(Duration::from_millis(10))));
            }
        }
        "asks for the shutdown" => manager.request_shutdown("from the logger"),
        "hurries" => manager.hurry(),
        "shuts down" => drop(manager.shutdown()),
        "makes managers" => {
            // Whose lines make managers as well: there must be an end to it.
            if spawned.fetch_add(1, Ordering::SeqCst) < 10 {
                let other = Manager::builder().grace(HANG).build().expect("a manager");
                drop(other.spawn("task", |_| Ok(7)).expect("spawned").join());
                assert!(other.shutdown().expect("a report").is_clean());
            }
        }
        _ => drop(hold.lock().expect("no panic").take()), // with the clone of the caller it goes
    }
}

#[test]
fn f084_a_logger_may_do_everything_with_the_manager_that_logs() {
    passes_in_all_ways(
        "listeners::logger_calls_back",
        &[
            "spawns",
            "lists",
            "makes groups",
            "cancels",
            "joins",
            "asks for the shutdown",
            "hurries",
            "shuts down",
            "makes managers",
            "drops it",
        ],
    );
}

// ---- 85: looks at everybody while all changes ----

#[test]
fn f085_looks_at_ten_thousand_tasks_that_come_and_go_are_consistent_and_short() {
    let manager = Manager::builder()
        .grace(HANG)
        .history(10)
        .build()
        .expect("a manager");
    let total = rounds(10_000, 100_000);
    let over = AtomicBool::new(false);
    let mut looks = thread::scope(|scope| {
        let looker = scope.spawn(|| {
            let mut looks = Vec::new();
            loop {
                let is_last = over.load(Ordering::SeqCst);
                let start = Instant::now();
                let tasks = manager.tasks();
                looks.push(start.elapsed());
                assert!(
                    tasks.windows(2).all(|pair| pair[0].id < pair[1].id),
                    "in order, each once"
                );
                let counts = manager.counts();
                let ended = counts.completed + counts.failed + counts.panicked + counts.cancelled;
                assert_eq!(counts.spawned, counts.live + ended, "{counts:?}");
                if is_last {
                    return looks;
                }
                thread::yield_now();
            }
        });
        let spawners: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    for number in 0..total / 2 {
                        let task = manager.spawn("task", move |ctx| match number % 4 {
                            0 => Err("fails".into()),
                            1 => Err(ctx.wait().into()),
                            _ => Ok(number),
                        });
                        let task = task.expect("spawned");
                        if number % 4 == 1 {
                            task.cancel();
                        }
                        if number % 16 == 0 {
                            drop(task.join());
                        }
                    }
                })
            })
            .collect();
        for spawner in spawners {
            spawner.join().expect("no panic");
        }
        until("the ends", || manager.counts().live == 0);
        over.store(true, Ordering::SeqCst);
        looker.join().expect("no panic")
    });
    looks.sort_unstable();
    let (p50, p99) = (looks[looks.len() / 2], looks[looks.len() * 99 / 100]);
    println!("{} looks, p50 {p50:?}, p99 {p99:?}", looks.len());
    // A look may be held up by a machine that is busy elsewhere, but not half of them.
    assert!(p50 < Duration::from_secs(1), "{p50:?}");
    let counts = manager.counts();
    assert_eq!(
        (counts.spawned, counts.failed),
        (total as u64, total as u64 / 4)
    );
    assert!(manager.shutdown().expect("a report").tasks().len() <= 10 + 64);
}

#[test]
fn f085_every_look_finds_a_task_alive_or_ended_never_neither() {
    let manager = manager();
    race(rounds(1_000, 10_000), || {
        let (release, released) = bounded::<()>(0);
        let task = manager.spawn("task", move |_| Ok(released.recv().is_err()));
        (task.expect("spawned"), Mutex::new(Some(release)))
    })
    .between(
        &[
            &|(_, release)| release.lock().expect("no panic").take().is_some(),
            &|(task, _)| {
                // Listed, or its outcome is there: the books and the record change in an order that leaves no gap.
                loop {
                    let is_listed = manager.tasks().iter().any(|it| it.id == task.id());
                    if !is_listed {
                        return task.outcome().is_some() && task.is_finished();
                    }
                }
            },
        ],
        |_, answers| assert_eq!(answers, [true; 2]),
    );
}

// ---- 86: the logger is gone ----

thread_local! {
    /// What the logger needs on each thread; destroyed with it.
    static BUFFER: RefCell<String> = const { RefCell::new(String::new()) };
    static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
}

/// Makes the library log when the thread-locals are destroyed.
struct Late(Option<TaskHandle<LogsOnDrop>>);

/// A value whose drop panics: that is logged where it happens.
struct LogsOnDrop;

impl Drop for LogsOnDrop {
    fn drop(&mut self) {
        panic!("a value that nobody took");
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        drop(self.0.take()); // the last handle: the value goes here
        let token = taskmuster::CancellationToken::new();
        token
            .on_cancel(|| panic!("a callback on a dying thread"))
            .keep();
        token.cancel();
    }
}

/// The logger uses a thread-local that is gone when the last lines come.
#[test]
#[ignore = "a role of a child process"]
fn logger_is_gone() {
    static TOO_LATE: AtomicUsize = AtomicUsize::new(0);
    install_logger(|line| {
        let noted = BUFFER.try_with(|buffer| buffer.borrow_mut().push_str(line));
        if noted.is_err() {
            TOO_LATE.fetch_add(1, Ordering::SeqCst);
            BUFFER.with(|buffer| buffer.borrow_mut().push_str(line)); // panics: it is destroyed
        }
    });
    let manager = manager();
    for _ in 0..20 {
        let value = manager.spawn("value", |_| Ok(LogsOnDrop)).expect("spawned");
        until("its end", || value.is_finished());
        let task = manager.spawn("late", move |_| {
            LATE.set(Some(Late(Some(value))));
            BUFFER.with(|buffer| buffer.borrow_mut().push_str("a line")); // made later, so destroyed earlier
            Ok(())
        });
        task.expect("spawned")
            .join_timeout(HANG)
            .expect("it completes");
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert!(
        TOO_LATE.load(Ordering::SeqCst) >= 20,
        "{TOO_LATE:?} lines came too late"
    );
    process::exit(0)
}

#[test]
fn f086_lines_that_come_when_the_logger_s_own_thread_local_is_gone_panic_nowhere() {
    passes("listeners::logger_is_gone", "");
}
