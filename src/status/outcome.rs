//! What the books say of a task that ended.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::base::text::{excerpt, printable};
use crate::base::unwind;
use crate::cancel::cause::Cause;
use crate::status::panic::Panic;

/// An error of a task, shared by everybody who joins it.
pub type SharedError = Arc<dyn Error + Send + Sync>;

/// What is kept of a task's error: the words of it and of its sources, on one line, and `…` after the first 4 KiB.
///
/// The error itself belongs to those who join ([`JoinError::Failed`](crate::JoinError::Failed)): it may hold anything,
/// and the books hold nothing of the user's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(Arc<str>);

impl Failure {
    pub(crate) fn of(error: &(dyn Error + 'static)) -> Self {
        Self(chain(error).into())
    }

    /// The words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error for Failure {}

/// What became of a task; shared by all who ask, cheap to clone.
///
/// The value of a completed task is not here: it belongs to whoever joins.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Outcome {
    /// It returned `Ok`.
    Completed,
    /// It returned an error that was not its own cancellation.
    Failed(Failure),
    /// It panicked.
    Panicked(Panic),
    /// It heard that it was asked to stop, and returned; or it was cancelled before it began.
    Cancelled(Cause),
    /// The shutdown ended without it. Its thread may still run; if it ends after all, that becomes its outcome.
    Abandoned,
}

impl Outcome {
    /// Whether it is an error or a panic: what somebody should look at.
    #[must_use]
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::Failed(_) | Self::Panicked(_))
    }

    /// One word for a table.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed(_) => "failed",
            Self::Panicked(_) => "panicked",
            Self::Cancelled(_) => "cancelled",
            Self::Abandoned => "ABANDONED",
        }
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(failure) => write!(f, "failed: {failure}"),
            Self::Panicked(panic) => write!(f, "{panic}"),
            Self::Cancelled(cause) => write!(f, "cancelled: {cause}"),
            Self::Completed | Self::Abandoned => f.write_str(self.word()),
        }
    }
}

/// How much of a chain of errors is printed.
const CHAIN: usize = 16;

/// An error and its sources on one line, without those that only repeat what was said.
///
/// `Display` of an error is user code; its panic stays here.
pub(crate) fn chain(error: &(dyn Error + 'static)) -> String {
    unwind::catch(|| {
        let mut line = one_line(error);
        for source in std::iter::successors(error.source(), |&error| error.source()).take(CHAIN) {
            let words = one_line(source);
            if !line.ends_with(&words) {
                line = excerpt(format_args!("{line}: {words}"));
            }
        }
        line
    })
    .unwrap_or_else(|payload| {
        unwind::discard(payload);
        "an error whose Display panics".to_owned()
    })
}

/// What is kept of the error's text, without line breaks and other control characters, which could forge lines of a log.
fn one_line(error: &dyn Error) -> String {
    printable(&excerpt(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot read the list")]
    struct Outer(#[source] std::io::Error);

    #[test]
    fn a_chain_of_errors_is_one_line_without_repetitions() {
        let inner = std::io::Error::other("disk\non fire");
        assert_eq!(
            chain(&Outer(std::io::Error::other(inner))),
            "cannot read the list: disk on fire"
        );
    }

    #[test]
    fn an_error_whose_text_has_no_end_is_kept_in_part_with_its_sources() {
        #[derive(Debug)]
        struct Endless(Option<Box<Self>>);
        impl fmt::Display for Endless {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                loop {
                    f.write_str("and so on ")?;
                }
            }
        }
        impl Error for Endless {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(&**self.0.as_ref()?)
            }
        }
        let words = chain(&Endless(Some(Box::new(Endless(None)))));
        assert!(words.len() < 5_000 && words.ends_with('…'), "{words}");
        let parts: Vec<String> = (0..CHAIN)
            .map(|part| part.to_string().repeat(3_000))
            .collect();
        let outer = parts
            .into_iter()
            .fold(None, |source, words| Some(Box::new(Long(words, source))));
        let words = chain(&*outer.expect("there are some"));
        assert!(words.len() < 5_000 && words.ends_with('…'), "{words}");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("{0}")]
    struct Long(String, #[source] Option<Box<Self>>);

    #[test]
    fn an_error_whose_display_panics_is_survived() {
        #[derive(Debug)]
        struct Mute;
        impl fmt::Display for Mute {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                panic!("no words")
            }
        }
        impl Error for Mute {}
        assert_eq!(chain(&Mute), "an error whose Display panics");
    }
}
