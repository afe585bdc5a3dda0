//! How a child process ended, and what it wrote.

use std::error::Error;
use std::fmt;
use std::process::ExitStatus;

use crate::base::text::printable;
use crate::process::capture::Captured;

/// How much of the last line on stderr an error quotes, in characters.
const QUOTED: usize = 200;

/// How a child process ended, and what was captured of its output; given by [`TaskContext::run`] and
/// [`ChildProcess::wait_with_output`].
///
/// A child process that ended badly is no error of the run: look at [`status`](Self::status), or ask for
/// [`success`](Self::success).
///
/// [`TaskContext::run`]: crate::TaskContext::run
/// [`ChildProcess::wait_with_output`]: crate::ChildProcess::wait_with_output
#[derive(Clone, PartialEq, Eq)]
#[must_use = "a child process that ended badly is no error of the run: ask for `success`, or look at `status`"]
#[non_exhaustive]
pub struct ProcessOutput {
    /// How it ended.
    pub status: ExitStatus,
    /// What it wrote to its standard output, if that was captured.
    pub stdout: Vec<u8>,
    /// What it wrote to its standard error, if that was captured.
    pub stderr: Vec<u8>,
    program: Box<str>,
    complete: bool,
}

impl ProcessOutput {
    /// That of a child process of which nothing was captured.
    pub(crate) fn of(program: &str, status: ExitStatus) -> Self {
        Self {
            status,
            stdout: Vec::new(),
            stderr: Vec::new(),
            program: program.into(),
            complete: true,
        }
    }

    pub(crate) fn with(mut self, captured: Captured) -> Self {
        self.stdout = captured.stdout;
        self.stderr = captured.stderr;
        self.complete = captured.complete;
        self
    }

    /// The output of a child process that ended well, for call sites that end in `?`.
    ///
    /// # Errors
    /// [`ExitError`], which gives the output back, if it ended with another exit code than 0, or by a signal.
    ///
    /// ```
    /// use std::process::Command;
    /// use taskmuster::Manager;
    ///
    /// # if cfg!(unix) {
    /// let report = Manager::builder().run(|manager| {
    ///     let greeting = manager.spawn("greeting", |ctx| {
    ///         let said = ctx.run(Command::new("echo").arg("hello"))?.success()?;
    ///         Ok(String::from_utf8(said.stdout)?)
    ///     })?;
    ///     assert_eq!(greeting.join()?, "hello\n");
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// # }
    /// ```
    pub fn success(self) -> Result<Self, ExitError> {
        if self.status.success() {
            Ok(self)
        } else {
            Err(ExitError(Box::new(self)))
        }
    }

    /// Whether everything was captured; `false` if somebody whom the child process had started, and who is still there,
    /// may go on writing, or if the child process was ended in the middle.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// The last line on stderr that says something.
    fn last_words(&self) -> Option<String> {
        let text = String::from_utf8_lossy(&self.stderr);
        let line = text.lines().rev().find(|line| !line.trim().is_empty())?;
        let line: String = line.trim().chars().take(QUOTED).collect();
        Some(printable(&line))
    }
}

/// Output is shown by its length: it may be long, and need not be text.
impl fmt::Debug for ProcessOutput {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ProcessOutput")
            .field("program", &self.program)
            .field("status", &self.status)
            .field("stdout", &format_args!("{} bytes", self.stdout.len()))
            .field("stderr", &format_args!("{} bytes", self.stderr.len()))
            .field("complete", &self.complete)
            .finish()
    }
}

/// A child process ended badly; gives its output back. From [`ProcessOutput::success`].
#[derive(Clone, Debug)]
pub struct ExitError(Box<ProcessOutput>);

impl ExitError {
    /// How it ended.
    #[must_use]
    pub fn status(&self) -> ExitStatus {
        self.0.status
    }

    /// How it ended and what it wrote.
    pub fn into_output(self) -> ProcessOutput {
        *self.0
    }
}

impl fmt::Display for ExitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let output = &self.0;
        write!(
            f,
            "the child process `{}` ended badly, {}",
            output.program, output.status
        )?;
        match output.last_words() {
            Some(words) => write!(f, "; its last words were: {words}"),
            None => Ok(()),
        }
    }
}

impl Error for ExitError {}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn a_bad_end_quotes_the_last_words_and_gives_the_output_back() {
        let bad = ProcessOutput::of("git", ExitStatus::from_raw(128 << 8));
        let bad = bad.with(Captured {
            stdout: b"out".to_vec(),
            stderr: b"warning: x\nfatal: not\x1b a git repository\n\n".to_vec(),
            complete: true,
        });
        let error = bad.clone().success().unwrap_err();
        assert_eq!(
            error.to_string(),
            "the child process `git` ended badly, exit status: 128; its last words were: fatal: not  a git repository"
        );
        assert_eq!(error.status().code(), Some(128));
        assert_eq!(error.into_output(), bad);
    }

    #[test]
    fn a_good_end_is_no_error() {
        let good = ProcessOutput::of("true", ExitStatus::from_raw(0));
        assert!(good.is_complete());
        assert_eq!(good.clone().success().ok(), Some(good));
    }
}
