//! The task that runs on a thread, and its farewell.

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::panic::Location;
use std::sync::Arc;

use crate::cancel::cancelled::Cancelled;
use crate::task::context::TaskContext;
use crate::task::record::Record;

thread_local! {
    static OCCUPANT: RefCell<Option<Occupant>> = const { RefCell::new(None) };
}

/// Whose thread this is. Dropped with the thread's other thread-locals, it says that the thread is all but gone.
struct Occupant {
    /// That of the innermost section; `None` in the occupant's last moments.
    context: Option<TaskContext>,
}

impl Drop for Occupant {
    fn drop(&mut self) {
        let Some(context) = self.context.take() else {
            return;
        };
        let record = context.record();
        // Who was forked has not told the log of its end; to ask for it costs a call into the kernel.
        if !record.is_past_logger() && record.ledger().is_forked() {
            // Whatever it holds is another process's, and behind locks that may be held for ever.
            let _left = ManuallyDrop::new(context);
            return;
        }
        let (registry, record) = (
            Arc::clone(context.group().registry()),
            Arc::clone(context.record()),
        );
        // It holds the token: whether anybody else does is seen without it.
        drop(context);
        record.token.retire();
        registry.depart(&record);
    }
}

/// Gives the calling thread to a task.
///
/// Must be the first use of a thread-local with a destructor on its thread: std destroys them in reverse order, so
/// that this one goes last.
pub(crate) fn move_in(context: TaskContext) {
    let context = Some(context);
    OCCUPANT.with_borrow_mut(|place| *place = Some(Occupant { context }));
}

/// Makes `context` the current one of the task on this thread, and gives the one before it; `None` elsewhere.
pub(crate) fn exchange(context: TaskContext) -> Option<TaskContext> {
    let exchanged = OCCUPANT.try_with(|place| {
        let mut place = place.try_borrow_mut().ok()?;
        let present = place.as_mut()?.context.as_mut()?;
        let is_same_task = Arc::ptr_eq(present.record(), context.record());
        is_same_task.then(|| std::mem::replace(present, context))
    });
    exchanged.ok().flatten()
}

/// The record of the task that runs on the calling thread.
pub(crate) fn current_record() -> Option<Arc<Record>> {
    look(|context| Arc::clone(context.record()))
}

/// The context of the task that runs on the calling thread: for code deep in a call stack that was not handed one.
///
/// `None` on threads that are not a task's, the helper threads of a task included. The destructors of a task's own
/// thread-locals still find it. Inside [`with_timeout`](TaskContext::with_timeout) and
/// [`shield`](TaskContext::shield) it is the context of the innermost of them.
///
/// ```
/// use taskmuster::Manager;
///
/// fn deep_down() -> Option<String> {
///     taskmuster::current().map(|ctx| ctx.name().to_owned())
/// }
///
/// let report = Manager::builder().run(|manager| {
///     assert_eq!(deep_down(), None);
///     let deep = manager.spawn("diver", |_| Ok(deep_down()))?;
///     assert_eq!(deep.join()?.as_deref(), Some("diver"));
///     Ok(())
/// });
/// assert!(report.is_clean());
/// ```
#[must_use]
pub fn current() -> Option<TaskContext> {
    look(TaskContext::another)
}

/// The [checkpoint](TaskContext::checkpoint) of the task that runs on the calling thread; `Ok` on all other threads.
///
/// For code deep in a call stack that was not handed a context. Where there is one, its own checkpoint is faster still.
///
/// # Errors
/// [`Cancelled`] once the task was asked to stop.
#[inline]
#[track_caller]
pub fn checkpoint() -> Result<(), Cancelled> {
    let place = Location::caller();
    let result = OCCUPANT.try_with(|occupant| match &*occupant.borrow() {
        Some(Occupant {
            context: Some(context),
        }) => context.checkpoint_at(place),
        _ => Ok(()),
    });
    result.unwrap_or(Ok(()))
}

fn look<R>(at: impl FnOnce(&TaskContext) -> R) -> Option<R> {
    let looked =
        OCCUPANT.try_with(|occupant| Some(at(occupant.borrow().as_ref()?.context.as_ref()?)));
    looked.ok().flatten()
}
