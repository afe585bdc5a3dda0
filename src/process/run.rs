//! A child process from its start to its end, in one call.

use std::panic::Location;
use std::process::Command;

use crate::process::capture::Capture;
use crate::process::output::ProcessOutput;
use crate::process::redirection;
use crate::process::run_error::{RunError, program_of};
use crate::task::context::TaskContext;

impl TaskContext {
    /// Runs a program to its end and gives its status and what it wrote, like [`Command::output`]; but it ends with the
    /// task: [`spawn_child`](Self::spawn_child) says how, and what a process group of its own means.
    ///
    /// Both outputs are read at once and into memory, however much it is. Streams that the command redirects stay so, the
    /// others are captured, and there is nothing to read on standard input. (Which ones it redirects std tells on unix
    /// only; elsewhere all are taken.) These settings stay in the command.
    ///
    /// A program that ends badly is no error here: end the call with [`success`](ProcessOutput::success) where it is one.
    ///
    /// The end of an output is waited for no longer than 200 ms after that of the program, should somebody it has started
    /// keep it open; see [`wait_with_output`](crate::ChildProcess::wait_with_output).
    ///
    /// When the task is asked to stop, the program has 5 seconds between SIGTERM and SIGKILL. For another grace, or to
    /// give it input, use `spawn_child`. For a time limit of its own, put it into a
    /// [`with_timeout`](Self::with_timeout).
    ///
    /// # Errors
    /// [`RunError::Cancelled`], with the output until then, when the task was asked to stop before or meanwhile; the
    /// program has ended by then. [`RunError::NotStarted`] when it could not be started, [`RunError::Unavailable`] when
    /// the system has no threads or descriptors to watch it with; then it was not started. [`RunError::Unkillable`] when one
    /// that runs as somebody else does not end with the task, [`RunError::Lost`] when somebody else took its status.
    ///
    /// ```
    /// use std::process::Command;
    /// use std::time::Duration;
    /// use taskmuster::{Manager, TimeoutError};
    ///
    /// # if cfg!(unix) {
    /// let report = Manager::builder().run(|manager| {
    ///     let asked = manager.spawn("asked", |ctx| {
    ///         let answer = ctx.run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]))?;
    ///         assert_eq!(answer.status.code(), Some(3));
    ///         assert_eq!((&*answer.stdout, &*answer.stderr), (&b"out\n"[..], &b"err\n"[..]));
    ///
    ///         let late = ctx.with_timeout(Duration::from_millis(10), |ctx| {
    ///             Ok(ctx.run(Command::new("sleep").arg("1000"))?)
    ///         });
    ///         assert!(matches!(late, Err(TimeoutError::Elapsed { .. })));
    ///         Ok(())
    ///     })?;
    ///     Ok(asked.join()?)
    /// });
    /// assert!(report.is_clean(), "{report}");
    /// # }
    /// ```
    #[track_caller]
    pub fn run(&self, command: &mut Command) -> Result<ProcessOutput, RunError> {
        let place = Location::caller();
        redirection::redirect_the_rest(command);
        let capture = Capture::prepare()
            .map_err(|error| RunError::unavailable(program_of(command), error))?;
        self.start_child(command, place)?.collect(capture, place)
    }
}
