//! Supervisors, child by child.

use std::collections::HashMap;
use std::error::Error;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use taskmuster::crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use taskmuster::{
    Backoff, Child, GaveUp, JoinError, Manager, Permanent, Restart, StartFailure, Strategy,
    Supervisor, TaskContext, TaskResult,
};

use crate::{HANG, until};

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

fn quickly() -> Restart {
    Restart::on_failure()
        .backoff(Backoff::none())
        .limit(5, HANG * 10)
}

/// What happened to the children, in order.
#[derive(Clone, Default)]
struct Diary(Arc<Mutex<Vec<String>>>);

impl Diary {
    fn note(&self, words: String) {
        self.0.lock().push(words);
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut *self.0.lock())
    }

    fn wait_for(&self, lines: usize) -> Vec<String> {
        let deadline = Instant::now() + HANG;
        while self.0.lock().len() < lines {
            assert!(Instant::now() < deadline, "{:?} and no more", self.take());
            std::thread::yield_now();
        }
        self.take()
    }
}

/// A child that notes its start and stop and can be told to fail.
fn child(number: usize, diary: &Diary, orders: &Receiver<&'static str>) -> Child {
    let (diary, orders) = (diary.clone(), orders.clone());
    let body = move |ctx: &TaskContext| -> TaskResult {
        diary.note(format!("{number} up"));
        ctx.ready();
        match ctx.recv(&orders) {
            Ok("fail") => Err(format!("{number} was told to").into()),
            Ok("panic") => panic!("{number} was told to"),
            Ok(_) => Ok(()),
            Err(stopped) => {
                diary.note(format!("{number} down"));
                Err(stopped.into())
            }
        }
    };
    let child = Child::new(number.to_string(), body);
    child.ready_within(HANG).grace(HANG)
}

struct Family {
    diary: Diary,
    orders: HashMap<usize, Sender<&'static str>>,
}

impl Family {
    fn new(strategy: Strategy, size: usize) -> (Self, Supervisor) {
        let diary = Diary::default();
        let mut supervisor = Supervisor::new(strategy).restart(quickly());
        let mut orders = HashMap::new();
        for number in 0..size {
            let (order, ordered) = unbounded();
            supervisor = supervisor.child(child(number, &diary, &ordered));
            orders.insert(number, order);
        }
        (Self { diary, orders }, supervisor)
    }

    fn order(&self, number: usize, words: &'static str) {
        self.orders[&number].send(words).expect("it listens");
    }
}

fn up(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| format!("{number} up"))
        .collect()
}

fn down(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers
        .into_iter()
        .map(|number| format!("{number} down"))
        .collect()
}

/// Erlang's strategies, spelled out: who is stopped, in what order, and who is started, in what order.
fn expected(strategy: Strategy, size: usize, failing: usize) -> Vec<String> {
    match strategy {
        Strategy::OneForOne => up([failing]),
        Strategy::OneForAll => {
            let others = (0..size).rev().filter(|number| *number != failing);
            [down(others), up(0..size)].concat()
        }
        _ => [down((failing + 1..size).rev()), up(failing..size)].concat(),
    }
}

#[test]
fn the_three_strategies_for_up_to_six_children_and_every_one_that_fails() {
    let manager = manager();
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
    ] {
        for size in 1..=6 {
            for failing in 0..size {
                for words in ["fail", "panic"] {
                    let name = format!("{strategy:?} {size} {failing} {words}");
                    let (family, supervisor) = Family::new(strategy, size);
                    let supervisor = manager.task(&name).supervise(supervisor).expect("started");
                    assert_eq!(family.diary.take(), up(0..size), "{name}");
                    family.order(failing, words);
                    let expected = expected(strategy, size, failing);
                    assert_eq!(family.diary.wait_for(expected.len()), expected, "{name}");
                    let stopped = supervisor.stop(HANG);
                    assert!(
                        matches!(stopped, Err(JoinError::Cancelled { .. })),
                        "{name}: {stopped:?}"
                    );
                    assert_eq!(family.diary.take(), down((0..size).rev()), "{name}");
                }
            }
        }
    }
    let report = manager.shutdown().expect("a report");
    assert!(
        report.is_clean(),
        "what a supervisor restarts is no unread failure: {report}"
    );
}

#[test]
fn children_that_complete_are_down_and_those_that_are_permanent_are_not() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForOne, 2);
    let (order, ordered) = unbounded();
    let supervisor = supervisor.child(child(2, &family.diary, &ordered).permanent());
    let supervisor = manager
        .task("kinds")
        .supervise(supervisor)
        .expect("started");
    assert_eq!(family.diary.take(), up(0..3));
    family.order(0, "complete");
    // Or the stop could come before the order.
    until("it is restarted", || manager.counts().live == 3);
    order.send("complete").expect("it listens");
    assert_eq!(
        family.diary.wait_for(1),
        up([2]),
        "the permanent one runs again"
    );
    drop(supervisor.stop(HANG));
    assert_eq!(
        family.diary.take(),
        down([2, 1]),
        "the transient one stayed down"
    );
}

#[test]
fn a_temporary_child_is_never_restarted_and_restarts_nobody() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForAll, 1);
    let (order, ordered) = unbounded();
    let supervisor = supervisor.child(child(1, &family.diary, &ordered).temporary());
    let supervisor = manager
        .task("temporary")
        .supervise(supervisor)
        .expect("started");
    assert_eq!(family.diary.take(), up(0..2));
    order.send("fail").expect("it listens");
    while manager.counts().failed == 0 {
        std::thread::yield_now();
    }
    family.order(0, "fail");
    assert_eq!(
        family.diary.wait_for(1),
        up([0]),
        "the other one is gone for good"
    );
    drop(supervisor.stop(HANG));
    assert_eq!(family.diary.take(), down([0]));
}

#[test]
fn a_supervisor_completes_when_all_its_children_are_down() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForOne, 3);
    let supervisor = manager.task("done").supervise(supervisor).expect("started");
    for number in 0..3 {
        family.order(number, "complete");
    }
    supervisor.join_timeout(HANG).expect("completed");
}

#[test]
fn too_many_restarts_stop_all_children_and_escalate_to_the_supervisor_around_it() {
    let manager = manager();
    let diary = Diary::default();
    let (order, ordered) = unbounded();
    let (_open, open) = unbounded();
    let mut inner = Supervisor::new(Strategy::OneForOne)
        .restart(
            Restart::on_failure()
                .backoff(Backoff::none())
                .limit(2, HANG * 10),
        )
        .child(child(0, &diary, &ordered))
        .child(child(1, &diary, &open));
    let (tell, told) = unbounded();
    let outer = Supervisor::new(Strategy::OneForOne)
        .restart(quickly())
        .child(
            Child::new("inner", move |ctx| {
                let result = inner.run(ctx, "inner");
                tell.send(result.as_ref().is_err_and(|error| error.is::<GaveUp>()))?;
                result
            })
            .ready_within(HANG),
        );
    let outer = manager.task("outer").supervise(outer).expect("started");
    assert_eq!(diary.take(), up([0, 1]));
    for _ in 0..2 {
        order.send("fail").expect("it listens");
        assert_eq!(diary.wait_for(1), up([0]));
    }
    order.send("fail").expect("it listens");
    assert_eq!(told.recv_timeout(HANG), Ok(true), "the inner one gave up");
    assert_eq!(
        diary.wait_for(3),
        [down([1]), up([0, 1])].concat(),
        "and was restarted by the outer one"
    );
    drop(outer.stop(HANG));
    assert_eq!(diary.take(), down([1, 0]));
}

#[test]
fn a_child_that_fails_to_start_again_counts_as_one_more_restart() {
    let manager = manager();
    let (fail, failing) = bounded::<()>(1);
    let starts = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&starts);
    let supervisor = Supervisor::new(Strategy::OneForOne)
        .restart(
            Restart::on_failure()
                .backoff(Backoff::none())
                .limit(3, HANG * 10),
        )
        .child(
            Child::new("fragile", move |ctx| {
                let start = {
                    let mut starts = counter.lock();
                    *starts += 1;
                    *starts
                };
                if start > 1 {
                    return Err("no port".into()); // before it is ready
                }
                ctx.ready();
                ctx.recv(&failing)?;
                Err("the first".into())
            })
            .ready_within(HANG),
        );
    let supervisor = manager
        .task("starts")
        .supervise(supervisor)
        .expect("started");
    fail.send(()).expect("it listens");
    let Err(JoinError::Failed { error, .. }) = supervisor.join_timeout(HANG) else {
        panic!("no failure")
    };
    assert!(error.is::<GaveUp>(), "{error}");
    assert_eq!(*starts.lock(), 4, "the first start and three restarts");
}

/// A child that does not come up at its second start.
fn fragile(number: usize, diary: &Diary, orders: &Receiver<&'static str>) -> Child {
    let (diary, orders) = (diary.clone(), orders.clone());
    let body = move |ctx: &TaskContext| -> TaskResult {
        if ctx.attempt() == 2 {
            diary.note(format!("{number} not up"));
            return Err("no port".into());
        }
        diary.note(format!("{number} up"));
        ctx.ready();
        match ctx.recv(&orders) {
            Ok(_) => Err(format!("{number} was told to").into()),
            Err(stopped) => {
                diary.note(format!("{number} down"));
                Err(stopped.into())
            }
        }
    };
    Child::new(number.to_string(), body).ready_within(HANG)
}

/// As Erlang does it: those before the one that did not come up were started; it is the next to be restarted.
fn expected_with_a_fragile_one(
    strategy: Strategy,
    size: usize,
    failing: usize,
    fragile: usize,
) -> Vec<String> {
    let not_up = vec![format!("{fragile} not up")];
    match strategy {
        Strategy::OneForOne => [not_up, up([fragile])].concat(),
        Strategy::OneForAll => {
            let others = (0..size).rev().filter(|number| *number != failing);
            let before = 0..fragile;
            [
                down(others),
                up(before.clone()),
                not_up,
                down(before.rev()),
                up(0..size),
            ]
            .concat()
        }
        _ => [
            down((failing + 1..size).rev()),
            up(failing..fragile),
            not_up,
            up(fragile..size),
        ]
        .concat(),
    }
}

#[test]
fn a_child_that_does_not_come_up_again_is_restarted_in_its_turn_by_each_strategy() {
    let manager = manager();
    for strategy in [
        Strategy::OneForOne,
        Strategy::OneForAll,
        Strategy::RestForOne,
    ] {
        for size in 1..=5 {
            for (failing, fragile_one) in (0..size).flat_map(|a| (0..size).map(move |b| (a, b))) {
                let is_started_anew = match strategy {
                    Strategy::OneForOne => fragile_one == failing,
                    Strategy::OneForAll => true,
                    _ => fragile_one >= failing,
                };
                if !is_started_anew {
                    continue;
                }
                let name = format!("{strategy:?} {size} {failing} {fragile_one}");
                let diary = Diary::default();
                let (order, ordered) = unbounded();
                let (_open, open) = unbounded();
                let children = (0..size).map(|number| {
                    let orders = if number == failing { &ordered } else { &open };
                    if number == fragile_one {
                        fragile(number, &diary, orders)
                    } else {
                        child(number, &diary, orders)
                    }
                });
                let supervisor = Supervisor::new(strategy).restart(quickly());
                let supervisor = children.fold(supervisor, Supervisor::child);
                let restarts = manager.counts().restarts;
                let supervisor = manager.task(&name).supervise(supervisor).expect("started");
                assert_eq!(diary.take(), up(0..size), "{name}");
                order.send("fail").expect("it listens");
                let expected = expected_with_a_fragile_one(strategy, size, failing, fragile_one);
                assert_eq!(diary.wait_for(expected.len()), expected, "{name}");
                drop(supervisor.stop(HANG));
                assert_eq!(diary.take(), down((0..size).rev()), "{name}");
                assert_eq!(manager.counts().restarts, restarts + 2, "{name}");
            }
        }
    }
}

#[test]
fn a_supervisor_whose_child_does_not_start_stops_the_others_and_is_an_error() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForOne, 2);
    let bad = Child::new("bad", |_| Err("no port".into())).ready_within(HANG);
    let refused = manager.task("bad start").supervise(supervisor.child(bad));
    let refused = refused.expect_err("it does not start");
    assert!(
        matches!(refused.failure(), StartFailure::NotReady(_)),
        "{refused}"
    );
    assert!(refused.to_string().contains("no port"), "{refused}");
    assert_eq!(family.diary.take(), [up(0..2), down([1, 0])].concat());
}

#[test]
fn a_child_that_does_not_stop_is_never_started_a_second_time_beside_itself() {
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (family, supervisor) = Family::new(Strategy::OneForAll, 1);
    let (there, ready) = unbounded();
    let deaf = Child::new("deaf", move |_| {
        there.send(())?;
        let _ = released.recv();
        Ok(())
    });
    let supervisor = supervisor.child(deaf.grace(Duration::from_millis(20)));
    let supervisor = manager.task("deaf").supervise(supervisor).expect("started");
    ready.recv_timeout(HANG).expect("it runs");
    family.order(0, "fail");
    let Err(JoinError::Failed { error, .. }) = supervisor.join_timeout(HANG) else {
        panic!("no failure")
    };
    assert!(
        error
            .to_string()
            .contains("`deaf/deaf` did not stop within its grace"),
        "{error}"
    );
    assert!(ready.try_recv().is_err(), "it was started once");
    drop(release);
}

#[test]
fn a_child_that_waits_for_its_restart_keeps_the_supervisor_from_nothing() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForOne, 3);
    let slowly = Restart::on_failure().backoff(Backoff::constant(HANG * 100));
    let supervisor = supervisor.restart(slowly.unlimited());
    let supervisor = manager.task("slow").supervise(supervisor).expect("started");
    let deadline = Instant::now() + HANG;
    for (failing, restarts) in [(0, 1), (2, 2)] {
        family.order(failing, "fail");
        while manager.counts().restarts < restarts {
            assert!(
                Instant::now() < deadline,
                "nobody hears that {failing} failed"
            );
            std::thread::yield_now();
        }
    }
    assert!(matches!(
        supervisor.stop(HANG),
        Err(JoinError::Cancelled { .. })
    ));
    assert_eq!(family.diary.take(), [up(0..3), down([1])].concat());
    assert!(manager.shutdown().expect("a report").is_clean());
}

#[test]
fn a_child_that_is_not_ready_when_the_supervisor_is_stopped_is_stopped_in_its_turn() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForOne, 1);
    let (diary, (order, ordered)) = (family.diary.clone(), unbounded::<()>());
    let body = move |ctx: &TaskContext| -> TaskResult {
        diary.note("1 up".to_owned());
        if ctx.attempt() == 1 {
            ctx.ready();
            ctx.recv(&ordered)?;
            return Err("was told to".into());
        }
        ctx.wait();
        diary.note("1 down".to_owned());
        Ok(())
    };
    let (_open, open) = unbounded();
    let supervisor = supervisor
        .child(Child::new("1", body).ready_within(HANG))
        .child(child(2, &family.diary, &open));
    let supervisor = manager
        .task("not ready")
        .supervise(supervisor)
        .expect("started");
    assert_eq!(family.diary.take(), up(0..3));
    order.send(()).expect("it listens");
    assert_eq!(family.diary.wait_for(1), up([1]));
    let stopped = supervisor.stop(HANG);
    assert!(
        matches!(stopped, Err(JoinError::Cancelled { .. })),
        "{stopped:?}"
    );
    assert_eq!(family.diary.take(), down([2, 1, 0]));
}

#[test]
fn a_child_that_was_cancelled_is_down_for_good_whoever_else_is_restarted() {
    let ways: [fn(&TaskContext) -> bool; 2] =
        [|ctx| ctx.token().cancel(), |ctx| ctx.group().cancel()];
    let strategies = [Strategy::OneForAll, Strategy::RestForOne];
    for (strategy, leave) in strategies
        .iter()
        .flat_map(|it| ways.map(|leave| (*it, leave)))
    {
        let manager = manager();
        let (family, supervisor) = Family::new(strategy, 2);
        let starts = Arc::new(Mutex::new(0));
        let counter = Arc::clone(&starts);
        let leaver = Child::new("leaver", move |ctx| {
            *counter.lock() += 1;
            leave(ctx);
            Err(ctx.wait().into())
        });
        let supervisor = manager
            .task("leavers")
            .supervise(supervisor.child(leaver))
            .expect("started");
        assert_eq!(family.diary.take(), up(0..2));
        let deadline = Instant::now() + HANG;
        while manager.counts().cancelled == 0 {
            assert!(Instant::now() < deadline, "it does not leave");
            std::thread::yield_now();
        }
        family.order(0, "fail");
        assert_eq!(family.diary.wait_for(3), [down([1]), up([0, 1])].concat());
        family.order(0, "complete");
        family.order(1, "complete");
        supervisor.join_timeout(HANG).expect("completed");
        assert_eq!(*starts.lock(), 1, "{strategy:?}");
    }
}

#[test]
fn a_child_that_cancels_itself_before_it_is_ready_is_down_for_good() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForOne, 1);
    let leaver = Child::new("leaver", |ctx| {
        ctx.token().cancel();
        Err(ctx.wait().into())
    });
    let supervisor = manager
        .task("leavers")
        .supervise(supervisor.child(leaver.ready_within(HANG)))
        .expect("started");
    assert_eq!(family.diary.take(), up([0]));
    family.order(0, "complete");
    supervisor.join_timeout(HANG).expect("completed");
    assert_eq!(manager.counts().restarts, 0);
}

#[test]
fn a_shutdown_stops_children_in_reverse_order_and_restarts_nobody() {
    let manager = manager();
    let (family, supervisor) = Family::new(Strategy::OneForAll, 4);
    drop(
        manager
            .task("family")
            .supervise(supervisor)
            .expect("started"),
    );
    assert_eq!(family.diary.take(), up(0..4));
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(family.diary.take(), down((0..4).rev()));
    assert_eq!(report.counts().restarts, 0);
}

#[test]
fn a_permanent_child_that_completes_because_it_was_asked_to_stop_restarts_nobody() {
    let manager = manager();
    let diary = Diary::default();
    let mut supervisor = Supervisor::new(Strategy::OneForAll).restart(quickly());
    for number in 0..4 {
        let diary = diary.clone();
        let body = move |ctx: &TaskContext| -> TaskResult {
            diary.note(format!("{number} up"));
            ctx.ready();
            ctx.wait();
            diary.note(format!("{number} down"));
            Ok(())
        };
        let child = Child::new(number.to_string(), body).permanent();
        supervisor = supervisor.child(child.ready_within(HANG));
    }
    let family = manager.task("family").supervise(supervisor);
    drop(family.expect("started"));
    assert_eq!(diary.take(), up(0..4));
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    assert_eq!(diary.take(), down((0..4).rev()));
    assert_eq!(report.counts().restarts, 0);
}

#[test]
fn a_permanent_error_is_not_tried_again_by_any_supervisor_above() {
    let manager = manager();
    let starts = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&starts);
    let mut inner = Supervisor::new(Strategy::OneForOne)
        .restart(quickly())
        .child(Child::new("configured", move |_| {
            *counter.lock() += 1;
            Err(Permanent::new("no port is set").into())
        }));
    let outer = Supervisor::new(Strategy::OneForOne)
        .restart(quickly())
        .child(Child::new("inner", move |ctx| inner.run(ctx, "inner")));
    let outer = manager.task("outer").supervise(outer).expect("started");
    let Err(JoinError::Failed { error, .. }) = outer.join_timeout(HANG) else {
        panic!("no failure")
    };
    let chain = std::iter::successors(Some(&*error as &(dyn Error + 'static)), |&it| it.source());
    let words: Vec<String> = chain.map(ToString::to_string).collect();
    assert_eq!(
        words[..3],
        [
            "`outer/inner` failed",
            "`outer/inner/configured` failed",
            "no port is set"
        ]
    );
    assert_eq!(*starts.lock(), 1);
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn what_a_child_that_was_not_ready_in_time_ends_with_is_no_unread_failure() {
    // On a busy machine not even the first start is in time, which is that of the supervisor.
    let times = [50, 1_000, 20_000].map(Duration::from_millis);
    let has_started = times
        .into_iter()
        .any(is_restarted_when_it_is_not_ready_within);
    assert!(has_started, "it never starts");
}

/// `false` if it did not start at all.
fn is_restarted_when_it_is_not_ready_within(time: Duration) -> bool {
    let manager = manager();
    let starts = Arc::new(Mutex::new(0));
    let counter = Arc::clone(&starts);
    let (order, ordered) = unbounded::<()>();
    let (tell, told) = unbounded();
    let body = move |ctx: &TaskContext| -> TaskResult {
        let start = {
            let mut starts = counter.lock();
            *starts += 1;
            *starts
        };
        if start == 2 {
            ctx.wait();
            return Err("the disk was slow".into());
        }
        ctx.ready();
        tell.send(start)?;
        ctx.recv(&ordered)?;
        Err("was told to".into())
    };
    let child = Child::new("slow", body).ready_within(time).grace(HANG);
    let restart = Restart::on_failure().backoff(Backoff::none()).unlimited();
    let supervisor = Supervisor::new(Strategy::OneForOne).restart(restart);
    let supervisor = manager.task("late").supervise(supervisor.child(child));
    let Ok(supervisor) = supervisor else {
        return false;
    };
    drop(supervisor);
    assert_eq!(told.recv_timeout(HANG), Ok(1));
    order.send(()).expect("it listens");
    assert_eq!(told.recv_timeout(HANG), Ok(3));
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
    true
}

#[test]
fn a_supervisor_that_runs_again_waits_for_no_body_that_its_child_still_has() {
    let manager = manager();
    let (release, released) = bounded::<()>(0);
    let (there, ready) = unbounded();
    let deaf = Child::new("deaf", move |_| {
        there.send(())?;
        let _ = released.recv();
        Ok(())
    });
    let (order, ordered) = unbounded();
    let diary = Diary::default();
    let mut inner = Supervisor::new(Strategy::OneForAll)
        .restart(quickly())
        .child(child(0, &diary, &ordered))
        .child(deaf.grace(Duration::from_millis(20)));
    let outer = Supervisor::new(Strategy::OneForOne)
        .restart(quickly())
        .child(Child::new("inner", move |ctx| inner.run(ctx, "inner")));
    let outer = manager.task("outer").supervise(outer).expect("started");
    ready.recv_timeout(HANG).expect("it runs");
    order.send("fail").expect("it listens");
    let Err(JoinError::Failed { error, .. }) = outer.join_timeout(HANG) else {
        panic!("no failure")
    };
    assert!(error.is::<GaveUp>(), "{error}");
    assert_eq!(manager.counts().panicked, 0, "it says so in an error");
    drop(release);
}
