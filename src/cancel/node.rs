//! The token tree: one node per token, cancel flows down.
//!
//! A worker only ever looks at the flag of its own node, however deep in the tree; the canceller walks down. Words:
//! a *handle* is a `CancellationToken`; a node's *holders* are its handles and its children.
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
//! 6. One node's lock at a time, no user code and no drop of a node under it. There is no lock order because there is
//!    never a second lock.
//! 7. Every walk, up or down, and the drop of a chain are loops: a million nodes deep need no stack.

use std::sync::{Arc, OnceLock};

use crate::base::latch::Beacon;
use crate::base::sync::{AtomicBool, AtomicUsize, Mutex, Ordering};
use crate::cancel::cause::Cause;

/// Not in a parent's list.
const NOWHERE: usize = usize::MAX;

/// One place in the tree.
#[derive(Debug)]
pub(crate) struct Node {
    cancelled: AtomicBool,
    holders: AtomicUsize,
    slot: AtomicUsize,
    parent: Option<Arc<Node>>,
    links: Mutex<Links>,
    /// Those who wait for the cancel; made by the first of them.
    beacon: OnceLock<Box<Beacon>>,
}

#[derive(Debug, Default)]
struct Links {
    cause: Option<Cause>,
    children: Vec<Arc<Node>>,
}

impl Node {
    /// A node of its own, with one handle.
    pub(crate) fn root() -> Arc<Self> {
        Arc::new(Self::new(None))
    }

    /// A child with one handle; born cancelled if `parent` is.
    pub(crate) fn child_of(parent: &Arc<Self>) -> Arc<Self> {
        let child = Arc::new(Self::new(Some(Arc::clone(parent))));
        parent.hold();
        let mut links = parent.links.lock();
        if parent.cancelled.load(Ordering::Relaxed) {
            drop(links);
            child.cancelled.store(true, Ordering::Release);
        } else {
            child.slot.store(links.children.len(), Ordering::Relaxed);
            links.children.push(Arc::clone(&child));
        }
        child
    }

    fn new(parent: Option<Arc<Self>>) -> Self {
        Self {
            cancelled: AtomicBool::new(false),
            holders: AtomicUsize::new(1),
            slot: AtomicUsize::new(NOWHERE),
            parent,
            links: Mutex::new(Links::default()),
            beacon: OnceLock::new(),
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
        let mut node = self;
        // AcqRel orders what the other holders did before the leaving; the list itself is under the parent's lock.
        while node.holders.fetch_sub(1, Ordering::AcqRel) == 1 {
            node.leave_parent();
            let Some(parent) = &node.parent else { return };
            node = parent;
        }
    }

    /// Cancels this node and everything below; `true` for the one call that did it.
    pub(crate) fn cancel(&self, cause: Cause) -> bool {
        let Some(children) = self.mark(Some(cause)) else {
            return false;
        };
        self.leave_parent();
        self.wake();
        // Down before sideways, the eldest first: in the order in which they fell asleep the kernel finds them soonest.
        let mut pending = vec![children.into_iter()];
        while let Some(siblings) = pending.last_mut() {
            let next = siblings.next();
            if siblings.len() == 0 {
                pending.pop();
            }
            let Some(node) = next else { continue };
            if let Some(children) = node.mark(None) {
                node.wake();
                pending.push(children.into_iter());
            }
        }
        true
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

    /// Leaves the parent's list, if still in it (3).
    fn leave_parent(&self) {
        let Some(parent) = &self.parent else { return };
        let mut links = parent.links.lock();
        let slot = self.slot.swap(NOWHERE, Ordering::Relaxed);
        // A cancelled parent's list was taken by its canceller, and the slot with it.
        if slot == NOWHERE || parent.cancelled.load(Ordering::Relaxed) {
            return;
        }
        let gone = links.children.swap_remove(slot);
        if let Some(moved) = links.children.get(slot) {
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

    fn wake(&self) {
        if let Some(beacon) = self.beacon.get() {
            beacon.light();
        }
    }

    /// The cancelled node that has the cause: this one or the nearest such ancestor. Only for a cancelled node.
    pub(crate) fn origin(self: &Arc<Self>) -> Arc<Self> {
        let mut node = self;
        loop {
            match &node.parent {
                Some(parent) if !node.has_cause() => node = parent,
                _ => return Arc::clone(node),
            }
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
        let mut node = Some(self);
        while let Some(here) = node {
            if std::ptr::eq(here, other) {
                return true;
            }
            node = here.parent.as_deref();
        }
        false
    }

    /// What to wait at for the cancel; lit if it has come.
    pub(crate) fn beacon(&self) -> &Beacon {
        if let Some(beacon) = self.beacon.get() {
            return beacon;
        }
        // Under the node's lock the flag cannot change: the canceller either finds the beacon or is seen here.
        let links = self.links.lock();
        let beacon = self.beacon.get_or_init(|| {
            Box::new(if self.cancelled.load(Ordering::Relaxed) {
                Beacon::already_lit()
            } else {
                Beacon::new()
            })
        });
        drop(links);
        beacon
    }
}

impl Drop for Node {
    /// Drops a chain of ancestors one by one (7).
    fn drop(&mut self) {
        let mut next = self.parent.take();
        while let Some(mut node) = next.and_then(Arc::into_inner) {
            next = node.parent.take();
        }
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
        assert!(root.cancel(Cause::request()));
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
        assert!(child.cancel(Cause::request()));
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
