//! A thousand periodic tasks for ten hours of a virtual clock.
//!
//! The whole loop of a task runs here: it waits for a tick, runs the body, counts, and asks the policy of failures. Time
//! passes only in a wait and when a body says that it took some; so every tick is due at a moment that can be told.

use std::sync::Arc;

use crate::base::sync::{bounded, mailbox};
use crate::base::time::{self, Duration, Instant, clock};
use crate::base::unwind;
use crate::policy::random::{Random, part};
use crate::policy::schedule::{Missed, Schedule};
use crate::task::context::TaskContext;
use crate::task::group::Group;
use crate::task::record::{Birth, Record};
use crate::task::registry::{Registry, Settings};

const NANO: Duration = Duration::from_nanos(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const KINDS: [Missed; 3] = [Missed::Skip, Missed::Delay, Missed::Burst];

/// A manager without threads.
fn registry() -> Arc<Registry> {
    let settings = Settings {
        max_tasks: 10_000,
        history: 0,
        ..Settings::plain(HOUR)
    };
    Arc::new(Registry::new(settings, mailbox().0))
}

fn register(group: &Group) -> Arc<Record> {
    let birth = Birth::plain(group.id(), group.token().child_token());
    group.registry().register(birth).unwrap()
}

/// The moments of a task, one after the other, without arithmetic that jumps; and what differs from them.
struct Expected {
    interval: Duration,
    /// `None` for a pause.
    missed: Option<Missed>,
    due: Instant,
    /// When the tick before ended.
    free: Instant,
    ticks: u64,
    left_out: u64,
    /// A body that panics is run again: what it finds is told later.
    wrong: Option<String>,
}

impl Expected {
    /// A tick begins: neither early nor late, and not once more.
    fn begin(&mut self, now: Instant) {
        let expected = self.due.max(self.free);
        if now != expected {
            let ticks = self.ticks;
            let words = || format!("tick {ticks} began at {now:?}, not at {expected:?}");
            self.wrong.get_or_insert_with(words);
        }
        self.ticks += 1;
    }

    fn end(&mut self, began: Instant, now: Instant) {
        let is_late = self.free > self.due;
        self.free = now;
        let Some(missed) = self.missed else {
            self.due = now + self.interval;
            return;
        };
        self.due += self.interval;
        while missed != Missed::Burst && self.due <= began {
            self.left_out += 1;
            self.due += self.interval;
        }
        if missed == Missed::Delay && is_late {
            self.due = began + self.interval;
        }
    }
}

fn below(most: u64, random: &mut Random) -> u64 {
    random.draw() % most
}

/// Mostly short against the interval, at times several times as long, or just at an edge.
fn time_of_a_tick(interval: Duration, random: &mut Random) -> Duration {
    let periods = u32::try_from(below(4, random)).unwrap();
    match below(16, random) {
        0 => part(interval * 5, random.draw()),
        1 => interval * periods,
        2 => interval * periods + NANO,
        3 => (interval * periods).saturating_sub(NANO),
        _ => part(interval / 2, random.draw()),
    }
}

/// Runs one task until ten hours are over; how many ticks there were, and how many were missed.
fn ten_hours(number: u32, group: &Group, random: &mut Random) -> (u64, u64) {
    let start = time::now();
    clock::set_leaping(Some(start));
    let interval = SECOND * 4 * (1 << below(9, random)) + part(SECOND, random.draw());
    let delay = part(interval * 2, random.draw());
    let missed = KINDS.get(usize::try_from(number % 4).unwrap()).copied();
    let schedule = match missed {
        Some(missed) => Schedule::every(interval).missed(missed),
        None => Schedule::spaced(interval),
    };
    let mut expected = Expected {
        interval,
        missed,
        due: start + delay,
        free: start,
        ticks: 0,
        left_out: 0,
        wrong: None,
    };
    let mut dice = Random::seeded(random.draw());
    let (tell, told) = bounded(1);
    let task = group.task("ticks").schedule(schedule.initial_delay(delay));
    let body = task.into_body(move |ctx: &TaskContext| {
        let began = time::now();
        expected.begin(began);
        let ended = began + time_of_a_tick(interval, &mut dice);
        clock::set(Some(ended));
        expected.end(began, ended);
        if ended >= start + HOUR * 10 {
            ctx.token().cancel();
            let counts = (expected.ticks, expected.left_out);
            drop(tell.send((counts, expected.wrong.take())));
        }
        match below(8, &mut dice) {
            0 => Err("now and then".into()),
            1 => unwind::resume(Box::new("now and then")),
            _ => Ok(()),
        }
    });
    let context = TaskContext::new(&register(group), group);
    let ended = unwind::catch(|| body(&context).is_ok());
    clock::set_leaping(None);
    let (counts, wrong) = told.recv().expect("ten hours are over");
    assert_eq!(wrong, None, "{number}");
    assert_eq!(context.record().ticks(), counts, "{number}");
    assert!(!ended.unwrap_or(false), "it was stopped");
    counts
}

#[test]
fn a_thousand_periodic_tasks_tick_to_the_nanosecond_for_ten_hours() {
    let group = Group::root(&registry());
    let mut random = Random::seeded(10);
    let (mut ticks, mut missed) = (0, 0);
    for number in 0..1_000 {
        let (ran, left_out) = ten_hours(number, &group, &mut random);
        ticks += ran;
        missed += left_out;
    }
    assert!(ticks > 300_000 && missed > 20_000, "{ticks}, {missed}");
}
