//! Tasks that do not stop, one or a thousand, and those that do so late: faults 70 to 72.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{Group, JoinError, Outcome, ShutdownReport, TaskHandle, TaskReport};

use crate::books::{HANG, arrives, in_some_try, is_long, manager, rounds};
use crate::race::{Dawdler, until};
use crate::stuck::{Jail, Stuck, is_named_with_its_place};
use crate::usage::until_it_sleeps;

/// Starts a task that stops when it is asked to, and returns when it runs.
fn good(group: &Group) {
    let (there, ready) = bounded(1);
    let task = group.spawn("good", move |ctx| {
        there.send(())?;
        ctx.wait();
        Ok(())
    });
    drop(task.expect("spawned"));
    arrives(&ready);
}

fn row<'a>(report: &'a ShutdownReport, name: &str) -> &'a TaskReport {
    let row = report.tasks().iter().find(|row| row.name() == name);
    row.unwrap_or_else(|| panic!("{name} has no row in {report}"))
}

/// One task of this kind, and one that stops: how long after its deadline the shutdown returned. An error, if one of them
/// got no processor until then.
fn shut_down_with(kind: Stuck) -> Result<Duration, String> {
    const TIME: Duration = Duration::from_millis(700);
    let (manager, jail) = (manager(), Jail::new());
    let group = manager.group("f070"); // whose threads are told from those of other tests
    good(&group);
    let (there, ready) = bounded(1);
    let stuck = kind.spawn(&group, jail.cell(), &there);
    arrives(&ready);
    if kind != Stuck::Spin {
        until_it_sleeps(stuck.name());
    }
    let start = Instant::now();
    let report = manager.shutdown_timeout(TIME).expect("a report");
    let late = start.elapsed().saturating_sub(TIME);
    let text = report.to_string();
    assert!(
        start.elapsed() >= TIME || kind == Stuck::Foreign,
        "{kind:?} was not awaited: {text}"
    );
    assert!(
        late < HANG / 2,
        "{kind:?} was awaited for {late:?} too long: {text}"
    );
    let straggler = row(&report, stuck.name());
    assert!(is_named_with_its_place(straggler, kind), "{kind:?}: {text}");
    let is_in_time = matches!(row(&report, "f070/good").outcome(), Outcome::Completed)
        && report.exit_code() == kind.exit_code()
        && text.contains(kind.words());
    let diagnosis = straggler.diagnosis().expect("it has one");
    assert!(
        kind == Stuck::Destructor || diagnosis.asked > Duration::ZERO,
        "since when: {text}"
    );
    drop(jail);
    until("the late end", || manager.counts().live == 0);
    assert!(stuck.is_finished());
    is_in_time.then_some(late).ok_or(text)
}

#[test]
#[cfg(target_os = "linux")]
fn f070_a_task_stuck_in_any_way_is_awaited_until_the_deadline_named_with_its_place_and_the_rest_joined()
 {
    let next = AtomicUsize::new(0);
    let late: Mutex<Vec<(Duration, Stuck)>> = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while let Some(kind) = Stuck::ALL.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let by = in_some_try(&kind.name(), || shut_down_with(*kind));
                    late.lock().expect("no panic").push((by, *kind));
                }
            });
        }
    });
    println!(
        "latest return after a deadline: {:?}",
        late.into_inner().expect("no panic").iter().max()
    );
}

/// How many of one kind there are at most: those that use up processors or processes are there, but few.
fn most(kind: Stuck) -> usize {
    match kind {
        Stuck::Spin => 4,
        Stuck::Child => 8,
        _ => usize::MAX,
    }
}

#[test]
#[cfg(target_os = "linux")]
fn f071_a_thousand_stuck_tasks_of_every_kind_cost_one_deadline_and_are_all_named_with_their_place()
{
    const MANY: usize = 1_000;
    const TIME: Duration = Duration::from_secs(1);
    let (manager, jail) = (manager(), Jail::new());
    let (there, ready) = bounded(MANY);
    let (mut kinds, mut tasks) = (Vec::new(), Vec::new());
    for kind in Stuck::ALL.iter().cycle() {
        if kinds.iter().filter(|it| *it == kind).count() < most(*kind) {
            tasks.push(kind.spawn(manager.root_group(), jail.cell(), &there));
            kinds.push(*kind);
        }
        if kinds.len() == MANY {
            break;
        }
    }
    for _ in 0..MANY {
        arrives(&ready);
    }
    let inner = kinds
        .iter()
        .filter(|kind| matches!(kind, Stuck::Task | Stuck::Scope))
        .count();
    // Of these the end itself is not late.
    let exits =
        |(task, kind): (&TaskHandle<()>, &Stuck)| task.is_finished() || *kind != Stuck::Destructor;
    until("the end of their bodies", || {
        tasks.iter().zip(&kinds).all(exits)
    });
    let start = Instant::now();
    let report = manager.shutdown_timeout(TIME).expect("a report");
    let took = start.elapsed();
    let late = took.saturating_sub(TIME);
    println!(
        "returned {late:?} after the deadline of {TIME:?}, with {MANY} stuck tasks and {inner} of their own"
    );
    assert!(took >= TIME && late < HANG / 2, "{took:?}");
    if is_long() && !cfg!(debug_assertions) {
        assert!(late <= Duration::from_millis(50), "{late:?}");
    }
    assert_eq!(report.exit_code(), 2);
    let stragglers: Vec<&TaskReport> = report.stragglers().collect();
    assert_eq!(stragglers.len(), MANY + inner, "everybody is named");
    // The groups of the scopes come first and use up the time: at the deadline their turn has come all the same.
    let is_asked = |task: &&TaskHandle<()>| task.token().is_cancelled();
    assert_eq!(
        tasks.iter().filter(is_asked).count(),
        MANY,
        "everybody was asked"
    );
    for straggler in &stragglers {
        let kind = match straggler.name() {
            "scope/inner" => Stuck::Receive,
            name => Stuck::named(name),
        };
        assert!(
            is_named_with_its_place(straggler, kind),
            "{}",
            straggler.name()
        );
    }
    let said = report.to_string();
    for kind in Stuck::ALL {
        assert!(
            said.contains(&format!("\n    {} ", kind.name())),
            "{kind:?} has no row"
        );
        assert!(
            said.contains(&format!("\n  `{}` ", kind.name())),
            "{kind:?} has no diagnosis"
        );
    }
    drop(jail);
    until("the late ends", || manager.counts().live == 0);
    let exiting = kinds
        .iter()
        .filter(|kind| **kind == Stuck::Destructor)
        .count();
    let late = u64::try_from(MANY + inner - exiting).expect("a few");
    assert_eq!(manager.counts().late, late);
}

#[test]
fn f072_an_end_that_races_with_the_deadline_is_in_time_or_late_never_both_and_never_lost() {
    let (in_time, late) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let later = Dawdler::up_to(3_000);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..rounds(150, 1_500) {
                    race_with_the_deadline(&later, &in_time, &late);
                }
            });
        }
    });
    println!("{in_time:?} in time, {late:?} late");
}

fn race_with_the_deadline(later: &Dawdler, in_time: &AtomicUsize, late: &AtomicUsize) {
    const TASKS: usize = 4;
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(TASKS);
    let tasks: Vec<_> = (0..TASKS)
        .map(|number| {
            let (there, released) = (there.clone(), released.clone());
            let task = manager.spawn("deaf", move |_| {
                there.send(())?;
                let _ = released.recv();
                Ok(number)
            });
            task.expect("spawned")
        })
        .collect();
    for _ in &tasks {
        arrives(&ready);
    }
    let report = thread::scope(|scope| {
        scope.spawn(|| {
            later.dawdle();
            drop(release);
        });
        manager
            .shutdown_timeout(Duration::from_micros(1_500))
            .expect("a report")
    });
    let abandoned = |row: &&TaskReport| matches!(row.outcome(), Outcome::Abandoned);
    let missed = report.tasks().iter().filter(abandoned).count();
    assert_eq!(report.counts().live, missed as u64, "{report}");
    assert!(report.stragglers().count() >= missed, "{report}");
    until("all ends", || manager.counts().live == 0);
    let counts = manager.counts();
    // Some were given up and ended before their row was written: it says how they ended.
    assert!(
        counts.late >= missed as u64 && counts.completed == TASKS as u64,
        "{counts:?}, {report}"
    );
    for (number, task) in tasks.iter().enumerate() {
        assert!(matches!(task.outcome(), Some(Outcome::Completed)));
        assert_eq!(task.join().expect("its value is not lost"), number);
        assert!(matches!(task.join(), Err(JoinError::AlreadyTaken { .. })));
    }
    in_time.fetch_add(TASKS - missed, Ordering::Relaxed);
    late.fetch_add(missed, Ordering::Relaxed);
}

#[test]
fn f072_failures_and_panics_that_come_late_are_counted_and_unread_ones_change_the_exit_code_of_the_report()
 {
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (there, ready) = bounded(2);
    let spawn = |name: &'static str| {
        let (there, released) = (there.clone(), released.clone());
        let task = manager.spawn::<()>(name, move |ctx| {
            ctx.foreign("a call", Duration::ZERO, || {
                let _ = there.send(());
                let _ = released.recv();
            });
            match name {
                "fails" => Err("late".into()),
                _ => panic!("late"),
            }
        });
        task.expect("spawned")
    };
    let (fails, panics) = (spawn("fails"), spawn("panics"));
    for _ in 0..2 {
        arrives(&ready);
    }
    let report = manager.shutdown().expect("a report");
    assert_eq!(
        (report.exit_code(), report.unread_failures()),
        (0, 0),
        "{report}"
    );
    drop(release);
    until("the late ends", || manager.counts().late == 2);
    assert_eq!(
        (report.exit_code(), report.unread_failures()),
        (1, 2),
        "they are heard"
    );
    assert!(matches!(fails.join(), Err(JoinError::Failed { .. })));
    assert!(matches!(panics.join(), Err(JoinError::Panicked(_))));
    assert_eq!(
        (report.exit_code(), report.unread_failures()),
        (0, 0),
        "and read"
    );
}
