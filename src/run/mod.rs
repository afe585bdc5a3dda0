//! Many tasks under one owner.

pub(crate) mod scope;

pub(crate) mod startup;
