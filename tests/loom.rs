//! Model checks of the core protocols; empty without `--cfg loom`.
