//! The library as its users see it, one module a concept.

mod hostile;
mod locks;
mod spine;
