//! How tasks end: faults 1 to 23.
