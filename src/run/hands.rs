//! A body that is in the hands of one task at a time.

use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::unwind;
use crate::task::context::{TaskContext, TaskResult};

/// A body that may run many times.
pub(crate) type Body = Box<dyn FnMut(&TaskContext) -> TaskResult + Send>;

/// Where a body is kept between the tasks that run it.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Mutex<Option<Body>>>);

impl Shelf {
    pub(crate) fn new(body: impl FnMut(&TaskContext) -> TaskResult + Send + 'static) -> Self {
        let body: Body = Box::new(body);
        Self(Arc::new(Mutex::new(Some(body))))
    }

    /// Runs the body, which is put back when that is over, by a panic too.
    pub(crate) fn run(&self, ctx: &TaskContext) -> TaskResult {
        let mut hands = Hands {
            body: self.0.lock().take(),
            shelf: self,
        };
        match &mut hands.body {
            Some(body) => body(ctx),
            None => unreachable!("a body is run by one task at a time"),
        }
    }
}

struct Hands<'a> {
    body: Option<Body>,
    shelf: &'a Shelf,
}

impl Drop for Hands<'_> {
    fn drop(&mut self) {
        let before = std::mem::replace(&mut *self.shelf.0.lock(), self.body.take());
        unwind::discard(before);
    }
}
