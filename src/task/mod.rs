//! One task and its group, from before its thread until after it.

pub(crate) mod spec;

pub(crate) mod panic;

pub(crate) mod errand;

pub(crate) mod record;

pub(crate) mod registry;

pub(crate) mod group;

pub(crate) mod context;

pub(crate) mod occupant;

pub(crate) mod section;

pub(crate) mod loops;

pub(crate) mod handle;

pub(crate) mod gather;

pub(crate) mod thread;

pub(crate) mod spawner;
