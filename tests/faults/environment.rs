//! Resources and surroundings: faults 103 to 110.

#![expect(clippy::unit_arg, reason = "a body that does one thing is one line")]

use std::cell::Cell;
use std::fs::{self, File};
use std::io::Read as _;
use std::mem::ManuallyDrop;
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Sender, bounded, unbounded};
use taskmuster::{
    CancellationToken, CauseKind, GroupError, JoinError, Manager, ReadyError, ShutdownError,
    ShutdownReport, TaskHandle, Waited,
};

use crate::books::{HANG, arrives, assert_all_ended_once, assert_balanced, manager, rounds, soon};
use crate::child;
use crate::child::program::Program;
use crate::preload::{self, Command, Fork, Forked, assert_played, tell};
use crate::race::until;
use crate::spawn::{Cgroup, works};
use crate::usage;

// ---- 103: forks ----

/// Has threads do all they can with `manager` while `work` runs: they hold all kinds of locks at the moment of a fork,
/// and in the copy they hold them for ever.
fn while_all_is_busy(manager: &Manager, work: impl FnOnce()) {
    let stop = CancellationToken::new();
    let group = manager.group("busy");
    thread::scope(|scope| {
        let _stops = stop.clone().drop_guard();
        scope.spawn(|| {
            while !stop.is_cancelled() {
                drop(manager.root_group().token().child_token());
                drop(group.group("inner"));
            }
        });
        scope.spawn(|| {
            while !stop.is_cancelled() {
                let busy = group.spawn("busy", |_| Ok(())).expect("spawned");
                drop((
                    busy.join(),
                    manager.counts(),
                    manager.tasks(),
                    busy.outcome(),
                ));
            }
        });
        scope.spawn(|| {
            while !stop.is_cancelled() {
                let timed = stop
                    .child_with_timeout(HANG)
                    .expect("a thread for deadlines");
                drop(timed.on_cancel(|| {}));
            }
        });
        work();
    });
}

fn assert_forked<T>(result: Result<T, JoinError>) {
    let error = result.map(drop).expect_err("it must not wait");
    assert!(matches!(error, JoinError::Forked { .. }), "{error}");
}

#[test]
#[ignore = "a role under the shim"]
fn forks_while_all_is_busy() {
    let manager = Cell::new(Some(manager()));
    let borrowed = manager.take().expect("it is there");
    let (there, ready) = bounded(1);
    let live = borrowed.spawn::<u8>("live", move |ctx| {
        there.send(())?;
        Err(ctx.wait().into())
    });
    let live = live.expect("spawned");
    arrives(&ready);
    let ended = borrowed.spawn("ended", |_| Ok(7)).expect("spawned");
    soon(&borrowed, &ended).expect("a value");
    let group = borrowed.group("group");
    drop(group.spawn::<()>("in a group", |ctx| Err(ctx.wait().into())));
    while_all_is_busy(&borrowed, || {
        for _ in 0..rounds(60, 2_000) {
            preload::in_a_fork(|fork| {
                fork.say("join");
                assert_forked(live.join());
                assert_forked(ended.join());
                fork.say("join_timeout");
                assert_forked(live.join_timeout(HANG));
                fork.say("join_deadline");
                assert_forked(live.join_deadline(Instant::now() + HANG));
                fork.say("stop");
                assert_forked(live.stop(HANG));
                fork.say("wait_ready");
                assert!(matches!(
                    live.wait_ready(HANG),
                    Err(ReadyError::NotYet { .. })
                ));
                fork.say("the join of a group");
                assert!(matches!(group.join(), Err(GroupError::Forked)));
                assert!(matches!(group.join_timeout(HANG), Err(GroupError::Forked)));
                fork.say("wait");
                assert!(matches!(borrowed.wait(), Waited::NothingLeft));
                fork.say("shutdown");
                assert!(matches!(borrowed.shutdown(), Err(ShutdownError::Forked)));
                let timed = borrowed.shutdown_timeout(HANG);
                assert!(matches!(timed, Err(ShutdownError::Forked)));
                fork.say("the numbers");
                assert_eq!(borrowed.counts().spawned, 0);
                assert!(borrowed.tasks().is_empty());
                fork.say("a group of its own");
                let inner = group.group("inner");
                assert!(inner.spawn("no", |_| Ok(())).is_err());
                fork.say("a scope");
                let scope = group.scope("scope", |scope| {
                    assert!(scope.spawn("no", |_| Ok(())).is_err());
                    Ok(7)
                });
                assert_eq!(scope.expect("a value"), 7);
                fork.say("the drop of a group");
                drop(inner);
            });
        }
    });
    manager.set(Some(borrowed));
    for _ in 0..20 {
        preload::in_a_fork(|fork| {
            fork.say("the drop of the manager");
            drop(manager.take());
        });
    }
    let manager = manager.take().expect("the original goes on");
    assert!(live.cancel());
    assert!(matches!(
        soon(&manager, &live),
        Err(JoinError::Cancelled { .. })
    ));
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
#[ignore = "a role under the shim"]
fn forks_in_a_task_whose_body_returns() {
    /// Destroyed with the thread-locals of the task in the copy, which then exits, since it has no other thread.
    struct IsWell(ManuallyDrop<Fork>);

    thread_local! {
        static LAST: Cell<Option<IsWell>> = const { Cell::new(None) };
    }

    impl Drop for IsWell {
        fn drop(&mut self) {
            self.0.say_well();
        }
    }

    let manager = manager();
    while_all_is_busy(&manager, || {
        for _ in 0..rounds(60, 2_000) {
            let forks = manager.spawn("forks", |_| match preload::fork() {
                Forked::Child(fork) => {
                    fork.say("the return of the body");
                    LAST.set(Some(IsWell(ManuallyDrop::new(fork))));
                    Ok(())
                }
                Forked::Parent(waits) => Ok(waits.until_it_is_well()),
            });
            let forks = forks.expect("spawned");
            soon(&manager, &forks).expect("the original goes on");
        }
    });
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
#[ignore = "a role under the shim"]
fn forks_in_the_body_of_run_and_in_a_task() {
    for _ in 0..20 {
        let forked = Cell::new(None);
        let report = Manager::builder().grace(HANG).run(|manager| {
            drop(manager.spawn::<()>("deaf to the fork", |ctx| Err(ctx.wait().into()))?);
            forked.set(Some(preload::fork()));
            Ok(())
        });
        match forked.take().expect("it forked") {
            Forked::Child(fork) => {
                fork.say("the return of run");
                assert_eq!(report.exit_code(), 1);
                assert!(
                    report.to_string().contains("is a fork of the one"),
                    "{report}"
                );
                fork.end_well();
            }
            Forked::Parent(waits) => {
                waits.until_it_is_well();
                assert!(report.is_clean(), "{report}");
            }
        }
    }
    let manager = Arc::new(manager());
    let other = manager
        .spawn::<()>("other", |ctx| Err(ctx.wait().into()))
        .expect("spawned");
    let theirs = Arc::clone(&manager);
    for _ in 0..20 {
        let (other, theirs) = (Arc::new(&other), Arc::clone(&theirs));
        let scope = manager.scope("forks", |scope| {
            let forks = scope.spawn("forks", move |ctx| {
                preload::in_a_fork(|fork| {
                    fork.say("a checkpoint, which does not look");
                    ctx.checkpoint().expect("nobody asked it to stop");
                    fork.say("a join in the context");
                    assert_forked(ctx.join(&other));
                    assert_forked(ctx.join_timeout(&other, HANG));
                    fork.say("the join of a group in the context");
                    let group = ctx.join_group(ctx.group());
                    assert!(matches!(group, Err(GroupError::Forked)));
                    fork.say("shutdown in a task");
                    assert!(matches!(theirs.shutdown(), Err(ShutdownError::Forked)));
                    fork.say("wait in a task");
                    assert!(matches!(theirs.wait(), Waited::NothingLeft));
                    fork.say("spawn in a task");
                    assert!(ctx.group().spawn("no", |_| Ok(())).is_err());
                });
                Ok(())
            });
            Ok(forks?.join()?)
        });
        scope.expect("the original goes on");
    }
    assert!(manager.shutdown().expect("a report").is_clean());
    assert_balanced(manager.counts());
}

#[test]
fn f103_in_a_fork_whatever_would_wait_returns_at_once_whatever_is_locked() {
    preload::play("environment::forks_while_all_is_busy");
}

#[test]
fn f103_a_task_that_has_forked_ends_in_both_processes() {
    preload::play("environment::forks_in_a_task_whose_body_returns");
}

#[test]
fn f103_so_do_the_end_of_run_and_the_waits_of_a_task() {
    preload::play("environment::forks_in_the_body_of_run_and_in_a_task");
}

// ---- 104, 105: reports without /proc ----

/// A task that sits in a read until the other end of its socket is dropped.
fn reads(manager: &Manager, name: &str) -> (TaskHandle<()>, UnixStream) {
    let (mut mine, theirs) = UnixStream::pair().expect("a pair of sockets");
    let (there, ready) = bounded(1);
    let task = manager.spawn(name, move |ctx| {
        ctx.checkpoint()?;
        there.send(())?;
        drop(mine.read(&mut [0]));
        Ok(())
    });
    arrives(&ready);
    (task.expect("spawned"), theirs)
}

fn assert_knows_no_place(report: &ShutdownReport) {
    assert_eq!(report.exit_code(), 2, "{report}");
    let straggler = report.stragglers().next().expect("one reads");
    let diagnosis = straggler.diagnosis().expect("it did not stop");
    assert_eq!(
        (&diagnosis.blocked_in, diagnosis.cpu),
        (&None, None),
        "{report}"
    );
    // What is free is there.
    let last = diagnosis.last_checkpoint.expect("it passed one");
    assert!(last.file().ends_with("environment.rs"), "{report}");
    assert!(
        diagnosis
            .to_string()
            .contains("put `ctx.checkpoint()?` into the loop"),
        "{report}"
    );
}

#[test]
#[ignore = "a role of a child process"]
fn has_no_descriptor_left() {
    let before = manager();
    let (sits, socket) = reads(&before, "reads");
    let mut open = Vec::new();
    while let Ok(file) = File::open("/dev/null") {
        open.push(file);
    }
    // Threads need no descriptors.
    let manager = manager();
    let handle = manager.spawn("needs none", |_| Ok(7)).expect("spawned");
    assert_eq!(soon(&manager, &handle).expect("a value"), 7);
    let timed = CancellationToken::new().child_with_timeout(Duration::from_millis(1));
    assert_eq!(
        timed.expect("a thread").wait().cause().kind(),
        CauseKind::Deadline
    );
    assert!(manager.shutdown().expect("a report").is_clean());
    let report = before
        .shutdown_timeout(Duration::from_millis(700))
        .expect("a report");
    assert!(File::open("/dev/null").is_err(), "somebody has closed one");
    assert_knows_no_place(&report);
    drop((open, socket));
    while !sits.is_finished() {
        thread::yield_now();
    }
}

#[test]
fn f104_without_a_descriptor_left_the_report_has_no_places_and_all_else_works() {
    if works(&["prlimit", "--nofile=64", "true"]) {
        let mut role = child::under(
            ["prlimit", "--nofile=64"],
            "environment::has_no_descriptor_left",
        );
        assert_played(Program::start(&mut role));
    } else {
        assert_played(child::start("environment::has_no_descriptor_left"));
    }
}

#[test]
#[ignore = "a role under the shim"]
fn cannot_read_proc() {
    for (name, errno) in [("ENOENT", 2), ("EACCES", 13), ("EIO", 5)] {
        eprintln!("{name}");
        tell(Command::HideProc, errno);
        let manager = manager();
        let (sits, socket) = reads(&manager, "reads");
        let handle = manager.spawn("needs none", |_| Ok(7)).expect("spawned");
        assert_eq!(soon(&manager, &handle).expect("a value"), 7);
        let report = manager
            .shutdown_timeout(Duration::from_millis(500))
            .expect("a report");
        assert_knows_no_place(&report);
        drop(socket);
        while !sits.is_finished() {
            thread::yield_now();
        }
        // When it is there again, so are the places.
        tell(Command::HideProc, 0);
        let manager = self::manager();
        let (sits, socket) = reads(&manager, "reads again");
        usage::until_it_sleeps("reads again");
        let report = manager
            .shutdown_timeout(Duration::from_millis(100))
            .expect("a report");
        assert!(report.to_string().contains("and sits in "), "{report}");
        drop((socket, sits));
    }
}

#[test]
fn f105_a_proc_that_cannot_be_read_leaves_out_what_it_would_have_said() {
    preload::play("environment::cannot_read_proc");
}

#[test]
#[ignore = "a role of a child process"]
fn has_no_proc() {
    assert!(!fs::exists("/proc/self").expect("it can be asked for"));
    let manager = manager();
    let (sits, socket) = reads(&manager, "reads");
    let report = manager
        .shutdown_timeout(Duration::from_millis(500))
        .expect("a report");
    assert_knows_no_place(&report);
    drop((socket, sits));
}

#[test]
fn f105_so_does_one_that_is_not_mounted() {
    let unmounted = "mount -t tmpfs none /proc";
    if works(&["unshare", "-m", "sh", "-c", unmounted]) {
        let exec = format!("{unmounted} && exec \"$0\" \"$@\"");
        let wrapper = ["unshare", "-m", "sh", "-c", &exec];
        assert_played(Program::start(&mut child::under(
            wrapper,
            "environment::has_no_proc",
        )));
    }
}

// ---- 106, 107: little time, and coarse ----

#[test]
#[ignore = "a role of a child process"]
fn lives_on_little() {
    for _ in 0..4 {
        // Races, deadlines and a shutdown; nothing that a slow machine may turn into a failure.
        let manager = manager();
        let ends = manager.root_group().ends();
        for number in 0..20 {
            let handle = manager
                .spawn("quick", move |_| Ok(number))
                .expect("spawned");
            assert_eq!(soon(&manager, &handle).expect("a value"), number);
        }
        let timed = manager.task("timed").timeout(Duration::from_millis(5));
        let timed = timed
            .spawn::<()>(|ctx| Err(ctx.wait().into()))
            .expect("spawned");
        let Err(JoinError::Cancelled { cancelled, .. }) = soon(&manager, &timed) else {
            panic!("it waits for its stop")
        };
        assert_eq!(cancelled.cause().kind(), CauseKind::Deadline);
        let (there, ready): (Sender<()>, _) = unbounded();
        let groups: Vec<_> = (0..4)
            .map(|it| manager.group(format!("group {it}")))
            .collect();
        for group in groups.iter().cycle().take(12) {
            let there = there.clone();
            drop(group.spawn("waits", move |ctx| {
                there.send(())?;
                ctx.sleep(HANG)?;
                Ok(())
            }));
        }
        for _ in 0..12 {
            arrives(&ready);
        }
        let report = manager.shutdown().expect("a report");
        assert!(report.is_clean(), "{report}");
        assert_all_ended_once(manager.counts(), &ends);
    }
}

/// Has the role played without a limit of seconds, which may be all it gets.
fn assert_lives(role: &mut process::Command) {
    let output = role.output().expect("it starts");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|it| String::from_utf8_lossy(&it).into_owned());
    let is_well = output.status.success() && stdout.contains("1 passed");
    assert!(is_well, "{}{stdout}{stderr}", output.status);
}

#[test]
fn f106_all_is_well_on_one_core_that_others_use_first() {
    let wrapper = ["timeout", "600", "nice", "-n", "19", "taskset", "-c", "0"];
    if works(&[
        "timeout", "9", "nice", "-n", "19", "taskset", "-c", "0", "true",
    ]) {
        assert_lives(&mut child::under(wrapper, "environment::lives_on_little"));
    }
}

#[test]
fn f106_so_it_is_with_a_twentieth_of_a_processor() {
    let settings = [("cpu.cfs_period_us", "20000"), ("cpu.cfs_quota_us", "1000")];
    if let Some(cgroup) = Cgroup::new("cpu", &settings) {
        assert_lives(&mut cgroup.role("environment::lives_on_little"));
    }
}

#[test]
#[ignore = "a role under the shim"]
fn waits_by_a_coarse_clock() {
    for step in [1, 4, 10] {
        tell(Command::CoarseClock, step);
        let before = usage::processor_time();
        let begin = Instant::now();
        let manager = manager();
        let sleeper = manager.spawn("sleeps", |ctx| {
            let mut slept = Vec::new();
            for _ in 0..20 {
                let begin = Instant::now();
                ctx.sleep(Duration::from_millis(20))?;
                slept.push(begin.elapsed());
            }
            Ok(slept)
        });
        let (sits, socket) = reads(&manager, "reads");
        let tokens: Vec<_> = (1..=20)
            .map(|it| CancellationToken::new().child_with_timeout(Duration::from_millis(20 * it)))
            .collect();
        for token in tokens {
            let token = token.expect("a thread for deadlines");
            assert!(token.wait_timeout(HANG).is_some());
        }
        let slept = soon(&manager, &sleeper.expect("spawned")).expect("not asked to stop");
        assert!(
            slept.iter().all(|span| *span >= Duration::from_millis(20)),
            "{slept:?}"
        );
        let report = manager
            .shutdown_timeout(Duration::from_millis(300))
            .expect("a report");
        assert_eq!(report.exit_code(), 2, "{report}");
        assert!(report.took() >= Duration::from_millis(300), "{report}");
        drop(socket);
        while !sits.is_finished() {
            thread::yield_now();
        }
        let (waited, worked) = (
            begin.elapsed(),
            usage::processor_time().saturating_sub(before),
        );
        eprintln!("in steps of {step} ms: {worked:?} of work in {waited:?}");
        assert!(waited >= Duration::from_millis(700), "{waited:?}");
        assert!(worked < waited / 2, "it spins: {worked:?} of {waited:?}");
    }
}

#[test]
fn f107_a_coarse_clock_makes_no_wait_too_short_and_nobody_spin() {
    preload::play("environment::waits_by_a_coarse_clock");
}

// ---- 110: a long life ----

/// One of everything that is done a hundred thousand times in the life of a service.
fn cycle(manager: &Manager, number: usize) {
    let handle = match number % 4 {
        0 => manager.spawn("plain", move |_| Ok(number)),
        1 => manager.group("group").spawn("in a group", move |ctx| {
            let _guard = ctx.on_cancel(|| {});
            Ok(number)
        }),
        2 => manager.task("timed").timeout(HANG).spawn(move |ctx| {
            ctx.foreign("c", HANG, || ());
            Ok(number)
        }),
        _ => {
            let scope = manager.scope("scope", |scope| {
                Ok(scope.spawn("borrows", |_| Ok(number))?.join()?)
            });
            let inside = scope.expect("it completes");
            manager.spawn("after it", move |_| Ok(inside))
        }
    };
    let handle = handle.expect("there is room");
    assert_eq!(soon(manager, &handle).expect("a value"), number);
}

#[test]
#[ignore = "a role of a child process"]
fn lives_long() {
    // A million cycles, if there is time for it.
    let (parts, part) = (rounds(10, 100), rounds(2_000, 10_000));
    let manager = manager();
    let (mut memory, mut threads, mut descriptors) = (0, 0, 0);
    let before = usage::threads();
    for number in 0..parts {
        for it in 0..part {
            cycle(&manager, it);
            if it % 64 == 0 {
                // Else a busy machine has many threads on their way out at once, whose stacks are kept.
                until("room for more", || usage::threads() < before + 16);
            }
        }
        let in_use = (usage::resident(), usage::threads(), usage::descriptors());
        eprintln!("part {number} of {parts}: {in_use:?}");
        if number == 1 {
            (memory, threads, descriptors) = in_use;
        }
    }
    let in_use = usage::resident();
    assert!(
        in_use < memory + memory / 20 + 1_024,
        "{memory} KiB became {in_use} KiB"
    );
    assert_eq!(usage::descriptors(), descriptors);
    // A few that have ended may still be on their way out.
    until("the end of their threads", || usage::threads() <= threads);
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    let spawned = (parts * part + parts * part / 4) as u64;
    assert_eq!(
        (manager.counts().spawned, manager.counts().completed),
        (spawned, spawned)
    );
}

#[test]
#[cfg(target_os = "linux")]
fn f110_a_long_life_takes_no_more_memory_threads_or_descriptors() {
    let program = child::start("environment::lives_long");
    for part in 0..rounds(10, 100) {
        program.wait_for_line(&format!("part {part} of"));
    }
    assert_played(program);
}

/// As many as the default limit lets there be, and a little less.
const CROWD: usize = 10_000;

/// How many of them stop between two lines that say so.
const PART: usize = 1_000;

#[test]
#[ignore = "a role of a child process"]
fn stops_a_crowd() {
    let manager = manager();
    let (threads, ends) = (usage::threads(), manager.root_group().ends());
    let (begun, stopped) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let spawn = |number| {
        let task = manager.task(format!("one of many {number}"));
        let (begun, stopped) = (Arc::clone(&begun), Arc::clone(&stopped));
        task.stack_size(64 * 1024).spawn(move |ctx| {
            begun.fetch_add(1, Ordering::SeqCst);
            ctx.wait();
            let before = stopped.fetch_add(1, Ordering::SeqCst);
            if before % PART == 0 {
                eprintln!("{before} had stopped.");
            }
            Ok(1)
        })
    };
    let tasks: Vec<_> = (0..CROWD).map(spawn).collect();
    let tasks: Vec<_> = tasks
        .into_iter()
        .map(|it| it.expect("there is room"))
        .collect();
    eprintln!("all are there");
    until("the begin of all", || begun.load(Ordering::SeqCst) == CROWD);
    assert!(usage::threads() >= threads + CROWD);
    eprintln!("all have begun");
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    let heard: u32 = tasks.iter().map(|task| task.join().expect("a value")).sum();
    assert_eq!(heard as usize, CROWD);
    assert_all_ended_once(manager.counts(), &ends);
    // The kernel forgets a thread a moment after it was joined.
    until("the end of the threads", || usage::threads() <= threads + 1);
}

#[test]
#[cfg(target_os = "linux")]
fn f110_ten_thousand_tasks_on_as_many_threads_are_stopped_and_joined() {
    let maps = fs::read_to_string("/proc/sys/vm/max_map_count").expect("procfs");
    if maps.trim().parse::<usize>().expect("a number") / 6 <= CROWD {
        return eprintln!("skipped: no more than {maps} maps, so no {CROWD} threads");
    }
    let program = child::start("environment::stops_a_crowd");
    program.wait_for_line("all are there");
    program.wait_for_line("all have begun");
    for number in (0..CROWD).step_by(PART) {
        program.wait_for_line(&format!("{number} had stopped."));
    }
    assert_played(program);
}

#[test]
#[ignore = "a role of a child process"]
fn has_many_managers() {
    let (parts, part) = (10, rounds(40, 2_000));
    let (mut memory, mut threads) = (0, 0);
    for number in 0..parts {
        for it in 0..part {
            let manager = manager();
            (0..4).for_each(|number| cycle(&manager, number));
            match it % 3 {
                0 => assert!(manager.shutdown().expect("a report").is_clean()),
                1 => drop(manager),
                _ => assert!(
                    Manager::builder()
                        .run(|_| Ok(cycle(&manager, it)))
                        .is_clean()
                ),
            }
        }
        let in_use = (usage::resident(), usage::threads());
        eprintln!("part {number} of {parts}: {in_use:?}");
        if number == 1 {
            (memory, threads) = in_use;
        }
    }
    let in_use = usage::resident();
    assert!(
        in_use < memory + memory / 20 + 1_024,
        "{memory} KiB became {in_use} KiB"
    );
    // The thread of the deadlines may be there or not.
    until("the end of their threads", || {
        usage::threads() <= threads + 1
    });
}

#[test]
#[cfg(target_os = "linux")]
fn f110_managers_that_come_and_go_leave_nothing() {
    let program = child::start("environment::has_many_managers");
    for part in 0..10 {
        program.wait_for_line(&format!("part {part} of"));
    }
    assert_played(program);
}
