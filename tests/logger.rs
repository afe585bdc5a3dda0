//! What a logger that blocks cannot do. Each test is a process of its own: there is one logger in it.

use std::cell::RefCell;
use std::env;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, bounded};
use taskmuster::{Child, JoinError, Manager, Permanent, Strategy, Supervisor, TaskHandle};

/// Runs the test `name` of this binary in a child process, with its output shown if it fails.
fn in_a_process_of_its_own(name: &str) {
    let output = Command::new(env::current_exe().expect("this test"))
        .args(["--exact", name, "--ignored", "--nocapture"])
        .output()
        .expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
}

macro_rules! each_in_a_process_of_its_own {
    ($($name:ident runs $body:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            in_a_process_of_its_own(stringify!($body));
        })*
    };
}

each_in_a_process_of_its_own!(
    a_logger_that_blocks_makes_no_stragglers runs blocked_logger,
    a_logger_that_blocks_does_not_turn_a_hurry_into_exit_code_2 runs blocked_logger_in_a_hurry,
    a_courier_that_came_back_is_not_called_stuck runs logger_that_blocks_once,
    a_courier_that_hangs_is_named_in_the_report runs logger_that_never_returns,
    run_returns_by_its_deadline_though_the_logger_blocks runs run_with_blocked_logger,
    run_returns_by_its_deadline_though_the_flush_blocks runs run_with_blocked_flush,
    a_clean_shutdown_is_quick_though_the_logger_blocks runs clean_with_blocked_logger,
    the_last_line_names_those_who_linger runs names_of_the_last_line,
    who_has_ended_and_hangs_in_the_logger_is_not_said_to_exit runs end_in_the_logger,
    the_first_line_says_who_is_asked_and_how_long_there_is runs first_line,
    who_is_left_in_foreign_code_is_named_and_nobody_else runs left_in_foreign_code,
    a_body_that_sits_elsewhere_is_named runs body_that_does_not_return,
    a_drain_says_how_long_it_waits_when_the_shutdown_is_short runs short_drain,
    a_supervisor_that_gives_up_names_each_child_that_does_not_stop runs deaf_children,
);

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());
static BLOCKS_FOR: AtomicU64 = AtomicU64::new(0);
static FLUSHES_FOR: AtomicU64 = AtomicU64::new(0);
/// It has blocked, and does no more.
static IS_BACK: AtomicBool = AtomicBool::new(false);

/// The line that the logger never has done with.
const ENDLESS: &str = "task `endless` failed";

struct Logger;

impl log::Log for Logger {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        let line = record.args().to_string();
        let is_first = line.starts_with("stopping");
        let is_endless = line.starts_with(ENDLESS);
        LINES.lock().expect("no panic").push(line);
        if is_endless {
            loop {
                thread::park();
            }
        }
        if is_first {
            thread::sleep(Duration::from_millis(BLOCKS_FOR.load(Ordering::SeqCst)));
            IS_BACK.store(true, Ordering::SeqCst);
        }
    }

    fn flush(&self) {
        thread::sleep(Duration::from_millis(FLUSHES_FOR.load(Ordering::SeqCst)));
    }
}

/// A logger that takes so many milliseconds for the first line of a shutdown, and for its flush.
fn install_logger(blocks_for: u64, flushes_for: u64) {
    BLOCKS_FOR.store(blocks_for, Ordering::SeqCst);
    FLUSHES_FOR.store(flushes_for, Ordering::SeqCst);
    log::set_logger(&Logger).expect("the only one");
    log::set_max_level(log::LevelFilter::Info);
}

fn said(words: &str) -> Option<String> {
    let lines = LINES.lock().expect("no panic");
    lines.iter().find(|line| line.contains(words)).cloned()
}

/// Nobody waits that long, unless it hangs.
const LONG: Duration = Duration::from_secs(60);

/// For what blocks longer than that, in milliseconds: a program that waits for it fails then, and is no hang.
const BLOCKED: u64 = 90_000;

/// The courier may be a moment behind the report.
fn until_said(words: &str) -> String {
    let start = Instant::now();
    loop {
        if let Some(line) = said(words) {
            return line;
        }
        assert!(start.elapsed() < LONG, "nobody says {words:?}");
        thread::yield_now();
    }
}

/// A manager with one task that stops when it is asked to.
fn manager_of_one() -> Manager {
    let manager = Manager::builder().grace(LONG).build().expect("a manager");
    drop(good(&manager));
    manager
}

fn good(manager: &Manager) -> TaskHandle<()> {
    let (there, ready) = bounded(1);
    let good = manager.spawn("good", move |ctx| {
        there.send(())?;
        ctx.wait();
        Ok(())
    });
    ready.recv().expect("it runs");
    good.expect("spawned")
}

/// A task that stops, but not before this is over.
fn slow(manager: &Manager, clean_up: impl FnOnce() + Send + 'static) {
    let (there, ready) = bounded(1);
    let slow = manager.spawn("slow", move |ctx| {
        there.send(())?;
        ctx.wait();
        clean_up();
        Ok(())
    });
    ready.recv().expect("it runs");
    drop(slow.expect("spawned"));
}

#[test]
#[ignore = "run in a process of its own"]
fn blocked_logger() {
    install_logger(BLOCKED, 0);
    let manager = manager_of_one();
    let report = manager.shutdown().expect("a report");
    assert_eq!(report.exit_code(), 0, "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn blocked_logger_in_a_hurry() {
    install_logger(BLOCKED, 0);
    // On a machine that is very busy even a good task is not quick enough for a hurry: then once more.
    let is_clean = (0..5).any(|_| {
        let manager = manager_of_one();
        manager.request_shutdown("first");
        manager.hurry();
        let report = manager.shutdown().expect("a report");
        assert!(report.was_hurried());
        report.exit_code() == 0
    });
    assert!(is_clean, "the logger is taken for a straggler");
}

#[test]
#[ignore = "run in a process of its own"]
fn logger_that_blocks_once() {
    install_logger(1_500, 0);
    let manager = Manager::builder().grace(LONG).build().expect("a manager");
    slow(&manager, || {
        while !IS_BACK.load(Ordering::SeqCst) {
            thread::yield_now();
        }
        thread::sleep(Duration::from_secs(1));
    });
    let report = manager.shutdown().expect("a report");
    assert!(!report.to_string().contains("is stuck in"), "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn logger_that_never_returns() {
    install_logger(BLOCKED, 0);
    let manager = manager_of_one();
    slow(&manager, || thread::sleep(Duration::from_millis(2_500)));
    let report = manager.shutdown().expect("a report");
    assert!(
        report.to_string().contains("is stuck in a line of log"),
        "{report}"
    );
    assert_eq!(report.exit_code(), 0, "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn run_with_blocked_logger() {
    install_logger(BLOCKED, 0);
    let start = Instant::now();
    let report = Manager::builder().grace(LONG).run(|manager| {
        drop(good(manager));
        Ok(())
    });
    assert!(start.elapsed() < LONG / 2, "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn run_with_blocked_flush() {
    install_logger(0, BLOCKED);
    let start = Instant::now();
    let report = Manager::builder()
        .grace(Duration::from_millis(300))
        .run(|_| Ok(()));
    assert!(start.elapsed() < LONG, "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn clean_with_blocked_logger() {
    install_logger(BLOCKED, 0);
    let patient = || {
        let manager = Manager::builder().grace(Duration::from_millis(BLOCKED));
        manager.build().expect("a manager")
    };
    let (of_one, empty) = (patient(), patient());
    drop(good(&of_one));
    for manager in [of_one, empty] {
        let start = Instant::now();
        let report = manager.shutdown().expect("a report");
        assert!(start.elapsed() < LONG, "{report}");
    }
}

thread_local! {
    static LINGERING: RefCell<Option<Blocks>> = const { RefCell::new(None) };
}

struct Blocks(Receiver<()>);

impl Drop for Blocks {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

#[test]
#[ignore = "run in a process of its own"]
fn names_of_the_last_line() {
    install_logger(0, 0);
    let manager = Manager::builder().grace(LONG).build().expect("a manager");
    let (release, released) = bounded::<()>(0);
    let lingers = manager.spawn("lingers", move |_| {
        LINGERING.set(Some(Blocks(released)));
        Ok(())
    });
    lingers.expect("spawned").join().expect("it completed");
    let report = manager
        .shutdown_timeout(Duration::from_millis(100))
        .expect("a report");
    drop(release);
    assert_eq!(report.exit_code(), 2, "{report}");
    let line = until_said("did not stop in time");
    assert!(line.contains("`lingers`"), "{line}");
}

#[test]
#[ignore = "run in a process of its own"]
fn end_in_the_logger() {
    install_logger(0, 0);
    let manager = Manager::builder().grace(LONG).build().expect("a manager");
    let endless = manager.spawn::<()>("endless", |_| Err("so that there is a line".into()));
    drop(endless.expect("spawned"));
    until_said(ENDLESS);
    let report = manager
        .shutdown_timeout(Duration::from_millis(100))
        .expect("a report");
    assert!(
        report.to_string().contains("is still in the logger"),
        "{report}"
    );
    assert_eq!(report.exit_code(), 2, "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn first_line() {
    install_logger(0, 0);
    let manager = Manager::builder()
        .grace(LONG)
        .drain(LONG / 2)
        .build()
        .expect("a manager");
    drop(good(&manager));
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    let line = until_said("stopping 1 task, ");
    assert!(line.contains(" s left: "), "{line}");
    assert_eq!(said("waiting up to"), None, "nobody has anything to finish");
}

#[test]
#[ignore = "run in a process of its own"]
fn left_in_foreign_code() {
    const SAYS: &str = "left in foreign code: ";
    install_logger(0, 0);
    drop(manager_of_one().shutdown().expect("a report"));
    assert_eq!(said(SAYS), None);
    let manager = manager_of_one();
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(1);
    let codec = manager.spawn("codec", move |ctx| {
        ctx.foreign("codec", Duration::ZERO, || {
            let _ = there.send(());
            let _ = released.recv();
        });
        Ok(())
    });
    drop(codec.expect("spawned"));
    ready.recv().expect("it runs");
    let report = manager.shutdown().expect("a report");
    drop(release);
    assert_eq!(report.exit_code(), 0, "{report}");
    assert_eq!(until_said(SAYS), format!("{SAYS}`codec`"));
}

#[test]
#[ignore = "run in a process of its own"]
fn body_that_does_not_return() {
    install_logger(0, 0);
    let (release, released) = bounded::<()>(0);
    let program = thread::spawn(move || {
        Manager::builder().grace(LONG).run(|manager| {
            drop(good(manager));
            manager.request_shutdown("now");
            let _ = released.recv(); // main is elsewhere
            Ok(())
        })
    });
    let line = until_said("the body of `run` at");
    assert!(line.contains("logger.rs"), "{line}");
    drop(release);
    let report = program.join().expect("it does not panic");
    assert!(report.is_clean(), "{report}");
}

#[test]
#[ignore = "run in a process of its own"]
fn short_drain() {
    install_logger(0, 0);
    // Minutes, unless all of the shutdown has only seconds.
    for (timeout, is_short) in [(600, false), (20, true)] {
        let begin = Instant::now();
        // A courier who is slow has no time for the line.
        let line = loop {
            assert!(begin.elapsed() < LONG, "nothing was said");
            drains_at_once(Duration::from_secs(timeout));
            if let Some(line) = said("waiting up to") {
                break line;
            }
        };
        assert!(
            line.ends_with("for 1 task to finish what was begun"),
            "{line}"
        );
        assert_eq!(!line.contains("5 min 00 s"), is_short, "{line}");
        LINES.lock().expect("no panic").clear();
    }
}

fn drains_at_once(timeout: Duration) {
    let manager = Manager::builder()
        .grace(Duration::from_secs(600))
        .drain(Duration::from_secs(300))
        .build()
        .expect("a manager");
    let (there, ready) = bounded(1);
    let task = manager.task("drains").drains().spawn(move |ctx| {
        there.send(())?;
        let _ = ctx.draining().recv();
        Ok(())
    });
    drop(task.expect("spawned"));
    ready.recv().expect("it runs");
    let report = manager.shutdown_timeout(timeout);
    assert!(report.expect("a report").is_clean());
    drop(manager); // waits for its courier
}

#[test]
#[ignore = "run in a process of its own"]
fn deaf_children() {
    install_logger(0, 0);
    let manager = Manager::builder().grace(LONG).build().expect("a manager");
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(2);
    let (order, ordered) = bounded::<()>(0);
    let deaf = |name: &str| {
        let (there, released) = (there.clone(), released.clone());
        let child = Child::new(name, move |_| {
            there.send(())?;
            let _ = released.recv();
            Ok(())
        });
        child.grace(Duration::from_millis(20))
    };
    let supervisor = Supervisor::new(Strategy::OneForOne)
        .child(deaf("one"))
        .child(deaf("other"))
        .child(Child::new("permanent", move |_| {
            ordered.recv()?;
            Err(Permanent::new("no port is set").into())
        }));
    let supervisor = manager.task("house").supervise(supervisor);
    let supervisor = supervisor.expect("started");
    (0..2).for_each(|_| ready.recv().expect("they run"));
    order.send(()).expect("it listens");
    let Err(JoinError::Failed { error, .. }) = supervisor.join_timeout(LONG) else {
        panic!("no failure")
    };
    assert_eq!(error.to_string(), "`house/permanent` failed", "the cause");
    for name in ["one", "other"] {
        let words = format!("`house/{name}` did not stop within its grace of 20 ms");
        until_said(&words);
    }
    drop(release);
}
