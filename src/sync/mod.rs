//! Locks and condition variables that hear a cancel.
//!
//! A task that waits for a lock of std or `parking_lot` hears nothing: it is stuck for as long as the holder keeps it, and
//! the report of a shutdown can only say that it sits in a futex. A task that waits for a [`Mutex`] of this module with
//! [`ctx.lock`](crate::TaskContext::lock) is woken at once when it is asked to stop, and while it waits its books say for
//! what: "the lock held by `writer` since src/save.rs:10". The same goes for a [`Condvar`].
//!
//! ```
//! use std::collections::VecDeque;
//! use std::sync::Arc;
//! use taskmuster::Manager;
//! use taskmuster::sync::{Condvar, Mutex};
//!
//! let report = Manager::builder().run(|manager| {
//!     let shop = Arc::new((Mutex::new(VecDeque::new()), Condvar::new()));
//!     let counter = Arc::clone(&shop);
//!     let served = manager.spawn("clerk", move |ctx| {
//!         let (queue, arrival) = &*counter;
//!         let queue = ctx.lock(queue)?;
//!         let mut queue = ctx.wait_while(arrival, queue, |queue| queue.is_empty())?;
//!         Ok(queue.pop_front())
//!     })?;
//!     let (queue, arrival) = &*shop;
//!     queue.lock().push_back("a customer");
//!     arrival.notify_one();
//!     assert_eq!(served.join()?, Some("a customer"));
//!     Ok(())
//! });
//! assert!(report.is_clean());
//! ```
//!
//! # Not for
//! A lock that is held for a few instructions, and never across a wait, may be of any kind: nobody waits for it for long,
//! and `parking_lot::Mutex` is about half the price. Values that are handed from one task to the next belong into a
//! channel ([`ctx.recv`](crate::TaskContext::recv)).

pub(crate) mod line;

pub(crate) mod patience;

pub(crate) mod gate;

pub(crate) mod mutex;

pub(crate) mod condvar;

pub use condvar::Condvar;
pub use mutex::{LockError, Mutex, MutexGuard};
