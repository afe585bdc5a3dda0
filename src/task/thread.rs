//! What the thread of a task does, from its first to its last moment.
//!
//! The order matters: 1. the occupant is the thread's first thread-local, so that it is destroyed last; 2. the body,
//! its captures and its result are gone or in the slot before the outcome is written; 3. the books are closed and the
//! failure is answered before the joiners are let go; 4. the log comes after them: a logger that blocks delays nobody
//! but its own thread; 5. the thread-locals of the task are destroyed; 6. the occupant says that the thread is to be joined.

use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::unwind;
use crate::cancel::cause;
use crate::status::outcome::Outcome;
use crate::status::panic::Panic;
use crate::task::context::{TaskBody, TaskContext};
use crate::task::group::Group;
use crate::task::handle::Slot;
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
        occupant::move_in(self.group.registry(), &self.record);
        cause::act_as(Some(Arc::clone(&self.record.path)));
        self.record.begin();
        self.finish(Thread::ToBeJoined);
        // Who acts on this thread stays as it is: the destructors of thread-locals still act for the task.
    }

    /// Ends a task that was cancelled before it could begin: its body is dropped, no thread is started.
    pub(crate) fn skip(self) {
        self.finish(Thread::NeverStarted);
    }

    fn finish(self, thread: Thread) {
        let Self {
            record,
            group,
            slot,
        } = self;
        let outcome = match slot.take_body() {
            Some(body) => perform(&record, &group, body, &slot),
            None => unreachable!("the body is taken once, by its thread"),
        };
        drop(slot);
        conclude(&record, &group, &outcome, thread);
        unwind::discard(outcome);
    }
}

/// Runs the body, unless the task was cancelled already, and says what became of it.
fn perform<T>(record: &Arc<Record>, group: &Group, body: TaskBody<T>, slot: &Slot<T>) -> Outcome {
    let result = unwind::catch(|| {
        if let Some(cause) = record.token.cause() {
            drop(body);
            return Outcome::Cancelled(cause);
        }
        let context = TaskContext::new(record, group);
        match body(&context) {
            Ok(result) => {
                slot.put(result);
                Outcome::Completed
            }
            Err(error) => match context.own_cancelled(&*error) {
                Some(cancelled) => Outcome::Cancelled(cancelled.cause()),
                None => Outcome::Failed(error.into()),
            },
        }
    });
    result.unwrap_or_else(|payload| {
        Outcome::Panicked(Panic::new(
            &record.path,
            payload,
            panic::take_place(),
            record.pulse.place(),
        ))
    })
}

fn conclude(record: &Arc<Record>, group: &Group, outcome: &Outcome, thread: Thread) {
    let failed = outcome.is_failure();
    group.registry().end(record, outcome.clone(), thread);
    if failed {
        group.answer_failure(record);
    }
    record.settle();
    let level = if failed { Level::Error } else { Level::Debug };
    log::say(level, format_args!("task `{}` {outcome}", record.path));
}
