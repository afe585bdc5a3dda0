//! The task that runs on a thread, and its farewell.

use std::cell::RefCell;
use std::sync::Arc;

use crate::task::record::Record;
use crate::task::registry::Registry;

thread_local! {
    static OCCUPANT: RefCell<Option<Occupant>> = const { RefCell::new(None) };
}

/// Whose thread this is. Dropped with the thread's other thread-locals, it says that the thread is all but gone.
struct Occupant {
    registry: Arc<Registry>,
    record: Arc<Record>,
}

impl Drop for Occupant {
    fn drop(&mut self) {
        self.registry.depart(&self.record);
    }
}

/// Gives the calling thread to a task.
///
/// Must be the first use of a thread-local with a destructor on its thread: std destroys them in reverse order, so
/// that this one goes last.
pub(crate) fn move_in(registry: &Arc<Registry>, record: &Arc<Record>) {
    let occupant = Occupant {
        registry: Arc::clone(registry),
        record: Arc::clone(record),
    };
    OCCUPANT.with_borrow_mut(|place| *place = Some(occupant));
}

/// The task that runs on the calling thread.
pub(crate) fn current() -> Option<Arc<Record>> {
    let record = |occupant: &Option<Occupant>| Some(Arc::clone(&occupant.as_ref()?.record));
    OCCUPANT
        .try_with(|occupant| record(&occupant.borrow()))
        .ok()
        .flatten()
}
