//! The request to shut down: a latch that everybody may raise.
//!
//! It is no ancestor of any token: raising it cancels nobody. The manager's drain answers it, group by group.

use crate::base::latch::{Beacon, Bell, Latch};
use crate::base::sync::{AtomicBool, Mutex, Ordering};
use crate::base::time::{self, Deadline, Duration, Instant};
use crate::cancel::cause::Cause;

/// How a manager is asked to end, and how urgently.
#[derive(Debug)]
pub(crate) struct ShutdownRequest {
    /// The time a shutdown may take if the request does not say.
    grace: Duration,
    raised: Latch,
    /// Rung whenever there is something new for the warden, here or in the books.
    bell: Bell,
    demand: Mutex<Option<Demand>>,
    /// Lit when nothing new is to be taken in.
    draining: Beacon,
    /// The same, for those who only look.
    is_draining: AtomicBool,
    /// Open when the shutdown is over.
    answered: Latch,
}

/// What was asked for.
#[derive(Clone, Debug)]
pub(crate) struct Demand {
    /// The first request's: it wins.
    pub(crate) cause: Cause,
    pub(crate) since: Instant,
    /// The first deadline rules, later ones can only shorten it.
    pub(crate) deadline: Deadline,
    pub(crate) hurried_at: Option<Instant>,
}

impl ShutdownRequest {
    pub(crate) fn new(grace: Duration) -> Self {
        Self {
            grace,
            raised: Latch::new(),
            bell: Bell::new(),
            demand: Mutex::new(None),
            draining: Beacon::new(),
            is_draining: AtomicBool::new(false),
            answered: Latch::new(),
        }
    }

    /// From now on nothing new is to be taken in.
    pub(crate) fn begin_to_drain(&self) {
        // Relaxed: whoever must not miss it waits for the beacon.
        self.is_draining.store(true, Ordering::Relaxed);
        self.draining.light();
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.is_draining.load(Ordering::Relaxed)
    }

    pub(crate) fn draining(&self) -> &Beacon {
        &self.draining
    }

    /// The shutdown is over: nobody is there to answer any more.
    pub(crate) fn close(&self) {
        self.answered.open();
    }

    #[cfg_attr(
        any(loom, shuttle, not(feature = "signals")),
        expect(dead_code, reason = "only a signal can come too late")
    )]
    pub(crate) fn is_closed(&self) -> bool {
        self.answered.is_open()
    }

    /// Asks for the shutdown, within the grace if no deadline is given; `true` for the request that was the first.
    pub(crate) fn raise(&self, cause: Cause, deadline: Option<Deadline>) -> bool {
        self.ask(cause, deadline, None)
    }

    /// Skips what is left of the grace, if the shutdown was requested already; else requests it.
    pub(crate) fn hurry(&self, cause: Cause) {
        self.ask(cause, None, Some(time::now()));
    }

    fn ask(&self, cause: Cause, deadline: Option<Deadline>, hurried_at: Option<Instant>) -> bool {
        let first = self.note(cause, deadline, hurried_at);
        self.raised.open();
        self.bell.ring();
        first
    }

    /// In one step: a request that is made in a hurry is never seen without it.
    fn note(&self, cause: Cause, deadline: Option<Deadline>, hurried_at: Option<Instant>) -> bool {
        let mut demand = self.demand.lock();
        if let Some(earlier) = &mut *demand {
            earlier.deadline = earlier
                .deadline
                .earlier(deadline.unwrap_or(Deadline::NEVER));
            earlier.hurried_at = earlier.hurried_at.or(hurried_at);
            return false;
        }
        let deadline = deadline.unwrap_or_else(|| Deadline::after(self.grace));
        *demand = Some(Demand {
            cause,
            since: time::now(),
            deadline,
            hurried_at,
        });
        true
    }

    /// Open once the shutdown was requested.
    pub(crate) fn latch(&self) -> &Latch {
        &self.raised
    }

    pub(crate) fn bell(&self) -> &Bell {
        &self.bell
    }

    pub(crate) fn demand(&self) -> Option<Demand> {
        self.demand.lock().clone()
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::cancel::cause::CauseKind;

    #[test]
    fn the_first_cause_wins_and_later_deadlines_only_shorten() {
        let request = ShutdownRequest::new(Duration::from_secs(5));
        let (soon, later) = (
            Deadline::after(Duration::from_secs(1)),
            Deadline::after(Duration::from_secs(9)),
        );
        assert!(request.raise(Cause::from_outside(CauseKind::Signal), None));
        assert!(!request.raise(Cause::request(), Some(soon)));
        assert!(!request.raise(Cause::request(), Some(later)));
        let demand = request.demand().expect("it was raised");
        assert_eq!(demand.cause.kind(), CauseKind::Signal);
        assert_eq!(demand.deadline, soon);
        assert_eq!(demand.hurried_at, None);
        request.hurry(Cause::request());
        assert!(request.demand().expect("still raised").hurried_at.is_some());
    }
}
