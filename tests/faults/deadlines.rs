//! Deadlines and clocks: faults 58 to 60.

use std::env;
use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{self, Command};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use taskmuster::crossbeam_channel::{bounded, unbounded};
use taskmuster::{CancellationToken, CauseKind, JoinError, TimeoutError};

use crate::books::{HANG, arrives, in_patience, manager, rounds};
use crate::callbacks::Tally;
use crate::child;
use crate::race::{race, until};
use crate::shim::Shim;

// ---- 58: deadlines ----

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u32) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        u32::try_from(self.0 % u64::from(limit)).expect("below the limit")
    }

    /// The place of one of them; zero if there is none.
    fn one_of<T>(&mut self, these: &[T]) -> usize {
        let count = u32::try_from(these.len().max(1)).expect("a few");
        usize::try_from(self.below(count)).expect("of that size")
    }
}

/// What a token ought to be.
struct Model {
    token: CancellationToken,
    parent: Option<usize>,
    own: Option<Instant>,
    cancelled: bool,
}

fn expected_deadline(models: &[Model], index: usize) -> Option<Instant> {
    let mut line = std::iter::successors(Some(index), |index| models[*index].parent);
    line.by_ref().filter_map(|index| models[index].own).min()
}

fn cancel_in_model(models: &mut [Model], index: usize) {
    models[index].cancelled = true;
    models[index].own = None; // the alarm is taken back
    for child in 0..models.len() {
        if models[child].parent == Some(index) && !models[child].cancelled {
            cancel_in_model(models, child);
        }
    }
}

#[test]
fn f058_ten_thousand_random_moves_of_deadlines_in_a_tree_agree_with_the_rule_of_the_earliest() {
    let start = Instant::now();
    let hours = |dice: &mut Dice| start + Duration::from_secs(3_600) * (1 + dice.below(1_000));
    let mut dice = Dice(0x5eed);
    for _ in 0..rounds(100, 1_000) {
        let mut models: Vec<Model> = Vec::new();
        for step in 0..100 {
            let (index, at) = (dice.one_of(&models), hours(&mut dice));
            let what = if step == 0 { 0 } else { dice.below(7) };
            match what {
                0 => models.push(Model {
                    token: CancellationToken::new(),
                    parent: None,
                    own: None,
                    cancelled: false,
                }),
                1 | 2 => {
                    let (parent, past) = (&models[index], dice.below(8) == 0);
                    let at = if past { start } else { at };
                    let token = parent.token.child_with_deadline(at).expect("a timer");
                    let cancelled = parent.cancelled || past;
                    models.push(Model {
                        token,
                        parent: Some(index),
                        own: (!cancelled).then_some(at),
                        cancelled,
                    });
                }
                3 | 4 => {
                    let model = &mut models[index];
                    let moved = model.token.set_deadline(at).expect("a timer");
                    assert_eq!(moved, !model.cancelled);
                    model.own = moved.then_some(at);
                }
                5 => {
                    let model = &mut models[index];
                    let off = model.token.set_timeout(Duration::MAX).expect("a timer");
                    assert_eq!(off, !model.cancelled);
                    model.own = None;
                }
                _ if dice.below(4) == 0 => {
                    assert_eq!(models[index].token.cancel(), !models[index].cancelled);
                    cancel_in_model(&mut models, index);
                }
                _ => {}
            }
            for (index, model) in models.iter().enumerate() {
                assert_eq!(model.token.is_cancelled(), model.cancelled);
                assert_eq!(model.token.deadline(), expected_deadline(&models, index));
            }
        }
    }
}

#[test]
fn f058_a_deadline_moved_by_two_at_once_ends_where_one_of_them_put_it_or_came_before() {
    let start = Instant::now();
    let (near, far) = (
        start + Duration::from_secs(3_600),
        start + Duration::from_secs(7_200),
    );
    race(rounds(5_000, 200_000), CancellationToken::new).between(
        &[
            &|token| token.set_deadline(near).expect("a timer"),
            &|token| token.set_deadline(far).expect("a timer"),
            &|token| token.set_timeout(Duration::MAX).expect("a timer"),
        ],
        |token, moved| {
            assert_eq!(moved, [true; 3]);
            let ends = token.deadline();
            assert!(
                ends.is_none() || ends == Some(near) || ends == Some(far),
                "{ends:?}"
            );
            assert!(token.cancel());
            assert_eq!(token.deadline(), None, "a cancel takes it off");
        },
    );
}

#[test]
fn f058_a_deadline_that_has_passed_comes_at_once_and_once_whether_there_was_one_before_or_not() {
    let now = Instant::now();
    let hour = Duration::from_secs(3_600);
    for had_one in [false, true] {
        let set = || {
            let token = CancellationToken::new();
            if had_one {
                token.set_timeout(hour).expect("a timer");
            }
            token
        };
        race(rounds(2_000, 50_000), set).between(
            &[
                &|token| token.set_timeout(Duration::ZERO).expect("a timer"),
                &|token| token.set_deadline(now).expect("a timer"),
            ],
            |token, cancelled| {
                assert_eq!(cancelled.iter().filter(|it| **it).count(), 1);
                let cause = token.cause().expect("it is cancelled");
                assert_eq!(cause.kind(), CauseKind::Deadline);
                assert!(cause.at().is_some_and(|at| at.file() == file!()));
                assert_eq!(token.deadline(), None);
                assert!(!token.set_timeout(hour).expect("a timer"));
            },
        );
        let (token, (tell, told)) = (set(), bounded(1));
        let name = move || {
            let name = thread::current().name().map(str::to_owned);
            tell.send(name).expect("it is awaited");
        };
        token.on_cancel(name).keep();
        assert!(token.set_timeout(Duration::ZERO).expect("a timer"));
        assert!(token.is_cancelled(), "at once");
        let name = arrives(&told);
        assert_eq!(name.as_deref(), Some("tm-callbacks"));
    }
}

#[test]
fn f058_a_thousand_deadlines_of_any_order_come_in_order_each_once_and_none_early() {
    let (tell, told) = unbounded();
    let start = Instant::now();
    let mut dice = Dice(0xdead);
    let tokens: Vec<_> = (0..1_000)
        .map(|number| {
            let at = start + Duration::from_micros(1) * dice.below(200_000);
            let token = CancellationToken::new();
            let tell = tell.clone();
            let told = move || {
                let _ = tell.send((number, Instant::now()));
            };
            token.on_cancel(told).keep();
            token.set_deadline(at).expect("a timer"); // some have come by now
            (token, at)
        })
        .collect();
    drop(tell);
    let mut came = vec![0; tokens.len()];
    for _ in &tokens {
        let (number, when): (usize, Instant) = arrives(&told);
        let (token, at) = &tokens[number];
        came[number] += 1;
        assert!(when >= *at, "early");
        assert_eq!(
            token.cause().map(|cause| cause.kind()),
            Some(CauseKind::Deadline)
        );
    }
    assert!(came.iter().all(|times| *times == 1) && told.try_recv().is_err());
}

/// The names of this process's threads.
fn threads() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let names = entries.map(|it| fs::read_to_string(it.path().join("comm")).unwrap_or_default());
    names.collect()
}

/// Takes back deadlines that are an hour away, now early, now late in the life of their thread.
#[test]
#[ignore = "a role of a child process"]
fn takes_deadlines_back() {
    let is_there = || threads().iter().any(|name| name.trim() == "tm-timer");
    for round in 0..3_u64 {
        let token = CancellationToken::new().child_with_timeout(Duration::from_secs(3_600));
        let token = token.expect("a timer");
        until("its start", is_there); // it gives itself its name
        thread::sleep(Duration::from_millis(round * 600)); // before, while and after it sits out its last second
        let hour = Duration::from_secs(3_600);
        for _ in 0..1_000 {
            drop(token.child_with_timeout(hour).expect("a timer"));
        }
        match round {
            0 => drop(token),
            1 => drop(token.cancel()),
            _ => assert!(token.set_timeout(Duration::MAX).expect("it has a timer")),
        }
        until("the end of the thread", || !is_there()); // in the last round the token is still there
    }
}

#[test]
#[cfg(target_os = "linux")]
fn f058_the_thread_of_the_deadlines_goes_when_the_last_was_taken_back_however_far_away_it_was() {
    let exit = child::start("deadlines::takes_deadlines_back").exit();
    assert!(
        exit.stdout.contains("1 passed"),
        "{}{}",
        exit.stdout,
        exit.stderr
    );
}

/// A deadline whose callback blocks comes when no thread can be had, and then another one.
#[test]
#[ignore = "a role of a child process"]
fn has_no_thread_for_its_callbacks() {
    let gate = PathBuf::from(env::var_os("FAULTS_GATE").expect("the test says where"));
    let token = CancellationToken::new();
    let hour = Duration::from_secs(3_600);
    token.set_timeout(hour).expect("a timer"); // its thread is there now
    let ((release, released), (tell, told)) = (bounded::<()>(1), bounded(1));
    let blocks = move || {
        let came = in_patience(&released);
        let name = thread::current().name().map(str::to_owned);
        tell.send((came, name)).expect("it is awaited");
    };
    token.on_cancel(blocks).keep();
    File::create(&gate).expect("a file");
    let moment = Duration::from_millis(1);
    assert!(token.set_timeout(moment).expect("a timer"));
    assert!(token.wait_timeout(HANG / 2).is_some());
    let other = CancellationToken::new()
        .child_with_timeout(moment)
        .expect("the timer has its thread");
    assert!(other.wait_timeout(HANG / 2).is_some(), "it is held up");
    assert!(told.is_empty());
    fs::remove_file(&gate).expect("it was there");
    release.send(()).expect("it is awaited");
    let (came, name) = arrives(&told);
    assert_eq!((came, name.as_deref()), (Ok(()), Some("tm-callbacks")));
}

#[test]
fn f058_without_a_thread_for_callbacks_deadlines_come_and_the_callbacks_later() {
    let Some(shim) = Shim::without_threads() else {
        return;
    };
    let gate = format!("gate-deadlines-{}", process::id());
    let gate = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(gate);
    let mut role = child::role("deadlines::has_no_thread_for_its_callbacks");
    shim.under(&mut role);
    role.env("FAULTS_GATE", &gate);
    let exit = child::program::Program::start(&mut role).exit();
    drop(fs::remove_file(&gate));
    assert!(
        exit.stdout.contains("1 passed"),
        "{}{}",
        exit.stdout,
        exit.stderr
    );
}

// ---- 59, 60: clocks and stopped processes ----

/// Every look at the wall clock finds it ten days and some hours off, now late, now early.
const JUMPING_CLOCK: &str = r"
#define _GNU_SOURCE
#include <stdatomic.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long jump(void) {
    static atomic_long looks;
    long look = atomic_fetch_add(&looks, 1);
    return (look % 2 ? 1 : -1) * (864000 + look * 3600);
}
int clock_gettime(clockid_t clock, struct timespec *time) {
    int result = syscall(SYS_clock_gettime, clock, time);
    if (result == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) time->tv_sec += jump();
    return result;
}
int gettimeofday(struct timeval *restrict time, void *restrict zone) {
    int result = syscall(SYS_gettimeofday, time, zone);
    if (result == 0 && time) time->tv_sec += jump();
    return result;
}
time_t time(time_t *place) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (place) *place = now.tv_sec;
    return now.tv_sec;
}
";

/// Every timeout of the library, with the wall clock gone mad.
#[test]
#[ignore = "a role of a child process"]
fn times_are_kept() {
    const SPAN: Duration = Duration::from_millis(60);
    taskmuster::logging::init();
    let looks: Vec<SystemTime> = (0..3).map(|_| SystemTime::now()).collect();
    println!("the wall clock said {looks:?}");
    let manager = manager();
    let token = CancellationToken::new();
    let later = token
        .child_with_timeout(Duration::from_secs(3_600))
        .expect("a timer");
    let lasts = |what: &str, work: &dyn Fn()| {
        let start = Instant::now();
        work();
        let lasted = start.elapsed();
        println!("{what}: {lasted:?}");
        assert!(lasted >= SPAN && lasted < HANG, "{what}: {lasted:?}");
    };
    let (_keep, empty) = bounded::<u8>(1);
    let (full, _hold) = bounded::<u8>(0);
    lasts("a deadline", &|| {
        token.child_with_timeout(SPAN).expect("a timer").wait();
    });
    lasts("a wait", &|| assert!(token.wait_timeout(SPAN).is_none()));
    lasts("a sleep", &|| token.sleep(SPAN).expect("nobody cancels"));
    lasts("a receive", &|| {
        assert!(token.recv_timeout(&empty, SPAN).is_err());
    });
    lasts("a send", &|| {
        assert!(token.send_timeout(&full, 1, SPAN).is_err());
    });
    lasts("a task's own timeout", &|| {
        let task = manager.task("timed").timeout(SPAN);
        let task = task
            .spawn::<()>(|ctx| Err(ctx.wait().into()))
            .expect("spawned");
        assert!(matches!(task.join(), Err(JoinError::Cancelled { .. })));
    });
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(1);
    let deaf = manager.spawn("deaf", move |ctx| {
        let slow = ctx.with_timeout(SPAN, |ctx| Ok(ctx.sleep(HANG)?));
        assert!(matches!(slow, Err(TimeoutError::Elapsed { .. })));
        there.send(())?;
        let _ = released.recv();
        Ok(())
    });
    let deaf = deaf.expect("spawned");
    arrives(&ready);
    lasts("a join", &|| {
        assert!(matches!(
            deaf.join_timeout(SPAN),
            Err(JoinError::StillRunning { .. })
        ));
    });
    lasts("a shutdown", &|| {
        let report = manager.shutdown_timeout(SPAN).expect("a report");
        assert_eq!(report.exit_code(), 2, "{report}");
    });
    drop(release);
    assert!(!later.is_cancelled(), "an hour has not passed");
}

#[test]
fn f059_a_wall_clock_that_jumps_by_days_moves_no_deadline() {
    let Some(shim) = Shim::compile("jumping-clock", JUMPING_CLOCK) else {
        return;
    };
    let mut role = child::role("deadlines::times_are_kept");
    shim.under(&mut role);
    let exit = child::program::Program::start(&mut role).exit();
    assert!(
        exit.stdout.contains("1 passed"),
        "{}{}",
        exit.stdout,
        exit.stderr
    );
    let looks = exit.stdout.split("tv_sec: ").skip(1).map(|text| {
        let end = text.find(',').expect("the seconds end");
        text[..end].parse::<i64>().expect("a number")
    });
    let looks: Vec<i64> = looks.collect();
    let jumps = looks
        .windows(2)
        .all(|pair| (pair[0] - pair[1]).abs() > 86_400);
    assert!(
        looks.len() == 3 && jumps,
        "the clock did not jump: {looks:?}"
    );
}

#[test]
fn f059_no_source_of_the_library_names_the_wall_clock() {
    let mut pending = vec![PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut seen = 0;
    while let Some(path) = pending.pop() {
        if path.is_dir() {
            let entries = fs::read_dir(path).expect("the sources are there").flatten();
            pending.extend(entries.map(|entry| entry.path()));
        } else {
            let source = fs::read_to_string(&path).expect("a source is text");
            assert!(!source.contains("SystemTime"), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 20, "these are not the sources of a crate");
}

/// Stops itself between setting deadlines and their coming, and looks at them when it goes on.
#[test]
#[ignore = "a role of a child process"]
fn stops_itself() {
    const SPAN: Duration = Duration::from_millis(100);
    let manager = manager();
    let tallies: Vec<(CancellationToken, Tally)> = (0..50)
        .map(|_| {
            let (token, tally) = (CancellationToken::new(), Tally::default());
            token.on_cancel(tally.work()).keep();
            (token, tally)
        })
        .collect();
    let (there, ready) = bounded(1);
    let sleeper = manager.spawn("sleeper", move |ctx| {
        there.send(())?;
        ctx.sleep(2 * SPAN)?;
        Ok(ctx.wait_timeout(SPAN).is_none())
    });
    let sleeper = sleeper.expect("spawned");
    arrives(&ready);
    let start = Instant::now();
    for (token, _) in &tallies {
        token.set_timeout(SPAN).expect("a timer");
    }
    let late = CancellationToken::new()
        .child_with_timeout(HANG)
        .expect("a timer");
    eprintln!("stopping");
    kill(Pid::this(), Signal::SIGSTOP).expect("one's own process");
    until("the stop", || start.elapsed() >= 4 * SPAN); // this thread may be stopped a little later
    for (token, tally) in &tallies {
        assert!(token.wait_timeout(HANG).is_some(), "it has come");
        until("its callback", || tally.runs() > 0);
    }
    assert!(sleeper.join_timeout(HANG).expect("a value"));
    assert!(!late.is_cancelled(), "that was not half a minute");
    let report = manager.shutdown().expect("a report");
    for (_, tally) in &tallies {
        assert_eq!(tally.runs(), 1, "one late tick, no burst");
    }
    child::end(&report)
}

#[test]
#[cfg(target_os = "linux")]
fn f060_a_process_that_was_stopped_for_long_finds_each_deadline_come_once_and_none_too_many() {
    let mut program = announced("deadlines::stops_itself");
    let pid = followed(&mut program);
    program.wait_for_line("stopping");
    until("the stop", || state_of(pid) == Some('T'));
    thread::sleep(Duration::from_millis(500)); // that long the deadlines wait
    kill(pid, Signal::SIGCONT).expect("it is there");
    program.exit().assert_code(0);
}

/// Begins and ends managers for as long as it is stopped and continued.
#[test]
#[ignore = "a role of a child process"]
fn begins_and_ends() {
    eprintln!("ready");
    for _ in 0..40 {
        let manager = manager();
        for _ in 0..4 {
            let task = manager.spawn("task", |ctx| {
                ctx.sleep(Duration::from_millis(1))?;
                ctx.wait();
                Ok(())
            });
            drop(task.expect("spawned"));
        }
        let timed = CancellationToken::new().child_with_timeout(Duration::from_millis(2));
        drop(timed.expect("a timer").wait());
        let report = manager.shutdown().expect("a report");
        assert!(report.is_clean(), "{report}");
    }
    process::exit(0)
}

#[test]
#[cfg(target_os = "linux")]
fn f060_a_process_that_is_stopped_and_continued_all_the_time_loses_no_wake_up() {
    let mut program = announced("deadlines::begins_and_ends");
    let pid = followed(&mut program);
    program.wait_for_line("ready");
    let mut rounds = 0;
    while state_of(pid).is_some_and(|state| state != 'Z') && rounds < 3_000 {
        for signal in [Signal::SIGSTOP, Signal::SIGCONT] {
            kill(pid, signal).expect("it is not reaped before `exit`");
            thread::yield_now();
        }
        rounds += 1;
        thread::sleep(Duration::from_micros(300));
    }
    println!("stopped {rounds} times");
    program.exit().assert_code(0);
}

/// A role behind a shell that says the pid.
fn announced(role: &str) -> child::program::Program {
    let role = child::role(role);
    let mut shell = Command::new("sh");
    shell.args(["-c", "echo pid $$; exec \"$0\" \"$@\""]);
    shell.arg(role.get_program()).args(role.get_args());
    child::program::Program::start(&mut shell)
}

fn followed(program: &mut child::program::Program) -> Pid {
    program.follow_pid_line();
    let line = program.wait_for_line("pid ");
    Pid::from_raw(line.trim_start_matches("pid ").parse().expect("a number"))
}

/// `T` while a process is stopped, `Z` when it has ended.
fn state_of(pid: Pid) -> Option<char> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit(") ").next()?.chars().next()
}
