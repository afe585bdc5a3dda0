//! What is kept of a task's panic.

use std::error::Error;
use std::fmt;
use std::panic::Location;
use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::unwind::{self, Payload};

/// The panic of a task: its message, its place, and where the task was last seen.
///
/// Shared by all who ask about the task; cheap to clone.
#[derive(Clone)]
pub struct Panic(Arc<Inner>);

struct Inner {
    task: Arc<str>,
    message: Option<String>,
    place: Option<Place>,
    last_checkpoint: Option<&'static Location<'static>>,
    payload: Mutex<Option<Payload>>,
}

/// A line of source, owned: the panic hook only lends its own.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
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
    ) -> Self {
        let message = unwind::message(&*payload).map(str::to_owned);
        let payload = Mutex::new(Some(payload));
        Self(Arc::new(Inner {
            task: Arc::clone(task),
            message,
            place,
            last_checkpoint,
            payload,
        }))
    }

    /// The name of the task that panicked.
    #[must_use]
    pub fn task(&self) -> &str {
        &self.0.task
    }

    /// The text of the panic; `None` if its payload was no text.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Where it panicked; `None` if the program replaced or switched off the panic hook that finds out.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.0.place.as_ref()
    }

    /// The last checkpoint or wait the task had passed.
    #[must_use]
    pub fn last_checkpoint(&self) -> Option<&'static Location<'static>> {
        self.0.last_checkpoint
    }

    /// Takes the payload, for [`std::panic::resume_unwind`] or a downcast; the first caller gets it.
    #[must_use]
    pub fn take_payload(&self) -> Option<Payload> {
        self.0.payload.lock().take()
    }
}

impl Drop for Inner {
    /// A payload whose own drop panics must not take somebody else's thread with it.
    fn drop(&mut self) {
        let payload = self.payload.lock().take();
        unwind::discard(payload);
    }
}

impl fmt::Display for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("panicked")?;
        if let Some(place) = self.place() {
            write!(f, " at {place}")?;
        }
        match self.message() {
            Some(message) => write!(f, ": {message}"),
            None => f.write_str(" with a payload that is no text"),
        }
    }
}

impl fmt::Debug for Panic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Panic")
            .field("task", &self.0.task)
            .field("message", &self.0.message)
            .field("place", &self.0.place)
            .finish_non_exhaustive()
    }
}

impl Error for Panic {}
