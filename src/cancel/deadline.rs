//! Tokens that are cancelled when their time is over.

use std::error::Error;
use std::fmt;
use std::io;
use std::panic::Location;

use crate::base::time::{Deadline, Duration, Instant};
use crate::cancel::callback;
use crate::cancel::cause::{self, Cause, CauseKind};
use crate::cancel::node::Node;
use crate::cancel::token::CancellationToken;

/// # Deadlines
///
/// One thread serves the deadlines of the whole process: it is started with the first and goes a second after the last.
/// A deadline costs nothing at a checkpoint: there the clock is not read.
impl CancellationToken {
    /// A child that is cancelled when `timeout` is over, if it was not before. `Duration::MAX` means never.
    ///
    /// # Errors
    /// [`DeadlineError`] when the thread that serves deadlines is not there and cannot be started.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::{CancellationToken, CauseKind};
    ///
    /// let query = CancellationToken::new().child_with_timeout(Duration::from_millis(5))?;
    /// assert_eq!(query.wait().cause().kind(), CauseKind::Deadline);
    /// # Ok::<(), taskmuster::BoxError>(())
    /// ```
    #[track_caller]
    pub fn child_with_timeout(&self, timeout: Duration) -> Result<Self, DeadlineError> {
        let (deadline, place) = (Deadline::after(timeout), Location::caller());
        if timeout.is_zero() {
            return self.child_until(deadline, place);
        }
        // It was in the future when the clock was read; reading it again would take as long as setting the alarm.
        self.child_with_alarm(deadline, place)
    }

    /// A child that is cancelled at `deadline`, if it was not before; born cancelled if that has passed.
    ///
    /// # Errors
    /// As [`child_with_timeout`](Self::child_with_timeout).
    #[track_caller]
    pub fn child_with_deadline(&self, deadline: Instant) -> Result<Self, DeadlineError> {
        self.child_until(Deadline::at(deadline), Location::caller())
    }

    /// Moves the deadline of this token to `timeout` from now, or gives it one; `Duration::MAX` takes it off. `false` if
    /// that is too late: the token is cancelled, or its deadline has come.
    ///
    /// A deadline that has passed comes at once: the token is cancelled when this returns, and `true` means that it was
    /// not before. The deadlines of its ancestors are not touched.
    ///
    /// # Errors
    /// As [`child_with_timeout`](Self::child_with_timeout).
    #[track_caller]
    pub fn set_timeout(&self, timeout: Duration) -> Result<bool, DeadlineError> {
        let (deadline, place) = (Deadline::after(timeout), Location::caller());
        if timeout.is_zero() {
            return Ok(self.end_its_time(place));
        }
        self.set_until(deadline, place)
    }

    /// Moves the deadline of this token, or gives it one; see [`set_timeout`](Self::set_timeout).
    ///
    /// # Errors
    /// As [`child_with_timeout`](Self::child_with_timeout).
    #[track_caller]
    pub fn set_deadline(&self, deadline: Instant) -> Result<bool, DeadlineError> {
        let (deadline, place) = (Deadline::at(deadline), Location::caller());
        if deadline.has_passed() {
            return Ok(self.end_its_time(place));
        }
        self.set_until(deadline, place)
    }

    /// The earliest of the deadlines of this token and its ancestors that are still to come.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.node().deadline()
    }

    pub(crate) fn child_until(
        &self,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<Self, DeadlineError> {
        if !deadline.has_passed() {
            return self.child_with_alarm(deadline, place);
        }
        let child = self.child_token();
        // Nobody else knows it yet: there is no work to be done.
        drop(child.cancel_leaving_work(Cause::at_place(CauseKind::Deadline, place)));
        Ok(child)
    }

    fn child_with_alarm(
        &self,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<Self, DeadlineError> {
        let Some(at) = deadline.instant() else {
            return Ok(self.child_token());
        };
        Node::child_with_alarm(self.node(), at, place, cause::actor().as_ref())
            .map(Self::first_of)
            .map_err(DeadlineError)
    }

    /// Its deadline comes now; `false` if it is cancelled already.
    fn end_its_time(&self, place: &'static Location<'static>) -> bool {
        let cause = Cause::at_place(CauseKind::Deadline, place);
        let Some(due) = self.node().cancel(cause) else {
            return false;
        };
        if !due.is_empty() && callback::hand_over(due.clone(), None).is_err() {
            // Without a thread the caller runs its own, as whoever cancels does.
            for callback in due {
                callback.run();
            }
        }
        true
    }

    fn set_until(
        &self,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<bool, DeadlineError> {
        self.node()
            .set_deadline(deadline.instant(), place, cause::actor().as_ref())
            .map_err(DeadlineError)
    }
}

/// The thread that serves deadlines could not be started.
#[derive(Debug)]
pub struct DeadlineError(io::Error);

impl fmt::Display for DeadlineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the system gave no thread for deadlines")
    }
}

impl Error for DeadlineError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn the_error_of_a_deadline_has_that_of_the_system_as_its_source() {
        let error = DeadlineError(io::Error::other("none left"));
        let source = error.source().expect("it has one");
        assert_eq!(source.to_string(), "none left");
    }
}
