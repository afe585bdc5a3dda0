//! The code of README, so that the tests compile it.
#![doc = include_str!("../README.md")]
