//! The record of one task, from its registration to the history.
//!
//! Invariants:
//!
//! 1. `life` holds everything that changes; its phase moves along the table of `status/state.rs` and nowhere else.
//! 2. The outcome is written in the step that ends the phase, once; abandonment writes one too, which the end of the
//!    body may replace.
//! 3. `settled` opens after the outcome was written and the registry's books were closed over it: whoever was woken by
//!    it finds both. It opens for an abandoned task as well, so that nobody joins a straggler for ever; the books of
//!    such a task close a moment after its late outcome can be seen.
//! 4. The thread is joined by exactly one: whoever comes second of "the thread says it is gone" and "the spawner hands
//!    over its join handle" gets it, decided under `life`.
//! 5. `life` is held for a few assignments, nothing is dropped under it and no other lock taken. The only lock that may be
//!    held when it is taken is that of what the task is doing.

use std::fmt;
use std::ops::Deref;
use std::panic::Location;
use std::process;
use std::sync::Arc;

use crate::base::latch::{self, Beacon, Latch};
use crate::base::sync::{
    AtomicBool, AtomicCell, AtomicU32, AtomicUsize, JoinHandle, Mutex, OnceLock, Ordering,
};
use crate::base::thread_id;
use crate::base::time::{self, Deadline, Duration, Instant};
use crate::cancel::checkpoint::Pulse;
use crate::cancel::token::CancellationToken;
use crate::policy::failure::OnFailure;
use crate::status::outcome::Outcome;
use crate::status::state::{End, Phase, TaskId, TaskState, TaskStatus};

/// Everything the library knows of one task.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) id: TaskId,
    pub(crate) path: Arc<str>,
    pub(crate) group: GroupId,
    pub(crate) token: CancellationToken,
    pub(crate) grace: Option<Duration>,
    pub(crate) on_drain: OnDrain,
    pub(crate) on_failure: OnFailure,
    /// The manager is not ready before this task is.
    pub(crate) counts_for_readiness: bool,
    pub(crate) spawned_at: &'static Location<'static>,
    pub(crate) created: Instant,
    /// In a cache line of its own: the only part that is written at every checkpoint.
    pub(crate) pulse: OwnLine,
    settled: Beacon,
    life: Mutex<Life>,
    /// What few tasks have; made when it is first needed.
    rare: OnceLock<Box<Rare>>,
    unread: AtomicBool,
    is_ready: AtomicBool,
    /// The end was logged: what the thread does now are destructors of thread-locals.
    past_logger: AtomicBool,
    /// Where it sits in the list of the books that has it; guarded by the books' lock.
    seat: AtomicUsize,
    ledger: Arc<Ledger>,
}

/// A pulse in a cache line of its own. `CachePadded` would take two, and align the whole record to them.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct OwnLine(Pulse);

impl Deref for OwnLine {
    type Target = Pulse;

    #[inline]
    fn deref(&self) -> &Pulse {
        &self.0
    }
}

/// The number of a group, unique within its manager.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupId(pub(crate) u64);

impl GroupId {
    /// In nobody's books.
    pub(crate) const NOWHERE: Self = Self(u64::MAX);
}

/// What a registry and its records share: the count of failures nobody has looked at, and the process they live in.
#[derive(Debug)]
pub(crate) struct Ledger {
    unread: AtomicUsize,
    /// How many tasks are in foreign code.
    foreign: AtomicUsize,
    /// A critical task has failed: the exit code says so even if somebody reads the failure.
    critical: AtomicBool,
    pid: u32,
}

impl Ledger {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            unread: AtomicUsize::new(0),
            foreign: AtomicUsize::new(0),
            critical: AtomicBool::new(false),
            pid: process::id(),
        })
    }

    /// Relaxed: a count, read when everything it counts is over.
    pub(crate) fn unread(&self) -> usize {
        self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn enter_foreign(&self) {
        self.foreign.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn leave_foreign(&self) {
        self.foreign.fetch_sub(1, Ordering::Relaxed);
    }

    /// Relaxed: the bell that is rung afterwards orders it.
    pub(crate) fn has_foreign(&self) -> bool {
        self.foreign.load(Ordering::Relaxed) > 0
    }

    pub(crate) fn note_critical_failure(&self) {
        self.critical.store(true, Ordering::Relaxed);
    }

    pub(crate) fn has_critical_failure(&self) -> bool {
        self.critical.load(Ordering::Relaxed)
    }

    /// Whether this is a forked copy, in which the threads of the original do not exist and its locks may be held for
    /// ever.
    pub(crate) fn is_forked(&self) -> bool {
        self.pid != process::id()
    }
}

#[derive(Debug)]
struct Life {
    phase: Phase,
    outcome: Option<Outcome>,
    ended_at: Option<Instant>,
    tid: Option<u32>,
    thread: Option<JoinHandle<()>>,
    gone: bool,
}

/// What few tasks have.
#[derive(Debug)]
struct Rare {
    /// Lit when the task says that it is ready.
    ready: Beacon,
    /// Open when its thread is all but gone, or never was.
    gone: Latch,
    /// The count of those whose failure nobody has read in its scope, if it is in one.
    unread_in: OnceLock<Arc<AtomicUsize>>,
    doing: Mutex<Doing>,
    /// Which run of a task that may run again this is; from 1 on.
    attempt: AtomicU32,
    /// How many ticks a periodic task has had, and how many it missed.
    ticks: AtomicCell<u64>,
    missed: AtomicCell<u64>,
}

/// What a task does that its pulse cannot tell.
#[derive(Debug, Default)]
struct Doing {
    /// The sections it is in, the one entered last at the end. Its threads may enter and leave them in any order.
    sections: Vec<Arc<Section>>,
    /// What its threads wait for, where that can be described.
    awaits: Vec<Arc<dyn Awaited>>,
    /// What must not outlive it.
    wards: Vec<Arc<dyn Ward>>,
    /// The last moment for its wards has come: it gets no new ones.
    is_past_last_call: bool,
}

impl Doing {
    fn own_section(&self) -> Option<&Arc<Section>> {
        self.sections.iter().rfind(|section| section.is_own)
    }

    fn foreign_section(&self) -> Option<&Arc<Section>> {
        let section = self.own_section()?;
        (section.kind == SectionKind::Foreign).then_some(section)
    }
}

/// A stretch of a task with rules of its own.
#[derive(Debug)]
pub(crate) struct Section {
    pub(crate) kind: SectionKind,
    /// What the program calls it.
    pub(crate) what: Arc<str>,
    pub(crate) since: Instant,
    /// Until when a stop waits for it.
    pub(crate) until: Deadline,
    /// The task's own thread is in it, not a helper of it.
    pub(crate) is_own: bool,
}

/// Why a section does not hear its task's stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SectionKind {
    /// It is shielded: [`TaskContext::shield`](crate::TaskContext::shield).
    Shield,
    /// It is foreign code, which hears nothing: [`TaskContext::foreign`](crate::TaskContext::foreign).
    Foreign,
}

/// Something a task waits for that can say more of itself.
pub(crate) trait Awaited: fmt::Debug + Send + Sync {
    /// To follow "waits for".
    fn describe(&self) -> String;
}

/// Something outside of this process that a task has and that must not outlive it: a child process.
pub(crate) trait Ward: fmt::Debug + Send + Sync {
    /// The program is about to end without having waited for it any longer. Must not block.
    fn end_now(&self);
}

/// How a task stands at one moment.
#[derive(Debug)]
pub(crate) struct Standing {
    pub(crate) has_ended: bool,
    /// Its thread is all but gone, or never was.
    pub(crate) is_gone: bool,
    pub(crate) outcome: Option<Outcome>,
    pub(crate) ended_at: Option<Instant>,
}

/// What a task does when a shutdown begins, before anybody is asked to stop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum OnDrain {
    /// It goes on, and waits to be asked.
    #[default]
    GoesOn,
    /// It finishes what was begun and ends by itself.
    Ends,
}

/// What a new record starts with.
#[derive(Debug)]
pub(crate) struct Birth {
    pub(crate) path: Arc<str>,
    pub(crate) group: GroupId,
    pub(crate) token: CancellationToken,
    pub(crate) grace: Option<Duration>,
    pub(crate) on_drain: OnDrain,
    pub(crate) on_failure: OnFailure,
    pub(crate) counts_for_readiness: bool,
    pub(crate) spawned_at: &'static Location<'static>,
}

#[cfg(any(test, loom, shuttle))]
impl Birth {
    /// For tests: a task with nothing of its own.
    pub(crate) fn plain(group: GroupId, token: CancellationToken) -> Self {
        Self {
            path: Arc::from("task"),
            group,
            token,
            grace: None,
            on_drain: OnDrain::GoesOn,
            on_failure: OnFailure::Record,
            counts_for_readiness: false,
            spawned_at: Location::caller(),
        }
    }
}

impl Record {
    pub(crate) fn new(id: TaskId, birth: Birth, ledger: &Arc<Ledger>) -> Self {
        let Birth {
            path,
            group,
            token,
            grace,
            on_drain,
            on_failure,
            counts_for_readiness,
            spawned_at,
        } = birth;
        let life = Life {
            phase: Phase::Registered,
            outcome: None,
            ended_at: None,
            tid: None,
            thread: None,
            gone: false,
        };
        Self {
            id,
            path,
            group,
            token,
            grace,
            on_drain,
            on_failure,
            counts_for_readiness,
            spawned_at,
            created: time::now(),
            pulse: OwnLine::default(),
            settled: Beacon::new(),
            life: Mutex::new(life),
            rare: OnceLock::new(),
            unread: AtomicBool::new(false),
            is_ready: AtomicBool::new(false),
            past_logger: AtomicBool::new(false),
            seat: AtomicUsize::new(0),
            ledger: Arc::clone(ledger),
        }
    }

    /// The thread begins.
    pub(crate) fn begin(&self) {
        let tid = thread_id::current();
        let mut life = self.life.lock();
        life.phase.begin();
        life.tid = tid;
    }

    /// The body is over. The registry then closes its books and lets the joiners go ([`Record::settle`]).
    pub(crate) fn end(&self, outcome: Outcome, at: Instant) -> End {
        let failure = outcome.is_failure();
        let ended_at = Some(at);
        let mut life = self.life.lock();
        let end = life.phase.end();
        let before = life.outcome.replace(outcome);
        life.ended_at = ended_at;
        if failure {
            self.unread.store(true, Ordering::Relaxed);
            for count in self.counts_of_unread() {
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
        drop(life);
        drop(before);
        end
    }

    /// The shutdown gives up on the task; `false` if it had ended.
    #[must_use = "a task that has ended must not be reported as abandoned"]
    pub(crate) fn abandon(&self) -> bool {
        let mut life = self.life.lock();
        let abandoned = life.phase.abandon();
        if abandoned {
            life.outcome = Some(Outcome::Abandoned);
        }
        drop(life);
        if abandoned {
            self.settled.light();
        }
        abandoned
    }

    /// Lets the joiners go.
    pub(crate) fn settle(&self) {
        self.settled.light();
    }

    /// What joiners wait at.
    pub(crate) fn settled(&self) -> &Beacon {
        &self.settled
    }

    /// The outcome for somebody who asks: a failure counts as read from now on.
    pub(crate) fn read_outcome(&self) -> Option<Outcome> {
        let outcome = self.outcome();
        if outcome.as_ref().is_some_and(Outcome::is_failure)
            && self.unread.swap(false, Ordering::Relaxed)
        {
            for count in self.counts_of_unread() {
                count.fetch_sub(1, Ordering::Relaxed);
            }
        }
        outcome
    }

    fn counts_of_unread(&self) -> impl Iterator<Item = &AtomicUsize> {
        let of_scope = self.rare.get().and_then(|rare| rare.unread_in.get());
        std::iter::once(&self.ledger.unread).chain(of_scope.map(|count| &**count))
    }

    /// Has the task counted in `unread` as well while it has failed and nobody has read it. Before its thread begins.
    pub(crate) fn count_unread_in(&self, unread: &Arc<AtomicUsize>) {
        let before = self.rare().unread_in.set(Arc::clone(unread));
        drop(before);
    }

    /// The outcome for the books.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        self.life.lock().outcome.clone()
    }

    /// Puts the task into a section, until [`leave_section`](Self::leave_section).
    pub(crate) fn enter_section(&self, section: &Arc<Section>) {
        self.rare().doing.lock().sections.push(Arc::clone(section));
    }

    pub(crate) fn leave_section(&self, section: &Arc<Section>) {
        let mut doing = self.rare().doing.lock();
        let same = |other: &Arc<Section>| Arc::ptr_eq(other, section);
        let over = doing.sections.iter().rposition(same);
        let over = over.map(|index| doing.sections.remove(index));
        drop(doing);
        drop(over);
    }

    /// The section that the task's own thread has entered last and not left; if it is in none, that of a helper.
    pub(crate) fn section(&self) -> Option<Arc<Section>> {
        let doing = self.rare.get()?.doing.lock();
        doing.own_section().or(doing.sections.last()).cloned()
    }

    /// Says what the task waits for, until [`end_awaiting`](Self::end_awaiting): it may have threads that do so at once.
    pub(crate) fn begin_awaiting(&self, what: &Arc<dyn Awaited>) {
        self.rare().doing.lock().awaits.push(Arc::clone(what));
    }

    pub(crate) fn end_awaiting(&self, what: &Arc<dyn Awaited>) {
        let mut doing = self.rare().doing.lock();
        let same =
            |other: &Arc<dyn Awaited>| std::ptr::addr_eq(Arc::as_ptr(other), Arc::as_ptr(what));
        let over = doing.awaits.iter().rposition(same);
        let over = over.map(|index| doing.awaits.remove(index));
        drop(doing);
        drop(over);
    }

    /// What the task waits for; the latest, if several of its threads wait.
    pub(crate) fn awaited(&self) -> Option<Arc<dyn Awaited>> {
        self.rare.get()?.doing.lock().awaits.last().cloned()
    }

    /// Puts a ward in the task's charge; `false` if it is too late for that.
    #[cfg_attr(
        any(loom, shuttle, not(feature = "process")),
        expect(dead_code, reason = "only child processes are wards")
    )]
    #[must_use = "what nobody is in charge of is to be ended"]
    pub(crate) fn take_charge_of(&self, ward: Arc<dyn Ward>) -> bool {
        let mut doing = self.rare().doing.lock();
        let in_time = !doing.is_past_last_call;
        if in_time {
            doing.wards.push(ward);
        }
        in_time
    }

    /// The ward has ended.
    #[cfg_attr(
        any(loom, shuttle, not(feature = "process")),
        expect(dead_code, reason = "only child processes are wards")
    )]
    pub(crate) fn discharge(&self, ward: &Arc<dyn Ward>) {
        let mut doing = self.rare().doing.lock();
        let place = doing.wards.iter().position(|it| Arc::ptr_eq(it, ward));
        let gone = place.map(|place| doing.wards.swap_remove(place));
        drop(doing);
        drop(gone);
    }

    /// Ends what must not outlive the task. Does not block.
    pub(crate) fn end_wards(&self) {
        let mut doing = self.rare().doing.lock();
        doing.is_past_last_call = true;
        let wards = std::mem::take(&mut doing.wards);
        drop(doing);
        for ward in wards {
            ward.end_now();
        }
    }

    /// Until when a stop waits for the foreign code the task is in, if it is in some. What a helper of it is in does not
    /// count: the task itself may be about to save its work.
    pub(crate) fn foreign_until(&self) -> Option<Deadline> {
        let doing = self.rare.get()?.doing.lock();
        doing.foreign_section().map(|section| section.until)
    }

    /// Abandons the task if it is in foreign code for longer than it may; gives that section. In one step: whoever has
    /// left it is not abandoned.
    pub(crate) fn let_go(&self) -> Option<Arc<Section>> {
        let doing = self.rare.get()?.doing.lock();
        let section = doing.foreign_section().cloned()?;
        let is_let_go = section.until.has_passed() && self.abandon();
        drop(doing);
        is_let_go.then_some(section)
    }

    /// How the task stands, all at one moment.
    pub(crate) fn standing(&self) -> Standing {
        let life = self.life.lock();
        Standing {
            has_ended: life.phase == Phase::Ended,
            is_gone: life.gone,
            outcome: life.outcome.clone(),
            ended_at: life.ended_at,
        }
    }

    pub(crate) fn is_unread(&self) -> bool {
        self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.life.lock().phase == Phase::Ended
    }

    /// The kernel's number of the thread, where it could be read.
    pub(crate) fn tid(&self) -> Option<u32> {
        self.life.lock().tid
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(|| {
            Box::new(Rare {
                ready: Beacon::new(),
                gone: Latch::new(),
                unread_in: OnceLock::new(),
                doing: Mutex::new(Doing::default()),
                attempt: AtomicU32::new(1),
                ticks: AtomicCell::new(0),
                missed: AtomicCell::new(0),
            })
        })
    }

    /// Another run of the body begins. Relaxed, as all of these counts: each is written by the task alone.
    pub(crate) fn begin_attempt(&self, attempt: u32) {
        self.rare().attempt.store(attempt, Ordering::Relaxed);
    }

    pub(crate) fn attempt(&self) -> u32 {
        self.rare
            .get()
            .map_or(1, |rare| rare.attempt.load(Ordering::Relaxed))
    }

    pub(crate) fn count_tick(&self, missed: u64) {
        let rare = self.rare();
        rare.ticks.store(rare.ticks.load().saturating_add(1));
        rare.missed.store(rare.missed.load().saturating_add(missed));
    }

    /// How many ticks a periodic task has had, and how many it missed.
    pub(crate) fn ticks(&self) -> (u64, u64) {
        self.rare
            .get()
            .map_or((0, 0), |rare| (rare.ticks.load(), rare.missed.load()))
    }

    /// The task does from now on what it is there for.
    pub(crate) fn become_ready(&self) {
        if !self.is_ready.swap(true, Ordering::AcqRel) {
            self.ready_beacon().light();
        }
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    /// What to wait at for the task to be ready.
    pub(crate) fn ready_beacon(&self) -> &Beacon {
        &self.rare().ready
    }

    /// The end was logged. Relaxed: it only chooses the words of a diagnosis.
    pub(crate) fn leave_logger(&self) {
        self.past_logger.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_past_logger(&self) -> bool {
        self.past_logger.load(Ordering::Relaxed)
    }

    /// There never was a thread, so it is as good as gone.
    pub(crate) fn is_without_thread(&self) {
        drop(self.go());
    }

    /// The thread's last words (4): gives the join handle if the spawner has brought it already.
    pub(crate) fn depart(&self) -> Option<JoinHandle<()>> {
        self.go()
    }

    fn go(&self) -> Option<JoinHandle<()>> {
        let mut life = self.life.lock();
        life.gone = true;
        let thread = life.thread.take();
        drop(life);
        // Whoever comes to wait from now on has made the latch before, or sees under the lock that it is too late to.
        if let Some(rare) = self.rare.get() {
            rare.gone.open();
        }
        thread
    }

    /// Waits until the thread has destroyed its thread-locals, or until the other latch opens; `false` if it has not.
    pub(crate) fn wait_until_gone(&self, deadline: Deadline, other: &Latch) -> bool {
        let gone = &self.rare().gone;
        if !self.standing().is_gone {
            latch::wait_any(&[gone, other], deadline);
        }
        self.standing().is_gone
    }

    /// Brings the join handle (4): gives it back if the thread is gone already.
    pub(crate) fn attach(&self, thread: JoinHandle<()>) -> Option<JoinHandle<()>> {
        let mut life = self.life.lock();
        if life.gone {
            return Some(thread);
        }
        life.thread = Some(thread);
        None
    }

    pub(crate) fn status(&self) -> TaskStatus {
        TaskStatus {
            id: self.id,
            name: Arc::clone(&self.path),
            state: self.state(),
            age: time::now().saturating_duration_since(self.created),
            checkpoints: self.pulse.passed(),
            last_checkpoint: self.pulse.place(),
            ready: self.is_ready(),
            attempt: self.attempt(),
            ticks: self.ticks().0,
            missed_ticks: self.ticks().1,
            spawned_at: self.spawned_at,
        }
    }

    fn state(&self) -> TaskState {
        let (phase, gone) = {
            let life = self.life.lock();
            (life.phase, life.gone)
        };
        match phase {
            Phase::Registered => TaskState::Starting,
            Phase::Running if self.token.is_cancelled() => TaskState::Stopping,
            Phase::Running => TaskState::Running,
            Phase::Abandoned => TaskState::Abandoned,
            Phase::Ended if gone => TaskState::Ended,
            Phase::Ended => TaskState::Exiting,
        }
    }

    pub(crate) fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }
}

/// Records in no order. Each knows its seat, so that leaving is O(1): the last one takes the vacant seat.
///
/// A record is in one crowd at a time, and all crowds of its registry are under one lock.
#[derive(Debug, Default)]
pub(crate) struct Crowd(Vec<Arc<Record>>);

impl Crowd {
    pub(crate) fn enter(&mut self, record: Arc<Record>) {
        record.seat.store(self.0.len(), Ordering::Relaxed);
        self.0.push(record);
    }

    /// Takes `record` out, which must be in this crowd.
    pub(crate) fn leave(&mut self, record: &Record) -> Option<Arc<Record>> {
        let seat = record.seat.load(Ordering::Relaxed);
        let is_here = |other: &Arc<Record>| std::ptr::eq(&raw const **other, record);
        if !self.0.get(seat).is_some_and(is_here) {
            return None;
        }
        let gone = self.0.swap_remove(seat);
        if let Some(moved) = self.0.get(seat) {
            moved.seat.store(seat, Ordering::Relaxed);
        }
        // A crowd that came and went leaves no room behind.
        if self.0.capacity() > 64 && self.0.len() <= self.0.capacity() / 4 {
            self.0.shrink_to(self.0.capacity() / 2);
        }
        Some(gone)
    }

    pub(crate) fn iter(&self) -> std::slice::Iter<'_, Arc<Record>> {
        self.0.iter()
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Thing(&'static str);

    impl Awaited for Thing {
        fn describe(&self) -> String {
            self.0.to_owned()
        }
    }

    fn record(number: u64) -> Record {
        let birth = Birth::plain(GroupId(0), CancellationToken::new());
        Record::new(TaskId(number), birth, &Ledger::new())
    }

    #[test]
    fn what_one_thread_of_a_task_waits_for_is_told_whatever_the_others_do() {
        let record = record(1);
        let awaited = || record.awaited().map(|awaited| awaited.describe());
        let thing = |name| Arc::new(Thing(name)) as Arc<dyn Awaited>;
        let (lock, child) = (thing("lock"), thing("child"));
        record.begin_awaiting(&lock);
        record.begin_awaiting(&child);
        assert_eq!(awaited().as_deref(), Some("child"));
        record.end_awaiting(&lock);
        assert_eq!(awaited().as_deref(), Some("child"));
        record.begin_awaiting(&lock);
        record.end_awaiting(&lock);
        assert_eq!(awaited().as_deref(), Some("child"), "as before");
        record.end_awaiting(&child);
        assert_eq!(awaited(), None);
    }

    #[test]
    fn a_task_is_let_go_while_its_own_thread_is_in_foreign_code_for_too_long() {
        let section = |kind, until, is_own| {
            let (what, since) = (Arc::from("code"), time::now());
            Arc::new(Section {
                kind,
                what,
                since,
                until,
                is_own,
            })
        };
        let (now, never) = (Deadline::after(Duration::ZERO), Deadline::NEVER);
        let record = record(1);
        record.begin();
        let no_reason = [
            section(SectionKind::Foreign, never, true),
            section(SectionKind::Foreign, now, false),
            section(SectionKind::Shield, now, true),
        ];
        for section in no_reason {
            record.enter_section(&section);
            assert!(record.let_go().is_none(), "{section:?}");
            record.leave_section(&section);
        }
        let reason = section(SectionKind::Foreign, now, true);
        record.enter_section(&reason);
        record.leave_section(&reason);
        assert!(record.let_go().is_none(), "it has left");
        record.enter_section(&reason);
        record.enter_section(&section(SectionKind::Shield, now, false));
        let left_in = record.let_go().expect("nobody waits for it");
        assert!(Arc::ptr_eq(&left_in, &reason));
        assert!(matches!(record.outcome(), Some(Outcome::Abandoned)));
    }

    #[test]
    fn a_crowd_keeps_its_room_while_most_are_there_and_gives_it_back_when_they_left() {
        let records: Vec<_> = (0..1_024).map(|number| Arc::new(record(number))).collect();
        let mut crowd = Crowd::default();
        for record in &records {
            crowd.enter(Arc::clone(record));
        }
        let full = crowd.0.capacity();
        for (left, record) in (0..records.len()).rev().zip(&records) {
            assert_eq!(crowd.leave(record).map(|gone| gone.id), Some(record.id));
            assert!(crowd.leave(record).is_none(), "it has left");
            assert_eq!(crowd.len(), left);
            assert!(left < full / 2 || crowd.0.capacity() == full);
        }
        assert!(crowd.0.capacity() <= 64);
    }
}
