//! The children of a node: a list that has a lone child at hand.

use std::{mem, option, vec};

/// A list without an order. One that never had more than one child takes no room outside: chains are of such.
#[derive(Debug)]
pub(crate) enum Children<T> {
    Lone(T),
    Many(Vec<T>),
}

impl<T> Children<T> {
    pub(crate) const fn new() -> Self {
        Self::Many(Vec::new())
    }

    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Lone(_) => 1,
            Self::Many(list) => list.len(),
        }
    }

    pub(crate) fn get(&self, slot: usize) -> Option<&T> {
        match self {
            Self::Lone(child) => (slot == 0).then_some(child),
            Self::Many(list) => list.get(slot),
        }
    }

    /// The children one by one; `None` if there are none: most nodes have none.
    pub(crate) fn into_some_iter(self) -> Option<IntoIter<T>> {
        (self.len() > 0).then(|| self.into_iter())
    }

    /// Puts a child at the end.
    pub(crate) fn push(&mut self, child: T) {
        match self {
            Self::Many(list) if list.capacity() == 0 => *self = Self::Lone(child),
            Self::Many(list) => {
                if list.len() == list.capacity() && list.len() >= 8 {
                    // By half instead of twice: ten children are common, and have a quarter less to carry.
                    list.reserve_exact(list.len() / 2);
                }
                list.push(child);
            }
            Self::Lone(_) => {
                *self = Self::Many(mem::take(self).into_iter().chain([child]).collect());
            }
        }
    }

    /// Takes out the child in this slot, if there is one; the last child takes the vacant place.
    pub(crate) fn swap_remove(&mut self, slot: usize) -> Option<T> {
        match self {
            Self::Lone(_) if slot == 0 => mem::take(self).into_iter().next(),
            Self::Many(list) if slot < list.len() => {
                let gone = list.swap_remove(slot);
                give_back_space(list);
                Some(gone)
            }
            _ => None,
        }
    }
}

/// Halves a list that is three quarters empty: each leaver pays for O(1) moves, a short-lived crowd leaves nothing.
fn give_back_space<T>(list: &mut Vec<T>) {
    if list.capacity() > 8 && list.len() <= list.capacity() / 4 {
        list.shrink_to(list.capacity() / 2);
    }
}

impl<T> Default for Children<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> IntoIterator for Children<T> {
    type Item = T;
    type IntoIter = IntoIter<T>;

    fn into_iter(self) -> IntoIter<T> {
        match self {
            Self::Lone(child) => IntoIter::Lone(Some(child).into_iter()),
            Self::Many(list) => IntoIter::Many(list.into_iter()),
        }
    }
}

/// The children one by one, in the order of the list.
#[derive(Debug)]
pub(crate) enum IntoIter<T> {
    Lone(option::IntoIter<T>),
    Many(vec::IntoIter<T>),
}

impl<T> Iterator for IntoIter<T> {
    type Item = T;

    fn next(&mut self) -> Option<T> {
        match self {
            Self::Lone(child) => child.next(),
            Self::Many(list) => list.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Lone(child) => child.size_hint(),
            Self::Many(list) => list.size_hint(),
        }
    }
}

impl<T> ExactSizeIterator for IntoIter<T> {}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(children: impl IntoIterator<Item = u32>) -> Children<u32> {
        let mut list = Children::new();
        children.into_iter().for_each(|child| list.push(child));
        list
    }

    #[test]
    fn a_lone_child_takes_no_room_outside_and_comes_and_goes() {
        let mut list = with([7]);
        assert!(matches!(list, Children::Lone(7)));
        assert_eq!((list.len(), list.get(0), list.get(1)), (1, Some(&7), None));
        assert_eq!(list.swap_remove(1), None);
        assert_eq!(list.swap_remove(0), Some(7));
        assert_eq!((list.len(), list.swap_remove(0)), (0, None));
    }

    #[test]
    fn the_last_child_takes_the_vacant_place() {
        let mut list = with(0..4);
        assert_eq!(list.swap_remove(1), Some(1));
        assert_eq!((list.len(), list.get(1)), (3, Some(&3)));
        assert_eq!(list.into_iter().collect::<Vec<_>>(), [0, 3, 2]);
    }

    #[test]
    fn the_iterator_knows_how_many_are_left() {
        let mut lone = with([7]).into_iter();
        assert_eq!((lone.len(), lone.next(), lone.len()), (1, Some(7), 0));
        assert_eq!(with(0..3).into_iter().len(), 3);
    }

    #[test]
    fn a_crowd_that_left_gives_its_space_back() {
        let mut list = with(0..10_000);
        while list.len() > 0 {
            list.swap_remove(0);
        }
        assert!(matches!(list, Children::Many(list) if list.capacity() <= 16));
    }

    #[test]
    fn ten_children_have_room_for_no_more_than_twelve() {
        assert!(matches!(with(0..10), Children::Many(list) if list.capacity() <= 12));
    }

    #[test]
    fn who_leaves_a_full_crowd_moves_nobody_to_a_new_place() {
        let mut list = Children::Many((0..64).collect());
        list.swap_remove(0);
        assert!(matches!(list, Children::Many(list) if list.capacity() >= 64));
    }

    #[test]
    fn it_is_no_larger_than_its_vector() {
        assert_eq!(size_of::<Children<Box<u8>>>(), size_of::<Vec<Box<u8>>>());
    }
}
