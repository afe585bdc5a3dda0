//! A logger for roles, in a process of their own: it remembers what was said, and may do something with each line.

use std::sync::{Mutex, MutexGuard, PoisonError};

use log::{Level, LevelFilter, Log, Metadata, Record};

struct Logger {
    on_line: fn(&str),
    lines: Mutex<Vec<(Level, String)>>,
}

impl Logger {
    fn lines(&self) -> MutexGuard<'_, Vec<(Level, String)>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for Logger {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let line = record.args().to_string();
        self.lines().push((record.level(), line.clone()));
        (self.on_line)(&line);
    }

    fn flush(&self) {
        (self.on_line)("flush");
    }
}

/// What was said so far.
pub(crate) struct Said(&'static Logger);

/// Installs the logger, with what it does for each line and at its flush.
pub(crate) fn install(on_line: fn(&str)) -> Said {
    let logger = Box::leak(Box::new(Logger {
        on_line,
        lines: Mutex::new(Vec::new()),
    }));
    log::set_logger(logger).expect("the only one of this process");
    log::set_max_level(LevelFilter::Trace);
    Said(logger)
}

/// A logger that does nothing but remember.
pub(crate) fn listen() -> Said {
    install(|_| {})
}

impl Said {
    /// The lines that contain these words, and how loudly they were said.
    pub(crate) fn with(&self, words: &str) -> Vec<(Level, String)> {
        let lines = self.0.lines();
        let wanted = lines.iter().filter(|(_, line)| line.contains(words));
        wanted.cloned().collect()
    }
}
