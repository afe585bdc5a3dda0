//! What a failing test shows of the program it watches.

use std::process::Command;

use crate::program::Program;

#[test]
#[should_panic(expected = "no line with \"no such line\": the program has ended")]
fn a_line_that_can_no_longer_come_is_not_waited_for() {
    Program::start(Command::new("echo").arg("another line")).wait_for_line("no such line");
}

#[test]
#[should_panic(expected = "Stdout: the last words")]
fn a_failure_shows_all_that_was_printed() {
    Program::start(Command::new("echo").arg("the last words")).wait_for_line("no such line");
}
