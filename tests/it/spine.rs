//! The promises of the spine, each from a user's side.

use std::error::Error;
use std::io;
use std::panic::Location;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, bounded, unbounded};
use taskmuster::{
    BoxError, CancellationToken, Cancelled, CauseKind, Group, GroupError, JoinError, Manager,
    OnFailure, RecvError, SendError, ShutdownError, SpawnError, SpawnFailure, TaskContext,
    TaskHandle, TaskResult, Waited,
};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

fn soon<T>(manager: &Manager, handle: &TaskHandle<T>) -> Result<T, JoinError> {
    let result = handle.join_timeout(HANG);
    if let Err(JoinError::StillRunning { .. }) = result {
        panic!(
            "`{}` hangs; live tasks: {:#?}",
            handle.name(),
            manager.tasks()
        );
    }
    result
}

struct PanicsOnDrop;

impl Drop for PanicsOnDrop {
    fn drop(&mut self) {
        panic!("dropped");
    }
}

#[test]
fn every_way_to_end_is_exactly_one_outcome() {
    let manager = manager();
    let completed = manager.spawn("ok", |_| Ok(7)).expect("spawned");
    let failed = manager
        .spawn::<()>("err", |_| Err("no".into()))
        .expect("spawned");
    let text = manager
        .spawn::<()>("text", |_| panic!("boom {}", 1))
        .expect("spawned");
    let any = manager
        .spawn::<()>("any", |_| std::panic::panic_any(PanicsOnDrop))
        .expect("spawned");
    assert_eq!(soon(&manager, &completed).expect("a value"), 7);
    assert!(matches!(
        soon(&manager, &failed),
        Err(JoinError::Failed { .. })
    ));
    let Err(JoinError::Panicked(panic)) = soon(&manager, &text) else {
        panic!("no panic")
    };
    assert_eq!(panic.message(), Some("boom 1"));
    let place = panic.place().expect("the hook was there");
    assert!(place.file.ends_with("spine.rs"), "{place}");
    assert!(matches!(soon(&manager, &any), Err(JoinError::Panicked(_))));
    let counts = manager.counts();
    assert_eq!(
        (
            counts.spawned,
            counts.completed,
            counts.failed,
            counts.panicked
        ),
        (4, 1, 1, 2)
    );
    drop((text, any, panic));
    assert!(
        manager.shutdown().expect("a report").is_clean(),
        "all failures were read"
    );
}

#[test]
fn a_result_or_a_capture_whose_drop_panics_harms_nobody() {
    let manager = manager();
    drop(
        manager
            .spawn("result", |_| Ok(PanicsOnDrop))
            .expect("spawned"),
    );
    let bomb = PanicsOnDrop;
    let capture = manager
        .spawn("capture", move |_| {
            let _bomb = &bomb;
            Ok(())
        })
        .expect("spawned");
    assert!(matches!(
        soon(&manager, &capture),
        Err(JoinError::Panicked(_))
    ));
    assert_eq!(manager.shutdown().expect("a report").exit_code(), 0);
}

#[test]
fn two_joiners_both_learn_the_end_and_one_gets_the_value() {
    let manager = manager();
    for _ in 0..200 {
        let handle = Arc::new(manager.spawn("value", |_| Ok(1_u8)).expect("spawned"));
        let other = Arc::clone(&handle);
        let helper = thread::spawn(move || other.join_timeout(HANG));
        let mine = handle.join_timeout(HANG);
        let theirs = helper.join().expect("no panic");
        match (mine, theirs) {
            (Ok(1), Err(JoinError::AlreadyTaken { .. }))
            | (Err(JoinError::AlreadyTaken { .. }), Ok(1)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn dropping_a_handle_changes_nothing_for_its_task() {
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (done, end) = bounded(1);
    let handle = manager
        .spawn("ownerless elsewhere", move |ctx| {
            ctx.recv(&released)?;
            done.send(())?;
            Ok(())
        })
        .expect("spawned");
    drop(handle);
    assert_eq!(&*manager.tasks()[0].name, "ownerless elsewhere");
    release.send(()).expect("it is there");
    end.recv_timeout(HANG).expect("it went on");
    assert!(manager.shutdown().expect("a report").is_clean());
}

/// How an error of ours gets lost behind somebody else's.
type Wrap = fn(Cancelled) -> BoxError;

#[test]
fn only_one_s_own_cancel_ends_a_task_as_cancelled() {
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(#[from] Cancelled);

    let manager = manager();
    let wraps: [Wrap; 4] = [
        |cancelled| cancelled.into(),
        |cancelled| Transparent(cancelled).into(),
        |cancelled| io::Error::other(io::Error::other(cancelled)).into(),
        |cancelled| {
            anyhow::Error::new(Transparent(cancelled))
                .context("deep")
                .into()
        },
    ];
    for wrap in wraps {
        let (there, ready) = bounded(1);
        let own = manager
            .spawn::<()>("own", move |ctx| {
                there.send(())?;
                Err(wrap(ctx.wait()))
            })
            .expect("spawned");
        ready.recv_timeout(HANG).expect("it runs");
        own.cancel();
        assert!(matches!(
            soon(&manager, &own),
            Err(JoinError::Cancelled { .. })
        ));

        let foreign = manager
            .spawn::<()>("foreign", move |_| {
                let token = CancellationToken::new();
                token.cancel();
                Err(wrap(token.wait()))
            })
            .expect("spawned");
        assert!(matches!(
            soon(&manager, &foreign),
            Err(JoinError::Failed { .. })
        ));
    }
    let other = manager
        .spawn::<()>("other", |ctx| Err(ctx.wait().into()))
        .expect("spawned");
    other.cancel();
    let joiner = manager
        .spawn::<()>("joiner", move |ctx| Ok(ctx.join(&other)?))
        .expect("spawned");
    assert!(matches!(
        soon(&manager, &joiner),
        Err(JoinError::Failed { .. })
    ));
    drop(manager.shutdown());
}

#[test]
fn a_task_that_would_wait_for_itself_gets_an_error() {
    let manager = Arc::new(manager());
    let (give, own) = bounded::<TaskHandle<()>>(1);
    let (tell, told) = bounded(1);
    let theirs = Arc::clone(&manager);
    let handle = manager
        .spawn("self", move |ctx| {
            let own = ctx.recv(&own)?;
            tell.send((own.join(), ctx.join(&own), theirs.shutdown().map(drop)))?;
            Ok(())
        })
        .expect("spawned");
    give.send(handle).expect("room");
    let (join, join_in_context, shutdown) = told.recv_timeout(HANG).expect("it does not hang");
    assert!(matches!(join, Err(JoinError::WouldDeadlock { .. })));
    assert!(matches!(
        join_in_context,
        Err(JoinError::WouldDeadlock { .. })
    ));
    assert_eq!(shutdown, Err(ShutdownError::WouldDeadlock));
    assert!(
        matches!(manager.wait(), Waited::Requested(_)),
        "the request was noted"
    );
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn a_spawn_that_is_stopped_by_the_shutdown_is_a_clean_end_of_the_body() {
    let report = Manager::builder().grace(HANG).run(|manager| {
        manager.request_shutdown("in the middle of the start");
        loop {
            manager.spawn("next", |ctx| -> TaskResult { Err(ctx.wait().into()) })?;
        }
    });
    assert_eq!(report.exit_code(), 0, "{report}");
    let report = Manager::builder().run(|_| Err("mine".into()));
    assert_eq!((report.exit_code(), report.body_error()), (1, Some("mine")));
}

#[test]
fn a_failure_nobody_read_is_in_the_exit_code_and_one_that_was_read_is_not() {
    let unread = Manager::builder().run(|manager| {
        drop(manager.spawn::<()>("unread", |_| Err("unheard".into()))?);
        drop(manager.wait()); // nothing is left
        Ok(())
    });
    assert_eq!((unread.exit_code(), unread.unread_failures()), (1, 1));
    let said = unread.to_string();
    assert!(
        said.contains("unheard") && !said.contains("nothing to tell"),
        "{said}"
    );
    let read = Manager::builder().run(|manager| {
        let handle = manager.spawn::<()>("read", |_| Err("heard".into()))?;
        assert!(handle.join().is_err());
        Ok(())
    });
    assert_eq!(read.exit_code(), 0);
}

#[test]
fn failure_policies_reach_siblings_and_the_manager() {
    let critical = Manager::builder().grace(HANG).run(|manager| {
        manager
            .task("heart")
            .critical()
            .spawn::<()>(|_| panic!("stopped"))?;
        manager.spawn::<()>("other", |ctx| Err(ctx.wait().into()))?;
        drop(manager.wait());
        Ok(())
    });
    assert_eq!(critical.cause().kind(), CauseKind::CriticalFailure);
    assert_eq!(critical.exit_code(), 1);

    let manager = manager();
    let group = manager.group("pair");
    let sibling = group
        .spawn::<()>("sibling", |ctx| Err(ctx.wait().into()))
        .expect("spawned");
    group
        .task("bad")
        .on_failure(OnFailure::StopGroup)
        .spawn::<()>(|_| Err("broken".into()))
        .expect("spawned");
    let Err(JoinError::Cancelled { cancelled, .. }) = soon(&manager, &sibling) else {
        panic!("not cancelled")
    };
    assert_eq!(cancelled.cause().kind(), CauseKind::SiblingFailed);
    assert_eq!(cancelled.cause().by(), Some("pair/bad"));
    assert!(matches!(
        group.spawn("late", |_| Ok(())).map(drop).map_err(|error| error.task().to_owned()),
        Err(task) if task == "pair/late"
    ));
}

#[test]
fn groups_stop_in_reverse_order_of_creation_and_inner_ones_first() {
    let manager = manager();
    let (stopped, order) = unbounded();
    let watch = |group: &Group| {
        let (stopped, (there, ready)) = (stopped.clone(), bounded(1));
        let body = move |ctx: &TaskContext| -> TaskResult {
            there.send(())?;
            let cancelled = ctx.wait();
            stopped.send(ctx.name().to_owned())?;
            Err(cancelled.into())
        };
        drop(group.spawn("watch", body).expect("spawned"));
        ready.recv_timeout(HANG).expect("it runs");
    };
    let (first, second) = (manager.group("first"), manager.group("second"));
    let inner = second.group("inner");
    for group in [manager.root_group(), &first, &second, &inner] {
        watch(group);
    }
    assert!(manager.shutdown().expect("a report").is_clean());
    let order: Vec<String> = order.try_iter().collect();
    assert_eq!(
        order,
        ["second/inner/watch", "second/watch", "first/watch", "watch"]
    );
}

/// A task that hears nothing until it is released.
fn deaf(group: &Group, release: &Arc<AtomicBool>) -> TaskHandle<&'static str> {
    let (release, (there, ready)) = (Arc::clone(release), bounded(1));
    let handle = group
        .task("deaf")
        .grace(Duration::from_millis(50)) // its share before the next group is asked
        .spawn(move |ctx| {
            ctx.checkpoint()?;
            there.send(())?;
            while !release.load(Ordering::Relaxed) {
                thread::yield_now();
            }
            Ok("after all")
        })
        .expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    handle
}

#[test]
fn a_straggler_is_named_lets_its_joiners_go_and_may_still_end() {
    let manager = manager();
    let release = Arc::new(AtomicBool::new(false));
    let handle = Arc::new(deaf(manager.root_group(), &release));
    let (joiner, joining) = (Arc::clone(&handle), Arc::new(Barrier::new(2)));
    let start = Arc::clone(&joining);
    let helper = thread::spawn(move || {
        start.wait();
        joiner.join()
    });
    joining.wait();
    let begin = Instant::now();
    let report = manager
        .shutdown_timeout(Duration::from_millis(300))
        .expect("a report");
    assert!(begin.elapsed() >= Duration::from_millis(300));
    assert_eq!(report.exit_code(), 2);
    let straggler = report.stragglers().next().expect("one");
    let diagnosis = straggler.diagnosis().expect("diagnosed");
    assert!(
        diagnosis
            .last_checkpoint
            .is_some_and(|place| place.file().ends_with("spine.rs"))
    );
    assert!(
        report.to_string().contains("has reached no checkpoint"),
        "{report}"
    );
    assert!(matches!(
        helper.join().expect("no panic"),
        Err(JoinError::Abandoned { .. })
    ));
    release.store(true, Ordering::Relaxed);
    // Abandonment let the joiners go; the real end is told by the outcome.
    while !handle.is_finished() {
        thread::yield_now();
    }
    assert_eq!(handle.join().expect("it ended after all"), "after all");
    // The books close a moment after the late outcome can be seen.
    while manager.counts().late == 0 {
        thread::yield_now();
    }
}

#[test]
fn a_deaf_group_does_not_keep_the_next_one_from_being_asked() {
    let manager = manager();
    let release = Arc::new(AtomicBool::new(false));
    let early = manager.group("early");
    let (asked, heard) = bounded(1);
    let (there, ready) = bounded(1);
    let listen = move |ctx: &TaskContext| -> TaskResult {
        there.send(())?;
        let cancelled = ctx.wait();
        asked.send(())?;
        Err(cancelled.into())
    };
    drop(early.spawn("listener", listen).expect("spawned"));
    ready.recv_timeout(HANG).expect("it runs");
    let late = manager.group("late");
    let straggler = deaf(&late, &release);
    let waiter = thread::spawn(move || manager.shutdown());
    heard
        .recv_timeout(HANG)
        .expect("asked while the other group hangs");
    assert!(!straggler.is_finished());
    release.store(true, Ordering::Relaxed);
    assert_eq!(
        waiter
            .join()
            .expect("no panic")
            .expect("a report")
            .exit_code(),
        0
    );
}

#[test]
fn concurrent_shutdowns_get_one_report_and_the_first_deadline_only_shrinks() {
    let manager = Arc::new(manager());
    let release = Arc::new(AtomicBool::new(false));
    let straggler = deaf(manager.root_group(), &release);
    let long = Arc::clone(&manager);
    let helper = thread::spawn(move || long.shutdown_timeout(Duration::from_secs(600)));
    let short = manager
        .shutdown_timeout(Duration::from_millis(100))
        .expect("a report");
    let long = helper.join().expect("no panic").expect("a report");
    assert_eq!((short.exit_code(), long.exit_code()), (2, 2));
    assert_eq!(short.took(), long.took());
    for _ in 0..1_000 {
        assert_eq!(manager.shutdown().expect("a report").took(), short.took());
    }
    release.store(true, Ordering::Relaxed);
    drop(straggler);
}

#[test]
fn a_manager_dropped_without_a_shutdown_or_inside_its_own_task_stops_its_tasks() {
    let (stopped, seen) = unbounded();
    let guard = |manager: &Manager| {
        let (stopped, (there, ready)) = (stopped.clone(), bounded(1));
        let body = move |ctx: &TaskContext| -> TaskResult {
            there.send(())?;
            let cancelled = ctx.wait();
            stopped.send(cancelled.cause().kind())?;
            Err(cancelled.into())
        };
        drop(manager.spawn("guard", body).expect("spawned"));
        ready.recv_timeout(HANG).expect("it runs");
    };
    let plain = manager();
    guard(&plain);
    drop(plain);
    assert_eq!(seen.recv_timeout(HANG), Ok(CauseKind::ManagerDropped));

    let inside = Arc::new(manager());
    guard(&inside);
    let (give, own) = bounded::<Arc<Manager>>(1);
    let keeper = inside
        .spawn("keeper", move |ctx| {
            drop(ctx.recv(&own)?);
            Ok(())
        })
        .expect("spawned");
    give.send(inside).expect("room");
    assert_eq!(seen.recv_timeout(HANG), Ok(CauseKind::ManagerDropped));
    keeper
        .join_timeout(HANG)
        .expect("it returned from the drop");
}

#[test]
fn a_refused_spawn_gives_its_closure_back() {
    let (closed, open) = (manager(), manager());
    assert!(closed.shutdown().expect("a report").is_clean());
    let refused = closed.spawn("job", |_| Ok(5)).expect_err("refused");
    assert!(matches!(refused.failure(), SpawnFailure::Stopping));
    let moved = open.spawn("job", refused.into_body()).expect("spawned");
    assert_eq!(soon(&open, &moved).expect("a value"), 5);

    let small = Manager::builder().max_tasks(1).build().expect("a manager");
    small
        .spawn::<()>("one", |ctx| Err(ctx.wait().into()))
        .expect("spawned");
    let refused = small.spawn("two", |_| Ok(())).expect_err("refused");
    assert!(matches!(refused.failure(), SpawnFailure::Limit(1)));
    assert_eq!(small.counts().spawned, 1);

    for bytes in [usize::MAX, usize::MAX / 4] {
        let refused = open
            .task("huge")
            .stack_size(bytes)
            .spawn(|_| Ok(9))
            .expect_err("refused");
        assert!(
            matches!(refused.failure(), SpawnFailure::Os(_)),
            "{refused}"
        );
        assert!(
            refused.source().is_some_and(<dyn Error>::is::<io::Error>),
            "{refused}"
        );
        let moved = open.spawn("huge", refused.into_body()).expect("spawned");
        assert_eq!(soon(&open, &moved).expect("a value"), 9);
    }
    for bytes in [0, 1] {
        let tiny = open
            .task("tiny")
            .stack_size(bytes)
            .spawn(|_| Ok(()))
            .expect("rounded up");
        soon(&open, &tiny).expect("a value");
    }
    for name in ["", "a\0b", "a\nb", &"ö".repeat(50_000)] {
        let named = open.spawn(name, |_| Ok(())).expect("any name will do");
        assert!(!named.name().contains(char::is_control));
        soon(&open, &named).expect("a value");
    }
}

#[test]
fn a_spawn_that_races_with_the_shutdown_is_accounted_for_or_refused() {
    for _ in 0..100 {
        let manager = Arc::new(manager());
        let start = Arc::new(Barrier::new(3));
        let spawners: Vec<_> = (0..2)
            .map(|_| {
                let (manager, start) = (Arc::clone(&manager), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    let accepted = (0..8)
                        .filter(|_| manager.spawn("racer", |ctx| Ok(ctx.checkpoint()?)).is_ok())
                        .count();
                    u64::try_from(accepted).expect("small")
                })
            })
            .collect();
        start.wait();
        let report = manager.shutdown().expect("a report");
        let accepted: u64 = spawners
            .into_iter()
            .map(|spawner| spawner.join().expect("no panic"))
            .sum();
        let counts = manager.counts();
        assert_eq!((counts.spawned, counts.live), (accepted, 0));
        assert_eq!(counts.completed + counts.cancelled, accepted);
        assert!(report.is_clean(), "{report}");
    }
}

#[test]
fn a_task_of_a_cancelled_group_never_starts() {
    let manager = manager();
    let group = manager.group("g");
    group.token().cancel();
    let handle = group
        .spawn::<()>("never", |_| panic!("it started"))
        .expect("accepted");
    assert!(matches!(
        soon(&manager, &handle),
        Err(JoinError::Cancelled { .. })
    ));
    assert_eq!(manager.counts().cancelled, 1);
}

#[test]
fn exactly_one_of_many_cancels_wins_and_no_wait_misses_it() {
    for _ in 0..300 {
        let token = CancellationToken::new();
        let start = Arc::new(Barrier::new(6));
        let run = |role: fn(&CancellationToken) -> bool| {
            let (token, start) = (token.child_token(), Arc::clone(&start));
            let parent = token.clone();
            thread::spawn(move || {
                start.wait();
                role(&parent)
            })
        };
        let waiters = [
            run(|token| token.wait_timeout(HANG).is_some()),
            run(|token| token.sleep(HANG).is_err()),
        ];
        let cancellers: Vec<_> = (0..4)
            .map(|_| {
                let (token, start) = (token.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    token.cancel()
                })
            })
            .collect();
        let won = cancellers
            .into_iter()
            .filter_map(|c| c.join().ok())
            .filter(|won| *won)
            .count();
        assert_eq!(won, 1);
        assert!(
            waiters
                .into_iter()
                .all(|waiter| waiter.join().expect("no panic"))
        );
    }
}

#[test]
fn a_cause_says_who_cancelled_and_where() {
    let manager = manager();
    let victim = Arc::new(
        manager
            .spawn::<()>("victim", |ctx| Err(ctx.wait().into()))
            .expect("spawned"),
    );
    let target = Arc::clone(&victim);
    let killer = manager
        .spawn("killer", move |_| {
            Ok((target.cancel(), line!())) // on one line
        })
        .expect("spawned");
    let (won, line) = soon(&manager, &killer).expect("a value");
    assert!(won);
    let Err(JoinError::Cancelled { cancelled, .. }) = soon(&manager, &victim) else {
        panic!("not cancelled")
    };
    let cause = cancelled.cause();
    assert_eq!(
        (cause.by(), cause.at().map(Location::line)),
        (Some("killer"), Some(line))
    );
}

#[test]
fn a_tree_a_million_wide_and_a_million_deep_fits_a_small_stack() {
    const MANY: usize = 1_000_000;
    let small = thread::Builder::new().stack_size(256 * 1024).spawn(|| {
        let root = CancellationToken::new();
        let wide: Vec<_> = (0..MANY).map(|_| root.child_token()).collect();
        let mut deep = root.child_token();
        let mut chain = Vec::with_capacity(MANY);
        for _ in 0..MANY {
            let next = deep.child_token();
            chain.push(std::mem::replace(&mut deep, next));
        }
        assert!(root.cancel());
        assert!(wide.iter().all(CancellationToken::is_cancelled) && deep.is_cancelled());
        assert_eq!(
            deep.cause().map(|cause| cause.kind()),
            Some(CauseKind::Request)
        );
        drop((wide, chain));
        drop(deep);

        // And a chain that nobody cancels, of which only the last handle is left.
        let root = CancellationToken::new();
        let mut last = root.child_token();
        for _ in 0..MANY {
            last = last.child_token();
        }
        assert!(!last.is_cancelled());
    });
    small.expect("a thread").join().expect("no overflow");
}

#[test]
fn a_cancel_beats_a_new_value_and_a_value_beats_a_timeout() {
    let token = CancellationToken::new();
    let (sender, receiver) = bounded(1);
    sender.send(1).expect("room");
    assert_eq!(
        token
            .recv_timeout(&receiver, Duration::ZERO)
            .expect("the value was there"),
        1
    );
    assert!(matches!(
        token.recv_timeout(&receiver, Duration::ZERO),
        Err(RecvError::Timeout)
    ));
    sender.send(2).expect("room");
    let unsent = token
        .send_timeout(&sender, 3, Duration::ZERO)
        .expect_err("it is full");
    assert!(unsent.is_timeout());
    token.cancel();
    assert!(matches!(
        token.recv(&receiver),
        Err(RecvError::Cancelled(_))
    ));
    let unsent = token
        .send(&sender, unsent.into_inner())
        .expect_err("cancelled");
    assert!(unsent.is_cancelled() && !unsent.is_timeout());
    assert_eq!(unsent.into_inner(), 3);
    assert_eq!(receiver.try_recv(), Ok(2), "nothing was taken");
}

#[test]
fn a_blocked_receive_and_send_are_woken_by_the_cancel() {
    let manager = manager();
    let (_keep, empty) = bounded::<u8>(1);
    let (full, _hold) = bounded::<u8>(0);
    let (ready, there) = bounded(2);
    let tell = ready.clone();
    let receiver = manager
        .spawn("receiver", move |ctx| {
            tell.send(())?;
            Ok(ctx.recv(&empty)?)
        })
        .expect("spawned");
    let sender = manager
        .spawn("sender", move |ctx| {
            ready.send(())?;
            Ok(ctx.send(&full, 7)?)
        })
        .expect("spawned");
    for _ in 0..2 {
        there.recv_timeout(HANG).expect("it runs");
    }
    receiver.cancel();
    sender.cancel();
    assert!(matches!(
        soon(&manager, &receiver),
        Err(JoinError::Cancelled { .. })
    ));
    assert!(matches!(
        soon(&manager, &sender),
        Err(JoinError::Cancelled { .. })
    ));
}

#[test]
fn the_waits_of_a_task_with_a_limit_end_at_it_or_with_the_cancel() {
    let manager = manager();
    let (full, _hold) = bounded(0);
    let task = manager.spawn("task", move |ctx| {
        let now = Instant::now();
        assert!(ctx.wait_timeout(Duration::ZERO).is_none());
        assert!(ctx.wait_deadline(now).is_none());
        let unsent = ctx.send_timeout(&full, 7, Duration::ZERO);
        let unsent = unsent.expect_err("nobody receives");
        assert!(unsent.is_timeout());
        let unsent = ctx.send_deadline(&full, unsent.into_inner(), now);
        let unsent = unsent.expect_err("nobody receives");
        assert!(unsent.is_timeout());
        assert_eq!(unsent.into_inner(), 7);
        ctx.token().cancel();
        assert!(ctx.wait_timeout(HANG).is_some());
        assert!(ctx.wait_deadline(now + HANG).is_some());
        Ok(())
    });
    soon(&manager, &task.expect("spawned")).expect("it completes");
}

#[test]
fn a_join_inside_a_task_hears_that_task_s_own_cancel() {
    let manager = manager();
    let other = manager
        .spawn::<()>("other", |ctx| Err(ctx.wait().into()))
        .expect("spawned");
    let (ready, there) = bounded(1);
    let joiner = manager
        .spawn("joiner", move |ctx| {
            ready.send(())?;
            match ctx.join(&other) {
                Err(JoinError::Interrupted { .. }) => Ok(other.is_finished()),
                result => Err(format!("{result:?}").into()),
            }
        })
        .expect("spawned");
    there.recv_timeout(HANG).expect("it runs");
    joiner.cancel();
    assert!(
        !soon(&manager, &joiner).expect("interrupted"),
        "the other one goes on"
    );
}

#[test]
fn a_thread_local_destructor_that_blocks_delays_no_outcome_and_is_reported() {
    struct Slow(AtomicBool, Receiver<()>);
    impl Drop for Slow {
        fn drop(&mut self) {
            if self.0.load(Ordering::Relaxed) {
                assert!(self.1.recv().is_err(), "it is released by the sender's end");
            }
        }
    }
    thread_local! {
        static SLOW: std::cell::RefCell<Option<Slow>> = const { std::cell::RefCell::new(None) };
    }
    let manager = manager();
    let (release, released) = bounded(0);
    let handle = manager
        .spawn("lingers", move |_| {
            SLOW.set(Some(Slow(AtomicBool::new(true), released)));
            Ok(3)
        })
        .expect("spawned");
    assert_eq!(soon(&manager, &handle).expect("at once"), 3);
    let report = manager
        .shutdown_timeout(Duration::from_millis(200))
        .expect("a report");
    assert_eq!(report.exit_code(), 2);
    assert!(
        report.to_string().contains("thread-local destructor"),
        "{report}"
    );
    drop(release);
}

#[test]
fn history_is_bounded_and_counters_are_exact() {
    let manager = Manager::builder()
        .history(16)
        .grace(HANG)
        .build()
        .expect("a manager");
    for number in 0..2_000 {
        let handle = manager.spawn("tiny", move |_| Ok(number)).expect("spawned");
        assert_eq!(soon(&manager, &handle).expect("a value"), number);
    }
    let report = manager.shutdown().expect("a report");
    assert_eq!(
        (report.counts().spawned, report.counts().completed),
        (2_000, 2_000)
    );
    assert!(report.tasks().len() <= 17, "{}", report.tasks().len());
}

#[test]
fn the_first_failures_are_kept_whole_and_all_are_counted() {
    const KEPT: usize = 64;
    let manager = Manager::builder()
        .history(0)
        .grace(HANG)
        .build()
        .expect("a manager");
    let group = manager.group("group");
    for _ in 0..KEPT + 6 {
        let fails = group.spawn::<()>("fails", |_| Err("as always".into()));
        assert!(soon(&manager, &fails.expect("spawned")).is_err());
    }
    let Err(GroupError::Failed(failure)) = group.join_timeout(HANG) else {
        panic!("they failed");
    };
    assert_eq!((failure.ends().len(), failure.count()), (KEPT, KEPT + 6));
    let report = manager.shutdown().expect("a report");
    assert_eq!(report.tasks().len(), KEPT);
    assert_eq!(report.counts().failed, KEPT as u64 + 6);
}

#[test]
fn of_many_rows_with_nothing_to_tell_the_youngest_are_printed_and_every_other_one() {
    const PRINTED: usize = 50;
    let report = Manager::builder().grace(HANG).run(|manager| {
        let fails = manager.spawn::<()>("fails", |_| Err("as it must".into()))?;
        assert!(soon(manager, &fails).is_err());
        for number in 0..PRINTED + 2 {
            soon(
                manager,
                &manager.spawn(format!("dull {number}."), |_| Ok(()))?,
            )?;
        }
        Ok(())
    });
    let said = report.to_string();
    assert!(said.contains("… 2 more with nothing to tell"), "{said}");
    assert!(said.contains("as it must"), "{said}");
    assert!(
        said.contains("53 tasks: 52 completed, 1 failed\n"),
        "{said}"
    );
    assert!(
        !said.contains("dull 1.") && said.contains("dull 2."),
        "{said}"
    );
    assert_eq!(said.matches("dull ").count(), PRINTED, "{said}");
}

#[test]
fn every_error_can_be_passed_on_with_a_question_mark() {
    fn passes<E: Error + Send + Sync + 'static>() {}
    type NotSync = std::cell::Cell<u8>;
    passes::<Cancelled>();
    passes::<RecvError>();
    passes::<SendError<NotSync>>();
    passes::<SpawnError<NotSync>>();
    passes::<JoinError>();
    passes::<ShutdownError>();
    passes::<taskmuster::BuildError>();
    passes::<taskmuster::Panic>();
    let manager = manager();
    let cell = NotSync::new(7);
    let handle = manager
        .spawn("not sync", move |_| Ok(cell))
        .expect("spawned");
    assert_eq!(soon(&manager, &handle).expect("a value").get(), 7);
}

#[test]
fn extreme_times_neither_panic_nor_hang() {
    let manager = Manager::builder()
        .grace(Duration::MAX)
        .build()
        .expect("a manager");
    let sleeper = manager
        .spawn("sleeper", |ctx| Ok(ctx.sleep(Duration::MAX)?))
        .expect("spawned");
    sleeper.cancel();
    assert!(matches!(
        sleeper.join_timeout(Duration::MAX),
        Err(JoinError::Cancelled { .. })
    ));
    let token = CancellationToken::new();
    assert!(token.wait_deadline(Instant::now()).is_none());
    assert!(manager.shutdown().expect("a report").is_clean());
    let zero = Manager::builder()
        .grace(Duration::ZERO)
        .build()
        .expect("a manager");
    assert!(
        zero.shutdown_timeout(Duration::ZERO)
            .expect("a report")
            .is_clean()
    );
}
