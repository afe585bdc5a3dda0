//! Resources and surroundings: faults 103 to 110.
