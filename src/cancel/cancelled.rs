//! The error of every checkpoint and wait, and whose it is.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

use crate::cancel::cause::{Cause, CauseKind};
use crate::cancel::node::Node;

/// The error of a checkpoint or a cancellable wait on a cancelled token: stop now, clean up, return.
///
/// Pass it up with `?`. One pointer wide, so that the result of a checkpoint fits a register.
///
/// ```
/// use taskmuster::{CancellationToken, Cancelled};
///
/// fn work(token: &CancellationToken) -> Result<(), Cancelled> {
///     loop {
///         token.checkpoint()?;
///         # token.cancel();
///     }
/// }
///
/// let stopped = work(&CancellationToken::new()).unwrap_err();
/// assert!(stopped.to_string().starts_with("cancelled: request"));
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[derive(Clone)]
pub struct Cancelled(Origin);

/// The node at which somebody called `cancel`.
///
/// Returned as the source of [`Cancelled`], because wrappers may hide the type of an error (anyhow's `?`, thiserror's
/// `transparent`, `io::Error::other`) but must hand on its source.
#[derive(Clone)]
struct Origin(Arc<Node>);

impl Cancelled {
    /// Only for a cancelled node.
    #[cold]
    pub(crate) fn of(node: &Arc<Node>) -> Self {
        Self(Origin(node.origin()))
    }

    /// Why.
    #[must_use]
    pub fn cause(&self) -> Cause {
        self.0.cause()
    }
}

impl fmt::Display for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Cancelled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Cancelled({})", self.cause())
    }
}

impl Error for Cancelled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

impl Origin {
    fn cause(&self) -> Cause {
        // An origin always has one (node.rs, 1); a plain request is the truest thing to say should that ever fail.
        self.0
            .own_cause()
            .unwrap_or_else(|| Cause::from_outside(CauseKind::Request))
    }
}

/// The same words as [`Cancelled`]'s: who prints a chain may leave out a source that says nothing new.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cancelled: {}", self.cause())
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Origin")
    }
}

impl Error for Origin {}

/// How far a chain of sources is followed: more than any honest error has, less than a cycle.
const CHAIN: usize = 256;

/// Finds the `Cancelled` in the chain of `error` that asked `node` itself to stop: one of its own or of an ancestor.
///
/// Any other, of a joined task, an inner timeout or a foreign token, is a failure like any error, unless it is
/// [that of the shutdown](coming_from).
pub(crate) fn addressed_to(node: &Node, error: &(dyn Error + 'static)) -> Option<Cancelled> {
    origins(error)
        .find(|origin| node.is_at_or_below(&origin.0))
        .map(|origin| Cancelled(origin.clone()))
}

/// Whether the chain of `error` holds a `Cancelled` of this very node because its own deadline came.
pub(crate) fn is_timeout_of(node: &Arc<Node>, error: &(dyn Error + 'static)) -> bool {
    origins(error)
        .any(|origin| Arc::ptr_eq(&origin.0, node) && origin.cause().kind() == CauseKind::Deadline)
}

/// Finds the `Cancelled` in the chain of `error` that came from `cause`.
pub(crate) fn coming_from(cause: &Cause, error: &(dyn Error + 'static)) -> Option<Cancelled> {
    origins(error)
        .find(|&origin| origin.cause().is_same(cause))
        .map(|origin| Cancelled(origin.clone()))
}

fn origins<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a Origin> {
    std::iter::successors(Some(error), |&error| error.source())
        .take(CHAIN)
        .filter_map(|error| error.downcast_ref())
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::io;

    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(#[from] Cancelled);

    #[derive(Debug, thiserror::Error)]
    #[error("while reading")]
    struct Wrapped(#[source] io::Error);

    fn cancelled_pair() -> (Arc<Node>, Cancelled) {
        let node = Node::root();
        assert!(node.cancel(Cause::request()).is_some());
        let cancelled = Cancelled::of(&node);
        (node, cancelled)
    }

    fn is_found(node: &Node, error: &(dyn Error + 'static)) -> bool {
        addressed_to(node, error).is_some()
    }

    #[test]
    fn a_cancelled_is_found_behind_every_wrapper_and_any_nesting_of_them() {
        let (node, cancelled) = cancelled_pair();
        assert!(is_found(&node, &cancelled));
        assert!(is_found(&node, &Transparent(cancelled.clone())));
        assert!(is_found(&node, &io::Error::other(cancelled.clone())));
        assert!(is_found(
            &node,
            &io::Error::other(Transparent(cancelled.clone()))
        ));
        assert!(is_found(
            &node,
            &io::Error::other(io::Error::other(cancelled.clone()))
        ));
        assert!(is_found(
            &node,
            &Wrapped(io::Error::other(cancelled.clone()))
        ));
        let plain: Box<dyn Error + Send + Sync> = anyhow::Error::new(cancelled.clone()).into();
        assert!(is_found(&node, &*plain));
        let layered = anyhow::Error::new(Transparent(cancelled.clone()))
            .context("outer")
            .context("outermost");
        let layered: Box<dyn Error + Send + Sync> = layered.into();
        assert!(is_found(&node, &*layered));
        let nested = io::Error::other(anyhow::Error::new(io::Error::other(Transparent(cancelled))));
        assert!(is_found(&node, &Wrapped(nested)));
    }

    #[test]
    fn only_one_s_own_cancel_or_an_ancestor_s_counts() {
        let parent = Node::root();
        let child = Node::child_of(&parent);
        let sibling = Node::child_of(&parent);
        assert!(sibling.cancel(Cause::request()).is_some());
        assert!(!is_found(&child, &Cancelled::of(&sibling)));
        assert!(
            !is_found(&parent, &Cancelled::of(&sibling)),
            "a helper's own token is not the task's"
        );
        assert!(parent.cancel(Cause::request()).is_some());
        assert!(is_found(&child, &Cancelled::of(&child)));
        assert!(
            is_found(&parent, &Cancelled::of(&child)),
            "a helper that inherited the task's cancel speaks for it"
        );
    }

    #[test]
    fn an_error_that_is_its_own_source_is_not_followed_for_ever() {
        #[derive(Debug)]
        struct Ouroboros;
        impl fmt::Display for Ouroboros {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("again")
            }
        }
        impl Error for Ouroboros {
            fn source(&self) -> Option<&(dyn Error + 'static)> {
                Some(self)
            }
        }
        assert!(!is_found(&Node::root(), &Ouroboros));
    }

    #[test]
    fn the_result_of_a_checkpoint_fits_a_register() {
        assert_eq!(size_of::<Result<(), Cancelled>>(), size_of::<usize>());
    }
}
