//! What a task's failure means for others.

/// What happens to others when a task fails or panics. Whatever it says, the failure is logged at once, kept in the
/// books, and part of the exit code if nobody reads it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum OnFailure {
    /// Nothing: the others go on.
    #[default]
    Record,
    /// The task's group is cancelled and takes no new tasks.
    StopGroup,
    /// The manager shuts down, and the exit code is 1 even if somebody reads the failure.
    ShutDown,
}
