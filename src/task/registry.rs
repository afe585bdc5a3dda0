//! The books of one manager: every task and every group.
//!
//! Invariants:
//!
//! 1. A task is in the crowd of its group from before its thread exists until its outcome is written; then in `exiting` until its
//!    thread was really joined; then in the bounded history.
//! 2. Whether a task is accepted and whether its group's stop has begun is decided under one lock, `books`: a task is
//!    registered before the stop, and then its token hangs below the token the stop cancels; or it is refused.
//! 3. A group's stop begins once. Its descendants' stops have begun before or begin in the same step, and a group made
//!    below it later is born refusing.
//! 4. A group stays in the books while somebody can spawn into it or a task or group of it is left.
//!    Its failures go to the group above, unless somebody else answers for them.
//! 5. The counters change in the step that moves the record, so they are exact at every moment.
//! 6. `books` and `under_way` are held alone, never while user code runs; what leaves them is dropped after the lock.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::limits;
use crate::base::sync::{
    AtomicBool, AtomicCell, JoinHandle, MailReceiver, MailSender, Monitor, Mutex, Ordering,
    Receiver, Sender, mailbox, unbounded,
};
use crate::base::thread_id;
use crate::base::time::{Duration, Instant};
use crate::base::unwind;
use crate::cancel::callback::{self, Callback, Client};
use crate::cancel::token::CancellationToken;
use crate::status::outcome::Outcome;
use crate::status::request::ShutdownRequest;
use crate::status::state::{End, TaskCounts, TaskEnd, TaskId};
use crate::task::errand::{Errand, What};
use crate::task::panic::PanicHook;
use crate::task::record::{Birth, Crowd, GroupId, Ledger, OnDrain, Record};

/// The group that holds all others.
pub(crate) const ROOT: GroupId = GroupId(0);

/// How many failures are kept whole; all are counted.
const FAILURES_KEPT: usize = 64;

/// How many threads that are all but gone are left to be joined by the next spawns, before the courier is sent.
///
/// A spawner that joins one gets its stack, still warm, for the thread it is about to start.
const LEFT_TO_SPAWNERS: usize = 16;

/// The books and what every spawn needs beside them.
#[derive(Debug)]
pub(crate) struct Registry {
    books: Monitor<Books>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) request: ShutdownRequest,
    pub(crate) panic_hook: PanicHook,
    pub(crate) phases: Phases,
    max_tasks: usize,
    next_task: AtomicCell<u64>,
    departed: (MailSender<Departed>, MailReceiver<Departed>),
    /// The courier was sent to the departed and has not begun.
    is_courier_sent: AtomicBool,
    courier: MailSender<Errand>,
    /// The callbacks that a stop of this manager set going and that are not over.
    under_way: Mutex<BTreeMap<usize, Arc<Callback>>>,
}

/// A thread that has said its last words and is to be joined.
#[derive(Debug)]
pub(crate) struct Departed {
    record: Arc<Record>,
    thread: JoinHandle<()>,
}

impl Departed {
    /// The name of its task.
    pub(crate) fn path(&self) -> &Arc<str> {
        &self.record.path
    }

    /// The real join, which waits for what is left of the thread; the task is then to be
    /// [struck off](Registry::strike_off).
    pub(crate) fn join(self) -> Arc<Record> {
        // Our closure for std returns `()` and catches everything: there is no result to look at.
        unwind::discard(self.thread.join());
        self.record
    }
}

/// What a manager's builder decides about its registry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    pub(crate) grace: Duration,
    pub(crate) max_tasks: usize,
    pub(crate) history: usize,
    pub(crate) panic_hook: PanicHook,
    pub(crate) phases: Phases,
}

#[cfg(any(test, loom, shuttle))]
impl Settings {
    /// For tests: room for a few, and nothing before the stop.
    pub(crate) fn plain(grace: Duration) -> Self {
        Self {
            grace,
            max_tasks: 8,
            history: 8,
            panic_hook: PanicHook::Leave,
            phases: Phases::default(),
        }
    }
}

/// The times before anybody is asked to stop.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Phases {
    pub(crate) lame_duck: Duration,
    pub(crate) drain: Duration,
}

#[derive(Debug)]
struct Books {
    next_group: u64,
    /// How many are in the crowds of the groups.
    live: usize,
    exiting: Crowd,
    groups: BTreeMap<GroupId, Entry>,
    history: VecDeque<Arc<Record>>,
    history_limit: usize,
    failures: Vec<Arc<Record>>,
    /// Those who were live when the shutdown began: each has a row in the report, whatever the history has room for.
    muster: Vec<Arc<Record>>,
    /// How many groups with live tasks the drain has yet to ask.
    groups_to_ask: usize,
    /// How many live tasks end by themselves when the shutdown begins.
    drainers: usize,
    counts: TaskCounts,
    /// Those who wait for the last task to end.
    idlers: Vec<Arc<Latch>>,
}

/// Whose the failures in a group are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failures {
    /// Those of the group above as well, also when this one is gone.
    OfAllAbove,
    /// Whoever made the group answers for them: a scope or a supervisor, which fails itself if that is what they mean.
    OfItsMaker,
}

/// A group in the books.
#[derive(Debug)]
struct Entry {
    parent: Option<GroupId>,
    token: CancellationToken,
    /// Takes no new tasks.
    refusing: bool,
    /// Was asked to stop by the drain, at this moment.
    asked: Option<Instant>,
    /// Nobody holds the group any more.
    released: bool,
    /// The live ones.
    tasks: Crowd,
    /// How many tasks live in this group and in those below it.
    below: usize,
    /// Those who wait for `below` to become zero.
    idlers: Vec<Arc<Latch>>,
    /// Failures of the group's own tasks and of groups in it that are gone, and how many there were.
    failures: Vec<Arc<Record>>,
    failed: usize,
    failures_are: Failures,
    /// Those who hear of every end in this group and in those below it.
    listeners: Vec<Sender<TaskEnd>>,
    /// The group's own grace.
    grace: Option<Duration>,
    children: BTreeSet<GroupId>,
    /// The children that the drain has not asked yet.
    unasked: BTreeSet<GroupId>,
}

/// Why a task is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Stopping,
    Limit(usize),
    Exiting(usize),
    ProcessLimit(usize),
}

/// A group that the drain asks next.
#[derive(Debug)]
pub(crate) struct StopOrder {
    pub(crate) group: GroupId,
    pub(crate) token: CancellationToken,
    /// Its own grace, or else the longest of its live tasks, if any of them has one.
    pub(crate) grace: Option<Duration>,
    /// Whether it has no grace of its own and some of its tasks have none either.
    pub(crate) some_have_no_grace: bool,
    /// Its live tasks.
    pub(crate) tasks: Vec<Arc<Record>>,
}

/// What the books say at one moment.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// All that there is a record of, in order of creation.
    pub(crate) records: Vec<Arc<Record>>,
    /// The numbers of those who live, in order.
    pub(crate) live: Vec<TaskId>,
    pub(crate) counts: TaskCounts,
}

impl Registry {
    pub(crate) fn new(settings: Settings, courier: MailSender<Errand>) -> Self {
        let root = Entry::new(None, CancellationToken::new());
        let books = Books {
            next_group: ROOT.0 + 1,
            live: 0,
            exiting: Crowd::default(),
            groups: BTreeMap::from([(ROOT, root)]),
            history: VecDeque::new(),
            history_limit: settings.history,
            failures: Vec::new(),
            muster: Vec::new(),
            groups_to_ask: 0,
            drainers: 0,
            counts: TaskCounts::default(),
            idlers: Vec::new(),
        };
        Self {
            books: Monitor::new(books),
            ledger: Ledger::new(),
            request: ShutdownRequest::new(settings.grace),
            panic_hook: settings.panic_hook,
            phases: settings.phases,
            max_tasks: settings.max_tasks,
            next_task: AtomicCell::new(1),
            departed: mailbox(),
            is_courier_sent: AtomicBool::new(false),
            courier,
            under_way: Mutex::new(BTreeMap::new()),
        }
    }

    // ---- tasks ----

    /// Accepts a task or refuses it (2).
    pub(crate) fn register(&self, birth: Birth) -> Result<Arc<Record>, Refusal> {
        let id = TaskId(self.next_task.fetch_add(1));
        let record = Arc::new(Record::new(id, birth, &self.ledger));
        let mut accepted = self.accept(&record);
        if let Err(Refusal::ProcessLimit(_)) = accepted {
            // Threads that are gone count until they are joined, and some of ours were left for the next spawn to join.
            self.join_all_who_are_gone();
            accepted = self.accept(&record);
        }
        accepted.map(|()| record)
    }

    fn accept(&self, record: &Arc<Record>) -> Result<(), Refusal> {
        let mut books = self.books.lock();
        books.admit(record.group, self.max_tasks)?;
        books.enter(record);
        Ok(())
    }

    /// Takes back a task whose thread could not be created.
    pub(crate) fn withdraw(&self, record: &Record) {
        let mut books = self.books.lock();
        books.counts.spawned -= 1;
        let gone = books.leave(record);
        // A shutdown that has begun meanwhile has called it as well. The caller holds it, so nothing is dropped here.
        books.muster.retain(|called| called.id != record.id);
        drop(books);
        limits::release_thread();
        self.announce(&gone);
    }

    /// Writes a task's outcome and closes the books over it. The joiners are let go by [`Record::settle`].
    pub(crate) fn end(&self, record: &Arc<Record>, outcome: Outcome, at: Instant, thread: Thread) {
        let counted = outcome.clone();
        let end = record.end(outcome, at);
        let mut books = self.books.lock();
        books.tell_listeners(record, &counted);
        // Before it leaves: its group may go with it.
        let displaced = counted.is_failure().then(|| books.keep_failure(record));
        let mut gone = books.leave(record);
        gone.evicted = books.close(record, &counted, end, thread);
        drop(books);
        drop(displaced);
        if thread == Thread::NotOurs {
            limits::release_thread();
        }
        self.announce(&gone);
    }

    /// The thread of a task is about to be no more: it is to be joined.
    pub(crate) fn depart(&self, record: &Arc<Record>) {
        if let Some(thread) = record.depart() {
            self.let_go(record, thread);
        }
    }

    /// The spawner brings the join handle of a task's thread.
    pub(crate) fn attach(&self, record: &Arc<Record>, thread: JoinHandle<()>) {
        if let Some(thread) = record.attach(thread) {
            self.let_go(record, thread);
        }
    }

    fn let_go(&self, record: &Arc<Record>, thread: JoinHandle<()>) {
        let record = Arc::clone(record);
        self.line_up(Departed { record, thread });
    }

    /// Lines up a thread to be joined. Whoever takes one out of the line and does not join it lines it up again: the
    /// courier may have looked meanwhile.
    fn line_up(&self, departed: Departed) {
        drop(self.departed.0.send(departed));
        // Looked at after the send: whoever raised the request before it sends the courier himself. Where threads are
        // scarce, another manager may be waiting for this one.
        if self.departed.1.len() >= LEFT_TO_SPAWNERS
            || self.request.latch().is_open()
            || limits::are_threads_scarce()
        {
            self.send_to_departed();
        }
    }

    /// Sends the courier to join those who have departed.
    pub(crate) fn send_to_departed(&self) {
        // AcqRel, here and where it is taken back: who finds the courier sent already is seen by it.
        if !self.is_courier_sent.swap(true, Ordering::AcqRel) {
            self.send(Errand::JoinDeparted);
        }
    }

    /// The courier begins to join the departed; whoever departs from now on sends it again.
    pub(crate) fn courier_is_with_departed(&self) {
        self.is_courier_sent.swap(false, Ordering::AcqRel);
    }

    pub(crate) fn next_departed(&self) -> Option<Departed> {
        self.departed.1.try_recv().ok()
    }

    /// Joins those of the departed with whom that takes no time: for the warden, when the courier hangs.
    pub(crate) fn join_all_who_are_gone(&self) {
        for _ in 0..self.departed.1.len() {
            self.join_one_who_is_gone();
        }
    }

    /// Joins one of the departed, if that takes no time: a spawner's part of the house-keeping.
    pub(crate) fn join_one_who_is_gone(&self) {
        let Some(departed) = self.next_departed() else {
            return;
        };
        if departed.record.tid().is_some_and(thread_id::is_gone) {
            let record = departed.join();
            self.strike_off(&record);
        } else {
            self.line_up(departed);
        }
    }

    /// Takes a task whose thread was joined out of those who are exiting.
    pub(crate) fn strike_off(&self, joined: &Record) {
        let mut books = self.books.lock();
        let gone = books.exiting.leave(joined);
        let news = books.exiting.is_empty();
        drop(books);
        drop(gone);
        limits::release_thread();
        if news {
            self.request.bell().ring();
        }
    }

    /// Has the callbacks of a token run that this manager cancelled. The drain waits for their end.
    pub(crate) fn run_callbacks(self: &Arc<Self>, callbacks: Vec<Arc<Callback>>) {
        if callbacks.is_empty() {
            return;
        }
        let mut under_way = self.under_way.lock();
        let with_key = |callback: &Arc<Callback>| (key_of(callback), Arc::clone(callback));
        under_way.extend(callbacks.iter().map(with_key));
        drop(under_way);
        let client = Arc::clone(self) as Arc<dyn Client>;
        if callback::hand_over(callbacks, Some(&client)).is_err() {
            self.send(Errand::run(What::Callbacks, callback::work_off));
        }
    }

    /// Where the callbacks were registered that were to be run and are not over.
    pub(crate) fn callbacks_under_way(&self) -> Vec<&'static Location<'static>> {
        let under_way = self.under_way.lock();
        let places = under_way.values().map(|it| it.registered_at());
        places.collect()
    }

    pub(crate) fn has_callbacks_under_way(&self) -> bool {
        !self.under_way.lock().is_empty()
    }

    /// The callback that the calling thread runs, if it runs one, is about to wait for the end of the shutdown: that does
    /// not wait for it.
    pub(crate) fn excuse_own_callback(&self) {
        let under_way = self.under_way.lock();
        let all: Vec<_> = under_way.values().map(Arc::clone).collect();
        drop(under_way);
        if let Some(own) = all.iter().find(|callback| callback.is_mine()) {
            self.is_over(own);
        }
    }

    /// Sends the courier; without one, after the manager's end, the errand is dropped.
    pub(crate) fn send(&self, errand: Errand) {
        drop(self.courier.send(errand));
    }

    fn announce(&self, gone: &Gone) {
        gone.idlers.iter().for_each(|idler| {
            idler.open();
        });
        if gone.news_for_drain {
            self.request.bell().ring();
        }
        // The courier looks whether it may go when it comes back from an errand; let this be one.
        if gone.was_last && self.request.latch().is_open() {
            self.send(Errand::Nudge);
        }
    }

    // ---- looking ----

    /// The live tasks, in order of creation.
    pub(crate) fn live(&self) -> Vec<Arc<Record>> {
        let books = self.books.lock();
        let live: Vec<_> = books.live_ones().map(Arc::clone).collect();
        drop(books);
        in_order(live)
    }

    /// Those whose thread is not joined yet, in order of creation.
    pub(crate) fn exiting(&self) -> Vec<Arc<Record>> {
        let books = self.books.lock();
        let exiting: Vec<_> = books.exiting.iter().map(Arc::clone).collect();
        drop(books);
        in_order(exiting)
    }

    /// What the books say of everybody, all at one moment.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let books = self.books.lock();
        let records: Vec<_> = books.all().map(Arc::clone).collect();
        let mut live: Vec<TaskId> = books.live_ones().map(|record| record.id).collect();
        let counts = books.counts();
        drop(books);
        let mut records = in_order(records);
        records.dedup_by_key(|record| record.id);
        live.sort_unstable();
        Snapshot {
            records,
            live,
            counts,
        }
    }

    pub(crate) fn counts(&self) -> TaskCounts {
        self.books.lock().counts()
    }

    pub(crate) fn count_restart(&self) {
        self.books.lock().counts.restarts += 1;
    }

    /// A latch that opens when no task is live; open already if none is.
    pub(crate) fn idle(&self) -> Arc<Latch> {
        let mut books = self.books.lock();
        if books.live == 0 {
            return Arc::new(Latch::already_open());
        }
        let latch = Arc::new(Latch::new());
        // Earlier ones whose waiter has left.
        books.idlers.retain(|idler| Arc::strong_count(idler) > 1);
        books.idlers.push(Arc::clone(&latch));
        latch
    }

    /// The task with this number, while the books hold it.
    pub(crate) fn find(&self, id: TaskId) -> Option<Arc<Record>> {
        let books = self.books.lock();
        let found = books.all().find(|record| record.id == id);
        found.map(Arc::clone)
    }

    // ---- groups ----

    /// Makes a group below `parent`; born refusing if `parent` is (3).
    pub(crate) fn create_group(
        &self,
        parent: GroupId,
        token: &CancellationToken,
        failures_are: Failures,
    ) -> GroupId {
        let mut entry = Entry {
            failures_are,
            ..Entry::new(Some(parent), token.clone())
        };
        let mut books = self.books.lock();
        let id = GroupId(books.next_group);
        books.next_group += 1;
        match books.groups.get_mut(&parent) {
            Some(above) => {
                entry.refusing = above.refusing;
                above.children.insert(id);
                // A group that is born refusing never has a task: there is nobody to ask.
                if !entry.refusing {
                    above.unasked.insert(id);
                }
            }
            // Cannot be while somebody holds the parent (4); a group without one takes nothing.
            None => entry.refusing = true,
        }
        books.groups.insert(id, entry);
        id
    }

    pub(crate) fn root_token(&self) -> CancellationToken {
        self.books
            .lock()
            .groups
            .get(&ROOT)
            .map(|root| root.token.clone())
            .unwrap_or_default()
    }

    /// Nobody holds the group any more (4).
    pub(crate) fn release_group(&self, id: GroupId) {
        if self.ledger.is_forked() {
            return;
        }
        let mut books = self.books.lock();
        if let Some(entry) = books.groups.get_mut(&id) {
            entry.released = true;
        }
        let gone = books.prune(id);
        drop(books);
        drop(gone);
    }

    /// A latch that opens when no task is live in the group and in those below it; open already if none is.
    pub(crate) fn idle_in(&self, id: GroupId) -> Arc<Latch> {
        let mut books = self.books.lock();
        match books.groups.get_mut(&id).filter(|entry| entry.below > 0) {
            Some(entry) => {
                let latch = Arc::new(Latch::new());
                // Earlier ones whose waiter has left.
                entry.idlers.retain(|idler| Arc::strong_count(idler) > 1);
                entry.idlers.push(Arc::clone(&latch));
                latch
            }
            None => Arc::new(Latch::already_open()),
        }
    }

    /// How many tasks live in the group and in those below it.
    pub(crate) fn live_below(&self, id: GroupId) -> usize {
        let books = self.books.lock();
        books.groups.get(&id).map_or(0, |entry| entry.below)
    }

    /// Failures in the group and in those below it for which nobody else answers, in order of creation, and how many there
    /// were.
    pub(crate) fn failures_in(&self, id: GroupId) -> (Vec<Arc<Record>>, usize) {
        let books = self.books.lock();
        let (mut failures, mut failed) = (Vec::new(), 0);
        let mut pending = vec![id];
        while let Some(entry) = pending.pop().and_then(|id| books.groups.get(&id)) {
            failures.extend(entry.failures.iter().map(Arc::clone));
            failed += entry.failed;
            let is_answered = |id: &&GroupId| {
                let child = books.groups.get(id);
                child.is_some_and(|child| child.failures_are == Failures::OfItsMaker)
            };
            pending.extend(entry.children.iter().filter(|id| !is_answered(id)));
        }
        drop(books);
        (in_order(failures), failed)
    }

    /// Whether one group is the other or below it.
    pub(crate) fn is_at_or_below(&self, id: GroupId, other: GroupId) -> bool {
        let books = self.books.lock();
        books.upwards(id).any(|above| above == other)
    }

    /// The token that is cancelled next, or was, if a group takes no tasks: that of the highest of the groups from this one
    /// on whose stop has begun. Where a task is shielded, its scope's own token never is.
    pub(crate) fn stopping_token(&self, id: GroupId) -> Option<CancellationToken> {
        let books = self.books.lock();
        let entries = books.upwards(id).map_while(|id| books.groups.get(&id));
        let stopping = entries.take_while(|entry| entry.refusing).last();
        stopping.map(|entry| entry.token.clone())
    }

    /// Tells of every end in the group and in those below it from now on.
    pub(crate) fn listen(&self, id: GroupId) -> Receiver<TaskEnd> {
        let (sender, receiver) = unbounded();
        let mut books = self.books.lock();
        if let Some(entry) = books.groups.get_mut(&id) {
            entry.listeners.push(sender);
        }
        receiver
    }

    pub(crate) fn set_grace(&self, id: GroupId, grace: Duration) {
        if self.ledger.is_forked() {
            return;
        }
        if let Some(entry) = self.books.lock().groups.get_mut(&id) {
            entry.grace = Some(grace);
        }
    }

    /// From now on nothing is accepted in the group and in those below it (3).
    pub(crate) fn refuse(&self, id: GroupId) {
        if self.ledger.is_forked() {
            return;
        }
        let mut books = self.books.lock();
        let mut pending = vec![id];
        while let Some(id) = pending.pop() {
            if let Some(entry) = books.groups.get_mut(&id) {
                entry.refusing = true;
                pending.extend(&entry.children);
            }
        }
    }

    // ---- the drain's view ----

    /// How many live tasks end by themselves when the shutdown begins.
    pub(crate) fn drainers(&self) -> usize {
        self.books.lock().drainers
    }

    /// Begins the stop of the next group: those below before those above, the youngest first (2). `None` when all
    /// groups were asked and have nothing below them that was not.
    pub(crate) fn begin_next_stop(&self, now: Instant) -> Option<StopOrder> {
        let mut books = self.books.lock();
        let mut id = ROOT;
        loop {
            let entry = books.groups.get(&id)?;
            match entry.unasked.last() {
                Some(below) => id = *below,
                None => break,
            }
        }
        if books.groups.get(&id)?.asked.is_some() {
            return None;
        }
        books.ask(id, now)
    }

    /// Begins the stop of all groups that are left, in one step: the token of the order is above all of them.
    pub(crate) fn begin_every_stop(&self, now: Instant) -> Option<StopOrder> {
        self.books.lock().ask_everybody(now)
    }

    /// How many groups with live tasks the drain has yet to ask.
    pub(crate) fn groups_to_ask(&self) -> usize {
        self.books.lock().groups_to_ask
    }

    /// Whether the stop of a group that is in the books has begun.
    #[cfg(test)]
    pub(crate) fn was_asked(&self, id: GroupId) -> bool {
        let books = self.books.lock();
        books
            .groups
            .get(&id)
            .is_some_and(|entry| entry.asked.is_some())
    }

    /// How many listen to a group that is in the books.
    #[cfg(test)]
    pub(crate) fn listeners(&self, id: GroupId) -> usize {
        let books = self.books.lock();
        books.groups.get(&id).map_or(0, |it| it.listeners.len())
    }

    /// How many tasks of a group have not ended.
    pub(crate) fn live_in(&self, id: GroupId) -> usize {
        self.books
            .lock()
            .groups
            .get(&id)
            .map_or(0, |entry| entry.tasks.len())
    }

    /// The tasks of a group that have not ended.
    pub(crate) fn live_of(&self, id: GroupId) -> Vec<Arc<Record>> {
        let books = self.books.lock();
        let entry = books.groups.get(&id);
        entry.map_or_else(Vec::new, |entry| {
            entry.tasks.iter().map(Arc::clone).collect()
        })
    }

    /// Whether every task has ended and every thread was joined.
    pub(crate) fn is_empty(&self) -> bool {
        let books = self.books.lock();
        books.live == 0 && books.exiting.is_empty()
    }

    /// Keeps the records of all who live now for the report.
    pub(crate) fn call_muster(&self) {
        let mut books = self.books.lock();
        books.muster = books.live_ones().map(Arc::clone).collect();
    }
}

impl Client for Registry {
    fn is_over(&self, callback: &Arc<Callback>) {
        let mut under_way = self.under_way.lock();
        let gone = under_way.remove(&key_of(callback));
        let was_last = gone.is_some() && under_way.is_empty();
        drop(under_way);
        drop(gone);
        if was_last {
            self.request.bell().ring();
        }
    }
}

/// A number that no other callback has while this one exists.
fn key_of(callback: &Arc<Callback>) -> usize {
    Arc::as_ptr(callback).addr()
}

/// What left the books and who wants to know; to be dropped and told after the lock.
#[derive(Debug, Default)]
struct Gone {
    record: Option<Arc<Record>>,
    groups: Vec<Entry>,
    idlers: Vec<Arc<Latch>>,
    news_for_drain: bool,
    /// No task lives any more and every thread was joined.
    was_last: bool,
    evicted: Option<Arc<Record>>,
}

/// How many threads may exist for so many live tasks: some room for those on their way out.
fn most_threads(max_tasks: usize) -> usize {
    max_tasks.saturating_add(max_tasks / 4).saturating_add(64)
}

/// Whether an ended task has a thread that is still to be joined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Thread {
    ToBeJoined,
    /// It never was, or whoever started it joins it.
    NotOurs,
}

fn in_order(mut records: Vec<Arc<Record>>) -> Vec<Arc<Record>> {
    records.sort_unstable_by_key(|record| record.id);
    records
}

impl StopOrder {
    fn new(id: GroupId, group: &Entry, tasks: Vec<Arc<Record>>) -> Self {
        let longest = tasks.iter().filter_map(|record| record.grace).max();
        let some_have_none = tasks.iter().any(|record| record.grace.is_none());
        Self {
            group: id,
            token: group.token.clone(),
            grace: group.grace.or(longest),
            some_have_no_grace: group.grace.is_none() && some_have_none,
            tasks,
        }
    }
}

impl Books {
    fn live_ones(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.groups.values().flat_map(|entry| entry.tasks.iter())
    }

    /// All records, some of them twice.
    fn all(&self) -> impl Iterator<Item = &Arc<Record>> {
        self.live_ones()
            .chain(self.exiting.iter())
            .chain(&self.history)
            .chain(&self.failures)
            .chain(&self.muster)
    }

    fn counts(&self) -> TaskCounts {
        TaskCounts {
            live: self.live as u64,
            ..self.counts
        }
    }

    /// Whether a task may enter the group; then its thread is claimed.
    fn admit(&self, group: GroupId, max_tasks: usize) -> Result<(), Refusal> {
        if self.groups.get(&group).is_none_or(|entry| entry.refusing) {
            return Err(Refusal::Stopping);
        }
        if self.live >= max_tasks {
            return Err(Refusal::Limit(max_tasks));
        }
        if self.threads() >= most_threads(max_tasks) {
            return Err(Refusal::Exiting(self.exiting.len()));
        }
        limits::claim_thread().map_err(Refusal::ProcessLimit)
    }

    /// Threads that exist: those of live tasks and those that are not joined yet.
    fn threads(&self) -> usize {
        self.live + self.exiting.len()
    }

    /// Takes in a task that was [admitted](Self::admit).
    fn enter(&mut self, record: &Arc<Record>) {
        self.counts.spawned += 1;
        if let Some(entry) = self.groups.get_mut(&record.group) {
            self.live += 1;
            self.drainers += usize::from(record.on_drain == OnDrain::Ends);
            self.groups_to_ask += usize::from(entry.is_empty_and_unasked());
            entry.tasks.enter(Arc::clone(record));
        }
        self.climb(record.group, |entry| entry.below += 1);
    }

    /// Visits a group and all above it.
    fn climb(&mut self, id: GroupId, mut visit: impl FnMut(&mut Entry)) {
        let mut next = Some(id);
        while let Some(entry) = next.and_then(|id| self.groups.get_mut(&id)) {
            visit(entry);
            next = entry.parent;
        }
    }

    /// Tells of an end, and takes out those who have stopped listening.
    ///
    /// In the step in which the task leaves: so ends are told in their order, and whoever finds that nobody is left finds
    /// the last end in the channel. A send to it never waits, and what it carries is nothing of the user's.
    fn tell_listeners(&mut self, record: &Record, outcome: &Outcome) {
        let end = || TaskEnd {
            id: record.id,
            name: Arc::clone(&record.path),
            outcome: outcome.clone(),
        };
        self.climb(record.group, |entry| {
            entry
                .listeners
                .retain(|listener| listener.send(end()).is_ok());
        });
    }

    /// A group and all above it.
    fn upwards(&self, id: GroupId) -> impl Iterator<Item = GroupId> {
        std::iter::successors(Some(id), |id| self.groups.get(id)?.parent)
    }

    /// Takes a task out of the live ones.
    fn leave(&mut self, record: &Record) -> Gone {
        let mut gone = Gone::default();
        let Some(entry) = self.groups.get_mut(&record.group) else {
            return gone;
        };
        gone.record = entry.tasks.leave(record);
        if gone.record.is_none() {
            return gone;
        }
        gone.news_for_drain = entry.tasks.is_empty() && entry.asked.is_some();
        self.groups_to_ask -= usize::from(entry.is_empty_and_unasked());
        self.live -= 1;
        if record.on_drain == OnDrain::Ends {
            self.drainers -= 1;
            gone.news_for_drain |= self.drainers == 0;
        }
        self.climb(record.group, |entry| {
            entry.below -= 1;
            if entry.below == 0 {
                gone.idlers.append(&mut entry.idlers);
            }
        });
        gone.groups = self.prune(record.group);
        if self.live == 0 {
            gone.idlers.append(&mut self.idlers);
            gone.was_last = self.exiting.is_empty();
            gone.news_for_drain |= gone.was_last;
        }
        gone
    }

    /// Counts an ended task and puts it where it belongs; gives back what the history has no room for.
    fn close(
        &mut self,
        record: &Arc<Record>,
        outcome: &Outcome,
        end: End,
        thread: Thread,
    ) -> Option<Arc<Record>> {
        self.counts.late += u64::from(end == End::Late);
        self.counts.add(outcome);
        match thread {
            Thread::ToBeJoined => self.exiting.enter(Arc::clone(record)),
            Thread::NotOurs => record.is_without_thread(),
        }
        self.history.push_back(Arc::clone(record));
        if self.history.len() > self.history_limit {
            self.history.pop_front()
        } else {
            None
        }
    }

    /// Keeps a failure for the report and for its group; gives back what that has no room for.
    fn keep_failure(&mut self, record: &Arc<Record>) -> Option<Arc<Record>> {
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(Arc::clone(record));
        }
        let entry = self.groups.get_mut(&record.group)?;
        entry.failed += 1;
        entry.keep(Arc::clone(record))
    }

    fn ask(&mut self, id: GroupId, now: Instant) -> Option<StopOrder> {
        let parent = self.groups.get(&id)?.parent;
        if let Some(above) = parent.and_then(|parent| self.groups.get_mut(&parent)) {
            above.unasked.remove(&id);
        }
        let entry = self.groups.get_mut(&id)?;
        self.groups_to_ask -= usize::from(entry.asked.is_none() && !entry.tasks.is_empty());
        entry.refusing = true;
        entry.asked = Some(now);
        let tasks: Vec<_> = entry.tasks.iter().map(Arc::clone).collect();
        Some(StopOrder::new(id, entry, tasks))
    }

    fn ask_everybody(&mut self, now: Instant) -> Option<StopOrder> {
        let mut tasks = Vec::new();
        for entry in self.groups.values_mut() {
            entry.unasked.clear();
            entry.refusing = true;
            if entry.asked.is_none() {
                entry.asked = Some(now);
                tasks.extend(entry.tasks.iter().map(Arc::clone));
            }
        }
        self.groups_to_ask = 0;
        let root = self.groups.get(&ROOT)?;
        Some(StopOrder::new(ROOT, root, tasks))
    }

    /// Takes out a group that nobody can spawn into and nothing is left of, and then those above it (4).
    fn prune(&mut self, id: GroupId) -> Vec<Entry> {
        let mut gone = Vec::new();
        let mut next = Some(id);
        while let Some(id) = next {
            if !self.groups.get(&id).is_some_and(Entry::is_over) {
                break;
            }
            let Some(mut entry) = self.groups.remove(&id) else {
                break;
            };
            next = entry.parent;
            if let Some(above) = entry.parent.and_then(|parent| self.groups.get_mut(&parent)) {
                above.children.remove(&id);
                above.unasked.remove(&id);
                above.inherit(&mut entry);
            }
            gone.push(entry);
        }
        gone
    }
}

impl Entry {
    fn new(parent: Option<GroupId>, token: CancellationToken) -> Self {
        Self {
            parent,
            token,
            refusing: false,
            asked: None,
            released: false,
            tasks: Crowd::default(),
            below: 0,
            idlers: Vec::new(),
            failures: Vec::new(),
            failed: 0,
            failures_are: Failures::OfAllAbove,
            listeners: Vec::new(),
            grace: None,
            children: BTreeSet::new(),
            unasked: BTreeSet::new(),
        }
    }

    /// Keeps a failure; gives back what it has no room for.
    fn keep(&mut self, failure: Arc<Record>) -> Option<Arc<Record>> {
        if self.failures.len() < FAILURES_KEPT {
            self.failures.push(failure);
            return None;
        }
        // What somebody has read makes room, but for the first: it is the cause of what followed.
        let mut later = self.failures.iter_mut().skip(1);
        match later.find(|kept| !kept.is_unread()) {
            Some(kept) => Some(std::mem::replace(kept, failure)),
            None => Some(failure),
        }
    }

    /// Takes over the failures of a group that is gone; what there is no room for stays with that.
    fn inherit(&mut self, gone: &mut Self) {
        if gone.failures_are == Failures::OfAllAbove {
            self.failed += gone.failed;
            let failures = std::mem::take(&mut gone.failures);
            let too_many = failures.into_iter().filter_map(|it| self.keep(it));
            gone.failures = too_many.collect();
        }
    }

    fn is_empty_and_unasked(&self) -> bool {
        self.asked.is_none() && self.tasks.is_empty()
    }

    /// The root has no parent and stays: the drain starts there.
    fn is_over(&self) -> bool {
        self.released && self.tasks.is_empty() && self.children.is_empty() && self.parent.is_some()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {

    use super::*;

    fn registry() -> Registry {
        let settings = Settings::plain(Duration::MAX);
        let (nobody_listens, _) = mailbox();
        Registry::new(settings, nobody_listens)
    }

    fn register(registry: &Registry) -> Arc<Record> {
        let birth = Birth::plain(ROOT, CancellationToken::new());
        registry.register(birth).expect("there is room")
    }

    #[test]
    fn who_stops_waiting_for_the_last_end_leaves_nothing_behind_and_disturbs_nobody() {
        let registry = registry();
        let task = register(&registry);
        let waiters = [registry.idle(), registry.idle_in(ROOT)];
        for _ in 0..8 {
            drop((registry.idle(), registry.idle_in(ROOT)));
        }
        let books = registry.books.lock();
        // The last to come and go is found by the next.
        assert_eq!(
            (books.idlers.len(), books.groups[&ROOT].idlers.len()),
            (2, 2)
        );
        drop(books);
        registry.withdraw(&task);
        assert!(waiters.iter().all(|latch| latch.is_open()));
    }

    #[test]
    fn a_group_that_nobody_holds_goes_with_the_last_task_and_the_last_group_in_it() {
        let registry = registry();
        let token = CancellationToken::new();
        let outer = registry.create_group(ROOT, &token, Failures::OfAllAbove);
        let inner = registry.create_group(outer, &token, Failures::OfAllAbove);
        registry.release_group(outer);
        let groups = || registry.books.lock().groups.len();
        assert_eq!(groups(), 3, "somebody may spawn into the inner one");
        registry.release_group(inner);
        assert_eq!(groups(), 1);
    }

    #[test]
    fn a_task_without_a_thread_is_taken_out_of_the_muster_and_nobody_else() {
        let registry = registry();
        let (lost, kept) = (register(&registry), register(&registry));
        registry.call_muster();
        registry.withdraw(&lost);
        let ids = |registry: &Registry| -> Vec<TaskId> {
            let records = registry.snapshot().records;
            records.iter().map(|record| record.id).collect()
        };
        assert_eq!(ids(&registry), [kept.id]);
        registry.withdraw(&kept);
        assert_eq!(ids(&registry), []);
    }
}
