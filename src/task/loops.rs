//! Loops with a checkpoint in them.

use std::iter::FusedIterator;
use std::panic::Location;
use std::slice::Chunks;

use crate::cancel::cancelled::Cancelled;
use crate::task::context::TaskContext;

/// # Loops
impl TaskContext {
    /// Goes through `items` with a checkpoint before each.
    ///
    /// Once the task was asked to stop, the next item is `Err(Cancelled)` and the last: a loop that passes it on with
    /// `?` never takes a part for the whole. The checkpoint bears the line where the iterator was made.
    ///
    /// ```
    /// # use taskmuster::Manager;
    /// # let report = Manager::builder().run(|manager| {
    /// let sum = manager.spawn("sum", |ctx| {
    ///     let mut sum = 0;
    ///     for number in ctx.iter(1..=100) {
    ///         sum += number?;
    ///     }
    ///     Ok(sum)
    /// })?;
    /// assert_eq!(sum.join()?, 5_050);
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    ///
    /// For tiny elements in a slice, [`chunks`](Self::chunks): a check per element keeps a loop from being vectorised.
    #[track_caller]
    pub fn iter<I: IntoIterator>(&self, items: I) -> Checked<'_, I::IntoIter> {
        Checked {
            context: self,
            place: Location::caller(),
            items: Some(items.into_iter()),
        }
    }

    /// Goes through `data` in pieces of `size` elements (the last may be shorter) with a checkpoint before each.
    ///
    /// Some thousand elements a piece make the checkpoint free and still answer within microseconds. Ends like
    /// [`iter`](Self::iter).
    ///
    /// # Panics
    /// If `size` is 0, as [`slice::chunks`] does.
    ///
    /// ```
    /// # use taskmuster::Manager;
    /// # let report = Manager::builder().run(|manager| {
    /// let data: Vec<u32> = (0..10_000).collect();
    /// let sum = manager.spawn("sum", move |ctx| {
    ///     let mut sum = 0;
    ///     for chunk in ctx.chunks(&data, 4_096) {
    ///         sum += chunk?.iter().sum::<u32>(); // vectorised
    ///     }
    ///     Ok(sum)
    /// })?;
    /// assert_eq!(sum.join()?, 49_995_000);
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// ```
    #[track_caller]
    pub fn chunks<'a, T>(&'a self, data: &'a [T], size: usize) -> Checked<'a, Chunks<'a, T>> {
        self.iter(data.chunks(size))
    }
}

/// An iterator with a checkpoint before each item; made by [`TaskContext::iter`] and [`TaskContext::chunks`].
#[derive(Debug)]
#[must_use = "iterators do nothing unless they are gone through"]
pub struct Checked<'a, I> {
    context: &'a TaskContext,
    place: &'static Location<'static>,
    /// `None` after the end.
    items: Option<I>,
}

impl<I: Iterator> Iterator for Checked<'_, I> {
    type Item = Result<I::Item, Cancelled>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let items = self.items.as_mut()?;
        if let Err(cancelled) = self.context.checkpoint_at(self.place) {
            self.items = None;
            return Some(Err(cancelled));
        }
        let item = items.next();
        if item.is_none() {
            self.items = None;
        }
        item.map(Ok)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        // A cancel may end it at any item, with one item in its place.
        match &self.items {
            Some(items) => (0, items.size_hint().1.and_then(|most| most.checked_add(1))),
            None => (0, Some(0)),
        }
    }
}

impl<I: Iterator> FusedIterator for Checked<'_, I> {}
