//! The drain on a virtual clock, against a small and obvious model.
//!
//! A scenario is a list of events at moments five milliseconds apart. The registry and the drain play it on the clock of
//! the test's own thread; tasks are only records, which end when the scenario says so. The model plays it by scanning
//! everything at every moment. Both must agree on who was refused, asked when, ended, abandoned, on how long it took, and
//! on the books.

use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::{Just, Strategy, prop_oneof};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::base::sync::mailbox;
use crate::base::time::{self, Deadline, Duration, Instant, clock};
use crate::cancel::cause::{Cause, CauseKind};
use crate::shutdown::courier::Courier;
use crate::shutdown::drain::{Drain, Turn};
use crate::shutdown::report::ShutdownReport;
use crate::status::outcome::Outcome;
use crate::task::group::Group;
use crate::task::record::{Birth, OnDrain, Record};
use crate::task::registry::{Phases, Registry, Settings, Thread};

const STEP: u64 = 5;

/// Sequences in a run of the tests.
const SEQUENCES: u32 = 10_000;

/// After which nothing new happens.
const HORIZON: u64 = 600;

#[derive(Clone, Debug)]
struct Scenario {
    lame_duck: u64,
    drain: u64,
    requested: u64,
    budget: u64,
    shortened: Option<(u64, u64)>,
    hurried: Option<u64>,
    groups: Vec<NewGroup>,
    tasks: Vec<NewTask>,
}

#[derive(Clone, Debug)]
struct NewGroup {
    at: u64,
    /// Which of the groups before it, modulo their number, is above; the root is one of them.
    above: usize,
    grace: Option<u64>,
    /// When it is cancelled by somebody.
    cancelled: Option<u64>,
}

#[derive(Clone, Debug)]
struct NewTask {
    at: u64,
    group: usize,
    grace: Option<u64>,
    drains: bool,
    /// When it ends by itself.
    ends: Option<u64>,
    /// How long it takes to stop after it was asked; never, without it.
    stops_after: Option<u64>,
}

fn moment(most: u64) -> impl Strategy<Value = u64> + Clone {
    (0..=most / STEP).prop_map(|steps| steps * STEP)
}

fn scenario() -> impl Strategy<Value = Scenario> {
    let short = || prop_oneof![3 => Just(0), 1 => moment(120)];
    let grace = || option::weighted(0.3, moment(200));
    let group = (
        moment(HORIZON),
        0..8_usize,
        grace(),
        option::weighted(0.1, moment(HORIZON)),
    );
    let group = group.prop_map(|(at, above, grace, cancelled)| NewGroup {
        at,
        above,
        grace,
        cancelled,
    });
    let task = (
        moment(HORIZON),
        0..8_usize,
        grace(),
        proptest::bool::weighted(0.3),
        option::weighted(0.4, moment(HORIZON)),
        option::weighted(0.85, moment(150)),
    );
    let task = task.prop_map(|(at, group, grace, drains, ends, stops_after)| NewTask {
        at,
        group,
        grace,
        drains,
        ends,
        stops_after,
    });
    let request = (
        short(),
        short(),
        moment(HORIZON / 2),
        moment(HORIZON),
        option::weighted(0.2, (moment(HORIZON), moment(HORIZON))),
        option::weighted(0.2, moment(HORIZON)),
    );
    (request, vec(group, 0..6), vec(task, 0..14)).prop_map(|(request, mut groups, tasks)| {
        groups.sort_by_key(|group| group.at);
        let (lame_duck, drain, requested, budget, shortened, hurried) = request;
        Scenario {
            lame_duck,
            drain,
            requested,
            budget,
            shortened: shortened.map(|(at, budget)| (at.max(requested), budget)),
            hurried: hurried.map(|at| at.max(requested)),
            groups,
            tasks,
        }
    })
}

/// What both sides say in the end.
#[derive(Debug, PartialEq, Eq)]
struct Story {
    tasks: Vec<Fate>,
    /// When each group was asked by the drain, the root first.
    asked: Vec<Option<u64>>,
    took: u64,
    exit_code: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Unborn,
    Refused,
    Ended(u64),
    Abandoned,
}

#[test]
fn the_drain_does_what_an_obvious_model_does() {
    let config = Config {
        cases: SEQUENCES,
        failure_persistence: None,
        ..Config::default()
    };
    let random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let result = TestRunner::new_with_rng(config, random).run(&scenario(), |scenario| {
        let expected = Model::new(&scenario).play();
        let seen = Stage::new(&scenario).play();
        proptest::prop_assert_eq!(expected, seen);
        Ok(())
    });
    clock::set(None);
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

// ---- the model ----

struct Model<'a> {
    scenario: &'a Scenario,
    groups: Vec<ModelGroup>,
    fates: Vec<Option<Life>>,
    deadline: u64,
    hurried: Option<u64>,
    stage: ModelStage,
    /// The group asked last, and when its share is over, in nanoseconds.
    current: Option<(usize, u64)>,
    all_asked: bool,
}

struct ModelGroup {
    above: Option<usize>,
    born: bool,
    refusing: bool,
    born_refusing: bool,
    grace: Option<u64>,
    asked: Option<u64>,
    /// When its tasks were told to stop, by anybody.
    told: Option<u64>,
}

#[derive(Clone, Copy)]
enum Life {
    Live,
    Over(Fate),
}

#[derive(Clone, Copy, PartialEq)]
enum ModelStage {
    Idle,
    LameDuck(u64),
    Draining(u64),
    Stopping,
}

const MILLI: u64 = 1_000_000;

impl<'a> Model<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        let root = ModelGroup {
            above: None,
            born: true,
            refusing: false,
            born_refusing: false,
            grace: None,
            asked: None,
            told: None,
        };
        let others = scenario
            .groups
            .iter()
            .enumerate()
            .map(|(index, group)| ModelGroup {
                above: Some(group.above % (index + 1)),
                born: false,
                refusing: false,
                born_refusing: false,
                grace: group.grace,
                asked: None,
                told: None,
            });
        Self {
            scenario,
            groups: std::iter::once(root).chain(others).collect(),
            fates: scenario.tasks.iter().map(|_| None).collect(),
            deadline: u64::MAX,
            hurried: None,
            stage: ModelStage::Idle,
            current: None,
            all_asked: false,
        }
    }

    fn play(mut self) -> Story {
        let mut now = 0;
        loop {
            self.births_and_ends(now);
            self.requests(now);
            if self.stage != ModelStage::Idle && self.turn(now) {
                return self.story(now);
            }
            now += STEP;
        }
    }

    fn births_and_ends(&mut self, now: u64) {
        for index in 1..self.groups.len() {
            let new = &self.scenario.groups[index - 1];
            let above = self.groups[index].above.expect("not the root");
            if new.at == now {
                let (refusing, told) = (self.groups[above].refusing, self.is_told(above));
                let group = &mut self.groups[index];
                group.born = true;
                group.refusing = refusing;
                group.born_refusing = refusing;
                group.told = told.map(|_| now);
            }
            if new.cancelled == Some(now) && self.groups[index].born {
                for below in 0..self.groups.len() {
                    if self.groups[below].born && self.is_at_or_below(below, index) {
                        self.groups[below].refusing = true;
                        self.groups[below].told.get_or_insert(now);
                    }
                }
            }
        }
        for (index, task) in self.scenario.tasks.iter().enumerate() {
            let group = task.group % self.groups.len();
            if task.at == now && self.groups[group].born {
                let refused = self.groups[group].refusing;
                self.fates[index] = Some(if refused {
                    Life::Over(Fate::Refused)
                } else {
                    Life::Live
                });
            }
        }
        for (index, task) in self.scenario.tasks.iter().enumerate() {
            let group = task.group % self.groups.len();
            let by_itself = task.ends.is_some_and(|end| end <= now);
            let stopped = match (self.is_told(group), task.stops_after) {
                (Some(told), Some(after)) => now >= told.max(task.at) + after.max(STEP),
                _ => false,
            };
            let is_live = matches!(self.fates[index], Some(Life::Live));
            if is_live && task.at < now && (by_itself || stopped) {
                self.fates[index] = Some(Life::Over(Fate::Ended(now)));
            }
        }
    }

    fn is_told(&self, group: usize) -> Option<u64> {
        self.groups[group].told
    }

    fn is_at_or_below(&self, group: usize, other: usize) -> bool {
        let above = |group: &usize| self.groups[*group].above;
        std::iter::successors(Some(group), above).any(|it| it == other)
    }

    fn requests(&mut self, now: u64) {
        let scenario = self.scenario;
        if scenario.requested == now {
            self.deadline = now + scenario.budget;
            self.stage = ModelStage::LameDuck((now + scenario.lame_duck) * MILLI);
        }
        if let Some((at, budget)) = scenario.shortened {
            if at == now && now + budget < self.deadline {
                self.deadline = now + budget;
                let fair = now * MILLI + budget * MILLI / (self.groups_to_ask() + 1);
                if let Some((_, over)) = &mut self.current {
                    *over = fair.min(*over);
                }
            }
        }
        if scenario.hurried == Some(now) {
            self.hurried.get_or_insert(now);
        }
        if let Some(hurried) = self.hurried {
            self.deadline = self.deadline.min(hurried + 200);
        }
    }

    fn live(&self) -> impl Iterator<Item = (usize, &NewTask)> {
        let tasks = self.scenario.tasks.iter().enumerate();
        tasks.filter(|(index, _)| matches!(self.fates[*index], Some(Life::Live)))
    }

    fn live_in(&self, group: usize) -> usize {
        let count = self.groups.len();
        self.live()
            .filter(|(_, task)| task.group % count == group)
            .count()
    }

    /// `true` when the shutdown is over.
    fn turn(&mut self, now: u64) -> bool {
        let is_urgent = self.hurried.is_some() || now >= self.deadline;
        let whole = (self.deadline - self.scenario.requested) * MILLI;
        let is_late = now * MILLI >= self.deadline * MILLI - whole / 10;
        let is_short = is_urgent || is_late || self.live().next().is_none();
        if let ModelStage::LameDuck(until) = self.stage {
            if is_short || now * MILLI >= until {
                self.stage = ModelStage::Draining((now + self.scenario.drain) * MILLI);
            }
        }
        if let ModelStage::Draining(until) = self.stage {
            let drainers = self.live().filter(|(_, task)| task.drains).count();
            if is_short || now * MILLI >= until || drainers == 0 {
                self.stage = ModelStage::Stopping;
            }
        }
        if self.stage == ModelStage::Stopping {
            self.ask(now, is_urgent);
        }
        if self.all_asked && self.live().next().is_none() {
            return true;
        }
        if now >= self.deadline {
            for fate in self.fates.iter_mut().flatten() {
                if matches!(fate, Life::Live) {
                    *fate = Life::Over(Fate::Abandoned);
                }
            }
            return true;
        }
        false
    }

    fn ask(&mut self, now: u64, is_urgent: bool) {
        while !self.all_asked {
            if is_urgent {
                self.all_asked = true;
                for group in &mut self.groups {
                    if group.born {
                        group.refusing = true;
                        group.asked.get_or_insert(now);
                        group.told.get_or_insert(now);
                    }
                }
                return;
            }
            if let Some((current, share_over)) = self.current {
                if self.live_in(current) > 0 && now * MILLI < share_over {
                    return;
                }
            }
            match self.next_group() {
                None => self.all_asked = true,
                Some(group) => self.ask_group(group, now),
            }
        }
    }

    /// Those that are not asked yet and have live tasks of their own.
    fn groups_to_ask(&self) -> u64 {
        (0..self.groups.len())
            .filter(|it| self.groups[*it].born && self.groups[*it].asked.is_none())
            .filter(|it| self.live_in(*it) > 0)
            .count() as u64
    }

    /// Down from the root along the youngest that is not asked.
    fn next_group(&self) -> Option<usize> {
        let mut here = 0;
        loop {
            let below = (0..self.groups.len()).rev().find(|index| {
                let group = &self.groups[*index];
                group.above == Some(here)
                    && group.born
                    && group.asked.is_none()
                    && !group.born_refusing
            });
            match below {
                Some(below) => here = below,
                None => return self.groups[here].asked.is_none().then_some(here),
            }
        }
    }

    fn ask_group(&mut self, group: usize, now: u64) {
        self.groups[group].asked = Some(now);
        self.groups[group].refusing = true;
        for below in 0..self.groups.len() {
            if self.groups[below].born && self.is_at_or_below(below, group) {
                self.groups[below].told.get_or_insert(now);
            }
        }
        let to_ask = self.groups_to_ask();
        let left = (self.deadline - now) * MILLI;
        let fair = left / (to_ask + 1);
        let count = self.groups.len();
        let graces: Vec<Option<u64>> = self
            .live()
            .filter(|(_, task)| task.group % count == group)
            .map(|(_, task)| task.grace.map(|grace| grace * MILLI))
            .collect();
        let own = self.groups[group].grace.map(|grace| grace * MILLI);
        let longest = own.or_else(|| graces.iter().flatten().max().copied());
        let share = match longest {
            None => fair,
            Some(grace) => {
                let some_have_none = own.is_none() && graces.contains(&None);
                let grace = if some_have_none {
                    grace.max(fair)
                } else {
                    grace
                };
                if to_ask > 0 {
                    grace.min(left / 2)
                } else {
                    grace
                }
            }
        };
        let over = (now * MILLI + share).min(self.deadline * MILLI);
        self.current = Some((group, over));
    }

    fn story(self, now: u64) -> Story {
        let fate = |life: &Option<Life>| match life {
            None | Some(Life::Live) => Fate::Unborn,
            Some(Life::Over(fate)) => *fate,
        };
        let tasks: Vec<Fate> = self.fates.iter().map(fate).collect();
        Story {
            exit_code: if tasks.contains(&Fate::Abandoned) {
                2
            } else {
                0
            },
            tasks,
            asked: self.groups.iter().map(|group| group.asked).collect(),
            took: now - self.scenario.requested,
        }
    }
}

// ---- the real thing ----

/// The registry and the drain on the virtual clock.
struct Stage<'a> {
    scenario: &'a Scenario,
    start: Instant,
    registry: Arc<Registry>,
    courier: Arc<Courier>,
    groups: Vec<Option<Group>>,
    tasks: Vec<Option<Result<Arc<Record>, ()>>>,
    fates: Vec<Fate>,
    told: Vec<Option<u64>>,
    asked: Vec<Option<u64>>,
}

impl<'a> Stage<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        clock::set(None);
        let start = time::now();
        clock::set(Some(start));
        let milliseconds = Duration::from_millis;
        let settings = Settings {
            max_tasks: 1_000,
            history: 1_000,
            phases: Phases {
                lame_duck: milliseconds(scenario.lame_duck),
                drain: milliseconds(scenario.drain),
            },
            ..Settings::plain(milliseconds(scenario.budget))
        };
        let (sender, errands) = mailbox();
        let registry = Arc::new(Registry::new(settings, sender));
        let courier = Courier::start(&registry, errands).expect("a thread");
        let root = Some(Group::root(&registry));
        let groups = std::iter::once(root).chain(scenario.groups.iter().map(|_| None));
        Self {
            scenario,
            start,
            registry: Arc::clone(&registry),
            courier,
            groups: groups.collect(),
            tasks: scenario.tasks.iter().map(|_| None).collect(),
            fates: vec![Fate::Unborn; scenario.tasks.len()],
            told: vec![None; scenario.tasks.len()],
            asked: vec![None; scenario.groups.len() + 1],
        }
    }

    fn play(mut self) -> Story {
        let (registry, courier) = (Arc::clone(&self.registry), Arc::clone(&self.courier));
        let mut drain: Option<Drain<'_>> = None;
        let mut now = 0;
        let report = loop {
            clock::set(Some(self.start + Duration::from_millis(now)));
            self.births_and_ends(now);
            self.requests(now);
            if let (None, Some(demand)) = (&drain, registry.request.demand()) {
                drain = Some(Drain::begin(&registry, &courier, demand));
            }
            let over = drain.as_mut().is_some_and(|drain| {
                loop {
                    let turn = drain.turn();
                    self.note_asked(now);
                    match turn {
                        Turn::Over => break true,
                        Turn::Again => {}
                        Turn::Sleep(until) => {
                            assert!(!until.has_passed(), "it would not sleep");
                            break false;
                        }
                    }
                }
            });
            self.note_told(now);
            if over {
                break drain.map(Drain::conclude).expect("it is over");
            }
            now += STEP;
        };
        self.story(now, &report)
    }

    fn births_and_ends(&mut self, now: u64) {
        let scenario = self.scenario;
        for (index, new) in scenario.groups.iter().enumerate() {
            if new.at == now {
                // A group above that is born later in the scenario does not exist yet: neither does this one's model.
                let above = self.groups[new.above % (index + 1)].as_ref();
                let group = above.expect("sorted by birth").group(index.to_string());
                self.groups[index + 1] = Some(match new.grace {
                    Some(grace) => group.grace(Duration::from_millis(grace)),
                    None => group,
                });
            }
            if let (true, Some(group)) = (new.cancelled == Some(now), &self.groups[index + 1]) {
                group.cancel();
            }
        }
        for (index, task) in scenario.tasks.iter().enumerate() {
            if task.at == now {
                self.tasks[index] = self.give_birth(task);
                if let Some(Err(())) = self.tasks[index] {
                    self.fates[index] = Fate::Refused;
                }
            }
        }
        self.note_told(now);
        for (index, task) in scenario.tasks.iter().enumerate() {
            let Some(Ok(record)) = &self.tasks[index] else {
                continue;
            };
            let by_itself = task.ends.is_some_and(|end| end <= now);
            let stopped = match (self.told[index], task.stops_after) {
                (Some(told), Some(after)) => now >= told + after.max(STEP),
                _ => false,
            };
            if self.fates[index] == Fate::Unborn && task.at < now && (by_itself || stopped) {
                self.fates[index] = Fate::Ended(now);
                self.registry
                    .end(record, Outcome::Completed, time::now(), Thread::NotOurs);
                record.settle();
            }
        }
    }

    fn give_birth(&self, task: &NewTask) -> Option<Result<Arc<Record>, ()>> {
        let group = self.groups[task.group % self.groups.len()].as_ref()?;
        let birth = Birth {
            grace: task.grace.map(Duration::from_millis),
            on_drain: if task.drains {
                OnDrain::Ends
            } else {
                OnDrain::GoesOn
            },
            ..Birth::plain(group.id(), group.token().child_token())
        };
        Some(self.registry.register(birth).map_err(drop))
    }

    fn requests(&mut self, now: u64) {
        let request = &self.registry.request;
        let scenario = self.scenario;
        let cause = || Cause::from_outside(CauseKind::Shutdown);
        if scenario.requested == now {
            request.raise(cause(), None);
        }
        if let Some((at, budget)) = scenario.shortened {
            if at == now {
                request.raise(
                    cause(),
                    Some(Deadline::after(Duration::from_millis(budget))),
                );
            }
        }
        if scenario.hurried == Some(now) {
            request.hurry(cause());
        }
    }

    /// A task hears its stop by its token alone.
    fn note_told(&mut self, now: u64) {
        for (told, task) in self.told.iter_mut().zip(&self.tasks) {
            if let Some(Ok(record)) = task {
                if record.token.is_cancelled() {
                    told.get_or_insert(now);
                }
            }
        }
    }

    fn note_asked(&mut self, now: u64) {
        for (asked, group) in self.asked.iter_mut().zip(&self.groups) {
            if let Some(group) = group {
                if self.registry.was_asked(group.id()) {
                    asked.get_or_insert(now);
                }
            }
        }
    }

    fn story(mut self, now: u64, report: &ShutdownReport) -> Story {
        for (fate, task) in self.fates.iter_mut().zip(&self.tasks) {
            let Some(Ok(record)) = task else { continue };
            if matches!(record.outcome(), Some(Outcome::Abandoned)) {
                *fate = Fate::Abandoned;
            }
        }
        let counts = report.counts();
        let ended = self
            .fates
            .iter()
            .filter(|fate| matches!(fate, Fate::Ended(_)))
            .count() as u64;
        let abandoned = self
            .fates
            .iter()
            .filter(|fate| **fate == Fate::Abandoned)
            .count() as u64;
        assert_eq!(
            (counts.spawned, counts.completed, counts.live),
            (ended + abandoned, ended, abandoned),
            "the books: {report}"
        );
        assert_eq!(report.stragglers().count() as u64, abandoned, "{report}");
        let took = Duration::from_millis(now - self.scenario.requested);
        assert_eq!(report.took(), took);
        for (task, fate) in self.tasks.iter().zip(&self.fates) {
            // The others would keep the courier.
            if let (Some(Ok(record)), Fate::Abandoned) = (task, fate) {
                self.registry
                    .end(record, Outcome::Completed, time::now(), Thread::NotOurs);
            }
        }
        self.registry.request.close();
        self.courier.close();
        clock::set(None);
        self.courier.join(Deadline::after(Duration::from_secs(20)));
        Story {
            tasks: self.fates,
            asked: self.asked,
            took: now - self.scenario.requested,
            exit_code: report.exit_code(),
        }
    }
}
