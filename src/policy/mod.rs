//! Pure decisions: time and randomness are passed in.

#[cfg_attr(not(test), expect(dead_code, reason = "no task has a policy yet"))]
pub(crate) mod random;

pub(crate) mod failure;
