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
//! 2. `children` changes only under the node's lock and grows only while the node is not cancelled. The canceller takes
//!    the whole list in the step that sets the flag; a child made later is born cancelled. So a child is either in the
//!    list the canceller took, or sees the flag.
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

use std::io;
use std::panic::Location;
use std::sync::{Arc, OnceLock, Weak};

use crate::base::latch::Beacon;
use crate::base::sync::{AtomicBool, AtomicCell, AtomicU32, AtomicUsize, Mutex, Ordering};
use crate::base::time::Instant;
use crate::cancel::callback::{self, Callback, Callbacks};
use crate::cancel::cause::{Cause, CauseKind};
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

#[derive(Debug, Default)]
struct Links {
    cause: Option<Cause>,
    children: Vec<Arc<Node>>,
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
        let mut links = parent.links.lock();
        if parent.cancelled.load(Ordering::Relaxed) {
            drop(links);
            child.cancelled.store(true, Ordering::Release);
        } else {
            let slot = u32::try_from(links.children.len()).unwrap_or(NOWHERE);
            child.slot.store(slot, Ordering::Relaxed);
            links.children.push(Arc::clone(&child));
        }
        child
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
        node
    }

    fn new(parent: Option<Arc<Self>>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            slot: AtomicU32::new(NOWHERE),
            holders: AtomicUsize::new(1),
            alarm: AtomicCell::new(0),
            parent,
            links: Mutex::new(Links::default()),
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
                pending.push(children.into_iter());
            }
            let Some(beyond) = node.beyond() else {
                continue;
            };
            if let Some(children) = beyond.mark_through(self) {
                beyond.leave_parents();
                beyond.wake(&mut due);
                pending.push(children.into_iter());
            }
        }
        Some(due)
    }

    /// Sets the flag and takes the children (2); `None` if it was set before.
    fn mark(&self, cause: Option<Cause>) -> Option<Vec<Arc<Self>>> {
        let mut links = self.links.lock();
        if self.cancelled.load(Ordering::Relaxed) {
            // The guard goes before `cause`, whose drop may be the last of foreign strings.
            drop(links);
            return None;
        }
        links.cause = cause;
        self.cancelled.store(true, Ordering::Release);
        Some(std::mem::take(&mut links.children))
    }

    /// The same for a node with several parents; `origin` has the cause.
    fn mark_through(&self, origin: &Arc<Self>) -> Option<Vec<Arc<Self>>> {
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
        let slot = self.slot.swap(NOWHERE, Ordering::Relaxed);
        // A cancelled parent's list was taken by its canceller, and the slot with it.
        if slot == NOWHERE || parent.cancelled.load(Ordering::Relaxed) {
            return;
        }
        let gone = links.children.swap_remove(slot as usize);
        if let Some(moved) = links.children.get(slot as usize) {
            moved.slot.store(slot, Ordering::Relaxed);
        }
        Self::give_back_space(&mut links.children);
        drop(links);
        drop(gone);
    }

    /// Halves a list that is three quarters empty: each leaver pays for O(1) moves, a short-lived crowd leaves nothing.
    fn give_back_space(children: &mut Vec<Arc<Self>>) {
        if children.capacity() > 8 && children.len() <= children.capacity() / 4 {
            children.shrink_to(children.capacity() / 2);
        }
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
        self.links.lock().cause.is_some()
    }

    /// The cause that was meant for this very node.
    pub(crate) fn own_cause(&self) -> Option<Cause> {
        self.links.lock().cause.clone()
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

    /// Sets, moves or (with `None`) takes off the moment at which this node is cancelled; `false` if it is cancelled or
    /// its moment has come.
    pub(crate) fn set_deadline(
        self: &Arc<Self>,
        at: Option<Instant>,
        set_at: &'static Location<'static>,
        set_by: Option<&Arc<str>>,
    ) -> io::Result<bool> {
        loop {
            if let Some(alarm) = Alarm::from_bits(self.alarm.load()) {
                return Ok(timer::move_to(alarm, at));
            }
            let Some(at) = at.filter(|_| !self.is_cancelled()) else {
                return Ok(!self.is_cancelled());
            };
            let fuse = Fuse {
                target: Arc::clone(self) as Arc<dyn Ring>,
                set_at,
                set_by: set_by.map(Arc::clone),
            };
            let alarm = timer::set(at, fuse)?;
            if self.alarm.compare_exchange(0, alarm.to_bits()).is_err() {
                // Somebody else has set one meanwhile: move that one.
                timer::take_back(alarm);
                continue;
            }
            // A canceller who came before the alarm was there has not taken it back. The lock orders the two.
            drop(self.links.lock());
            if self.is_cancelled() {
                self.take_alarm_back();
                return Ok(false);
            }
            return Ok(true);
        }
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
    /// The deadline has come. The timer's thread runs no foreign code: the crew does.
    fn ring(self: Arc<Self>, set_at: &'static Location<'static>, set_by: Option<Arc<str>>) {
        let cause = Cause::set_before(CauseKind::Deadline, set_at, set_by);
        callback::hand_over(self.cancel(cause).unwrap_or_default());
    }
}

impl Drop for Node {
    /// Drops what is above one by one (10).
    fn drop(&mut self) {
        let mut pending: Vec<Arc<Self>> = self.take_above().collect();
        while let Some(node) = pending.pop() {
            if let Some(mut node) = Arc::into_inner(node) {
                pending.extend(node.take_above());
            }
        }
    }
}

impl Node {
    fn take_above(&mut self) -> impl Iterator<Item = Arc<Self>> + use<> {
        let ties = self.watch.get_mut().and_then(|watch| watch.ties.take());
        let through = match ties.map(|ties| *ties) {
            Some(Ties::From { bridges, origin }) => {
                let bridges = bridges.into_inner().into_iter().flatten();
                Some(bridges.chain(origin.into_inner()))
            }
            _ => None,
        };
        self.parent
            .take()
            .into_iter()
            .chain(through.into_iter().flatten())
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn children(node: &Node) -> usize {
        node.links.lock().children.len()
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
    fn a_crowd_that_left_gives_its_space_back() {
        let root = Node::root();
        let crowd: Vec<_> = (0..10_000).map(|_| Node::child_of(&root)).collect();
        for node in &crowd {
            node.release();
        }
        let links = root.links.lock();
        assert_eq!(links.children.len(), 0);
        assert!(
            links.children.capacity() <= 16,
            "{}",
            links.children.capacity()
        );
    }

    #[test]
    fn a_node_takes_little_room() {
        assert!(
            size_of::<Node>() + 2 * size_of::<usize>() <= 112,
            "{}",
            size_of::<Node>()
        );
    }
}
