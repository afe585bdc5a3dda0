//! What a signal does to a running program, in every state it can be in.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::program::{Exit, FOR_EVER, Program, Stream, path_of};

/// The first words of the report: they must stand in the output exactly once.
const REPORT: &str = "taskmuster: stopped by";
const READY: &str = "ready:";
/// The saver has begun: a task that is asked to stop before it began never begins.
const SAVING: &str = "saving to";
const DEAF: &str = "I listen to nobody";
/// The heartbeat, the last of the tasks, has begun.
const BEAT: &str = "primes below";

#[test]
fn ctrl_c_stops_every_task_and_exits_with_0() {
    stops_cleanly("INT");
}

#[test]
fn sigterm_stops_every_task_and_exits_with_0() {
    stops_cleanly("TERM");
}

#[test]
fn a_hang_up_stops_every_task_and_exits_with_0() {
    stops_cleanly("HUP");
}

#[test]
fn the_saver_gives_its_file_the_final_name_and_leaves_no_other() {
    let directory = Directory::new("saver");
    let program = Program::start(primes(&[]).env("TMPDIR", &directory.path));
    program.wait_for_line(READY);
    program.wait_for_line(SAVING);
    program.signal("TERM");
    program.exit().assert_code(0);
    assert_eq!(directory.names(), ["primes.txt"]);
    let saved = fs::read_to_string(directory.path.join("primes.txt")).expect("it is there");
    assert!(saved.ends_with(", the end\n"), "{saved}");
}

#[test]
fn the_primes_below_a_number_are_all_those_below_it() {
    let directory = Directory::new("primes");
    let program = Program::start(primes(&[]).env("TMPDIR", &directory.path));
    program.wait_for_line("uploaded"); // some blocks are counted by then
    program.wait_for_line(SAVING);
    program.wait_for_line(BEAT);
    program.signal("INT");
    let exit = program.exit();
    exit.assert_code(0);
    let saved = fs::read_to_string(directory.path.join("primes.txt")).expect("it is there");
    let text = exit.stdout + &exit.stderr + &saved;
    let counts: Vec<(usize, usize)> = text.lines().filter_map(count_of_primes).collect();
    assert!(counts.len() >= 3, "a beat, two lines of the saver: {text}");
    let last = counts.iter().map(|(_, end)| *end).max().unwrap_or_default();
    let below = primes_below(last);
    for (found, end) in counts {
        assert_eq!(found, below[end], "primes below {end}");
    }
}

/// What a line with `12 primes below 40` says.
fn count_of_primes(line: &str) -> Option<(usize, usize)> {
    let (before, after) = line.split_once(" primes below ")?;
    let found = before.rsplit(' ').next()?.parse().ok()?;
    let end = after.split(',').next()?.parse().ok()?;
    Some((found, end))
}

/// How many primes are below each number up to the last: by Eratosthenes' sieve.
fn primes_below(last: usize) -> Vec<usize> {
    let mut composite = vec![false; last];
    let mut below = vec![0; last + 1];
    for n in 0..last {
        let is_prime = n >= 2 && !composite[n];
        below[n + 1] = below[n] + usize::from(is_prime);
        if is_prime {
            (n * n..last).step_by(n).for_each(|it| composite[it] = true);
        }
    }
    below
}

#[test]
fn a_signal_while_tasks_are_still_being_started_is_a_clean_stop() {
    for signal in ["INT", "TERM", "HUP", "INT", "TERM"] {
        let program = Program::example("primes", &[]);
        program.wait_for_line(SAVING); // the first task has begun; of the others some will be refused
        program.signal(signal);
        program.exit().assert_code(0);
    }
}

#[test]
fn the_upload_fails_twice_and_succeeds() {
    let program = Program::example("primes", &[]);
    program.wait_for_line("uploaded");
    program.signal("INT");
    let exit = program.exit();
    exit.assert_code(0);
    assert_eq!(
        exit.stderr.matches("upload refused").count(),
        2,
        "{}",
        exit.stderr
    );
}

#[test]
fn ctrl_c_while_main_sits_in_join_stops_every_task() {
    let program = Program::example("primes", &["--join"]);
    program.wait_for_line(READY);
    program.signal("INT");
    let exit = program.exit();
    exit.assert_code(0);
    assert_complete(&exit);
}

#[test]
fn a_second_ctrl_c_cuts_a_long_grace_short() {
    let program = deaf_program(&mut stubborn_primes(FOR_EVER));
    program.signal("INT");
    program.wait_for_line("stopping ");
    program.signal("INT");
    let exit = program.exit();
    exit.assert_code(2);
    assert_complete(&exit);
    exit.assert_says("stubborn");
}

#[test]
fn three_signals_exit_with_130_at_once() {
    let directory = Directory::new("forced"); // for the file that nobody finishes
    let mut command = stubborn_primes(FOR_EVER);
    let program = deaf_program(command.env("TMPDIR", &directory.path));
    program.signals(&["INT", "TERM", "HUP"]); // different ones: two equal ones at once arrive as one
    program.exit().assert_code(130);
}

#[test]
fn a_task_that_never_looks_is_named_with_its_place_and_what_it_burned() {
    let program = deaf_program(&mut stubborn_primes("1"));
    let begin = Instant::now();
    program.signal("TERM");
    let exit = program.exit();
    assert!(
        begin.elapsed() >= Duration::from_secs(1),
        "the grace is given in full: {:?}",
        begin.elapsed()
    );
    exit.assert_code(2);
    assert_complete(&exit);
    exit.assert_says(&format!("primes.rs:{}", line_of_the_only_checkpoint()));
    exit.assert_says(" of CPU");
}

#[test]
fn under_nohup_a_hang_up_stops_it_and_a_warning_says_so_beforehand() {
    let mut command = Command::new("nohup");
    command
        .arg(path_of("primes"))
        .env("TASKMUSTER_GRACE", FOR_EVER);
    let program = Program::start(&mut command);
    program.wait_for_line(READY);
    program.signal("HUP");
    let exit = program.exit();
    exit.assert_code(0);
    assert_complete(&exit);
    exit.assert_says("SIGHUP");
}

#[test]
fn without_nohup_nothing_is_said_of_a_hang_up() {
    if hang_up_is_ignored_here() {
        return; // and so it is in every child
    }
    let program = Program::example("primes", &[]);
    program.wait_for_line(READY);
    program.signal("INT");
    program.exit().assert_never_says("SIGHUP");
}

#[test]
fn ctrl_c_stops_a_background_job_whose_shell_ignores_it() {
    stops_as_background_job("INT");
}

#[test]
fn sigterm_stops_a_background_job() {
    stops_as_background_job("TERM");
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_standard_error_changes_neither_the_end_nor_the_exit_code() {
    for (arguments, rendezvous, grace, code) in [
        (vec![], BEAT, FOR_EVER, 0),
        (vec!["--stubborn"], DEAF, "1", 2),
    ] {
        let full = File::options()
            .write(true)
            .open("/dev/full")
            .expect("Linux has it");
        let mut command = primes(&arguments);
        let program = Program::start_without(
            command.env("TASKMUSTER_GRACE", grace).stderr(full),
            &[Stream::Stderr],
        );
        program.wait_for_line(rendezvous);
        program.signal("INT");
        program.exit().assert_code(code);
    }
}

#[test]
fn a_standard_error_nobody_reads_changes_neither_the_end_nor_the_exit_code() {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let program = Program::start_without(primes(&[]).stderr(writer), &[Stream::Stderr]);
    program.wait_for_line(BEAT);
    program.signal("INT");
    program.exit().assert_code(0);
}

#[test]
fn closed_streams_change_neither_the_end_nor_the_exit_code() {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec \"$0\" 2>&-"])
        .arg(path_of("primes"))
        .env("TASKMUSTER_GRACE", FOR_EVER);
    let program = Program::start_without(shell.stderr(Stdio::null()), &[Stream::Stderr]);
    program.wait_for_line(BEAT);
    program.signal("TERM");
    program.exit().assert_code(0);
}

#[test]
fn an_unknown_argument_is_named_and_exits_with_1() {
    let exit = Program::example("primes", &["--stuborn"]).exit();
    exit.assert_code(1);
    exit.assert_says("unknown argument --stuborn");
}

fn stops_cleanly(signal: &str) {
    let program = Program::example("primes", &[]);
    program.wait_for_line(READY);
    program.wait_for_line(SAVING);
    program.signal(signal);
    let exit = program.exit();
    exit.assert_code(0);
    assert_complete(&exit);
    exit.assert_says("saved ");
}

/// A shell without job control starts its background jobs with SIGINT ignored.
fn stops_as_background_job(signal: &str) {
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "\"$0\" & echo pid $!; wait $!"])
        .arg(path_of("primes"))
        .env("TASKMUSTER_GRACE", FOR_EVER);
    let mut program = Program::start(&mut shell);
    program.follow_pid_line();
    program.wait_for_line(READY);
    program.signal(signal);
    let exit = program.exit();
    exit.assert_code(0);
    assert_complete(&exit);
}

fn primes(arguments: &[&str]) -> Command {
    let mut command = Command::new(path_of("primes"));
    command.args(arguments).env("TASKMUSTER_GRACE", FOR_EVER);
    command
}

fn stubborn_primes(grace: &str) -> Command {
    let mut command = primes(&["--stubborn"]);
    command.env("TASKMUSTER_GRACE", grace);
    command
}

/// Starts `primes --stubborn` and waits until it is past its only checkpoint.
fn deaf_program(command: &mut Command) -> Program {
    let program = Program::start(command);
    program.wait_for_line(READY);
    program.wait_for_line(DEAF);
    program
}

/// The report stands there once and has every task in it.
fn assert_complete(exit: &Exit) {
    let report = report_of(exit);
    for task in ["saver", "workers/1", "upload", "heartbeat"] {
        assert!(
            report.contains(task),
            "{task} is not in the report:\n{}",
            exit.stderr
        );
    }
}

fn report_of(exit: &Exit) -> &str {
    assert_eq!(
        exit.stderr.matches(REPORT).count(),
        1,
        "the report is printed once:\n{}",
        exit.stderr
    );
    let begin = exit.stderr.find(REPORT).expect("counted just now");
    &exit.stderr[begin..]
}

fn line_of_the_only_checkpoint() -> usize {
    let source = include_str!("../demos/primes.rs");
    let mut lines = source
        .lines()
        .zip(1..)
        .filter(|(line, _)| line.contains("// the only one"));
    let (_, number) = lines.next().expect("the marker is in the source");
    assert_eq!(lines.next(), None, "the marker stands there once");
    number
}

/// Signal 1 in `SigIgn: 0000000000000001`.
fn hang_up_is_ignored_here() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.is_some_and(|mask| mask.ends_with(['1', '3', '5', '7', '9', 'b', 'd', 'f']))
}

/// A directory of its own for one test, removed at its end.
struct Directory {
    path: PathBuf,
}

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("taskmuster-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path)); // of a run with the same number that was killed
        fs::create_dir_all(&path).expect("the temp dir is writable");
        Self { path }
    }

    fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.path).expect("it is there").flatten();
        entries
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.path));
    }
}
