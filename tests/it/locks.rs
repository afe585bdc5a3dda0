//! Locks and condition variables that hear a cancel, from a user's side.

use std::collections::VecDeque;
use std::error::Error;
use std::fmt::{self, Debug};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{RecvTimeoutError, bounded};
use taskmuster::sync::{Condvar, LockError, Mutex, MutexGuard};
use taskmuster::{CancellationToken, Cancelled, JoinError, Manager, TaskReport, TimeoutError};

use crate::{HANG, until};

/// Rounds of each race.
const ROUNDS: usize = 10_000;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

/// Runs `body` on a thread of its own; fails if it hangs, which is to say that it counts no round any more.
#[track_caller]
fn watched<T: Send + 'static>(body: impl FnOnce(&AtomicUsize) -> T + Send + 'static) -> T {
    let (sender, result) = bounded(1);
    let rounds = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&rounds);
    let helper = thread::spawn(move || sender.send(body(&counter)));
    let mut seen = usize::MAX;
    loop {
        match result.recv_timeout(HANG) {
            Ok(value) => return value,
            Err(RecvTimeoutError::Timeout) => {
                let before = std::mem::replace(&mut seen, rounds.load(Ordering::Relaxed));
                assert_ne!(before, seen, "it hangs after {seen} rounds");
            }
            Err(RecvTimeoutError::Disconnected) => {
                resume_unwind(helper.join().expect_err("it gave nothing"))
            }
        }
    }
}

/// Waits until so many wait for the lock or the notification.
#[track_caller]
fn until_awaited_by(number: usize, what: &impl Debug) {
    until_waiting(what, |waiting| waiting == number);
}

/// Waits until the number of those who wait, as `Debug` tells it, is right.
#[track_caller]
fn until_waiting(what: &impl Debug, is_right: impl Fn(usize) -> bool) {
    let begin = Instant::now();
    loop {
        let shown = format!("{what:?}");
        let names = shown
            .split_once("awaited_by: [")
            .map_or("", |(_, names)| names);
        let names = names.split(']').next().unwrap_or_default();
        if is_right(names.split(", ").filter(|name| !name.is_empty()).count()) {
            return;
        }
        assert!(begin.elapsed() < HANG, "{shown}");
        thread::yield_now();
    }
}

/// Pseudo-random numbers, the same in every run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

#[test]
fn under_contention_and_random_cancels_nothing_is_lost_and_nobody_hangs() {
    const WORKERS: usize = 8;
    let (counted, cancelled, late) = watched(|rounds| {
        let total = Mutex::new(0_usize);
        let tokens: Vec<_> = (0..WORKERS)
            .map(|_| parking_lot::Mutex::new(CancellationToken::new()))
            .collect();
        let done = AtomicUsize::new(0);
        let (counted, cancelled, late) = (
            AtomicUsize::new(0),
            AtomicUsize::new(0),
            AtomicUsize::new(0),
        );
        thread::scope(|scope| {
            for (number, own) in tokens.iter().enumerate() {
                let (total, done) = (&total, &done);
                let (counted, cancelled, late) = (&counted, &cancelled, &late);
                scope.spawn(move || {
                    let mut dice = Dice(number as u64 + 1);
                    for round in 0..2_000 {
                        rounds.fetch_add(1, Ordering::Relaxed);
                        let token = CancellationToken::new();
                        *own.lock() = token.clone();
                        if round % 64 == 0 {
                            token.cancel();
                        }
                        let span = Duration::from_micros(dice.roll(20));
                        let locked = match dice.roll(4) {
                            0 => token.lock_timeout(total, span),
                            1 => total.lock_timeout(span).ok_or(LockError::Timeout),
                            2 => Ok(total.lock()),
                            _ => token.lock(total).map_err(LockError::Cancelled),
                        };
                        match locked {
                            Ok(mut total) => {
                                *total += 1;
                                if dice.roll(8) == 0 {
                                    thread::yield_now();
                                }
                                counted.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(LockError::Timeout) => {
                                late.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(_) => {
                                assert!(token.is_cancelled());
                                cancelled.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                });
            }
            let mut dice = Dice(99);
            while done.load(Ordering::Relaxed) < WORKERS {
                let victim = &tokens[usize::try_from(dice.roll(WORKERS as u64)).expect("small")];
                let token = victim.lock().clone();
                token.cancel();
                thread::yield_now();
            }
        });
        let counted = counted.load(Ordering::Relaxed);
        assert_eq!(*total.lock(), counted);
        let of = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        (counted, of(&cancelled), of(&late))
    });
    assert_eq!(counted + cancelled + late, WORKERS * 2_000);
    assert!(counted > 0 && cancelled > 0, "{counted} {cancelled} {late}");
}

#[test]
fn a_cancel_wakes_a_blocked_lock_at_once_and_takes_nothing() {
    let manager = manager();
    let mutex = Arc::new(Mutex::new(0));
    let held = mutex.lock();
    let theirs = Arc::clone(&mutex);
    let task = manager
        .spawn("waiter", move |ctx| {
            *ctx.lock(&theirs)? += 1;
            Ok(())
        })
        .expect("spawned");
    until_awaited_by(1, &mutex);
    task.cancel();
    let end = task.join_timeout(HANG);
    assert!(matches!(end, Err(JoinError::Cancelled { .. })), "{end:?}");
    assert_eq!(*held, 0);
    drop(held);
    assert_eq!(mutex.try_lock().as_deref(), Some(&0));
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn a_cancel_beats_a_free_lock_and_a_satisfied_condition() {
    let (mutex, condvar, token) = (Mutex::new(7), Condvar::new(), CancellationToken::new());
    let guard = token.lock(&mutex).expect("not cancelled yet");
    token.cancel();
    assert!(token.wait_while(&condvar, guard, |_| false).is_err());
    assert!(token.lock(&mutex).is_err());
    assert!(matches!(
        token.lock_timeout(&mutex, HANG),
        Err(LockError::Cancelled(_))
    ));
    assert!(mutex.try_lock().is_some(), "nothing was taken");
}

#[test]
fn a_cancel_against_an_unlock_gives_the_lock_or_cancelled_and_leaves_it_free() {
    let (locked, value) = watched(|rounds| {
        race(
            rounds,
            |mutex, token, _| {
                let locked = token.lock(mutex).ok();
                assert!(locked.is_some() || token.is_cancelled());
                locked
            },
            |token| assert!(token.cancel()),
        )
    });
    assert_eq!(locked, value);
    assert!(locked <= ROUNDS);
}

#[test]
fn one_who_waits_and_is_cancelled_before_the_unlock_never_gets_the_lock() {
    watched(|rounds| {
        let mutex = Mutex::new(());
        for _ in 0..1_000 {
            rounds.fetch_add(1, Ordering::Relaxed);
            let token = CancellationToken::new();
            let held = mutex.lock();
            thread::scope(|scope| {
                let waiter = scope.spawn(|| token.lock(&mutex).is_err());
                until_awaited_by(1, &mutex);
                token.cancel();
                drop(held);
                assert!(waiter.join().expect("no panic"));
            });
            assert!(mutex.try_lock().is_some());
        }
    });
}

#[test]
fn a_timeout_against_an_unlock_gives_the_lock_or_the_timeout_and_leaves_it_free() {
    let (locked, value) = watched(|rounds| {
        race(
            rounds,
            |mutex, token, round| {
                let span = Duration::from_micros(round as u64 % 40);
                match token.lock_timeout(mutex, span) {
                    Ok(guard) => Some(guard),
                    Err(LockError::Timeout) => None,
                    Err(error) => panic!("nobody cancelled: {error}"),
                }
            },
            |_| {},
        )
    });
    assert_eq!(locked, value);
    assert!(locked <= ROUNDS);
}

/// In each round somebody locks what is being unlocked, while the third disturbs him. How often he had the lock, and
/// what he has added behind it.
fn race(
    rounds: &AtomicUsize,
    lock: impl for<'m> Fn(&'m Mutex<usize>, &CancellationToken, usize) -> Option<MutexGuard<'m, usize>>
    + Sync,
    disturb: impl Fn(&CancellationToken) + Sync,
) -> (usize, usize) {
    let mutex = Mutex::new(0);
    let tokens: Vec<_> = (0..ROUNDS).map(|_| CancellationToken::new()).collect();
    let (start, end) = (Barrier::new(3), Barrier::new(3));
    let locked = thread::scope(|scope| {
        let locker = scope.spawn(|| {
            let mut locked = 0;
            for (round, token) in tokens.iter().enumerate() {
                start.wait();
                if let Some(mut guard) = lock(&mutex, token, round) {
                    *guard += 1;
                    locked += 1;
                }
                end.wait();
            }
            locked
        });
        scope.spawn(|| {
            for (round, token) in tokens.iter().enumerate() {
                start.wait();
                linger(round % 7);
                disturb(token);
                end.wait();
            }
        });
        for round in 0..ROUNDS {
            rounds.fetch_add(1, Ordering::Relaxed);
            let held = mutex.lock();
            start.wait();
            linger(round % 11);
            drop(held);
            end.wait();
            assert!(mutex.try_lock().is_some(), "not free after round {round}");
        }
        locker.join().expect("no panic")
    });
    (locked, mutex.into_inner())
}

/// Between nothing and some microseconds, so that the racers meet in many ways.
fn linger(times: usize) {
    for _ in 0..times * times * 4 {
        std::hint::spin_loop();
    }
}

#[test]
fn a_notification_against_a_cancel_is_never_lost_for_the_others() {
    let fickle = watched(|rounds| {
        let (door, opened) = (Mutex::new(false), Condvar::new());
        let tokens: Vec<_> = (0..ROUNDS).map(|_| CancellationToken::new()).collect();
        let (start, end) = (Barrier::new(4), Barrier::new(4));
        thread::scope(|scope| {
            let fickle = scope.spawn(|| {
                let mut went_through = 0;
                for token in &tokens {
                    start.wait();
                    let guard = token.lock(&door).ok();
                    let guard = guard.and_then(|guard| {
                        token.wait_while(&opened, guard, |is_open| !*is_open).ok()
                    });
                    if guard.is_some() {
                        went_through += 1;
                        drop(guard);
                        opened.notify_one(); // the door is open for the next as well
                    }
                    end.wait();
                }
                went_through
            });
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    start.wait();
                    drop(opened.wait_while(door.lock(), |is_open| !*is_open));
                    end.wait();
                }
            });
            scope.spawn(|| {
                for (round, token) in tokens.iter().enumerate() {
                    start.wait();
                    linger(round % 13);
                    token.cancel();
                    end.wait();
                }
            });
            for round in 0..ROUNDS {
                rounds.fetch_add(1, Ordering::Relaxed);
                start.wait();
                linger(round % 17);
                *door.lock() = true;
                opened.notify_one();
                end.wait();
                *door.try_lock().expect("nobody holds it") = false;
            }
            fickle.join().expect("no panic")
        })
    });
    assert!(fickle <= ROUNDS);
}

#[test]
fn a_wait_that_was_cancelled_or_late_does_not_hold_the_lock() {
    let (mutex, condvar, token) = (Mutex::new(0), Condvar::new(), CancellationToken::new());
    let brief = Duration::from_millis(1);
    let late = token.wait_on_timeout(&condvar, mutex.lock(), brief);
    assert!(matches!(late, Err(LockError::Timeout)));
    assert!(condvar.wait_timeout(mutex.lock(), brief).is_none());
    let past = Instant::now();
    let late = token.wait_while_deadline(&condvar, mutex.lock(), past, |value| *value == 0);
    assert!(matches!(late, Err(LockError::Timeout)));
    assert!(mutex.try_lock().is_some());
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let guard = mutex.lock();
            token.wait_on(&condvar, guard).is_err()
        });
        until_awaited_by(1, &condvar);
        token.cancel();
        assert!(waiter.join().expect("no panic"));
    });
    assert!(mutex.try_lock().is_some());
    assert_eq!(format!("{condvar:?}"), "Condvar { awaited_by: [], .. }");
}

#[test]
fn what_is_there_comes_before_the_end_of_the_time() {
    let (mutex, condvar, token) = (Mutex::new(1), Condvar::new(), CancellationToken::new());
    let past = Instant::now();
    assert!(token.lock_deadline(&mutex, past).is_ok());
    assert!(token.lock_timeout(&mutex, Duration::ZERO).is_ok());
    assert!(mutex.lock_timeout(Duration::MAX).is_some());
    let there =
        token.wait_while_timeout(&condvar, mutex.lock(), Duration::ZERO, |value| *value == 0);
    assert_eq!(there.ok().as_deref(), Some(&1));
    // Looked at once more when the time is over, since nobody need have notified.
    let mut looks = 0;
    let there = condvar.wait_while_timeout(mutex.lock(), Duration::ZERO, |_| {
        looks += 1;
        looks == 1
    });
    assert_eq!(there.as_deref(), Some(&1));
}

#[test]
fn a_lock_waits_no_longer_than_its_time_and_no_less() {
    let mutex = Mutex::new(());
    let held = mutex.lock();
    thread::scope(|scope| {
        let waiter = scope.spawn(|| {
            let token = CancellationToken::new();
            let begin = Instant::now();
            let late = token.lock_timeout(&mutex, Duration::from_millis(20));
            (matches!(late, Err(LockError::Timeout)), begin.elapsed())
        });
        let (is_late, took) = waiter.join().expect("no panic");
        assert!(is_late);
        assert!(took >= Duration::from_millis(20) && took < HANG, "{took:?}");
    });
    drop(held);
}

#[test]
fn those_who_wait_are_let_in_in_the_order_in_which_they_came() {
    let (order, mutex) = (Mutex::new(Vec::new()), Mutex::new(()));
    let held = mutex.lock();
    thread::scope(|scope| {
        for number in 0..8 {
            let (order, mutex) = (&order, &mutex);
            scope.spawn(move || {
                let guard = mutex.lock();
                order.lock().push(number);
                drop(guard);
            });
            until_awaited_by(number + 1, mutex);
        }
        drop(held);
    });
    assert_eq!(*order.lock(), [0, 1, 2, 3, 4, 5, 6, 7]);
}

#[test]
fn nobody_starves_beside_one_who_locks_again_and_again() {
    let turns = watched(|rounds| {
        let (mutex, over) = (Mutex::new(0_u64), AtomicBool::new(false));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        let mut guard = mutex.lock();
                        linger(30);
                        *guard += 1;
                    }
                });
            }
            let mut turns = 0;
            while turns < 200 {
                drop(mutex.lock());
                rounds.fetch_add(1, Ordering::Relaxed);
                turns += 1;
            }
            over.store(true, Ordering::Relaxed);
            turns
        })
    });
    assert_eq!(turns, 200);
}

#[test]
fn notify_all_wakes_everybody_and_notify_one_the_first() {
    let (queue, arrival) = (Mutex::new(VecDeque::new()), Condvar::new());
    arrival.notify_one(); // nobody is there: kept by nobody
    thread::scope(|scope| {
        let eaters: Vec<_> = (0..6)
            .map(|_| {
                scope.spawn(|| {
                    let queue = queue.lock();
                    let mut queue = arrival.wait_while(queue, |queue| queue.is_empty());
                    queue.pop_front()
                })
            })
            .collect();
        until_awaited_by(6, &arrival);
        queue.lock().push_back(0);
        arrival.notify_one();
        until_waiting(&arrival, |waiting| waiting < 6);
        queue.lock().extend(1..6);
        arrival.notify_all();
        let mut eaten: Vec<i32> = eaters
            .into_iter()
            .map(|eater| eater.join().expect("no panic").expect("not empty"))
            .collect();
        eaten.sort_unstable();
        assert_eq!(eaten, [0, 1, 2, 3, 4, 5]);
    });
}

#[test]
fn the_report_names_who_holds_the_lock_and_the_line_that_locked_it() {
    let manager = Manager::builder()
        .grace(Duration::from_millis(150))
        .build()
        .expect("a manager");
    let mutex = Arc::new(Mutex::new(()));
    let (release, released) = bounded::<()>(0);
    let (told, line) = bounded(1);
    let own = Arc::clone(&mutex);
    manager
        .spawn("writer", move |ctx| {
            let (_guard, line) = (ctx.lock(&own)?, line!());
            told.send(line)?;
            Ok(released.recv()?) // deaf: it is the straggler
        })
        .expect("spawned");
    let line = line.recv_timeout(HANG).expect("it has the lock");
    let own = Arc::clone(&mutex);
    manager
        .spawn("deaf reader", move |_| {
            drop(own.lock());
            Ok(())
        })
        .expect("spawned");
    let own = Arc::clone(&mutex);
    manager
        .spawn("shielded reader", move |ctx| {
            ctx.shield(HANG, |ctx| {
                drop(ctx.lock(&own)?);
                Ok(())
            })?;
            Ok(())
        })
        .expect("spawned");
    let own = Arc::clone(&mutex);
    let attentive = manager
        .spawn("attentive reader", move |ctx| {
            drop(ctx.lock(&own)?);
            Ok(())
        })
        .expect("spawned");
    until_awaited_by(3, &mutex);
    let shown = format!("{mutex:?}");
    assert!(
        shown.contains(&format!("held_by: `writer` since {}:{line}", file!())),
        "{shown}"
    );
    let report = manager.shutdown().expect("a report");
    // The grace may have been too short for it on a busy machine, but it leaves while the lock is held.
    until("it waits for the lock", || attentive.is_finished());
    release.send(()).expect("it is still there");
    let diagnosis = |name: &str| {
        let tasks: &[TaskReport] = report.tasks();
        let task = tasks.iter().find(|task| task.name() == name);
        task.and_then(TaskReport::diagnosis).cloned()
    };
    let expected = format!("the lock held by `writer` since {}:{line}", file!());
    let deaf = diagnosis("deaf reader").expect("it did not stop");
    assert_eq!(
        deaf.waiting_for.as_deref(),
        Some(format!("{expected}, deaf to its stop").as_str())
    );
    assert!(deaf.to_string().contains("`ctx.lock`"), "{deaf}");
    let shielded = diagnosis("shielded reader").expect("it did not stop");
    assert_eq!(shielded.waiting_for.as_deref(), Some(expected.as_str()));
    assert!(shielded.to_string().contains("shielded wait"), "{shielded}");
    assert!(diagnosis("writer").is_some());
    assert!(matches!(
        attentive.try_join(),
        Err(JoinError::Cancelled { .. })
    ));
    // The stragglers end all the same, one after the other.
    until_free(&mutex);
}

fn until_free<T>(mutex: &Mutex<T>) {
    let guard = mutex.lock_timeout(HANG);
    assert!(guard.is_some());
}

#[test]
fn a_crowd_that_waits_for_one_lock_stops_at_once() {
    let manager = manager();
    let (mutex, condvar) = (Arc::new(Mutex::new(())), Arc::new(Condvar::new()));
    for number in 0..100 {
        let (mutex, condvar) = (Arc::clone(&mutex), Arc::clone(&condvar));
        manager
            .spawn(format!("waiter {number}"), move |ctx| {
                let guard = ctx.lock(&mutex)?;
                drop(ctx.wait_on(&condvar, guard)?);
                Ok(())
            })
            .expect("spawned");
    }
    until_awaited_by(100, &condvar);
    let held = mutex.lock();
    // Half of them for a notification, half for the lock.
    for _ in 0..50 {
        condvar.notify_one();
    }
    until_awaited_by(50, &mutex);
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    drop(held);
    until_free(&mutex);
}

#[test]
fn locking_what_one_holds_oneself_panics_with_both_lines() {
    let message = |result: thread::Result<()>| {
        let payload = result.expect_err("a panic");
        payload
            .downcast_ref::<String>()
            .expect("a formatted message")
            .clone()
    };
    let (mutex, token) = (Mutex::new(0), CancellationToken::new());
    let (guard, line) = (mutex.lock(), line!());
    assert!(mutex.try_lock().is_none(), "no harm in asking");
    let said = message(catch_unwind(AssertUnwindSafe(|| drop(mutex.lock()))));
    assert!(
        said.contains(&format!(
            "locks a mutex that it holds itself since {}:{line}",
            file!()
        )),
        "{said}"
    );
    let said = message(catch_unwind(AssertUnwindSafe(|| {
        drop(token.lock_timeout(&mutex, HANG));
    })));
    assert!(said.contains("that would never end"), "{said}");
    drop(guard);
    assert!(mutex.try_lock().is_some());

    let manager = manager();
    let task = manager
        .spawn("narcissus", |ctx| {
            let mutex = Mutex::new(0);
            let _guard = ctx.lock(&mutex)?;
            let _again = ctx.lock(&mutex)?;
            Ok(())
        })
        .expect("spawned");
    let Err(JoinError::Panicked(panic)) = task.join_timeout(HANG) else {
        panic!("no panic")
    };
    let said = panic.message().unwrap_or_default();
    assert!(
        said.starts_with("`narcissus` locks a mutex that it holds itself since"),
        "{said}"
    );
    let place = panic.place().expect("the hook was there");
    assert!(place.file.ends_with("locks.rs"), "{place}");
}

#[test]
fn a_panic_of_the_holder_frees_the_lock_and_leaves_the_value() {
    let mutex = Mutex::new(1);
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut guard = mutex.lock();
        *guard = 2;
        panic!("halfway");
    }));
    assert!(result.is_err());
    assert_eq!(mutex.try_lock().as_deref(), Some(&2));
    let condvar = Condvar::new();
    let result = catch_unwind(AssertUnwindSafe(|| {
        drop(condvar.wait_while(mutex.lock(), |_| panic!("in the condition")));
    }));
    assert!(result.is_err());
    assert!(mutex.try_lock().is_some());
}

#[test]
fn an_error_of_a_lock_counts_as_what_it_is() {
    let manager = manager();
    let mutex = Arc::new(Mutex::new(()));
    let held = mutex.lock();
    let own = Arc::clone(&mutex);
    let late = manager
        .spawn("late", move |ctx| {
            drop(ctx.lock_timeout(&own, Duration::from_millis(1))?);
            Ok(())
        })
        .expect("spawned");
    assert!(matches!(
        late.join_timeout(HANG),
        Err(JoinError::Failed { .. })
    ));
    let own = Arc::clone(&mutex);
    let cancelled = manager
        .spawn("cancelled", move |ctx| {
            drop(ctx.lock_timeout(&own, HANG)?);
            Ok(())
        })
        .expect("spawned");
    until_awaited_by(1, &mutex);
    cancelled.cancel();
    assert!(matches!(
        cancelled.join_timeout(HANG),
        Err(JoinError::Cancelled { .. })
    ));
    let own = Arc::clone(&mutex);
    let section = manager
        .spawn("section", move |ctx| {
            let result = ctx.with_timeout(Duration::from_millis(1), |ctx| {
                drop(ctx.lock(&own)?);
                Ok(())
            });
            Ok(matches!(result, Err(TimeoutError::Elapsed { .. })))
        })
        .expect("spawned");
    assert!(section.join_timeout(HANG).expect("a value"));
    drop(held);
}

#[test]
fn a_lock_and_its_errors_fit_in_everywhere() {
    static COUNTER: Mutex<u32> = Mutex::new(0);
    static CHANGED: Condvar = Condvar::new();

    fn is_everywhere<T: Send + Sync + 'static>() {}
    fn is_error<T: Error + Send + Sync + 'static>() {}

    is_everywhere::<Mutex<std::cell::Cell<u8>>>();
    is_everywhere::<Condvar>();
    is_error::<LockError>();
    is_error::<Cancelled>();

    *COUNTER.lock() += 1;
    CHANGED.notify_all();
    let mut unsized_one: Box<Mutex<dyn fmt::Display + Send>> = Box::new(Mutex::new("text"));
    assert_eq!(unsized_one.lock().to_string(), "text");
    assert_eq!(unsized_one.get_mut().to_string(), "text");
    let mutex: Mutex<Vec<u8>> = Mutex::from(vec![1]);
    assert_eq!(format!("{mutex:?}"), "Mutex { value: [1] }");
    let guard = mutex.lock();
    assert_eq!(format!("{guard:?}"), "[1]");
    let shown = format!("{mutex:?}");
    assert!(
        shown.contains(&format!("since {}:", file!())) && !shown.contains("awaited_by"),
        "{shown}"
    );
    drop(guard);
    assert_eq!(mutex.into_inner(), [1]);
    assert_eq!(Mutex::<u8>::default().into_inner(), 0);
}
