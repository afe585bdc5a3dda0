//! What a child process is ended by: its owner, a stop, time.
//!
//! Words: the *owner* is the `ChildProcess`; the *watcher* is a thread that sits in `waitid` until the child has ended.
//! A child that has ended and was not *reaped* keeps its number and that of its group.
//!
//! Invariants:
//!
//! 1. Signals are sent and the child is reaped under `hold`, and none is sent once it was reaped. So none reaches a
//!    stranger that was given the number.
//! 2. The child is reaped only after the watcher is done with its number, for the same reason: it could wait for the end
//!    of another child that was given it. So its life leaves `Running` by the watcher alone.
//! 3. `ended` opens after that, once. Whoever was woken by it can reap.
//! 4. The group is asked once. From then on there is a moment at which it is killed, and nobody kills it before but its
//!    owner and the last call. Somebody waits for that moment: the owner, or an alarm.
//! 5. The owner reaps, unless it has let go: then whoever comes second of "it lets go" and "it has ended" does. So every
//!    child is reaped when it ends.
//! 6. `hold` is held alone, for system calls that return at once.

use std::fmt;
use std::io;
use std::panic::Location;
use std::process::{Child, ExitStatus};
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::log::{self, Level};
use crate::base::sync::{self, Mutex};
use crate::base::time::{self, Deadline, Duration, Instant, human};
use crate::cancel::callback::Callback;
use crate::cancel::timer::{self, Alarm, Fuse, Ring};
use crate::process::system;
use crate::task::record::{Awaited, Ward};

/// How long a child process that was asked to end may take, if its owner says nothing else.
pub(crate) const GRACE: Duration = Duration::from_secs(5);

/// How often the watcher looks where the system has no wait that leaves the child to be reaped.
const LOOK: Duration = Duration::from_millis(10);

/// One child process and all that can be done to it.
pub(crate) struct Leash {
    program: Box<str>,
    id: u32,
    spawned_at: &'static Location<'static>,
    ended: Latch,
    hold: Mutex<Hold>,
}

struct Hold {
    child: Child,
    grace: Duration,
    life: Life,
    asked: Option<Asked>,
    killed: Option<Instant>,
    /// The task's stop, or the shutdown's last call, came before the child had ended.
    cut: bool,
    /// Taken back when the child was reaped. One that was set for an earlier moment does no harm (4).
    alarms: Vec<Alarm>,
    let_go: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Running,
    /// It is to be reaped.
    Ended,
    /// Its number may be somebody else's.
    Reaped,
}

/// The group was asked to end.
#[derive(Clone, Copy)]
struct Asked {
    since: Instant,
    kill_at: Deadline,
}

impl Leash {
    pub(crate) fn new(
        program: &str,
        child: Child,
        spawned_at: &'static Location<'static>,
    ) -> Arc<Self> {
        Arc::new(Self {
            program: program.into(),
            id: child.id(),
            spawned_at,
            ended: Latch::new(),
            hold: Mutex::new(Hold {
                child,
                grace: GRACE,
                life: Life::Running,
                asked: None,
                killed: None,
                cut: false,
                alarms: Vec::new(),
                let_go: false,
            }),
        })
    }

    pub(crate) fn program(&self) -> &str {
        &self.program
    }

    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Open when the child has ended.
    pub(crate) fn ended(&self) -> &Latch {
        &self.ended
    }

    /// Sets the time between the question and the end when the task is to stop, which may have come already.
    pub(crate) fn set_grace(self: &Arc<Self>, grace: Duration) {
        let mut hold = self.hold.lock();
        hold.grace = grace;
        let kill_at = hold.asked.as_mut().map(|asked| {
            asked.kill_at = asked.after(grace);
            asked.kill_at
        });
        drop(hold);
        if let Some(kill_at) = kill_at {
            self.set_alarm(kill_at);
        }
    }

    /// Whether the task's stop ended the child, and not it itself.
    pub(crate) fn was_cut(&self) -> bool {
        self.hold.lock().cut
    }

    // ---- ending it ----

    /// Asks the group to end within `grace`, and says when it is to be killed.
    pub(crate) fn ask(&self, grace: Duration) -> Deadline {
        self.hold.lock().ask(grace)
    }

    /// The same because of the task's stop, within the child's own grace.
    pub(crate) fn ask_by_cancel(&self) -> Deadline {
        let mut hold = self.hold.lock();
        hold.cut |= hold.life == Life::Running;
        let grace = hold.grace;
        hold.ask(grace)
    }

    /// The same for when nobody may be there to kill it: the owner may sit in a read of the child's output.
    pub(crate) fn cancel(self: &Arc<Self>) {
        let kill_at = self.ask_by_cancel();
        self.set_alarm(kill_at);
    }

    fn set_alarm(self: &Arc<Self>, kill_at: Deadline) {
        let Some(at) = kill_at.instant() else { return };
        let fuse = || Fuse {
            target: Arc::clone(self) as Arc<dyn Ring>,
            set_at: self.spawned_at,
            set_by: None,
        };
        match timer::set(at, fuse) {
            Ok(alarm) => self.keep(alarm),
            Err(error) => {
                let words = "is killed without a grace, since the system gave no thread for it";
                log::say(Level::Warn, format_args!("{self} {words}: {error}"));
                self.kill_if_possible();
            }
        }
    }

    /// Keeps an alarm to take it back when the child was reaped, which may be the case already.
    fn keep(&self, alarm: Alarm) {
        let mut hold = self.hold.lock();
        let is_too_late = hold.life == Life::Reaped;
        if !is_too_late {
            hold.alarms.push(alarm);
        }
        drop(hold);
        if is_too_late {
            timer::take_back(alarm);
        }
    }

    /// Kills the group, unless the child was reaped.
    ///
    /// # Errors
    /// The child cannot be killed.
    pub(crate) fn kill(&self) -> io::Result<()> {
        self.hold.lock().kill()
    }

    fn kill_if_possible(&self) {
        // The owner hears of it when it tries.
        drop(self.kill());
    }

    // ---- its end ----

    /// The watcher's life: until the child has ended.
    pub(crate) fn watch(&self) {
        self.watch_by(system::await_end);
    }

    fn watch_by(&self, await_end: fn(u32) -> bool) {
        let is_to_be_reaped = await_end(self.id);
        while !is_to_be_reaped && !self.look() {
            sync::sleep(LOOK);
        }
        let mut hold = self.hold.lock();
        if hold.life == Life::Running {
            hold.life = Life::Ended;
        }
        let let_go = hold.let_go;
        drop(hold);
        self.ended.open();
        if let_go {
            self.reap_unseen();
        }
    }

    /// Reaps the child if it has ended; `true` if so, or if somebody else has reaped it.
    fn look(&self) -> bool {
        let mut hold = self.hold.lock();
        // `Child` keeps the status for whoever asks next; the error comes again.
        let is_over = !matches!(hold.child.try_wait(), Ok(None));
        if is_over {
            hold.life = Life::Reaped;
        }
        is_over
    }

    /// Reaps the child, which has ended, and gives its status, as often as it is asked for.
    ///
    /// # Errors
    /// Somebody else has reaped it.
    pub(crate) fn reap(&self) -> io::Result<ExitStatus> {
        let mut hold = self.hold.lock();
        let status = hold.reap();
        let alarms = std::mem::take(&mut hold.alarms);
        drop(hold);
        alarms.into_iter().for_each(timer::take_back);
        status
    }

    /// Leaves the child, which nobody can end, to itself and to the watcher (5).
    pub(crate) fn let_go(&self) {
        let mut hold = self.hold.lock();
        hold.let_go = true;
        let has_ended = hold.life != Life::Running;
        drop(hold);
        if has_ended {
            self.reap_unseen();
        }
    }

    fn reap_unseen(&self) {
        // Nobody is left to ask for the status.
        drop(self.reap());
    }
}

impl Asked {
    fn after(self, grace: Duration) -> Deadline {
        let moment = self.since.checked_add(grace);
        moment.map_or(Deadline::NEVER, Deadline::at)
    }
}

impl Hold {
    fn ask(&mut self, grace: Duration) -> Deadline {
        let kill_at = Deadline::after(grace);
        if let Some(asked) = &mut self.asked {
            asked.kill_at = asked.kill_at.earlier(kill_at);
            return asked.kill_at;
        }
        if self.life != Life::Reaped {
            let since = time::now();
            self.asked = Some(Asked { since, kill_at });
            system::terminate(&mut self.child);
        }
        kill_at
    }

    fn is_to_be_killed(&self) -> bool {
        self.asked.is_some_and(|asked| asked.kill_at.has_passed())
    }

    fn reap(&mut self) -> io::Result<ExitStatus> {
        if self.life == Life::Running {
            return Err(io::Error::other("it has not ended"));
        }
        self.life = Life::Reaped;
        let status = self.child.try_wait()?;
        status.ok_or_else(|| io::Error::other("it has ended, but the system does not say how"))
    }

    fn kill(&mut self) -> io::Result<()> {
        if self.life == Life::Reaped {
            return Ok(());
        }
        self.killed.get_or_insert_with(time::now);
        system::kill(&mut self.child)
    }
}

/// The grace is over, unless it was made longer since.
impl Ring for Leash {
    fn ring(
        self: Arc<Self>,
        _: &'static Location<'static>,
        _: Option<Arc<str>>,
    ) -> Vec<Arc<Callback>> {
        let mut hold = self.hold.lock();
        if hold.is_to_be_killed() {
            // The owner hears of a failure when it tries.
            drop(hold.kill());
        }
        Vec::new()
    }
}

/// The shutdown's last call.
impl Ward for Leash {
    fn end_now(&self) {
        let mut hold = self.hold.lock();
        hold.cut |= hold.life == Life::Running;
        drop(hold.kill());
    }
}

impl Awaited for Leash {
    fn describe(&self) -> String {
        let (asked, killed) = {
            let hold = self.hold.lock();
            (hold.asked.map(|asked| asked.since), hold.killed)
        };
        let ago = |since| human(time::now().saturating_duration_since(since));
        match (asked, killed) {
            (_, Some(since)) => format!("{self}, which was killed {} ago", ago(since)),
            (Some(since), None) => format!("{self}, which was asked to end {} ago", ago(since)),
            (None, None) => self.to_string(),
        }
    }
}

/// ``the child process `sleep` (pid 123)``
impl fmt::Display for Leash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the child process `{}` (pid {})", self.program, self.id)
    }
}

impl fmt::Debug for Leash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Leash({self})")
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::{Command, Stdio};
    use std::thread;

    use super::*;

    /// A process that runs until it is ended, and does not mind being asked.
    fn deaf() -> Arc<Leash> {
        let script = "trap '' TERM; echo; exec sleep 1000";
        let mut command = Command::new("sh");
        command.args(["-c", script]).stdout(Stdio::piped());
        system::separate(&mut command);
        let mut child = command.spawn().expect("it starts");
        let mut stdout = child.stdout.take().expect("it is piped");
        io::Read::read_exact(&mut stdout, &mut [0]).expect("it has set its trap");
        Leash::new("sleep", child, Location::caller())
    }

    #[test]
    fn a_child_says_who_it_is_and_what_was_done_to_it() {
        let leash = deaf();
        let name = format!("the child process `sleep` (pid {})", leash.id());
        assert_eq!(leash.describe(), name);
        let kill_at = leash.ask(Duration::from_secs(60));
        let said = leash.describe();
        assert!(
            said.starts_with(&format!("{name}, which was asked to end ")),
            "{said}"
        );
        assert_eq!(leash.ask(Duration::MAX), kill_at, "only earlier");
        assert!(leash.ask(Duration::ZERO).has_passed());
        leash.kill().expect("it is ours");
        let said = leash.describe();
        assert!(
            said.starts_with(&format!("{name}, which was killed ")),
            "{said}"
        );
        leash.watch();
        assert!(!leash.reap().expect("it is there").success());
    }

    #[test]
    fn it_is_not_reaped_before_the_watcher_is_done_and_no_signal_is_sent_afterwards() {
        let leash = deaf();
        leash.kill().expect("it is ours");
        assert!(leash.reap().is_err(), "the watcher has not seen it");
        leash.watch();
        assert!(leash.ended().is_open());
        let status = leash.reap().expect("it is there");
        assert_eq!(leash.reap().expect("the same again"), status);
        leash.kill().expect("nothing is sent");
        leash.ask(Duration::ZERO);
        assert!(leash.hold.lock().asked.is_none());
    }

    #[test]
    fn one_that_was_let_go_is_reaped_by_whoever_comes_second() {
        for watched_first in [true, false] {
            let leash = deaf();
            leash.kill().expect("it is ours");
            if watched_first {
                leash.watch();
                leash.let_go();
            } else {
                leash.let_go();
                leash.watch();
            }
            assert!(leash.hold.lock().life == Life::Reaped);
        }
    }

    #[test]
    fn an_end_that_cannot_be_waited_for_is_looked_for() {
        let leash = deaf();
        let watcher = Arc::clone(&leash);
        let watcher = thread::spawn(move || watcher.watch_by(|_| false));
        leash.kill().expect("it is ours");
        assert!(
            leash
                .ended()
                .wait_until(Deadline::after(Duration::from_secs(20)))
        );
        watcher.join().expect("it does not panic");
        assert!(!leash.reap().expect("it was kept").success());
    }

    #[test]
    fn an_alarm_that_comes_too_late_is_taken_back() {
        let leash = deaf();
        leash.set_grace(Duration::from_secs(60));
        leash.cancel();
        assert!(leash.was_cut());
        let alarm = leash.hold.lock().alarms[0];
        assert!(timer::moment_of(alarm).is_some());
        leash.kill().expect("it is ours");
        leash.watch();
        leash.reap().expect("it is there");
        assert_eq!(timer::moment_of(alarm), None);
        leash.cancel();
        assert_eq!(leash.hold.lock().alarms, []);
        assert_eq!(Arc::strong_count(&leash), 1, "no fuse is left");
    }

    #[test]
    fn a_grace_that_is_said_after_the_question_counts_from_the_question() {
        let leash = deaf();
        leash.set_grace(Duration::ZERO);
        let zero = leash.ask_by_cancel();
        leash.set_grace(Duration::from_secs(60));
        let longer = leash.hold.lock().asked.expect("it was").kill_at;
        assert!(zero.has_passed() && !longer.has_passed());
        drop(Arc::clone(&leash).ring(Location::caller(), None));
        assert!(
            leash.hold.lock().killed.is_none(),
            "that was the old moment"
        );
        leash.set_grace(Duration::from_millis(1));
        let watcher = Arc::clone(&leash);
        let watcher = thread::spawn(move || watcher.watch());
        assert!(
            leash
                .ended()
                .wait_until(Deadline::after(Duration::from_secs(20)))
        );
        watcher.join().expect("it does not panic");
        assert!(!leash.reap().expect("it is there").success());
    }
}
