//! The token tree: one node per token, cancel flows down.
//!
//! A worker only ever looks at the flag of its own node, however deep in the tree; the canceller walks down. Words:
//! a *handle* is a `CancellationToken`; a node's *holders* are its handles and its children. A node with several
//! parents (`CancellationToken::any`) has a *bridge* below each of them: a child that hands a cancel over to it.
//!
//! Invariants:
//!
//! 1. `cancelled` goes from false to true once, under the node's own lock. If the cancel was meant for this node, its
//!    cause was written before; if it came from above, some ancestor has the cause, and every node on the way there
//!    was cancelled before this one. So whoever sees the flag finds the cause by walking up.
//! 2. The children change only under the node's lock, and there are some only while the node is not cancelled. The
//!    canceller takes the whole list in the step that sets the flag, and leaves the cause in its place; a child made
//!    later is born cancelled. So a child is either in the list the canceller took, or sees the flag.
//! 3. A child that is in its parent's list knows its index there (`slot`, guarded by the *parent's* lock), so that
//!    leaving is O(1): the last child takes the vacant place.
//! 4. A node leaves the list when it is cancelled for itself or when its last holder is gone. A node without handles
//!    stays for as long as a descendant has one: cancel must reach the grandchild through it. `holders` never rises
//!    again from zero, since both a new handle and a new child need a handle.
//! 5. Parents and children own each other. The cycle is cut by 4, never by a destructor.
//! 6. A node with several parents holds its bridges and each bridge knows it, weakly. A bridge is cancelled like any
//!    child; whoever cancelled it then cancels the node it leads to, with itself as the origin.
//! 7. Work to be done on cancel is put into a list that the canceller closes after the waiters were woken; whoever comes
//!    to a closed list does the work himself (callback.rs).
//! 8. An alarm is taken back by whoever cancels the node and by its last holder, so that a node leaves nothing behind.
//! 9. One node's lock at a time, no user code and no drop of a node under it. There is no lock order because there is
//!    never a second lock.
//! 10. Every walk, up or down, and the drop of a chain are loops: a million nodes deep need no stack.

use std::panic::Location;
use std::sync::{Arc, Weak};
use std::{io, mem};

use crate::base::latch::Beacon;
use crate::base::sync::{
    AtomicBool, AtomicCell, AtomicU32, AtomicUsize, Mutex, OnceLock, Ordering,
};
use crate::base::time::Instant;
use crate::cancel::callback::{Callback, Callbacks};
use crate::cancel::cause::{Cause, CauseKind};
use crate::cancel::children::Children;
use crate::cancel::timer::{self, Alarm, Fuse, Ring};

/// Not in a parent's list.
const NOWHERE: u32 = u32::MAX;

/// One place in the tree.
#[derive(Debug)]
pub(crate) struct Node {
    cancelled: AtomicBool,
    /// Four bytes, like the number of nodes that fit into any memory: a token takes little room.
    slot: AtomicU32,
    holders: AtomicUsize,
    /// The bits of the alarm of its deadline; zero without one.
    alarm: AtomicCell<u64>,
    parent: Option<Arc<Node>>,
    links: Mutex<Links>,
    /// Those who want to know of the cancel; made by the first of them.
    watch: OnceLock<Box<Watch>>,
}

/// A cancelled node has no children and the others have no cause: one room for both (2).
#[derive(Debug)]
enum Links {
    Open(Children<Arc<Node>>),
    /// The cause is there if the cancel was meant for this very node.
    Cancelled(Option<Cause>),
}

/// Those who want to know of one node's cancel.
#[derive(Debug)]
struct Watch {
    beacon: Beacon,
    callbacks: OnceLock<Box<Callbacks>>,
    ties: Option<Box<Ties>>,
}

/// What makes a node one of several parents (6).
#[derive(Debug)]
enum Ties {
    /// This is a bridge to that node.
    To(Weak<Node>),
    /// This node is cancelled through any of these.
    From {
        /// Set once they are made, after the node's own place for them.
        bridges: OnceLock<Vec<Arc<Node>>>,
        /// The one above that was cancelled, if one was; set before the flag.
        origin: OnceLock<Arc<Node>>,
    },
}

/// What became of an alarm that was just set.
enum Kept {
    Here,
    /// The node is cancelled.
    TooLate,
    /// It has an alarm that somebody else has set meanwhile.
    NotNeeded,
}

impl Node {
    /// A node of its own, with one handle.
    pub(crate) fn root() -> Arc<Self> {
        Arc::new(Self::new(None))
    }

    /// A child with one handle; born cancelled if `parent` is.
    pub(crate) fn child_of(parent: &Arc<Self>) -> Arc<Self> {
        Self::tied_child_of(parent, None)
    }

    fn tied_child_of(parent: &Arc<Self>, ties: Option<Ties>) -> Arc<Self> {
        let child = Arc::new(Self::new(Some(Arc::clone(parent))));
        if let Some(ties) = ties {
            // Nobody else knows the child yet.
            let watch = child.watch.set(Box::new(Watch::new(false, Some(ties))));
            drop(watch);
        }
        parent.hold();
        if !parent.adopt(&child) {
            // Nobody else knows the child yet: it has no children.
            drop(child.mark(None));
        }
        child
    }

    /// Takes a child into the list (3); `false` if this node is cancelled.
    fn adopt(&self, child: &Arc<Self>) -> bool {
        let mut links = self.links.lock();
        let Links::Open(children) = &mut *links else {
            return false;
        };
        let slot = u32::try_from(children.len()).unwrap_or(NOWHERE);
        child.slot.store(slot, Ordering::Relaxed);
        children.push(Arc::clone(child));
        true
    }

    /// A node with one handle that is cancelled with any of `parents` (6).
    pub(crate) fn below_all(parents: &[&Arc<Self>]) -> Arc<Self> {
        let node = Self::root();
        node.watch_with(Some(Ties::From {
            bridges: OnceLock::new(),
            origin: OnceLock::new(),
        }));
        let bridge = |parent: &&Arc<Self>| {
            let ties = Ties::To(Arc::downgrade(&node));
            Self::tied_child_of(parent, Some(ties))
        };
        let bridges: Vec<Arc<Self>> = parents.iter().map(bridge).collect();
        // A bridge that is born cancelled is in nobody's list: nobody else hands its cancel over.
        let cancelled = bridges.iter().find(|bridge| bridge.is_cancelled()).cloned();
        if let Some(Ties::From { bridges: place, .. }) = node.ties() {
            let before = place.set(bridges);
            drop(before);
        }
        if let Some(bridge) = cancelled {
            // Nobody else knows the node yet: there is no work to be done.
            node.mark_through(&bridge.origin());
            node.wake(&mut Vec::new());
        }
        // Whoever cancelled it before it had its bridges could not take them out of the lists of the other parents. The
        // lock orders the two: he finds the bridges, or his cancel is found here.
        let is_cancelled = matches!(&*node.links.lock(), Links::Cancelled(_));
        if is_cancelled {
            node.leave_parents();
        }
        node
    }

    fn new(parent: Option<Arc<Self>>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            slot: AtomicU32::new(NOWHERE),
            holders: AtomicUsize::new(1),
            alarm: AtomicCell::new(0),
            parent,
            links: Mutex::new(Links::Open(Children::new())),
            watch: OnceLock::new(),
        }
    }

    /// The one load of a checkpoint. Acquire pairs with the release in [`Node::mark`] and publishes the cause.
    #[inline]
    pub(crate) fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Acquire)
    }

    /// Adds a holder. Relaxed, as in `Arc::clone`: who adds one has one.
    pub(crate) fn hold(&self) {
        self.holders.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes a holder away, and every node that this leaves without one out of the tree.
    pub(crate) fn release(&self) {
        let mut pending = Vec::new();
        let mut next = Some(self);
        while let Some(node) = next.or_else(|| pending.pop()) {
            next = None;
            // AcqRel orders what the other holders did before the leaving; the list itself is under the parent's lock.
            if node.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
                node.take_alarm_back();
                node.leave_parent();
                pending.extend(node.bridges().iter().map(|bridge| &**bridge));
                next = node.parent.as_deref();
            }
        }
    }

    /// The last holder will only look from now on: takes back what its going would take back. Whoever comes to hold the
    /// node at this moment finds it so. What is to be done on a cancel that has come is the canceller's: he may not have
    /// collected it yet.
    pub(crate) fn retire(&self) {
        // Acquire pairs with the leaving of the other holders.
        if self.holders.load(Ordering::Acquire) > 1 || self.is_cancelled() {
            return;
        }
        self.take_alarm_back();
        let watch = self.watch.get();
        if let Some(callbacks) = watch.and_then(|watch| watch.callbacks.get()) {
            callbacks.give_up();
        }
    }

    /// Cancels this node and everything below; the one call that did it gets the work to be done now (7).
    #[must_use = "the callbacks are to be run"]
    pub(crate) fn cancel(self: &Arc<Self>, cause: Cause) -> Option<Vec<Arc<Callback>>> {
        let children = self.mark(Some(cause))?;
        let mut due = Vec::new();
        self.leave_parents();
        self.wake(&mut due);
        // Down before sideways, the eldest first: in the order in which they fell asleep the kernel finds them soonest.
        let mut pending = vec![children.into_iter()];
        while let Some(siblings) = pending.last_mut() {
            let next = siblings.next();
            if siblings.len() == 0 {
                pending.pop();
            }
            let Some(node) = next else { continue };
            if let Some(children) = node.mark(None) {
                node.wake(&mut due);
                pending.extend(children.into_some_iter());
            }
            let Some(beyond) = node.beyond() else {
                continue;
            };
            if let Some(children) = beyond.mark_through(self) {
                beyond.leave_parents();
                beyond.wake(&mut due);
                pending.extend(children.into_some_iter());
            }
        }
        Some(due)
    }

    /// Sets the flag and takes the children (2); `None` if it was set before.
    fn mark(&self, cause: Option<Cause>) -> Option<Children<Arc<Self>>> {
        let mut links = self.links.lock();
        let Links::Open(children) = &mut *links else {
            // The guard goes before `cause`, whose drop may be the last of foreign strings.
            drop(links);
            return None;
        };
        let children = mem::take(children);
        *links = Links::Cancelled(cause);
        self.cancelled.store(true, Ordering::Release);
        Some(children)
    }

    /// The same for a node with several parents; `origin` has the cause.
    fn mark_through(&self, origin: &Arc<Self>) -> Option<Children<Arc<Self>>> {
        if let Some(Ties::From { origin: place, .. }) = self.ties() {
            // The first one stays; should this call lose, it does not matter whose it is.
            let before = place.set(Arc::clone(origin));
            drop(before);
        }
        self.mark(None)
    }

    /// Leaves the lists of all parents.
    fn leave_parents(&self) {
        self.leave_parent();
        self.bridges()
            .iter()
            .for_each(|bridge| bridge.leave_parent());
    }

    /// Leaves the parent's list, if still in it (3).
    fn leave_parent(&self) {
        let Some(parent) = &self.parent else { return };
        let mut links = parent.links.lock();
        // A cancelled parent's list was taken by its canceller, and the slot with it.
        let Links::Open(children) = &mut *links else {
            return;
        };
        // A load and a store, not a swap: the parent's lock guards it, and a short-lived token feels the difference.
        let slot = self.slot.load(Ordering::Relaxed);
        self.slot.store(NOWHERE, Ordering::Relaxed);
        // There is no child at NOWHERE.
        let gone = children.swap_remove(slot as usize);
        if let Some(moved) = children.get(slot as usize) {
            moved.slot.store(slot, Ordering::Relaxed);
        }
        drop(links);
        drop(gone);
    }

    /// The flag is set: tells those who wait, and collects what is to be done (7).
    fn wake(&self, due: &mut Vec<Arc<Callback>>) {
        self.take_alarm_back();
        if let Some(watch) = self.watch.get() {
            watch.beacon.light();
            if let Some(callbacks) = watch.callbacks.get() {
                due.extend(callbacks.close());
            }
        }
    }

    // ---- looking up ----

    /// The cancelled node that has the cause: this one or the nearest such ancestor. Only for a cancelled node.
    pub(crate) fn origin(self: &Arc<Self>) -> Arc<Self> {
        let mut node = self;
        loop {
            if node.has_cause() {
                return Arc::clone(node);
            }
            node = match (node.ties(), &node.parent) {
                (Some(Ties::From { origin, .. }), _) => match origin.get() {
                    Some(origin) => origin,
                    None => return Arc::clone(node),
                },
                (_, Some(parent)) => parent,
                (_, None) => return Arc::clone(node),
            };
        }
    }

    fn has_cause(&self) -> bool {
        matches!(&*self.links.lock(), Links::Cancelled(Some(_)))
    }

    /// The cause that was meant for this very node.
    pub(crate) fn own_cause(&self) -> Option<Cause> {
        let links = self.links.lock();
        match &*links {
            Links::Cancelled(cause) => cause.clone(),
            Links::Open(_) => None,
        }
    }

    /// Whether `other` is this node or one of its ancestors.
    pub(crate) fn is_at_or_below(&self, other: &Self) -> bool {
        self.ancestors().any(|node| std::ptr::eq(node, other))
    }

    /// This node and all above it, each once for every way there that does not fork.
    fn ancestors(&self) -> Ancestors<'_> {
        Ancestors {
            pending: vec![self],
            seen: Vec::new(),
        }
    }

    // ---- waiting ----

    /// What to wait at for the cancel; lit if it has come.
    pub(crate) fn beacon(&self) -> &Beacon {
        &self.watch_with(None).beacon
    }

    /// Has `callback` run on cancel, or at once if that has come; its number in the list, if it is in one.
    pub(crate) fn on_cancel(&self, callback: &Arc<Callback>) -> Option<u64> {
        let watch = self.watch_with(None);
        let callbacks = watch.callbacks.get_or_init(|| Box::new(Callbacks::new()));
        let number = callbacks.register(callback);
        if number.is_none() {
            callback.run();
        } else if watch.beacon.latch().is_open() {
            // The canceller may have looked before there was a list. Whatever is in it is run once, by him or here.
            callbacks.close().iter().for_each(|callback| callback.run());
        }
        number
    }

    pub(crate) fn forget_callback(&self, number: u64) {
        let callbacks = self.watch.get().and_then(|watch| watch.callbacks.get());
        if let Some(callbacks) = callbacks {
            callbacks.unregister(number);
        }
    }

    fn watch_with(&self, ties: Option<Ties>) -> &Watch {
        if let Some(watch) = self.watch.get() {
            return watch;
        }
        // Under the node's lock the flag cannot change: the canceller either finds the watch or is seen here.
        let links = self.links.lock();
        let watch = self.watch.get_or_init(|| {
            let is_cancelled = self.cancelled.load(Ordering::Relaxed);
            Box::new(Watch::new(is_cancelled, ties))
        });
        drop(links);
        watch
    }

    fn ties(&self) -> Option<&Ties> {
        self.watch.get()?.ties.as_deref()
    }

    fn bridges(&self) -> &[Arc<Self>] {
        match self.ties() {
            Some(Ties::From { bridges, .. }) => bridges.get().map_or(&[], Vec::as_slice),
            _ => &[],
        }
    }

    /// The node that this one is a bridge to.
    fn beyond(&self) -> Option<Arc<Self>> {
        match self.ties() {
            Some(Ties::To(node)) => node.upgrade(),
            _ => None,
        }
    }

    // ---- deadlines ----

    /// A child with one handle that is cancelled at `at`; born cancelled if `parent` is.
    ///
    /// It has its alarm before anybody but the timer knows it, and so needs no lock for it.
    pub(crate) fn child_with_alarm(
        parent: &Arc<Self>,
        at: Instant,
        set_at: &'static Location<'static>,
        set_by: Option<&Arc<str>>,
    ) -> io::Result<Arc<Self>> {
        let child = Arc::new(Self::new(Some(Arc::clone(parent))));
        let alarm = timer::set(at, || child.fuse(set_at, set_by))?;
        child.alarm.store(alarm.to_bits());
        parent.hold();
        if !parent.adopt(&child) {
            drop(child.mark(None));
            child.take_alarm_back();
        } else if child.is_cancelled() {
            // Its moment came before it was in the list; if it comes from now on, whoever cancels it takes it out (4).
            child.leave_parent();
        }
        Ok(child)
    }

    fn fuse(
        self: &Arc<Self>,
        set_at: &'static Location<'static>,
        set_by: Option<&Arc<str>>,
    ) -> Fuse {
        Fuse {
            target: Arc::clone(self) as Arc<dyn Ring>,
            set_at,
            set_by: set_by.map(Arc::clone),
        }
    }

    /// Sets, moves or (with `None`) takes off the moment at which this node is cancelled; `false` if it is cancelled or
    /// its moment has come.
    pub(crate) fn set_deadline(
        self: &Arc<Self>,
        at: Option<Instant>,
        set_at: &'static Location<'static>,
        set_by: Option<&Arc<str>>,
    ) -> io::Result<bool> {
        loop {
            let bits = self.alarm.load();
            if let Some(alarm) = Alarm::from_bits(bits) {
                let in_time = match at {
                    Some(at) => timer::move_to(alarm, at, set_at, set_by.map(Arc::clone)),
                    None => timer::take_back_and(alarm, || self.forget_alarm(bits)),
                };
                if in_time || self.alarm.load() == bits {
                    return Ok(in_time);
                }
                // It has not rung: somebody else took it off.
                continue;
            }
            let Some(at) = at.filter(|_| !self.is_cancelled()) else {
                return Ok(!self.is_cancelled());
            };
            let alarm = timer::set(at, || self.fuse(set_at, set_by))?;
            match self.keep_alarm(alarm) {
                Kept::Here => return Ok(true),
                // If not by its own moment, which has come meanwhile: then it was set in time.
                Kept::TooLate => return Ok(!timer::take_back_and(alarm, || ())),
                // Move the other one, unless the moment of this one has come.
                Kept::NotNeeded => {
                    if !timer::take_back_and(alarm, || ()) {
                        return Ok(true);
                    }
                }
            }
        }
    }

    /// Under the node's lock: a canceller either finds the alarm or is seen here, and of two alarms the first is kept.
    fn keep_alarm(&self, alarm: Alarm) -> Kept {
        let links = self.links.lock();
        let kept = match &*links {
            Links::Cancelled(_) => Kept::TooLate,
            Links::Open(_) if self.alarm.load() != 0 => Kept::NotNeeded,
            Links::Open(_) => {
                self.alarm.store(alarm.to_bits());
                Kept::Here
            }
        };
        drop(links);
        kept
    }

    /// An alarm that is taken off is forgotten in the same step, and one that has rung is not: so who finds the alarm of
    /// this node not pending knows that it is too late.
    fn forget_alarm(&self, bits: u64) {
        // If it is another one by now, somebody was quicker.
        let _ = self.alarm.compare_exchange(bits, 0);
    }

    /// The earliest moment set for this node or one above it.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        self.ancestors()
            .filter_map(|node| timer::moment_of(Alarm::from_bits(node.alarm.load())?))
            .min()
    }

    fn take_alarm_back(&self) {
        if self.alarm.load() != 0 {
            if let Some(alarm) = Alarm::from_bits(self.alarm.swap(0)) {
                timer::take_back(alarm);
            }
        }
    }
}

impl Ring for Node {
    fn ring(
        self: Arc<Self>,
        set_at: &'static Location<'static>,
        set_by: Option<Arc<str>>,
    ) -> Vec<Arc<Callback>> {
        let cause = Cause::set_before(CauseKind::Deadline, set_at, set_by);
        self.cancel(cause).unwrap_or_default()
    }
}

impl Drop for Node {
    /// Drops what is above one by one (10).
    fn drop(&mut self) {
        // Allocates only for several parents: a token that lives for a microsecond has no time for it.
        let mut pending = Vec::new();
        let mut next = self.take_above(&mut pending);
        while let Some(node) = next.or_else(|| pending.pop()) {
            next = Arc::into_inner(node).and_then(|mut node| node.take_above(&mut pending));
        }
    }
}

impl Node {
    /// Takes the parent; what else is above goes to `others`.
    fn take_above(&mut self, others: &mut Vec<Arc<Self>>) -> Option<Arc<Self>> {
        let ties = self.watch.get_mut().and_then(|watch| watch.ties.take());
        if let Some(Ties::From { bridges, origin }) = ties.map(|ties| *ties) {
            others.extend(bridges.into_inner().into_iter().flatten());
            others.extend(origin.into_inner());
        }
        self.parent.take()
    }
}

impl Watch {
    fn new(is_cancelled: bool, ties: Option<Ties>) -> Self {
        Self {
            beacon: if is_cancelled {
                Beacon::already_lit()
            } else {
                Beacon::new()
            },
            callbacks: OnceLock::new(),
            ties: ties.map(Box::new),
        }
    }
}

/// See [`Node::ancestors`].
struct Ancestors<'a> {
    pending: Vec<&'a Node>,
    /// Nodes with several parents: all of them are above two ways at least, and there may be many ways.
    seen: Vec<&'a Node>,
}

impl<'a> Iterator for Ancestors<'a> {
    type Item = &'a Node;

    fn next(&mut self) -> Option<&'a Node> {
        let node = self.pending.pop()?;
        self.pending.extend(node.parent.as_deref());
        let bridges = node.bridges();
        if !bridges.is_empty() && !self.seen.iter().any(|seen| std::ptr::eq(*seen, node)) {
            self.seen.push(node);
            self.pending.extend(bridges.iter().map(|bridge| &**bridge));
        }
        Some(node)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;
    use crate::base::time::{self, Deadline, Duration};

    fn children(node: &Node) -> usize {
        match &*node.links.lock() {
            Links::Open(children) => children.len(),
            Links::Cancelled(_) => 0,
        }
    }

    #[test]
    fn a_child_leaves_its_parent_with_its_last_handle() {
        let root = Node::root();
        let (first, second, third) = (
            Node::child_of(&root),
            Node::child_of(&root),
            Node::child_of(&root),
        );
        first.release();
        assert_eq!(children(&root), 2);
        third.release();
        assert_eq!(children(&root), 1);
        assert!(root.cancel(Cause::request()).is_some());
        assert!(second.is_cancelled());
        assert!(!first.is_cancelled(), "a node that left is not walked to");
        second.release();
    }

    #[test]
    fn a_node_without_handles_stays_for_its_descendants_and_goes_with_the_last() {
        let root = Node::root();
        let middle = Node::child_of(&root);
        let leaf = Node::child_of(&middle);
        middle.release();
        assert_eq!(children(&root), 1);
        leaf.release();
        assert_eq!((children(&root), children(&middle)), (0, 0));
    }

    #[test]
    fn a_cancelled_child_leaves_nothing_in_its_parent() {
        let root = Node::root();
        let child = Node::child_of(&root);
        assert!(child.cancel(Cause::request()).is_some());
        assert_eq!(children(&root), 0);
        child.release();
        assert_eq!(root.holders.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_node_of_several_parents_that_is_born_cancelled_leaves_nothing_in_the_others() {
        let (cancelled, other) = (Node::root(), Node::root());
        assert!(cancelled.cancel(Cause::request()).is_some());
        let node = Node::below_all(&[&other, &cancelled]);
        assert!(node.is_cancelled());
        assert_eq!(children(&other), 0);
        node.release();
        assert_eq!(other.holders.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_parent_that_is_cancelled_meanwhile_leaves_nothing_of_the_node_in_the_others() {
        for _ in 0..2_000 {
            let (first, other) = (Node::root(), Node::root());
            let start = Barrier::new(2);
            let node = thread::scope(|threads| {
                let canceller = threads.spawn(|| {
                    start.wait();
                    drop(first.cancel(Cause::request()));
                });
                start.wait();
                let node = Node::below_all(&[&first, &other]);
                // ThreadSanitizer sees a join, but not the end of a scope.
                canceller.join().expect("no panic");
                node
            });
            assert!(node.is_cancelled());
            assert_eq!(children(&other), 0);
            node.release();
        }
    }

    #[test]
    fn what_is_made_below_a_cancelled_node_is_born_cancelled_down_to_the_grandchildren() {
        let root = Node::root();
        assert!(root.cancel(Cause::request()).is_some());
        let child = Node::child_of(&root);
        let grandchild = Node::child_of(&child);
        assert!(child.is_cancelled() && grandchild.is_cancelled());
        assert!(Arc::ptr_eq(&grandchild.origin(), &root));
        assert_eq!((children(&root), children(&child)), (0, 0));
    }

    #[test]
    fn a_child_whose_moment_comes_while_it_is_made_leaves_nothing_in_its_parent() {
        let root = Node::root();
        for round in 0..2_000 {
            let at = time::now() + Duration::from_micros(round % 64);
            let child = Node::child_with_alarm(&root, at, Location::caller(), None)
                .expect("there is room for a thread");
            child.beacon().latch().wait_until(Deadline::NEVER);
            assert_eq!(children(&root), 0);
            child.release();
        }
    }

    #[test]
    fn a_moment_that_comes_while_it_is_set_was_set_in_time() {
        for round in 0..2_000 {
            let (node, now) = (Node::root(), time::now());
            let at = now + Duration::from_micros(round % 64);
            let set = node.set_deadline(Some(at), Location::caller(), None);
            assert!(set.expect("there is room for a thread"));
            node.beacon().latch().wait_until(Deadline::NEVER);
            node.release();
        }
    }

    #[test]
    fn a_moment_that_is_taken_off_leaves_no_alarm_and_one_that_has_come_is_not_taken_off() {
        let (node, hour) = (Node::root(), Duration::from_secs(3_600));
        let set = |at| {
            node.set_deadline(at, Location::caller(), None)
                .expect("there is room for a thread")
        };
        assert!(set(None), "there is none");
        for _ in 0..2 {
            assert!(set(Some(time::now() + hour)));
            let alarm = Alarm::from_bits(node.alarm.load()).expect("it has one");
            assert!(set(None));
            assert_eq!((node.alarm.load(), timer::moment_of(alarm)), (0, None));
            assert_eq!(Arc::strong_count(&node), 1, "the timer has let it go");
        }
        assert!(set(Some(time::now())));
        node.beacon().latch().wait_until(Deadline::NEVER);
        assert!(!set(None));
        // As between the ring and the cancel.
        let late = Node::root();
        late.alarm.store(u64::from(u32::MAX));
        let set = |at| late.set_deadline(at, Location::caller(), None);
        assert!(matches!(set(None), Ok(false)));
        assert!(matches!(set(Some(time::now() + hour)), Ok(false)));
    }

    #[test]
    fn who_retires_gives_up_what_is_to_be_done_unless_it_is_due() {
        let register = |node: &Node| {
            let callback = Callback::new(Box::new(|| ()), Location::caller());
            node.on_cancel(&callback).expect("it is not cancelled");
            callback
        };
        let nodes: [_; 3] = std::array::from_fn(|_| Node::root());
        let callbacks = nodes.each_ref().map(|node| register(node));
        let [retired, held, cancelled] = nodes;
        held.hold();
        // As its canceller leaves it who has not collected anything yet.
        drop(cancelled.mark(Some(Cause::request())));
        for node in [&retired, &held, &cancelled] {
            node.retire();
        }
        let kept = callbacks.each_ref().map(|it| Arc::strong_count(it) > 1);
        assert_eq!(kept, [false, true, true]);
        let mut due = Vec::new();
        cancelled.wake(&mut due);
        assert_eq!(due.len(), 1);
    }

    #[test]
    fn a_callback_that_was_taken_back_leaves_nothing_in_its_node() {
        let node = Node::root();
        let callback = Callback::new(Box::new(|| ()), Location::caller());
        let number = node.on_cancel(&callback).expect("it is not cancelled");
        node.forget_callback(number);
        assert_eq!(Arc::strong_count(&callback), 1);
    }

    #[test]
    #[cfg(not(tsan))]
    fn a_node_takes_little_room() {
        assert!(
            size_of::<Node>() + 2 * size_of::<usize>() <= 96,
            "{}",
            size_of::<Node>()
        );
    }
}
