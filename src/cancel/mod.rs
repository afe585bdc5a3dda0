//! Asking a thread to stop: token tree, cause, checkpoint, waits.

pub(crate) mod cause;

pub(crate) mod callback;

pub(crate) mod timer;

pub(crate) mod children;

pub(crate) mod node;

pub(crate) mod cancelled;

pub(crate) mod checkpoint;

pub(crate) mod token;

pub(crate) mod wait;

pub(crate) mod on_cancel;

pub(crate) mod deadline;
