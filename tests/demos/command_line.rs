//! What the demos have in common in reading their command lines.

use std::env;
use std::ffi::OsStr;
use std::io::{self, ErrorKind, Write as _};
use std::process;

use taskmuster::BoxError;

/// Prints the help and ends the process if somebody asks for it. A reader who has had enough is no failure.
pub(crate) fn print_help_if_asked(help: &str) {
    if !env::args_os().any(|it| it == "-h" || it == "--help") {
        return;
    }
    let mut out = io::stdout().lock();
    match writeln!(out, "{help}").and_then(|()| out.flush()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => {
            // If nobody listens there either, nobody can be told.
            drop(writeln!(
                io::stderr(),
                "cannot write to standard output: {error}"
            ));
            process::exit(1)
        }
        _ => process::exit(0),
    }
}

pub(crate) fn unknown(argument: &OsStr) -> BoxError {
    let argument = argument.to_string_lossy();
    format!("unknown argument {argument}; see --help").into()
}
