//! The handle of a child process: it ends with its handle.

use std::fmt;
use std::io;
use std::panic::Location;
use std::process::{ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus};
use std::sync::Arc;

use crate::base::latch::{self, Latch};
use crate::base::log::{self, Level};
use crate::base::sync::{JoinHandle, bounded};
use crate::base::time::{Deadline, Duration, Instant};
use crate::base::unwind;
use crate::cancel::cancelled::Cancelled;
use crate::cancel::on_cancel::CallbackGuard;
use crate::process::capture::{Capture, Pipes};
use crate::process::helper;
use crate::process::leash::Leash;
use crate::process::output::ProcessOutput;
use crate::process::run_error::{RunError, program_of};
use crate::process::system;
use crate::task::context::{Awaiting, TaskContext};
use crate::task::record::{Awaited, Ward};

/// How long the end of the output is waited for when the child process has ended.
const LINGER: Duration = Duration::from_millis(200);

/// # Child processes
impl TaskContext {
    /// Starts a child process that belongs to this task: it ends with the handle, and is asked to end when the task is.
    ///
    /// Streams that the command does not redirect are this program's own, as with [`Command::spawn`]. The child process
    /// leads a process group of its own, which this sets in the command. So a Ctrl-C at the terminal reaches this program
    /// alone, and a child process that reads from the terminal is stopped by it: redirect its standard input.
    ///
    /// When the task is asked to stop, whatever it is doing, the group gets SIGTERM; if the child process has not ended
    /// when the [grace](ChildProcess::grace) is over, the group is killed, and shortly before the deadline of a shutdown at
    /// the latest. What the child process has moved into another group or session is not reached.
    ///
    /// A thread of this library waits for the child process to end; it wakes the task at once, and nothing is polled. (On
    /// unixes without `waitid` in nix, macOS among them, it looks a hundred times a second. Elsewhere than on unix there
    /// are neither groups nor SIGTERM: the child process alone is ended, at once.)
    ///
    /// For a program that only runs to its end, [`run`](Self::run) is shorter.
    ///
    /// # Errors
    /// [`RunError::Cancelled`] when the task was asked to stop before, [`RunError::NotStarted`] when the program could
    /// not be started, [`RunError::Unavailable`] when the system has no thread to watch it with.
    ///
    /// ```
    /// use std::io::{BufRead as _, BufReader, Write as _};
    /// use std::process::{Command, Stdio};
    /// use taskmuster::Manager;
    ///
    /// # if cfg!(unix) {
    /// let report = Manager::builder().run(|manager| {
    ///     let sorted = manager.spawn("sorted", |ctx| {
    ///         let mut sort = Command::new("sort");
    ///         let mut sort = ctx.spawn_child(sort.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    ///         let mut words = sort.take_stdin().ok_or("no pipe")?;
    ///         words.write_all(b"pear\napple\nplum\n")?;
    ///         drop(words); // the end of its input
    ///         let sorted = BufReader::new(sort.take_stdout().ok_or("no pipe")?);
    ///         let sorted: Vec<String> = sorted.lines().collect::<Result<_, _>>()?;
    ///         assert!(sort.wait()?.success());
    ///         Ok(sorted)
    ///     })?;
    ///     assert_eq!(sorted.join()?, ["apple", "pear", "plum"]);
    ///     Ok(())
    /// });
    /// assert!(report.is_clean());
    /// # }
    /// ```
    #[track_caller]
    pub fn spawn_child(&self, command: &mut Command) -> Result<ChildProcess<'_>, RunError> {
        self.start_child(command, Location::caller())
    }

    /// All that can be had before there is a child is: what was started is not ended again for want of a thread.
    pub(crate) fn start_child(
        &self,
        command: &mut Command,
        place: &'static Location<'static>,
    ) -> Result<ChildProcess<'_>, RunError> {
        if let Err(cancelled) = self.checkpoint_at(place) {
            return Err(RunError::before_start(command, cancelled));
        }
        let program = program_of(command);
        let (its_leash, to_be_watched) = bounded::<Arc<Leash>>(1);
        let watcher = helper::start("tm-child", move || {
            if let Ok(leash) = to_be_watched.recv() {
                leash.watch();
            }
        });
        let watcher = match watcher {
            Ok(watcher) => watcher,
            Err(error) => return Err(RunError::unavailable(program, error)),
        };
        system::separate(command);
        match command.spawn() {
            Ok(mut child) => {
                let streams = (child.stdin.take(), child.stdout.take(), child.stderr.take());
                let leash = Leash::new(&program, child, place);
                let process = ChildProcess::new(self, &leash, streams, watcher);
                // The watcher is there to take it.
                drop(its_leash.send(leash));
                Ok(process.put_in_charge())
            }
            Err(error) => {
                drop(its_leash);
                unwind::discard(watcher.join());
                Err(RunError::not_started(command, error))
            }
        }
    }
}

/// A running child process of a task; made by [`TaskContext::spawn_child`].
///
/// Dropping it kills the child process with its group, and waits until the system has ended and this program reaped it:
/// no process, no zombie and no thread is left, by a panic too. [`terminate`](Self::terminate) lets it end by itself,
/// [`wait`](Self::wait) leaves it alone.
///
/// A process that the kernel cannot interrupt (it hangs on a dead network drive, say) ends only when that is over, and so
/// long this waits. One that runs as another user (`sudo`, `su`) may be impossible to kill: then it is left to itself with
/// a warning in the log, and reaped when it ends. When this program itself is killed, aborted, or ended by the third
/// signal, its child processes live on.
#[must_use = "dropping the handle kills the child process"]
pub struct ChildProcess<'a> {
    context: &'a TaskContext,
    leash: Arc<Leash>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// Asks the child to end when the task is to stop.
    on_cancel: Option<CallbackGuard>,
    /// `None` once the child was reaped or left to itself.
    watcher: Option<JoinHandle<()>>,
}

type Streams = (Option<ChildStdin>, Option<ChildStdout>, Option<ChildStderr>);

impl<'a> ChildProcess<'a> {
    fn new(
        context: &'a TaskContext,
        leash: &Arc<Leash>,
        (stdin, stdout, stderr): Streams,
        watcher: JoinHandle<()>,
    ) -> Self {
        Self {
            context,
            leash: Arc::clone(leash),
            stdin,
            stdout,
            stderr,
            on_cancel: None,
            watcher: Some(watcher),
        }
    }

    /// From now on the task's stop reaches the child, and so does the shutdown's last call.
    fn put_in_charge(mut self) -> Self {
        let leash = Arc::clone(&self.leash);
        let token = self.context.token();
        self.on_cancel = Some(token.on_cancel(move || leash.cancel()));
        if !self.context.record().take_charge_of(self.ward()) {
            self.leash.end_now();
        }
        self
    }

    fn ward(&self) -> Arc<dyn Ward> {
        Arc::clone(&self.leash) as Arc<dyn Ward>
    }

    /// The time between SIGTERM and SIGKILL when the task is asked to stop; 5 seconds if nothing is said.
    ///
    /// `Duration::ZERO` kills at once, `Duration::MAX` never. Either way a shutdown kills the group before its deadline: a
    /// tenth of its time before, but at least 100 ms and at most 1 s.
    ///
    /// ```
    /// # use std::process::Command;
    /// # use std::time::Duration;
    /// # use taskmuster::Manager;
    /// # if cfg!(unix) {
    /// # let report = Manager::builder().run(|manager| {
    /// # manager.spawn("task", |ctx| {
    /// let mut server = ctx.spawn_child(&mut Command::new("true"))?.grace(Duration::from_secs(30));
    /// server.wait()?;
    /// # Ok(())
    /// # })?.join()?;
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// # }
    /// ```
    pub fn grace(self, grace: Duration) -> Self {
        self.leash.set_grace(grace);
        self
    }

    /// The number of the process, which is that of its group as well. It is nobody else's until the child process was
    /// waited for.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.leash.id()
    }

    /// The pipe to its standard input, if the command has one and it was not taken. Dropping it is the end of the input.
    pub fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.stdin.take()
    }

    /// The pipe from its standard output, if the command has one and it was not taken.
    ///
    /// A read of it does not hear the task's stop by itself; but it ends when the child process does, which hears it.
    pub fn take_stdout(&mut self) -> Option<ChildStdout> {
        self.stdout.take()
    }

    /// The pipe from its standard error, if the command has one and it was not taken.
    pub fn take_stderr(&mut self) -> Option<ChildStderr> {
        self.stderr.take()
    }
}

/// # Waiting
///
/// A wait closes the child's standard input, unless that was taken: it would wait for input that nobody gives. Output that
/// nobody takes and reads fills its pipe, and then the child waits: see [`wait_with_output`](Self::wait_with_output).
impl ChildProcess<'_> {
    /// Waits until the child process has ended, and reaps it. What it leaves running in its group goes on.
    ///
    /// # Errors
    /// [`RunError::Cancelled`] when the task is asked to stop: then the group gets SIGTERM, the grace and SIGKILL, nothing
    /// of it is left, and the child process is reaped. A child process that had ended before was not cancelled: that is
    /// its status. [`RunError::Unkillable`] when one that runs as somebody else does not end when it is asked to.
    /// [`RunError::Lost`] when somebody else took its status.
    #[track_caller]
    pub fn wait(&mut self) -> Result<ExitStatus, RunError> {
        self.wait_at(Location::caller())
    }

    /// Like [`wait`](Self::wait), for at most `timeout`; `None` if the child process has not ended by then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    #[track_caller]
    pub fn wait_timeout(&mut self, timeout: Duration) -> Result<Option<ExitStatus>, RunError> {
        self.wait_by(Deadline::after(timeout), Location::caller())
    }

    /// Like [`wait`](Self::wait), until `deadline`; `None` if the child process has not ended by then.
    ///
    /// # Errors
    /// As [`wait`](Self::wait).
    #[track_caller]
    pub fn wait_deadline(&mut self, deadline: Instant) -> Result<Option<ExitStatus>, RunError> {
        self.wait_by(Deadline::at(deadline), Location::caller())
    }

    /// Reaps the child process if it has ended, and leaves it alone if not. Does not wait, nor hear the task's stop.
    ///
    /// # Errors
    /// [`RunError::Lost`] when somebody else took its status.
    #[track_caller]
    pub fn try_wait(&mut self) -> Result<Option<ExitStatus>, RunError> {
        self.context.record().pulse.beat(Location::caller());
        if self.leash.ended().is_open() {
            self.conclude().map(Some)
        } else {
            Ok(None)
        }
    }

    /// Reads those outputs that are piped and were not taken, both at once and into memory, waits until the child process
    /// has ended, and reaps it.
    ///
    /// The end of an output is waited for no longer than 200 ms after the end of the child process: somebody it started may
    /// have inherited the pipe and live on. Then what is there is returned, all that the child process itself wrote among
    /// it, and [`is_complete`](ProcessOutput::is_complete) says no. (Elsewhere than on unix a thread is left reading then.)
    ///
    /// # Errors
    /// As [`wait`](Self::wait); [`RunError::into_output`] gives what was captured until then. [`RunError::Unavailable`]
    /// when the system has no thread or descriptor to read with; then the child process was killed.
    #[track_caller]
    pub fn wait_with_output(self) -> Result<ProcessOutput, RunError> {
        let place = Location::caller();
        match Capture::prepare() {
            Ok(capture) => self.collect(capture, place),
            Err(error) => Err(RunError::unavailable(self.leash.program(), error)),
        }
    }

    pub(crate) fn collect(
        mut self,
        mut capture: Capture,
        place: &'static Location<'static>,
    ) -> Result<ProcessOutput, RunError> {
        let (stdout, stderr) = (self.stdout.take(), self.stderr.take());
        capture.begin(Pipes { stdout, stderr });
        let end = self.wait_at(place);
        if end.is_ok() {
            let linger = Deadline::after(LINGER);
            latch::wait_any(&[capture.at_end(), self.cancel()], linger);
        }
        let captured = capture.finish();
        match end {
            Ok(status) => Ok(ProcessOutput::of(self.leash.program(), status).with(captured)),
            Err(RunError::Cancelled {
                program,
                cancelled,
                output: Some(output),
            }) => Err(RunError::Cancelled {
                program,
                cancelled,
                output: Some(Box::new(output.with(captured))),
            }),
            Err(error) => Err(error),
        }
    }

    fn wait_at(&mut self, place: &'static Location<'static>) -> Result<ExitStatus, RunError> {
        loop {
            if let Some(status) = self.wait_by(Deadline::NEVER, place)? {
                return Ok(status);
            }
        }
    }

    fn wait_by(
        &mut self,
        deadline: Deadline,
        place: &'static Location<'static>,
    ) -> Result<Option<ExitStatus>, RunError> {
        self.context.record().pulse.beat(place);
        drop(self.stdin.take());
        let awaiting = self.awaiting();
        // The end first: one that came before the stop is a value that is there.
        match latch::wait_any(&[self.leash.ended(), self.cancel()], deadline) {
            Some(0) => {}
            Some(_) => {
                let kill_at = self.leash.ask_by_cancel();
                let ended = self.see_off(kill_at);
                ended.map_err(|error| RunError::unkillable(&self.leash, error, self.cut()))?;
            }
            None => return Ok(None),
        }
        drop(awaiting);
        let cancelled = self.cut();
        if cancelled.is_some() {
            // What it leaves behind in its group, while that still has its number.
            self.kill_group();
        }
        let status = self.conclude();
        match (cancelled, status) {
            (None, status) => status.map(Some),
            (Some(cancelled), status) => Err(RunError::Cancelled {
                program: self.leash.program().into(),
                cancelled,
                output: status
                    .ok()
                    .map(|status| Box::new(ProcessOutput::of(self.leash.program(), status))),
            }),
        }
    }
}

/// # Ending it
impl ChildProcess<'_> {
    /// Asks the group to end (SIGTERM), kills it when `grace` is over, and reaps the child process. As soon as the child
    /// process itself has ended, the rest of its group is killed: a program that starts others should wait for them.
    ///
    /// This does not hear the task's stop: it is what a task does then, and takes no longer than `grace`. Once the child
    /// process was waited for, this only says again how it ended.
    ///
    /// # Errors
    /// [`RunError::Unkillable`] when the child process runs as somebody else and has not ended; [`RunError::Lost`] when
    /// somebody else took its status.
    ///
    /// ```
    /// # use std::process::Command;
    /// # use std::time::Duration;
    /// # use taskmuster::Manager;
    /// # if cfg!(unix) {
    /// # let report = Manager::builder().run(|manager| {
    /// # manager.spawn("task", |ctx| {
    /// let mut server = ctx.spawn_child(Command::new("sleep").arg("1000"))?;
    /// ctx.sleep(Duration::from_millis(1))?; // the work
    /// let status = server.terminate(Duration::from_secs(2))?;
    /// assert!(!status.success());
    /// # Ok(())
    /// # })?.join()?;
    /// # Ok(())
    /// # });
    /// # assert!(report.is_clean());
    /// # }
    /// ```
    #[track_caller]
    pub fn terminate(&mut self, grace: Duration) -> Result<ExitStatus, RunError> {
        self.context.record().pulse.beat(Location::caller());
        drop(self.stdin.take());
        if self.is_in_charge() {
            let kill_at = self.leash.ask(grace);
            self.end_by(kill_at)?;
        }
        self.conclude()
    }

    /// Kills the group and reaps the child process. Once that was waited for, this only says again how it ended.
    ///
    /// # Errors
    /// As [`terminate`](Self::terminate).
    #[track_caller]
    pub fn kill(&mut self) -> Result<ExitStatus, RunError> {
        self.context.record().pulse.beat(Location::caller());
        if self.is_in_charge() {
            self.end_by(Deadline::after(Duration::ZERO))?;
        }
        self.conclude()
    }

    /// Whether the child is still to be reaped.
    fn is_in_charge(&self) -> bool {
        self.watcher.is_some()
    }

    fn end_by(&self, kill_at: Deadline) -> Result<(), RunError> {
        let _awaiting = self.awaiting();
        let ended = self.see_off(kill_at);
        ended.map_err(|error| RunError::unkillable(&self.leash, error, None))?;
        self.kill_group();
        Ok(())
    }

    /// Waits for the end, which is brought about at `kill_at`.
    ///
    /// # Errors
    /// The child cannot be killed.
    fn see_off(&self, kill_at: Deadline) -> io::Result<()> {
        let ended = self.leash.ended();
        if !ended.wait_until(kill_at) {
            self.leash.kill()?;
            ended.wait_until(Deadline::NEVER);
        }
        Ok(())
    }

    fn kill_group(&self) {
        // The child has ended: there is nothing about it that could be refused.
        drop(self.leash.kill());
    }

    /// Reaps the child, which has ended, and lets go of all that was there for it.
    fn conclude(&mut self) -> Result<ExitStatus, RunError> {
        let status = self.leash.reap();
        self.discharge();
        unwind::discard(self.watcher.take().map(JoinHandle::join));
        status.map_err(|error| RunError::lost(&self.leash, error))
    }

    fn discharge(&mut self) {
        drop(self.on_cancel.take());
        self.context.record().discharge(&self.ward());
    }

    fn awaiting(&self) -> Awaiting<'_> {
        self.context
            .awaiting(Arc::clone(&self.leash) as Arc<dyn Awaited>)
    }

    fn cancel(&self) -> &Latch {
        self.context.token().node().beacon().latch()
    }

    /// Why the child did not end by itself, if it did not.
    fn cut(&self) -> Option<Cancelled> {
        let stop = || {
            // In a shield the context hears nothing of the stop, but the shutdown's last call ends the child all the same.
            let own = self.context.token().checkpoint();
            own.and_then(|()| self.context.record().token.checkpoint())
                .err()
        };
        self.leash.was_cut().then(stop).flatten()
    }
}

impl Drop for ChildProcess<'_> {
    fn drop(&mut self) {
        if !self.is_in_charge() {
            return;
        }
        match self.end_by(Deadline::after(Duration::ZERO)) {
            // Nobody asks for the status.
            Ok(()) => drop(self.conclude()),
            Err(error) => {
                log::say(Level::Warn, format_args!("{error}"));
                self.discharge();
                self.leash.let_go();
            }
        }
    }
}

impl fmt::Debug for ChildProcess<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChildProcess")
            .field("program", &self.leash.program())
            .field("id", &self.leash.id())
            .finish_non_exhaustive()
    }
}

#[cfg(all(test, unix))]
mod tests {
    use super::*;
    use crate::manager::Manager;

    #[test]
    fn the_report_says_which_child_process_a_task_waits_for() {
        let manager = Manager::builder().build().expect("a manager");
        let (there, ready) = bounded(1);
        let (release, released) = bounded::<()>(0);
        let task = manager.spawn("builder", move |ctx| {
            let child = ctx.spawn_child(Command::new("sleep").arg("1000"))?;
            // A wait for a child that even SIGKILL does not end: none can be had for a test.
            let awaiting = child.awaiting();
            there.send(child.id())?;
            let _ = released.recv();
            drop(awaiting);
            Ok(())
        });
        drop(task.expect("spawned"));
        let id = ready.recv().expect("it runs");
        // The last call is a tenth of it before the end: long enough for a busy machine to make it before the diagnosis.
        let report = manager.shutdown_timeout(Duration::from_secs(8));
        let said = report.expect("a report").to_string();
        let words =
            format!("`builder` waits for the child process `sleep` (pid {id}), which was killed ");
        assert!(said.contains(&words), "{said}");
        assert!(said.contains("only the kernel can delay"), "{said}");
        drop(release);
    }

    #[test]
    fn a_wait_that_is_over_leaves_the_books_as_it_found_them() {
        let manager = Manager::builder().build().expect("a manager");
        let task = manager.spawn("task", |ctx| {
            let (mut outer, mut inner) = (Command::new("true"), Command::new("true"));
            let (outer, inner) = (ctx.spawn_child(&mut outer)?, ctx.spawn_child(&mut inner)?);
            let said = || ctx.record().awaited().map(|awaited| awaited.describe());
            assert_eq!(said(), None);
            let outer_wait = outer.awaiting();
            let before = said();
            drop(inner.awaiting());
            assert_eq!(said(), before);
            drop(outer_wait);
            assert_eq!(said(), None);
            Ok(())
        });
        task.expect("spawned").join().expect("it completes");
    }
}
