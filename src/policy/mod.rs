//! Pure decisions: time and randomness are passed in.

#[cfg_attr(not(test), expect(dead_code, reason = "no task has a policy yet"))]
pub(crate) mod random;

pub(crate) mod error;

pub(crate) mod failure;

pub(crate) mod permanent;

pub(crate) mod backoff;

pub(crate) mod intensity;

#[cfg_attr(not(test), expect(dead_code, reason = "no task has a policy yet"))]
pub(crate) mod verdict;

#[cfg_attr(not(test), expect(dead_code, reason = "no task has a policy yet"))]
pub(crate) mod restart;

pub(crate) mod schedule;

#[cfg_attr(not(test), expect(dead_code, reason = "no task has a policy yet"))]
pub(crate) mod ticks;
