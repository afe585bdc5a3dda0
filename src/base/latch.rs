//! The one primitive under every wait: latches and the bell.
//!
//! A [`Latch`] opens once and stays open. Whoever waits for a single latch sleeps at its condition variable, so that
//! a thousand of them are woken by one call; whoever waits for several at once ([`wait_any`]) leaves the handle of
//! its own thread at each and parks. No wait polls, none invents its own race:
//!
//! 1. `open` is written once, under the latch's lock.
//! 2. A waiter looks at `open` under the same lock under which it goes to sleep or leaves its handle; so the opener
//!    either is seen by it or sees it.
//! 3. Threads are woken after the lock was released, so that nobody wakes up only to queue for it.
//! 4. One lock at a time: [`wait_any`] visits the latches one after another and parks with none.

use std::convert::Infallible;

use crate::base::sync::{Monitor, Mutex, OnceLock, Parker, Receiver, Sender, bounded};
use crate::base::time::Deadline;
#[cfg(all(test, not(any(loom, shuttle))))]
use crate::base::time::clock;

/// Opens once, for ever.
#[derive(Debug, Default)]
pub(crate) struct Latch(Monitor<Door>);

#[derive(Debug, Default)]
struct Door {
    open: bool,
    /// How many threads wait here alone: without any, the opener saves the system call.
    sleepers: usize,
    /// Threads that wait here and elsewhere.
    parked: Vec<Parker>,
}

impl Latch {
    pub(crate) fn new() -> Self {
        Self(Monitor::new(Door::default()))
    }

    pub(crate) fn already_open() -> Self {
        Self(Monitor::new(Door {
            open: true,
            ..Door::default()
        }))
    }

    /// Opens the latch and wakes everybody; `true` for the one call that did it.
    pub(crate) fn open(&self) -> bool {
        let mut door = self.0.lock();
        if door.open {
            return false;
        }
        door.open = true;
        let sleepers = door.sleepers;
        let parked = std::mem::take(&mut door.parked);
        drop(door);
        match sleepers {
            0 => {}
            // The kernel stops at the first it finds, instead of looking through all who sleep anywhere.
            1 => self.0.notify_one(),
            _ => self.0.notify_all(),
        }
        parked.iter().for_each(Parker::unpark);
        true
    }

    pub(crate) fn is_open(&self) -> bool {
        self.0.lock().open
    }

    /// Waits until the latch is open; `false` if the deadline came first.
    pub(crate) fn wait_until(&self, deadline: Deadline) -> bool {
        let mut door = self.0.lock();
        if !door.open {
            door.sleepers += 1;
            while !door.open && !deadline.has_passed() {
                #[cfg(all(test, not(any(loom, shuttle))))]
                if deadline.instant().is_some_and(clock::leap_to) {
                    continue;
                }
                door = self.0.wait_until(door, deadline);
            }
            door.sleepers -= 1;
        }
        door.open
    }

    /// Leaves the caller's handle here; `false` if the latch is open and there is nothing to wait for.
    fn admit(&self, parker: &Parker) -> bool {
        let mut door = self.0.lock();
        if !door.open {
            door.parked.push(parker.clone());
        }
        !door.open
    }

    /// Takes the caller's handle back.
    fn dismiss(&self, parker: &Parker) {
        let mut door = self.0.lock();
        if let Some(index) = door.parked.iter().position(|other| other.is_same(parker)) {
            door.parked.swap_remove(index);
        }
    }
}

/// Waits until one of `latches` is open and says which (the first, if several are); `None` if the deadline came first.
pub(crate) fn wait_any(latches: &[&Latch], deadline: Deadline) -> Option<usize> {
    let parker = Parker::current();
    let first_open = || latches.iter().position(|latch| latch.is_open());
    let admitted = latches
        .iter()
        .take_while(|latch| latch.admit(&parker))
        .count();
    if admitted == latches.len() {
        while first_open().is_none() && !deadline.has_passed() {
            Parker::park_until(deadline);
        }
    }
    latches
        .iter()
        .take(admitted)
        .for_each(|latch| latch.dismiss(&parker));
    first_open()
}

/// A latch that channels can hear as well: for `select!`.
#[derive(Debug, Default)]
pub(crate) struct Beacon {
    latch: Latch,
    channel: OnceLock<Box<Channel>>,
}

impl Beacon {
    pub(crate) fn new() -> Self {
        Self {
            latch: Latch::new(),
            channel: OnceLock::new(),
        }
    }

    pub(crate) fn already_lit() -> Self {
        Self {
            latch: Latch::already_open(),
            channel: OnceLock::new(),
        }
    }

    pub(crate) fn latch(&self) -> &Latch {
        &self.latch
    }

    /// Opens the latch, wakes everybody, and disconnects the receiver.
    pub(crate) fn light(&self) {
        self.latch.open();
        if let Some(channel) = self.channel.get() {
            channel.disconnect();
        }
    }

    /// A receiver that never yields anything and disconnects when the latch opens; made when first asked for.
    pub(crate) fn receiver(&self) -> &Receiver<Infallible> {
        let channel = self.channel.get_or_init(|| Box::new(Channel::new()));
        // The latch's lock orders the two: either `light` finds the channel, or the open latch is seen here.
        if self.latch.is_open() {
            channel.disconnect();
        }
        &channel.receiver
    }
}

#[derive(Debug)]
struct Channel {
    sender: Mutex<Option<Sender<Infallible>>>,
    receiver: Receiver<Infallible>,
}

impl Channel {
    fn new() -> Self {
        let (sender, receiver) = bounded(0);
        Self {
            sender: Mutex::new(Some(sender)),
            receiver,
        }
    }

    fn disconnect(&self) {
        let sender = self.sender.lock().take();
        drop(sender);
    }
}

/// Wakes one thread again and again; rings while nobody listens are kept as one.
#[derive(Debug, Default)]
pub(crate) struct Bell(Monitor<bool>);

impl Bell {
    pub(crate) fn new() -> Self {
        Self(Monitor::new(false))
    }

    pub(crate) fn ring(&self) {
        let mut rung = self.0.lock();
        let news = !std::mem::replace(&mut *rung, true);
        drop(rung);
        if news {
            self.0.notify_all();
        }
    }

    /// Waits for a ring and takes it; `false` if the deadline came first.
    pub(crate) fn wait_until(&self, deadline: Deadline) -> bool {
        let mut rung = self.0.lock();
        while !*rung && !deadline.has_passed() {
            rung = self.0.wait_until(rung, deadline);
        }
        std::mem::take(&mut *rung)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::sync::{Arc, Barrier};
    use std::thread;

    use super::*;
    use crate::base::time::Duration;

    #[test]
    fn only_the_first_open_wins() {
        let latch = Latch::new();
        assert!(!latch.is_open());
        assert!(latch.open());
        assert!(!latch.open());
        assert!(latch.is_open());
        assert!(latch.wait_until(Deadline::NEVER));
    }

    #[test]
    fn a_closed_latch_is_waited_for_until_the_deadline_and_no_longer() {
        let latch = Latch::new();
        assert!(!latch.wait_until(Deadline::after(Duration::from_millis(1))));
        assert_eq!(
            wait_any(&[&latch], Deadline::after(Duration::from_millis(1))),
            None
        );
    }

    #[test]
    fn a_wait_for_several_ends_with_the_first_and_leaves_no_trace() {
        let (first, second) = (Arc::new(Latch::new()), Arc::new(Latch::new()));
        let opener = Arc::clone(&second);
        let helper = thread::spawn(move || opener.open());
        assert_eq!(wait_any(&[&first, &second], Deadline::NEVER), Some(1));
        assert!(helper.join().expect("the helper does not panic"));
        assert!(first.0.lock().parked.is_empty());
    }

    #[test]
    fn no_wake_up_is_lost_when_opening_races_with_waiting() {
        for round in 0..2_000 {
            let latches = Arc::new([Latch::new(), Latch::new()]);
            let start = Arc::new(Barrier::new(2));
            let (theirs, go) = (Arc::clone(&latches), Arc::clone(&start));
            let opener = thread::spawn(move || {
                go.wait();
                theirs[round % 2].open()
            });
            start.wait();
            let [first, second] = &*latches;
            assert_eq!(wait_any(&[first, second], Deadline::NEVER), Some(round % 2));
            assert!(opener.join().expect("the opener does not panic"));
        }
    }

    #[test]
    fn a_ring_that_nobody_heard_is_kept_as_one() {
        let bell = Bell::new();
        bell.ring();
        bell.ring();
        assert!(bell.wait_until(Deadline::NEVER));
        assert!(!bell.wait_until(Deadline::after(Duration::ZERO)));
    }
}
