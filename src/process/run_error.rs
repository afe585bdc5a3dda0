//! Why a child process was not run to its end.

use std::error::Error;
use std::fmt;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::base::text::printable;
use crate::cancel::cancelled::Cancelled;
use crate::process::leash::Leash;
use crate::process::output::ProcessOutput;

/// Why a child process was not started, or not run to its end.
///
/// That it ended badly is none of these reasons: see [`ProcessOutput::success`].
#[derive(Debug)]
#[non_exhaustive]
pub enum RunError {
    /// The task was asked to stop: the child process was not started, or it was ended and reaped.
    Cancelled {
        /// The program, as the command names it.
        program: Box<str>,
        /// The task's own; passed on with `?` it ends the task as cancelled.
        cancelled: Cancelled,
        /// How it ended and what was captured until then; `None` if it was never started.
        output: Option<Box<ProcessOutput>>,
    },
    /// The program could not be started.
    NotStarted {
        /// The program, as the command names it.
        program: Box<str>,
        /// What the system said.
        error: io::Error,
        /// What may be the reason, where more can be said.
        hint: Option<Box<str>>,
    },
    /// The system has no thread or no descriptor left to watch the child process with. It was not started, or it was
    /// killed and reaped.
    Unavailable {
        /// The program, as the command names it.
        program: Box<str>,
        /// What the system said.
        error: io::Error,
    },
    /// The system does not let this process kill the child process, which runs as somebody else.
    Unkillable {
        /// The program, as the command names it.
        program: Box<str>,
        /// The number of the process.
        id: u32,
        /// What the system said.
        error: io::Error,
        /// The task's own, if it was asked to stop.
        cancelled: Option<Cancelled>,
    },
    /// The child process has ended, but somebody else took its status: SIGCHLD is ignored in this program, or other code
    /// in it waits for children that are not its own.
    Lost {
        /// The program, as the command names it.
        program: Box<str>,
        /// The number of the process.
        id: u32,
        /// What the system said.
        error: io::Error,
    },
}

impl RunError {
    pub(crate) fn before_start(command: &Command, cancelled: Cancelled) -> Self {
        Self::Cancelled {
            program: program_of(command),
            cancelled,
            output: None,
        }
    }

    pub(crate) fn not_started(command: &Command, error: io::Error) -> Self {
        Self::NotStarted {
            program: program_of(command),
            hint: hint(command, &error).map(String::into_boxed_str),
            error,
        }
    }

    pub(crate) fn unavailable(program: impl Into<Box<str>>, error: io::Error) -> Self {
        Self::Unavailable {
            program: program.into(),
            error,
        }
    }

    pub(crate) fn unkillable(
        child: &Leash,
        error: io::Error,
        cancelled: Option<Cancelled>,
    ) -> Self {
        Self::Unkillable {
            program: child.program().into(),
            id: child.id(),
            error,
            cancelled,
        }
    }

    pub(crate) fn lost(child: &Leash, error: io::Error) -> Self {
        Self::Lost {
            program: child.program().into(),
            id: child.id(),
            error,
        }
    }

    /// Whether the task was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Cancelled { .. }
                | Self::Unkillable {
                    cancelled: Some(_),
                    ..
                }
        )
    }

    /// How the child process ended and what was captured of its output until then, where that is known.
    #[must_use]
    pub fn into_output(self) -> Option<ProcessOutput> {
        match self {
            Self::Cancelled { output, .. } => output.map(|output| *output),
            _ => None,
        }
    }
}

/// The program of a command, fit for a line of log.
pub(crate) fn program_of(command: &Command) -> Box<str> {
    printable(&command.get_program().to_string_lossy()).into_boxed_str()
}

/// What may be the reason that a program could not be started, beyond what the system said.
fn hint(command: &Command, error: &io::Error) -> Option<String> {
    let directory = command.get_current_dir();
    let missing = directory.filter(|directory| !directory.is_dir());
    if let Some(directory) = missing {
        let directory = printable(&directory.to_string_lossy());
        return Some(format!("its working directory `{directory}` is not there"));
    }
    let program = Path::new(command.get_program());
    // A bare name is looked up in PATH; only a path with a directory in it can be looked at here.
    let is_path = program.components().count() > 1;
    let hint = match error.kind() {
        io::ErrorKind::NotFound if !is_path => "it is in no directory of PATH: is it installed?",
        io::ErrorKind::NotFound if program.exists() => {
            "the file is there, so the interpreter in its first line is not"
        }
        io::ErrorKind::NotFound => "there is no such file",
        io::ErrorKind::PermissionDenied => "the file may not be executed: see its mode",
        _ => return None,
    };
    Some(hint.to_owned())
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Cancelled {
                program,
                cancelled,
                output: None,
            } => write!(
                f,
                "the child process `{program}` was not started: {cancelled}"
            ),
            Self::Cancelled {
                program, cancelled, ..
            } => write!(f, "the child process `{program}` was ended: {cancelled}"),
            Self::NotStarted {
                program,
                error,
                hint,
            } => {
                write!(f, "the child process `{program}` could not be started")?;
                if let Some(hint) = hint {
                    write!(f, " ({hint})")?;
                }
                write!(f, ": {error}")
            }
            Self::Unavailable { program, error } => write!(
                f,
                "the system has nothing left to watch the child process `{program}` with: {error}"
            ),
            Self::Unkillable {
                program, id, error, ..
            } => write!(
                f,
                "the child process `{program}` (pid {id}) cannot be killed, since it runs as somebody else; end it as \
                 that one, or by closing its input: {error}"
            ),
            Self::Lost { program, id, error } => write!(
                f,
                "the child process `{program}` (pid {id}) has ended, but its status was taken by other code of this \
                 program; do not ignore SIGCHLD, nor wait for children that are not one's own: {error}"
            ),
        }
    }
}

impl Error for RunError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Cancelled { cancelled, .. }
            | Self::Unkillable {
                cancelled: Some(cancelled),
                ..
            } => Some(cancelled),
            Self::NotStarted { error, .. }
            | Self::Unavailable { error, .. }
            | Self::Unkillable { error, .. }
            | Self::Lost { error, .. } => Some(error),
        }
    }
}
