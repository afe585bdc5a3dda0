//! Joins and shutdowns: faults 65 to 90.
