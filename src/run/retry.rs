//! Trying a single call again.

use std::error::Error;
use std::fmt;
use std::panic::Location;

use crate::base::log::{self, Level};
use crate::base::time::{self, Duration, human};
use crate::base::unwind;
use crate::cancel::cancelled::Cancelled;
use crate::policy::backoff::Backoff;
use crate::policy::error::PolicyError;
use crate::policy::permanent::is_permanent;
use crate::policy::random::Random;
use crate::status::outcome::Failure;
use crate::task::context::{BoxError, TaskContext};

/// How often and after what delays a call is tried again; made from a [`Backoff`], or by [`Retry::times`].
#[derive(Clone, Debug, PartialEq)]
pub struct Retry {
    backoff: Backoff,
    attempts: Option<u32>,
}

impl Retry {
    /// At most so many attempts in all, at least one.
    #[must_use]
    pub fn times(attempts: u32, backoff: Backoff) -> Self {
        Self {
            backoff,
            attempts: Some(attempts.max(1)),
        }
    }
}

/// As many attempts as it takes.
impl From<Backoff> for Retry {
    fn from(backoff: Backoff) -> Self {
        Self {
            backoff,
            attempts: None,
        }
    }
}

/// # Trying again
impl TaskContext {
    /// Calls `attempt` until it succeeds; it is told which attempt it is, from 1 on.
    ///
    /// The pauses hear the task's stop and its deadline: when the next attempt could not begin before
    /// [`deadline`](Self::deadline), it is not waited for. An error marked as [`Permanent`](crate::Permanent) ends it at
    /// once, and so does the task's own cancellation. What an error holds is dropped before the next attempt; a panic in
    /// that hits nobody.
    ///
    /// For a whole task that runs again, see [`TaskBuilder::restart`](crate::TaskBuilder::restart).
    ///
    /// # Errors
    /// [`RetryError`], with the error of the last attempt as its source; or, before the first, the
    /// [`PolicyError`] of a backoff that cannot do what it says.
    ///
    /// ```
    /// use std::time::Duration;
    /// use taskmuster::{Backoff, Manager, Retry};
    ///
    /// let report = Manager::builder().run(|manager| {
    ///     let fetch = manager.spawn("fetch", |ctx| {
    ///         let backoff = Backoff::exponential(Duration::from_millis(1));
    ///         Ok(ctx.retry(Retry::times(5, backoff), |attempt| match attempt {
    ///             3 => Ok("page"),
    ///             _ => Err("connection refused"),
    ///         })?)
    ///     })?;
    ///     assert_eq!(fetch.join()?, "page");
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn retry<T, E: Into<BoxError>>(
        &self,
        retry: impl Into<Retry>,
        mut attempt: impl FnMut(u32) -> Result<T, E>,
    ) -> Result<T, RetryError> {
        let (retry, place) = (retry.into(), Location::caller());
        let refused = |error| RetryError::new(0, Reason::Refused(error));
        retry.backoff.check().map_err(refused)?;
        let (mut random, mut delay, mut number) = (Random::from_entropy(), Duration::ZERO, 0_u32);
        loop {
            let stopped = |cancelled| RetryError::new(number, Reason::Cancelled(cancelled));
            self.checkpoint_at(place).map_err(stopped)?;
            number = number.saturating_add(1);
            let error: BoxError = match attempt(number) {
                Ok(value) => return Ok(value),
                Err(error) => error.into(),
            };
            if let Some(cancelled) = self.own_cancelled(&*error) {
                return Err(RetryError::new(number, Reason::Cancelled(cancelled)));
            }
            delay = retry.backoff.delay(number, delay, random.draw());
            let is_last = retry.attempts.is_some_and(|most| number >= most);
            if is_last || is_permanent(&*error) || !self.has_time_for(delay) {
                return Err(RetryError::new(number, Reason::Failed(error)));
            }
            self.tell_of_retry(&error, number, delay);
            unwind::discard(error);
            let stopped = |cancelled| RetryError::new(number, Reason::Cancelled(cancelled));
            self.sleep(delay).map_err(stopped)?;
        }
    }

    fn has_time_for(&self, delay: Duration) -> bool {
        let next = time::now().checked_add(delay);
        match (self.deadline(), next) {
            (Some(deadline), Some(next)) => next < deadline,
            (Some(_), None) => false,
            (None, _) => true,
        }
    }

    fn tell_of_retry(&self, error: &BoxError, attempt: u32, delay: Duration) {
        let (name, failure) = (self.name(), Failure::of(&**error));
        let next = if self.is_cancelled() {
            "not tried again because of the stop".to_owned()
        } else {
            format!("trying again in {}", human(delay))
        };
        log::say(
            Level::Warn,
            format_args!("task `{name}`: attempt {attempt} failed, {next}: {failure}"),
        );
    }
}

/// Why no attempt succeeded.
#[derive(Debug)]
pub struct RetryError {
    attempts: u32,
    reason: Reason,
}

#[derive(Debug)]
enum Reason {
    Refused(PolicyError),
    Failed(BoxError),
    Cancelled(Cancelled),
}

impl RetryError {
    fn new(attempts: u32, reason: Reason) -> Self {
        Self { attempts, reason }
    }

    /// How many attempts there were.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        self.attempts
    }

    /// Whether the task was asked to stop meanwhile.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(self.reason, Reason::Cancelled(_))
    }
}

impl fmt::Display for RetryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = if self.attempts == 1 {
            "attempt"
        } else {
            "attempts"
        };
        match &self.reason {
            Reason::Refused(error) => error.fmt(f),
            Reason::Failed(_) => write!(f, "failed after {} {noun}", self.attempts),
            Reason::Cancelled(_) => write!(f, "cancelled after {} {noun}", self.attempts),
        }
    }
}

impl Error for RetryError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.reason {
            Reason::Refused(error) => Some(error),
            Reason::Failed(error) => Some(&**error),
            Reason::Cancelled(cancelled) => Some(cancelled),
        }
    }
}
