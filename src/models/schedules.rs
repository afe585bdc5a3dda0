//! Whole shutdowns, trees and callbacks, for random schedules.
//!
//! Too large for every interleaving. The checker throws the dice for what tasks do as well, and for the clock: a wait that
//! has a limit may find that its time is over before anybody else has moved (base/modelled.rs).

use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::checker::rand::{Rng as _, thread_rng};
use crate::base::sync::checker::thread;

use crate::base::latch::Latch;
use crate::base::sync::{AtomicUsize, Mutex, Ordering, mailbox, start_thread};
use crate::base::time::{self, Deadline, Duration, clock};
use crate::cancel::cause::{Cause, CauseKind};
use crate::cancel::token::CancellationToken;
use crate::policy::failure::OnFailure;
use crate::shutdown::courier::Courier;
use crate::shutdown::drain::{Verdict, stand_guard};
use crate::status::outcome::{Failure, Outcome};
use crate::task::group::Group;
use crate::task::panic::PanicHook;
use crate::task::record::{Birth, OnDrain, Record};
use crate::task::registry::{Phases, Refusal, Registry, Settings, Thread};

/// The time of a shutdown.
const GRACE: Duration = Duration::from_secs(10);

/// What a task does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Habit {
    Ends,
    Obeys,
    Fails(OnFailure),
    Drains,
    /// Waits for the end of the shutdown, which waits for it in vain.
    Hangs,
}

impl Habit {
    /// It cancels others itself, and may be overtaken by the shutdown as it does.
    fn cancels(self) -> bool {
        self == Self::Fails(OnFailure::StopGroup)
    }
}

const HABITS: [Habit; 7] = [
    Habit::Ends,
    Habit::Obeys,
    Habit::Fails(OnFailure::Record),
    Habit::Fails(OnFailure::StopGroup),
    Habit::Fails(OnFailure::ShutDown),
    Habit::Drains,
    Habit::Hangs,
];

/// A manager without its public face: its tasks are threads of the checker.
struct House {
    registry: Arc<Registry>,
    courier: Arc<Courier>,
    verdict: Arc<Verdict>,
    warden: thread::JoinHandle<()>,
    /// Opened when the shutdown is over.
    morning: Arc<Latch>,
    /// How often the callback of each task has run, beside its token.
    runs: Mutex<Vec<(CancellationToken, Arc<AtomicUsize>)>>,
}

impl House {
    fn open() -> Self {
        clock::set(None);
        clock::set(Some(time::now()));
        let (sender, errands) = mailbox();
        let phases = Phases {
            lame_duck: one_of(&[Duration::ZERO, GRACE / 5]),
            drain: one_of(&[Duration::ZERO, GRACE / 5]),
        };
        let settings = Settings {
            grace: GRACE,
            max_tasks: 64,
            history: one_of(&[0, 1, 64]),
            panic_hook: PanicHook::Leave,
            phases,
        };
        let registry = Arc::new(Registry::new(settings, sender));
        let courier = Courier::start(&registry, errands).unwrap();
        let verdict = Verdict::new();
        let (its, hers, theirs) = (&registry, &courier, &verdict);
        let (its, hers, theirs) = (Arc::clone(its), Arc::clone(hers), Arc::clone(theirs));
        Self {
            registry,
            courier,
            verdict,
            warden: thread::spawn(move || stand_guard(&its, &hers, &theirs, None)),
            morning: Arc::new(Latch::new()),
            runs: Mutex::new(Vec::new()),
        }
    }

    /// Starts a task, as a spawner does (spawner.rs), whose thread lives as that of a real one (thread.rs).
    fn start(&self, group: &Group, habit: Habit) -> Result<Arc<Record>, Refusal> {
        let record = self.registry.register(birth(group, habit))?;
        let runs = Arc::new(AtomicUsize::new(0));
        let theirs = Arc::clone(&runs);
        let counts = move || {
            theirs.fetch_add(1, Ordering::SeqCst);
        };
        record.token.on_cancel(counts).keep();
        self.runs.lock().push((record.token.clone(), runs));
        let (its, group, morning) = (
            Arc::clone(&record),
            group.clone(),
            Arc::clone(&self.morning),
        );
        let body = move || live(&its, &group, habit, &morning);
        let thread = start_thread("task".to_owned(), None, body).unwrap();
        self.registry.attach(&record, thread);
        Ok(record)
    }

    /// Waits for the report, lets go those who hang, and looks whether everybody is accounted for.
    fn close(self, records: &[(Arc<Record>, Habit)]) {
        let report = self.verdict.wait();
        let counts = report.counts();
        assert_eq!(counts.spawned as usize, records.len(), "{report}");
        for (record, habit) in records {
            assert!(record.token.is_cancelled() || record.has_ended());
            let outcome = record.outcome();
            assert!(outcome.is_some(), "no outcome: {report}");
            if *habit == Habit::Hangs {
                assert!(matches!(outcome, Some(Outcome::Abandoned)), "{report}");
                assert!(report.stragglers().any(|row| row.id() == record.id));
            }
        }
        let ended = counts.completed + counts.failed + counts.cancelled + counts.panicked;
        assert_eq!(ended + counts.live, counts.spawned, "the books: {report}");
        if report.late_callbacks().is_empty() && !records.iter().any(|(_, habit)| habit.cancels()) {
            let has_run = |(token, runs): &(CancellationToken, Arc<AtomicUsize>)| {
                runs.load(Ordering::SeqCst) == usize::from(token.is_cancelled())
            };
            assert!(self.runs.lock().iter().all(has_run), "{report}");
        }
        self.morning.open();
        self.warden.join().unwrap();
        self.courier.join(Deadline::NEVER);
        assert!(self.registry.is_empty(), "left: {:?}", self.registry.live());
        let counts = self.registry.counts();
        let ended = counts.completed + counts.failed + counts.cancelled + counts.panicked;
        assert_eq!((ended, counts.live), (counts.spawned, 0), "{report}");
        for (record, _) in records {
            assert!(
                !matches!(record.outcome(), Some(Outcome::Abandoned) | None),
                "the real end is the last word"
            );
        }
        for (token, runs) in self.runs.lock().iter().filter(|(it, _)| it.is_cancelled()) {
            while runs.load(Ordering::SeqCst) == 0 {
                thread::yield_now();
            }
            assert_eq!(runs.load(Ordering::SeqCst), 1, "{:?}", token.cause());
        }
        assert_eq!(
            self.registry
                .register(birth(&Group::root(&self.registry), Habit::Ends))
                .err(),
            Some(Refusal::Stopping)
        );
    }
}

fn one_of<T: Copy>(choices: &[T]) -> T {
    choices[thread_rng().gen_range(0..choices.len())]
}

fn birth(group: &Group, habit: Habit) -> Birth {
    Birth {
        path: Arc::from("task"),
        group: group.id(),
        token: group.token().child_token(),
        grace: one_of(&[None, Some(GRACE / 10), Some(GRACE * 2)]),
        on_drain: if habit == Habit::Drains {
            OnDrain::Ends
        } else {
            OnDrain::GoesOn
        },
        on_failure: match habit {
            Habit::Fails(policy) => policy,
            _ => OnFailure::Record,
        },
        counts_for_readiness: false,
        spawned_at: Location::caller(),
    }
}

fn live(record: &Arc<Record>, group: &Group, habit: Habit, morning: &Latch) {
    record.begin();
    let outcome = match habit {
        Habit::Ends => Outcome::Completed,
        Habit::Fails(_) => {
            group.answer_failure(record);
            Outcome::Failed(Failure::of(&std::fmt::Error))
        }
        Habit::Hangs => {
            morning.wait_until(Deadline::NEVER);
            Outcome::Completed
        }
        Habit::Obeys => Outcome::Cancelled(record.token.wait().cause()),
        Habit::Drains => {
            let draining = group.registry().request.draining().latch();
            while !draining.is_open() && !record.token.is_cancelled() {
                draining.wait_until(Deadline::after(GRACE / 100));
            }
            Outcome::Completed
        }
    };
    let registry = group.registry();
    registry.end(record, outcome, time::now(), Thread::ToBeJoined);
    record.settle();
    registry.depart(record);
}

/// Two spawn into groups of two levels while one asks for the shutdown, one hurries it and one cancels a group.
pub fn a_shutdown_accounts_for_everybody() {
    let house = Arc::new(House::open());
    let root = Group::root(&house.registry);
    let upper = root.group("upper");
    let lower = upper.group("lower").grace(GRACE / 4);
    let spawn = |groups: [Group; 2]| {
        let house = Arc::clone(&house);
        thread::spawn(move || {
            let habits = groups.map(|group| (group, one_of(&HABITS)));
            let started = habits.map(|(group, habit)| (house.start(&group, habit), habit));
            let accepted = |(record, habit): (Result<_, _>, _)| Some((record.ok()?, habit));
            started.into_iter().filter_map(accepted).collect::<Vec<_>>()
        })
    };
    let spawners = [
        spawn([root.clone(), lower.clone()]),
        spawn([lower.clone(), upper.clone()]),
    ];
    let theirs = Arc::clone(&house.registry);
    let asking = thread::spawn(move || {
        let cause = Cause::from_outside(CauseKind::Shutdown);
        let hurried = thread_rng().gen_bool(0.3);
        theirs.request.raise(cause.clone(), None);
        if hurried {
            theirs.request.hurry(cause);
        }
    });
    let cancelling = thread::spawn(move || upper.cancel());
    let idle = house.registry.idle_in(lower.id());
    drop((root, lower));
    let records: Vec<_> = spawners
        .into_iter()
        .flat_map(|spawner| spawner.join().unwrap())
        .collect();
    asking.join().unwrap();
    cancelling.join().unwrap();
    match Arc::try_unwrap(house) {
        Ok(house) => house.close(&records),
        Err(_) => unreachable!("those who held it have returned"),
    }
    idle.wait_until(Deadline::NEVER);
}

/// Tasks end by themselves while one waits for the last of them, one for each, and spawners join who has gone.
pub fn those_who_wait_for_ends_are_let_go() {
    let house = House::open();
    let root = Group::root(&house.registry);
    let group = root.group("group");
    let habits: [Habit; 3] = std::array::from_fn(|_| one_of(&HABITS[..4]));
    let records: Vec<_> = habits
        .iter()
        .filter_map(|habit| Some((house.start(&group, *habit).ok()?, *habit)))
        .collect();
    let waiters: Vec<_> = records
        .iter()
        .map(|(record, _)| {
            let record = Arc::clone(record);
            thread::spawn(move || {
                record.settled().latch().wait_until(Deadline::NEVER);
                assert!(record.outcome().is_some(), "let go without an outcome");
            })
        })
        .collect();
    let registry = Arc::clone(&house.registry);
    let (id, token) = (group.id(), group.token().clone());
    let last = thread::spawn(move || {
        registry.idle_in(id).wait_until(Deadline::NEVER);
        assert_eq!(registry.live_below(id), 0);
        registry.idle().wait_until(Deadline::NEVER);
    });
    token.cancel();
    last.join().unwrap();
    waiters
        .into_iter()
        .for_each(|waiter| waiter.join().unwrap());
    house
        .registry
        .request
        .raise(Cause::from_outside(CauseKind::Shutdown), None);
    drop((root, group));
    house.close(&records);
}

/// A tree grows while it is cancelled from two places; whatever hangs below a cancelled token is cancelled.
pub fn a_tree_is_cancelled_while_it_grows_and_withers() {
    let root = CancellationToken::new();
    let (left, right) = (root.child_token(), root.child_token());
    let grow = |from: &CancellationToken| {
        let from = from.clone();
        thread::spawn(move || {
            let mut tokens = vec![from];
            for _ in 0..4 {
                let above = thread_rng().gen_range(0..tokens.len());
                let below = if thread_rng().gen_bool(0.2) {
                    CancellationToken::any([&tokens[above], &tokens[0]])
                } else {
                    tokens[above].child_token()
                };
                if thread_rng().gen_bool(0.3) {
                    tokens.remove(above);
                }
                tokens.push(below);
            }
            tokens
        })
    };
    let growing = [grow(&left), grow(&right), grow(&left)];
    let waiting = [left.clone(), right.clone()].map(|token| thread::spawn(move || token.wait()));
    let (one, other) = (root.clone(), left.clone());
    let cancelling = [
        thread::spawn(move || one.cancel()),
        thread::spawn(move || other.cancel()),
    ];
    drop((left, right));
    for canceller in cancelling {
        canceller.join().unwrap();
    }
    for waiter in waiting {
        assert!(waiter.join().unwrap().cause().at().is_some());
    }
    for grown in growing {
        for token in grown.join().unwrap() {
            assert!(token.is_cancelled(), "it hangs below a cancelled one");
            assert!(token.cause().is_some_and(|cause| cause.at().is_some()));
        }
    }
    assert!(root.is_cancelled());
}

/// Callbacks are registered, taken back and awaited during two cancels: each has run or was taken back, never both.
pub fn a_callback_has_run_or_was_taken_back() {
    let root = CancellationToken::new();
    let below = root.child_token();
    let guardian = |token: &CancellationToken| {
        let token = token.clone();
        thread::spawn(move || {
            let runs = Arc::new(AtomicUsize::new(0));
            let guards: Vec<_> = (0..3)
                .map(|_| {
                    let (runs, again) = (Arc::clone(&runs), token.clone());
                    token.on_cancel(move || {
                        runs.fetch_add(1, Ordering::SeqCst);
                        again.cancel();
                    })
                })
                .collect();
            let (mut taken_back, mut left) = (0, 0);
            for guard in guards {
                match thread_rng().gen_range(0..3) {
                    0 => taken_back += usize::from(guard.disarm()),
                    1 => taken_back += usize::from(guard.wait()),
                    _ => {
                        guard.keep();
                        left += 1;
                    }
                }
            }
            (runs, taken_back, left)
        })
    };
    let guardians = [guardian(&root), guardian(&below), guardian(&below)];
    let (one, other) = (root.clone(), below.clone());
    let cancellers = [
        thread::spawn(move || one.cancel()),
        thread::spawn(move || other.cancel()),
    ];
    let guarded = guardians.map(|guardian| guardian.join().unwrap());
    for canceller in cancellers {
        canceller.join().unwrap();
    }
    for (runs, taken_back, left) in guarded {
        let runs = runs.load(Ordering::SeqCst);
        assert_eq!(runs + taken_back, 3, "lost, or run twice; {left} were left");
    }
}

/// A failure stops its group or everything, once, however many fail at the same time.
pub fn failures_at_the_same_time_are_all_counted() {
    let house = House::open();
    let root = Group::root(&house.registry);
    let group = root.group("group");
    let policies = [
        OnFailure::StopGroup,
        OnFailure::StopGroup,
        OnFailure::ShutDown,
    ];
    let records: Vec<_> = policies
        .into_iter()
        .map(Habit::Fails)
        .chain([Habit::Obeys])
        .filter_map(|habit| Some((house.start(&group, habit).ok()?, habit)))
        .collect();
    let failing = records
        .iter()
        .filter(|(_, habit)| matches!(habit, Habit::Fails(_)))
        .count();
    drop((root, group));
    house
        .registry
        .request
        .raise(Cause::from_outside(CauseKind::Shutdown), None);
    let registry = Arc::clone(&house.registry);
    house.close(&records);
    assert_eq!(registry.counts().failed as usize, failing);
    let has_critical = records
        .iter()
        .any(|(_, habit)| *habit == Habit::Fails(OnFailure::ShutDown));
    assert_eq!(registry.ledger.has_critical_failure(), has_critical);
}
