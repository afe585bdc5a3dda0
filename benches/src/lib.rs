//! Measuring by turns: contenders compared round by round in one process.
//!
//! The machines this project is measured on are shared and noisy: absolute times differ by a
//! factor of two from day to day, and within seconds. A time is therefore only the scale; the
//! figure is the **ratio** of two contenders that ran within milliseconds of each other. A
//! [`Duel`] lets its contenders take turns in many short rounds, takes the ratio within each
//! round, and reports the median and the quartiles of those ratios. The same contenders are
//! then handed to criterion, which gives the absolute scale.
//!
//! # How long it runs
//!
//! | command | [`Effort`] | time per bench |
//! |---|---|---|
//! | `cargo bench -p taskmuster-benches` | full | under 3 minutes |
//! | `TASKMUSTER_BENCH=quick cargo bench -p taskmuster-benches` | quick | under 30 seconds |
//! | `cargo test -p taskmuster-benches --benches` | smoke: it runs | seconds |
//!
//! A name after `--` filters criterion's part only.

mod effort;
mod quartiles;
mod weight;

mod duel;

pub use duel::{Duel, Rounds, time, verdict};
pub use effort::Effort;
pub use quartiles::{Quartiles, Unit};
pub use weight::{gain, to_be_weighed, weigh_in_child};
