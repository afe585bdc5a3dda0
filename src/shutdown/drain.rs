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
//! 0. First everything goes on for the lame-duck time, so that those who send us work learn that we go. Then tasks see
//!    that they should take in nothing new, and those that end by themselves have the drain time to do so. Both are
//!    over early when there is nobody left to wait for, and left out when time is short.
//!
//! Then each turn of the loop, and nothing else, looks at the books and the clock and does what is due:
//!
//! 1. While the share of the group asked last is not over and some of its tasks live, nobody else is asked. Else the
//!    next group is: those below before those above, the youngest first. Late ones go on being awaited.
//! 2. Hurried, or past the deadline, all groups are asked in one step, whatever is still being made.
//! 3. When every group was asked, the books are empty (every task ended, every thread joined) and the callbacks that the
//!    stop set going are over, the drain is over. A task in foreign code that has lasted for longer than it may is not
//!    waited for.
//! 4. Shortly before the deadline the wards of those who were asked are ended (record.rs: what must not outlive its task,
//!    so that it can still end in time); then stragglers are diagnosed, at the deadline abandoned.
//! 5. Else, if nobody was asked in this turn, the warden sleeps until the bell rings or something falls due. Whoever
//!    empties a group or the books rings.
//!
//! What may block is the courier's business, and callbacks that of the crew (callback.rs). Should it hang, in a logger say, the warden joins those threads itself of
//! which the kernel says that they are gone, and says no more to the logger.
//!
//! # Scenarios
//! *A task is spawned while its group is about to be asked*: registered before, it is among the group's tasks or below
//! its cancelled token; else refused (registry.rs, 2). *A task spawned into a group that is asked later*: the group's
//! tasks are taken when it is asked, not before. *A group is being cancelled by somebody else when it is asked*: his walk
//! through the tree may take any time, even that of the whole shutdown if he is the one who does not stop. So each task
//! that was asked is looked at, and cancelled if it was not yet. *A straggler ends between diagnosis and deadline*: it is
//! not in the books any more as live and gets an ordinary row. *It ends while it is abandoned*: `Record::abandon` and
//! `Record::end` are decided under the record's lock; if the end came first, it is not abandoned.

use std::collections::BTreeMap;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::log::{self, Level};
use crate::base::sync::Mutex;
use crate::base::time::{self, Deadline, Duration, Instant, human};
use crate::cancel::checkpoint::Wait;
use crate::shutdown::courier::Courier;
use crate::shutdown::diagnosis::{self, Diagnosis, END_OF, InSection};
use crate::shutdown::kernel;
use crate::shutdown::report::{Facts, ShutdownReport, TaskReport};
use crate::status::outcome::Outcome;
use crate::status::request::Demand;
use crate::status::state::{TaskId, TaskState};
use crate::task::errand::{Errand, What};
use crate::task::record::{GroupId, Record, Section, Standing};
use crate::task::registry::{Registry, StopOrder};

/// What a hurried shutdown gives everybody to answer.
const HURRY: Duration = Duration::from_millis(200);

/// How long before the deadline stragglers are diagnosed: enough for [`DETAILED`] threads at 150 µs.
const DIAGNOSIS: Duration = Duration::from_millis(25);

/// How long before the deadline the last call for wards is: a tenth of the time, but at least and at most so long. Enough
/// for a child process to be killed and reaped, and half of what a hurry leaves.
const LAST_CALL: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// How many stragglers are looked up in the kernel; the others get their last checkpoint, which is free.
const DETAILED: usize = 64;

/// How long after it was asked the CPU time of one who is left is read for the first time.
const FIRST_LOOK: Duration = Duration::from_millis(200);

/// How often those who are left are sampled: their checkpoints, and their CPU time the first time.
const SAMPLE: Duration = Duration::from_millis(200);

/// The share of a group that has no grace when the shutdown has no deadline.
const SHARE_WITHOUT_LIMIT: Duration = Duration::from_secs(3);

/// How often a line says who is awaited.
const NEWS: Duration = Duration::from_secs(5);

/// How many names such a line holds.
const NAMES: usize = 8;

/// How long the courier may take for one errand of a shutdown before it is replaced.
const COURIER: Duration = Duration::from_secs(1);

/// How long the courier may take before nobody waits for it any more.
const PATIENCE: Duration = Duration::from_millis(20);

/// How often the warden looks for threads that are gone while the courier hangs.
const INSTEAD_OF_COURIER: Duration = Duration::from_millis(5);

/// How long the body of `run` may take to return when all tasks have stopped, before a line says that it does not.
const BODY: Duration = Duration::from_secs(1);

/// The part of a shutdown's time that is kept for the stop, whatever comes before it.
const KEPT_FOR_STOP: u32 = 10;

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
pub(crate) fn stand_guard(
    registry: &Arc<Registry>,
    courier: &Courier,
    verdict: &Verdict,
    body: Option<&Body>,
) {
    let demand = loop {
        // Not before the latch is open: whoever departs looks at that one, and leaves it to the drain that has not begun
        // to send the courier.
        let is_raised = registry.request.latch().is_open();
        match registry.request.demand().filter(|_| is_raised) {
            Some(demand) => break demand,
            None => registry.request.bell().wait_until(Deadline::NEVER),
        };
    };
    let report = Drain::begin(registry, courier, demand).run();
    registry.request.close();
    verdict.give(report);
    if let Some(body) = body.filter(|body| !body.over.wait_until(Deadline::after(BODY))) {
        let at = body.place;
        let line = format!(
            "all tasks were stopped, but the body of `run` at {}:{} has not returned",
            at.file(),
            at.line()
        );
        registry.send(Errand::run(What::Log, move || {
            log::say(Level::Warn, format_args!("{line}"));
        }));
    }
    courier.close();
}

/// The body of `run`, which a shutdown can ask to stop but not stop.
#[derive(Debug)]
pub(crate) struct Body {
    pub(crate) place: &'static Location<'static>,
    /// Open when it has returned.
    pub(crate) over: Latch,
}

/// What follows a turn.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Turn {
    /// All have stopped, or the time is over.
    Over,
    /// There may be more that is due.
    Again,
    /// Nothing is due before this moment, unless somebody rings.
    Sleep(Deadline),
}

/// One shutdown.
pub(crate) struct Drain<'a> {
    registry: &'a Arc<Registry>,
    courier: &'a Courier,
    demand: Demand,
    /// The deadline at which stragglers are abandoned, hurry included.
    deadline: Deadline,
    stage: Stage,
    /// The group asked last and when its share is over.
    current: Option<(GroupId, Deadline)>,
    all_asked: bool,
    watched: BTreeMap<TaskId, Watched>,
    next_sample: Deadline,
    next_news: Deadline,
    diagnoses: Option<BTreeMap<TaskId, Diagnosis>>,
    /// Those who were let go in foreign code.
    left: BTreeMap<TaskId, Diagnosis>,
}

/// How far the shutdown is.
#[derive(Clone, Copy, Debug)]
enum Stage {
    LameDuck { until: Deadline },
    Draining { until: Deadline },
    Stopping,
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
    pub(crate) fn begin(registry: &'a Arc<Registry>, courier: &'a Courier, demand: Demand) -> Self {
        registry.call_muster();
        registry.send_to_departed();
        let drain = Self {
            registry,
            courier,
            deadline: demand.deadline,
            stage: Stage::LameDuck {
                until: Deadline::after(registry.phases.lame_duck),
            },
            // A hurry is heard in the first turn, as one that comes later.
            demand: Demand {
                hurried_at: None,
                ..demand
            },
            current: None,
            all_asked: false,
            watched: BTreeMap::new(),
            next_sample: Deadline::after(SAMPLE),
            next_news: Deadline::after(NEWS),
            diagnoses: None,
            left: BTreeMap::new(),
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
            match self.turn() {
                Turn::Over => return self.conclude(),
                Turn::Again => {}
                Turn::Sleep(until) => {
                    self.registry.request.bell().wait_until(until);
                }
            }
        }
    }

    /// Does what is due now.
    pub(crate) fn turn(&mut self) -> Turn {
        self.hear_request();
        self.advance();
        let has_asked = self.ask_who_is_due();
        if self.is_over() {
            return Turn::Over;
        }
        if self.is_time_to_diagnose() {
            self.diagnose();
        }
        // Behind the diagnosis: where there is no time for both, it tells what was before.
        if self.is_past_last_call() {
            self.end_wards();
        }
        // The diagnosis may have taken until then: who was not asked before is asked first, in the next turn (2).
        if self.deadline.has_passed() && self.all_asked {
            return Turn::Over;
        }
        self.observe();
        if has_asked {
            Turn::Again
        } else {
            Turn::Sleep(self.next_turn())
        }
    }

    /// The request as it stands now: the deadline may have come nearer.
    fn hear_request(&mut self) {
        if let Some(demand) = self.registry.request.demand() {
            let hurry = demand
                .hurried_at
                .and_then(|hurried| hurried.checked_add(HURRY))
                .map(Deadline::at);
            let before = self.deadline;
            self.deadline = demand.deadline.earlier(hurry.unwrap_or(Deadline::NEVER));
            if self.deadline != before {
                self.shorten_share();
            }
            if demand.hurried_at.is_some() && self.demand.hurried_at.is_none() {
                self.next_sample = Deadline::after(Duration::ZERO);
                let limit = human(HURRY);
                self.say(
                    Level::Info,
                    format!("asked to hurry: {limit} left for everybody"),
                );
            }
            self.demand = demand;
        }
    }

    /// Goes on to the next stage, if its time has come (0).
    fn advance(&mut self) {
        let is_short =
            self.is_urgent() || self.latest_stop().has_passed() || self.registry.counts().live == 0;
        if let Stage::LameDuck { until } = self.stage {
            if is_short || until.has_passed() {
                self.registry.request.begin_to_drain();
                let until = Deadline::after(self.registry.phases.drain);
                self.stage = Stage::Draining { until };
                self.announce_drain();
            }
        }
        if let Stage::Draining { until } = self.stage {
            if is_short || until.has_passed() || self.registry.drainers() == 0 {
                self.stage = Stage::Stopping;
            }
        }
    }

    /// When the stop begins at the latest, whatever comes before it: a deadline that came nearer counts as well.
    fn latest_stop(&self) -> Deadline {
        let whole = self.deadline.instant().map_or(Duration::ZERO, |deadline| {
            deadline.saturating_duration_since(self.demand.since)
        });
        self.deadline.minus(whole / KEPT_FOR_STOP)
    }

    /// The deadline has come nearer: those who are still to be asked get their part of what is left.
    fn shorten_share(&mut self) {
        let fair = Deadline::after(self.fair_share());
        if let Some((_, share)) = &mut self.current {
            *share = share.earlier(fair);
        }
    }

    fn announce_drain(&self) {
        let drainers = self.registry.drainers();
        if drainers > 0 && !self.registry.phases.drain.is_zero() {
            let noun = if drainers == 1 { "task" } else { "tasks" };
            let most = self.registry.phases.drain;
            // Not the whole of it, if the deadline of this shutdown is nearer.
            let time = self.latest_stop().remaining();
            let time = human(time.map_or(most, |left| left.min(most)));
            self.say(
                Level::Info,
                format!("waiting up to {time} for {drainers} {noun} to finish what was begun"),
            );
        }
    }

    fn is_urgent(&self) -> bool {
        self.demand.hurried_at.is_some() || self.deadline.has_passed()
    }

    /// Begins the stop of the next group, if its turn has come (1), or of all (2); `true` if it did.
    fn ask_who_is_due(&mut self) -> bool {
        let now = time::now();
        let order = if self.all_asked || !matches!(self.stage, Stage::Stopping) {
            return false;
        } else if self.is_urgent() {
            self.all_asked = true;
            self.registry.begin_every_stop(now)
        } else if self
            .current
            .is_none_or(|current| self.has_had_its_turn(current))
        {
            self.registry.begin_next_stop(now)
        } else {
            return false;
        };
        match order {
            Some(order) => self.ask(&order, now),
            None => self.all_asked = true,
        }
        true
    }

    fn ask(&mut self, order: &StopOrder, now: Instant) {
        let share = self.share(order);
        self.current = Some((order.group, Deadline::after(share).earlier(self.deadline)));
        // Before the cancel: what a task passes from now on, it passes after the stop.
        for record in &order.tasks {
            let watched = Watched::new(Arc::clone(record), now);
            self.watched.insert(record.id, watched);
        }
        let cause = &self.demand.cause;
        let mut due = order.token.cancel_leaving_work(cause.clone());
        for record in &order.tasks {
            // Somebody else cancels the group and has not come to this one yet.
            if !record.token.is_cancelled() {
                due.extend(record.token.cancel_leaving_work(cause.clone()));
            }
        }
        self.registry.run_callbacks(due);
    }

    /// Whether the group asked last has stopped or used up its share.
    fn has_had_its_turn(&self, (group, share): (GroupId, Deadline)) -> bool {
        self.registry.live_in(group) == 0
            || share.has_passed()
            || (self.registry.ledger.has_foreign()
                && self.registry.live_of(group).iter().all(|it| is_let_go(it)))
    }

    /// The longest grace of the group's tasks, but at most half of what is left while others are to be asked; for
    /// those without a grace a fair share.
    fn share(&self, order: &StopOrder) -> Duration {
        let Some(grace) = order.grace else {
            return self.fair_share();
        };
        let grace = if order.some_have_no_grace {
            grace.max(self.fair_share())
        } else {
            grace
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
            .map_or(SHARE_WITHOUT_LIMIT, |left| left / groups)
    }

    /// Whether all have stopped and were joined (3).
    fn is_over(&mut self) -> bool {
        if self.all_asked && self.must_join_itself() {
            self.registry.join_all_who_are_gone();
        }
        self.all_asked
            && !self.registry.has_callbacks_under_way()
            && (self.registry.is_empty() || self.lets_all_go())
    }

    fn only_foreign_code_is_left(&self) -> bool {
        self.registry.ledger.has_foreign()
            && self.registry.live().iter().all(|it| is_let_go(it))
            && self
                .registry
                .exiting()
                .iter()
                .all(|it| it.standing().is_gone)
    }

    /// Abandons who is left if all of them are in foreign code for too long. Whoever comes back under way has until the
    /// deadline, and those who were abandoned before it as well.
    fn lets_all_go(&mut self) -> bool {
        if !self.only_foreign_code_is_left() {
            return false;
        }
        let now = time::now();
        let let_go = |record: Arc<Record>| {
            let section = record.let_go()?;
            let diagnosis = Diagnosis {
                section: Some(in_section(&section, now)),
                ..self.diagnose_one(&record, false, now)
            };
            Some((record.id, diagnosis))
        };
        match self.registry.live().into_iter().map(let_go).collect() {
            Some(left) => {
                self.left = left;
                true
            }
            None => false,
        }
    }

    /// When the next task in foreign code is let go.
    fn next_let_go(&self) -> Deadline {
        if !self.registry.ledger.has_foreign() {
            return Deadline::NEVER;
        }
        let live = self.registry.live();
        let moments = live.iter().filter_map(|record| record.foreign_until());
        moments
            .filter(|until| !until.has_passed())
            .fold(Deadline::NEVER, Deadline::earlier)
    }

    /// Whether nobody lives, but the courier hangs and joins nobody.
    fn must_join_itself(&self) -> bool {
        self.courier.is_stuck_for(PATIENCE) && self.registry.counts().live == 0
    }

    /// When the next turn of the loop is due, if nobody rings.
    fn next_turn(&self) -> Deadline {
        let share = self
            .current
            .filter(|_| !self.all_asked)
            .map_or(Deadline::NEVER, |(_, share)| share);
        let end = if !self.is_past_last_call() {
            self.last_call()
        } else if self.diagnoses.is_none() {
            self.deadline.minus(DIAGNOSIS)
        } else {
            self.deadline
        };
        let joins = if self.all_asked && self.must_join_itself() {
            Deadline::after(INSTEAD_OF_COURIER)
        } else {
            Deadline::NEVER
        };
        let stage = match self.stage {
            Stage::LameDuck { until } | Stage::Draining { until } => {
                until.earlier(self.latest_stop())
            }
            Stage::Stopping => Deadline::NEVER,
        };
        [
            stage,
            self.next_sample,
            self.next_news,
            self.next_let_go(),
            end,
            joins,
        ]
        .into_iter()
        .fold(share, Deadline::earlier)
    }

    // ---- watching ----

    fn observe(&mut self) {
        if self.next_sample.has_passed() {
            self.next_sample = Deadline::after(SAMPLE);
            self.sample(time::now());
            self.look_at_cpu();
            self.mind_courier();
        }
        if self.next_news.has_passed() {
            self.next_news = Deadline::after(NEWS);
            self.tell_who_is_awaited();
        }
    }

    /// The first look at the CPU time of those who were asked a while ago, or just now if there is no time to lose.
    fn look_at_cpu(&mut self) {
        let now = time::now();
        let is_urgent = self.is_urgent();
        let live = self.registry.live();
        let asked = live
            .iter()
            .filter(|record| self.watched.contains_key(&record.id));
        let first: Vec<TaskId> = asked.take(DETAILED).map(|record| record.id).collect();
        for id in first {
            let Some(watched) = self.watched.get_mut(&id) else {
                continue;
            };
            let so_far = now.saturating_duration_since(watched.asked);
            if watched.cpu.is_none() && (is_urgent || so_far >= FIRST_LOOK) {
                let sight = watched.record.tid().and_then(kernel::look);
                watched.cpu = sight.map(|sight| (sight.cpu, time::now()));
            }
        }
    }

    fn sample(&mut self, now: Instant) {
        for record in self.registry.live() {
            if let Some(watched) = self.watched.get_mut(&record.id) {
                watched.sample(now);
            }
        }
    }

    /// A courier that is stuck is replaced, so that what waits behind it goes on.
    fn mind_courier(&self) {
        self.courier.replace_if_stuck_for(COURIER);
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
        if self.courier.is_logger_stuck() {
            return;
        }
        self.registry.send(Errand::run(What::Log, move || {
            log::say(level, format_args!("{line}"));
        }));
    }

    // ---- the end ----

    fn is_time_to_diagnose(&self) -> bool {
        self.diagnoses.is_none() && self.deadline.minus(DIAGNOSIS).has_passed()
    }

    fn last_call(&self) -> Deadline {
        let (least, most) = LAST_CALL;
        let whole = match (self.demand.hurried_at, self.deadline.instant()) {
            (None, Some(deadline)) => deadline.saturating_duration_since(self.demand.since),
            _ => HURRY,
        };
        self.deadline.minus((whole / 10).clamp(least, most))
    }

    fn is_past_last_call(&self) -> bool {
        self.last_call().has_passed()
    }

    /// Ends the wards of those who were asked: who was not yet does not know that it is to stop.
    fn end_wards(&self) {
        for record in self.registry.live() {
            if self.watched.contains_key(&record.id) {
                record.end_wards();
            }
        }
    }

    fn diagnose(&mut self) {
        let now = time::now();
        self.sample(now);
        let (live, exiting) = (self.registry.live(), self.registry.exiting());
        let diagnoses = live
            .iter()
            .chain(&exiting)
            .enumerate()
            .map(|(index, record)| (record.id, self.diagnose_one(record, index < DETAILED, now)))
            .collect();
        self.diagnoses = Some(diagnoses);
    }

    /// `now` is when the checkpoints were sampled: where processors are rare, the looks into the kernel take long.
    fn diagnose_one(&self, record: &Record, detailed: bool, now: Instant) -> Diagnosis {
        let sight = record.tid().filter(|_| detailed).and_then(kernel::look);
        let watched = self.watched.get(&record.id);
        let used = sight
            .as_ref()
            .zip(watched.and_then(|watched| watched.cpu))
            .map(|(sight, (before, at))| {
                (
                    sight.cpu.saturating_sub(before),
                    time::now().saturating_duration_since(at),
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
            section: record.section().map(|section| in_section(&section, now)),
            waiting_for: self.wait_of(record),
            cpu: used,
            running: sight.as_ref().is_some_and(|sight| sight.running),
            blocked_in: sight.and_then(|sight| sight.call),
            spawned_at: record.spawned_at,
            stage: match record.status().state {
                TaskState::Starting => diagnosis::Stage::NotBegun,
                TaskState::Exiting | TaskState::Ended if record.is_past_logger() => {
                    diagnosis::Stage::Exiting
                }
                TaskState::Exiting | TaskState::Ended => diagnosis::Stage::Logging,
                _ => diagnosis::Stage::Body,
            },
        }
    }

    fn wait_of(&self, record: &Record) -> Option<String> {
        // What can describe itself says more, and stays on the books while another thread of the task begins and ends a
        // wait of its own.
        if let Some(awaited) = record.awaited() {
            return Some(awaited.describe());
        }
        Some(match record.pulse.waiting()? {
            Wait::Cancel => "a cancel".to_owned(),
            Wait::Sleep => "time to pass".to_owned(),
            Wait::Receive => "a message".to_owned(),
            Wait::Send => "room in a channel".to_owned(),
            Wait::Tasks => format!("{END_OF}several tasks"),
            Wait::Other => return None,
            Wait::Join => match record
                .pulse
                .joining()
                .and_then(|number| self.registry.find(TaskId(number)))
            {
                Some(other) => format!("{END_OF}`{}`", other.path),
                None => format!("{END_OF}another task"),
            },
        })
    }

    /// Abandons who is left and writes the report (4).
    pub(crate) fn conclude(mut self) -> ShutdownReport {
        let mut known = self.diagnoses.take().unwrap_or_default();
        known.append(&mut self.left);
        for record in self.registry.live() {
            let is_straggler = record.abandon();
            record.end_wards();
            if is_straggler && !known.contains_key(&record.id) {
                known.insert(record.id, self.diagnose_one(&record, false, time::now()));
            }
        }
        // The log's last lines come first, so that the report has the last word of everything.
        self.take_leave();
        let snapshot = self.registry.snapshot();
        let mut counts = snapshot.counts;
        let mut tasks = Vec::with_capacity(snapshot.records.len());
        for record in snapshot.records {
            let standing = record.standing();
            let is_live = snapshot.live.binary_search(&record.id).is_ok();
            // Between its own end and the books'.
            if let (true, true, Some(outcome)) = (is_live, standing.has_ended, &standing.outcome) {
                counts.live -= 1;
                counts.add(outcome);
            }
            let diagnosis = match known.remove(&record.id) {
                _ if standing.is_gone => None,
                // It has ended since. Who was let go in foreign code stays so: nobody has waited for its thread.
                Some(before)
                    if standing.has_ended && !before.has_ended() && !before.is_foreign() =>
                {
                    Some(self.diagnose_one(&record, false, time::now()))
                }
                diagnosis => diagnosis,
            };
            tasks.push(self.row(record, standing, diagnosis));
        }
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
            counts,
            stuck_courier: self.courier.stuck_in(HURRY / 2),
            callbacks: self.registry.callbacks_under_way(),
            ledger: Arc::clone(&self.registry.ledger),
        })
    }

    fn row(
        &self,
        record: Arc<Record>,
        standing: Standing,
        diagnosis: Option<Diagnosis>,
    ) -> TaskReport {
        let asked = self.watched.get(&record.id).map(|watched| watched.asked);
        let stopped_after = standing
            .ended_at
            .zip(asked)
            .and_then(|(ended, asked)| ended.checked_duration_since(asked));
        TaskReport {
            record,
            outcome: standing.outcome.unwrap_or(Outcome::Abandoned),
            stopped_after,
            diagnosis,
        }
    }

    /// The last lines of log, and its flush.
    fn take_leave(&self) {
        let mut left = self.registry.live();
        let exiting = self.registry.exiting();
        left.extend(exiting.into_iter().filter(|it| !it.standing().is_gone));
        let (foreign, left): (Vec<_>, Vec<_>) = left
            .into_iter()
            .partition(|it| it.foreign_until().is_some());
        if !foreign.is_empty() {
            let names = names(&foreign);
            self.say(Level::Info, format!("left in foreign code: {names}"));
        }
        if !left.is_empty() {
            let noun = if left.len() == 1 { "task" } else { "tasks" };
            self.say(
                Level::Error,
                format!(
                    "{} {noun} did not stop in time: {}",
                    left.len(),
                    names(&left)
                ),
            );
        }
        let limit = self
            .deadline
            .remaining()
            .map_or(COURIER, |left| left.clamp(PATIENCE, COURIER));
        self.courier.flush(PATIENCE, Deadline::after(limit));
    }
}

fn in_section(section: &Section, now: Instant) -> InSection {
    InSection {
        kind: section.kind,
        what: Arc::clone(&section.what),
        since: now.saturating_duration_since(section.since),
        by_helper: !section.is_own,
    }
}

/// Whether a stop does not wait for the task any more, because it is in foreign code for too long.
fn is_let_go(record: &Record) -> bool {
    record.foreign_until().is_some_and(Deadline::has_passed)
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

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::sync::{mailbox, start_thread};
    use crate::cancel::cause::{Cause, CauseKind};
    use crate::cancel::token::CancellationToken;
    use crate::status::state::End;
    use crate::task::record::{Birth, SectionKind};
    use crate::task::registry::{ROOT, Settings, Thread};

    /// A manager without a warden, and with one task that is only a record.
    struct Stage {
        registry: Arc<Registry>,
        courier: Arc<Courier>,
        task: Arc<Record>,
    }

    impl Stage {
        fn new() -> Self {
            let settings = Settings::plain(Duration::from_secs(20));
            let (sender, errands) = mailbox();
            let registry = Arc::new(Registry::new(settings, sender));
            let courier = Courier::start(&registry, errands).expect("a thread");
            let birth = Birth::plain(ROOT, CancellationToken::new());
            let task = registry.register(birth).expect("there is room");
            task.begin();
            Self {
                registry,
                courier,
                task,
            }
        }

        fn drain(&self) -> Drain<'_> {
            let request = &self.registry.request;
            request.raise(Cause::from_outside(CauseKind::Shutdown), None);
            let demand = request.demand().expect("it was raised");
            Drain::begin(&self.registry, &self.courier, demand)
        }

        fn close(&self) {
            self.registry.request.close();
            self.courier.close();
        }
    }

    #[test]
    fn who_has_ended_and_is_still_on_the_books_is_counted_by_its_outcome() {
        let stage = Stage::new();
        let drain = stage.drain();
        let end = stage.task.end(Outcome::Completed, time::now());
        assert_eq!(end, End::InTime);
        let counts = drain.conclude().counts();
        assert_eq!((counts.live, counts.completed), (0, 1));
        stage.registry.withdraw(&stage.task);
        stage.close();
    }

    #[test]
    fn a_task_that_the_cancel_of_its_group_has_not_reached_is_cancelled_itself() {
        let stage = Stage::new();
        let (root, task) = (stage.registry.root_token(), &stage.task);
        // As if its canceller were on his way: the flag is set, and the task does not have it yet.
        root.cancel();
        assert!(!task.token.is_cancelled());
        let mut drain = stage.drain();
        while matches!(drain.turn(), Turn::Again) {}
        assert!(task.token.is_cancelled());
        drop(drain);
        stage.registry.withdraw(task);
        stage.close();
    }

    #[test]
    fn who_ends_after_the_diagnosis_is_diagnosed_anew() {
        let stage = Stage::new();
        let (registry, task) = (&stage.registry, &stage.task);
        let mut drain = stage.drain();
        drain.diagnose();
        registry.end(task, Outcome::Completed, time::now(), Thread::ToBeJoined);
        let report = drain.conclude();
        let diagnosis = report.tasks()[0].diagnosis().expect("it has a thread");
        assert_eq!(diagnosis.stage, diagnosis::Stage::Logging);
        let thread = start_thread("task".to_owned(), None, || ()).expect("a thread");
        registry.attach(task, thread);
        registry.depart(task);
        stage.close();
    }

    #[test]
    fn who_was_let_go_in_foreign_code_and_has_ended_since_is_no_straggler() {
        let stage = Stage::new();
        let (registry, task) = (&stage.registry, &stage.task);
        let section = Arc::new(Section {
            kind: SectionKind::Foreign,
            what: Arc::from("a call"),
            since: time::now(),
            until: Deadline::after(Duration::ZERO),
            is_own: true,
        });
        task.enter_section(&section);
        registry.ledger.enter_foreign();
        let mut drain = stage.drain();
        while !matches!(drain.turn(), Turn::Over) {}
        task.leave_section(&section);
        registry.end(task, Outcome::Completed, time::now(), Thread::ToBeJoined);
        let report = drain.conclude();
        assert!(
            report.tasks()[0].is_foreign() && report.is_clean(),
            "{report}"
        );
        let thread = start_thread("task".to_owned(), None, || ()).expect("a thread");
        registry.attach(task, thread);
        registry.depart(task);
        stage.close();
    }

    #[test]
    fn a_thread_that_is_as_good_as_gone_is_awaited_until_it_was_joined() {
        let stage = Stage::new();
        let (registry, task) = (&stage.registry, &stage.task);
        registry.end(task, Outcome::Completed, time::now(), Thread::ToBeJoined);
        registry.depart(task);
        let mut drain = stage.drain();
        let mut spawner = Some(start_thread("task".to_owned(), None, || ()).expect("a thread"));
        loop {
            match drain.turn() {
                Turn::Again => {}
                Turn::Sleep(until) => {
                    if let Some(thread) = spawner.take() {
                        registry.attach(task, thread);
                    }
                    registry.request.bell().wait_until(until);
                }
                Turn::Over => break,
            }
        }
        assert!(spawner.is_none(), "nobody could join the thread");
        assert!(registry.is_empty());
        drop(drain.conclude());
        stage.close();
    }
}
