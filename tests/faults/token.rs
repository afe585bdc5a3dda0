//! Tokens, callbacks, deadlines: faults 43 to 64.
