//! Many tasks under one owner.

pub(crate) mod scope;

pub(crate) mod startup;

pub(crate) mod repeat;

pub(crate) mod supervisor;

pub(crate) mod retry;
