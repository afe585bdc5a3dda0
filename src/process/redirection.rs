//! Which streams of a command its owner has redirected.
//!
//! `Command` has no getter for them, and [`Command::output`], which knows, cannot be interrupted. What there is: on
//! unix the alternate `Debug` shows what was set. Its docs promise no more than that, so whether it still does is
//! tried before it is believed; where it does not (elsewhere, or in a std to come), nothing counts as redirected.
//! A text cannot deceive: `Debug` escapes the line breaks in arguments and variables.

use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// The fields of std's `Debug`.
const STREAMS: [&str; 3] = ["stdin", "stdout", "stderr"];

/// Gives the command what it needs for its output to be captured, as `Command::output` would: nothing to read and a pipe
/// for each output, but where the command says otherwise.
pub(crate) fn redirect_the_rest(command: &mut Command) {
    let [stdin, stdout, stderr] = if shows_redirections() {
        redirected(command)
    } else {
        [false; 3]
    };
    if !stdin {
        command.stdin(Stdio::null());
    }
    if !stdout {
        command.stdout(Stdio::piped());
    }
    if !stderr {
        command.stderr(Stdio::piped());
    }
}

/// For each of [`STREAMS`] whether `Debug` says that it was set.
fn redirected(command: &Command) -> [bool; 3] {
    let shown = format!("{command:#?}");
    STREAMS.map(|stream| {
        shown.lines().any(|line| {
            // Exactly one level deep: a field of the command itself.
            let field = line.strip_prefix("    ");
            let rest = field.and_then(|field| field.strip_prefix(stream));
            rest.is_some_and(|rest| rest.starts_with(": "))
        })
    })
}

/// Whether this std shows what was set, and only that.
fn shows_redirections() -> bool {
    static SHOWS: OnceLock<bool> = OnceLock::new();
    *SHOWS.get_or_init(|| {
        let mut command = Command::new("probe");
        let before = redirected(&command);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::inherit());
        before == [false; 3] && redirected(&command) == [true; 3]
    })
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;

    #[test]
    fn this_std_shows_what_a_command_redirects() {
        assert!(
            shows_redirections(),
            "std's Debug has changed: `run` captures everything now; read it anew"
        );
        let mut command = Command::new("x");
        command.stdout(Stdio::null());
        assert_eq!(redirected(&command), [false, true, false]);
        command.stderr(Stdio::piped());
        assert_eq!(redirected(&command), [false, true, true]);
    }

    #[test]
    fn no_argument_variable_or_directory_looks_like_a_redirection() {
        let mut command = Command::new("\n    stdin: x");
        command
            .args(["\n    stdout: Some(", "    stderr: "])
            .env("\n    stderr: ", "\n    stdin: ")
            .current_dir("\n    stdout: ");
        assert_eq!(redirected(&command), [false; 3]);
    }

    #[test]
    fn what_was_redirected_stays_so_a_second_time() {
        let mut command = Command::new("x");
        command.stderr(Stdio::null());
        redirect_the_rest(&mut command);
        let once = format!("{command:#?}");
        assert_eq!(redirected(&command), [true; 3]);
        redirect_the_rest(&mut command);
        assert_eq!(format!("{command:#?}"), once);
    }
}
