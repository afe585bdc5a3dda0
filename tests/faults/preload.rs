//! Faults of the system that no program can bring about by itself.
//!
//! A role that runs under the shim has `preload.c` between itself and the C library, and tells it what to do.

use std::io::{ErrorKind, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::process::Command as Process;
use std::sync::OnceLock;

use nix::sys::signal::{Signal, kill, raise};
use nix::sys::wait::waitpid;
use nix::unistd::{Pid, getsid};

use crate::child;
use crate::child::program::{Patience, Program};
use crate::shim::Shim;

/// What the shim can be told; the numbers are those of `preload.c`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Command {
    Present = 1,
    /// The k-th thread from now on cannot be created.
    FailOne,
    /// Every k-th thread from now on cannot be created.
    FailEvery,
    /// No thread can be created from the k-th on.
    FailFrom,
    /// The k-th thread from now on is held back until the next command, and then cannot be created.
    HoldOne,
    /// Threads can be created again.
    LetGo,
    /// Whether a thread is held back.
    IsHeld,
    /// How many threads were asked for since the last command.
    Threads,
    /// Whoever creates a thread is held up for so many milliseconds.
    Linger,
    /// A real fork: zero in the child.
    Fork,
    /// How many pieces of memory the calling thread has asked for.
    Allocations,
    /// How many pieces of a mebibyte and more the process has asked for.
    LargeAllocations,
    /// Nothing below `/proc` can be opened, with this error; 0 ends it.
    HideProc,
    /// The monotonic clock moves in steps of so many milliseconds; 0 ends it.
    CoarseClock,
}

/// Tells the shim, in a role that runs under it.
pub(crate) fn tell(command: Command, number: u32) -> u32 {
    let number = i32::try_from(number).expect("a small number");
    let answer = getsid(Some(Pid::from_raw(((command as i32) << 24) | number)));
    let answer = answer.expect("the shim knows all commands").as_raw();
    u32::try_from(answer).expect("errors are errors")
}

pub(crate) fn ask(command: Command) -> u32 {
    tell(command, 0)
}

/// A role that runs under the shim; `None`, with a line that says so, where there is no C compiler.
pub(crate) fn role(name: &str) -> Option<Process> {
    let mut role = child::role(name);
    library()?.under(&mut role);
    Some(role)
}

/// Has a role played under the shim, to a good end.
pub(crate) fn play(name: &str) {
    if let Some(mut role) = role(name) {
        assert_played(Program::start(&mut role));
    }
}

/// Waits until a role was played to a good end.
#[track_caller]
pub(crate) fn assert_played(program: Program) {
    let exit = program.exit();
    exit.assert_code(0);
    let is_played = exit.stdout.contains("1 passed");
    assert!(is_played, "no such role\n{}{}", exit.stdout, exit.stderr);
}

/// The shim, compiled once per process of tests.
fn library() -> Option<&'static Shim> {
    static LIBRARY: OnceLock<Option<Shim>> = OnceLock::new();
    let library = LIBRARY.get_or_init(|| Shim::compile("preload", include_str!("preload.c")));
    library.as_ref()
}

/// The two processes after a fork: a real one, without `exec`.
pub(crate) enum Forked {
    Child(Fork),
    Parent(Waits),
}

/// The copy. It says what it is about to do, for the failure in case that hangs.
pub(crate) struct Fork(UnixStream);

/// The original, which waits for its copy.
pub(crate) struct Waits {
    child: Pid,
    said: UnixStream,
}

pub(crate) fn fork() -> Forked {
    let (said, says) = UnixStream::pair().expect("a pair of sockets");
    match tell(Command::Fork, 0) {
        0 => Forked::Child(Fork(says)),
        child => {
            let child = Pid::from_raw(i32::try_from(child).expect("a process id"));
            Forked::Parent(Waits { child, said })
        }
    }
}

/// Does something in a forked copy and waits for that.
pub(crate) fn in_a_fork(work: impl FnOnce(&Fork)) {
    match fork() {
        Forked::Child(fork) => {
            work(&fork);
            fork.end_well();
        }
        Forked::Parent(waits) => waits.until_it_is_well(),
    }
}

const WELL: &str = "all went well";

impl Fork {
    pub(crate) fn say(&self, what: &str) {
        // Not by way of std's streams: who knows who had locked them.
        drop((&self.0).write_all(format!("{what}\n").as_bytes()));
    }

    /// The end of a copy of which nothing is to be destroyed, and no exit handler run.
    pub(crate) fn end_well(self) -> ! {
        self.say_well();
        die()
    }

    pub(crate) fn say_well(&self) {
        self.say(WELL);
    }
}

impl Drop for Fork {
    /// A panic must not find its way back into the harness, of which this is a copy.
    fn drop(&mut self) {
        self.say("it panicked");
        die();
    }
}

fn die() -> ! {
    loop {
        let _ = raise(Signal::SIGKILL);
    }
}

impl Waits {
    #[track_caller]
    pub(crate) fn until_it_is_well(mut self) {
        let (mut said, mut patience) = (Vec::new(), Patience::new());
        let read = loop {
            let (read, goes_on) = patience.wait(|limit| {
                self.said.set_read_timeout(Some(limit))?;
                self.said.read_to_end(&mut said)
            });
            match read {
                Err(error) if error.kind() == ErrorKind::WouldBlock && goes_on => {}
                read => break read,
            }
        };
        let said = String::from_utf8_lossy(&said);
        let _ = kill(self.child, Signal::SIGKILL);
        let _ = waitpid(self.child, None);
        let is_well = read.is_ok() && said.lines().last() == Some(WELL);
        assert!(is_well, "in the fork: {said}{read:?}");
    }
}

#[test]
#[ignore = "a role of a child process"]
fn is_there() {
    assert_eq!(ask(Command::Present), 1);
}

#[test]
fn the_shim_is_there_when_it_is_asked_for() {
    play("preload::is_there");
}
