//! Child processes of these tests: this binary in another role.

use std::env;
use std::fs;
use std::process::{self, Command};

use taskmuster::ShutdownReport;

#[path = "../end_to_end/program.rs"]
#[allow(dead_code, reason = "some of it is for the example programs")]
pub(crate) mod program;

use program::Program;

/// The command that plays a role: `role("signals::waits_for_a_signal")` runs that ignored test of this binary alone.
pub(crate) fn role(name: &str) -> Command {
    let this = env::current_exe().expect("a running test has a path");
    let mut command = if ignores_signals() {
        let mut command = Command::new("env");
        command.arg("--default-signal=HUP,INT,QUIT").arg(this);
        command
    } else {
        Command::new(this)
    };
    command.args([
        "--exact",
        name,
        "--ignored",
        "--nocapture",
        "--test-threads=1",
    ]);
    command
}

/// Whether whoever started the tests ignores a signal that they are about, as `nohup` and `sh -c '… &'` do: it would be
/// ignored by the roles too.
fn ignores_signals() -> bool {
    const THEIRS: u64 = 0b111;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & THEIRS != 0)
}

/// The same, by way of another program: `under(["prlimit", "--nproc=3"], "spawn::starts_many")`.
pub(crate) fn under<const N: usize>(wrapper: [&str; N], name: &str) -> Command {
    let plain = role(name);
    let mut command = Command::new(wrapper[0]);
    command.args(&wrapper[1..]).arg(plain.get_program());
    command.args(plain.get_args());
    command
}

/// Starts a role; its output is collected, and a hang fails within seconds with a dump of its threads.
pub(crate) fn start(name: &str) -> Program {
    Program::start(&mut role(name))
}

/// How a role ends: prints the report and exits with its code, past the test harness.
pub(crate) fn end(report: &ShutdownReport) -> ! {
    eprintln!("{report}");
    process::exit(i32::from(report.exit_code()))
}
