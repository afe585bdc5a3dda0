//! Pure decisions: time and randomness are passed in.

pub(crate) mod random;

pub(crate) mod error;

pub(crate) mod failure;

pub(crate) mod permanent;

pub(crate) mod backoff;

pub(crate) mod intensity;

pub(crate) mod verdict;

pub(crate) mod restart;

pub(crate) mod schedule;

pub(crate) mod ticks;
