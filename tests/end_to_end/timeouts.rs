//! The demo `timeouts`: every way to wait, ended by Ctrl-C.

use std::process::Command;

use crate::program::{FOR_EVER, Program, Stream, path_of};

#[test]
fn every_wait_ends_at_once_and_what_nothing_can_stop_is_listed() {
    // Nobody ever writes to it, and it stays open until the test is over.
    let (stdin, silence) = std::io::pipe().expect("a pipe");
    let mut command = Command::new(path_of("timeouts"));
    command.env("TASKMUSTER_GRACE", FOR_EVER);
    let program = Program::start_without(command.stdin(stdin), &[Stream::Stdin]);
    program.wait_for_line("all wait");
    program.signal("INT");
    let exit = program.exit();
    drop(silence);
    exit.assert_code(0);
    for name in [
        "sleep", "channel", "select", "socket", "accept", "child", "holder", "waiter",
    ] {
        exit.assert_says(&format!("{name} "));
    }
    exit.assert_says("12 tasks: 3 completed, 8 cancelled, 1 left in foreign code");
    exit.assert_says("`stdin` has been in `the terminal` for");
}
