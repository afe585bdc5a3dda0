//! Waits that a cancel ends: for the cancel itself, time, channels.
//!
//! When several things are ready at once: a cancel beats a new value, a present value beats a timeout. An error that
//! says "cancelled" means that nothing was taken from the channel and nothing was put into it.

use std::error::Error;
use std::fmt;

use crate::base::sync::{
    Mutex, Receiver, Sender, TryRecvError, TrySendError, at, never, select_biased,
};
use crate::base::time::{Deadline, Duration, Instant};
use crate::cancel::cancelled::Cancelled;
use crate::cancel::token::CancellationToken;

/// # Waiting
///
/// All of these are woken at once by the cancel; none polls.
impl CancellationToken {
    /// Waits until the token is cancelled and says why.
    #[expect(clippy::must_use_candidate, reason = "that it returns says it all")]
    pub fn wait(&self) -> Cancelled {
        self.node().beacon().latch().wait_until(Deadline::NEVER);
        Cancelled::of(self.node())
    }

    /// Waits until the token is cancelled; `None` if `timeout` passed first.
    #[must_use]
    pub fn wait_timeout(&self, timeout: Duration) -> Option<Cancelled> {
        self.wait_by(Deadline::after(timeout))
    }

    /// Waits until the token is cancelled; `None` if `deadline` came first.
    #[must_use]
    pub fn wait_deadline(&self, deadline: Instant) -> Option<Cancelled> {
        self.wait_by(Deadline::at(deadline))
    }

    /// Sleeps for `span`, unless the token is cancelled meanwhile.
    ///
    /// # Errors
    /// [`Cancelled`], at once, when the token is cancelled before or during the sleep.
    pub fn sleep(&self, span: Duration) -> Result<(), Cancelled> {
        self.sleep_by(Deadline::after(span))
    }

    /// Sleeps until `moment`, unless the token is cancelled meanwhile.
    ///
    /// # Errors
    /// [`Cancelled`], at once, when the token is cancelled before or during the sleep.
    pub fn sleep_until(&self, moment: Instant) -> Result<(), Cancelled> {
        self.sleep_by(Deadline::at(moment))
    }

    /// Receives a value.
    ///
    /// # Errors
    /// [`RecvError::Cancelled`] when the token is cancelled, even if a value is there: it stays in the channel.
    /// [`RecvError::Disconnected`] when the channel is empty and has no sender.
    ///
    /// ```
    /// use taskmuster::{CancellationToken, RecvError};
    /// use taskmuster::crossbeam_channel::bounded;
    ///
    /// let token = CancellationToken::new();
    /// let (sender, receiver) = bounded(1);
    /// sender.send(7)?;
    /// drop(sender);
    /// assert_eq!(token.recv(&receiver)?, 7);
    /// assert!(matches!(token.recv(&receiver), Err(RecvError::Disconnected)));
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    pub fn recv<T>(&self, receiver: &Receiver<T>) -> Result<T, RecvError> {
        self.recv_by(receiver, Deadline::NEVER)
    }

    /// Receives a value, waiting at most `timeout`.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    pub fn recv_timeout<T>(
        &self,
        receiver: &Receiver<T>,
        timeout: Duration,
    ) -> Result<T, RecvError> {
        self.recv_by(receiver, Deadline::after(timeout))
    }

    /// Receives a value, waiting until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`recv`](Self::recv), and [`RecvError::Timeout`].
    pub fn recv_deadline<T>(
        &self,
        receiver: &Receiver<T>,
        deadline: Instant,
    ) -> Result<T, RecvError> {
        self.recv_by(receiver, Deadline::at(deadline))
    }

    /// Sends a value, waiting for room in the channel.
    ///
    /// # Errors
    /// [`SendError`], which gives the value back, when the token is cancelled or the channel has no receiver.
    ///
    /// ```
    /// use taskmuster::CancellationToken;
    /// use taskmuster::crossbeam_channel::bounded;
    ///
    /// let token = CancellationToken::new();
    /// let (sender, _receiver) = bounded(1);
    /// token.send(&sender, "first")?;
    /// token.cancel();
    /// let unsent = token.send(&sender, "second").unwrap_err();
    /// assert!(unsent.is_cancelled());
    /// assert_eq!(unsent.into_inner(), "second");
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    pub fn send<T>(&self, sender: &Sender<T>, value: T) -> Result<(), SendError<T>> {
        self.send_by(sender, value, Deadline::NEVER)
    }

    /// Sends a value, waiting at most `timeout` for room.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the time is over.
    pub fn send_timeout<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        timeout: Duration,
    ) -> Result<(), SendError<T>> {
        self.send_by(sender, value, Deadline::after(timeout))
    }

    /// Sends a value, waiting for room until `deadline` at the latest.
    ///
    /// # Errors
    /// As [`send`](Self::send), and when the time is over.
    pub fn send_deadline<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        deadline: Instant,
    ) -> Result<(), SendError<T>> {
        self.send_by(sender, value, Deadline::at(deadline))
    }
}

impl CancellationToken {
    pub(crate) fn wait_by(&self, deadline: Deadline) -> Option<Cancelled> {
        self.node()
            .beacon()
            .latch()
            .wait_until(deadline)
            .then(|| Cancelled::of(self.node()))
    }

    pub(crate) fn sleep_by(&self, deadline: Deadline) -> Result<(), Cancelled> {
        self.checkpoint()?;
        self.wait_by(deadline).map_or(Ok(()), Err)
    }

    /// The flag, then what is there already, and only then the machinery of a blocking select.
    pub(crate) fn recv_by<T>(
        &self,
        receiver: &Receiver<T>,
        deadline: Deadline,
    ) -> Result<T, RecvError> {
        match self.try_recv(receiver) {
            Err(RecvError::Timeout) => self.recv_blocking(receiver, deadline),
            ready => ready,
        }
    }

    /// Receives what is there; [`RecvError::Timeout`] if nothing is.
    pub(crate) fn try_recv<T>(&self, receiver: &Receiver<T>) -> Result<T, RecvError> {
        self.checkpoint()?;
        receiver.try_recv().map_err(|error| match error {
            TryRecvError::Empty => RecvError::Timeout,
            TryRecvError::Disconnected => RecvError::Disconnected,
        })
    }

    pub(crate) fn recv_blocking<T>(
        &self,
        receiver: &Receiver<T>,
        deadline: Deadline,
    ) -> Result<T, RecvError> {
        let timer = deadline.instant().map_or_else(never, at);
        select_biased! {
            recv(self.cancelled()) -> _ => Err(RecvError::Cancelled(Cancelled::of(self.node()))),
            recv(receiver) -> value => value.map_err(|_| RecvError::Disconnected),
            recv(timer) -> _ => Err(RecvError::Timeout),
        }
    }

    pub(crate) fn send_by<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        deadline: Deadline,
    ) -> Result<(), SendError<T>> {
        match self.try_send(sender, value) {
            Err(SendError {
                value,
                reason: Unsent::Timeout,
            }) => self.send_blocking(sender, value.into_inner(), deadline),
            ready => ready,
        }
    }

    /// Sends if there is room; [`Unsent::Timeout`] if there is none.
    pub(crate) fn try_send<T>(&self, sender: &Sender<T>, value: T) -> Result<(), SendError<T>> {
        if let Err(cancelled) = self.checkpoint() {
            return Err(SendError::new(value, Unsent::Cancelled(cancelled)));
        }
        sender.try_send(value).map_err(|error| match error {
            TrySendError::Full(value) => SendError::new(value, Unsent::Timeout),
            TrySendError::Disconnected(value) => SendError::new(value, Unsent::Disconnected),
        })
    }

    pub(crate) fn send_blocking<T>(
        &self,
        sender: &Sender<T>,
        value: T,
        deadline: Deadline,
    ) -> Result<(), SendError<T>> {
        let timer = deadline.instant().map_or_else(never, at);
        // The select owns the value only in the arm that is taken, so the other arms can give it back.
        select_biased! {
            recv(self.cancelled()) -> _ => Err(SendError::new(value, Unsent::Cancelled(Cancelled::of(self.node())))),
            send(sender, value) -> sent => sent.map_err(|error| SendError::new(error.0, Unsent::Disconnected)),
            recv(timer) -> _ => Err(SendError::new(value, Unsent::Timeout)),
        }
    }
}

/// Why nothing was received.
#[derive(Debug)]
#[non_exhaustive]
pub enum RecvError {
    /// The token was cancelled; nothing was taken from the channel.
    Cancelled(Cancelled),
    /// The channel is empty and has no sender: the end of the input.
    Disconnected,
    /// The time was over.
    Timeout,
}

impl From<Cancelled> for RecvError {
    fn from(cancelled: Cancelled) -> Self {
        Self::Cancelled(cancelled)
    }
}

impl fmt::Display for RecvError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled(_) => f.write_str("the receive was cancelled"),
            Self::Disconnected => f.write_str("the channel is empty and has no sender"),
            Self::Timeout => f.write_str("nothing was received in time"),
        }
    }
}

impl Error for RecvError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cancelled(cancelled) => Some(cancelled),
            Self::Disconnected | Self::Timeout => None,
        }
    }
}

/// Why nothing was sent; gives the value back.
pub struct SendError<T> {
    /// Behind a lock nobody contends for: it makes the error `Sync` for every `T: Send`, so that `?` works.
    value: Mutex<T>,
    reason: Unsent,
}

#[derive(Debug)]
enum Unsent {
    Cancelled(Cancelled),
    Disconnected,
    Timeout,
}

impl<T> SendError<T> {
    fn new(value: T, reason: Unsent) -> Self {
        Self {
            value: Mutex::new(value),
            reason,
        }
    }

    /// The value that was not sent.
    #[must_use]
    pub fn into_inner(self) -> T {
        self.value.into_inner()
    }

    /// Whether the token was cancelled.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.reason, Unsent::Cancelled(_))
    }

    /// Whether the channel has no receiver any more.
    #[must_use]
    pub fn is_disconnected(&self) -> bool {
        matches!(self.reason, Unsent::Disconnected)
    }

    /// Whether the time was over.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        matches!(self.reason, Unsent::Timeout)
    }
}

impl<T> fmt::Debug for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SendError")
            .field("reason", &self.reason)
            .finish_non_exhaustive()
    }
}

impl<T> fmt::Display for SendError<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.reason {
            Unsent::Cancelled(_) => "the send was cancelled",
            Unsent::Disconnected => "the channel has no receiver",
            Unsent::Timeout => "there was no room in time",
        })
    }
}

impl<T> Error for SendError<T> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Unsent::Cancelled(cancelled) => Some(cancelled),
            Unsent::Disconnected | Unsent::Timeout => None,
        }
    }
}
