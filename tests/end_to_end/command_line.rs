//! What the demos make of their command lines, `dedup` left out: it has tests of its own.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::ffi::OsStrExt as _;
use std::process::{Command, Stdio};

use crate::program::{Exit, Program, Stream, path_of};

const DEMOS: [&str; 3] = ["primes", "serve", "timeouts"];

#[test]
fn help_goes_to_standard_output() {
    for demo in DEMOS {
        for option in ["--help", "-h"] {
            let exit = Program::example(demo, &[option]).exit();
            exit.assert_code(0);
            let usage = format!("Usage: {demo}");
            assert!(exit.stdout.contains(&usage), "{}", exit.stdout);
            assert_eq!(exit.stderr, "");
        }
    }
}

#[test]
fn help_that_nobody_reads_is_no_failure() {
    for demo in DEMOS {
        let (reader, writer) = std::io::pipe().expect("a pipe");
        drop(reader);
        let exit = help_to(Stdio::from(writer), demo);
        exit.assert_code(0);
        assert_eq!(exit.stderr, "");
    }
}

#[test]
fn help_that_cannot_be_written_is_an_error() {
    for demo in DEMOS {
        let full = File::options().write(true).open("/dev/full");
        let Ok(full) = full else { return }; // only Linux and some others have it
        let exit = help_to(Stdio::from(full), demo);
        exit.assert_code(1);
        exit.assert_says("cannot write to standard output: No space left on device");
        exit.assert_never_says("panicked");
    }
}

#[test]
fn an_argument_that_is_no_text_is_unknown() {
    for demo in DEMOS {
        let argument = OsStr::from_bytes(b"--caf\xE9");
        let exit = Program::start(Command::new(path_of(demo)).arg(argument)).exit();
        exit.assert_code(1);
        exit.assert_says("unknown argument --caf\u{FFFD}; see --help");
    }
}

fn help_to(stdout: Stdio, demo: &str) -> Exit {
    let mut command = Command::new(path_of(demo));
    let command = command.arg("--help").stdout(stdout);
    Program::start_without(command, &[Stream::Stdout]).exit()
}
