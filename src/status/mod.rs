//! What is known of tasks and of the shutdown, and who is told.

pub(crate) mod panic;

pub(crate) mod outcome;

pub(crate) mod state;

pub(crate) mod request;
