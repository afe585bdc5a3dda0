//! Panics of foreign code, caught and disposed of.
//!
//! A value whose `Drop` panics is dangerous twice: inside std's thread packet it aborts the process, and a panic
//! payload may itself panic when dropped. So whatever user code gave us is dropped here.

use std::any::Any;
use std::panic::{self, AssertUnwindSafe};

/// What a panic carried.
pub(crate) type Payload = Box<dyn Any + Send>;

/// Runs `f` and catches its panic.
///
/// Users are never asked for `UnwindSafe`: what a panicking closure leaves half done is either dropped with it or
/// behind their own locks.
pub(crate) fn catch<T>(f: impl FnOnce() -> T) -> Result<T, Payload> {
    panic::catch_unwind(AssertUnwindSafe(f))
}

/// Drops `value`; `false` if its destructor panicked.
pub(crate) fn discard<T>(value: T) -> bool {
    contain(move || drop(value))
}

/// A value of the user's that somebody else's code may drop: its panic stays here.
pub(crate) struct Contained<T>(Option<T>);

impl<T> Contained<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Some(value))
    }

    pub(crate) fn take(mut self) -> Option<T> {
        self.0.take()
    }
}

impl<T> Drop for Contained<T> {
    fn drop(&mut self) {
        discard(self.0.take());
    }
}

/// Runs `f` for its effect; `false` if it panicked.
pub(crate) fn contain(f: impl FnOnce()) -> bool {
    match catch(f) {
        Ok(()) => true,
        Err(payload) => {
            bury(payload);
            false
        }
    }
}

/// Continues a panic on this thread.
pub(crate) fn resume(payload: Payload) -> ! {
    panic::resume_unwind(payload)
}

/// Drops a payload; leaks the second one if that panics as well.
#[expect(clippy::mem_forget, reason = "dropping it could panic for ever")]
fn bury(payload: Payload) {
    if let Err(second) = catch(move || drop(payload)) {
        std::mem::forget(second);
    }
}

/// The text of a panic, if it had one.
pub(crate) fn message(payload: &(dyn Any + Send)) -> Option<&str> {
    payload
        .downcast_ref::<&'static str>()
        .copied()
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic::panic_any(Fuse);
        }
    }

    struct Fuse;

    impl Drop for Fuse {
        fn drop(&mut self) {
            panic!("the payload panics too");
        }
    }

    #[test]
    fn a_value_whose_drop_panics_with_a_payload_whose_drop_panics_is_contained() {
        assert!(!discard(Bomb));
        assert!(discard(7));
        drop(Contained::new(Bomb));
        assert_eq!(Contained::new(7).take(), Some(7));
    }

    #[test]
    fn the_message_of_a_panic_is_found_in_both_of_its_usual_forms() {
        let literal = catch(|| panic!("literal")).unwrap_err();
        let number = 3;
        let formatted = catch(|| panic!("formatted {number}")).unwrap_err();
        let other = catch(|| panic::panic_any(7_u8)).unwrap_err();
        assert_eq!(message(&*literal), Some("literal"));
        assert_eq!(message(&*formatted), Some("formatted 3"));
        assert_eq!(message(&*other), None);
    }
}
