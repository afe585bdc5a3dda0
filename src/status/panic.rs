//! What is kept of a task's panic.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::text::{excerpt, printable};
use crate::base::unwind::{self, Payload};

/// The panic of a task: its message, its place, and where the task was last seen.
///
/// Shared by all who ask about the task; cheap to clone. The payload goes to the first of those who joined and asks for
/// it; it may be anything, so the books keep none.
#[derive(Clone)]
pub struct Panic {
    facts: Arc<Facts>,
    payload: Option<Arc<Remains>>,
}

struct Facts {
    task: Arc<str>,
    message: Option<String>,
    place: Option<Place>,
    last_checkpoint: Option<&'static Location<'static>>,
    attempt: u32,
}

/// What a panic left, until somebody takes it.
struct Remains(Mutex<Option<Payload>>);

/// A line of source, owned: the panic hook only lends its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Place {
    /// The file as the compiler named it.
    pub file: Box<str>,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
}

impl From<&Location<'_>> for Place {
    fn from(location: &Location<'_>) -> Self {
        Self {
            file: location.file().into(),
            line: location.line(),
            column: location.column(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl Panic {
    pub(crate) fn new(
        task: &Arc<str>,
        payload: Payload,
        place: Option<Place>,
        last_checkpoint: Option<&'static Location<'static>>,
        attempt: u32,
    ) -> Self {
        let facts = Facts {
            task: Arc::clone(task),
            message: unwind::message(&*payload).map(excerpt),
            place,
            last_checkpoint,
            attempt,
        };
        Self {
            facts: Arc::new(facts),
            payload: Some(Arc::new(Remains(Mutex::new(Some(payload))))),
        }
    }

    /// The same for the books.
    pub(crate) fn without_payload(&self) -> Self {
        Self {
            facts: Arc::clone(&self.facts),
            payload: None,
        }
    }

    /// The name of the task that panicked.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.facts.task
    }

    /// The text of the panic, with `…` after its first 4 KiB; `None` if its payload was no text.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.facts.message.as_deref()
    }

    /// Where it panicked; `None` if the program replaced or switched off the panic hook that finds out.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.facts.place.as_ref()
    }

    /// The last checkpoint or wait the task had passed.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&'static Location<'static>> {
        self.facts.last_checkpoint
    }

    /// Which run of the task's body it was, from 1 on.
    #[must_use]
    pub fn attempt(&self) -> u32 {
        self.facts.attempt
    }

    /// Takes the payload, for [`std::panic::resume_unwind`] or a downcast; the first of those who joined gets it.
    #[must_use]
    pub fn take_payload(&self) -> Option<Payload> {
        self.payload.as_ref()?.0.lock().take()
    }
}

impl Drop for Remains {
    /// A payload whose own drop panics must not take somebody else's thread with it.
    fn drop(&mut self) {
        let payload = self.0.lock().take();
        unwind::discard(payload);
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panicked")?;
        if self.attempt() > 1 {
            write!(f, " in attempt {}", self.attempt())?;
        }
        if let Some(place) = self.place() {
            write!(f, " at {place}")?;
        }
        match self.message() {
            Some(message) => write!(f, ": {}", printable(message)),
            None => f.write_str(" with a payload that is no text"),
        }
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("task", &self.facts.task)
            .field("message", &self.facts.message)
            .field("place", &self.facts.place)
            .finish_non_exhaustive()
    }
}

impl Error for Panic {}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_books_keep_little_of_a_long_text_and_who_joins_gets_all_of_it() {
        let text = "x".repeat(1 << 20);
        let panic = Panic::new(&Arc::from("task"), Box::new(text.clone()), None, None, 1);
        let message = panic.without_payload().message().map(str::len);
        assert!(message.is_some_and(|bytes| bytes < 5_000), "{message:?}");
        let payload = panic.take_payload().expect("nobody took it");
        assert_eq!(unwind::message(&*payload), Some(&*text));
    }
}
