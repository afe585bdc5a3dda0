//! What std lacks: overflow-free time, latches, contained panics.

pub(crate) mod time;

pub(crate) mod unwind;

pub(crate) mod text;

pub(crate) mod sync;

pub(crate) mod latch;

pub(crate) mod callsign;

pub(crate) mod log;

pub(crate) mod limits;

pub(crate) mod thread_id;
