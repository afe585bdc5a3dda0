//! Many tasks under one owner.

pub(crate) mod scope;

pub(crate) mod startup;

#[cfg(feature = "calendar")]
pub(crate) mod calendar;

pub(crate) mod repeat;

pub(crate) mod hands;

pub(crate) mod supervisor;

pub(crate) mod timetable;

pub(crate) mod retry;

#[cfg(test)]
mod long_hours;
