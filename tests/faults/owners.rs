//! Who owns the manager and how that ends: faults 76 to 81, and the scopes of 87.

use std::cell::RefCell;
use std::env;
use std::fs;
use std::panic::{self, AssertUnwindSafe};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use taskmuster::{
    CauseKind, JoinError, Manager, OnFailure, Outcome, ScopeError, SpawnFailure, TaskContext,
    TaskHandle, TaskResult, Waited,
};

use crate::books::{HANG, arrives, in_patience, let_go, manager, rounds};
use crate::child::{self, program::Program};
use crate::logger;
use crate::race::{in_time, until};
use crate::stuck::{Jail, Stuck};

/// How the role is to be played.
const HOW: &str = "FAULTS_HOW";

fn how() -> String {
    env::var(HOW).expect("the test says how")
}

fn started(role: &str, how: &str) -> Program {
    Program::start(child::role(role).env(HOW, how).env("RUST_BACKTRACE", "0"))
}

/// A task that stops when it is asked to, and says why.
fn listener(manager: &Manager) -> (TaskHandle<()>, Receiver<CauseKind>) {
    let (there, ready) = bounded(1);
    let (tell, told) = bounded(1);
    let task = manager.spawn("listener", move |ctx| {
        there.send(())?;
        let cancelled = ctx.wait();
        tell.send(cancelled.cause().kind())?;
        Err(cancelled.into())
    });
    arrives(&ready);
    (task.expect("spawned"), told)
}

/// A task that is stuck for ever.
fn stuck_for_ever(manager: &Manager, kind: Stuck) {
    let jail = Jail::new();
    let (there, ready) = bounded(2);
    drop(kind.spawn(manager.root_group(), jail.cell(), &there));
    arrives(&ready);
    std::mem::forget(jail);
}

// ---- 76: dropped without a shutdown ----

/// Drops a manager with a task that stops and one that does not, in the way it is told.
#[test]
#[ignore = "a role of a child process"]
fn drops_its_manager() {
    let said = logger::install(|line| eprintln!("{line}"));
    let manager = Manager::builder().grace(Duration::from_millis(300));
    let manager = manager.build().expect("a manager");
    let (_task, told) = listener(&manager);
    let somebody_is_left = how() != "with nobody left behind";
    if somebody_is_left {
        stuck_for_ever(&manager, Stuck::Receive);
    }
    let start = Instant::now();
    match how().as_str() {
        "while unwinding" => {
            let result = panic::catch_unwind(AssertUnwindSafe(|| {
                let _manager = manager;
                panic!("in main");
            }));
            assert!(result.is_err());
        }
        "while unwinding from the destructor of a neighbour" => {
            struct Panics;
            impl Drop for Panics {
                fn drop(&mut self) {
                    panic!("in a destructor");
                }
            }
            let result = panic::catch_unwind(AssertUnwindSafe(|| drop((Panics, manager))));
            assert!(result.is_err());
        }
        "on another thread" => thread::spawn(move || drop(manager))
            .join()
            .expect("no panic"),
        "within a thread-local" => {
            thread_local!(static KEPT: RefCell<Option<Manager>> = const { RefCell::new(None) });
            thread::spawn(move || KEPT.set(Some(manager)))
                .join()
                .expect("no panic");
        }
        _ => drop(manager),
    }
    eprintln!("dropped after {} ms", start.elapsed().as_millis());
    assert_eq!(in_patience(&told), Ok(CauseKind::ManagerDropped));
    // At the deadline nobody waits for the log for long.
    until("the last line", || {
        !somebody_is_left || !said.with("did not stop in time").is_empty()
    });
    process::exit(0)
}

#[test]
fn f076_a_manager_dropped_in_any_way_stops_its_tasks_within_its_grace_and_says_so() {
    let ways = [
        "at the end",
        "with nobody left behind",
        "while unwinding",
        "while unwinding from the destructor of a neighbour",
        "on another thread",
        "within a thread-local",
    ];
    let programs = ways.map(|way| (way, started("owners::drops_its_manager", way)));
    for (way, program) in programs {
        let exit = program.exit();
        exit.assert_code(0);
        exit.assert_says("the manager was dropped without a shutdown: stopping its tasks now");
        // Without a processor the other one is late as well.
        let mut lines = exit.stderr.lines();
        let left =
            lines.any(|line| line.contains("did not stop in time: ") && line.contains("`receive`"));
        assert_eq!(
            left,
            way != "with nobody left behind",
            "{way}: {}",
            exit.stderr
        );
    }
}

// ---- 77: dropped inside its own tasks ----

/// The last hold on a manager, wherever it ends.
struct Last(Option<Arc<Manager>>, Sender<()>);

impl Drop for Last {
    fn drop(&mut self) {
        drop(self.0.take());
        let _ = self.1.send(()); // it has returned
    }
}

thread_local! {
    static LAST: RefCell<Option<Last>> = const { RefCell::new(None) };
}

type LetsGo = fn(&TaskContext, Last) -> TaskResult;

/// Where the last hold on a manager may end.
const ENDS: [(&str, LetsGo); 7] = [
    ("the body", |_, last| let_go(last)),
    ("unwinding", |_, last| {
        let _last = last;
        panic!("the end")
    }),
    ("a thread-local", |_, last| {
        LAST.set(Some(last));
        Ok(())
    }),
    ("a task of a scope", |ctx, last| {
        Ok(ctx.scope("scope", |scope| {
            scope.spawn("inner", |_| let_go(last))?;
            Ok(())
        })?)
    }),
    ("a callback", |ctx, last| {
        let _guard = ctx.on_cancel(move || drop(last));
        ctx.token().cancel();
        Ok(())
    }),
    ("a callback of the shutdown", |ctx, last| {
        ctx.on_cancel(move || drop(last)).keep();
        ctx.request_shutdown("to be stopped");
        Err(ctx.wait().into())
    }),
    ("a deadline's callback", |ctx, last| {
        ctx.on_cancel(move || drop(last)).keep();
        ctx.token().set_timeout(Duration::from_micros(50))?;
        Err(ctx.wait().into())
    }),
];

/// Lets managers go inside their own tasks, in every way, and looks whether anything is left of them.
#[test]
#[ignore = "a role of a child process"]
fn lets_managers_go_inside() {
    for (place, end) in ENDS {
        for _ in 0..rounds(15, 150) {
            let manager = Arc::new(manager());
            let (other, told) = listener(&manager);
            let (give, given) = bounded::<Last>(1);
            let (tell, returned) = bounded(1);
            let task = manager.spawn("keeper", move |ctx| end(ctx, given.recv()?));
            give.send(Last(Some(manager), tell)).expect("room");
            arrives(&returned);
            arrives(&told);
            let task = task.expect("spawned");
            for (ended, name) in [(task.finished(), place), (other.finished(), "other")] {
                let end = in_patience(ended);
                assert!(
                    end.is_err_and(|end| end.is_disconnected()),
                    "{name} has not ended"
                );
            }
            assert!(
                matches!(other.outcome(), Some(Outcome::Cancelled(_))),
                "after {place}"
            );
        }
    }
    let house = || {
        let threads = fs::read_dir("/proc/self/task").expect("procfs").flatten();
        let names =
            threads.map(|it| fs::read_to_string(it.path().join("comm")).unwrap_or_default());
        names
            .filter(|name| name.starts_with("tm-w") || name.starts_with("tm-co"))
            .count()
    };
    until("the end of all house-keepers", || house() == 0);
    process::exit(0)
}

#[test]
#[cfg(target_os = "linux")]
fn f077_a_manager_let_go_inside_its_own_task_ends_it_and_leaves_no_thread() {
    let exit = started("owners::lets_managers_go_inside", "in every way").exit();
    exit.assert_code(0);
}

// ---- 78, 81: never dropped ----

static MANAGER: OnceLock<Manager> = OnceLock::new();

/// Keeps its manager for ever, in a `static` or leaked, and then does what it is told.
#[test]
#[ignore = "a role of a child process"]
fn never_drops_its_manager() {
    let how = how();
    let built = manager();
    let requester = built.requester();
    let manager: &'static Manager = if how.starts_with("static") {
        MANAGER.get_or_init(|| built)
    } else {
        Box::leak(Box::new(built))
    };
    manager.handle_signals().expect("the first");
    let (task, told) = listener(manager);
    eprintln!("ready");
    if how.ends_with("returns") {
        return; // and the harness returns from its own main
    }
    if how.ends_with("is asked") {
        requester.request_shutdown("from elsewhere");
    }
    let Waited::Requested(cause) = manager.wait() else {
        panic!("nobody asked")
    };
    let heard = arrives(&told);
    assert_eq!(heard, cause.kind());
    assert!(matches!(
        task.join_timeout(HANG),
        Err(JoinError::Cancelled { .. })
    ));
    child::end(&manager.shutdown().expect("a report"))
}

#[test]
fn f078_a_manager_in_a_static_is_stopped_by_signals_and_requests_and_keeps_no_process_alive() {
    never_dropped("static");
}

#[test]
fn f081_a_leaked_manager_is_stopped_by_signals_and_requests_and_keeps_no_process_alive() {
    never_dropped("leaked");
    // And so is one that is forgotten by value.
    let forgotten = manager();
    let (requester, (task, told)) = (forgotten.requester(), listener(&forgotten));
    std::mem::forget(forgotten);
    requester.request_shutdown("though nobody owns it");
    assert_eq!(in_patience(&told), Ok(CauseKind::Shutdown));
    assert!(matches!(
        task.join_timeout(HANG),
        Err(JoinError::Cancelled { .. })
    ));
}

fn never_dropped(kind: &str) {
    let role = "owners::never_drops_its_manager";
    let (returns, asked) = (
        started(role, &format!("{kind}, returns")),
        started(role, &format!("{kind}, is asked")),
    );
    let signalled = started(role, &format!("{kind}, waits"));
    signalled.wait_for_line("ready");
    signalled.signal("TERM");
    for program in [returns, asked, signalled] {
        program.exit().assert_code(0);
    }
}

// ---- 79, 80: how main ends ----

/// Ends its main in the way it is told while tasks run.
#[test]
#[ignore = "a role of a child process"]
fn ends_its_main() {
    taskmuster::logging::init();
    let how = how();
    if let Some(without_run) = how.strip_prefix("without run, ") {
        let manager = manager();
        let (task, _told) = listener(&manager);
        std::mem::forget((manager, task));
        match without_run {
            "returns" => return,
            _ => panic!("main panics"),
        }
    }
    let leaves_a_straggler = how == "leaves a straggler";
    let report = Manager::builder().grace(HANG).run(|manager| {
        let requester = manager.requester();
        let task = manager.spawn("cleans up", move |ctx| {
            ctx.wait();
            thread::sleep(Duration::from_millis(50)); // would be cut by a main that only returns
            eprintln!("cleaned up");
            if leaves_a_straggler {
                requester.hurry(); // for whom the grace would be wasted
            }
            Ok(())
        })?;
        until("its begin", || task.status().checkpoints > 0);
        match how.as_str() {
            "returns" => Ok(()),
            "fails" => Err("the body fails".into()),
            "fails with a failure of its task" => {
                let fails = manager.spawn::<()>("fails", |_| Err("no disk".into()))?;
                Ok(fails.join()?)
            }
            "does not read a failure" => {
                let fails = manager.spawn::<()>("fails", |_| Err("no disk".into()))?;
                until("the failure", || fails.is_finished());
                Ok(())
            }
            "has a critical failure" => {
                drop(
                    manager
                        .task("heart")
                        .critical()
                        .spawn::<()>(|_| panic!("stopped"))?,
                );
                drop(manager.wait());
                Ok(())
            }
            "leaves a straggler" => {
                stuck_for_ever(manager, Stuck::Receive);
                Ok(())
            }
            _ => panic!("the body panics"),
        }
    });
    child::end(&report)
}

#[test]
fn f079_however_the_body_of_run_ends_its_tasks_are_joined_and_the_exit_code_tells() {
    let ways = [
        ("returns", 0),
        ("fails", 1),
        ("fails with a failure of its task", 1),
        ("does not read a failure", 1),
        ("has a critical failure", 1),
        ("leaves a straggler", 2),
        ("panics", 101),
    ];
    let programs = ways.map(|(way, code)| (way, code, started("owners::ends_its_main", way)));
    for (way, code, program) in programs {
        let exit = program.exit();
        exit.assert_code(code);
        exit.assert_says("cleaned up");
        exit.assert_says("taskmuster: stopped by");
        println!("{way}: {code}");
    }
    // Without `run` nobody waits: that is how Rust programs end.
    for (way, code) in [("without run, returns", 0), ("without run, panics", 101)] {
        let exit = started("owners::ends_its_main", way).exit();
        exit.assert_code(code);
        exit.assert_never_says("taskmuster: stopped by");
    }
}

/// Calls `process::exit(7)` in the place it is told, with tasks stuck in many ways.
#[test]
#[ignore = "a role of a child process"]
fn exits() {
    let how = how();
    let manager = Arc::new(manager());
    manager.handle_signals().expect("the first");
    for kind in Stuck::ALL {
        stuck_for_ever(&manager, kind);
    }
    let (task, _told) = listener(&manager);
    let exit = || process::exit(7);
    eprintln!("ready");
    match how.as_str() {
        "in main" => exit(),
        "in main while a shutdown is under way" => {
            manager.request_shutdown("a while ago");
            until("its begin", || manager.is_draining());
            exit();
        }
        "in a task" => drop(manager.spawn("exits", move |_| -> TaskResult { process::exit(7) })),
        "in a callback" => {
            manager.root_group().token().on_cancel(exit).keep();
            manager.hurry(); // or a scope that does not end would come first, for a while
        }
        "in a deadline's callback" => {
            let timed = task
                .token()
                .child_with_timeout(Duration::from_millis(1))
                .expect("a timer");
            timed.on_cancel(exit).keep();
            std::mem::forget(timed);
        }
        "in a destructor of a task's value" => {
            struct Exits;
            impl Drop for Exits {
                fn drop(&mut self) {
                    process::exit(7)
                }
            }
            drop(manager.spawn("exits", |_| Ok(Exits)));
        }
        "in two places at once" => {
            drop(manager.spawn("exits", move |_| -> TaskResult { process::exit(7) }));
            exit();
        }
        other => panic!("{other}"),
    }
    // Not in a shutdown: it would cancel a task that is to exit before that has begun.
    loop {
        thread::park();
    }
}

#[test]
fn f080_process_exit_ends_a_program_full_of_stuck_tasks_from_wherever_it_is_called() {
    let ways = [
        "in main",
        "in main while a shutdown is under way",
        "in a task",
        "in a callback",
        "in a deadline's callback",
        "in a destructor of a task's value",
        "in two places at once",
    ];
    let programs = ways.map(|way| started("owners::exits", way));
    for program in programs {
        program.exit().assert_code(7);
    }
}

// ---- 87: scopes ----

/// Spawns tasks that use what they borrow until they are stopped, and leaves the scope in this way.
fn leave_a_scope(manager: &Manager, way: usize, inside: &AtomicUsize, work: &AtomicUsize) {
    let busy = |ctx: &TaskContext| -> TaskResult {
        inside.fetch_add(1, Ordering::SeqCst);
        while ctx.checkpoint().is_ok() {
            work.fetch_add(1, Ordering::SeqCst);
            thread::yield_now();
        }
        thread::sleep(Duration::from_micros(200)); // leaves late
        inside.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    };
    let result = panic::catch_unwind(AssertUnwindSafe(|| {
        manager.scope("scope", |scope| {
            for _ in 0..3 {
                drop(scope.spawn("busy", busy)?);
            }
            until("the begin", || inside.load(Ordering::SeqCst) > 0);
            match way {
                0 => Err("an early return".into()),
                1 => panic!("a panic"),
                2 => {
                    scope.token().cancel();
                    Ok(())
                }
                3 => let_go(scope.spawn::<()>("fails", |_| Err("a failure".into()))?),
                4 => let_go(scope.spawn::<()>("panics", |_| panic!("a panic"))?),
                5 => {
                    scope.set_timeout(Duration::from_millis(1))?;
                    Ok(())
                }
                6 => {
                    scope.on_failure(OnFailure::Record);
                    let fails = scope.spawn::<()>("fails quietly", |_| Err("a failure".into()))?;
                    until("the failure", || fails.is_finished());
                    scope.token().cancel();
                    Ok(())
                }
                _ => {
                    scope.token().cancel();
                    // The scope takes no one who could outlive it either.
                    let late = scope.spawn("late", |_| Ok(7))?;
                    assert!(late.join().is_err());
                    Ok(())
                }
            }
        })
    }));
    assert_eq!(
        inside.load(Ordering::SeqCst),
        0,
        "way {way}: somebody is still inside"
    );
    let done = work.load(Ordering::SeqCst);
    thread::yield_now();
    assert_eq!(
        work.load(Ordering::SeqCst),
        done,
        "way {way}: somebody still works"
    );
    match (way, result) {
        (0, Ok(Err(ScopeError::Body(_))))
        | (1, Err(_))
        | (2 | 5 | 7, Ok(Ok(())))
        | (3 | 4 | 6, Ok(Err(ScopeError::Tasks(_)))) => {}
        (_, other) => panic!("way {way}: {other:?}"),
    }
}

#[test]
fn f087_a_scope_left_in_any_way_has_joined_all_who_borrow_before_the_borrow_ends() {
    thread::scope(|scope| {
        for offset in 0..2 {
            scope.spawn(move || {
                let manager = manager();
                for round in 0..rounds(100, 1_000) {
                    let (inside, work) = (AtomicUsize::new(0), AtomicUsize::new(0));
                    leave_a_scope(&manager, (offset + 2 * round) % 8, &inside, &work);
                }
                assert_eq!(manager.counts().live, 0);
            });
        }
    });
}

#[test]
fn f087_a_scope_whose_spawns_are_refused_midway_joins_those_that_were_accepted() {
    let manager = Manager::builder()
        .grace(HANG)
        .max_tasks(3)
        .build()
        .expect("a manager");
    for _ in 0..rounds(50, 500) {
        let ended = AtomicUsize::new(0);
        let result = manager.scope("scope", |scope| {
            loop {
                scope.spawn("waits", |ctx| {
                    ctx.wait();
                    ended.fetch_add(1, Ordering::SeqCst);
                    Ok(())
                })?;
            }
            #[expect(unreachable_code, reason = "says what the loop gives")]
            Ok(())
        });
        let Err(ScopeError::Body(error)) = result else {
            panic!("the limit was not reached")
        };
        let refused = error
            .downcast_ref::<taskmuster::ScopeSpawnError>()
            .expect("ours");
        assert!(
            matches!(refused.failure(), SpawnFailure::Limit(3)),
            "{refused}"
        );
        assert!(
            ended.load(Ordering::SeqCst) <= 3,
            "those that began were joined"
        );
        assert_eq!(manager.counts().live, 0);
    }
}

#[test]
fn f087_a_scope_that_does_not_end_holds_its_caller_and_both_are_named_but_not_the_shutdown() {
    let (manager, (release, released)) = (Arc::new(manager()), bounded::<()>(0));
    let (there, ready) = bounded(1);
    let theirs = Arc::clone(&manager);
    let (tell, over) = unbounded();
    let caller = thread::spawn(move || {
        let borrowed = String::from("still here");
        let result = theirs.scope("scope", |scope| {
            scope.spawn("borrows", |_| {
                let _ = there.send(());
                let _ = released.recv();
                assert_eq!(borrowed, "still here");
                Ok(())
            })?;
            Ok(())
        });
        let _ = tell.send(());
        result.is_ok()
    });
    arrives(&ready);
    let report = in_time("the shutdown", move || {
        manager
            .shutdown_timeout(Duration::from_millis(100))
            .expect("a report")
    });
    assert!(report.to_string().contains("`scope/borrows`"), "{report}");
    assert!(over.try_recv().is_err(), "the caller is still held");
    drop(release);
    assert!(caller.join().expect("no panic"));
}
