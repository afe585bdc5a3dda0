//! The library as its users see it, one module a concept.

mod hostile;
#[cfg(all(unix, feature = "process"))]
mod process;
mod spine;
