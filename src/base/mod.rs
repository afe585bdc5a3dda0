//! What std lacks: overflow-free time, latches, contained panics.

pub(crate) mod time;

pub(crate) mod unwind;

pub(crate) mod text;

#[cfg(not(any(loom, shuttle)))]
pub(crate) mod real;

#[cfg(any(loom, shuttle))]
pub(crate) mod modelled;

pub(crate) mod sync;

pub(crate) mod latch;

pub(crate) mod callsign;

pub(crate) mod log;

pub(crate) mod limits;

pub(crate) mod thread_id;
