//! Spawning: faults 24 to 42.
