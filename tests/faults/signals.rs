//! Signals in every state of a program, and its end: faults 68 and 90 to 102.

use std::env;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::path::PathBuf;
use std::process::{self, Command, ExitCode, Stdio, Termination as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use taskmuster::crossbeam_channel::bounded;
use taskmuster::{
    CauseKind, Group, Manager, ShutdownReport, SignalError, TaskHandle, TaskResult, Waited,
};

use crate::books::{HANG, arrives, in_some_try, is_long, rounds};
use crate::child;
use crate::child::program::{Exit, Program, Stream};
use crate::race::until;
use crate::shim::Shim;
use crate::stuck::{Jail, Stuck};
use crate::usage;

use Signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};

/// Those that ask for the shutdown.
const ASKING: [Signal; 3] = [SIGINT, SIGTERM, SIGHUP];

/// How the role is to be played.
const HOW: &str = "FAULTS_HOW";

/// The first words of the report.
const REPORT: &str = "taskmuster: stopped by";

// ---- roles and how they are played ----

/// A running role.
struct Played {
    program: Program,
    pid: Pid,
}

/// Plays a role of this file.
fn play(role: &str, how: &str) -> Played {
    play_with(&mut child::role(&format!("signals::{role}")), how)
}

fn play_with(command: &mut Command, how: &str) -> Played {
    Played::of(Program::start(
        command.env(HOW, how).env("RUST_BACKTRACE", "0"),
    ))
}

impl Played {
    /// What says its pid.
    fn of(program: Program) -> Self {
        let line = program.wait_for_line("pid ");
        let (_, pid) = line.split_once("pid ").expect("it was found");
        let pid = Pid::from_raw(pid.trim().parse().expect("a number"));
        Self { program, pid }
    }

    fn ready(self) -> Self {
        self.program.wait_for_line("ready");
        self
    }

    fn send(&self, signal: Signal) {
        kill(self.pid, signal).expect("it is not reaped before `exit`");
    }

    fn line(&self, text: &str) {
        self.program.wait_for_line(text);
    }

    fn is_alive(&self) -> bool {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let state = stat
            .rsplit(") ")
            .next()
            .and_then(|rest| rest.chars().next());
        state.is_some_and(|state| state != 'Z')
    }

    /// How many times the thread that hears signals has begun to wait: one more for each that it has dealt with.
    #[cfg(target_os = "linux")]
    fn waits_for_signals(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.pid));
        let read = |thread: &fs::DirEntry, file| {
            fs::read_to_string(thread.path().join(file)).unwrap_or_default()
        };
        let mut threads = threads.into_iter().flatten().flatten();
        let listener = threads.find(|thread| read(thread, "comm") == "ctrl-c\n");
        let status = listener.map(|it| read(&it, "status")).unwrap_or_default();
        let mut lines = status.lines();
        let waits = lines.find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        waits.map_or(0, |waits| waits.trim().parse().expect("a number"))
    }

    fn exit(self) -> Exit {
        self.program.exit()
    }
}

/// In a role: how it is to be played, when the pid was said.
fn how() -> String {
    // The number outside of any name space of pids the role may be in.
    let pid = fs::read_link("/proc/self");
    let pid = pid.map_or_else(
        |_| process::id().to_string(),
        |pid| pid.display().to_string(),
    );
    eprintln!("pid {pid}");
    env::var(HOW).unwrap_or_default()
}

/// A task that stops when it is asked to.
fn listener(group: &Group) -> TaskHandle<()> {
    let (there, ready) = bounded(1);
    let task = group.spawn("listener", move |ctx| {
        there.send(())?;
        Err(ctx.wait().into())
    });
    arrives(&ready);
    task.expect("spawned")
}

/// A task that is stuck for ever.
fn stuck_for_ever(group: &Group, kind: Stuck) {
    let jail = Jail::new();
    let (there, ready) = bounded(2);
    drop(kind.spawn(group, jail.cell(), &there));
    arrives(&ready);
    if kind != Stuck::Spin && cfg!(target_os = "linux") {
        usage::until_it_sleeps(&kind.name());
    }
    std::mem::forget(jail);
}

/// Goes through the scenarios, a few at a time.
fn at_once<S: Sync>(scenarios: &[S], play: impl Fn(&S) + Sync) {
    let next = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(scenario) = scenarios.get(next.fetch_add(1, Ordering::Relaxed)) {
                    play(scenario);
                }
            });
        }
    });
}

/// The end of a process in one of several plays: of three signals the last may come when the hurry that the second asked
/// for is over, and who gets no processor for as long is late, or is overtaken by the last resort.
#[track_caller]
fn ends_with(code: i32, what: &str, play: impl Fn() -> Exit) -> Exit {
    in_some_try(what, || {
        let exit = play();
        if exit.status.code() == Some(code) {
            return Ok(exit);
        }
        let is_late = exit.status.code() == Some(2) || exit.status.signal() == Some(6);
        assert!(is_late, "{what}: {}: {}", exit.status, exit.stderr);
        Err(format!("{}: {}", exit.status, exit.stderr))
    })
}

#[track_caller]
fn assert_one_report(exit: &Exit) {
    assert_eq!(exit.stderr.matches(REPORT).count(), 1, "{}", exit.stderr);
}

/// The next of the three.
fn after(signal: Signal) -> Signal {
    let place = ASKING
        .iter()
        .position(|it| *it == signal)
        .expect("one of them");
    ASKING[(place + 1) % ASKING.len()]
}

// ---- 91, 92: before the handler, and while tasks are being started ----

/// Has tasks, but no handler.
#[test]
#[ignore = "a role of a child process"]
fn has_no_handler() {
    how();
    let manager = Manager::builder().build().expect("a manager");
    let _listener = listener(manager.root_group());
    eprintln!("ready");
    drop(manager.wait());
}

#[test]
fn f091_a_signal_before_the_handler_ends_the_process_as_ever() {
    at_once(&ASKING, |signal| {
        let played = play("has_no_handler", "").ready();
        played.send(*signal);
        let exit = played.exit();
        assert_eq!(
            exit.status.signal(),
            Some(*signal as i32),
            "{}",
            exit.stderr
        );
    });
}

/// Starts tasks for ever.
#[test]
#[ignore = "a role of a child process"]
fn starts_tasks_for_ever() {
    let how = how();
    let said = AtomicBool::new(false);
    let report = Manager::builder().grace(HANG).run(|manager| {
        manager.handle_signals()?;
        let say = || {
            if !said.swap(true, Ordering::SeqCst) {
                eprintln!("ready");
            }
            thread::sleep(Duration::from_millis(5)); // or the limit of threads comes first
        };
        let waits = |ctx: &taskmuster::TaskContext| -> TaskResult { Err(ctx.wait().into()) };
        match how.as_str() {
            "passes the refusal on" => loop {
                manager.spawn("task", waits)?;
                say();
            },
            "stops at the refusal" => {
                while manager.spawn("task", waits).is_ok() {
                    say();
                }
                Ok(())
            }
            "in groups" => loop {
                manager.group("g").group("h").spawn("task", waits)?;
                say();
            },
            "in a scope" => Ok(manager.scope("scope", |scope| {
                loop {
                    drop(scope.spawn("task", waits)?);
                    say();
                }
            })?),
            "within a task" => {
                let starter = manager.spawn("starter", move |ctx| -> TaskResult {
                    loop {
                        ctx.group().spawn("task", waits)?;
                        thread::sleep(Duration::from_millis(5));
                    }
                })?;
                eprintln!("ready");
                Ok(starter.join()?)
            }
            _ => loop {
                manager.task("task").spawn_ready(HANG, |ctx| {
                    ctx.ready();
                    Err::<(), _>(ctx.wait().into())
                })?;
                say();
            },
        }
    });
    child::end(&report)
}

#[test]
fn f092_a_signal_while_tasks_are_being_started_refuses_the_rest_and_is_a_clean_end() {
    let ways = [
        "passes the refusal on",
        "stops at the refusal",
        "in groups",
        "in a scope",
        "within a task",
        "waiting for each to be ready",
    ];
    let scenarios: Vec<_> = ways.iter().zip(ASKING.iter().cycle()).collect();
    at_once(&scenarios, |(way, signal)| {
        let played = play("starts_tasks_for_ever", way).ready();
        played.send(**signal);
        let exit = played.exit();
        assert_eq!(exit.status.code(), Some(0), "{way}: {}", exit.stderr);
        assert_one_report(&exit);
        exit.assert_says("stopped by signal");
    });
}

// ---- states of main ----

/// Main is where it is told to be, with one task that stops when it is asked to.
#[test]
#[ignore = "a role of a child process"]
fn main_is() {
    taskmuster::logging::init();
    let how = how();
    let builder = Manager::builder().grace(3 * HANG);
    let builder = match how.as_str() {
        "in the lame-duck time" => builder.lame_duck(HANG),
        "in the drain time" => builder.drain(HANG),
        _ => builder,
    };
    let mut over = false;
    let report = builder.run(|manager| {
        manager.handle_signals()?;
        let group = manager.group("g");
        let task = listener(&group);
        let ready = || eprintln!("ready");
        match how.as_str() {
            "in a wait" => {
                ready();
                assert!(matches!(manager.wait(), Waited::Requested(it) if it.kind() == CauseKind::Signal));
            }
            "in a join" => {
                ready();
                task.join()?;
            }
            "in a join of a group" => {
                ready();
                group.join()?;
            }
            "in a wait for several" => {
                ready();
                assert_eq!(taskmuster::wait_any(&[task]), 0);
            }
            "in a scope" => {
                manager.scope("scope", |scope| {
                    drop(scope.spawn("borrows", |ctx| -> TaskResult { Err(ctx.wait().into()) })?);
                    ready();
                    Ok(())
                })?;
            }
            "in foreign code" => {
                ready();
                loop {
                    thread::park();
                }
            }
            "in a read" => {
                let (mut reader, writer) = io::pipe()?;
                ready();
                io::Read::read_exact(&mut reader, &mut [0])?;
                drop(writer);
            }
            "in the lame-duck time" | "in the drain time" => {
                let drainer = manager.task("drainer").drains().spawn(|ctx| -> TaskResult {
                    Err(ctx.wait().into()) // it does not end by itself
                })?;
                ready();
                drop(manager.wait());
                drop(drainer);
            }
            "in a shutdown of its own" => {
                stuck_for_ever(manager.root_group(), Stuck::Receive);
                manager.request_shutdown("its own");
                until("its begin", || task.token().is_cancelled());
                ready();
            }
            "over" => over = true,
            other => panic!("{other}"),
        }
        Ok(())
    });
    if over {
        eprintln!("{report}\nready");
        loop {
            thread::park();
        }
    }
    child::end(&report)
}

fn each_with_each_signal(states: &[&'static str]) -> Vec<(&'static str, Signal)> {
    let pairs = states
        .iter()
        .flat_map(|state| ASKING.map(|signal| (*state, signal)));
    pairs.collect()
}

#[test]
fn f092_a_signal_while_main_waits_in_any_way_lets_it_go_and_is_a_clean_end() {
    let states = [
        "in a wait",
        "in a join",
        "in a join of a group",
        "in a wait for several",
        "in a scope",
    ];
    at_once(&each_with_each_signal(&states), |(state, signal)| {
        let played = play("main_is", state).ready();
        played.send(*signal);
        let exit = played.exit();
        assert_eq!(exit.status.code(), Some(0), "{state}: {}", exit.stderr);
        assert_one_report(&exit);
        exit.assert_says("stopped by signal");
        exit.assert_says("    g/listener ");
    });
}

#[test]
fn f093_main_in_code_that_hears_nothing_is_named_when_all_have_stopped_and_the_third_signal_ends_it()
 {
    at_once(
        &each_with_each_signal(&["in foreign code", "in a read"]),
        |(state, signal)| {
            let played = play("main_is", state).ready();
            played.send(*signal);
            played.line("has not returned");
            played.send(after(*signal));
            played.send(after(after(*signal)));
            played.exit().assert_code(130);
        },
    );
}

#[test]
fn f093_the_first_signal_after_the_last_manager_ends_the_process() {
    at_once(&each_with_each_signal(&["over"]), |(state, signal)| {
        let played = play("main_is", state).ready();
        played.send(*signal);
        let exit = played.exit();
        exit.assert_code(130);
        assert_one_report(&exit);
    });
}

/// Is stopped by a signal, and prints its result when its standard input ends.
#[test]
#[ignore = "a role of a child process"]
fn prints_its_result_after_the_shutdown() {
    how();
    let report = Manager::builder().grace(HANG).run(|manager| {
        manager.handle_signals()?;
        let _listener = listener(manager.root_group());
        eprintln!("ready");
        drop(manager.wait());
        Ok(())
    });
    eprintln!("`run` has returned");
    drop(io::copy(&mut io::stdin(), &mut io::sink()));
    println!("the result");
    child::end(&report)
}

/// Plays that role and stops it by a signal; it goes on when there is no more input.
fn play_stopped(signal: Signal, input: impl Into<Stdio>) -> Played {
    let mut role = child::role("signals::prints_its_result_after_the_shutdown");
    let program = Program::start_without(role.stdin(input), &[Stream::Stdin]);
    let played = Played::of(program).ready();
    played.send(signal);
    played.line("`run` has returned");
    played
}

#[test]
#[cfg(target_os = "linux")]
fn f093_a_second_signal_costs_a_program_that_has_stopped_neither_its_result_nor_its_report() {
    at_once(&ASKING, |signal| {
        let (input, writer) = io::pipe().expect("a pipe");
        let played = play_stopped(*signal, input);
        let waits = played.waits_for_signals();
        played.send(after(*signal));
        until("the second signal", || {
            !played.is_alive() || played.waits_for_signals() > waits
        });
        drop(writer);
        let exit = played.exit();
        exit.assert_code(0);
        assert!(exit.stdout.contains("the result"), "{}", exit.stdout);
        assert_one_report(&exit);
    });
}

#[test]
fn f093_a_third_signal_ends_a_program_that_has_stopped_and_is_not_over() {
    at_once(&ASKING, |signal| {
        let (input, writer) = io::pipe().expect("a pipe");
        let played = play_stopped(*signal, input);
        played.send(after(*signal));
        played.send(after(after(*signal)));
        played.exit().assert_code(130);
        drop(writer);
    });
}

#[test]
fn f068_a_signal_in_the_lame_duck_or_drain_time_is_followed_by_one_that_ends_it() {
    let states = ["in the lame-duck time", "in the drain time"];
    at_once(&each_with_each_signal(&states), |(state, signal)| {
        let exit = ends_with(0, state, || {
            let played = play("main_is", state).ready();
            played.send(*signal);
            played.line("stopping 2 tasks");
            played.send(after(*signal));
            played.exit()
        });
        assert_one_report(&exit);
        exit.assert_says("hurried");
    });
}

#[test]
fn f068_a_signal_while_a_shutdown_runs_adds_nothing_a_second_hurries_it_and_a_third_ends_it() {
    at_once(
        &each_with_each_signal(&["in a shutdown of its own"]),
        |(state, signal)| {
            let (one, two, three) = (*signal, after(*signal), after(after(*signal)));
            let ends = |signals: &[Signal]| {
                let played = play("main_is", state).ready();
                played.send(one);
                thread::sleep(Duration::from_millis(400)); // a hurry would be over
                assert!(
                    played.is_alive(),
                    "the first one asks for what is being done already"
                );
                for signal in signals {
                    played.send(*signal);
                }
                played.exit()
            };
            let exit = ends(&[two]);
            exit.assert_code(2);
            assert_one_report(&exit);
            exit.assert_says("stopped by shutdown");
            exit.assert_says("hurried");
            ends_with(130, state, || ends(&[two, three]));
        },
    );
}

// ---- 93: kinds of stuck, by one, two and three signals ----

/// Has one task that stops and one that is stuck.
#[test]
#[ignore = "a role of a child process"]
fn has_a_stuck_task() {
    taskmuster::logging::init();
    let kind = Stuck::named(&how());
    let report = Manager::builder().run(|manager| {
        manager.handle_signals()?;
        let _listener = listener(manager.root_group());
        stuck_for_ever(manager.root_group(), kind);
        eprintln!("ready");
        drop(manager.wait());
        Ok(())
    });
    child::end(&report)
}

fn play_stuck(kind: Stuck, grace: &str) -> Played {
    let mut role = child::role("signals::has_a_stuck_task");
    play_with(role.env("TASKMUSTER_GRACE", grace), &kind.name()).ready()
}

#[test]
#[cfg(target_os = "linux")]
fn f093_one_signal_gives_the_grace_to_a_task_stuck_in_any_way_and_then_the_report_with_its_place() {
    at_once(&Stuck::ALL, |kind| {
        // Who gets no processor until then neither computes nor passes checkpoints, and is late.
        let exit = in_some_try(&kind.name(), || {
            let played = play_stuck(*kind, "0.7");
            let start = Instant::now();
            played.send(SIGTERM);
            let exit = played.exit();
            assert!(start.elapsed() >= Duration::from_millis(700), "{kind:?}");
            let code = Some(i32::from(kind.exit_code()));
            if exit.status.code() == code && exit.stderr.contains(kind.words()) {
                Ok(exit)
            } else {
                Err(format!("{}: {}", exit.status, exit.stderr))
            }
        });
        assert_one_report(&exit);
        exit.assert_says("    listener ");
    });
}

#[test]
fn f093_two_signals_give_a_task_stuck_in_any_way_a_moment_and_then_the_report() {
    at_once(&Stuck::ALL, |kind| {
        let exit = ends_with(i32::from(kind.exit_code()), &kind.name(), || {
            let played = play_stuck(*kind, "600");
            played.send(SIGINT);
            played.line("stopping ");
            played.send(SIGINT);
            played.exit()
        });
        assert_one_report(&exit);
        exit.assert_says("hurried");
        exit.assert_says(&format!("`{}` ", kind.name()));
    });
}

/// From the third signal to the end of the process, where that is measured.
struct Longest(Mutex<Duration>);

impl Longest {
    fn new() -> Self {
        Self(Mutex::default())
    }

    /// Sends it and waits for the end.
    fn end(&self, played: Played, signal: Signal) -> Exit {
        let start = Instant::now();
        played.send(signal);
        let exit = played.exit();
        let took = start.elapsed();
        let mut longest = self.0.lock().expect("no panic");
        *longest = took.max(*longest);
        exit
    }

    fn say(self) {
        let longest = self.0.into_inner().expect("no panic");
        println!("from the third signal to the end: {longest:?} at most");
        if is_long() && !cfg!(debug_assertions) {
            assert!(longest < Duration::from_millis(100), "{longest:?}");
        }
    }
}

#[test]
fn f093_three_signals_end_the_process_at_once_whatever_a_task_is_stuck_in() {
    let longest = Longest::new();
    at_once(&Stuck::ALL, |kind| {
        ends_with(130, &kind.name(), || {
            let played = play_stuck(*kind, "600");
            played.send(SIGINT);
            played.line("stopping ");
            played.send(SIGHUP);
            longest.end(played, SIGTERM)
        });
    });
    longest.say();
}

/// A logger that never returns from a line.
struct Silent;

impl log::Log for Silent {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        self.flush();
    }

    fn flush(&self) {
        loop {
            thread::park();
        }
    }
}

/// A logger that panics at each line.
struct Hysteric;

impl log::Log for Hysteric {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, _: &log::Record<'_>) {
        panic!("in the logger");
    }

    fn flush(&self) {
        panic!("in the flush");
    }
}

/// Everything that may hang hangs.
#[test]
#[ignore = "a role of a child process"]
fn hangs_everywhere() {
    let how = how();
    if how.contains("logger") {
        log::set_logger(&Silent).expect("the only one");
        log::set_max_level(log::LevelFilter::Trace);
    }
    let report = Manager::builder().grace(20 * HANG).run(|manager| {
        manager.handle_signals()?;
        let crowd = if how.contains("a thousand") { 1_000 } else { 0 };
        let jail = Jail::new();
        let (there, ready) = bounded(2_000);
        for _ in 0..crowd {
            drop(Stuck::Receive.spawn(manager.root_group(), jail.cell(), &there));
        }
        for kind in Stuck::ALL {
            drop(kind.spawn(manager.root_group(), jail.cell(), &there));
        }
        for _ in 0..crowd + Stuck::ALL.len() {
            ready.recv_timeout(HANG)?;
        }
        std::mem::forget(jail);
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            before(info);
            loop {
                thread::park(); // a hook that never returns
            }
        }));
        drop(manager.spawn("panics", |_| -> TaskResult { panic!("into the hook") }));
        if how.contains("output") {
            fill_standard_output();
        }
        if how.contains("exit") {
            eprintln!("ready");
            process::exit(7) // whose destructors hang
        }
        if how.contains("drops") {
            // Main is in the destructor of something of its own.
            struct Blocks;
            impl Drop for Blocks {
                fn drop(&mut self) {
                    loop {
                        thread::park();
                    }
                }
            }
            let _blocks = Blocks;
            eprintln!("ready");
            return Ok(());
        }
        eprintln!("ready");
        drop(manager.wait());
        Ok(())
    });
    child::end(&report)
}

/// Leaves a thread in the middle of a line that nobody reads, and half a line in the buffer.
fn fill_standard_output() {
    let (there, ready) = bounded(1);
    thread::spawn(move || {
        let mut out = io::stdout().lock();
        let _ = there.send(());
        while out
            .write_all(&[b'x'; 4_096])
            .and_then(|()| out.flush())
            .is_ok()
        {}
    });
    arrives(&ready);
}

#[test]
fn f093_three_signals_end_the_process_at_once_even_if_tasks_callbacks_destructors_logger_and_hook_hang()
 {
    let longest = Longest::new();
    let ways = [
        "tasks",
        "tasks and logger",
        "a thousand tasks",
        "tasks, logger and main in drops",
    ];
    at_once(&ways, |way| {
        for signal in ASKING {
            ends_with(130, way, || {
                let played = play("hangs_everywhere", way).ready();
                played.send(after(signal));
                played.send(after(after(signal)));
                longest.end(played, signal)
            });
        }
    });
    longest.say();
}

#[test]
fn f093_three_signals_end_a_process_whose_standard_output_nobody_reads() {
    let play = || {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut role = child::role("signals::hangs_everywhere");
        role.env(HOW, "output")
            .env("RUST_BACKTRACE", "0")
            .stdout(writer);
        let program = Program::start_without(&mut role, &[Stream::Stdout]);
        drop(role);
        let played = Played::of(program).ready();
        played.send(SIGINT);
        played.send(SIGTERM);
        let exit = Longest::new().end(played, SIGHUP);
        drop(reader);
        exit
    };
    in_some_try("the third signal", || {
        let exit = play();
        // With half a line in the buffer std waits for the reader: then the last resort comes.
        let is_over = exit.status.code() == Some(130) || exit.status.signal() == Some(6);
        let too_late = || format!("{}: {}", exit.status, exit.stderr);
        is_over.then_some(()).ok_or_else(too_late)
    });
}

/// Destructors of the C library that never return.
const HANGING_DESTRUCTORS: &str = r"
#include <unistd.h>
__attribute__((destructor)) static void hang(void) { for (;;) pause(); }
";

#[test]
fn f093_three_signals_end_a_process_whose_destructors_in_the_c_library_hang_by_the_last_resort() {
    let Some(shim) = Shim::compile("hanging-destructors", HANGING_DESTRUCTORS) else {
        return;
    };
    at_once(&["tasks", "tasks and main in an exit"], |way| {
        let mut role = child::role("signals::hangs_everywhere");
        shim.under(&mut role);
        let played = play_with(&mut role, way).ready();
        played.send(SIGINT);
        played.send(SIGTERM);
        let start = Instant::now();
        let exit = Longest::new().end(played, SIGHUP);
        println!("{way}: ended after {:?}", start.elapsed());
        assert_eq!(
            exit.status.signal(),
            Some(6),
            "{way}: {}: {}",
            exit.status,
            exit.stderr
        );
    });
}

#[test]
fn f093_three_signals_within_microseconds_in_any_order_are_three() {
    let orders = ASKING.map(|one| [one, after(one), after(after(one))]);
    let orders = orders.iter().flat_map(|it| [*it, [it[0], it[2], it[1]]]);
    let orders: Vec<_> = orders.collect();
    at_once(&orders, |order| {
        ends_with(130, "three signals", || {
            let played = play_stuck(Stuck::Spin, "600");
            for signal in order {
                played.send(*signal);
            }
            played.exit()
        });
    });
}

// ---- 94: the thread that hears signals cannot be started ----

/// Asks for signals when no thread can be had.
#[test]
#[ignore = "a role of a child process"]
fn hears_nothing() {
    let how = how();
    let gate = PathBuf::from(env::var_os("FAULTS_GATE").expect("the test says where"));
    let close = || drop(File::create(&gate).expect("a file"));
    let open = || fs::remove_file(&gate).expect("it was there");
    let report = Manager::builder().grace(HANG).run(|manager| {
        let _listener = listener(manager.root_group());
        if how == "the last resort" {
            manager.handle_signals()?;
            stuck_for_ever(manager.root_group(), Stuck::Receive);
            close();
            eprintln!("ready");
            drop(manager.wait());
            return Ok(());
        }
        close();
        let start = Instant::now();
        let result = manager.handle_signals();
        eprintln!("tried for {} ms: {result:?}", start.elapsed().as_millis());
        open();
        match how.as_str() {
            "passes the error on" => result?,
            "a few times" => result.expect("it was tried again"),
            _ => {
                let Err(error @ SignalError::Os(_)) = result else {
                    panic!("no error")
                };
                assert!(std::error::Error::source(&error).is_some());
            }
        }
        if how == "goes on" {
            for beat in 0.. {
                eprintln!("beat {beat}.");
                thread::sleep(Duration::from_millis(20));
            }
        }
        manager.handle_signals()?;
        manager.handle_signals()?; // as often as one likes
        eprintln!("ready");
        drop(manager.wait());
        Ok(())
    });
    child::end(&report)
}

#[test]
fn f094_without_a_thread_for_signals_there_is_an_error_and_what_comes_is_swallowed_until_it_is_tried_again()
 {
    let Some(shim) = Shim::without_threads() else {
        return;
    };
    let played = |number: usize, how: &str| {
        let gate = format!("gate-{}-{number}", process::id());
        let gate = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(gate);
        let mut role = child::role("signals::hears_nothing");
        shim.under(&mut role);
        role.env("FAULTS_GATE", &gate);
        if how == "a few times" {
            role.env("FAULTS_REFUSALS", "3");
        }
        (play_with(&mut role, how), gate)
    };
    let ways = [
        "passes the error on",
        "a few times",
        "goes on",
        "tries again",
        "the last resort",
    ];
    let scenarios: Vec<_> = ways.iter().enumerate().collect();
    at_once(&scenarios, |(number, way)| {
        if **way == "the last resort" {
            ends_with(130, way, || {
                let (played, gate) = played(*number, way);
                let played = played.ready();
                for signal in ASKING {
                    played.send(signal);
                }
                let exit = played.exit();
                drop(fs::remove_file(gate));
                exit
            });
            return;
        }
        let (played, gate) = played(*number, way);
        match **way {
            "passes the error on" => {
                let exit = played.exit();
                exit.assert_code(1);
                exit.assert_says("the system could not start the thread that hears signals");
            }
            "goes on" => {
                played.line("beat 0.");
                played.send(SIGTERM);
                played.send(SIGINT);
                played.line("beat 20."); // swallowed, as documented; dropping the program kills it
                assert!(played.is_alive());
            }
            _ => {
                let played = played.ready();
                played.send(SIGTERM);
                played.exit().assert_code(0);
            }
        }
        drop(fs::remove_file(gate));
    });
}

// ---- 95: nothing harms the thread that hears signals ----

/// Everything that the first signal sets off panics.
#[test]
#[ignore = "a role of a child process"]
fn panics_everywhere() {
    how();
    log::set_logger(&Hysteric).expect("the only one");
    log::set_max_level(log::LevelFilter::Trace);
    let mut reports = Vec::new();
    for number in 1..=2 {
        let manager = Manager::builder().grace(HANG).build().expect("a manager");
        let group = manager.root_group().clone();
        group.token().on_cancel(|| panic!("in a callback")).keep();
        let _listener = listener(&group);
        manager.handle_signals().expect("no panic comes out of it");
        if number == 2 {
            // Asked at its birth, since there was a signal.
            assert!(matches!(manager.wait(), Waited::Requested(_)));
        }
        eprintln!("ready {number}");
        drop(manager.wait());
        reports.push(manager.shutdown().expect("a report"));
    }
    assert!(reports.iter().all(ShutdownReport::is_clean));
    let last = Manager::builder().grace(HANG).build().expect("a manager");
    last.handle_signals().expect("no panic comes out of it");
    assert!(last.shutdown().expect("a report").is_clean());
    eprintln!("ready 3");
    loop {
        thread::park();
    }
}

#[test]
fn f095_panics_of_all_that_a_signal_sets_off_leave_the_next_ones_heard() {
    let played = play("panics_everywhere", "");
    played.line("ready 1");
    played.send(SIGTERM);
    played.line("ready 3");
    played.send(SIGINT); // left to a program that has stopped
    played.send(SIGHUP);
    played.exit().assert_code(130);
}

// ---- 96: others who handle signals ----

/// Shares the process with another user of ctrlc.
#[test]
#[ignore = "a role of a child process"]
fn shares_ctrlc() {
    let how = how();
    let report = Manager::builder().grace(HANG).run(|manager| {
        let _listener = listener(manager.root_group());
        let requester = manager.requester();
        if how == "the other one first" {
            ctrlc::set_handler(move || requester.request_shutdown("by the host's handler"))?;
            let Err(error @ SignalError::Taken) = manager.handle_signals() else {
                return Err("it was not noticed".into());
            };
            eprintln!("{error}");
        } else {
            manager.handle_signals()?;
            let refused = ctrlc::set_handler(|| eprintln!("the host's handler"));
            assert!(matches!(refused, Err(ctrlc::Error::MultipleHandlers)));
            manager.handle_signals()?;
        }
        eprintln!("ready");
        drop(manager.wait());
        Ok(())
    });
    child::end(&report)
}

#[test]
fn f096_another_owner_of_ctrlc_s_handler_is_a_typed_error_and_its_handler_can_ask_instead() {
    let scenarios = each_with_each_signal(&["the other one first", "the other one last"]);
    at_once(&scenarios, |(way, signal)| {
        let played = play("shares_ctrlc", way).ready();
        played.send(*signal);
        let exit = played.exit();
        exit.assert_code(0);
        assert_one_report(&exit);
        if *way == "the other one first" {
            exit.assert_says("other code of this process has set ctrlc's handler");
            exit.assert_says("by the host's handler");
        } else {
            exit.assert_says("stopped by signal");
            exit.assert_never_says("the host's handler");
        }
    });
}

#[test]
fn f096_signals_that_were_ignored_when_the_program_was_started_are_heard_all_the_same() {
    let wait = child::role("signals::waits_for_a_signal");
    let program = wait.get_program().to_str().expect("a path").to_owned();
    let wrapped = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, &program]).args(wait.get_args());
        shell
    };
    let scenarios = [
        ("trap '' INT; exec \"$0\" \"$@\"", SIGINT),
        ("trap '' TERM; exec \"$0\" \"$@\"", SIGTERM),
        ("trap '' HUP; exec \"$0\" \"$@\"", SIGHUP),
        ("trap '' INT TERM HUP QUIT; exec \"$0\" \"$@\"", SIGTERM),
        ("\"$0\" \"$@\" & wait $!", SIGINT),
        ("exec nohup \"$0\" \"$@\"", SIGHUP),
        ("exec nohup \"$0\" \"$@\"", SIGTERM),
        ("exec setsid \"$0\" \"$@\"", SIGINT),
    ];
    at_once(&scenarios, |(script, signal)| {
        let played = play_with(&mut wrapped(script), "").ready();
        played.send(*signal);
        let exit = played.exit();
        assert_eq!(exit.status.code(), Some(0), "{script}: {}", exit.stderr);
        assert_one_report(&exit);
    });
}

// ---- 97: several managers ----

/// Has several managers and one handler.
#[test]
#[ignore = "a role of a child process"]
fn has_several_managers() {
    let how = how();
    let build = || {
        let manager = Manager::builder()
            .grace(20 * HANG)
            .build()
            .expect("a manager");
        manager.handle_signals().expect("shared");
        manager
    };
    let first = build();
    let number = if how == "a hundred" { 100 } else { 1 };
    let others: Vec<_> = (0..number).map(|_| build()).collect();
    let all = || others.iter().chain([&first]);
    let tasks: Vec<_> = all().map(|it| listener(it.root_group())).collect();
    if how == "hurried" {
        all().for_each(|it| stuck_for_ever(it.root_group(), Stuck::Receive));
    }
    if how == "one is over" {
        assert!(others[0].shutdown().expect("a report").is_clean());
    }
    eprintln!("ready");
    let Waited::Requested(cause) = first.wait() else {
        panic!("its task ended by itself")
    };
    assert_eq!(cause.kind(), CauseKind::Signal);
    eprintln!("heard");
    let reports: Vec<_> = all().map(|it| it.shutdown().expect("a report")).collect();
    assert!(
        reports
            .iter()
            .all(|it| it.was_hurried() == (how == "hurried"))
    );
    // In a hurry on a busy machine they may be late.
    until("the ends", || tasks.iter().all(TaskHandle::is_finished));
    drop(others);
    // One that is made now is asked at its birth.
    let late = build();
    assert!(matches!(late.wait(), Waited::Requested(it) if it.kind() == CauseKind::Signal));
    until("the refusal", || late.spawn("late", |_| Ok(())).is_err());
    let report = late.shutdown().expect("a report");
    assert!(report.exit_code() == 0 || how == "hurried", "{report}");
    assert_eq!(report.was_hurried(), how == "hurried");
    process::exit(0)
}

#[test]
fn f097_one_signal_stops_all_managers_and_one_that_is_made_afterwards_starts_with_the_request() {
    let scenarios = each_with_each_signal(&["two", "a hundred", "one is over", "hurried"]);
    at_once(&scenarios, |(way, signal)| {
        let played = play("has_several_managers", way).ready();
        played.send(*signal);
        played.line("heard");
        if *way == "hurried" {
            played.send(after(*signal));
        }
        let exit = played.exit();
        assert_eq!(exit.status.code(), Some(0), "{way}: {}", exit.stderr);
    });
}

// ---- 98, 99: storms and kills ----

#[test]
fn f098_a_storm_of_ten_thousand_signals_ends_the_process_at_once_and_nothing_else() {
    let storms: [&[Signal]; 3] = [&[SIGTERM], &[SIGINT, SIGTERM, SIGHUP], &[SIGHUP]];
    at_once(&storms, |signals| {
        let played = play_stuck(Stuck::Spin, "600");
        let start = Instant::now();
        let sent = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    // Those that come while one like them waits to be heard are one with it: so there is no end to them.
                    while played.is_alive() {
                        for _ in 0..100 {
                            let number = sent.fetch_add(1, Ordering::Relaxed);
                            played.send(signals[number % signals.len()]);
                        }
                    }
                    while sent.fetch_add(1, Ordering::Relaxed) < 10_000 {
                        played.send(signals[0]); // to what is left of it
                    }
                });
            }
        });
        let exit = played.exit();
        let hurried = exit.stderr.contains("hurried") && exit.status.code() == Some(2);
        let is_over = exit.status.code() == Some(130) || hurried;
        assert!(is_over, "{}: {}", exit.status, exit.stderr);
        let shutdowns = exit.stderr.matches("stopping 2 tasks").count();
        assert!(shutdowns <= 1, "{}", exit.stderr);
        assert!(start.elapsed() < HANG);
    });
}

#[test]
fn f098_a_storm_on_a_process_that_is_about_to_end_anyhow_leaves_it_one_of_its_own_ends() {
    at_once(&[(); 4], |()| {
        let played = play("waits_for_a_signal", "").ready();
        played.send(SIGTERM);
        for _ in 0..1_000 {
            played.send(SIGTERM);
        }
        let exit = played.exit();
        let is_late = exit.stderr.contains("hurried"); // its task, without a processor
        let is_over = match exit.status.code() {
            Some(0 | 130) => true,
            Some(2) => is_late,
            _ => false,
        };
        assert!(is_over, "{}: {}", exit.status, exit.stderr);
        assert!(exit.stderr.matches(REPORT).count() <= 1, "{}", exit.stderr);
    });
}

#[test]
fn f099_a_kill_at_any_moment_leaves_nothing_that_hurts_the_next_start() {
    let kills: Vec<u64> = (0..rounds(20, 200) as u64).collect();
    at_once(&kills, |number| {
        let role = if number % 2 == 0 {
            "waits_for_a_signal"
        } else {
            "starts_tasks_for_ever"
        };
        let played = play(role, "in groups");
        // Some before it is ready, some in the middle of a stop.
        thread::sleep(Duration::from_micros(number * 977 % 12_000));
        if number % 4 == 1 {
            played.send(SIGTERM);
        }
        played.send(Signal::SIGKILL);
        let exit = played.exit();
        let ended = exit.status.signal() == Some(9)
            || exit.status.code() == Some(0)
            || exit.status.signal() == Some(15);
        assert!(ended, "{}: {}", exit.status, exit.stderr);
    });
    let played = play("waits_for_a_signal", "").ready();
    played.send(SIGTERM);
    played.exit().assert_code(0);
}

// ---- 100: other signals ----

/// Waits for signals with one task that hears its stop.
#[test]
#[ignore = "a role of a child process"]
fn waits_for_a_signal() {
    how();
    let masks = || {
        // The main thread's masks change for moments: it is starting the thread of this test.
        let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
                .unwrap_or_default()
        };
        [mask("SigCgt:"), mask("SigIgn:"), mask("SigBlk:")]
    };
    let report = Manager::builder().grace(HANG).run(|manager| {
        let [caught, ignored, blocked] = masks();
        manager.handle_signals()?;
        let [now_caught, now_ignored, now_blocked] = masks();
        eprintln!(
            "newly caught {:x}, no longer ignored {:x}, blocked {:x}",
            caught ^ now_caught,
            ignored ^ now_ignored,
            blocked ^ now_blocked
        );
        manager.spawn("waits", |ctx| {
            ctx.wait();
            Ok(())
        })?;
        eprintln!("ready");
        drop(manager.wait());
        Ok(())
    });
    child::end(&report)
}

#[test]
fn f100_other_signals_keep_their_default_action() {
    let others = [
        SIGQUIT,
        SIGUSR1,
        SIGUSR2,
        Signal::SIGALRM,
        Signal::SIGVTALRM,
        Signal::SIGXCPU,
    ];
    at_once(&others, |signal| {
        let played = play("waits_for_a_signal", "").ready();
        played.send(*signal);
        let exit = played.exit();
        assert_eq!(
            exit.status.signal(),
            Some(*signal as i32),
            "{}",
            exit.stderr
        );
    });
}

#[test]
#[cfg(target_os = "linux")]
fn f100_of_all_signals_three_are_caught_and_none_is_blocked_or_ignored() {
    let played = play("waits_for_a_signal", "").ready();
    // Those that do nothing by default, and the one that Rust's start ignores, still do nothing.
    for harmless in [
        Signal::SIGPIPE,
        Signal::SIGCHLD,
        Signal::SIGWINCH,
        Signal::SIGURG,
        Signal::SIGCONT,
    ] {
        played.send(harmless);
    }
    played.send(SIGTERM);
    let exit = played.exit();
    exit.assert_code(0);
    let caught =
        (1 << (SIGHUP as u32 - 1)) | (1 << (SIGINT as u32 - 1)) | (1_u64 << (SIGTERM as u32 - 1));
    exit.assert_says(&format!(
        "newly caught {caught:x}, no longer ignored 0, blocked 0"
    ));
}

// ---- 102: standard streams ----

/// Returns its report from main, as programs do.
#[test]
#[ignore = "a role of a child process"]
fn returns_its_report() {
    taskmuster::logging::init();
    // Standard error may be no place for words.
    println!("pid {}", process::id());
    let how = env::var(HOW).unwrap_or_default();
    // In time for who listens, and soon for who does not.
    let grace = match how.as_str() {
        "2" => Duration::from_millis(400),
        _ => HANG,
    };
    let report = Manager::builder().grace(grace).run(|manager| {
        manager.handle_signals()?;
        let _listener = listener(manager.root_group());
        match how.as_str() {
            "2" => stuck_for_ever(manager.root_group(), Stuck::Receive),
            "1" => {
                let fails = manager.spawn::<()>("fails", |_| Err("unread".into()))?;
                until("the failure", || fails.is_finished());
            }
            _ => {}
        }
        println!("ready");
        drop(manager.wait());
        Ok(())
    });
    let code = report.exit_code();
    let told: ExitCode = report.report();
    assert_eq!(format!("{told:?}"), format!("{:?}", ExitCode::from(code)));
    process::exit(i32::from(code))
}

#[test]
#[cfg(target_os = "linux")]
fn f102_a_standard_error_that_is_full_closed_broken_or_read_only_changes_neither_the_end_nor_the_code()
 {
    type Redirect = fn() -> Stdio;
    let streams: [(&str, Redirect); 4] = [
        ("full", || {
            File::options()
                .write(true)
                .open("/dev/full")
                .expect("Linux has it")
                .into()
        }),
        ("nobody reads", || {
            let (reader, writer) = io::pipe().expect("a pipe");
            drop(reader);
            writer.into()
        }),
        ("read-only", || {
            File::open("/dev/null").expect("it is there").into()
        }),
        ("closed", Stdio::null), // by the shell
    ];
    let scenarios: Vec<_> = streams
        .iter()
        .flat_map(|it| ["0", "1", "2"].map(|code| (*it, code)))
        .collect();
    at_once(&scenarios, |((stream, redirect), code)| {
        let role = child::role("signals::returns_its_report");
        let mut shell = Command::new("sh");
        let script = match *stream {
            "closed" => "exec \"$0\" \"$@\" <&- 2>&-",
            _ => "exec \"$0\" \"$@\" <&-",
        };
        shell
            .args(["-c", script])
            .arg(role.get_program())
            .args(role.get_args());
        shell
            .env(HOW, code)
            .env("RUST_BACKTRACE", "0")
            .stderr(redirect());
        let program = Program::start_without(&mut shell, &[Stream::Stderr]);
        let line = program.wait_for_line("pid ");
        let (_, pid) = line.split_once("pid ").expect("it was found");
        let played = Played {
            program,
            pid: Pid::from_raw(pid.parse().expect("a number")),
        }
        .ready();
        played.send(SIGTERM);
        let exit = played.exit();
        assert_eq!(
            exit.status.code(),
            code.parse().ok(),
            "{stream}: {}",
            exit.stdout
        );
        exit.assert_never_says("panicked");
        assert!(
            !exit.stdout.contains("panicked"),
            "{stream}: {}",
            exit.stdout
        );
    });
}

#[test]
#[cfg(target_os = "linux")]
fn f102_a_terminal_that_goes_away_is_a_hang_up_and_a_clean_end() {
    if Command::new("script").arg("--version").output().is_err() {
        println!("SKIPPED: there is no `script` to make a terminal");
        return;
    }
    let role = child::role("signals::ends_without_a_terminal");
    let arguments: Vec<_> = role
        .get_args()
        .map(|it| it.to_string_lossy().into_owned())
        .collect();
    let ended = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("ended-{}", process::id()));
    let command = format!("'{}' {}", role.get_program().display(), arguments.join(" "));
    let mut terminal = Command::new("script");
    terminal
        .args(["-qefc", &command, "/dev/null"])
        .env("FAULTS_ENDED", &ended);
    terminal.env("RUST_BACKTRACE", "0");
    let program = Program::start(&mut terminal);
    program.wait_for_line("ready");
    drop(program); // kills the terminal
    until("its end", || {
        fs::read_to_string(&ended).is_ok_and(|it| !it.is_empty())
    });
    let code = fs::read_to_string(&ended).expect("just read");
    drop(fs::remove_file(&ended));
    assert_eq!(code.trim(), "0");
}

/// Notes in a file how it ends, since nothing else is left.
#[test]
#[ignore = "a role of a child process"]
fn ends_without_a_terminal() {
    taskmuster::logging::init();
    let ended = env::var_os("FAULTS_ENDED").expect("the test says where");
    let report = Manager::builder().grace(HANG).run(|manager| {
        manager.handle_signals()?;
        let _listener = listener(manager.root_group());
        println!("ready");
        drop(manager.wait());
        Ok(())
    });
    let code = report.exit_code();
    let _: ExitCode = report.report();
    fs::write(ended, code.to_string()).expect("a file");
    process::exit(i32::from(code))
}

// ---- 90: the first process of a container ----

/// Is the first process: says so, and does what it is told.
#[test]
#[ignore = "a role of a child process"]
fn is_the_first_process() {
    let how = how();
    assert_eq!(process::id(), 1);
    let beats = || {
        for beat in 0.. {
            eprintln!("beat {beat}.");
            thread::sleep(Duration::from_millis(20));
        }
    };
    if how == "no handler" {
        beats();
    }
    let report = Manager::builder().grace(20 * HANG).run(|manager| {
        manager.handle_signals()?;
        let _listener = listener(manager.root_group());
        if how == "stuck" {
            stuck_for_ever(manager.root_group(), Stuck::Receive);
        }
        if how == "children" {
            let status = Command::new("sh")
                .args(["-c", "sleep 0.01 & exit 5"])
                .status()?;
            assert_eq!(status.code(), Some(5), "nobody else reaps it");
            // The orphan becomes a child of this process, and stays a zombie: whoever wants it reaped asks for that.
            until("the orphan's end", || orphans().contains(&'Z'));
        }
        eprintln!("ready");
        drop(manager.wait());
        if how == "children" {
            assert!(orphans().contains(&'Z'), "nobody asked for it");
        }
        Ok(())
    });
    child::end(&report)
}

/// The states of this process's children.
fn orphans() -> Vec<char> {
    let me = fs::read_link("/proc/self")
        .expect("procfs")
        .display()
        .to_string();
    let entries = fs::read_dir("/proc").expect("procfs").flatten();
    let of_each = entries.filter_map(|entry| fs::read_to_string(entry.path().join("stat")).ok());
    let children = of_each.filter_map(|process| {
        let mut fields = process.rsplit(") ").next()?.split(' ');
        let state = fields.next()?.chars().next()?;
        (fields.next()? == me).then_some(state)
    });
    children.collect()
}

#[test]
#[cfg(target_os = "linux")]
fn f090_as_the_first_process_of_a_container_signals_stop_it_and_its_children_are_left_to_those_who_wait()
 {
    let wrapper = ["unshare", "--pid", "--fork", "--kill-child"];
    let possible = Command::new(wrapper[0])
        .args(&wrapper[1..])
        .arg("true")
        .output();
    if !possible.is_ok_and(|it| it.status.success()) {
        println!("SKIPPED: no name space of pids may be made here");
        return;
    }
    let played = |how| {
        play_with(
            &mut child::under(wrapper, "signals::is_the_first_process"),
            how,
        )
    };
    let mut scenarios: Vec<_> = ASKING.iter().map(|signal| ("clean", *signal)).collect();
    scenarios.extend([
        ("children", SIGTERM),
        ("stuck", SIGTERM),
        ("no handler", SIGTERM),
    ]);
    at_once(&scenarios, |(how, signal)| {
        match *how {
            "no handler" => {
                let played = played(how);
                played.line("beat 0.");
                played.send(*signal); // no default action for this process
                played.line("beat 15.");
                kill(played.pid, Signal::SIGKILL).expect("that one works");
            }
            "stuck" => {
                ends_with(130, how, || {
                    let played = played(how).ready();
                    for signal in ASKING {
                        played.send(signal);
                    }
                    played.exit()
                });
            }
            _ => {
                let played = played(how).ready();
                played.send(*signal);
                let exit = played.exit();
                exit.assert_code(0);
                assert_one_report(&exit);
            }
        }
    });
}
