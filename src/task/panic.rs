//! The process-wide hook that learns where our threads panic.
//!
//! A caught panic does not say where it happened; only the hook is told. Ours is installed by the first spawn, touches
//! only the threads of tasks, and always calls the one before it. If the program replaces it later, the place is
//! missing from reports and the last checkpoint serves.

use std::any::{Any, TypeId};
use std::cell::RefCell;
use std::panic;
use std::sync::Once;

use crate::base::sync;
use crate::base::text::excerpt;
use crate::base::unwind;
use crate::cancel::cause;
use crate::status::panic::Place;

/// Whether the library may chain into the process-wide panic hook, to learn where a task panicked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PanicHook {
    /// Install a hook that notes the place and calls the hook that was there before.
    #[default]
    Chain,
    /// Leave the hook alone: panics are reported without their place.
    Leave,
}

thread_local! {
    /// What the hook leaves behind on this thread.
    static LAST: RefCell<Option<Note>> = const { RefCell::new(None) };
}

struct Note {
    place: Option<Place>,
    looks: Looks,
}

/// What tells one panic from another: a panic that was resumed has gone past no hook, and must not be given the place
/// of an older one.
#[derive(PartialEq, Eq)]
struct Looks {
    kind: TypeId,
    message: Option<String>,
}

impl Looks {
    fn of(payload: &(dyn Any + Send)) -> Self {
        Self {
            kind: payload.type_id(),
            message: unwind::message(payload).map(excerpt),
        }
    }
}

/// Chains our hook into the process, once.
pub(crate) fn install_hook() {
    static INSTALLED: Once = Once::new();
    // std refuses to change the hook on a thread that is unwinding; a later spawn will do it.
    if INSTALLED.is_completed() || sync::is_panicking() {
        return;
    }
    INSTALLED.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if cause::is_acting() {
                let place = info.location().map(Place::from);
                let looks = Looks::of(info.payload());
                drop(replace(Some(Note { place, looks })));
            }
            before(info);
        }));
    });
}

/// The place of the panic that was just caught on this thread, if the hook has seen it.
pub(crate) fn take_place(payload: &(dyn Any + Send)) -> Option<Place> {
    let note = replace(None)?;
    (note.looks == Looks::of(payload)).then_some(note.place)?
}

/// The same, left in its place for who catches it next.
pub(crate) fn place_of(payload: &(dyn Any + Send)) -> Option<Place> {
    let note = replace(None)?;
    let place = (note.looks == Looks::of(payload)).then(|| note.place.clone());
    drop(replace(Some(note)));
    place?
}

fn replace(note: Option<Note>) -> Option<Note> {
    let before = LAST.try_with(|last| {
        let mut last = last.try_borrow_mut().ok()?;
        std::mem::replace(&mut *last, note)
    });
    before.ok().flatten()
}
