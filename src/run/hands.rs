//! A body that is in the hands of one task at a time.

use std::sync::Arc;

use crate::base::sync::Mutex;
use crate::base::unwind;
use crate::task::context::{TaskContext, TaskResult};

/// A body that may run many times.
pub(crate) type Body = Box<dyn FnMut(&TaskContext) -> TaskResult + Send>;

/// Where a body is kept between the tasks that run it.
#[derive(Clone)]
pub(crate) struct Shelf(Arc<Mutex<Kept>>);

/// A body on its shelf. What it captured may panic when it is dropped, and several are dropped together.
struct Kept(Option<Body>);

impl Drop for Kept {
    fn drop(&mut self) {
        unwind::discard(self.0.take());
    }
}

impl Shelf {
    pub(crate) fn new(body: impl FnMut(&TaskContext) -> TaskResult + Send + 'static) -> Self {
        let body: Body = Box::new(body);
        Self(Arc::new(Mutex::new(Kept(Some(body)))))
    }

    /// Runs the body, which is put back when that is over, by a panic too.
    ///
    /// # Errors
    /// Those of the body; another one while a task that was given up on still has it in its hands.
    pub(crate) fn run(&self, ctx: &TaskContext) -> TaskResult {
        let mut hands = Hands {
            body: self.0.lock().0.take(),
            shelf: self,
        };
        match &mut hands.body {
            Some(body) => body(ctx),
            None => Err("the run before it has not ended, and there are never two at once".into()),
        }
    }
}

struct Hands<'a> {
    body: Option<Body>,
    shelf: &'a Shelf,
}

impl Drop for Hands<'_> {
    fn drop(&mut self) {
        // Who found nothing has nothing to put back.
        if let Some(body) = self.body.take() {
            self.shelf.0.lock().0 = Some(body);
        }
    }
}
