//! One example program as a child process of a test.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Nothing here takes that long; a program that does hangs, and the test says so.
const HANG: Duration = Duration::from_secs(30);

/// As long as any test takes, in seconds: whoever is slow to stop has the time for it.
pub(crate) const FOR_EVER: &str = "3600";

/// The longest of the waits of which that is made up.
const WAIT: Duration = Duration::from_millis(100);

/// Under `target/`; what the programs leave behind is no concern of the user's temporary directory.
const TEMPORARY: &str = env!("CARGO_TARGET_TMPDIR");

/// Where cargo puts the binary of an example: beside the directory of this test's own binary.
pub(crate) fn path_of(example: &str) -> PathBuf {
    let test = std::env::current_exe().expect("a running test has a path");
    let profile = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps/TEST");
    let path = profile
        .join("examples")
        .join(example)
        .with_extension(std::env::consts::EXE_EXTENSION);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --example {example}`",
        path.display()
    );
    path
}

/// What is left of the time until something counts as hanging. It is used up in short waits: a machine that stands still
/// for half a minute is no program that hangs.
#[derive(Debug)]
pub(crate) struct Patience {
    left: Duration,
}

impl Patience {
    pub(crate) fn new() -> Self {
        Self { left: HANG }
    }

    /// Waits once, for no longer than it is told; `false` when the patience is at its end.
    pub(crate) fn wait<T>(&mut self, wait: impl FnOnce(Duration) -> T) -> (T, bool) {
        let begin = Instant::now();
        let waited = wait(WAIT);
        let took = begin.elapsed().min(WAIT);
        self.left = self.left.saturating_sub(took);
        (waited, !self.left.is_zero())
    }
}

/// Looks again and again, until it is so.
#[track_caller]
pub(crate) fn until(what: &str, is_so: impl FnMut() -> bool) {
    assert!(becomes_so(is_so), "{what}");
}

/// Looks again and again; `false` if it is not so when the patience is at its end.
pub(crate) fn becomes_so(mut is_so: impl FnMut() -> bool) -> bool {
    let mut patience = Patience::new();
    while !is_so() {
        // Those it waits for need the processors.
        let ((), goes_on) = patience.wait(|_| thread::sleep(Duration::from_micros(200)));
        if !goes_on {
            return is_so();
        }
    }
    true
}

/// A running program; dropping it kills it.
///
/// Both of its output streams are collected line by line from the start, so it never blocks on a full pipe,
/// and every failure of its test shows what it had printed until then.
#[derive(Debug)]
pub(crate) struct Program {
    child: Child,
    /// The program itself, which is not the child where a shell stands between.
    pid: u32,
    output: Arc<Output>,
}

/// How a program ended and everything it printed.
#[derive(Debug)]
pub(crate) struct Exit {
    pub(crate) status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Program {
    /// Starts an example with arguments, and with all the time in the world to stop.
    pub(crate) fn example(name: &str, arguments: &[&str]) -> Self {
        let mut command = Command::new(path_of(name));
        Self::start(command.args(arguments).env("TASKMUSTER_GRACE", FOR_EVER))
    }

    /// Starts a prepared command; streams it does not redirect are collected.
    pub(crate) fn start(command: &mut Command) -> Self {
        Self::start_without(command, &[])
    }

    /// As `start`, with the named streams left as the command has them.
    pub(crate) fn start_without(command: &mut Command, untouched: &[Stream]) -> Self {
        if !untouched.contains(&Stream::Stdin) {
            command.stdin(Stdio::null());
        }
        let settings = [
            ("TASKMUSTER_GRACE", None),
            ("RUST_LOG", None),
            ("TMPDIR", Some(TEMPORARY)),
        ];
        for (variable, value) in settings {
            if command.get_envs().all(|(set, _)| set != variable) {
                match value {
                    Some(value) => command.env(variable, value),
                    None => command.env_remove(variable),
                };
            }
        }
        if !untouched.contains(&Stream::Stdout) {
            command.stdout(Stdio::piped());
        }
        if !untouched.contains(&Stream::Stderr) {
            command.stderr(Stdio::piped());
        }
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let output = Arc::new(Output::default());
        if let Some(pipe) = child.stdout.take() {
            Output::collect(&output, Stream::Stdout, pipe);
        }
        if let Some(pipe) = child.stderr.take() {
            Output::collect(&output, Stream::Stderr, pipe);
        }
        let pid = child.id();
        Self { child, pid, output }
    }

    /// The program meant by `signal` is not the shell but the one whose pid the shell prints as `pid 123`.
    pub(crate) fn follow_pid_line(&mut self) {
        let line = self.wait_for_line("pid ");
        let pid = line.trim_start_matches("pid ").parse();
        self.pid = pid.unwrap_or_else(|_| self.fail(&format!("{line:?} names no pid")));
    }

    /// Waits until a line with this text was printed on either stream, and returns the first such line.
    pub(crate) fn wait_for_line(&self, text: &str) -> String {
        let seen = self.output.wait_until(|printed| {
            printed
                .lines
                .iter()
                .find(|(_, line)| line.contains(text))
                .map(|(_, line)| line.clone())
        });
        seen.unwrap_or_else(|why| self.fail(&format!("no line with {text:?}: {why}")))
    }

    /// How many descriptors below a limit the program has open; those above it were there before the limit.
    #[cfg(target_os = "linux")]
    pub(crate) fn descriptors_below(&self, limit: usize) -> usize {
        let open = fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("it is running");
        let numbers = open
            .flatten()
            .filter_map(|it| it.file_name().to_str()?.parse().ok());
        numbers.filter(|number: &usize| *number < limit).count()
    }

    /// Sends a signal by its name: `INT`, `TERM`, `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        self.signals(&[name]);
    }

    /// Sends several signals, which come at once: the program stands still until the last of them is sent.
    pub(crate) fn signals(&self, names: &[&str]) {
        let names = match names {
            [_] => names.to_vec(),
            _ => [&["STOP"], names, &["CONT"]].concat(),
        };
        let kills: Vec<String> = names
            .iter()
            .map(|name| format!("kill -{name} {}", self.pid))
            .collect();
        let script = kills.join(" && ");
        let status = Command::new("sh")
            .args(["-c", &script])
            .status()
            .expect("sh starts");
        assert!(status.success(), "`{script}` failed");
    }

    /// Waits for the end of the program: both streams closed, then the exit status.
    pub(crate) fn exit(mut self) -> Exit {
        if let Err(why) = self
            .output
            .wait_until(|printed| (printed.open == 0).then_some(()))
        {
            self.fail(&format!("it does not end: {why}"));
        }
        let status = self.child.wait().expect("the child is ours");
        Exit {
            status,
            stdout: self.output.text(Stream::Stdout),
            stderr: self.output.text(Stream::Stderr),
        }
    }

    fn fail(&self, why: &str) -> ! {
        let threads = threads_of(self.pid);
        panic!("{why}\n{threads}{}", self.output.take_printed())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if thread::panicking() {
            eprint!("{}", self.output.take_printed());
        }
        if let Ok(None) = self.child.try_wait() {
            if self.pid != self.child.id() {
                drop(
                    Command::new("kill")
                        .args(["-KILL", &self.pid.to_string()])
                        .output(),
                );
            }
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

impl Exit {
    /// Fails with the whole output unless the program exited with this code.
    #[track_caller]
    pub(crate) fn assert_code(&self, code: i32) {
        assert_eq!(
            self.status.code(),
            Some(code),
            "{}\n{}{}",
            self.status,
            self.stdout,
            self.stderr
        );
    }

    /// Fails with the whole output unless standard error has this text.
    #[track_caller]
    pub(crate) fn assert_says(&self, text: &str) {
        assert!(
            self.stderr.contains(text),
            "{text:?} is not in:\n{}",
            self.stderr
        );
    }

    /// Fails with the whole output if standard error has this text.
    #[track_caller]
    pub(crate) fn assert_never_says(&self, text: &str) {
        assert!(
            !self.stderr.contains(text),
            "{text:?} is in:\n{}",
            self.stderr
        );
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdin,
    Stdout,
    Stderr,
}

#[derive(Debug, Default)]
struct Output {
    printed: Mutex<Printed>,
    grown: Condvar,
}

#[derive(Debug, Default)]
struct Printed {
    lines: Vec<(Stream, String)>,
    open: usize,
}

impl Output {
    fn collect(output: &Arc<Self>, stream: Stream, pipe: impl Read + Send + 'static) {
        output.lock().open += 1;
        let output = Arc::clone(output);
        thread::spawn(move || {
            let mut pipe = BufReader::new(pipe);
            let mut line = Vec::new();
            while pipe
                .read_until(b'\n', &mut line)
                .is_ok_and(|length| length > 0)
            {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                line.clear();
                output.lock().lines.push((stream, text));
                output.grown.notify_all();
            }
            output.lock().open -= 1;
            output.grown.notify_all();
        });
    }

    /// Waits for what `look` finds; gives up when nothing can come any more, or when it hangs.
    fn wait_until<T>(&self, look: impl Fn(&Printed) -> Option<T>) -> Result<T, &'static str> {
        let mut patience = Patience::new();
        let mut printed = self.lock();
        loop {
            if let Some(found) = look(&printed) {
                return Ok(found);
            }
            if printed.open == 0 {
                return Err("the program has ended");
            }
            let (waited, goes_on) = patience.wait(|limit| self.grown.wait_timeout(printed, limit));
            printed = waited.unwrap_or_else(PoisonError::into_inner).0;
            if !goes_on {
                return Err("it hangs");
            }
        }
    }

    fn text(&self, wanted: Stream) -> String {
        let printed = self.lock();
        let lines = printed.lines.iter().filter(|(stream, _)| *stream == wanted);
        lines.fold(String::new(), |text, (_, line)| text + line + "\n")
    }

    /// All lines that nobody was shown yet.
    fn take_printed(&self) -> String {
        let lines = std::mem::take(&mut self.lock().lines);
        if lines.is_empty() {
            return String::new();
        }
        let lines = lines.iter();
        lines.fold(String::from("it printed:\n"), |text, (stream, line)| {
            text + &format!("{stream:?}: {line}\n")
        })
    }

    fn lock(&self) -> MutexGuard<'_, Printed> {
        self.printed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the kernel says of every thread of a process that hangs; empty where there is no `/proc`.
fn threads_of(pid: u32) -> String {
    let mut text = String::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let read = |file| fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        let _ = writeln!(text, "thread {}: {}", read("comm").trim(), read("wchan"));
    }
    text
}
