//! Spawning: faults 24 to 42.

#![expect(clippy::unit_arg, reason = "a body that does one thing is one line")]

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::hint::black_box;
use std::marker::PhantomPinned;
use std::panic;
use std::path::PathBuf;
use std::process::{self, Command as Process};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use proptest::char;
use proptest::collection::vec;
use proptest::prelude::{Just, Strategy};
use proptest::prop_oneof;
use proptest::test_runner::{Config, TestRunner};
use taskmuster::crossbeam_channel::{bounded, unbounded};
use taskmuster::{
    BuildError, CancellationToken, CauseKind, Group, JoinError, Manager, OnFailure, ScopeError,
    SpawnError, SpawnFailure, StartFailure, TaskBody, TaskContext, TaskHandle, TaskResult,
    TimeoutError, Waited,
};

use crate::books::{
    HANG, arrives, assert_all_ended_once, assert_balanced, in_patience, manager, refused, rounds,
    soon, until_nobody_lives,
};
use crate::child;
use crate::child::program::Program;
use crate::logger;
use crate::nasty::{Bomb, Loaded, OnDrop, silence_bombs};
use crate::preload::{self, Command, ask, assert_played, tell};
use crate::race::until;
use crate::usage;

// ---- 24: no thread to be had ----

/// One program that starts threads in every way there is. Whatever is refused gives back what it was given.
#[derive(Default)]
struct Program24 {
    accepted: Vec<(u64, TaskHandle<u64>)>,
    given_back: Vec<(u64, TaskBody<u64>)>,
    refused: u64,
    /// Tasks without a handle here.
    others: u64,
    next: u64,
}

impl Program24 {
    fn next(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Books what a spawn gave, and looks whether a refusal has left a trace.
    fn spawn(
        &mut self,
        manager: &Manager,
        spawn: impl FnOnce(&str, TaskBody<u64>) -> Result<TaskHandle<u64>, SpawnError<u64>>,
    ) {
        let (number, spawned) = (self.next(), manager.counts().spawned);
        let name = format!("task {number}");
        match spawn(&name, Box::new(move |_| Ok(number))) {
            Ok(handle) => self.accepted.push((number, handle)),
            Err(error) => {
                assert!(matches!(error.failure(), SpawnFailure::Os(_)), "{error}");
                assert!(error.to_string().contains(&name), "{error}");
                assert_eq!(manager.counts().spawned, spawned, "it was counted");
                let is_listed = manager
                    .tasks()
                    .iter()
                    .any(|task| task.name.ends_with(&name));
                assert!(!is_listed, "it is listed");
                self.refused += 1;
                self.given_back.push((number, error.into_body()));
            }
        }
    }

    fn run(&mut self, manager: &Manager) {
        let group = manager.group("group").group("inner");
        for _ in 0..3 {
            self.spawn(manager, |name, body| manager.spawn(name, body));
            self.spawn(manager, |name, body| group.spawn(name, body));
            self.spawn(manager, |name, body| {
                let task = manager.task(name).stack_size(128 * 1024).grace(HANG);
                task.critical().spawn(body)
            });
            // The thread that serves deadlines may be refused as well.
            self.spawn(manager, |name, body| {
                manager.task(name).timeout(HANG).spawn(body)
            });
        }
        self.scope(manager);
        self.spawn_inside(manager);
        self.sections(manager);
        self.deadlines();
    }

    /// Some tasks of a scope may be refused; the others end with it.
    fn scope(&mut self, manager: &Manager) {
        let (spawned, mut accepted) = (manager.counts().spawned, 0);
        let ran = AtomicU64::new(0);
        let scope = manager.scope("scope", |scope| {
            for _ in 0..3 {
                let bomb = Bomb(1);
                let task = scope.spawn("borrows", |_| {
                    std::mem::forget(bomb);
                    Ok(ran.fetch_add(1, Ordering::SeqCst))
                });
                match task {
                    Ok(_) => accepted += 1,
                    Err(error) => {
                        assert!(matches!(error.failure(), SpawnFailure::Os(_)), "{error}");
                        self.refused += 1;
                    }
                }
            }
            Ok(())
        });
        scope.expect("whoever was accepted has completed");
        assert_eq!(ran.load(Ordering::SeqCst), accepted);
        assert_eq!(manager.counts().spawned, spawned + accepted);
        self.others += accepted;
    }

    fn spawn_inside(&mut self, manager: &Manager) {
        let outer = manager.spawn("outer", |ctx| {
            Ok(match ctx.group().spawn("sibling", |_| Ok(9)) {
                Ok(sibling) => Some(ctx.join(&sibling)?),
                Err(error) => {
                    assert!(matches!(error.failure(), SpawnFailure::Os(_)), "{error}");
                    None
                }
            })
        });
        match outer {
            Ok(outer) => {
                let inner = soon(manager, &outer).expect("a value");
                self.others += 1 + u64::from(inner.is_some());
                self.refused += u64::from(inner.is_none());
            }
            Err(error) => {
                assert!(matches!(error.failure(), SpawnFailure::Os(_)), "{error}");
                self.refused += 1;
            }
        }
    }

    fn sections(&mut self, manager: &Manager) {
        let task = manager.spawn("sections", |ctx| {
            let timed = match ctx.with_timeout(HANG, |_| Ok(1)) {
                Ok(one) => one,
                Err(TimeoutError::Unavailable(_)) => 0,
                Err(error) => return Err(error.into()),
            };
            // Without a thread for its limit the clean-up is run all the same.
            Ok(timed + ctx.shield(HANG, |_| Ok(10))?)
        });
        match task {
            Ok(task) => {
                let sum = soon(manager, &task).expect("a value");
                assert!(matches!(sum, 10 | 11), "{sum}");
                self.others += 1;
            }
            Err(_) => self.refused += 1,
        }
    }

    /// Callbacks of deadlines are run by threads of their own, or by that which serves the deadlines.
    fn deadlines(&mut self) {
        let (tell, told) = unbounded();
        let tokens: Vec<_> = (0..6)
            .filter_map(|number| {
                let token = CancellationToken::new().child_with_timeout(Duration::from_millis(1));
                let tell = tell.clone();
                token.inspect_err(|_| self.refused += 1).ok().map(|token| {
                    (
                        token.on_cancel(move || tell.send(number).expect("it listens")),
                        token,
                    )
                })
            })
            .collect();
        for (_, token) in &tokens {
            let cancelled = token.wait_timeout(HANG).expect("its time comes");
            assert_eq!(cancelled.cause().kind(), CauseKind::Deadline);
            arrives(&told);
        }
    }
}

/// The program, with threads refused as the shim was told; how many things were refused.
fn plays_24(mode: Command, k: u32) -> u64 {
    tell(mode, k);
    let manager = match Manager::builder().grace(HANG).build() {
        Ok(manager) => manager,
        Err(BuildError::Os(_)) => {
            tell(Command::LetGo, 0);
            drop(manager());
            return 1;
        }
        Err(error) => panic!("{error}"),
    };
    let ends = manager.root_group().ends();
    let mut program = Program24::default();
    program.run(&manager);
    for (number, handle) in &program.accepted {
        assert_eq!(soon(&manager, handle).expect("a value"), *number);
    }
    // Whoever waits for the last task is not kept by one that never was.
    assert!(matches!(manager.wait(), Waited::NothingLeft));
    tell(Command::LetGo, 0);
    let again = program.given_back.len() as u64;
    for (number, body) in program.given_back {
        let handle = manager
            .spawn("again", body)
            .expect("there are threads again");
        assert_eq!(soon(&manager, &handle).expect("a value"), number);
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    let accepted = program.accepted.len() as u64 + program.others + again;
    assert_eq!(
        (manager.counts().spawned, manager.counts().completed),
        (accepted, accepted)
    );
    assert_all_ended_once(manager.counts(), &ends);
    program.refused
}

#[test]
#[ignore = "a role under the shim"]
fn starts_threads_that_cannot_be_had() {
    silence_bombs();
    assert_eq!(plays_24(Command::LetGo, 0), 0);
    let mut refused = 0;
    for mode in [Command::FailOne, Command::FailEvery, Command::FailFrom] {
        for k in 1..=u32::try_from(rounds(40, 120)).expect("a small number") {
            refused += plays_24(mode, k);
        }
    }
    eprintln!("{refused} things were refused");
    assert!(refused > 100, "{refused}");
}

#[test]
fn f024_whichever_thread_cannot_be_created_the_books_are_clean_and_the_closure_comes_back() {
    preload::play("spawn::starts_threads_that_cannot_be_had");
}

#[test]
#[ignore = "a role under the shim"]
fn cannot_even_be_built() {
    for k in 1..=2 {
        for mode in [Command::FailOne, Command::FailFrom] {
            tell(mode, k);
            let error = refused(Manager::builder().build());
            assert!(matches!(error, BuildError::Os(_)), "{error}");
            tell(mode, k);
            let report = Manager::builder().run(|_| unreachable!("there is nothing to lend"));
            assert_eq!(report.exit_code(), 1);
            assert!(report.to_string().contains("not started"), "{report}");
            // The first of the two threads is not left waiting for ever.
            let begin = Instant::now();
            while usage::house_keepers() > 0 {
                assert!(begin.elapsed() < HANG, "a thread was left behind");
                thread::yield_now();
            }
        }
    }
    // Of several that are started in order, those before are stopped again.
    tell(Command::LetGo, 0);
    let manager = manager();
    let group = manager.group("services");
    let serves = |ctx: &TaskContext| {
        ctx.ready();
        Err(ctx.wait().into())
    };
    tell(Command::FailOne, 3);
    let startup = group
        .startup(HANG)
        .then(group.task("first"), serves)
        .then(group.task("second"), serves);
    let error = refused(startup.then(group.task("third"), serves).start());
    assert_eq!(error.task(), "services/third");
    assert!(
        matches!(error.failure(), StartFailure::NotSpawned(_)),
        "{error}"
    );
    until_nobody_lives(&manager);
    assert_eq!(
        (manager.counts().spawned, manager.counts().cancelled),
        (2, 2)
    );
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn f024_a_manager_or_a_start_that_gets_no_thread_leaves_none_behind() {
    preload::play("spawn::cannot_even_be_built");
}

#[test]
#[ignore = "a role under the shim"]
fn shuts_down_while_a_thread_is_being_created() {
    for round in 0..20 {
        let manager = Arc::new(manager());
        let group = manager.group("g");
        let (go, going) = bounded::<()>(0);
        let theirs = group.clone();
        let spawner = thread::spawn(move || {
            let _ = going.recv();
            refused(theirs.spawn("ghost", |_| Ok(7)))
        });
        tell(Command::HoldOne, 1);
        drop(go);
        while ask(Command::IsHeld) == 0 {
            thread::yield_now();
        }
        assert_eq!(
            manager.tasks().len(),
            1,
            "it is registered, and has no thread"
        );
        let report = match round % 3 {
            0 => {
                // It is in the way of the shutdown until it turns out that it never was.
                manager.request_shutdown("now");
                while !group.token().is_cancelled() {
                    thread::yield_now();
                }
                tell(Command::LetGo, 0);
                manager.shutdown().expect("a report")
            }
            1 => {
                let report = manager.shutdown_timeout(Duration::ZERO).expect("a report");
                tell(Command::LetGo, 0);
                assert_eq!(report.exit_code(), 2, "it was in the way: {report}");
                report
            }
            _ => {
                group.cancel();
                tell(Command::LetGo, 0);
                group.join_timeout(HANG).expect("nobody is left");
                manager.shutdown().expect("a report")
            }
        };
        let error = spawner.join().expect("it does not panic");
        assert!(matches!(error.failure(), SpawnFailure::Os(_)), "{error}");
        if round % 3 != 1 {
            assert!(
                report.tasks().is_empty(),
                "a task that never was has a row: {report}"
            );
            assert_eq!(
                (report.exit_code(), report.counts().spawned),
                (0, 0),
                "{report}"
            );
        }
        assert_eq!((manager.counts().spawned, manager.counts().live), (0, 0));
        assert!(manager.tasks().is_empty());
    }
}

#[test]
fn f024_a_thread_that_cannot_be_created_in_the_middle_of_a_shutdown_was_never_a_task() {
    preload::play("spawn::shuts_down_while_a_thread_is_being_created");
}

#[test]
#[ignore = "a role under the shim"]
fn has_a_stuck_courier_and_no_thread_for_another() {
    let said = logger::install(|line| {
        if line.starts_with("stopping") {
            thread::park();
        }
    });
    let manager = manager();
    let (there, ready) = bounded(1);
    let waits = manager.spawn("waits", move |ctx| {
        there.send(())?;
        ctx.wait();
        // The courier has hung for longer than it may.
        until("an attempt to replace it", || ask(Command::Threads) > 0);
        Ok(())
    });
    drop(waits.expect("spawned"));
    arrives(&ready);
    tell(Command::FailFrom, 1);
    let begin = Instant::now();
    let report = manager.shutdown().expect("a report");
    assert!(begin.elapsed() < HANG / 2, "{report}");
    assert_eq!(report.exit_code(), 0, "{report}");
    assert!(
        report.to_string().contains("is stuck in a line of log"),
        "{report}"
    );
    assert_eq!(said.with("stopping").len(), 1);
}

#[test]
fn f024_a_courier_that_cannot_be_replaced_does_not_hold_up_the_shutdown() {
    preload::play("spawn::has_a_stuck_courier_and_no_thread_for_another");
}

// ---- 25 to 27: limits ----

/// Starts tasks until there is no room for more, looks whether all is well, and makes room again.
fn fills_up(manager: &Manager, stack_size: usize) -> (usize, String) {
    let ends = manager.root_group().ends();
    let (there, ready) = unbounded();
    let spawn = || {
        let there = there.clone();
        manager
            .task("fills")
            .stack_size(stack_size)
            .spawn(move |ctx| {
                there.send(())?;
                Err::<u64, _>(ctx.wait().into())
            })
    };
    let mut accepted = Vec::new();
    let error = loop {
        match spawn() {
            Ok(handle) => accepted.push(handle),
            Err(error) => break error,
        }
        assert!(accepted.len() < 20_000, "there is no limit");
    };
    let why = error.to_string();
    assert!(
        matches!(
            error.failure(),
            SpawnFailure::Os(_) | SpawnFailure::Limit(_) | SpawnFailure::ProcessLimit(_)
        ),
        "{why}"
    );
    let counts = manager.counts();
    assert_eq!(
        (counts.spawned, counts.live),
        (accepted.len() as u64, accepted.len() as u64)
    );
    assert_eq!(manager.tasks().len(), accepted.len());
    for _ in &accepted {
        arrives(&ready);
    }
    // As soon as there is room again, the closure that was given back is as good as new.
    if let Some(first) = accepted.first() {
        assert!(first.cancel());
        drop(soon(manager, first));
        let mut body = error.into_body();
        let begin = Instant::now();
        let again = loop {
            // A thread that was joined is forgotten by the kernel a moment later.
            match manager.task("again").stack_size(stack_size).spawn(body) {
                Ok(again) => break again,
                Err(error) => body = error.into_body(),
            }
            assert!(begin.elapsed() < HANG, "there is no room again");
            thread::yield_now();
        };
        arrives(&ready);
        accepted.push(again);
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(manager.counts().cancelled, accepted.len() as u64);
    assert_all_ended_once(manager.counts(), &ends);
    (accepted.len(), why)
}

#[test]
#[ignore = "a role of a child process"]
fn fills_its_process_up() {
    let stack_size = env::var("STACK").map_or(Ok(128 * 1024), |bytes| bytes.parse());
    match Manager::builder().grace(HANG).max_tasks(100_000).build() {
        Ok(manager) => {
            let (accepted, why) = fills_up(&manager, stack_size.expect("a number of bytes"));
            eprintln!("{accepted} tasks, then: {why}");
            assert!(accepted > 2, "{accepted}");
        }
        Err(error) => panic!("not even a manager: {error}"),
    }
}

/// A user nobody else is, so that the limit of its processes is ours alone.
fn nobody() -> [String; 4] {
    let id = 60_000 + process::id() % 5_000;
    let id = |option: &str| format!("--{option}={id}");
    [
        "setpriv".to_owned(),
        id("reuid"),
        id("regid"),
        "--clear-groups".to_owned(),
    ]
}

/// Whether a command can be run at all; says so if not.
pub(crate) fn works(command: &[&str]) -> bool {
    let output = Process::new(command[0]).args(&command[1..]).output();
    let works = output.as_ref().is_ok_and(|output| output.status.success());
    if !works {
        eprintln!("skipped: {command:?} does not work here: {output:?}");
    }
    works
}

#[test]
fn f025_a_limit_of_the_user_s_processes_is_an_error_and_the_closure_comes_back() {
    let [setpriv, user, group, groups] = &nobody();
    let test = env::current_exe().expect("a running test has a path");
    let test = test.to_str().expect("a path of this repository");
    if !works(&[setpriv, user, group, groups, test, "--list"]) {
        return; // not run by root, or in a directory of his own
    }
    for limit in [10, 17] {
        let limit = format!("--nproc={limit}");
        let wrapper = [setpriv, user, group, groups, "prlimit", &limit];
        let mut role = child::under(wrapper, "spawn::fills_its_process_up");
        assert_played(Program::start(&mut role));
    }
}

/// A control group of version 1, made for one test.
pub(crate) struct Cgroup(PathBuf);

impl Cgroup {
    /// With these settings; `None`, with a line that says so, where that is not possible.
    pub(crate) fn new(controller: &str, settings: &[(&str, &str)]) -> Option<Self> {
        let name = format!("/sys/fs/cgroup/{controller}/taskmuster-{}", process::id());
        let cgroup = Self(PathBuf::from(name));
        let made = fs::create_dir(&cgroup.0);
        let set = |(file, value): &(&str, &str)| fs::write(cgroup.0.join(file), value);
        match made.and_then(|()| settings.iter().try_for_each(set)) {
            Ok(()) => Some(cgroup),
            Err(error) => {
                eprintln!("skipped: there is no cgroup for {controller}: {error}");
                None
            }
        }
    }

    /// A role that runs in it.
    pub(crate) fn role(&self, name: &str) -> Process {
        let procs = self.0.join("cgroup.procs");
        let enter = format!("echo $$ > {} && exec \"$0\" \"$@\"", procs.display());
        child::under(["sh", "-c", &enter], name)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        drop(fs::remove_dir(&self.0));
    }
}

#[test]
fn f025_so_is_a_limit_of_its_cgroup() {
    if let Some(cgroup) = Cgroup::new("pids", &[("pids.max", "16")]) {
        assert_played(Program::start(
            &mut cgroup.role("spawn::fills_its_process_up"),
        ));
    }
}

#[test]
fn f025_so_is_a_limit_of_its_address_space() {
    if !works(&["prlimit", "--as=4000000000", "true"]) {
        return;
    }
    // Stacks so large that the room for them is gone long before that for anything else.
    let mut role = child::under(
        ["prlimit", "--as=4000000000"],
        "spawn::fills_its_process_up",
    );
    assert_played(Program::start(role.env("STACK", (256 << 20).to_string())));
}

#[test]
fn f026_the_limit_of_live_tasks_is_exact_and_gives_the_closure_back() {
    for limit in [1, 2, 7, 64] {
        let manager = Manager::builder().grace(HANG).max_tasks(limit).build();
        let (accepted, why) = fills_up(&manager.expect("a manager"), 64 * 1024);
        // And the one that was refused at first.
        assert_eq!(accepted, limit + 1, "{why}");
        assert!(
            why.contains(&format!("{limit} live tasks already")),
            "{why}"
        );
    }
    let none = Manager::builder().max_tasks(0).build().expect("a manager");
    let error = refused(none.spawn("none", |_| Ok(())));
    assert!(matches!(error.failure(), SpawnFailure::Limit(0)), "{error}");
    assert!(none.shutdown().expect("a report").is_clean());
}

#[test]
fn f026_many_spawners_together_never_exceed_the_limit() {
    let manager = Manager::builder()
        .grace(HANG)
        .max_tasks(5)
        .build()
        .expect("a manager");
    let (live, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (start, each) = (Barrier::new(4), rounds(100, 20_000));
    let spawn_one = || loop {
        let (live, most) = (Arc::clone(&live), Arc::clone(&most));
        let spawned = manager.spawn("one of few", move |_| {
            most.fetch_max(live.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            thread::yield_now();
            live.fetch_sub(1, Ordering::SeqCst);
            Ok(())
        });
        let Err(error) = spawned else { break };
        let failure = error.failure();
        assert!(
            matches!(failure, SpawnFailure::Limit(5) | SpawnFailure::Exiting(_)),
            "{error}"
        );
        thread::yield_now();
    };
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                start.wait();
                (0..each).for_each(|_| spawn_one());
            });
        }
    });
    assert!(matches!(manager.wait(), Waited::NothingLeft));
    assert!(most.load(Ordering::SeqCst) <= 5);
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_eq!(manager.counts().completed, 4 * each as u64);
    assert_balanced(manager.counts());
}

#[test]
#[ignore = "a role of a child process"]
fn shares_the_limit_of_its_process() {
    const LIMIT: usize = 30;
    silence_bombs();
    let build = || {
        Manager::builder()
            .grace(HANG)
            .max_tasks(1_000)
            .build()
            .expect("a manager")
    };
    // Every way to claim a thread gives it back: else the limit would be reached sooner each time.
    for _ in 0..40 {
        let manager = build();
        let group = manager.group("cancelled");
        group.token().cancel();
        drop(group.spawn("never begins", |_| Ok(())));
        drop(
            manager
                .task("too large")
                .stack_size(usize::MAX)
                .spawn(|_| Ok(())),
        );
        let handle = manager
            .spawn("completes", |_| Ok(()))
            .expect("there is room");
        soon(&manager, &handle).expect("a value");
        let handle = manager.spawn::<()>("panics", |_| panic::panic_any(Bomb(0)));
        let handle = handle.expect("there is room");
        assert!(soon(&manager, &handle).is_err());
        let scope = manager.scope("scope", |scope| {
            for _ in 0..3 {
                scope.spawn("borrows", |_| Ok(()))?;
            }
            Ok(())
        });
        scope.expect("they complete");
        group.cancel();
        assert!(group.spawn("refused", |_| Ok(())).is_err());
        assert!(manager.shutdown().expect("a report").is_clean());
        assert!(manager.spawn("refused", |_| Ok(())).is_err());
    }
    let managers = [build(), build(), build()];
    let spawn =
        |number: usize| managers[number % 3].spawn::<()>("waits", |ctx| Err(ctx.wait().into()));
    let mut accepted: Vec<_> = (0..LIMIT)
        .map(|number| spawn(number).expect("there is room"))
        .collect();
    let error = refused(spawn(0));
    assert!(
        matches!(error.failure(), SpawnFailure::ProcessLimit(LIMIT)),
        "{error}"
    );
    let gone = accepted.swap_remove(7);
    gone.cancel();
    assert!(matches!(gone.join(), Err(JoinError::Cancelled { .. })));
    let begin = Instant::now();
    // The room is there when the thread was joined, for the others as well.
    while spawn(2).is_err() {
        assert!(begin.elapsed() < HANG, "there is no room again");
        thread::yield_now();
    }
    assert!(matches!(
        refused(spawn(0)).failure(),
        SpawnFailure::ProcessLimit(LIMIT)
    ));
    for manager in &managers {
        assert!(manager.shutdown().expect("a report").is_clean());
    }
}

#[test]
fn f026_all_managers_of_a_process_share_a_limit_and_give_everything_back() {
    // Root's own threads are not counted by the kernel, so that this is the limit of the library alone.
    let [setpriv, user, ..] = &nobody();
    if works(&["prlimit", "--nproc=30", "true"]) && works(&[setpriv, user, "true"]) {
        let mut role = child::under(
            ["prlimit", "--nproc=30"],
            "spawn::shares_the_limit_of_its_process",
        );
        assert_played(Program::start(&mut role));
    }
}

#[test]
fn f027_any_stack_size_is_rounded_up_or_an_error() {
    let manager = manager();
    let (mut started, mut given_back) = (0, 0);
    let powers = (0..usize::BITS).map(|bit| 1_usize << bit);
    let around = powers.flat_map(|size| [size.wrapping_sub(1), size, size.saturating_add(1)]);
    for bytes in around.chain([usize::MAX, usize::MAX - 4096, isize::MAX.unsigned_abs()]) {
        match manager
            .task("sized")
            .stack_size(bytes)
            .spawn(move |_| Ok(bytes))
        {
            Ok(handle) => {
                assert_eq!(soon(&manager, &handle).expect("a value"), bytes);
                started += 1;
            }
            Err(error) => {
                assert!(
                    matches!(error.failure(), SpawnFailure::Os(_)),
                    "{bytes}: {error}"
                );
                let handle = manager
                    .spawn("unsized", error.into_body())
                    .expect("spawned");
                assert_eq!(soon(&manager, &handle).expect("a value"), bytes);
                given_back += 1;
            }
        }
    }
    assert!(
        started > 30 && given_back > 3,
        "{started} started, {given_back} not"
    );
    assert!(manager.shutdown().expect("a report").is_clean());
}

// ---- 28 to 30: spawns and the end ----

/// What became of one attempt to spawn; how many tasks were accepted by it.
#[derive(Default)]
struct Attempts {
    accepted: u64,
    refused: u64,
}

/// What a body leaves behind, whatever becomes of it: each is dropped once, run or not.
struct Seeds {
    sown: AtomicU64,
    gone: Arc<AtomicU64>,
}

impl Seeds {
    fn next(&self) -> OnDrop {
        self.sown.fetch_add(1, Ordering::SeqCst);
        let gone = Arc::clone(&self.gone);
        OnDrop::new(move || {
            gone.fetch_add(1, Ordering::SeqCst);
        })
    }

    fn body(&self) -> TaskBody<()> {
        let seed = self.next();
        Box::new(move |ctx| {
            let _seed = &seed;
            ctx.ready();
            Ok(ctx.checkpoint()?)
        })
    }
}

fn is_stopping<T>(error: &SpawnError<T>) -> bool {
    // With the reason of the stop as its source.
    matches!(error.failure(), SpawnFailure::Stopping) && std::error::Error::source(error).is_some()
}

fn count(spawned: Result<TaskHandle<()>, SpawnError<()>>) -> Attempts {
    match spawned {
        Ok(_) => Attempts {
            accepted: 1,
            refused: 0,
        },
        Err(error) => {
            assert!(is_stopping(&error), "{error}");
            drop(error.into_body());
            Attempts {
                accepted: 0,
                refused: 1,
            }
        }
    }
}

/// Ways to spawn.
const SPAWNS: [fn(&Group, &Seeds) -> Attempts; 9] = [
    |group, seeds| count(group.spawn("plain", seeds.body())),
    |group, seeds| count(group.group("new").spawn("in a new group", seeds.body())),
    |group, seeds| count(group.task("timed").timeout(HANG).spawn(seeds.body())),
    |group, seeds| {
        count(
            group
                .task("too late")
                .deadline(Instant::now())
                .spawn(seeds.body()),
        )
    },
    |group, seeds| {
        count(
            group
                .task("drains")
                .drains()
                .grace(HANG)
                .spawn(seeds.body()),
        )
    },
    |group, seeds| {
        let started = group.task("ready").spawn_ready(HANG, seeds.body());
        match started.as_ref().map_err(taskmuster::StartError::failure) {
            Ok(_) | Err(StartFailure::NotReady(_)) => Attempts {
                accepted: 1,
                refused: 0,
            },
            Err(_) => Attempts {
                accepted: 0,
                refused: 1,
            },
        }
    },
    |group, seeds| {
        let mut attempts = Attempts::default();
        let scope: Result<(), ScopeError> = group.scope("scope", |scope| {
            for _ in 0..2 {
                let seed = seeds.next();
                match scope.spawn("borrows", move |_| Ok(drop(seed))) {
                    Ok(_) => attempts.accepted += 1,
                    Err(error) => {
                        assert!(matches!(error.failure(), SpawnFailure::Stopping), "{error}");
                        attempts.refused += 1;
                    }
                }
            }
            Ok(())
        });
        scope.expect("it does not fail");
        attempts
    },
    |group, seeds| {
        let (seed, inner) = (seeds.next(), seeds.body());
        let (tell, told) = bounded(1);
        let outer = group.spawn("outer", move |ctx| {
            let _seed = &seed;
            Ok(tell.send(count(ctx.group().spawn("inner", inner)))?)
        });
        let attempts = count(outer);
        // Nothing is told if it was cancelled before it began.
        let inner = in_patience(&told).unwrap_or_default();
        Attempts {
            accepted: attempts.accepted + inner.accepted,
            refused: attempts.refused + inner.refused,
        }
    },
    |group, seeds| {
        let (first, second) = (seeds.body(), seeds.body());
        let startup = group.startup(HANG);
        let startup = startup
            .then(group.task("first"), first)
            .then(group.task("second"), second);
        match startup.start() {
            Ok(started) => Attempts {
                accepted: started.len() as u64,
                refused: 0,
            },
            Err(error) => {
                let is_accepted = matches!(error.failure(), StartFailure::NotReady(_));
                let before = u64::from(error.task().ends_with("second"));
                Attempts {
                    accepted: before + u64::from(is_accepted),
                    refused: 0,
                }
            }
        }
    },
];

/// Ways to stop; how many tasks of their own they need.
const STOPS: [fn(&Manager, &Group) -> u64; 10] = [
    |manager, _| {
        drop(manager.shutdown());
        0
    },
    |manager, _| {
        drop(manager.shutdown_timeout(HANG));
        0
    },
    |manager, _| {
        manager.request_shutdown("now");
        0
    },
    |manager, _| {
        manager.hurry();
        0
    },
    |_, group| {
        group.cancel();
        0
    },
    |_, group| {
        group.token().cancel();
        0
    },
    |manager, _| {
        // An ancestor of the group.
        manager.root_group().cancel();
        0
    },
    |manager, _| {
        let critical = manager.task("critical").critical();
        critical
            .spawn::<()>(|_| Err("broken".into()))
            .map_or(0, |it| u64::from(it.join().is_err()))
    },
    |_, group| {
        let fatal = group.task("fatal").on_failure(OnFailure::StopGroup);
        fatal
            .spawn::<()>(|_| Err("broken".into()))
            .map_or(0, |it| u64::from(it.join().is_err()))
    },
    |manager, _| {
        let asks = manager.spawn("asks", |ctx| Ok(ctx.request_shutdown("a task's wish")));
        asks.map_or(0, |it| u64::from(it.join().is_ok()))
    },
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum When {
    Before,
    Meanwhile,
    After,
}

/// One cell of the matrix.
fn spawns_and_stops(spawn: usize, stop: usize, when: When) -> Attempts {
    const SPAWNERS: usize = 2;
    let gone = Arc::new(AtomicU64::new(0));
    let seeds = Seeds {
        sown: AtomicU64::new(0),
        gone: Arc::clone(&gone),
    };
    let manager = manager();
    let ends = manager.root_group().ends();
    let group = manager.group("g");
    let start = Barrier::new(SPAWNERS + 1);
    let mut own = 0;
    if when == When::After {
        own += STOPS[stop](&manager, &group);
    }
    let total = thread::scope(|scope| {
        let spawners: Vec<_> = (0..SPAWNERS)
            .map(|_| {
                scope.spawn(|| {
                    start.wait();
                    let mut total = Attempts::default();
                    for _ in 0..2 {
                        let attempts = SPAWNS[spawn](&group, &seeds);
                        total.accepted += attempts.accepted;
                        total.refused += attempts.refused;
                    }
                    total
                })
            })
            .collect();
        start.wait();
        if when == When::Meanwhile {
            own += STOPS[stop](&manager, &group);
        }
        let mut total = Attempts::default();
        for spawner in spawners {
            let attempts = spawner.join().expect("it does not panic");
            total.accepted += attempts.accepted;
            total.refused += attempts.refused;
        }
        total
    });
    if when == When::Before {
        own += STOPS[stop](&manager, &group);
    }
    let report = manager.shutdown().expect("a report");
    // In a hurry on a busy machine, some may not even have begun.
    let is_in_time = report.was_hurried() || report.stragglers().next().is_none();
    assert!(is_in_time, "{report}");
    until_nobody_lives(&manager);
    let counts = manager.counts();
    assert_eq!(
        counts.spawned,
        total.accepted + own,
        "{spawn} {stop} {when:?}: {counts:?}"
    );
    assert_eq!(counts.panicked, 0, "{report}");
    assert_all_ended_once(counts, &ends);
    // Every body was run or dropped, once.
    assert_eq!(
        gone.load(Ordering::SeqCst),
        seeds.sown.load(Ordering::SeqCst)
    );
    total
}

#[test]
fn f028_a_spawn_that_races_with_any_stop_is_accounted_for_or_refused() {
    for spawn in 0..SPAWNS.len() {
        for stop in 0..STOPS.len() {
            let before = spawns_and_stops(spawn, stop, When::Before);
            assert!(before.accepted > 0 && before.refused == 0, "{spawn} {stop}");
            for _ in 0..rounds(2, 200) {
                spawns_and_stops(spawn, stop, When::Meanwhile);
            }
            let after = spawns_and_stops(spawn, stop, When::After);
            // Those that only ask, or cancel no more than a token, refuse nothing yet.
            let has_refused = !matches!(stop, 2 | 3 | 5 | 7 | 9);
            assert!(!has_refused || after.accepted == 0, "{spawn} {stop}");
        }
    }
}

#[test]
fn f029_a_spawn_from_any_place_of_user_code_has_a_defined_result() {
    let manager = Arc::new(manager());
    let ends = manager.root_group().ends();
    let (tell, told) = unbounded::<bool>();
    let spawns = || {
        let (group, tell) = (manager.root_group().clone(), tell.clone());
        move || {
            let tell = tell.clone();
            let told = tell.clone();
            let spawned = group.spawn("from anywhere", move |_| Ok(tell.send(true)?));
            spawned.map_or_else(|_| told.send(false).expect("it listens"), drop);
        }
    };
    let runs = |body: Box<dyn FnOnce() + Send>| {
        let outer = manager
            .spawn("outer", move |_| Ok(body()))
            .expect("spawned");
        drop(soon(&manager, &outer));
    };

    let spawn = spawns();
    runs(Box::new(spawn));
    // A capture, a result that nobody takes, an error, the payload of a panic.
    let capture = OnDrop::new(spawns());
    runs(Box::new(move || drop(capture)));
    let spawn = spawns();
    drop(manager.spawn("result", move |_| Ok(OnDrop::new(spawn))));
    let spawn = spawns();
    drop(manager.spawn::<()>("error", move |_| Err(Box::new(Loaded(OnDrop::new(spawn))))));
    let spawn = spawns();
    drop(manager.spawn::<()>("payload", move |_| panic::panic_any(OnDrop::new(spawn))));
    // While unwinding.
    let unwinding = OnDrop::new(spawns());
    drop(manager.spawn::<()>("unwinding", move |_| {
        let _unwinding = unwinding;
        panic!("on its way");
    }));
    // Callbacks: of a cancel, of a deadline, and one that is registered too late.
    let token = CancellationToken::new();
    let guard = token.on_cancel(spawns());
    token.cancel();
    let late = token.on_cancel(spawns());
    let timed = token_with_timeout();
    let by_time = timed.on_cancel(spawns());
    timed.wait();
    // Sections, scopes, loops, and another manager's tasks.
    let spawn = spawns();
    drop(manager.spawn("sections", move |ctx| {
        ctx.with_timeout(HANG, |_| Ok(spawn()))?;
        ctx.shield(HANG, |_| Ok(spawn()))?;
        ctx.foreign("c", HANG, &spawn);
        ctx.iter(std::iter::from_fn(|| Some(spawn())).take(1))
            .for_each(drop);
        Ok(())
    }));
    let (spawn, again) = (spawns(), spawns());
    let scope = manager.scope("scope", |scope| {
        again();
        scope.spawn("borrows", |_| Ok(spawn()))?;
        Ok(())
    });
    scope.expect("they complete");
    let other = self::manager();
    let spawn = spawns();
    soon(
        &other,
        &other
            .spawn("of another", move |_| Ok(spawn()))
            .expect("spawned"),
    )
    .expect("a value");
    for _ in 0..16 {
        assert!(arrives(&told), "there was no reason to refuse it");
    }
    drop((guard, late, by_time));

    // And in the shutdown: a callback, a task that was asked, and the last drop of all.
    let spawn = spawns();
    let (there, ready) = bounded(1);
    drop(manager.spawn("asked", move |ctx| {
        let spawn = spawn;
        ctx.on_cancel(spawn.clone()).keep();
        there.send(())?;
        ctx.wait();
        spawn();
        Ok(())
    }));
    arrives(&ready);
    let report = manager.shutdown().expect("a report");
    assert_eq!(report.stragglers().count(), 0, "{report}");
    for _ in 0..2 {
        assert!(!arrives(&told), "it was accepted by who has stopped");
    }
    assert_all_ended_once(manager.counts(), &ends);
}

fn token_with_timeout() -> CancellationToken {
    let token = CancellationToken::new().child_with_timeout(Duration::from_millis(1));
    token.expect("a thread for deadlines")
}

#[test]
#[ignore = "a role of a child process"]
fn spawns_in_its_logger_and_its_panic_hook() {
    static MANAGER: OnceLock<Manager> = OnceLock::new();
    static SPAWNED: AtomicU64 = AtomicU64::new(0);
    fn spawn_one_more() {
        // Not of its own making: each of them logs and some panic.
        if taskmuster::current().is_some_and(|ctx| ctx.name().starts_with("again")) {
            return;
        }
        if let Some(manager) = MANAGER.get() {
            match manager.spawn("again", |_| Ok(())) {
                Ok(_) => SPAWNED.fetch_add(1, Ordering::SeqCst),
                Err(error) => u64::from(!is_stopping(&error)) * 1_000_000,
            };
        }
    }
    panic::set_hook(Box::new(|_| spawn_one_more()));
    logger::install(|_| spawn_one_more());
    let manager = MANAGER.get_or_init(manager);
    for round in 0..50 {
        let handle = manager.spawn("panics", move |_| match round % 2 {
            0 => Ok(()),
            _ => panic!("once more"),
        });
        drop(soon(manager, &handle.expect("spawned")));
    }
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_balanced(manager.counts());
    // Whoever has spawned one counts it a moment later.
    until("the count of all", || {
        manager.counts().spawned == 50 + SPAWNED.load(Ordering::SeqCst)
    });
    let spawned = SPAWNED.load(Ordering::SeqCst);
    assert!((50..1_000).contains(&spawned), "{spawned}");
}

#[test]
fn f029_so_has_one_from_the_logger_and_the_panic_hook() {
    assert_played(child::start(
        "spawn::spawns_in_its_logger_and_its_panic_hook",
    ));
}

#[test]
fn f030_after_the_shutdown_every_spawn_is_refused_at_once_and_for_ever() {
    let manager = manager();
    let (early, nested) = (manager.group("early"), manager.group("a").group("b"));
    let requester = manager.requester();
    let ((there, ready), (release, released)) = (bounded(1), bounded::<()>(0));
    let straggler = manager.spawn("straggler", move |ctx| {
        there.send(())?;
        let _ = released.recv();
        Ok(is_stopping(&refused(ctx.group().spawn("no", |_| Ok(())))))
    });
    let straggler = straggler.expect("spawned");
    arrives(&ready);
    let report = manager.shutdown_timeout(Duration::ZERO).expect("a report");
    assert_eq!(report.exit_code(), 2);
    let begin = Instant::now();
    let gone = Arc::new(AtomicU64::new(0));
    let seeds = Seeds {
        sown: AtomicU64::new(0),
        gone: Arc::clone(&gone),
    };
    for _ in 0..100 {
        requester.request_shutdown("again");
        for group in [
            manager.root_group(),
            &early,
            &nested,
            &manager.group("late"),
        ] {
            for spawn in SPAWNS {
                assert_eq!(spawn(group, &seeds).accepted, 0);
            }
        }
    }
    assert!(
        begin.elapsed() < HANG,
        "each was waited for: {:?}",
        begin.elapsed()
    );
    assert_eq!(
        gone.load(Ordering::SeqCst),
        seeds.sown.load(Ordering::SeqCst)
    );
    drop(release);
    while !straggler.is_finished() {
        thread::yield_now();
    }
    assert!(soon(&manager, &straggler).expect("a value"));
    until_nobody_lives(&manager);
    let counts = manager.counts();
    assert_eq!((counts.spawned, counts.completed), (1, 1));
    // What was refused there is good for a new manager.
    let body = refused(manager.spawn("moved", |_| Ok(7))).into_body();
    let new = self::manager();
    assert_eq!(
        soon(&new, &new.spawn("moved", body).expect("spawned")).expect("a value"),
        7
    );
    assert!(new.shutdown().expect("a report").is_clean());
}

// ---- 31: forks ----

#[test]
#[ignore = "a role under the shim"]
fn spawns_in_a_fork() {
    let manager = manager();
    let group = manager.group("group").group("inner");
    // Busy threads hold all kinds of locks at the moment of a fork, and in the copy they hold them for ever.
    let stop = CancellationToken::new();
    thread::scope(|scope| {
        let _stops = stop.drop_guard();
        scope.spawn(|| {
            while !stop.is_cancelled() {
                drop(manager.root_group().token().child_token());
            }
        });
        scope.spawn(|| {
            while !stop.is_cancelled() {
                let busy = group.spawn("busy", |_| Ok(())).expect("spawned");
                drop((busy.join(), manager.counts(), manager.tasks()));
            }
        });
        scope.spawn(|| {
            while !stop.is_cancelled() {
                drop(stop.child_with_timeout(HANG));
            }
        });
        for _ in 0..rounds(60, 2_000) {
            preload::in_a_fork(|fork| {
                let forked = |error: SpawnError<u64>| {
                    assert!(matches!(error.failure(), SpawnFailure::Forked), "{error}");
                    // It is as good as before: call it.
                    drop(error.into_body());
                };
                fork.say("a plain spawn");
                forked(refused(manager.spawn("plain", |_| Ok(1))));
                fork.say("a spawn in a group");
                forked(refused(group.spawn("inner", |_| Ok(1))));
                fork.say("a spawn with a deadline");
                forked(refused(group.task("timed").timeout(HANG).spawn(|_| Ok(1))));
                fork.say("a spawn that waits until it is ready");
                let started = manager.task("ready").spawn_ready(HANG, |_| Ok(1));
                assert!(matches!(
                    refused(started).failure(),
                    StartFailure::NotSpawned(_)
                ));
                fork.say("a start in order");
                let startup = group.startup(HANG).then(group.task("first"), |_| Ok(()));
                drop(refused(startup.start()));
            });
        }
    });
    let last = manager
        .spawn("last", |_| Ok(7))
        .expect("the original goes on");
    assert_eq!(soon(&manager, &last).expect("a value"), 7);
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
fn f031_in_a_fork_every_spawn_is_refused_at_once_whatever_is_locked() {
    preload::play("spawn::spawns_in_a_fork");
}

// ---- 32, 33, 36: names and closures ----

#[test]
fn f032_names_may_be_used_twice_and_numbers_are_never() {
    let manager = manager();
    let (there, ready) = unbounded();
    let groups = [
        manager.group("same"),
        manager.group("same"),
        manager.root_group().clone(),
    ];
    let handles: Vec<_> = thread::scope(|scope| {
        let spawners: Vec<_> = groups
            .iter()
            .map(|group| {
                let there = there.clone();
                scope.spawn(move || {
                    let spawn = |_| {
                        let there = there.clone();
                        group.spawn("twin", move |ctx| {
                            there.send(ctx.id())?;
                            Err::<(), _>(ctx.wait().into())
                        })
                    };
                    (0..20)
                        .map(spawn)
                        .collect::<Result<Vec<_>, _>>()
                        .expect("spawned")
                })
            })
            .collect();
        spawners
            .into_iter()
            .flat_map(|spawner| spawner.join().expect("no panic"))
            .collect()
    });
    let told: BTreeSet<_> = handles.iter().map(|_| arrives(&ready)).collect();
    let ids: BTreeSet<_> = handles.iter().map(TaskHandle::id).collect();
    assert_eq!((ids.len(), &told), (60, &ids));
    assert_eq!(
        manager
            .tasks()
            .iter()
            .filter(|task| &*task.name == "same/twin")
            .count(),
        40
    );
    // Each is reached by its own handle, whatever it is called.
    for (number, handle) in handles.iter().enumerate() {
        assert!(handle.cancel());
        assert!(matches!(
            soon(&manager, handle),
            Err(JoinError::Cancelled { .. })
        ));
        until("its end in the books", || {
            manager.tasks().len() == 59 - number
        });
    }
    let new = manager.spawn("twin", |ctx| Ok(ctx.id())).expect("spawned");
    let id = soon(&manager, &new).expect("a number");
    assert!(ids.iter().all(|before| *before < id), "a number came back");
    assert!(manager.shutdown().expect("a report").is_clean());
}

/// Names as nobody should give, and now and then one that is as long as a book.
fn names() -> impl Strategy<Value = String> {
    const NASTY: &[char] = &[
        '\0',
        '\n',
        '\r',
        '\t',
        '\u{1b}',
        '\u{7f}',
        '\u{85}',
        '\u{9b}',
        '\u{ad}',
        '\u{200b}',
        '\u{200e}',
        '\u{200f}',
        '\u{2028}',
        '\u{2029}',
        '\u{202a}',
        '\u{202e}',
        '\u{2066}',
        '\u{2069}',
        '\u{feff}',
        '/',
        '`',
        '"',
        '\\',
        '{',
        '}',
        '%',
        ' ',
        'ä',
        '€',
        '𝄞',
        '\u{301}',
        '\u{10ffff}',
        'a',
    ];
    let character = prop_oneof![proptest::sample::select(NASTY), char::any()];
    let name = vec(character, 0..40).prop_map(|chars| chars.into_iter().collect::<String>());
    let long = (name, prop_oneof![9 => Just(1), 1 => Just(2_500)]);
    long.prop_map(|(name, times)| name.repeat(times))
}

fn is_harmless(name: &str) -> bool {
    let turns = |c| matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !name.contains(|c: char| c.is_control() || turns(c))
}

#[test]
fn f033_no_name_forges_a_line_or_keeps_a_thread_from_starting() {
    let manager = manager();
    let config = Config {
        cases: u32::try_from(rounds(300, 20_000)).expect("a small number"),
        failure_persistence: None,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&(names(), names()), |(group, name)| {
        let handle = manager.group(&group).spawn(&name, |ctx| {
            let comm = fs::read("/proc/thread-self/comm").unwrap_or_default();
            Ok((
                ctx.name().to_owned(),
                thread::current().name().map(str::to_owned),
                comm,
            ))
        });
        let handle = handle.expect("any name will do");
        let (path, thread_name, comm) = soon(&manager, &handle).expect("a value");
        assert_eq!(path, handle.name());
        assert!(is_harmless(&path), "{path:?}");
        assert!(path.len() <= 2 * 1_024 + 1, "{}", path.len());
        let parts = path.split_once('/').expect("a group and a name");
        assert!(!parts.0.is_empty() || group.starts_with('/'), "{path:?}");
        assert!(
            !path.ends_with('/') || name.ends_with('/') || name.len() > 1_024,
            "{path:?}"
        );
        // A harmless name is kept as it is.
        if is_harmless(&name)
            && !name.contains(['\u{200b}', '\u{feff}'])
            && (1..1_000).contains(&name.len())
        {
            assert!(path.ends_with(&name), "{path:?}");
        }
        let thread_name = thread_name.expect("every thread has a name");
        assert!(
            thread_name.len() <= 15 && path.ends_with(&thread_name),
            "{thread_name:?}"
        );
        let comm = String::from_utf8(comm).expect("whole characters");
        if !comm.is_empty() {
            assert_eq!(comm.trim_end_matches('\n'), thread_name);
        }
        Ok(())
    });
    ran.expect("it holds for all");
    until_nobody_lives(&manager);
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn f033_a_report_has_one_line_a_task_whatever_they_are_called() {
    let config = Config {
        cases: u32::try_from(rounds(20, 1_000)).expect("a small number"),
        failure_persistence: None,
        ..Config::default()
    };
    let ran = TestRunner::new(config).run(&vec(names(), 0..6), |names| {
        let note = names.concat();
        let report = Manager::builder().grace(HANG).run(|manager| {
            for name in &names {
                let error = name.clone();
                let fails = manager.spawn::<()>(name, move |_| Err(error.into()))?;
                drop(fails.join());
                let error = name.clone();
                let panics = manager.spawn::<()>(name, move |_| panic!("{error}"))?;
                drop(panics.join());
            }
            manager.request_shutdown(note);
            Ok(())
        });
        let text = report.to_string();
        let lines = text
            .split([
                '\n', '\r', '\u{b}', '\u{c}', '\u{85}', '\u{2028}', '\u{2029}',
            ])
            .count();
        assert_eq!(lines, 2 * names.len() + 3, "{text:?}");
        assert!(
            !text.contains(['\u{1b}', '\u{9b}', '\0', '\u{202e}', '\u{2066}']),
            "{text:?}"
        );
        Ok(())
    });
    ran.expect("it holds for all");
}

#[expect(clippy::unnecessary_wraps, reason = "a task gives a result")]
fn named(_: &TaskContext) -> TaskResult<usize> {
    Ok(1)
}

#[test]
#[ignore = "a role under the shim"]
#[expect(clippy::large_stack_arrays, reason = "that is what it is about")]
fn spawns_closures_of_all_sizes() {
    const MEBIBYTE: usize = 1 << 20;
    #[repr(align(4096))]
    struct Page([u8; 4096]);
    let manager = manager();
    // Nothing.
    assert_eq!(
        soon(
            &manager,
            &manager.spawn("a function", named).expect("spawned")
        )
        .expect("a value"),
        1
    );
    let zero = manager.spawn("zero", |_| Ok(2)).expect("spawned");
    assert_eq!(soon(&manager, &zero).expect("a value"), 2);
    // What must not move once it is pinned, and what is not `Sync`.
    let pinned = (PhantomPinned, std::cell::Cell::new(3));
    let pinned = manager.spawn("pinned", move |_| {
        let pinned = &pinned;
        let _: &PhantomPinned = &pinned.0;
        Ok(pinned.1.get())
    });
    assert_eq!(
        soon(&manager, &pinned.expect("spawned")).expect("a value"),
        3
    );
    // What is aligned to more than any allocator does by itself.
    let page = Page([4; 4096]);
    let page = manager.spawn("aligned", move |_| {
        let page = &page;
        assert_eq!(std::ptr::from_ref(page).addr() % 4096, 0);
        Ok(usize::from(page.0[4_095]))
    });
    assert_eq!(soon(&manager, &page.expect("spawned")).expect("a value"), 4);
    // A mebibyte: in one piece of memory, and never on the stack of its task.
    let before = ask(Command::LargeAllocations);
    let huge = [5_u8; MEBIBYTE];
    let task = manager.task("huge").stack_size(64 * 1024);
    let huge = task.spawn(move |_| {
        let huge = black_box(&huge);
        Ok(usize::from(huge[MEBIBYTE - 1]))
    });
    assert_eq!(soon(&manager, &huge.expect("spawned")).expect("a value"), 5);
    assert_eq!(ask(Command::LargeAllocations) - before, 1, "boxed once");
    // It comes back in the same box.
    let huge = [6_u8; MEBIBYTE];
    let task = manager.task("refused").stack_size(usize::MAX);
    let error = refused(task.spawn(move |_| {
        let huge = black_box(&huge);
        Ok(usize::from(huge[MEBIBYTE - 1]))
    }));
    let again = manager.task("again").stack_size(64 * 1024);
    let before = ask(Command::LargeAllocations);
    let again = again.spawn(error.into_body()).expect("spawned");
    assert_eq!(soon(&manager, &again).expect("a value"), 6);
    assert!(ask(Command::LargeAllocations) - before <= 1);
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
#[ignore = "a role under the shim"]
fn spawns_closures_of_all_sizes_on_a_large_stack() {
    let large = thread::Builder::new().stack_size(256 << 20);
    let spawned = large.spawn(spawns_closures_of_all_sizes).expect("a thread");
    spawned.join().expect("it does not panic");
}

#[test]
fn f036_closures_of_any_size_and_kind_are_boxed_once() {
    preload::play("spawn::spawns_closures_of_all_sizes_on_a_large_stack");
}
