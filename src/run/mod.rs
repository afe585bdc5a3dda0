//! Many tasks under one owner.

pub(crate) mod scope;
