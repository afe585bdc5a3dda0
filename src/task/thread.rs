//! What the thread of a task does, from its first to its last moment.
//!
//! A task that was cancelled before it could begin has one as well: the drop of its body is foreign code, which may
//! wait for its own group and must then be found to be the task.
//!
//! The order matters: 1. the occupant is the thread's first thread-local, so that it is destroyed last; 2. the body,
//! its captures and its result are gone or in the slot before the outcome is written; 3. the failure is answered
//! and the books are closed before the joiners are let go; 4. the log comes after them: a logger that blocks delays nobody
//! but its own thread; 5. the thread-locals of the task are destroyed; 6. the occupant says that the thread is to be joined.

use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::time;
use crate::base::unwind;
use crate::cancel::cause;
use crate::status::outcome::{Failure, Outcome};
use crate::status::panic::Panic;
use crate::task::context::{TaskContext, TaskResult};
use crate::task::group::Group;
use crate::task::handle::{Content, Slot};
use crate::task::occupant;
use crate::task::panic;
use crate::task::record::Record;
use crate::task::registry::Thread;

/// A task on its way to its thread; its body waits in the slot.
pub(crate) struct Job<T> {
    pub(crate) record: Arc<Record>,
    pub(crate) group: Group,
    pub(crate) slot: Arc<Slot<T>>,
}

impl<T> Job<T> {
    /// The whole life of the thread.
    pub(crate) fn run(self) {
        self.begin();
        match self.slot.take_body() {
            Some(body) => self.finish(Thread::ToBeJoined, body),
            None => unreachable!("the body is taken once, by its thread"),
        }
        // Who acts on this thread stays as it is: the destructors of thread-locals still act for the task.
    }

    /// The whole life of a thread that somebody else joins, and of a body that may borrow.
    pub(crate) fn run_borrowing(self, body: impl FnOnce(&TaskContext) -> TaskResult<T>) {
        self.begin();
        self.finish(Thread::NotOurs, body);
    }

    fn begin(&self) {
        occupant::move_in(TaskContext::new(&self.record, &self.group));
        cause::act_as(Some(Arc::clone(&self.record.path)));
        self.record.begin();
    }

    fn finish(self, thread: Thread, body: impl FnOnce(&TaskContext) -> TaskResult<T>) {
        let Self {
            record,
            group,
            slot,
        } = self;
        let outcome = perform(&record, &group, &slot, body);
        drop(slot);
        conclude(&record, &group, &outcome, thread);
    }
}

/// Runs the body, unless the task was cancelled already, leaves in the slot what is for those who join, and says what
/// is for the books.
fn perform<T>(
    record: &Arc<Record>,
    group: &Group,
    slot: &Slot<T>,
    body: impl FnOnce(&TaskContext) -> TaskResult<T>,
) -> Outcome {
    match unwind::catch(|| end_of_body(record, group, slot, body)) {
        Ok(outcome) => outcome,
        Err(payload) => {
            let place = panic::take_place(&*payload);
            let (seen, attempt) = (record.pulse.place(), record.attempt());
            let panic = Panic::new(&record.path, payload, place, seen, attempt);
            let outcome = Outcome::Panicked(panic.without_payload());
            slot.put(Content::Panic(panic));
            outcome
        }
    }
}

fn end_of_body<T>(
    record: &Arc<Record>,
    group: &Group,
    slot: &Slot<T>,
    body: impl FnOnce(&TaskContext) -> TaskResult<T>,
) -> Outcome {
    if let Some(cause) = record.token.cause() {
        drop(body);
        return Outcome::Cancelled(cause);
    }
    let context = TaskContext::new(record, group);
    match body(&context) {
        Ok(value) => {
            slot.put(Content::Value(value));
            Outcome::Completed
        }
        Err(error) => {
            // In a fork nobody is asked whose cancel this is: tokens have locks, which may be held for ever.
            if record.ledger().is_forked() {
                unwind::discard(error);
                return Outcome::Completed;
            }
            if let Some(cancelled) = context.own_cancelled(&*error) {
                return Outcome::Cancelled(cancelled.cause());
            }
            let outcome = Outcome::Failed(Failure::of(&*error));
            slot.put(Content::Error(error.into()));
            outcome
        }
    }
}

fn conclude(record: &Arc<Record>, group: &Group, outcome: &Outcome, thread: Thread) {
    if record.ledger().is_forked() {
        // The books are those of another process: this copy of the thread ends without them.
        return;
    }
    let failed = outcome.is_failure();
    // Before the answer: what it makes of others comes later than this.
    let ended_at = time::now();
    // Before the books announce the end: who is woken because nobody is left must find the request of a critical task.
    if failed {
        group.answer_failure(record);
    }
    group
        .registry()
        .end(record, outcome.clone(), ended_at, thread);
    record.settle();
    let level = if failed { Level::Error } else { Level::Debug };
    log::say(level, format_args!("task `{}` {outcome}", record.path));
    record.leave_logger();
}
