//! The courier: the house-keeping thread that may block.
//!
//! Everything that could hang on foreign code is carried out here, so that the warden never does: the real join of a
//! thread (which waits for the destructors of its thread-locals), lines of log, the flush. A courier that is stuck on
//! an errand is named in the report and replaced; when it comes back, it finds that it was and goes.

use std::io;
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::log;
use crate::base::sync::{
    self, AtomicBool, JoinHandle, MailReceiver, Mutex, Ordering, start_thread,
};
use crate::base::time::{self, Deadline, Duration, Instant};
use crate::base::unwind;
use crate::task::errand::{Errand, What};
use crate::task::registry::Registry;

/// How long the courier rests after joins, so that a crowd of ending threads does not wake it one by one.
const COLLECTS: Duration = Duration::from_micros(500);

/// The couriers of one manager: the one at work and those it had to replace.
#[derive(Debug)]
pub(crate) struct Courier {
    shared: Arc<Shared>,
    registry: Arc<Registry>,
    errands: MailReceiver<Errand>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Shared {
    desk: Mutex<Desk>,
    /// The shutdown is over: go when nothing is left to join.
    closing: AtomicBool,
    gone: Latch,
}

/// Who is at work.
#[derive(Debug, Default)]
struct Desk {
    /// The number of the courier at work; a replaced one has an older number.
    number: usize,
    /// What that one is busy with.
    busy: Option<Busy>,
    /// The numbers of those who were replaced and have not come back, and what they hang in.
    lost: Vec<(usize, Busy)>,
}

#[derive(Clone, Debug)]
struct Busy {
    what: What,
    since: Instant,
}

impl Courier {
    /// Starts the first courier.
    pub(crate) fn start(
        registry: &Arc<Registry>,
        errands: MailReceiver<Errand>,
    ) -> io::Result<Arc<Self>> {
        let shared = Arc::new(Shared {
            desk: Mutex::new(Desk::default()),
            closing: AtomicBool::new(false),
            gone: Latch::new(),
        });
        let courier = Self {
            shared,
            registry: Arc::clone(registry),
            errands,
            thread: Mutex::new(None),
        };
        courier.keep(courier.start_number(0)?);
        Ok(Arc::new(courier))
    }

    fn start_number(&self, number: usize) -> io::Result<JoinHandle<()>> {
        let (shared, registry) = (Arc::clone(&self.shared), Arc::clone(&self.registry));
        let errands = self.errands.clone();
        start_thread("tm-courier".to_owned(), None, move || {
            shared.carry(number, &registry, &errands);
        })
    }

    fn keep(&self, thread: JoinHandle<()>) {
        let before = self.thread.lock().replace(thread);
        // A replaced courier is stuck in foreign code: nobody can wait for it.
        drop(before);
    }

    /// Whether the courier has been busy with one errand for longer than `limit`.
    pub(crate) fn is_stuck_for(&self, limit: Duration) -> bool {
        self.shared.desk.lock().is_stuck_for(limit)
    }

    /// Whether a line of log is what this courier, or one that was replaced, hangs in.
    pub(crate) fn is_logger_stuck(&self) -> bool {
        let in_logger = |busy: &Busy| matches!(busy.what, What::Log | What::Flush);
        let desk = self.shared.desk.lock();
        desk.lost.iter().any(|(_, busy)| in_logger(busy))
    }

    /// What the courier has been busy with for longer than `limit`, or what one that was replaced still is.
    pub(crate) fn stuck_in(&self, limit: Duration) -> Option<String> {
        let desk = self.shared.desk.lock();
        let lost = desk.lost.first().map(|(_, busy)| busy);
        let stuck = lost.or_else(|| desk.busy_for(limit)).cloned();
        drop(desk);
        stuck.map(|busy| busy.what.to_string())
    }

    /// Puts a new courier to work if this one has been busy with one errand for longer than `limit`. Should the system
    /// have no thread for it, the old one may still come back.
    pub(crate) fn replace_if_stuck_for(&self, limit: Duration) {
        let mut desk = self.shared.desk.lock();
        if !desk.is_stuck_for(limit) {
            return;
        }
        // Under the lock: the old one does not come back meanwhile, and the new one does not sit down too early.
        let Ok(thread) = self.start_number(desk.number + 1) else {
            return;
        };
        let number = desk.number;
        let busy = desk.busy.take();
        desk.lost.extend(busy.map(|busy| (number, busy)));
        desk.number += 1;
        drop(desk);
        self.keep(thread);
        // The old one may hang in the middle of them.
        self.registry.send_to_departed();
    }

    /// Has the log flushed after all that was sent before, and waits for it: until the deadline, and no longer than
    /// `patience` if the courier hangs in something else.
    pub(crate) fn flush(&self, patience: Duration, deadline: Deadline) {
        let done = Arc::new(Latch::new());
        let theirs = Arc::clone(&done);
        self.registry.send(Errand::run(What::Flush, move || {
            log::flush();
            theirs.open();
        }));
        while !done.wait_until(Deadline::after(patience).earlier(deadline)) {
            let desk = self.shared.desk.lock();
            let busy = desk.busy_for(patience);
            let hangs = busy.is_some_and(|busy| !matches!(busy.what, What::Flush));
            drop(desk);
            if hangs || deadline.has_passed() {
                break;
            }
        }
    }

    /// Lets the courier go as soon as nothing is left to join.
    pub(crate) fn close(&self) {
        self.shared.closing.store(true, Ordering::Release);
        self.registry.send(Errand::Nudge);
    }

    /// Joins the courier's own thread, unless it is stuck, still has stragglers to wait for, or is the caller: a callback
    /// that drops the manager.
    pub(crate) fn join(&self, deadline: Deadline) {
        let is_own = |thread: &JoinHandle<()>| thread.thread().id() == sync::thread_id();
        if self.thread.lock().as_ref().is_some_and(is_own) {
            return;
        }
        if self.shared.gone.wait_until(deadline) {
            let thread = self.thread.lock().take();
            unwind::discard(thread.map(JoinHandle::join));
        }
    }
}

impl Shared {
    fn carry(&self, number: usize, registry: &Registry, errands: &MailReceiver<Errand>) {
        while let Ok(errand) = errands.recv() {
            let still_at_work = match errand {
                Errand::JoinDeparted => self.join_departed(number, registry),
                Errand::Run(what, work) => self.busy_with(number, what, work),
                Errand::Nudge => true,
            };
            if !still_at_work {
                return;
            }
            if self.closing.load(Ordering::Acquire) && registry.is_empty() && errands.is_empty() {
                break;
            }
        }
        self.gone.open();
    }

    /// Joins who has departed and who departs meanwhile; `false` if this courier was replaced under way.
    fn join_departed(&self, number: usize, registry: &Registry) -> bool {
        registry.courier_is_with_departed();
        while let Some(departed) = registry.next_departed() {
            let what = What::Join(Arc::clone(departed.path()));
            let join = || registry.strike_off(&departed.join());
            if !self.busy_with(number, what, join) {
                // Those who are left, and whoever came after them.
                registry.send_to_departed();
                return false;
            }
        }
        sync::sleep(COLLECTS);
        true
    }

    /// Does something that may block; `false` if this courier was replaced under way.
    fn busy_with(&self, number: usize, what: What, work: impl FnOnce()) -> bool {
        let since = time::now();
        let before = self.desk.lock().busy.replace(Busy { what, since });
        drop(before);
        unwind::contain(work);
        let mut desk = self.desk.lock();
        let still_at_work = desk.number == number;
        let done = if still_at_work {
            desk.busy.take()
        } else {
            let place = desk.lost.iter().position(|(lost, _)| *lost == number);
            place.map(|place| desk.lost.remove(place).1)
        };
        drop(desk);
        drop(done);
        still_at_work
    }
}

impl Desk {
    fn is_stuck_for(&self, limit: Duration) -> bool {
        self.busy_for(limit).is_some()
    }

    fn busy_for(&self, limit: Duration) -> Option<&Busy> {
        let is_longer = |busy: &&Busy| time::now().saturating_duration_since(busy.since) > limit;
        self.busy.as_ref().filter(is_longer)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::sync::mailbox;

    use crate::task::registry::Settings;

    fn courier() -> Arc<Courier> {
        let (sender, errands) = mailbox();
        let settings = Settings::plain(Duration::from_secs(1));
        let registry = Arc::new(Registry::new(settings, sender));
        Courier::start(&registry, errands).expect("a thread")
    }

    #[test]
    fn a_courier_that_is_replaced_while_much_is_to_be_done_is_still_known_as_stuck() {
        for _ in 0..200 {
            let (courier, latch) = (courier(), Arc::new(Latch::new()));
            let theirs = Arc::clone(&latch);
            courier.registry.send(Errand::run(What::Log, move || {
                theirs.wait_until(Deadline::NEVER);
            }));
            for _ in 0..10 {
                courier.registry.send(Errand::run(What::Flush, || ()));
            }
            while !courier.is_stuck_for(Duration::ZERO) {
                std::thread::yield_now();
            }
            courier.replace_if_stuck_for(Duration::ZERO);
            let stuck = courier.stuck_in(Duration::from_secs(60));
            assert_eq!(stuck.as_deref(), Some("a line of log"));
            assert!(courier.is_logger_stuck());
            latch.open();
            while courier.stuck_in(Duration::from_secs(60)).is_some() {
                std::thread::yield_now();
            }
            assert!(!courier.is_logger_stuck());
            courier.close();
            courier.join(Deadline::NEVER);
        }
    }

    #[test]
    fn a_flush_comes_after_all_that_was_sent_before_and_is_waited_for() {
        let (courier, said) = (courier(), Arc::new(Latch::new()));
        let (errands, theirs) = (courier.errands.clone(), Arc::clone(&said));
        courier.registry.send(Errand::run(What::Log, move || {
            // For the flush to be sent.
            while errands.is_empty() {
                std::thread::yield_now();
            }
            theirs.open();
        }));
        courier.flush(Duration::from_secs(20), Deadline::NEVER);
        assert!(said.is_open());
        courier.close();
        courier.join(Deadline::NEVER);
    }
}
