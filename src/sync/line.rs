//! Those who wait, in the order in which they came.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use crate::base::callsign;
use crate::base::latch::Latch;

/// A waiting line. Whoever joins it gets a turn and a latch; he waits for the latch, and comes back with his turn.
///
/// Somebody who is called is not served yet: he may come back because of a cancel or a deadline as well. So the line
/// remembers whom it called until he is back, and he learns which it was: then he owes the call to the next.
#[derive(Debug)]
pub(crate) struct Line {
    next: u64,
    waiting: BTreeMap<u64, Waiter>,
    called: BTreeSet<u64>,
}

/// One who waits.
#[derive(Debug)]
struct Waiter {
    latch: Arc<Latch>,
    /// The number of his thread.
    thread: usize,
    claim: Claim,
}

/// What somebody in a line is entitled to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// To be called.
    Call,
    /// To be served: what he waits for is kept for him.
    Service,
}

/// How somebody came back from the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Return {
    /// Nobody called him.
    Uncalled,
    /// He was called, and nobody in his place.
    Called,
    /// He was called with all the others, or served: he owes the call to nobody.
    Settled,
}

impl Line {
    pub(crate) const fn new() -> Self {
        Self {
            next: 0,
            waiting: BTreeMap::new(),
            called: BTreeSet::new(),
        }
    }

    /// Joins the line: at its end, or, with the turn from an earlier time, where one had stood.
    pub(crate) fn join(
        &mut self,
        turn: Option<u64>,
        thread: usize,
        claim: Claim,
    ) -> (u64, Arc<Latch>) {
        let turn = turn.unwrap_or_else(|| {
            self.next += 1;
            self.next
        });
        let latch = Arc::new(Latch::new());
        let waiter = Waiter {
            latch: Arc::clone(&latch),
            thread,
            claim,
        };
        self.waiting.insert(turn, waiter);
        (turn, latch)
    }

    /// Takes the first out of the line; his latch is to be opened.
    #[must_use = "whoever was called sleeps until his latch is opened"]
    pub(crate) fn call_first(&mut self) -> Option<Arc<Latch>> {
        let (turn, waiter) = self.waiting.pop_first()?;
        self.called.insert(turn);
        Some(waiter.latch)
    }

    /// Takes the first out of the line if he is to be served; his latch is to be opened, and his thread has it.
    #[must_use = "whoever was served sleeps until his latch is opened"]
    pub(crate) fn serve_first(&mut self) -> Option<(Arc<Latch>, usize)> {
        let first = self.waiting.first_entry()?;
        let is_served = first.get().claim == Claim::Service;
        is_served.then(|| {
            let waiter = first.remove();
            (waiter.latch, waiter.thread)
        })
    }

    /// Takes all out of the line; their latches are to be opened.
    #[must_use = "whoever was called sleeps until his latch is opened"]
    pub(crate) fn call_all(&mut self) -> Vec<Arc<Latch>> {
        let all = std::mem::take(&mut self.waiting);
        all.into_values().map(|waiter| waiter.latch).collect()
    }

    /// Whoever joined comes back, once, whatever woke him.
    pub(crate) fn come_back(&mut self, turn: u64) -> Return {
        if self.waiting.remove(&turn).is_some() {
            Return::Uncalled
        } else if self.called.remove(&turn) {
            Return::Called
        } else {
            Return::Settled
        }
    }

    /// Whether somebody was called alone and is not back yet.
    pub(crate) fn expects_somebody(&self) -> bool {
        !self.called.is_empty()
    }

    /// How many wait uncalled.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits and nobody is expected.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.called.is_empty()
    }

    /// The numbers of the threads that wait uncalled, the first first.
    pub(crate) fn threads(&self) -> Vec<usize> {
        self.waiting.values().map(|waiter| waiter.thread).collect()
    }
}

/// Wakes the one who was called, after the lock of the line was released.
pub(crate) fn wake(called: Option<Arc<Latch>>) {
    if let Some(latch) = called {
        latch.open();
    }
}

/// The threads with these numbers, by name.
pub(crate) struct Names<'a>(pub(crate) &'a [usize]);

impl fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = self.0.iter().map(|thread| callsign::spoken(*thread));
        write!(f, "[{}]", names.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn who_comes_first_is_called_first_and_keeps_his_turn() {
        let mut line = Line::new();
        let (first, latch) = line.join(None, 1, Claim::Call);
        let (second, _) = line.join(None, 2, Claim::Call);
        assert_eq!(line.threads(), [1, 2]);
        line.call_first().expect("he waits").open();
        assert!(latch.is_open());
        assert!(line.expects_somebody());
        assert_eq!(line.come_back(first), Return::Called);
        assert!(!line.expects_somebody());
        line.join(Some(first), 1, Claim::Service);
        assert_eq!(line.threads(), [1, 2], "not behind those who came later");
        assert_eq!(line.come_back(second), Return::Uncalled);
        assert_eq!(line.call_all().len(), 1);
        assert_eq!(line.come_back(first), Return::Settled);
        assert!(line.is_empty());
    }
}
