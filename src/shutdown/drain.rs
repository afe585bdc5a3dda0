//! The drain: how all tasks end, or are named.
//!
//! # Words
//! The *warden* is the thread that carries out the drain; it never runs foreign code and never blocks on any. A group is
//! *asked* when its stop begins: it takes no more tasks and its token is cancelled. A task is *watched* from then on. A
//! *share* is the time a group has before the next one is asked. A *straggler* is a task that is left at the deadline.
//!
//! # State
//! All of it is in the registry's books and in [`Drain`], which belongs to the warden alone. The request can change
//! under way: its deadline can come nearer and a second signal can hurry it, so it is read anew at every turn.
//!
//! # Protocol
//! Each turn of the loop, and nothing else, looks at the books and the clock and does what is due:
//!
//! 1. While the share of the group asked last is not over and some of its tasks live, nobody else is asked. Else the
//!    next group is: those below before those above, the youngest first. Late ones go on being awaited.
//! 2. Hurried, or past the deadline, all groups are asked at once.
//! 3. When every group was asked and the books are empty (every task ended, every thread joined), the drain is over.
//! 4. Shortly before the deadline stragglers are diagnosed, at the deadline abandoned.
//! 5. Else the warden sleeps until the bell rings or something falls due. Whoever empties a group or the books rings.
//!
//! # Scenarios
//! *A task is spawned while its group is about to be asked*: registered before, it is among the group's tasks or below
//! its cancelled token; else refused (registry.rs, 2). *A task spawned into a group that is asked later*: the group's
//! tasks are taken when it is asked, not before. *A straggler ends between diagnosis and deadline*: it is not in the
//! books' `live` any more and gets an ordinary row. *It ends while it is abandoned*: `Record::abandon` and `Record::end`
//! are decided under the record's lock; if the end came first, it is not abandoned.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::log::{self, Level};
use crate::base::sync::Mutex;
use crate::base::time::{self, Deadline, Duration, Instant, human};
use crate::cancel::checkpoint::Wait;
use crate::shutdown::courier::Courier;
use crate::shutdown::diagnosis::{Diagnosis, Stage};
use crate::shutdown::kernel;
use crate::shutdown::report::{Facts, ShutdownReport, TaskReport};
use crate::status::request::Demand;
use crate::status::state::{TaskId, TaskState};
use crate::task::errand::{Errand, What};
use crate::task::record::{GroupId, Record};
use crate::task::registry::Registry;

/// What a hurried shutdown gives everybody to answer.
const HURRY: Duration = Duration::from_millis(200);

/// How long before the deadline stragglers are diagnosed: enough for [`DETAILED`] threads at 150 µs.
const DIAGNOSIS: Duration = Duration::from_millis(25);

/// How many stragglers are looked up in the kernel; the others get their last checkpoint, which is free.
const DETAILED: usize = 64;

/// When the CPU time of those who are left is read for the first time, after the first group was asked.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// How often the checkpoints of those who are left are sampled.
const SAMPLE: Duration = Duration::from_millis(250);

/// How often a line says who is awaited.
const NEWS: Duration = Duration::from_secs(5);

/// How many names such a line holds.
const NAMES: usize = 8;

/// How long the courier may take for one errand of a shutdown before it is replaced.
const COURIER: Duration = Duration::from_secs(1);

/// How long the log may take to be flushed when the deadline leaves no time for it.
const FLUSH: Duration = Duration::from_millis(20);

/// Where the report is found once it is there.
#[derive(Debug)]
pub(crate) struct Verdict {
    given: Latch,
    report: Mutex<Option<ShutdownReport>>,
}

impl Verdict {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            given: Latch::new(),
            report: Mutex::new(None),
        })
    }

    /// Waits for the report. It comes by the deadline of the shutdown, which must have been requested.
    pub(crate) fn wait(&self) -> ShutdownReport {
        loop {
            self.given.wait_until(Deadline::NEVER);
            if let Some(report) = &*self.report.lock() {
                return report.clone();
            }
        }
    }

    fn give(&self, report: ShutdownReport) {
        let before = self.report.lock().replace(report);
        drop(before);
        self.given.open();
    }
}

/// The life of the warden: waits for the request, answers it, gives the report.
pub(crate) fn stand_guard(registry: &Arc<Registry>, courier: &Courier, verdict: &Verdict) {
    let demand = loop {
        match registry.request.demand() {
            Some(demand) => break demand,
            None => registry.request.bell().wait_until(Deadline::NEVER),
        };
    };
    let report = Drain::begin(registry, courier, demand).run();
    verdict.give(report);
    courier.close();
}

/// One shutdown.
struct Drain<'a> {
    registry: &'a Arc<Registry>,
    courier: &'a Courier,
    demand: Demand,
    /// The deadline at which stragglers are abandoned, hurry included.
    deadline: Deadline,
    /// The group asked last and when its share is over.
    current: Option<(GroupId, Deadline)>,
    all_asked: bool,
    watched: BTreeMap<TaskId, Watched>,
    first_look: Deadline,
    next_sample: Deadline,
    next_news: Deadline,
    diagnoses: Option<BTreeMap<TaskId, Diagnosis>>,
    stuck_courier: Option<String>,
}

/// What the warden remembers of a task it asked.
struct Watched {
    record: Arc<Record>,
    asked: Instant,
    /// Checkpoints before it was asked.
    base: usize,
    /// Checkpoints when it was last sampled, and when that number last changed.
    passed: usize,
    moved: Option<Instant>,
    /// The CPU time at the first look, and when that was.
    cpu: Option<(Duration, Instant)>,
}

impl<'a> Drain<'a> {
    fn begin(registry: &'a Arc<Registry>, courier: &'a Courier, demand: Demand) -> Self {
        registry.keep_all_for_report();
        registry.send_to_departed();
        let drain = Self {
            registry,
            courier,
            deadline: demand.deadline,
            demand,
            current: None,
            all_asked: false,
            watched: BTreeMap::new(),
            first_look: Deadline::after(FIRST_LOOK),
            next_sample: Deadline::after(SAMPLE),
            next_news: Deadline::after(NEWS),
            diagnoses: None,
            stuck_courier: None,
        };
        drain.announce();
        drain
    }

    fn announce(&self) {
        let tasks = self.registry.counts().live;
        // Where nobody is left, there is nothing to wait for and nothing to tell.
        let level = if tasks == 0 {
            Level::Debug
        } else {
            Level::Info
        };
        let noun = if tasks == 1 { "task" } else { "tasks" };
        let limit = self.limit();
        self.say(
            level,
            format!("stopping {tasks} {noun}{limit}: {}", self.demand.cause),
        );
    }

    fn run(mut self) -> ShutdownReport {
        loop {
            self.hear_request();
            self.ask_who_is_due();
            if self.all_asked && self.registry.is_empty() {
                break;
            }
            if self.is_time_to_diagnose() {
                self.diagnose();
            }
            if self.deadline.has_passed() {
                break;
            }
            self.observe();
            self.registry.request.bell().wait_until(self.next_turn());
        }
        self.conclude()
    }

    /// The request as it stands now: the deadline may have come nearer.
    fn hear_request(&mut self) {
        if let Some(demand) = self.registry.request.demand() {
            let hurry = demand
                .hurried_at
                .and_then(|hurried| hurried.checked_add(HURRY))
                .map(Deadline::at);
            self.deadline = demand.deadline.earlier(hurry.unwrap_or(Deadline::NEVER));
            if demand.hurried_at.is_some() && self.demand.hurried_at.is_none() {
                self.first_look = self.first_look.earlier(Deadline::after(Duration::ZERO));
                let limit = human(HURRY);
                self.say(
                    Level::Info,
                    format!("asked to hurry: {limit} left for everybody"),
                );
            }
            self.demand = demand;
        }
    }

    fn is_urgent(&self) -> bool {
        self.demand.hurried_at.is_some() || self.deadline.has_passed()
    }

    /// Begins the stop of every group whose turn it is (1, 2).
    fn ask_who_is_due(&mut self) {
        while self.is_urgent() || self.current.is_none_or(|current| self.is_over(current)) {
            let now = time::now();
            let Some(order) = self.registry.begin_next_stop(now) else {
                self.all_asked = true;
                return;
            };
            // Before the cancel: what a task passes from now on, it passes after the stop.
            for record in order.tasks {
                self.watched.insert(record.id, Watched::new(record, now));
            }
            order.token.cancel_with(self.demand.cause.clone());
            let share = self.share(order.grace);
            self.current = Some((order.group, Deadline::after(share).earlier(self.deadline)));
        }
    }

    /// Whether the group asked last has stopped or used up its share.
    fn is_over(&self, (group, share): (GroupId, Deadline)) -> bool {
        self.registry.live_in(group) == 0 || share.has_passed()
    }

    /// The group's own grace, but at most half of what is left while others are to be asked; else a fair share.
    fn share(&self, grace: Option<Duration>) -> Duration {
        let Some(grace) = grace else {
            return self.fair_share();
        };
        match self.deadline.remaining() {
            Some(left) if self.registry.groups_to_ask() > 0 => grace.min(left / 2),
            _ => grace,
        }
    }

    /// The remaining time divided by the groups left, the one just asked included.
    fn fair_share(&self) -> Duration {
        let groups = u32::try_from(self.registry.groups_to_ask() + 1).unwrap_or(u32::MAX);
        self.deadline
            .remaining()
            .map_or(Duration::MAX, |left| left / groups)
    }

    /// When the next turn of the loop is due, if nobody rings.
    fn next_turn(&self) -> Deadline {
        let share = self
            .current
            .filter(|_| !self.all_asked)
            .map_or(Deadline::NEVER, |(_, share)| share);
        let diagnosis = if self.diagnoses.is_none() {
            self.deadline.minus(DIAGNOSIS)
        } else {
            self.deadline
        };
        [self.first_look, self.next_sample, self.next_news, diagnosis]
            .into_iter()
            .fold(share, Deadline::earlier)
    }

    // ---- watching ----

    fn observe(&mut self) {
        if self.first_look.has_passed() {
            self.first_look = Deadline::NEVER;
            self.look_at_cpu();
        }
        if self.next_sample.has_passed() {
            self.next_sample = Deadline::after(SAMPLE);
            self.sample();
            self.mind_courier();
        }
        if self.next_news.has_passed() {
            self.next_news = Deadline::after(NEWS);
            self.tell_who_is_awaited();
        }
    }

    fn look_at_cpu(&mut self) {
        for record in self.registry.live().iter().take(DETAILED) {
            let first = self
                .watched
                .get_mut(&record.id)
                .filter(|watched| watched.cpu.is_none());
            if let Some(watched) = first {
                watched.cpu = record
                    .tid()
                    .and_then(kernel::look)
                    .map(|sight| (sight.cpu, time::now()));
            }
        }
    }

    fn sample(&mut self) {
        let now = time::now();
        for record in self.registry.live() {
            if let Some(watched) = self.watched.get_mut(&record.id) {
                watched.sample(now);
            }
        }
    }

    /// A courier that is stuck is named and replaced, so that the joins behind it go on.
    fn mind_courier(&mut self) {
        if let Some((what, _)) = self.courier.stuck_for(COURIER) {
            self.stuck_courier = Some(what.to_string());
            self.courier.replace();
        }
    }

    fn tell_who_is_awaited(&self) {
        let awaited = self.registry.live();
        if !awaited.is_empty() {
            self.say(
                Level::Info,
                format!("waiting for {}{}", names(&awaited), self.limit()),
            );
        }
    }

    fn limit(&self) -> String {
        match self.deadline.remaining() {
            Some(left) => format!(", {} left", human(left)),
            None => ", without a limit".to_owned(),
        }
    }

    fn say(&self, level: Level, line: String) {
        self.registry.send(Errand::run(What::Log, move || {
            log::say(level, format_args!("{line}"));
        }));
    }

    // ---- the end ----

    fn is_time_to_diagnose(&self) -> bool {
        self.diagnoses.is_none() && self.deadline.minus(DIAGNOSIS).has_passed()
    }

    fn diagnose(&mut self) {
        self.sample();
        let (live, exiting) = (self.registry.live(), self.registry.exiting());
        let diagnoses = live
            .iter()
            .chain(&exiting)
            .enumerate()
            .map(|(index, record)| (record.id, self.diagnose_one(record, index < DETAILED)))
            .collect();
        self.diagnoses = Some(diagnoses);
        if self.stuck_courier.is_none() {
            self.stuck_courier = self
                .courier
                .stuck_for(HURRY / 2)
                .map(|(what, _)| what.to_string());
        }
    }

    fn diagnose_one(&self, record: &Record, detailed: bool) -> Diagnosis {
        let sight = record.tid().filter(|_| detailed).and_then(kernel::look);
        let now = time::now();
        let watched = self.watched.get(&record.id);
        let used = sight
            .as_ref()
            .zip(watched.and_then(|watched| watched.cpu))
            .map(|(sight, (before, at))| {
                (
                    sight.cpu.saturating_sub(before),
                    now.saturating_duration_since(at),
                )
            });
        Diagnosis {
            task: Arc::clone(&record.path),
            asked: watched.map_or(Duration::ZERO, |watched| {
                now.saturating_duration_since(watched.asked)
            }),
            last_checkpoint: record.pulse.place(),
            last_seen: watched
                .and_then(|watched| watched.moved)
                .map(|moved| now.saturating_duration_since(moved)),
            checkpoints_since: watched
                .map_or(0, |watched| watched.passed.wrapping_sub(watched.base)),
            waiting_for: self.wait_of(record),
            cpu: used,
            running: sight.as_ref().is_some_and(|sight| sight.running),
            blocked_in: sight.and_then(|sight| sight.call),
            spawned_at: record.spawned_at,
            stage: match record.status().state {
                TaskState::Starting => Stage::NotBegun,
                TaskState::Exiting | TaskState::Ended => Stage::Exiting,
                _ => Stage::Body,
            },
        }
    }

    fn wait_of(&self, record: &Record) -> Option<String> {
        Some(match record.pulse.waiting()? {
            Wait::Cancel => "a cancel".to_owned(),
            Wait::Sleep => "time to pass".to_owned(),
            Wait::Receive => "a message".to_owned(),
            Wait::Send => "room in a channel".to_owned(),
            Wait::Join => match record
                .pulse
                .joining()
                .and_then(|number| self.registry.find(TaskId(number)))
            {
                Some(other) => format!("the end of `{}`", other.path),
                None => "the end of another task".to_owned(),
            },
        })
    }

    /// Abandons who is left and writes the report (4).
    fn conclude(mut self) -> ShutdownReport {
        let mut known = self.diagnoses.take().unwrap_or_default();
        let mut stragglers = BTreeMap::new();
        for record in self.registry.live() {
            if record.abandon() {
                let diagnosis = known
                    .remove(&record.id)
                    .unwrap_or_else(|| self.diagnose_one(&record, false));
                stragglers.insert(record.id, diagnosis);
            }
        }
        for record in self.registry.exiting() {
            let diagnosis = known
                .remove(&record.id)
                .unwrap_or_else(|| self.diagnose_one(&record, false));
            stragglers.insert(record.id, diagnosis);
        }
        self.flush(stragglers.len());
        let tasks = self
            .registry
            .everything()
            .into_iter()
            .map(|record| self.row(record, &mut stragglers))
            .collect();
        let took = time::now().saturating_duration_since(self.demand.since);
        ShutdownReport::new(Facts {
            cause: self.demand.cause.clone(),
            took,
            budget: self
                .deadline
                .instant()
                .map(|moment| moment.saturating_duration_since(self.demand.since)),
            hurried: self.demand.hurried_at.is_some(),
            tasks,
            counts: self.registry.counts(),
            stuck_courier: self.stuck_courier.take(),
            ledger: Arc::clone(&self.registry.ledger),
        })
    }

    fn row(&self, record: Arc<Record>, stragglers: &mut BTreeMap<TaskId, Diagnosis>) -> TaskReport {
        let diagnosis = stragglers.remove(&record.id);
        let asked = self.watched.get(&record.id).map(|watched| watched.asked);
        let stopped_after = record
            .ended_at()
            .zip(asked)
            .and_then(|(ended, asked)| ended.checked_duration_since(asked));
        let outcome = record
            .outcome()
            .unwrap_or(crate::status::outcome::Outcome::Abandoned);
        TaskReport {
            record,
            outcome,
            stopped_after,
            diagnosis,
        }
    }

    /// The last lines of log, and its flush.
    fn flush(&self, stragglers: usize) {
        if stragglers > 0 {
            let awaited = self.registry.live();
            let noun = if stragglers == 1 { "task" } else { "tasks" };
            self.say(
                Level::Error,
                format!(
                    "{stragglers} {noun} did not stop in time: {}",
                    names(&awaited)
                ),
            );
        }
        let patience = self
            .deadline
            .remaining()
            .map_or(COURIER, |left| left.clamp(FLUSH, COURIER));
        self.courier
            .finish(What::Flush, log::flush, Deadline::after(patience));
    }
}

impl Watched {
    fn new(record: Arc<Record>, asked: Instant) -> Self {
        let base = record.pulse.passed();
        Self {
            record,
            asked,
            base,
            passed: base,
            moved: None,
            cpu: None,
        }
    }

    fn sample(&mut self, now: Instant) {
        let passed = self.record.pulse.passed();
        if passed != self.passed {
            self.passed = passed;
            self.moved = Some(now);
        }
    }
}

/// `a`, `b` and 3 more
fn names(records: &[Arc<Record>]) -> String {
    let first: Vec<String> = records
        .iter()
        .take(NAMES)
        .map(|record| format!("`{}`", record.path))
        .collect();
    match records.len().saturating_sub(NAMES) {
        0 => first.join(", "),
        more => format!("{} and {more} more", first.join(", ")),
    }
}
