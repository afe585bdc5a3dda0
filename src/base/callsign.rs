//! The number and the name of each thread that may hold something.
//!
//! A number is one word: a lock can keep that of its holder and tell it from all others without counting references.
//! The name behind it is looked up by whoever tells a person of it. A thread gets both when it first asks for its
//! number, and its name is struck off when it ends.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::sync::{Ordering, StaticCounter, StaticMutex, THREAD_NUMBER};
use crate::base::text::printable;

/// No number is given twice: half the numbers of a 64-bit word last longer than any process.
static NEXT: StaticCounter = StaticCounter::new(1);

/// The names of the threads that have one. A lock of the whole process, taken once or twice in the life of a thread.
static NAMES: StaticMutex<BTreeMap<usize, Arc<str>>> = StaticMutex::new(BTreeMap::new());

thread_local! {
    static FAREWELL: Farewell = const { Farewell(Cell::new(0)) };
}

/// The number of the calling thread, never zero; `name` is asked when it is new.
#[inline]
pub(crate) fn number(name: impl FnOnce() -> Option<Arc<str>>) -> usize {
    match THREAD_NUMBER.with(Cell::get) {
        0 => introduce(name()),
        number => number,
    }
}

/// The thread with this number, for a person.
pub(crate) fn spoken(number: usize) -> String {
    match name_of(number) {
        Some(name) => format!("`{}`", printable(&name)),
        None => "a thread that has no name or has ended".to_owned(),
    }
}

/// The name of a thread; `None` if it has none or is no more.
fn name_of(number: usize) -> Option<Arc<str>> {
    NAMES.lock().get(&number).cloned()
}

/// The calling thread goes by another name from now on. One that has no number yet is asked for its name with it.
pub(crate) fn rename(name: Option<&Arc<str>>) {
    match THREAD_NUMBER.with(Cell::get) {
        0 => {}
        number => enter(number, name.cloned()),
    }
}

#[cold]
fn introduce(name: Option<Arc<str>>) -> usize {
    // Relaxed: only that it is given once matters.
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    THREAD_NUMBER.with(|place| place.set(number));
    enter(number, name);
    number
}

fn enter(number: usize, name: Option<Arc<str>>) {
    // A thread whose thread-locals are being destroyed could not be struck off any more.
    let can_leave = FAREWELL.try_with(|farewell| farewell.0.set(number)).is_ok();
    let before = match name {
        Some(name) if can_leave => NAMES.lock().insert(number, name),
        _ => NAMES.lock().remove(&number),
    };
    drop(before);
}

/// Strikes the thread off when it ends.
struct Farewell(Cell<usize>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let name = NAMES.lock().remove(&self.0.get());
        drop(name);
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_has_one_number_and_its_latest_name_until_it_ends() {
        let known = thread::spawn(|| {
            rename(Some(&Arc::from("nobody knows this thread yet")));
            let mine = number(|| Some(Arc::from("first")));
            assert_eq!(number(|| unreachable!("it has a number")), mine);
            assert_eq!(name_of(mine).as_deref(), Some("first"));
            rename(Some(&Arc::from("second")));
            assert_eq!(name_of(mine).as_deref(), Some("second"));
            rename(None);
            assert_eq!(name_of(mine), None);
            rename(Some(&Arc::from("third")));
            mine
        });
        let theirs = known.join().expect("it does not panic");
        assert_eq!(name_of(theirs), None, "it is no more");
        assert_ne!(number(|| None), theirs);
    }
}
