//! The one way out for words: the `log` facade.
//!
//! The library never prints. A logger is user code: it may block or panic, so no lock of ours is ever held here,
//! and its panic stays here.

use std::fmt;

pub(crate) use log::Level;

use crate::base::unwind;

/// Logs one line under the target `taskmuster`.
pub(crate) fn say(level: Level, line: fmt::Arguments<'_>) {
    if level <= log::max_level() {
        unwind::contain(|| log::log!(target: "taskmuster", level, "{line}"));
    }
}

/// Asks the logger to write out what it holds back.
pub(crate) fn flush() {
    unwind::contain(|| log::logger().flush());
}
