//! Pure decisions.

pub(crate) mod failure;
