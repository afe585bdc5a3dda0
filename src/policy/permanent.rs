//! Errors that another try would not mend.

use std::error::Error;
use std::fmt;

/// An error that ends a task at once, whatever its [`Restart`](crate::Restart) policy says: to try again would be of no
/// use.
///
/// The mark is found wherever `?` carries it: in a box, behind anyhow and its contexts, behind thiserror's `transparent`
/// and `source`, behind `io::Error::other`. Its words are those of the error in it, and that is its source, too.
///
/// Not for a task that is to stop because it was asked to: that is [`Cancelled`](crate::Cancelled).
///
/// ```
/// use taskmuster::{BoxError, Permanent, TaskResult};
///
/// fn port(setting: &str) -> TaskResult<u16> {
///     if setting.is_empty() {
///         return Err(Permanent::new("no port is set").into());
///     }
///     Ok(setting.parse().map_err(Permanent::new)?)
/// }
///
/// assert_eq!(port("").unwrap_err().to_string(), "no port is set");
/// assert_eq!(port("http").unwrap_err().to_string(), "invalid digit found in string");
/// assert_eq!(port("80")?, 80);
/// # Ok::<(), BoxError>(())
/// ```
pub struct Permanent(Mark);

/// What is looked for: the source of a [`Permanent`], because wrappers may hide the type of an error but must hand on its
/// source (see `Cancelled`). It hands on the user's error in turn.
struct Mark(Box<dyn Error + Send + Sync>);

impl Permanent {
    /// Marks an error, or the words of one.
    #[must_use = "an error that is not returned ends nothing"]
    pub fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(Mark(error.into()))
    }

    /// The error without its mark.
    #[must_use]
    pub fn into_inner(self) -> Box<dyn Error + Send + Sync> {
        self.0.0
    }
}

impl fmt::Display for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Permanent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Permanent({:?})", self.0.0)
    }
}

impl Error for Permanent {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// The same words again: who prints a chain may leave out a source that says nothing new.
impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Mark")
    }
}

impl Error for Mark {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&*self.0)
    }
}

/// How far a chain of sources is followed: more than any honest error has, less than a cycle.
const CHAIN: usize = 256;

/// Whether `error` or one of its sources is marked as [`Permanent`].
pub(crate) fn is_permanent(error: &(dyn Error + 'static)) -> bool {
    std::iter::successors(Some(error), |&error| error.source())
        .take(CHAIN)
        .any(<dyn Error>::is::<Mark>)
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    type BoxError = Box<dyn Error + Send + Sync>;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(#[from] Permanent);

    #[derive(Debug, thiserror::Error)]
    #[error("while reading")]
    struct Wrapped(#[source] io::Error);

    fn gone() -> Permanent {
        Permanent::new(io::Error::from(io::ErrorKind::NotFound))
    }

    #[track_caller]
    fn assert_found(error: impl Into<BoxError>) {
        let error = error.into();
        assert!(is_permanent(&*error), "{error:?}");
        let not_found = std::iter::successors(Some(&*error as &(dyn Error + 'static)), |&error| {
            error.source()
        })
        .filter_map(|error| error.downcast_ref::<io::Error>())
        .any(|error| error.kind() == io::ErrorKind::NotFound);
        assert!(not_found, "the error in it is lost: {error:?}");
    }

    #[test]
    fn a_mark_is_found_behind_every_wrapper_and_any_nesting_of_them() {
        assert_found(gone());
        assert_found(Transparent(gone()));
        assert_found(io::Error::other(gone()));
        assert_found(io::Error::other(Transparent(gone())));
        assert_found(io::Error::other(io::Error::other(gone())));
        assert_found(Wrapped(io::Error::other(gone())));
        assert_found(anyhow::Error::new(gone()));
        assert_found(anyhow::anyhow!(BoxError::from(gone())));
        let layered = anyhow::Error::new(Transparent(gone())).context("outer");
        assert_found(layered.context("outermost"));
        let nested = io::Error::other(anyhow::Error::new(io::Error::other(Transparent(gone()))));
        assert_found(Wrapped(nested));
        assert_found(Permanent::new(gone()));
        assert_found(Permanent::new(anyhow::Error::new(gone()).context("twice")));
    }

    #[test]
    fn an_error_without_a_mark_is_not_permanent() {
        let plain = Wrapped(io::Error::other("disk on fire"));
        assert!(!is_permanent(&plain));
        assert!(
            !is_permanent(&*gone().into_inner()),
            "the mark was taken off"
        );
    }

    #[test]
    fn an_error_that_is_its_own_source_is_not_followed_for_ever() {
        #[derive(Debug, thiserror::Error)]
        #[error("again")]
        struct Plain;
        #[derive(Debug)]
        struct Ouroboros(Plain);
        impl fmt::Display for Ouroboros {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
        impl Error for Ouroboros {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert!(!is_permanent(&Ouroboros(Plain)));
    }

    #[test]
    fn a_mark_says_nothing_of_its_own() {
        let error = Permanent::new("no such table");
        assert_eq!(error.to_string(), "no such table");
        assert_eq!(format!("{error:?}"), "Permanent(\"no such table\")");
        assert_eq!(error.into_inner().to_string(), "no such table");
    }
}
