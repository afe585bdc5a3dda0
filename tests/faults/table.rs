//! The table of faults, `FAULTS.md`, and whether it is up to date.

use std::collections::BTreeMap;
use std::env;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

/// Set, it has the test below write the table instead of comparing it.
const UPDATE: &str = "UPDATE_FAULTS";

/// A chapter of the catalogue, and the number of its last fault.
const CHAPTERS: [(u8, &str); 7] = [
    (23, "How a task ends"),
    (42, "Starting tasks"),
    (64, "Tokens"),
    (90, "Joins and shutdowns"),
    (102, "Signals"),
    (110, "Resources and surroundings"),
    (120, "The journal"),
];

/// What is said of a fault beside the tests that show it.
#[derive(Clone, Copy)]
enum Remark {
    None,
    /// It cannot be survived, or not be shown: this is why.
    Documented(&'static str),
    /// What it needs does not exist yet.
    NotYet(&'static str),
}

use Remark::{Documented, NotYet};

const JOURNAL: Remark = NotYet("there is no journal");

/// What can go wrong, in order of its number from 1.
const FAULTS: [(&str, Remark); 120] = [
    (
        "every way to end: `Ok`, `Err`, a panic with anything",
        Remark::None,
    ),
    ("a payload whose drop panics", Remark::None),
    (
        "a result whose drop panics, and nobody took it",
        Remark::None,
    ),
    (
        "a local whose drop panics at the end of the body",
        Remark::None,
    ),
    (
        "a panic while unwinding",
        Documented("Rust ends the process; the task is named"),
    ),
    (
        "a build with `panic=abort`",
        Documented("the first panic ends the process; the log warns of it"),
    ),
    (
        "a stack overflow",
        Documented("std ends the process; the task is named"),
    ),
    ("`process::exit` in a task", Remark::None),
    (
        "abort, SIGSEGV, SIGKILL in a task",
        Documented("the process ends; there is no journal yet to tell the next one"),
    ),
    (
        "an allocation that fails",
        Documented("Rust ends the process; nothing of ours asks for memory when it matters"),
    ),
    (
        "a thread-local whose destructor panics",
        Documented("std ends the process"),
    ),
    ("a thread-local whose destructor blocks", Remark::None),
    (
        "a thread-local whose destructor uses the library",
        Remark::None,
    ),
    ("a task that ends before its spawn returns", Remark::None),
    ("a task that outlives whoever started it", Remark::None),
    ("a handle that is dropped", Remark::None),
    ("a handle that is leaked", Remark::None),
    ("an outcome nobody reads", Remark::None),
    ("a million outcomes nobody reads", Remark::None),
    ("an outcome that several read at once", Remark::None),
    ("a result that holds the manager", Remark::None),
    ("a logger that panics", Remark::None),
    (
        "a panic hook that blocks or panics",
        Documented("std ends the process if a hook panics"),
    ),
    ("a thread that cannot be created, at every k", Remark::None),
    (
        "a limit of processes, of a cgroup, of the address space",
        Remark::None,
    ),
    ("more tasks than there may be", Remark::None),
    ("absurd stack sizes", Remark::None),
    ("a spawn that races with a stop", Remark::None),
    ("a spawn from any place of user code", Remark::None),
    ("a spawn after the shutdown", Remark::None),
    ("a spawn in a forked process", Remark::None),
    ("names that are used twice", Remark::None),
    ("names with control characters, of any length", Remark::None),
    (
        "the counter of tasks at its end",
        Documented("2^64 numbers last half a million years at a million tasks a second"),
    ),
    ("a full queue", NotYet("there is no pool")),
    ("closures of any size and kind", Remark::None),
    ("a storm of retries", Remark::None),
    ("a delay of a retry when the shutdown comes", Remark::None),
    ("a retried body that panics while it is made", Remark::None),
    ("a periodic task that overruns its period", Remark::None),
    (
        "a period of zero, for ever, or changed",
        Documented("a schedule does not change while it runs: start the task anew"),
    ),
    ("a restart while the old run has not ended", Remark::None),
    ("a cancel twice, too late, from many threads", Remark::None),
    ("a cancel before the task begins", Remark::None),
    ("a cancel between a check and a wait", Remark::None),
    ("a callback registered after the cancel", Remark::None),
    ("a registration that races with the cancel", Remark::None),
    ("a callback that panics", Remark::None),
    ("a callback that blocks", Remark::None),
    (
        "a callback that takes back itself or another one",
        Remark::None,
    ),
    (
        "a guard that is dropped or waited for while its callback runs",
        Remark::None,
    ),
    ("a callback that cancels other tokens", Remark::None),
    ("tokens whose callbacks cancel each other", Remark::None),
    (
        "a tree that is dropped or grows while it is cancelled",
        Remark::None,
    ),
    ("a parent that goes before its children", Remark::None),
    ("a tree a million deep", Remark::None),
    ("a token with a million children", Remark::None),
    (
        "deadlines: zero, past, for ever, moved, nested",
        Remark::None,
    ),
    ("a wall clock that jumps", Remark::None),
    ("a process that is suspended", Remark::None),
    ("shields: nested, leaked, panicking", Remark::None),
    ("two reasons to cancel", Remark::None),
    ("a checkpoint while unwinding", Remark::None),
    ("a task that never checks", Remark::None),
    ("a task that shuts its own manager down", Remark::None),
    ("a handle joined by many, by itself, late", Remark::None),
    ("two shutdowns with different timeouts", Remark::None),
    ("a signal during a shutdown", Remark::None),
    ("a shutdown without tasks, a thousand times", Remark::None),
    ("a task that is stuck, in every way", Remark::None),
    ("a thousand tasks that are stuck", Remark::None),
    ("a stuck task that ends later", Remark::None),
    ("the order of the stop", Remark::None),
    ("a group that does not stop in its time", Remark::None),
    ("timeouts of zero, for ever, in the past", Remark::None),
    ("a manager that is dropped", Remark::None),
    (
        "a manager that is dropped inside its own task",
        Remark::None,
    ),
    ("a manager in a static", Remark::None),
    (
        "a `main` that returns or panics while tasks run",
        Remark::None,
    ),
    ("an exit of `main` while tasks run", Remark::None),
    ("a manager that is leaked", Remark::None),
    ("an observer that blocks", Remark::None),
    ("an observer that panics", Remark::None),
    ("an observer that calls back", Remark::None),
    ("a list of tasks while thousands come and go", Remark::None),
    ("a log after the logger is gone", Remark::None),
    ("a scope that is left by a panic or an error", Remark::None),
    (
        "a queue that is closed with jobs in it",
        NotYet("there is no pool"),
    ),
    ("a worker that panics", NotYet("there is no pool")),
    ("being process 1 of a container", Remark::None),
    ("a signal before the handler", Remark::None),
    ("a signal during the start", Remark::None),
    ("a second and a third signal", Remark::None),
    ("a signal thread that cannot be started", Remark::None),
    ("a signal handler that panics or blocks", Remark::None),
    ("a handler of somebody else", Remark::None),
    ("two managers and one signal", Remark::None),
    ("a storm of signals", Remark::None),
    ("SIGKILL at any moment", Remark::None),
    ("signals that are none of ours", Remark::None),
    (
        "a signal in a forked process",
        Documented("the thread that hears signals is not in the copy: fork to exec"),
    ),
    ("a closed terminal, a full stderr", Remark::None),
    ("a fork without exec", Remark::None),
    ("no descriptor left", Remark::None),
    ("no `/proc`", Remark::None),
    ("hardly any processor", Remark::None),
    ("a coarse clock", Remark::None),
    (
        "a target of 32 bits",
        Documented(
            "64-bit counters are crossbeam's `AtomicCell`, which every target has; not run here",
        ),
    ),
    (
        "a library that is unloaded while its tasks run",
        Documented("the code of the threads is gone: not supported"),
    ),
    ("a long life", Remark::None),
    ("a torn last record", JOURNAL),
    ("a flipped bit", JOURNAL),
    ("a full or broken disk", JOURNAL),
    ("a journal that cannot be opened", JOURNAL),
    ("two processes on one journal", JOURNAL),
    ("a rotation that is interrupted", JOURNAL),
    ("a journal of another version", JOURNAL),
    ("names and payloads that would break a record", JOURNAL),
    ("SIGKILL at random, many times", JOURNAL),
    ("a disk that hangs", JOURNAL),
];

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults")
}

/// The tests of this directory by the number in their name; 0 for those of `panics.rs`, which have none.
fn tests() -> BTreeMap<u8, Vec<String>> {
    let mut tests: BTreeMap<u8, Vec<String>> = BTreeMap::new();
    let files = fs::read_dir(directory()).expect("the sources are there");
    let mut files: Vec<PathBuf> = files.map(|file| file.expect("readable").path()).collect();
    files.sort();
    for file in files
        .iter()
        .filter(|file| file.extension().is_some_and(|it| it == "rs"))
    {
        let module = file
            .file_stem()
            .and_then(|stem| stem.to_str())
            .expect("a name");
        let source = fs::read_to_string(file).expect("readable");
        for test in tests_in(&source) {
            let number = number_of(test).or((module == "panics").then_some(0));
            if let Some(number) = number {
                tests
                    .entry(number)
                    .or_default()
                    .push(format!("{module}::{test}"));
            }
        }
    }
    tests
}

/// The names of the tests in a source, without those that are ignored.
pub(crate) fn tests_in(source: &str) -> Vec<&str> {
    let (mut tests, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("fn ") {
            if is_test && !is_ignored {
                tests.extend(rest.split(['(', '<']).next());
            }
            (is_test, is_ignored) = (false, false);
        }
        is_test |= line == "#[test]";
        is_ignored |= line.starts_with("#[ignore");
    }
    tests
}

/// `f028_…` shows fault 28.
fn number_of(test: &str) -> Option<u8> {
    let (number, _) = test.strip_prefix('f')?.split_once('_')?;
    (number.len() == 3).then(|| number.parse().ok())?
}

fn table() -> String {
    let tests = tests();
    let mut text = String::from(
        "# Faults\n\n\
         What can go wrong, and which test shows that it is survived, or how it ends where nothing survives it. Generated\n\
         from the names of the tests: after a change, `UPDATE_FAULTS=1 cargo test --test faults the_table` writes it anew.\n",
    );
    let mut numbered = (1..).zip(FAULTS).peekable();
    for (last, chapter) in CHAPTERS {
        let _ = write!(
            text,
            "\n## {chapter}\n\n| | fault | shown by | |\n|---|---|---|---|\n"
        );
        while let Some((number, (fault, remark))) = numbered.next_if(|(number, _)| *number <= last)
        {
            let shown = tests
                .get(&number)
                .map_or(String::new(), |tests| list(tests));
            let remark = match remark {
                Documented(why) => format!("documented: {why}"),
                NotYet(why) if shown.is_empty() => format!("not yet: {why}"),
                Remark::None if shown.is_empty() => "not yet".to_owned(),
                NotYet(_) | Remark::None => String::new(),
            };
            let _ = writeln!(text, "| {number} | {fault} | {shown} | {remark} |");
        }
    }
    let everywhere = tests.get(&0).map_or(String::new(), |tests| list(tests));
    let _ = write!(
        text,
        "\n## Everywhere\n\nA panic in any call of user code: {everywhere}\n"
    );
    text
}

fn list(tests: &[String]) -> String {
    let quoted: Vec<String> = tests.iter().map(|test| format!("`{test}`")).collect();
    quoted.join(", ")
}

#[test]
fn the_table_of_faults_is_up_to_date() {
    let (path, table) = (directory().join("FAULTS.md"), table());
    if env::var_os(UPDATE).is_some() {
        fs::write(&path, &table).expect("a writable source directory");
    }
    let written = fs::read_to_string(&path).unwrap_or_default();
    let differs = written
        .lines()
        .zip(table.lines())
        .find(|(before, now)| before != now);
    assert!(
        written == table,
        "{} is out of date; write it with {UPDATE}=1. The first line that differs: {differs:#?}",
        path.display()
    );
}

#[test]
fn no_test_bears_the_number_of_no_fault() {
    let numbers = tests().into_keys();
    let unknown: Vec<u8> = numbers
        .filter(|number| usize::from(*number) > FAULTS.len())
        .collect();
    assert_eq!(unknown, Vec::<u8>::new());
}

#[test]
fn tests_are_found_by_their_names() {
    let source = "#[test]\nfn f007_first() {\n#[test]\n#[ignore = \"a role\"]\nfn plays() {\nfn helps(\n#[test]\nfn other() {\n";
    assert_eq!(tests_in(source), ["f007_first", "other"]);
    assert_eq!(number_of("f007_first"), Some(7));
    assert_eq!(number_of("f07_short"), None);
    assert_eq!(number_of("fine_words"), None);
}
