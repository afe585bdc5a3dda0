//! The six ways background work dies elsewhere, and what happens here: README's table, row by row.

#![cfg(unix)]

use std::any::type_name;
use std::env;
use std::process::{self, Command};
use std::thread;
use std::time::Duration;

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{JoinError, Manager, Outcome, ShutdownReport, TaskContext, TaskResult};

#[path = "end_to_end/program.rs"]
#[allow(dead_code, reason = "some of it is for other tests")]
mod program;

use program::Program;

/// Long enough for everybody who hears.
const A_MOMENT: Duration = Duration::from_millis(500);

/// No test waits that long.
const AN_HOUR: Duration = Duration::from_secs(60 * 60);

/// Nothing here takes that long.
const HANG: Duration = Duration::from_secs(60);

#[test]
fn a_task_whose_handle_is_dropped_goes_on_and_is_listed_and_reported() {
    let (order, orders) = bounded(1);
    let (result, results) = bounded(1);
    let report = Manager::builder().run(|manager| {
        let handle = manager.spawn("forgotten", move |ctx| {
            let order = ctx.recv(&orders)?;
            Ok(result.send(order + 1_u32)?)
        })?;
        drop(handle);
        assert_eq!(&*manager.tasks()[0].name, "forgotten");
        order.send(41)?;
        let answer = results.recv()?;
        assert_eq!(answer, 42);
        Ok(())
    });
    assert_eq!(report.tasks()[0].name(), "forgotten");
    assert!(matches!(report.tasks()[0].outcome(), Outcome::Completed));
}

#[test]
fn a_task_outlives_the_request_that_started_it() {
    let (order, orders) = bounded(1);
    let (letter, letters) = bounded(1);
    let report = Manager::builder().run(|manager| {
        let receipts = manager.group("receipts");
        let request = manager.spawn("request", move |_| {
            receipts.spawn("receipt", move |ctx| {
                let order = ctx.recv(&orders)?;
                Ok(letter.send(format!("thank you for {order}"))?)
            })?;
            Ok(())
        })?;
        request.join()?; // its thread, its stack and its handles are gone
        order.send("three apples")?;
        assert_eq!(letters.recv()?, "thank you for three apples");
        Ok(())
    });
    assert_eq!(report.exit_code(), 0);
}

#[test]
fn a_cancel_is_heard_by_loops_and_waits_and_who_is_deaf_to_it_is_named_with_its_place() {
    let (end_of_test, elsewhere) = bounded::<()>(0);
    let report = Manager::builder().grace(A_MOMENT).run(|manager| {
        let counts = manager.task("counts").spawn_ready(HANG, |ctx| {
            ctx.ready();
            (0_u64..).try_for_each(|_| Ok(ctx.checkpoint()?))
        })?;
        let sleeps = manager.task("sleeps").spawn_ready(HANG, |ctx| {
            ctx.ready();
            Ok(ctx.sleep(AN_HOUR)?)
        })?;
        for task in [counts, sleeps] {
            task.cancel();
            assert!(matches!(task.join(), Err(JoinError::Cancelled { .. })));
        }

        let deaf = manager.task("deaf").spawn_ready(HANG, move |ctx| {
            ctx.ready();
            Ok(elsewhere.recv()?) // `ctx.recv(&elsewhere)` would hear the stop
        })?;
        let stopped = deaf.stop(Duration::from_millis(10));
        assert!(matches!(stopped, Err(JoinError::StillRunning { .. })));
        Ok(())
    });
    let deaf = report.tasks()[2].diagnosis().expect("it did not stop");
    let (deaf, place) = (deaf.to_string(), concat!("last seen at ", file!()));
    assert!(deaf.starts_with("`deaf`") && deaf.contains(place), "{deaf}");
    drop(end_of_test);
}

#[test]
fn one_shutdown_lets_everybody_finish_and_waits_for_nobody_for_ever() {
    // On a very busy machine the writer needs more than a moment: then once more, with more time.
    let everybody_finishes = ["0.5", "5", "15"].into_iter().any(|grace| {
        let program = program_with(grace, || {
            Manager::builder().run(|manager| {
                manager.task("writer").spawn_ready(HANG, |ctx| {
                    eprintln!("half of it");
                    ctx.ready();
                    ctx.wait(); // asked to stop in the middle of the write
                    eprintln!("the other half");
                    Ok(())
                })?;
                manager.task("hanger").spawn_ready(HANG, hangs)?;
                Ok(())
            })
        });
        let exit = program.exit();
        exit.assert_says("hanger  ABANDONED  did not stop");
        exit.assert_code(2);
        exit.stderr.contains("half of it\nthe other half\n")
    });
    assert!(everybody_finishes, "the writer never finishes");
}

#[test]
fn each_signal_drives_the_same_shutdown_a_second_hurries_it_and_a_third_ends_the_process() {
    let start = || {
        let program = program(|| {
            Manager::builder().grace(AN_HOUR).run(|manager| {
                manager.handle_signals()?;
                manager.task("hook").spawn_ready(HANG, |ctx| {
                    ctx.ready();
                    ctx.wait();
                    eprintln!("cleaning up"); // and there is an hour for it
                    hangs(ctx)
                })?;
                eprintln!("ready");
                drop(manager.wait());
                Ok(())
            })
        });
        program.wait_for_line("ready");
        program
    };
    for [first, second] in [["INT", "TERM"], ["TERM", "HUP"], ["HUP", "INT"]] {
        let program = start();
        program.signal(first);
        program.wait_for_line("cleaning up");
        program.signal(second);
        let exit = program.exit();
        exit.assert_says("hook  ABANDONED  did not stop");
        exit.assert_code(2);
    }
    let program = start();
    program.signals(&["INT", "TERM", "HUP"]);
    program.exit().assert_code(130);
}

#[test]
fn a_panic_is_heard_when_it_happens_and_again_in_the_report_and_the_exit_code() {
    let program = program(|| {
        taskmuster::logging::init();
        Manager::builder().run(|manager| {
            manager.handle_signals()?;
            manager.spawn("goes on", |ctx| Ok(ctx.sleep(AN_HOUR)?))?;
            manager.spawn::<()>("printer", |_| panic!("out of paper"))?;
            drop(manager.wait());
            Ok(())
        })
    });
    program.wait_for_line("ERROR printer"); // while the program goes on, and nobody has joined it
    program.signal("TERM");
    let exit = program.exit();
    exit.assert_says("printer  panicked   before it was asked, read by nobody");
    exit.assert_code(1);
}

/// What no stop reaches.
fn hangs(ctx: &TaskContext) -> TaskResult {
    ctx.ready();
    loop {
        thread::park();
    }
}

/// The test that calls it once more, as a program of its own whose `main` this is.
fn program<F: FnOnce() -> ShutdownReport>(main: F) -> Program {
    program_with("", main)
}

/// As `program`, with a grace in seconds.
fn program_with<F: FnOnce() -> ShutdownReport>(grace: &str, main: F) -> Program {
    const ROLE: &str = "PROMISES_ROLE";
    if env::var_os(ROLE).is_some() {
        let report = main();
        eprintln!("{report}");
        process::exit(i32::from(report.exit_code()));
    }
    let test = type_name::<F>().split("::").nth(1); // promises::TEST::{{closure}}
    let this = env::current_exe().expect("a running test has a path");
    let mut command = Command::new(this);
    command.args(["--exact", test.expect("a closure in a test"), "--nocapture"]);
    command.env("TASKMUSTER_GRACE", grace);
    Program::start(command.env(ROLE, "main"))
}
