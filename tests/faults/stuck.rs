//! The ways in which a task can be stuck, with what a report must say of each.

use std::cell::RefCell;
use std::convert::Infallible;
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use taskmuster::crossbeam_channel::{Receiver, Sender, bounded};
use taskmuster::{Group, TaskContext, TaskHandle, TaskReport, TaskResult};

/// Longer than any test: what has this limit has none.
const FOR_EVER: Duration = Duration::from_secs(600);

/// Longer than until the diagnosis: who has just woken up, and has no processor yet, sits in no call.
const NAP: Duration = Duration::from_secs(2);

/// One way to be stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Stuck {
    /// Reads from a pipe into which nobody writes.
    Read,
    /// Writes into a pipe from which nobody reads.
    Write,
    /// Receives from a plain channel.
    Receive,
    /// Waits for a lock.
    Lock,
    /// Waits at a condition variable.
    Condition,
    /// Waits for a child process.
    Child,
    /// Accepts connections that do not come.
    Accept,
    /// Sleeps without a context.
    Sleep,
    /// Computes without a checkpoint.
    Spin,
    /// Passes checkpoints without looking at what they say.
    Deaf,
    /// Joins a plain thread that does not end.
    Thread,
    /// Joins another stuck task, without its own context.
    Task,
    /// Is in a shield.
    Shield,
    /// Waits for the tasks of a scope.
    Scope,
    /// Is in announced foreign code.
    Foreign,
    /// Its body is over; the destructor of a thread-local blocks.
    Destructor,
    /// What its body leaves behind blocks when it is dropped.
    Leftover,
    /// Waits for its own callback, which blocks the thread that runs it.
    Callback,
}

impl Stuck {
    pub(crate) const ALL: [Self; 18] = [
        Self::Read,
        Self::Write,
        Self::Receive,
        Self::Lock,
        Self::Condition,
        Self::Child,
        Self::Accept,
        Self::Sleep,
        Self::Spin,
        Self::Deaf,
        Self::Thread,
        Self::Task,
        Self::Shield,
        Self::Scope,
        Self::Foreign,
        Self::Destructor,
        Self::Leftover,
        Self::Callback,
    ];

    pub(crate) fn named(name: &str) -> Self {
        let mut all = Self::ALL.into_iter();
        all.find(|kind| kind.name() == name).expect("one of them")
    }

    pub(crate) fn name(self) -> String {
        format!("{self:?}").to_lowercase()
    }

    /// What the report says of it where the kernel tells.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Read => "sits in read(",
            Self::Write => "sits in write(",
            Self::Receive
            | Self::Lock
            | Self::Condition
            | Self::Thread
            | Self::Leftover
            | Self::Callback => "sits in futex",
            Self::Child => "sits in wait",
            Self::Accept => "sits in accept",
            Self::Sleep => "sits in clock_nanosleep",
            Self::Spin => "put `ctx.checkpoint()?` into the loop after",
            Self::Deaf => "it ignores their result",
            Self::Task => "waits for the end of `",
            Self::Shield => "has been in a shield for",
            Self::Scope => "waits for the end of several tasks",
            Self::Foreign => "foreign code that nothing can stop",
            Self::Destructor => "still exiting (thread-local destructor)",
        }
    }

    /// What the process ends with if this is the worst that is left.
    pub(crate) fn exit_code(self) -> u8 {
        if self == Self::Foreign { 0 } else { 2 }
    }

    /// Whether the report names the source line at which it was last seen.
    pub(crate) fn has_place(self) -> bool {
        !matches!(self, Self::Foreign | Self::Destructor)
    }

    /// Starts a task that gets stuck, and says `there` just before.
    pub(crate) fn spawn(self, group: &Group, cell: &Cell, there: &Sender<()>) -> TaskHandle<()> {
        let (cell, there) = (cell.clone(), there.clone());
        let body = move |ctx: &TaskContext| self.get_stuck(ctx, &cell, &there);
        group.spawn(self.name(), body).expect("spawned")
    }

    fn get_stuck(self, ctx: &TaskContext, cell: &Cell, there: &Sender<()>) -> TaskResult {
        ctx.checkpoint()?;
        let door = cell.door.clone();
        match self {
            Self::Read => read_what_nobody_writes(cell, there)?,
            Self::Write => write_what_nobody_reads(cell, there)?,
            Self::Child => wait_for_a_child(cell, there)?,
            Self::Accept => accept_nobody(cell, there)?,
            Self::Receive => {
                there.send(())?;
                let _ = door.recv();
            }
            Self::Lock => {
                there.send(())?;
                drop(cell.locked.lock());
            }
            Self::Condition => {
                let condition = Arc::new((Mutex::new(false), Condvar::new()));
                let theirs = Arc::clone(&condition);
                cell.on_release(move || {
                    *theirs.0.lock().unwrap_or_else(PoisonError::into_inner) = true;
                    theirs.1.notify_all();
                });
                there.send(())?;
                let lock = condition.0.lock();
                let mut holds = lock.unwrap_or_else(PoisonError::into_inner);
                while !*holds {
                    let woken = condition.1.wait(holds);
                    holds = woken.unwrap_or_else(PoisonError::into_inner);
                }
            }
            Self::Sleep => {
                there.send(())?;
                while !cell.is_open() {
                    thread::sleep(NAP);
                }
            }
            Self::Spin => {
                there.send(())?;
                while !cell.is_open() {
                    std::hint::spin_loop();
                }
            }
            Self::Deaf => {
                there.send(())?;
                while !cell.is_open() {
                    drop(ctx.checkpoint());
                    thread::sleep(Duration::from_millis(1));
                }
            }
            Self::Thread => {
                let helper = thread::spawn(move || door.recv().is_err());
                there.send(())?;
                drop(helper.join());
            }
            Self::Task => {
                let other = Self::Receive.spawn(ctx.group(), cell, there);
                drop(other.join());
                let _ = door.recv(); // the deadline has let it go
            }
            Self::Shield => ctx.shield(FOR_EVER, |ctx| {
                there.send(())?;
                drop(ctx.recv(&door));
                Ok(())
            })?,
            Self::Scope => ctx.scope("scope", |scope| {
                scope.spawn("inner", |_| {
                    there.send(())?;
                    let _ = door.recv();
                    Ok(())
                })?;
                Ok(())
            })?,
            Self::Foreign => ctx.foreign("a call into the dark", FOR_EVER, || {
                let _ = there.send(());
                let _ = door.recv();
            }),
            Self::Destructor => {
                LINGERING.set(Some(Blocks(door)));
                there.send(())?;
            }
            Self::Leftover => {
                let _leftover = Blocks(door);
                there.send(())?;
            }
            Self::Callback => {
                let (unblock, blocked) = bounded::<Infallible>(0);
                let theirs = door.clone();
                let _guard = ctx.on_cancel(move || {
                    let _ = theirs.recv();
                    drop(unblock);
                });
                there.send(())?;
                let _ = blocked.recv();
            }
        }
        Ok(())
    }
}

#[expect(
    clippy::incompatible_msrv,
    reason = "tests are built by the newest compiler only"
)]
fn read_what_nobody_writes(cell: &Cell, there: &Sender<()>) -> TaskResult {
    let (mut reader, writer) = io::pipe()?;
    cell.on_release(move || drop(writer));
    there.send(())?;
    Ok(reader.read_exact(&mut [0])?)
}

#[expect(
    clippy::incompatible_msrv,
    reason = "tests are built by the newest compiler only"
)]
fn write_what_nobody_reads(cell: &Cell, there: &Sender<()>) -> TaskResult {
    let (reader, mut writer) = io::pipe()?;
    cell.on_release(move || drop(reader));
    there.send(())?;
    while writer.write(&[0; 4_096]).is_ok() {}
    Ok(())
}

fn wait_for_a_child(cell: &Cell, there: &Sender<()>) -> TaskResult {
    let mut child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
    let input = child.stdin.take();
    cell.on_release(move || drop(input));
    there.send(())?;
    child.wait()?;
    Ok(())
}

fn accept_nobody(cell: &Cell, there: &Sender<()>) -> TaskResult {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    cell.on_release(move || drop(TcpStream::connect(address)));
    there.send(())?;
    listener.accept()?;
    Ok(())
}

/// Blocks whoever drops it until the jail is opened.
struct Blocks(Receiver<Infallible>);

impl Drop for Blocks {
    fn drop(&mut self) {
        let _ = self.0.recv();
    }
}

thread_local! {
    static LINGERING: RefCell<Option<Blocks>> = const { RefCell::new(None) };
}

/// Holds stuck tasks until it is dropped.
pub(crate) struct Jail {
    door: Option<Sender<Infallible>>,
    cell: Cell,
    locker: Option<JoinHandle<()>>,
}

type Undo = Box<dyn FnOnce() + Send>;

/// What a stuck task needs to be released.
#[derive(Clone)]
pub(crate) struct Cell {
    door: Receiver<Infallible>,
    locked: Arc<Mutex<()>>,
    open: Arc<AtomicBool>,
    undo: Arc<Mutex<Vec<Undo>>>,
}

impl Jail {
    pub(crate) fn new() -> Self {
        let (door, closed) = bounded(0);
        let cell = Cell {
            door: closed,
            locked: Arc::default(),
            open: Arc::default(),
            undo: Arc::default(),
        };
        let (there, ready) = bounded(1);
        let theirs = cell.clone();
        let locker = thread::spawn(move || {
            let held = theirs.locked.lock();
            let _ = there.send(());
            let _ = theirs.door.recv();
            drop(held);
        });
        ready.recv().expect("it holds the lock");
        Self {
            door: Some(door),
            cell,
            locker: Some(locker),
        }
    }

    pub(crate) fn cell(&self) -> &Cell {
        &self.cell
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        self.cell.open.store(true, Ordering::SeqCst);
        drop(self.door.take());
        let undo = std::mem::take(
            &mut *self
                .cell
                .undo
                .lock()
                .unwrap_or_else(PoisonError::into_inner),
        );
        for undo in undo {
            undo();
        }
        drop(self.locker.take().map(JoinHandle::join));
    }
}

impl Cell {
    fn is_open(&self) -> bool {
        self.open.load(Ordering::SeqCst)
    }

    fn on_release(&self, undo: impl FnOnce() + Send + 'static) {
        let mut all = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Box::new(undo));
    }
}

/// Whether a straggler is named, and with a line of source where there is one.
pub(crate) fn is_named_with_its_place(straggler: &TaskReport, kind: Stuck) -> bool {
    let diagnosis = straggler.diagnosis().expect("a straggler has one");
    let said = diagnosis.to_string();
    let place = diagnosis.last_checkpoint.unwrap_or(diagnosis.spawned_at);
    let has_place = said.contains(&format!("{}:{}", place.file(), place.line()));
    said.starts_with(&format!("`{}` ", straggler.name())) && (has_place || !kind.has_place())
}
