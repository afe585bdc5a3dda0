//! Tasks that borrow.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use taskmuster::crossbeam_channel::bounded;
use taskmuster::{BoxError, JoinError, Manager, OnFailure, ScopeError, SpawnFailure, TaskResult};

use crate::HANG;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

#[test]
fn tasks_borrow_and_change_what_is_on_the_stack() {
    let manager = manager();
    let mut halves = [vec![0_u32; 1_000], vec![0; 1_000]];
    let total = AtomicUsize::new(0);
    let [left, right] = &mut halves;
    let count = manager.scope("fill", |scope| {
        let fill = |half: &mut Vec<u32>| {
            half.fill(1);
            total.fetch_add(half.len(), Ordering::SeqCst);
            Ok(())
        };
        let first = scope.spawn("left", move |_| fill(left))?;
        scope.spawn("right", move |_| fill(right))?;
        first.join()?;
        Ok(manager.counts().spawned)
    });
    assert_eq!(count.expect("a value"), 2);
    assert_eq!(total.into_inner(), 2_000);
    assert!(halves.iter().flatten().all(|number| *number == 1));
    assert_eq!(manager.counts().live, 0);
}

#[test]
fn a_clean_up_that_cannot_start_tasks_any_more_ends_as_cancelled() {
    let manager = manager();
    let group = manager.group("group");
    let (there, ready) = bounded(1);
    let task = group.spawn("task", move |ctx| {
        there.send(())?;
        ctx.wait();
        ctx.shield(HANG, |ctx| {
            Ok(ctx.scope("clean-up", |scope| {
                scope.spawn("late", |_| Ok(()))?;
                Ok(())
            })?)
        })?;
        Ok(())
    });
    let task = task.expect("spawned");
    ready.recv_timeout(HANG).expect("it runs");
    group.cancel();
    let joined = task.join_timeout(HANG);
    assert!(
        matches!(joined, Err(JoinError::Cancelled { .. })),
        "{joined:?}"
    );
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn scoped_tasks_are_in_the_books_and_the_scope_is_over_only_when_they_are() {
    let manager = manager();
    let over = AtomicBool::new(false);
    let name = manager.scope("outer", |scope| {
        let (there, ready) = bounded(1);
        let (go, going) = bounded::<()>(1);
        let over = &over;
        scope.spawn("slow", move |ctx| {
            there.send(ctx.name().to_owned())?;
            going.recv()?;
            std::thread::sleep(Duration::from_millis(20));
            over.store(true, Ordering::SeqCst);
            Ok(())
        })?;
        let name = ready.recv_timeout(HANG)?;
        assert!(manager.tasks().iter().any(|task| *task.name == *name));
        go.send(())?;
        Ok(name)
    });
    assert_eq!(name.expect("a value"), "outer/slow");
    assert!(over.into_inner());
}

#[test]
fn the_first_failure_cancels_the_siblings_and_is_the_error() {
    let manager = manager();
    let result = manager.scope("fails", |scope| {
        let (there, ready) = bounded::<()>(1);
        scope.spawn::<()>("waits", move |ctx| {
            there.send(())?;
            Err(ctx.wait().into())
        })?;
        scope.spawn::<()>("breaks", move |_| {
            ready.recv()?;
            Err("broken".into())
        })?;
        Ok(())
    });
    let Err(ScopeError::Tasks(failure)) = result else {
        panic!("{result:?}")
    };
    assert_eq!(
        (failure.count(), failure.to_string().as_str()),
        (1, "task `fails/breaks` failed: broken")
    );
    let independent = manager.scope("independent", |scope| {
        scope.on_failure(OnFailure::Record);
        let fails = scope.spawn::<()>("fails", |_| Err("alone".into()))?;
        assert!(matches!(fails.join(), Err(JoinError::Failed { .. })));
        Ok(scope
            .spawn("goes on", |ctx| Ok(ctx.checkpoint().is_ok()))?
            .join()?)
    });
    assert!(independent.expect("its failure was read"));
}

#[test]
fn an_error_or_a_panic_of_the_body_stops_the_tasks_and_goes_on_afterwards() {
    let manager = manager();
    let ended = Mutex::new(Vec::new());
    let failed: Result<(), ScopeError> = manager.scope("error", |scope| {
        scope.spawn("waits", |ctx| {
            ctx.wait();
            ended.lock().push("error");
            Ok(())
        })?;
        Err("the body's".into())
    });
    assert!(matches!(failed, Err(ScopeError::Body(_))));
    let panicked = catch_unwind(AssertUnwindSafe(|| {
        manager.scope("panic", |scope| -> TaskResult {
            let (there, ready) = bounded::<()>(1);
            let ended = &ended;
            scope.spawn("waits", move |ctx| {
                there.send(())?;
                ctx.wait();
                ended.lock().push("panic");
                Ok(())
            })?;
            ready.recv()?;
            panic!("the body's")
        })
    }));
    assert!(panicked.is_err());
    let ended = ended.into_inner();
    assert!(ended.contains(&"panic"), "{ended:?}");
    assert_eq!(manager.counts().live, 0);
}

#[test]
fn a_panicking_task_is_an_error_not_a_panic_of_the_scope() {
    let manager = manager();
    let result = manager.scope("panics", |scope| {
        let task = scope.spawn::<()>("task", |_| panic!("inside"))?;
        Ok(matches!(task.join(), Err(JoinError::Panicked(_))))
    });
    assert!(result.expect("read"));
}

#[test]
fn a_scope_in_a_task_is_stopped_with_it_and_nests() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let task = manager.spawn("parent", move |ctx| {
        let data = [1, 2, 3];
        Ok(ctx.scope("inner", |scope| {
            scope.spawn("child", |ctx| {
                let sum: i32 = ctx.scope("deep", |scope| {
                    Ok(scope.spawn("leaf", |_| Ok(data.iter().sum()))?.join()?)
                })?;
                there.send(sum)?;
                Err::<(), BoxError>(ctx.wait().into())
            })?;
            Ok(())
        })?)
    });
    let task = task.expect("spawned");
    assert_eq!(ready.recv_timeout(HANG).expect("it runs"), 6);
    task.cancel();
    task.join_timeout(HANG).expect("its scope was joined");
    assert_eq!(manager.counts().live, 0);
}

#[test]
fn a_deadline_asks_and_the_scope_still_waits() {
    let manager = manager();
    let stopped = &AtomicBool::new(false);
    let result = manager.scope("timed", |scope| {
        let (there, ready) = bounded(1);
        scope.spawn("waits", move |ctx| {
            there.send(())?;
            ctx.wait();
            stopped.store(true, Ordering::SeqCst);
            Ok(())
        })?;
        ready.recv_timeout(HANG)?;
        assert!(scope.set_timeout(Duration::from_millis(5))?);
        Ok(())
    });
    result.expect("all ended");
    assert!(stopped.load(Ordering::SeqCst));
}

#[test]
fn a_stopping_manager_takes_no_scoped_task() {
    let manager = manager();
    drop(manager.shutdown().expect("a report"));
    let refused = manager.scope("late", |scope| {
        let refused = scope.spawn("task", |_| Ok(())).expect_err("too late");
        assert!(matches!(refused.failure(), SpawnFailure::Stopping));
        Err::<(), _>(refused.into())
    });
    assert!(matches!(refused, Err(ScopeError::Body(_))));
}

#[test]
fn scoped_tasks_hear_the_shutdown() {
    let report = Manager::builder().grace(HANG).run(|manager| {
        let borrowed = String::from("borrowed");
        manager.scope("server", |scope| {
            scope.spawn("worker", |ctx| {
                assert_eq!(borrowed, "borrowed");
                ctx.request_shutdown("from inside");
                Err::<(), BoxError>(ctx.wait().into())
            })?;
            Ok(())
        })?;
        Ok(())
    });
    assert!(report.is_clean(), "{report}");
    assert_eq!(report.counts().cancelled, 1);
}

#[test]
fn a_scope_knows_of_every_failure_that_nobody_has_read() {
    let manager = manager();
    for read in [0, 64, 90, 99, 100] {
        let result = manager.scope("scope", |scope| {
            scope.on_failure(OnFailure::Record);
            for number in 0..100 {
                let fails = scope.spawn::<()>(number.to_string(), |_| Err("on purpose".into()))?;
                if number < read {
                    assert!(fails.join().is_err());
                }
            }
            Ok(())
        });
        match (result, 100 - read) {
            (Ok(()), 0) => {}
            (Err(ScopeError::Tasks(failure)), unread) => assert_eq!(failure.count(), unread),
            (other, unread) => panic!("{other:?}, but nobody has read {unread}"),
        }
    }
}
