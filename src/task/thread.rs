//! What the thread of a task does, from its first to its last moment.
//!
//! The order matters: 1. the farewell is the thread's first thread-local, so that it is destroyed last; 2. the body,
//! its captures and its result are gone or in the slot before the outcome is written; 3. the books are closed and the
//! failure is answered before the joiners are let go; 4. the log comes after them: a logger that blocks delays nobody
//! but its own thread; 5. the thread-locals of the task are destroyed; 6. the farewell sends the courier to join.

use std::cell::RefCell;
use std::error::Error;
use std::sync::Arc;

use crate::base::log::{self, Level};
use crate::base::unwind;
use crate::cancel::cause;
use crate::status::outcome::Outcome;
use crate::status::panic::Panic;
use crate::task::context::TaskContext;
use crate::task::group::Group;
use crate::task::handle::Slot;
use crate::task::panic;
use crate::task::record::{self, Record};
use crate::task::registry::{Registry, Thread};

/// Any error a task may end with.
pub type BoxError = Box<dyn Error + Send + Sync>;

/// What a task returns.
pub type TaskResult<T = ()> = Result<T, BoxError>;

/// A task's closure, boxed: what [`SpawnError`](crate::SpawnError) gives back.
pub type TaskBody<T> = Box<dyn FnOnce(&TaskContext) -> TaskResult<T> + Send>;

/// A task on its way to its thread.
pub(crate) struct Job<T> {
    pub(crate) record: Arc<Record>,
    pub(crate) group: Group,
    pub(crate) body: TaskBody<T>,
    pub(crate) value: Arc<Slot<T>>,
}

impl<T> Job<T> {
    /// The whole life of the thread.
    pub(crate) fn run(self) {
        let Self {
            record,
            group,
            body,
            value,
        } = self;
        promise_farewell(&record, &group);
        panic::watch_this_thread();
        cause::act_as(Some(Arc::clone(&record.path)));
        record::set_current(Some(Arc::clone(&record)));
        record.begin();

        let outcome = perform(&record, &group, body, &value);
        drop(value);
        conclude(&record, &group, &outcome, Thread::ToBeJoined);
        unwind::discard(outcome);
        // Who acts on this thread stays as it is: the destructors of thread-locals still act for the task.
    }

    /// Ends a task that was cancelled before it could begin: its body is dropped, no thread is started.
    pub(crate) fn skip(self) {
        let Self {
            record,
            group,
            body,
            value,
        } = self;
        let outcome = perform(&record, &group, body, &value);
        conclude(&record, &group, &outcome, Thread::NeverStarted);
        unwind::discard(outcome);
    }
}

/// Runs the body, unless the task was cancelled already, and says what became of it.
fn perform<T>(record: &Arc<Record>, group: &Group, body: TaskBody<T>, value: &Slot<T>) -> Outcome {
    let result = unwind::catch(|| {
        if let Some(cause) = record.token.cause() {
            drop(body);
            return Outcome::Cancelled(cause);
        }
        let context = TaskContext::new(record, group);
        match body(&context) {
            Ok(result) => {
                value.put(result);
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

thread_local! {
    static FAREWELL: RefCell<Option<Farewell>> = const { RefCell::new(None) };
}

/// Says that the thread is all but gone, when the thread-locals are destroyed.
struct Farewell {
    registry: Arc<Registry>,
    record: Arc<Record>,
}

/// Must be the first use of a thread-local with a destructor on its thread: std destroys them in reverse order.
fn promise_farewell(record: &Arc<Record>, group: &Group) {
    let farewell = Farewell {
        registry: Arc::clone(group.registry()),
        record: Arc::clone(record),
    };
    FAREWELL.with_borrow_mut(|place| *place = Some(farewell));
}

impl Drop for Farewell {
    fn drop(&mut self) {
        self.registry.depart(&self.record);
    }
}
