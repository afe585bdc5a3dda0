//! The cooperative stop flag that programs hold.

use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;

use crate::base::sync::Receiver;
use crate::cancel::callback::Callback;
use crate::cancel::cancelled::Cancelled;
use crate::cancel::cause::Cause;
use crate::cancel::node::Node;

/// A cooperative stop flag; tokens form a tree, and a cancel flows down.
///
/// Looking at it ([`checkpoint`](Self::checkpoint), [`is_cancelled`](Self::is_cancelled)) is one load of the token's
/// own flag, however deep in the tree. A clone is another handle on the same flag; a [child](Self::child_token) is a
/// flag of its own that its parent's cancel sets as well. Once cancelled, a token stays so.
///
/// A token stops nothing by itself, and nobody waits for whoever looks at it: that is what a task of the
/// [`Manager`](crate::Manager) adds. Use tokens in the functions and helper threads that tasks call.
///
/// ```
/// use taskmuster::CancellationToken;
///
/// let request = CancellationToken::new();
/// let query = request.child_token();
/// query.checkpoint()?;
/// assert!(request.cancel());
/// assert!(query.checkpoint().is_err());
/// assert!(!request.cancel(), "only the first cancel wins");
/// # Ok::<(), taskmuster::BoxError>(())
/// ```
#[doc(alias = "stop_token")]
#[doc(alias = "interrupt")]
pub struct CancellationToken {
    node: Arc<Node>,
}

impl CancellationToken {
    /// A token without a parent.
    #[must_use]
    pub fn new() -> Self {
        Self { node: Node::root() }
    }

    /// A token that is cancelled with this one, and can be cancelled alone. Born cancelled if this one is.
    ///
    /// It may outlive this handle, whose dropping cancels nothing. When its own last handle is dropped or it is
    /// cancelled, it leaves no memory in this token.
    #[must_use]
    pub fn child_token(&self) -> Self {
        Self {
            node: Node::child_of(&self.node),
        }
    }

    /// A token that is cancelled with any of `parents`, and can be cancelled alone. Born cancelled if one of them is.
    ///
    /// Its cause is that of the first of them that was cancelled.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    ///
    /// let (request, connection) = (CancellationToken::new(), CancellationToken::new());
    /// let work = CancellationToken::any([&request, &connection]);
    /// connection.cancel();
    /// assert!(work.is_cancelled() && !request.is_cancelled());
    /// ```
    #[must_use]
    pub fn any<'a>(parents: impl IntoIterator<Item = &'a Self>) -> Self {
        let parents: Vec<&Arc<Node>> = parents.into_iter().map(|parent| &parent.node).collect();
        Self {
            node: Node::below_all(&parents),
        }
    }

    /// Cancels this token and everything below it; `true` for the one call that did it.
    ///
    /// If somebody else is cancelling this token, or one below it, at the same moment, that call may still be on its way
    /// down when this one returns.
    ///
    /// The calling source line and the calling task become the [`Cause`]. Wakes whoever waits, then runs the
    /// [callbacks](Self::on_cancel), and waits for nobody: to know that a task has stopped, join it.
    #[expect(clippy::must_use_candidate, reason = "asking twice is harmless")]
    #[track_caller]
    pub fn cancel(&self) -> bool {
        !self.is_cancelled() && self.cancel_with(Cause::request())
    }

    /// Like [`cancel`](Self::cancel), with a cause of the caller's making. The first cause wins.
    #[expect(clippy::must_use_candidate, reason = "asking twice is harmless")]
    pub fn cancel_with(&self, cause: Cause) -> bool {
        match self.node.cancel(cause) {
            Some(due) => {
                for callback in due {
                    callback.run();
                }
                true
            }
            None => false,
        }
    }

    /// Whoever holds it will only look at it from now on. Unless somebody else has it as well, it is as if it were gone: its
    /// deadline and what was to be done on its cancel are given up.
    pub(crate) fn retire(&self) {
        self.node.retire();
    }

    /// Like [`cancel_with`](Self::cancel_with), but leaves the callbacks to the caller, if this call is the one that won.
    #[must_use = "the callbacks are to be run"]
    pub(crate) fn cancel_leaving_work(&self, cause: Cause) -> Vec<Arc<Callback>> {
        self.node.cancel(cause).unwrap_or_default()
    }

    /// Whether this token or one of its ancestors was cancelled. One load.
    #[inline]
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.node.is_cancelled()
    }

    /// Returns an error once the token is cancelled: for loops and call stacks that end with `?`. One load.
    ///
    /// # Errors
    /// [`Cancelled`] if the token or one of its ancestors was cancelled.
    #[inline]
    pub fn checkpoint(&self) -> Result<(), Cancelled> {
        if self.node.is_cancelled() {
            Err(Cancelled::of(&self.node))
        } else {
            Ok(())
        }
    }

    /// Why the token was cancelled; `None` while it is not.
    #[must_use]
    pub fn cause(&self) -> Option<Cause> {
        self.is_cancelled()
            .then(|| Cancelled::of(&self.node).cause())
    }

    /// A receiver that never yields anything and disconnects on cancel: for `select!`.
    ///
    /// For a plain receive or send, [`recv`](Self::recv) and [`send`](Self::send) are shorter and faster.
    ///
    /// A clone of the receiver disconnects also when the last clone of the token is dropped and no token below it is left,
    /// though nobody cancelled: who keeps one keeps a clone of the token as long.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    /// use taskmuster::crossbeam_channel::{select, unbounded};
    ///
    /// let token = CancellationToken::new();
    /// let (_orders, orders) = unbounded::<u32>();
    /// let (_alarms, alarms) = unbounded::<u32>();
    /// token.cancel();
    /// select! {
    ///     recv(token.cancelled()) -> _ => println!("asked to stop"),
    ///     recv(orders) -> order => println!("order {}", order?),
    ///     recv(alarms) -> alarm => println!("alarm {}", alarm?),
    /// }
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    #[must_use]
    pub fn cancelled(&self) -> &Receiver<Infallible> {
        self.node.beacon().receiver()
    }

    /// Cancels this token when the guard is dropped, by `?` or a panic too.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    ///
    /// let token = CancellationToken::new();
    /// let helper = token.child_token();
    /// drop(token.drop_guard());
    /// assert!(helper.is_cancelled());
    /// ```
    #[must_use = "dropping the guard cancels the token at once"]
    #[track_caller]
    pub fn drop_guard(&self) -> DropGuard {
        DropGuard {
            token: self.clone(),
            cause: Some(Cause::request().with_note("drop guard")),
        }
    }

    /// The handle that a new node was counted with.
    pub(crate) fn first_of(node: Arc<Node>) -> Self {
        Self { node }
    }

    pub(crate) fn node(&self) -> &Arc<Node> {
        &self.node
    }
}

impl Default for CancellationToken {
    fn default() -> Self {
        Self::new()
    }
}

impl Clone for CancellationToken {
    fn clone(&self) -> Self {
        self.node.hold();
        Self {
            node: Arc::clone(&self.node),
        }
    }
}

impl Drop for CancellationToken {
    fn drop(&mut self) {
        self.node.release();
    }
}

impl fmt::Debug for CancellationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancellationToken")
            .field("cause", &self.cause())
            .finish()
    }
}

/// Cancels a token when dropped; made by [`CancellationToken::drop_guard`].
#[derive(Debug)]
#[must_use = "dropping the guard cancels the token at once"]
pub struct DropGuard {
    token: CancellationToken,
    /// `None` once disarmed.
    cause: Option<Cause>,
}

impl DropGuard {
    /// Gives the token back uncancelled.
    #[must_use]
    pub fn disarm(mut self) -> CancellationToken {
        self.cause = None;
        self.token.clone()
    }
}

impl Drop for DropGuard {
    fn drop(&mut self) {
        if let Some(cause) = self.cause.take() {
            self.token.cancel_with(cause);
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use crossbeam_channel::TryRecvError;

    use super::*;

    #[test]
    fn a_token_leaves_nothing_in_its_parent_when_its_last_clone_is_dropped() {
        let parent = CancellationToken::new();
        let child = parent.child_token();
        let clone = child.clone();
        let left = Arc::downgrade(child.node());
        drop(child);
        assert!(left.upgrade().is_some());
        drop(clone);
        assert!(left.upgrade().is_none());
        drop(parent);
    }

    #[test]
    fn a_clone_of_the_receiver_disconnects_with_the_last_clone_of_its_token() {
        let token = CancellationToken::new().child_token();
        let (receiver, kept) = (token.cancelled().clone(), token.clone());
        drop(token);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Empty));
        drop(kept);
        assert_eq!(receiver.try_recv(), Err(TryRecvError::Disconnected));
    }

    #[test]
    fn a_guard_cancels_its_token_when_it_is_dropped_unless_it_was_disarmed() {
        let (token, spared) = (CancellationToken::new(), CancellationToken::new());
        drop(token.clone().drop_guard());
        assert!(token.is_cancelled());
        assert!(!spared.drop_guard().disarm().is_cancelled());
    }
}
