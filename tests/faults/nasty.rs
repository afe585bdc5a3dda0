//! Values and errors that misbehave.

use std::any::Any;
use std::error::Error;
use std::fmt;
use std::panic;

/// Does something when it is dropped.
pub(crate) struct OnDrop(Box<dyn FnMut() + Send + Sync>);

impl OnDrop {
    pub(crate) fn new(on_drop: impl FnMut() + Send + Sync + 'static) -> Self {
        Self(Box::new(on_drop))
    }
}

impl Drop for OnDrop {
    fn drop(&mut self) {
        (self.0)();
    }
}

/// Panics when it is dropped, with a payload that does the same so many times over.
#[derive(Debug)]
pub(crate) struct Bomb(pub(crate) u8);

impl Drop for Bomb {
    fn drop(&mut self) {
        match self.0.checked_sub(1) {
            Some(left) => panic::panic_any(Bomb(left)),
            None => panic!("a bomb went off"),
        }
    }
}

/// An error that hides things which are dropped with it.
pub(crate) struct Loaded<T>(pub(crate) T);

impl<T> fmt::Debug for Loaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Loaded")
    }
}

impl<T> fmt::Display for Loaded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a loaded error")
    }
}

impl<T> Error for Loaded<T> {}

/// What a panic says, if it says something.
pub(crate) fn text_of(payload: &(dyn Any + Send)) -> Option<&str> {
    let literal = payload.downcast_ref::<&'static str>().copied();
    literal.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

/// Keeps the panic hook from printing what bombs have to say.
pub(crate) fn silence_bombs() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_bomb =
            info.payload().is::<Bomb>() || text_of(info.payload()) == Some("a bomb went off");
        if !is_bomb {
            before(info);
        }
    }));
}
