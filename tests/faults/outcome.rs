//! How tasks end: faults 1 to 23.

#![expect(clippy::unit_arg, reason = "a body that does one thing is one line")]

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::env;
use std::fmt;
use std::fs;
use std::hint::black_box;
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::panic;
use std::path::Path;
use std::process::{self, Command as Process};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use log::Level;
use nix::sys::signal::{Signal, raise};
use proptest::collection::vec;
use proptest::test_runner::{Config, TestRunner};
use taskmuster::crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use taskmuster::{
    BoxError, CancellationToken, Cancelled, JoinError, Manager, OnFailure, Outcome, PanicHook,
    ShutdownError, TaskContext, TaskHandle, TaskResult, TaskState,
};

use crate::books::{
    HANG, arrives, assert_all_ended_once, assert_balanced, manager, rounds, soon,
    until_nobody_lives,
};
use crate::child;
use crate::child::program::{Exit, Program};
use crate::logger;
use crate::nasty::{Bomb, Loaded, OnDrop, text_of};
use crate::preload::{self, Command, ask, assert_played, tell};
use crate::race::until;
use crate::usage::{house_keepers, resident, threads};

// ---- 1: every way to end ----

type Body = fn(&TaskContext) -> TaskResult<u8>;

/// What must become of a task.
#[derive(Clone, Copy, Debug)]
enum Ending {
    Completes(u8),
    Fails(&'static str),
    Panics(Option<&'static str>),
}

use Ending::{Completes, Fails, Panics};

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct Transparent(#[from] io::Error);

fn foreign_cancel() -> Cancelled {
    let token = CancellationToken::new();
    token.cancel();
    token.wait()
}

/// Ways to end, and what each must count as.
const ENDINGS: [(Body, Ending); 18] = [
    (|_| Ok(7), Completes(7)),
    (
        |ctx| ctx.shield(HANG, |_| Ok(9)).map_err(Into::into),
        Completes(9),
    ),
    (|_| Err("a literal".into()), Fails("a literal")),
    (|_| Err(format!("a {}", "string").into()), Fails("a string")),
    (
        |_| Err(io::Error::other("an io error").into()),
        Fails("an io error"),
    ),
    (
        |_| Err(Transparent(io::Error::other("hidden")).into()),
        Fails("hidden"),
    ),
    (
        |_| Err(anyhow::anyhow!("deep").context("high").into()),
        Fails("high"),
    ),
    (
        |_| Err(fmt::Error.into()),
        Fails("an error occurred when formatting an argument"),
    ),
    (
        |_| Err(foreign_cancel().into()),
        Fails("cancelled: request"),
    ),
    (|_| panic!("a literal"), Panics(Some("a literal"))),
    (|ctx| panic!("in {}", ctx.name()), Panics(Some("in "))),
    (|_| panic::panic_any(7_u8), Panics(None)),
    (|_| panic::panic_any(()), Panics(None)),
    (
        |_| panic::panic_any(Box::new("boxed") as Box<dyn Any + Send>),
        Panics(None),
    ),
    (
        |_| panic::resume_unwind(Box::new("resumed")),
        Panics(Some("resumed")),
    ),
    (
        |_| Ok(black_box([1, 2, 3].as_slice())[black_box(7)]),
        Panics(Some("index out of bounds")),
    ),
    (
        |_| Ok(1 / black_box(0)),
        Panics(Some("attempt to divide by zero")),
    ),
    (
        |_| {
            black_box(None)
                .ok_or("nothing")
                .map_err(|error| panic!("{error}"))
        },
        Panics(Some("nothing")),
    ),
];

type Start = fn(&Manager, Body) -> TaskHandle<u8>;

/// Ways to start a task.
const STARTS: [Start; 6] = [
    |manager, body| manager.spawn("plain", body).expect("spawned"),
    |manager, body| {
        manager
            .group("group")
            .spawn("inner", body)
            .expect("spawned")
    },
    |manager, body| {
        manager
            .group("a")
            .group("b")
            .group("c")
            .spawn("deep", body)
            .expect("spawned")
    },
    |manager, body| {
        let task = manager.task("built").stack_size(256 * 1024).grace(HANG);
        task.timeout(HANG)
            .on_failure(OnFailure::Record)
            .spawn(body)
            .expect("spawned")
    },
    |manager, body| {
        let outer = manager.spawn("outer", move |ctx| {
            Ok(ctx.group().spawn("sibling", body)?)
        });
        soon(manager, &outer.expect("spawned")).expect("its sibling")
    },
    |manager, body| {
        let mut handle = None;
        let scope = manager.scope("scope", |scope| {
            handle = Some(scope.spawn("borrows", body)?);
            Ok(())
        });
        // A failure is the scope's error as well.
        drop(scope);
        handle.expect("spawned")
    },
];

type Look = fn(&Manager, TaskHandle<u8>) -> Result<u8, JoinError>;

/// Ways to learn how a task ended.
const LOOKS: [Look; 7] = [
    |manager, handle| soon(manager, &handle),
    |_, handle| loop {
        match handle.try_join() {
            Err(JoinError::StillRunning { .. }) => thread::yield_now(),
            result => break result,
        }
    },
    |_, handle| loop {
        match handle.join_timeout(Duration::ZERO) {
            Err(JoinError::StillRunning { .. }) => thread::yield_now(),
            result => break result,
        }
    },
    |_, handle| {
        assert!(
            handle
                .finished()
                .recv_timeout(HANG)
                .expect_err("it yields nothing")
                .is_disconnected()
        );
        handle.try_join()
    },
    |_, handle| {
        assert_eq!(taskmuster::wait_any(std::slice::from_ref(&handle)), 0);
        handle.join_deadline(Instant::now())
    },
    |manager, handle| {
        let joiner = manager.spawn("joiner", move |ctx| Ok(ctx.join_timeout(&handle, HANG)));
        soon(manager, &joiner.expect("spawned")).expect("a result")
    },
    |manager, handle| {
        while handle.outcome().is_none() {
            thread::yield_now();
        }
        soon(manager, &handle)
    },
];

#[track_caller]
fn assert_ended_as(expected: Ending, result: Result<u8, JoinError>) {
    match (expected, result) {
        (Completes(expected), Ok(value)) => assert_eq!(value, expected),
        (Fails(words), Err(JoinError::Failed { error, .. })) => {
            assert!(error.to_string().starts_with(words), "{error}");
        }
        (Panics(words), Err(JoinError::Panicked(panic))) => {
            let is_kept = match (words, panic.message()) {
                (Some(words), Some(message)) => message.starts_with(words),
                (words, message) => words == message,
            };
            assert!(is_kept, "{panic}");
            let is_placed = panic
                .place()
                .is_none_or(|place| place.file.ends_with("outcome.rs"));
            assert!(is_placed, "{panic}");
            assert!(panic.take_payload().is_some() && panic.take_payload().is_none());
        }
        (expected, result) => panic!("{expected:?} became {result:?}"),
    }
}

/// What the books must count, given what became of the tasks.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tally {
    completed: u64,
    failed: u64,
    panicked: u64,
}

impl Tally {
    fn add(&mut self, ending: Ending) {
        match ending {
            Completes(_) => self.completed += 1,
            Fails(_) => self.failed += 1,
            Panics(_) => self.panicked += 1,
        }
    }

    /// Without the helpers, which all complete.
    fn of(manager: &Manager, helpers: u64) -> Self {
        let counts = manager.counts();
        Self {
            completed: counts.completed.saturating_sub(helpers),
            failed: counts.failed,
            panicked: counts.panicked,
        }
    }
}

/// How many helper tasks a way to start and a way to look need.
fn helpers(start: usize, look: usize) -> u64 {
    u64::from(start == 4) + u64::from(look == 5)
}

#[test]
fn f001_every_way_to_end_is_exactly_one_outcome() {
    let manager = manager();
    let ends = manager.root_group().ends();
    let (mut tally, mut helped) = (Tally::default(), 0);
    for (body, ending) in ENDINGS {
        for (start_number, start) in STARTS.iter().enumerate() {
            for (look_number, look) in LOOKS.iter().enumerate() {
                assert_ended_as(ending, look(&manager, start(&manager, body)));
                tally.add(ending);
                helped += helpers(start_number, look_number);
                // Who polls may see the outcome a moment before the books are closed over it.
                until("an entry in the books", || {
                    Tally::of(&manager, helped) == tally
                });
            }
        }
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "every failure was read: {report}");
    assert_all_ended_once(manager.counts(), &ends);
}

#[test]
fn f001_any_mixture_of_ends_is_counted_exactly() {
    let config = Config {
        cases: u32::try_from(rounds(24, 2_000)).expect("a small number"),
        failure_persistence: None,
        ..Config::default()
    };
    let task = (0..ENDINGS.len(), 0..STARTS.len(), 0..LOOKS.len());
    let ran = TestRunner::new(config).run(&vec(task, 0..12), |tasks| {
        let manager = manager();
        let ends = manager.root_group().ends();
        let (mut tally, mut helped) = (Tally::default(), 0);
        let spawned: Vec<_> = tasks
            .iter()
            .map(|&(ending, start, look)| {
                let (body, ending) = ENDINGS[ending];
                tally.add(ending);
                helped += helpers(start, look);
                (ending, LOOKS[look], STARTS[start](&manager, body))
            })
            .collect();
        for (ending, look, handle) in spawned {
            assert_ended_as(ending, look(&manager, handle));
        }
        until_nobody_lives(&manager);
        assert_eq!(Tally::of(&manager, helped), tally);
        assert!(manager.shutdown().expect("a report").is_clean());
        assert_all_ended_once(manager.counts(), &ends);
        Ok(())
    });
    ran.expect("it holds for all");
}

#[test]
fn f001_a_stop_changes_what_a_task_may_end_as_and_nothing_else() {
    let manager = manager();
    let ends = manager.root_group().ends();
    let bodies: [(Body, &str); 5] = [
        (|ctx| Err(ctx.wait().into()), "cancelled"),
        (
            |ctx| ctx.sleep(HANG).map(|()| 1).map_err(Into::into),
            "cancelled",
        ),
        (
            |ctx| Ok(ctx.wait().to_string().len().min(9).try_into()?),
            "completed",
        ),
        (|ctx| Err(format!("after {}", ctx.wait()).into()), "failed"),
        (|ctx| panic!("after {}", ctx.wait()), "panicked"),
    ];
    for (body, word) in bodies {
        let stops: [fn(&Manager, &TaskHandle<u8>); 3] = [
            |_, handle| assert!(handle.cancel()),
            |_, handle| assert!(handle.token().cancel()),
            |_, handle| drop(handle.stop(Duration::ZERO)),
        ];
        for stop in stops {
            let (there, ready) = bounded(1);
            let handle = manager.spawn("stopped", move |ctx| {
                there.send(())?;
                body(ctx)
            });
            let handle = handle.expect("spawned");
            arrives(&ready);
            stop(&manager, &handle);
            let ended = match soon(&manager, &handle) {
                // Or the stop has taken the value.
                Ok(_) | Err(JoinError::AlreadyTaken { .. }) => "completed",
                Err(JoinError::Failed { .. }) => "failed",
                Err(JoinError::Panicked(_)) => "panicked",
                Err(JoinError::Cancelled { .. }) => "cancelled",
                Err(error) => panic!("{error}"),
            };
            assert_eq!(ended, word);
            assert!(!handle.cancel(), "it has ended");
        }
    }
    let group = manager.group("cancelled");
    group.token().cancel();
    for (body, _) in ENDINGS {
        let never = group.spawn("never", body).expect("accepted");
        assert!(matches!(
            soon(&manager, &never),
            Err(JoinError::Cancelled { .. })
        ));
    }
    assert!(manager.shutdown().expect("a report").is_clean());
    let counts = manager.counts();
    assert_eq!(
        (counts.completed, counts.failed, counts.panicked),
        (3, 3, 3)
    );
    assert_eq!(counts.cancelled, 6 + ENDINGS.len() as u64);
    assert_all_ended_once(counts, &ends);
}

#[test]
fn f001_whoever_ends_after_all_replaces_abandoned_once() {
    for (body, ending) in ENDINGS {
        let manager = manager();
        let ends = manager.root_group().ends();
        let ((there, ready), (release, released)) = (bounded(1), bounded::<()>(0));
        let late = manager.spawn("late", move |ctx| {
            there.send(())?;
            let _ = released.recv();
            body(ctx)
        });
        let late = late.expect("spawned");
        arrives(&ready);
        let report = manager.shutdown_timeout(Duration::ZERO).expect("a report");
        assert_eq!(report.exit_code(), 2, "{report}");
        assert!(matches!(late.join(), Err(JoinError::Abandoned { .. })));
        drop(release);
        let end = arrives(&ends);
        assert_eq!((end.id, manager.counts().late), (late.id(), 1));
        match ending {
            // Asked to stop meanwhile, it must not be taken for one that heard it.
            Fails(_) => assert!(matches!(end.outcome, Outcome::Failed(_)), "{end:?}"),
            _ => assert!(!matches!(end.outcome, Outcome::Abandoned), "{end:?}"),
        }
        assert_ended_as(ending, late.join());
        assert!(ends.try_recv().is_err(), "it ended twice");
        assert_balanced(manager.counts());
    }
}

// ---- 2 to 4: destructors that panic ----

/// Everywhere a value or a payload that nobody took may be dropped by whoever comes last.
fn leaves_everywhere<T: Send + 'static>(body: fn(&TaskContext) -> TaskResult<T>) {
    let manager = Manager::builder()
        .grace(HANG)
        .history(0)
        .build()
        .expect("a manager");
    let ends = manager.root_group().ends();
    let gated = || {
        let (go, going) = bounded::<()>(0);
        let handle = manager.spawn("gated", move |ctx| {
            let _ = going.recv();
            body(ctx)
        });
        (handle.expect("spawned"), go)
    };

    let (before_its_end, go) = gated();
    drop((before_its_end, go));
    arrives(&ends);

    let (after_its_end, go) = gated();
    drop(go);
    arrives(&ends);
    drop(after_its_end);

    let (read_and_left, go) = gated();
    drop(go);
    arrives(&ends);
    assert!(read_and_left.outcome().is_some());
    drop(read_and_left);

    let (with_its_joiners, go) = gated();
    let with_its_joiners = Arc::new(with_its_joiners);
    thread::scope(|scope| {
        for _ in 0..3 {
            let handle = Arc::clone(&with_its_joiners);
            scope.spawn(move || while handle.outcome().is_none() {});
        }
        drop((go, with_its_joiners));
    });
    arrives(&ends);

    let on_another_thread = manager.spawn("sent", body).expect("spawned");
    let elsewhere = thread::spawn(move || drop(on_another_thread));
    elsewhere.join().expect("unharmed");
    arrives(&ends);

    let inside_a_task = manager.spawn("inside", body).expect("spawned");
    let holder = manager.spawn("holder", move |_| {
        drop(inside_a_task);
        Ok(())
    });
    soon(&manager, &holder.expect("spawned")).expect("unharmed");
    arrives(&ends);
    arrives(&ends);

    let while_unwinding = manager.spawn("unwinding", body).expect("spawned");
    let unwound = panic::catch_unwind(panic::AssertUnwindSafe(|| {
        let _left = while_unwinding;
        panic!("on the way");
    }));
    assert!(unwound.is_err());
    arrives(&ends);

    std::mem::forget(manager.spawn("forgotten", body).expect("spawned"));
    arrives(&ends);

    let scope = manager.scope("scope", |scope| {
        scope.on_failure(OnFailure::Record);
        drop(scope.spawn("dropped", body)?);
        Ok(scope.spawn("returned", body)?)
    });
    drop(scope);
    arrives(&ends);
    arrives(&ends);

    let beyond_the_manager = manager.spawn("beyond", body).expect("spawned");
    arrives(&ends);
    let report = manager.shutdown().expect("a report");
    assert!(report.stragglers().next().is_none(), "{report}");
    assert_balanced(manager.counts());
    assert_eq!((manager.counts().spawned, manager.counts().live), (12, 0));
    drop(manager);
    drop(report);
    drop(beyond_the_manager);
}

#[test]
#[ignore = "a role of a child process"]
fn leaves_payloads_whose_drop_panics() {
    leaves_everywhere::<()>(|_| panic::panic_any(Bomb(2)));

    // And for those who look at them.
    let manager = manager();
    let handle = manager.spawn::<()>("looked at", |_| panic::panic_any(Bomb(2)));
    let handle = handle.expect("spawned");
    let Err(JoinError::Panicked(panic)) = soon(&manager, &handle) else {
        panic!("it panicked")
    };
    assert_eq!(panic.message(), None);
    drop((handle, panic.clone(), panic));
    let handle = manager.spawn::<()>("taken", |_| panic::panic_any(Bomb(2)));
    let Err(JoinError::Panicked(panic)) = soon(&manager, &handle.expect("spawned")) else {
        panic!("it panicked")
    };
    let bomb = panic
        .take_payload()
        .and_then(|payload| payload.downcast().ok());
    let bomb: Box<Bomb> = bomb.expect("what it panicked with");
    std::mem::forget(bomb);
    until_nobody_lives(&manager);
    assert_eq!(manager.counts().panicked, 2);
}

#[test]
fn f002_a_payload_whose_drop_panics_harms_nobody_wherever_it_is_dropped() {
    assert_played(child::start("outcome::leaves_payloads_whose_drop_panics"));
}

#[test]
#[ignore = "a role of a child process"]
fn leaves_results_whose_drop_panics() {
    let said = logger::listen();
    leaves_everywhere(|_| Ok(Bomb(2)));
    let warnings = said.with("panicked when it was dropped");
    assert!(warnings.iter().all(|(level, _)| *level == Level::Warn));
    // All but the holder's own, and the one that was forgotten.
    assert_eq!(warnings.len(), 10);
    leaves_everywhere::<()>(|_| Err(Box::new(Loaded(Bomb(2)))));
    let warnings = said.with("panicked when it was dropped");
    assert_eq!(warnings.len(), 20);
}

#[test]
fn f003_a_result_or_error_whose_drop_panics_is_logged_and_harms_nobody() {
    assert_played(child::start("outcome::leaves_results_whose_drop_panics"));
}

#[test]
fn f004_whatever_panics_at_the_end_of_the_body_makes_the_task_panicked() {
    let manager = manager();
    let ends = manager.root_group().ends();
    let bodies: [fn(Bomb, &TaskContext) -> TaskResult<u8>; 6] = [
        |bomb, _| {
            let _local = bomb;
            Ok(7)
        },
        |bomb, _| {
            drop(bomb);
            Ok(7)
        },
        |bomb, _| {
            let _local = (bomb, String::from("beside"));
            Err("a failure that is overtaken".into())
        },
        |bomb, ctx| {
            let _local = bomb;
            ctx.with_timeout(HANG, |_| Ok(7)).map_err(Into::into)
        },
        |bomb, ctx| {
            let mut bomb = Some(bomb);
            ctx.shield(HANG, |_| Ok(drop(bomb.take())))?;
            Ok(7)
        },
        |bomb, ctx| ctx.foreign("c", HANG, || Ok(u8::from(bomb.0 == 9))),
    ];
    for body in bodies {
        let bomb = Bomb(0);
        let task = manager
            .spawn("bombed", move |ctx| body(bomb, ctx))
            .expect("spawned");
        let Err(JoinError::Panicked(panic)) = soon(&manager, &task) else {
            panic!("it did not panic")
        };
        assert_eq!(panic.message(), Some("a bomb went off"));
        assert!(
            panic
                .place()
                .expect("the hook was there")
                .file
                .ends_with("nasty.rs")
        );
    }
    let captured = Bomb(0);
    let task = manager.spawn("capture", move |_| {
        let _captured = &captured;
        Ok(7)
    });
    assert!(matches!(
        soon(&manager, &task.expect("spawned")),
        Err(JoinError::Panicked(_))
    ));

    // The drop of an error that says no more than that the task was stopped.
    let (there, ready) = bounded(1);
    let task = manager.spawn::<()>("stopped", move |ctx| {
        there.send(())?;
        Err(Box::new(Stopped(ctx.wait(), Bomb(0))))
    });
    let task = task.expect("spawned");
    arrives(&ready);
    task.cancel();
    assert!(matches!(soon(&manager, &task), Err(JoinError::Panicked(_))));

    // The captures of a body that was never run.
    let group = manager.group("cancelled");
    group.token().cancel();
    let bomb = Bomb(0);
    let task = group.spawn("never", move |_| {
        let _bomb = &bomb;
        Ok(7)
    });
    assert!(matches!(
        soon(&manager, &task.expect("accepted")),
        Err(JoinError::Panicked(_))
    ));
    let count = bodies.len() as u64 + 3;
    until_nobody_lives(&manager);
    assert_eq!(
        (manager.counts().panicked, manager.counts().completed),
        (count, 0)
    );
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_all_ended_once(manager.counts(), &ends);
}

#[derive(Debug, thiserror::Error)]
#[error("stopped")]
struct Stopped(#[source] Cancelled, Bomb);

// ---- 5 to 11: what ends the process ----

/// How a role ends that is told by its environment which way to go.
fn ends_by(role: &str, way: &str) -> Exit {
    Program::start(child::role(role).env("WAY", way)).exit()
}

fn way() -> String {
    env::var("WAY").expect("a way to go")
}

#[track_caller]
fn assert_killed_by(exit: &Exit, signal: Signal) {
    assert_eq!(
        exit.status.signal(),
        Some(signal as i32),
        "{}{}",
        exit.stdout,
        exit.stderr
    );
}

#[test]
#[ignore = "a role of a child process"]
fn panics_while_unwinding() {
    let manager = manager();
    let task = manager.spawn::<()>("clumsy", |_| {
        let _local = Bomb(0);
        panic!("the first one");
    });
    drop(soon(&manager, &task.expect("spawned")));
}

#[test]
fn f005_a_panic_while_unwinding_ends_the_process_and_names_the_task() {
    let exit = child::start("outcome::panics_while_unwinding").exit();
    assert_killed_by(&exit, Signal::SIGABRT);
    exit.assert_says("thread 'clumsy'");
    exit.assert_says("the first one");
}

#[test]
fn f006_with_panic_abort_the_first_panic_ends_the_process_and_the_log_has_warned() {
    let Some(binary) = built_with_panic_abort() else {
        return;
    };
    let exit = Program::start(&mut Process::new(binary)).exit();
    assert_killed_by(&exit, Signal::SIGABRT);
    exit.assert_says("WARN built with panic=abort: the first panic of a task ends the process");
    exit.assert_says("thread 'first'");
    exit.assert_never_says("after it");
}

const ABORTING: &str = r#"
struct Stderr;

impl log::Log for Stderr {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool { true }
    fn log(&self, record: &log::Record<'_>) { eprintln!("{} {}", record.level(), record.args()); }
    fn flush(&self) {}
}

fn main() {
    log::set_logger(&Stderr).unwrap();
    log::set_max_level(log::LevelFilter::Warn);
    let manager = taskmuster::Manager::builder().build().unwrap();
    let first = manager.spawn::<()>("first", |_| panic!("the first")).unwrap();
    eprintln!("after it: {:?}", first.join());
}
"#;

/// A program of its own, because `panic` is a setting of a whole build; `None`, with a line, where it cannot be built.
fn built_with_panic_abort() -> Option<std::path::PathBuf> {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("panic-abort");
    let manifest = format!(
        "[package]\nname = \"aborting\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[workspace]\n\n\
         [dependencies]\nlog = \"0.4\"\ntaskmuster = {{ path = {:?}, default-features = false }}\n\n\
         [profile.dev]\npanic = \"abort\"\ndebug = false\n",
        env!("CARGO_MANIFEST_DIR")
    );
    let write = |file: &str, text: &str| {
        let path = directory.join(file);
        // What is there already is left alone, so that cargo builds it once.
        if fs::read_to_string(&path).is_ok_and(|before| before == text) {
            return Ok(());
        }
        fs::create_dir_all(path.parent().expect("it is in a directory"))?;
        fs::write(path, text)
    };
    write("Cargo.toml", &manifest).expect("a writable target directory");
    write("src/main.rs", ABORTING).expect("a writable target directory");
    let lock = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"));
    if let Ok(lock) = lock {
        write("Cargo.lock", &lock).expect("a writable target directory");
    }
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let built = Process::new(cargo)
        .args(["build", "--offline", "--quiet", "--jobs", "2"])
        .current_dir(&directory)
        .env("CARGO_TARGET_DIR", directory.join("target"))
        .env_remove("RUSTFLAGS")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output();
    match built {
        Ok(built) if built.status.success() => Some(directory.join("target/debug/aborting")),
        Ok(built) => {
            let why = String::from_utf8_lossy(&built.stderr).into_owned();
            eprintln!("skipped: a crate with panic=abort does not build offline: {why}");
            None
        }
        Err(error) => {
            eprintln!("skipped: there is no cargo: {error}");
            None
        }
    }
}

/// Needs more than a kibibyte of stack for each step.
fn dive(depth: u64) -> u64 {
    let ballast = black_box([depth; 128]);
    if depth == 0 {
        0
    } else {
        1 + dive(ballast[7] - 1)
    }
}

#[test]
#[ignore = "a role of a child process"]
fn overflows_its_stack() {
    let manager = manager();
    let safe = manager
        .task("safe")
        .stack_size(256 << 20)
        .spawn(|_| Ok(dive(16_000)));
    assert_eq!(
        soon(&manager, &safe.expect("spawned")).expect("room enough"),
        16_000
    );
    eprintln!("the other one has room enough");
    let deep = manager.spawn("too deep", |_| Ok(dive(16_000)));
    drop(soon(&manager, &deep.expect("spawned")));
}

#[test]
fn f007_a_stack_overflow_ends_the_process_names_the_task_and_is_a_matter_of_stack_size() {
    let exit = child::start("outcome::overflows_its_stack").exit();
    assert_killed_by(&exit, Signal::SIGABRT);
    exit.assert_says("the other one has room enough");
    exit.assert_says("thread 'too deep'");
    exit.assert_says("has overflowed its stack");
}

/// Ends the process with exit code 7 when it is dropped.
struct Exits;

impl Drop for Exits {
    fn drop(&mut self) {
        process::exit(7);
    }
}

thread_local! {
    static EXITS: RefCell<Option<Exits>> = const { RefCell::new(None) };
    static LAST_WORDS: RefCell<Option<OnDrop>> = const { RefCell::new(None) };
}

#[test]
#[ignore = "a role of a child process"]
fn exits_with_code_7() {
    static MANAGER: OnceLock<Manager> = OnceLock::new();
    let manager = MANAGER.get_or_init(manager);
    // Somebody who never stops, and main in a wait that nobody ends.
    drop(manager.spawn::<()>("deaf", |_| {
        loop {
            thread::park();
        }
    }));
    let spawned = match way().as_str() {
        "the body of a task" => manager.spawn("exits", |_| process::exit(7)),
        "a capture" => {
            let exits = Exits;
            manager.spawn("exits", move |_| {
                let _exits = &exits;
                Ok(())
            })
        }
        "a result nobody took" => {
            drop(manager.spawn("exits", |_| Ok(Exits)));
            manager.spawn("waits", |ctx| Err(ctx.wait().into()))
        }
        "a thread-local" => manager.spawn("exits", |_| {
            EXITS.set(Some(Exits));
            Ok(())
        }),
        "a callback of the shutdown" => manager.spawn("exits", |ctx| {
            ctx.on_cancel(|| process::exit(7)).keep();
            ctx.request_shutdown("now");
            Err(ctx.wait().into())
        }),
        "a callback of a deadline" => manager.spawn("exits", |ctx| {
            ctx.on_cancel(|| process::exit(7)).keep();
            ctx.token().set_timeout(Duration::from_millis(20))?;
            Err(ctx.wait().into())
        }),
        "a panic hook" => {
            panic::set_hook(Box::new(|_| process::exit(7)));
            manager.spawn("exits", |_| panic!("now"))
        }
        "main, while tasks run" => process::exit(7),
        "the body of run" => {
            drop(Manager::builder().grace(HANG).run(|_| process::exit(7)));
            unreachable!("it exits");
        }
        way => panic!("{way:?} is no way"),
    };
    let spawned: TaskHandle<()> = spawned.expect("spawned");
    drop(spawned.join());
    drop(manager.shutdown_timeout(Duration::MAX));
}

#[test]
fn f008_an_exit_from_anywhere_is_an_exit_at_once_with_its_code() {
    for way in [
        "the body of a task",
        "a capture",
        "a result nobody took",
        "a thread-local",
        "a callback of the shutdown",
        "a callback of a deadline",
        "a panic hook",
        "main, while tasks run",
        "the body of run",
    ] {
        let exit = ends_by("outcome::exits_with_code_7", way);
        assert_eq!(
            exit.status.code(),
            Some(7),
            "{way}: {}\n{}",
            exit.status,
            exit.stderr
        );
    }
}

#[test]
#[ignore = "a role of a child process"]
fn dies() {
    let manager = manager();
    let way = way();
    let task = manager.spawn::<()>("dies", move |_| {
        match way.as_str() {
            "abort" => process::abort(),
            "no memory" => {
                let size = isize::MAX.unsigned_abs();
                black_box(Vec::<u8>::with_capacity(size));
            }
            name => {
                let signal: Signal = name.parse()?;
                // The first SIGSEGV only takes away std's handler for stack overflows.
                loop {
                    raise(signal)?;
                }
            }
        }
        Ok(())
    });
    drop(soon(&manager, &task.expect("spawned")));
}

#[test]
fn f009_an_abort_or_a_fatal_signal_in_a_task_ends_the_process_as_ever() {
    for (way, signal) in [
        ("abort", Signal::SIGABRT),
        ("SIGSEGV", Signal::SIGSEGV),
        ("SIGBUS", Signal::SIGBUS),
        ("SIGFPE", Signal::SIGFPE),
        ("SIGKILL", Signal::SIGKILL),
    ] {
        assert_killed_by(&ends_by("outcome::dies", way), signal);
    }
}

#[test]
fn f010_an_allocation_that_fails_ends_the_process_and_says_so() {
    let exit = ends_by("outcome::dies", "no memory");
    assert_killed_by(&exit, Signal::SIGABRT);
    exit.assert_says("memory allocation of");
}

/// Pieces of memory that the calling thread asks for while it does something.
fn allocations_of(work: impl FnOnce()) -> u32 {
    let before = ask(Command::Allocations);
    work();
    ask(Command::Allocations) - before
}

#[test]
#[ignore = "a role under the shim"]
fn counts_its_allocations() {
    let manager = manager();
    let (sender, receiver) = bounded(4);
    let task = manager.spawn("frugal", move |ctx| {
        let asked = Cell::new(0);
        let free = |what: &str, work: &mut dyn FnMut()| {
            work(); // what is made at the first use
            let mut hundred = || allocations_of(|| (0..100).for_each(|_| work()));
            // Or at the first use that has to wait, in one of the three.
            let mut counts = [(); 3].map(|()| hundred());
            counts.sort_unstable();
            let count = counts[1];
            asked.set(asked.get() + count);
            if count > 0 {
                eprintln!("{what} has asked for {count} pieces of memory in 100 calls");
            }
        };
        free("checkpoint", &mut || ctx.checkpoint().expect("not asked"));
        free("is_cancelled", &mut || assert!(!ctx.is_cancelled()));
        free("ambient checkpoint", &mut || {
            taskmuster::checkpoint().expect("not asked");
        });
        free("iter", &mut || {
            ctx.iter(0..10).for_each(|number| drop(black_box(number)));
        });
        free("sleep", &mut || {
            ctx.sleep(Duration::from_micros(1)).expect("not asked");
        });
        free("wait_timeout", &mut || {
            assert!(ctx.wait_timeout(Duration::ZERO).is_none());
        });
        free("ready", &mut || ctx.ready());
        free("send and recv", &mut || {
            ctx.send(&sender, 1).expect("room");
            ctx.recv(&receiver).expect("it is there");
        });
        free("current", &mut || drop(taskmuster::current()));
        Ok(asked.get())
    });
    assert_eq!(
        soon(&manager, &task.expect("spawned")).expect("a number"),
        0
    );

    // From the end of the body to the end of the thread, when the books have room already.
    let least = (0..400)
        .map(|_| {
            let asked = Arc::new((AtomicU32::new(0), AtomicU32::new(u32::MAX)));
            let theirs = Arc::clone(&asked);
            let task = manager.spawn("ends", move |_| {
                let at_exit = Arc::clone(&theirs);
                LAST_WORDS.set(Some(OnDrop::new(move || {
                    at_exit.1.store(ask(Command::Allocations), Ordering::SeqCst);
                })));
                theirs.0.store(ask(Command::Allocations), Ordering::SeqCst);
                Ok([7_u8; 64])
            });
            let task = task.expect("spawned");
            soon(&manager, &task).expect("a value");
            while asked.1.load(Ordering::SeqCst) == u32::MAX {
                thread::yield_now();
            }
            asked.1.load(Ordering::SeqCst) - asked.0.load(Ordering::SeqCst)
        })
        .min();
    assert_eq!(least, Some(0), "the end of a task needs memory");
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn f010_checkpoints_waits_and_the_end_of_a_task_ask_for_no_memory() {
    preload::play("outcome::counts_its_allocations");
}

#[test]
#[ignore = "a role of a child process"]
fn panics_in_a_thread_local() {
    let manager = manager();
    let task = manager.spawn("tidy", |_| {
        LAST_WORDS.set(Some(OnDrop::new(|| panic!("on the way out"))));
        Ok(())
    });
    soon(&manager, &task.expect("spawned")).expect("its outcome is there before");
    drop(manager.shutdown());
    unreachable!("the thread is joined, and it aborts");
}

#[test]
fn f011_a_panic_in_the_destructor_of_a_thread_local_ends_the_process() {
    let exit = child::start("outcome::panics_in_a_thread_local").exit();
    assert_killed_by(&exit, Signal::SIGABRT);
    exit.assert_says("on the way out");
}

// ---- 12, 13: destructors of thread-locals ----

/// Keeps the destructors of its thread-locals waiting until the channel is closed.
fn linger_until(released: &Receiver<()>, there: &Sender<()>) {
    let (released, there) = (released.clone(), there.clone());
    LAST_WORDS.set(Some(OnDrop::new(move || {
        there.send(()).unwrap_or_default();
        released.recv().unwrap_or_default();
    })));
}

#[test]
fn f012_a_thread_local_that_blocks_delays_no_outcome_and_is_named_in_the_report() {
    let manager = manager();
    let ((release, released), (there, ready)) = (bounded::<()>(0), unbounded());
    let ways: [Body; 4] = [
        |_| Ok(7),
        |_| Err("no".into()),
        |_| panic!("no"),
        |ctx| {
            ctx.token().cancel();
            Err(ctx.wait().into())
        },
    ];
    let lingering: Vec<_> = ways
        .into_iter()
        .map(|way| {
            let (released, there) = (released.clone(), there.clone());
            let lingering = manager.spawn("lingers", move |ctx| {
                linger_until(&released, &there);
                way(ctx)
            });
            lingering.expect("spawned")
        })
        .collect();
    for handle in &lingering {
        assert!(!matches!(
            soon(&manager, handle),
            Err(JoinError::StillRunning { .. })
        ));
        arrives(&ready);
        assert_eq!(handle.status().state, TaskState::Exiting);
    }
    assert!(manager.tasks().is_empty(), "they have ended");
    let waited = manager.wait();
    assert!(
        matches!(waited, taskmuster::Waited::NothingLeft),
        "{waited:?}"
    );
    let report = manager
        .shutdown_timeout(Duration::from_millis(150))
        .expect("a report");
    assert_eq!(
        (report.exit_code(), report.stragglers().count()),
        (2, 4),
        "{report}"
    );
    for straggler in report.stragglers() {
        let stage = straggler.diagnosis().expect("it has one").stage;
        assert_eq!(stage, taskmuster::Stage::Exiting, "{report}");
        assert!(
            !matches!(straggler.outcome(), Outcome::Abandoned),
            "{report}"
        );
    }
    drop(release);
    for handle in &lingering {
        while handle.status().state != TaskState::Ended {
            thread::yield_now();
        }
    }
    assert_balanced(manager.counts());
}

#[test]
#[ignore = "a role of a child process"]
fn uses_everything_in_a_thread_local() {
    let manager = Arc::new(manager());
    let (tell, told) = unbounded::<String>();
    let (give, given) = bounded::<TaskHandle<()>>(1);
    let theirs = Arc::clone(&manager);
    let handle = manager.spawn("last words", move |ctx| {
        let (group, token, own) = (ctx.group().clone(), ctx.token().clone(), ctx.recv(&given)?);
        let manager = Arc::clone(&theirs);
        let last_words = move || {
            let current = taskmuster::current().map(|ctx| ctx.name().to_owned());
            let spawned = group
                .spawn("late", |_| Ok(7))
                .map(|late| late.join_timeout(HANG));
            let late = spawned
                .expect("there is room")
                .expect("it is joined as ever");
            let said = [
                format!("current {current:?}"),
                format!("checkpoint {:?}", taskmuster::checkpoint().is_ok()),
                format!("late {late}"),
                format!(
                    "own {:?}",
                    matches!(own.join(), Err(JoinError::WouldDeadlock { .. }))
                ),
                format!("outcome {:?}", own.outcome().is_some()),
                format!("group {:?}", group.join().is_err()),
                format!("cancel {:?}", token.cancel()),
                format!("checkpoint {:?}", taskmuster::checkpoint().is_ok()),
                format!("shutdown {:?}", manager.shutdown().err()),
            ];
            while group.spawn("in time", |_| Ok(())).is_ok() {}
            for line in said {
                drop(tell.send(line));
            }
        };
        LAST_WORDS.set(Some(OnDrop::new(move || {
            last_words();
            // A thread-local that is made while the others are destroyed.
            let released = bounded::<()>(0).1;
            EXITS.with_borrow(|exits| assert!(exits.is_none()));
            assert!(released.try_recv().is_err());
        })));
        Ok(())
    });
    give.send(handle.expect("spawned")).expect("room");
    let said: Vec<String> = told.iter().collect();
    let shutdown = format!("shutdown {:?}", Some(ShutdownError::WouldDeadlock));
    assert_eq!(
        said,
        [
            "current Some(\"last words\")",
            "checkpoint true",
            "late 7",
            "own true",
            "outcome true",
            "group true",
            "cancel true",
            "checkpoint false",
            &shutdown,
        ]
    );
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    // On a thread that is no task's there is no task, to the last.
    let (tell, told) = bounded(1);
    let helper = thread::spawn(move || {
        LAST_WORDS.set(Some(OnDrop::new(move || {
            let _ = tell.send(taskmuster::current().is_none() && taskmuster::checkpoint().is_ok());
        })));
    });
    helper.join().expect("it does not panic");
    assert_eq!(told.recv(), Ok(true));
}

#[test]
fn f013_the_destructor_of_a_thread_local_may_use_the_whole_library() {
    assert_played(child::start("outcome::uses_everything_in_a_thread_local"));
}

// ---- 14 to 21: handles, and who reads ----

#[test]
fn f014_a_task_may_end_before_its_spawn_returns() {
    let manager = manager();
    let mut ended_before = 0;
    for round in 0..rounds(1_000, 20_000) {
        let handle = manager.spawn("quick", move |_| Ok(round)).expect("spawned");
        ended_before += usize::from(handle.is_finished());
        assert_eq!(soon(&manager, &handle).expect("a value"), round);
        assert!(matches!(handle.join(), Err(JoinError::AlreadyTaken { .. })));
        assert!(matches!(handle.outcome(), Some(Outcome::Completed)));
    }
    eprintln!("{ended_before} had ended before their spawn returned");
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
#[ignore = "a role under the shim"]
fn spawns_slowly() {
    let manager = manager();
    let (mut hold_up, mut ended_before) = (10, 0);
    while ended_before < 30 {
        tell(Command::Linger, hold_up);
        let handle = manager.spawn("quick", |_| Ok(7)).expect("spawned");
        if handle.is_finished() {
            (ended_before, hold_up) = (ended_before + 1, 10);
            let state = handle.status().state;
            assert!(
                matches!(state, TaskState::Exiting | TaskState::Ended),
                "{state}"
            );
            assert!(!handle.cancel());
        } else {
            // The machine is busy with others.
            hold_up *= 2;
            assert!(hold_up < 100_000, "the shim holds nobody up");
        }
        assert_eq!(soon(&manager, &handle).expect("a value"), 7);
    }
    tell(Command::Linger, 0);
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
fn f014_so_it_is_when_the_spawner_is_held_up_in_the_middle() {
    preload::play("outcome::spawns_slowly");
}

/// A task that says it is there, waits for its stop and is told of in the list of all tasks.
fn waits(there: &Sender<()>) -> impl FnOnce(&TaskContext) -> TaskResult + Send + 'static {
    let there = there.clone();
    move |ctx| {
        there.send(())?;
        Err(ctx.wait().into())
    }
}

#[test]
fn f015_a_task_outlives_whoever_started_it_and_stays_listed() {
    let manager = Arc::new(manager());
    let (there, ready) = unbounded();
    let (theirs, say) = (Arc::clone(&manager), there.clone());
    let starter = thread::spawn(move || drop(theirs.spawn("of a thread", waits(&say))));
    starter.join().expect("it does not panic");

    let say = there.clone();
    let parent = manager.spawn("returns", move |ctx| {
        drop(ctx.group().spawn("of a task", waits(&say))?);
        Ok(())
    });
    soon(&manager, &parent.expect("spawned")).expect("it returned");
    let say = there.clone();
    let parent = manager.spawn::<()>("panics", move |ctx| {
        drop(ctx.group().spawn("of a panic", waits(&say))?);
        panic!("and its child lives on");
    });
    assert!(soon(&manager, &parent.expect("spawned")).is_err());
    let say = there.clone();
    let parent = manager.spawn::<()>("is cancelled", move |ctx| {
        drop(ctx.group().spawn("of a cancelled one", waits(&say))?);
        ctx.token().cancel();
        Err(ctx.wait().into())
    });
    assert!(soon(&manager, &parent.expect("spawned")).is_err());
    let inner = manager.group("outer").group("inner");
    drop(inner.spawn("of a group", waits(&there)));
    drop(inner);
    let scope = manager.scope("scope", |_| {
        Ok(drop(manager.spawn("of a scope", waits(&there))?))
    });
    scope.expect("it waits for its own tasks only");
    let say = there.clone();
    drop(manager.scope("scope", |scope| {
        let group = manager.root_group();
        let borrower = scope.spawn("borrows", move |_| {
            Ok(drop(group.spawn("of a borrower", waits(&say))?))
        });
        Ok(borrower?.join()?)
    }));

    let names = [
        "of a thread",
        "of a task",
        "of a panic",
        "of a cancelled one",
        "outer/inner/of a group",
        "of a scope",
        "of a borrower",
    ];
    for _ in names {
        arrives(&ready);
    }
    // Their parents have been joined, which may be a moment before the books are closed over them.
    until("the end of their parents", || {
        manager.counts().live == names.len() as u64
    });
    let listed = manager.tasks();
    let listed: Vec<&str> = listed.iter().map(|task| &*task.name).collect();
    assert_eq!(listed, names);
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(manager.counts().cancelled, 1 + names.len() as u64);
}

#[test]
fn f016_a_dropped_handle_changes_nothing_for_its_task() {
    dispose_of_handles_by(drop);
}

#[test]
fn f017_a_leaked_handle_holds_up_neither_the_shutdown_nor_the_books() {
    dispose_of_handles_by(std::mem::forget);
}

fn dispose_of_handles_by(dispose_of: fn(TaskHandle<u8>)) {
    let manager = manager();
    let ends = manager.root_group().ends();
    for (body, _) in ENDINGS {
        // Before it begins, while it runs, when it has ended.
        dispose_of(manager.spawn("at once", body).expect("spawned"));
        arrives(&ends);
        let ((there, ready), (go, going)) = (bounded(1), bounded::<()>(0));
        let handle = manager.spawn("under way", move |ctx| {
            there.send(())?;
            let _ = going.recv();
            body(ctx)
        });
        arrives(&ready);
        dispose_of(handle.expect("spawned"));
        drop(go);
        arrives(&ends);
        let handle = manager.spawn("after its end", body).expect("spawned");
        arrives(&ends);
        dispose_of(handle);
    }
    assert!(manager.tasks().is_empty());
    let waiting = manager.spawn("waits", |ctx| Err(ctx.wait().into()));
    dispose_of(waiting.expect("spawned"));
    let report = manager.shutdown().expect("a report");
    let mut tally = Tally::default();
    for (_, ending) in ENDINGS {
        (0..3).for_each(|_| tally.add(ending));
    }
    assert_eq!(Tally::of(&manager, 0), tally);
    assert_eq!(
        report.unread_failures() as u64,
        tally.failed + tally.panicked
    );
    assert_eq!((report.exit_code(), report.stragglers().count()), (1, 0));
    assert_balanced(manager.counts());
    assert_eq!(ends.try_iter().count(), 1);
}

#[test]
#[ignore = "a role of a child process"]
fn fails_and_nobody_reads_it() {
    let said = logger::listen();
    let manager = manager();
    let ends = manager.root_group().ends();
    let fails = |name: &str, body: Body| drop(manager.group("quiet").spawn(name, body));
    fails("failed", |_| Err("could not\nwrite".into()));
    fails("panicked", |_| panic!("out of range"));
    fails("joined by nobody", |ctx| {
        ctx.token().cancel();
        Err("not by the stop".into())
    });
    drop(manager.scope("scope", |scope| {
        scope.on_failure(OnFailure::Record);
        let (there, ready) = bounded(1);
        drop(scope.spawn::<()>("in a scope", move |_| {
            there.send(())?;
            Err("borrowed trouble".into())
        })?);
        arrives(&ready);
        Err::<(), _>("its body fails too".into())
    }));
    let bomb = Bomb(0);
    let group = manager.group("cancelled");
    group.token().cancel();
    drop(group.spawn("never began", move |_| {
        let _bomb = &bomb;
        Ok(())
    }));
    let ((there, ready), (release, released)) = (bounded(1), bounded::<()>(0));
    drop(manager.spawn::<()>("late", move |_| {
        there.send(())?;
        let _ = released.recv();
        Err("after all".into())
    }));
    arrives(&ready);
    for _ in 0..5 {
        arrives(&ends);
    }
    let report = manager.shutdown_timeout(Duration::ZERO).expect("a report");
    drop(release);
    arrives(&ends);
    assert_eq!(report.unread_failures(), 6);
    drop(manager);
    for words in [
        "task `quiet/failed` failed: could not write",
        "task `quiet/panicked` panicked at ",
        "task `quiet/joined by nobody` failed: not by the stop",
        "task `scope/in a scope` failed: borrowed trouble",
        "task `cancelled/never began` panicked at ",
        "task `late` failed: after all",
    ] {
        // The line follows the end.
        until(words, || !said.with(words).is_empty());
        let lines = said.with(words);
        assert!(matches!(&*lines, [(Level::Error, _)]), "{lines:?}");
    }
}

#[test]
fn f018_a_failure_nobody_reads_is_logged_once_when_it_happens() {
    assert_played(child::start("outcome::fails_and_nobody_reads_it"));
}

/// Each is waited for.
const PARTS: u64 = 50;

#[test]
#[ignore = "a role of a child process"]
fn ends_tasks_that_nobody_reads() {
    panic::set_hook(Box::new(|_| {}));
    let manager = Manager::builder()
        .grace(HANG)
        .history(64)
        .build()
        .expect("a manager");
    let (parts, part) = (PARTS, rounds(400, 20_000) as u64);
    let mut settled = 0;
    for number in 0..parts {
        for task in 0..part {
            let handle = match task % 4 {
                0 => manager.spawn("fails", |_| Err("nobody reads it".into())),
                1 => manager.spawn("panics", |_| panic!("nobody hears it")),
                _ => manager.spawn("completes", |_| Ok([7_u8; 64])),
            };
            drop(handle.expect("there is room"));
            if task % 64 == 0 {
                // Else a busy machine has thousands of threads at once, whose stacks are kept.
                drop(manager.wait());
                until("room for more", || threads() < 40);
            }
        }
        eprintln!("part {number} of {parts}: {} KiB", resident());
        if number == parts / 5 {
            settled = resident();
        }
    }
    drop(manager.wait());
    let counts = manager.counts();
    let quarter = parts * part / 4;
    assert_eq!(
        (counts.failed, counts.panicked, counts.completed),
        (quarter, quarter, 2 * quarter)
    );
    assert_eq!((counts.spawned, counts.live), (parts * part, 0));
    let in_use = resident();
    assert!(
        in_use < settled + settled / 20 + 2_048,
        "{settled} KiB became {in_use} KiB"
    );
    let report = manager.shutdown().expect("a report");
    // The history, and the first failures.
    assert!(report.tasks().len() <= 64 + 64, "{}", report.tasks().len());
    assert_eq!(report.unread_failures() as u64, 2 * quarter);
}

#[test]
#[cfg(target_os = "linux")]
fn f019_any_number_of_outcomes_that_nobody_reads_takes_no_more_memory() {
    let program = child::start("outcome::ends_tasks_that_nobody_reads");
    for part in 0..PARTS {
        program.wait_for_line(&format!("part {part} of"));
    }
    assert_played(program);
}

#[test]
fn f020_of_many_who_read_one_outcome_all_learn_it_and_one_gets_what_is_one() {
    const READERS: usize = 4;
    let manager = manager();
    for round in 0..rounds(40, 2_000) {
        let (body, ending) = ENDINGS[round % ENDINGS.len()];
        // It ends before they come, or while they come.
        let comes_too = round % 3 == 0;
        let start = Arc::new(Barrier::new(READERS + usize::from(comes_too)));
        let theirs = Arc::clone(&start);
        let handle = manager.spawn("read", move |ctx| {
            if comes_too {
                theirs.wait();
            }
            body(ctx)
        });
        let handle = Arc::new(handle.expect("spawned"));
        let readers = (0..READERS).map(|_| {
            let (handle, start) = (Arc::clone(&handle), Arc::clone(&start));
            thread::spawn(move || {
                start.wait();
                handle.join_timeout(HANG)
            })
        });
        let readers: Vec<_> = readers.collect();
        let read: Vec<_> = readers
            .into_iter()
            .map(|it| it.join().expect("no panic"))
            .collect();
        let count =
            |is_it: fn(&Result<u8, JoinError>) -> bool| read.iter().filter(|it| is_it(it)).count();
        match ending {
            Completes(_) => {
                assert_eq!(count(Result::is_ok), 1);
                assert_eq!(
                    count(|it| matches!(it, Err(JoinError::AlreadyTaken { .. }))),
                    READERS - 1
                );
            }
            Fails(_) => {
                let errors = read.iter().filter_map(|it| match it {
                    Err(JoinError::Failed { error, .. }) => Some(Arc::as_ptr(error).cast::<()>()),
                    _ => None,
                });
                let errors: Vec<_> = errors.collect();
                assert_eq!(errors, [errors[0]; READERS], "all read the same error");
            }
            Panics(_) => {
                let payloads = read.iter().filter_map(|it| match it {
                    Err(JoinError::Panicked(panic)) => Some(panic.take_payload().is_some()),
                    _ => None,
                });
                let mut payloads: Vec<_> = payloads.collect();
                payloads.sort_unstable();
                assert_eq!(
                    payloads,
                    [false, false, false, true],
                    "one gets the payload"
                );
            }
        }
    }
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
#[ignore = "a role of a child process"]
fn has_managers_in_everything() {
    type Bind = fn(Arc<Manager>) -> Option<TaskHandle<Arc<Manager>>>;
    let binds: [Bind; 9] = [
        // In a value that nobody takes: the handle goes first, or the task ends first.
        |manager| {
            let theirs = Arc::clone(&manager);
            drop(manager.spawn("value", move |_| Ok(theirs)));
            None
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            let handle = manager
                .spawn("value", move |_| Ok(theirs))
                .expect("spawned");
            while !handle.is_finished() {
                thread::yield_now();
            }
            Some(handle)
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            let handle = manager
                .spawn("taken", move |_| Ok(theirs))
                .expect("spawned");
            drop(soon(&manager, &handle).expect("a manager"));
            Some(handle)
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            let handle = manager.spawn("error", move |_| Err(Box::new(Loaded(theirs)) as BoxError));
            Some(handle.expect("spawned"))
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            let handle = manager.spawn("payload", move |_| panic::panic_any(theirs));
            Some(handle.expect("spawned"))
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            drop(manager.spawn::<()>("captures", move |ctx| {
                let _theirs = &theirs;
                Err(ctx.wait().into())
            }));
            manager.request_shutdown("else nobody lets it go");
            None
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            drop(manager.spawn::<()>("callback", move |ctx| {
                ctx.on_cancel(move || drop(theirs)).keep();
                Err(ctx.wait().into())
            }));
            while manager.tasks().iter().all(|task| task.checkpoints < 2) {
                thread::yield_now();
            }
            manager.request_shutdown("else nobody lets it go");
            None
        },
        |manager| {
            let theirs = Arc::clone(&manager);
            drop(manager.spawn("thread-local", move |_| {
                LAST_WORDS.set(Some(OnDrop::new(move || drop(theirs.tasks()))));
                Ok(())
            }));
            None
        },
        |manager| {
            let refused = manager.task("refused").stack_size(usize::MAX);
            let theirs = Arc::clone(&manager);
            drop(refused.spawn(move |_| Ok(theirs)));
            None
        },
    ];
    for (number, bind) in binds.into_iter().enumerate() {
        let manager = Arc::new(manager());
        let weak = Arc::downgrade(&manager);
        let handle = bind(manager);
        drop(handle);
        let deadline = Instant::now() + HANG;
        while weak.strong_count() > 0 || house_keepers() > 0 {
            assert!(
                Instant::now() < deadline,
                "manager {number} is held by what it holds"
            );
            thread::yield_now();
        }
    }
}

#[test]
#[cfg(target_os = "linux")]
fn f021_a_manager_in_what_its_own_task_leaves_makes_no_circle() {
    assert_played(child::start("outcome::has_managers_in_everything"));
}

// ---- 22, 23: loggers and panic hooks ----

#[test]
#[ignore = "a role of a child process"]
fn has_a_logger_that_panics() {
    static LINES: AtomicUsize = AtomicUsize::new(0);
    panic::set_hook(Box::new(|_| {}));
    let said = logger::install(|_| {
        LINES.fetch_add(1, Ordering::SeqCst);
        panic::panic_any(Bomb(2));
    });
    for round in 0..20 {
        let manager = manager();
        let ends = manager.root_group().ends();
        for (body, ending) in ENDINGS {
            let handle = STARTS[round % STARTS.len()](&manager, body);
            assert_ended_as(ending, soon(&manager, &handle));
        }
        drop(manager.spawn("leaves", |_| Ok(Bomb(1))));
        let token = CancellationToken::new();
        token.on_cancel(|| panic!("in a callback")).keep();
        assert!(token.cancel());
        let deaf = manager.spawn("foreign", |ctx| {
            Ok(ctx.foreign("c", Duration::ZERO, thread::park))
        });
        let mut foreign = deaf.expect("spawned").status();
        while foreign.checkpoints == 0 {
            foreign = manager.tasks().pop().expect("it is there");
        }
        if round % 2 == 0 {
            manager.hurry();
        }
        let report = manager.shutdown().expect("a report");
        // In a hurry on a busy machine, others may be late as well.
        if !report.was_hurried() {
            assert_eq!(
                (report.exit_code(), report.stragglers().count()),
                (0, 1),
                "{report}"
            );
        }
        assert_balanced(manager.counts());
        drop((manager, ends));
    }
    drop(Manager::builder().build());
    assert_eq!(said.with("dropped without a shutdown").len(), 1);
    let over = Manager::builder()
        .grace(HANG)
        .run(|_| Err("the body".into()));
    assert_eq!(over.exit_code(), 1);
    assert!(LINES.load(Ordering::SeqCst) > 400);
}

#[test]
fn f022_a_logger_that_panics_at_every_line_harms_nobody() {
    assert_played(child::start("outcome::has_a_logger_that_panics"));
}

static HOOK_IS_IN: AtomicBool = AtomicBool::new(false);
static HOOK_MAY_GO: Mutex<()> = Mutex::new(());

/// A hook that blocks until it may go.
fn block_in_the_hook() {
    panic::set_hook(Box::new(|info| {
        if text_of(info.payload()) == Some("hooked") {
            HOOK_IS_IN.store(true, Ordering::SeqCst);
            drop(HOOK_MAY_GO.lock());
        }
    }));
}

#[test]
#[ignore = "a role of a child process"]
fn has_a_hook() {
    let before = panic::take_hook();
    let manager = match way().as_str() {
        "that panics" => {
            panic::set_hook(Box::new(move |info| {
                before(info);
                panic!("in the hook");
            }));
            manager()
        }
        "that was there" => {
            block_in_the_hook();
            manager()
        }
        "that came later" => {
            let manager = manager();
            soon(
                &manager,
                &manager.spawn("first", |_| Ok(())).expect("spawned"),
            )
            .expect("a value");
            block_in_the_hook();
            manager
        }
        "that is left alone" => {
            block_in_the_hook();
            let leave = Manager::builder().grace(HANG).panic_hook(PanicHook::Leave);
            leave.build().expect("a manager")
        }
        way => panic!("{way:?} is no way"),
    };
    let locked = HOOK_MAY_GO.lock().expect("nobody panics with it");
    let hooked = manager.spawn::<()>("hooked", |ctx| {
        ctx.checkpoint()?;
        panic!("hooked");
    });
    let hooked = hooked.expect("spawned");
    while !HOOK_IS_IN.load(Ordering::SeqCst) {
        thread::yield_now();
    }
    assert!(hooked.outcome().is_none(), "it has not ended yet");
    let other = manager.spawn("other", |_| Ok(7)).expect("spawned");
    assert_eq!(soon(&manager, &other).expect("not held up"), 7);
    drop(locked);
    let Err(JoinError::Panicked(panic)) = soon(&manager, &hooked) else {
        panic!("it did not panic")
    };
    assert_eq!(panic.message(), Some("hooked"));
    assert_eq!(panic.place().is_some(), way() == "that was there");
    assert!(panic.last_checkpoint().is_some());
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn f023_a_panic_hook_that_blocks_delays_its_own_task_only() {
    for way in ["that was there", "that came later", "that is left alone"] {
        assert_played(Program::start(
            child::role("outcome::has_a_hook").env("WAY", way),
        ));
    }
}

#[test]
fn f023_a_panic_hook_that_panics_ends_the_process() {
    let exit = ends_by("outcome::has_a_hook", "that panics");
    assert_killed_by(&exit, Signal::SIGABRT);
    exit.assert_says("hooked");
}
