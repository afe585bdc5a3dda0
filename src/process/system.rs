//! Process groups, signals and ends of processes: the system's side.

pub(crate) use platform::{await_end, kill, separate, terminate};

#[cfg(unix)]
mod platform {
    use std::io;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Child, Command};

    use nix::errno::Errno;
    use nix::sys::signal::{self, Signal};
    use nix::unistd::Pid;

    /// Has the child process lead a group of its own, so that a signal reaches it with everybody it starts, and the
    /// terminal's Ctrl-C reaches none of them: ending them is its owner's business.
    pub(crate) fn separate(command: &mut Command) {
        command.process_group(0);
    }

    /// Asks the child's group to end. The child must not have been reaped.
    pub(crate) fn terminate(child: &mut Child) {
        let Ok(group) = pid(child.id()) else { return };
        // Who is stopped, by the terminal or a debugger, hears the first only when it goes on.
        for signal in [Signal::SIGTERM, Signal::SIGCONT] {
            if signal::killpg(group, signal) == Err(Errno::ESRCH) {
                // The child has gone to another group.
                let _ = signal::kill(group, signal);
            }
        }
    }

    /// Kills the child's group. The child must not have been reaped.
    ///
    /// # Errors
    /// The child itself cannot be killed: it runs as somebody else.
    pub(crate) fn kill(child: &mut Child) -> io::Result<()> {
        let group = pid(child.id())?;
        let _ = signal::killpg(group, Signal::SIGKILL);
        // Once more for the child alone: it may have gone to another group, and whether it can be killed is said of it.
        match signal::kill(group, Signal::SIGKILL) {
            Ok(()) | Err(Errno::ESRCH) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Never one of the numbers that mean more than one process (kill(2)).
    fn pid(id: u32) -> io::Result<Pid> {
        match i32::try_from(id) {
            Ok(id) if id > 1 => Ok(Pid::from_raw(id)),
            _ => Err(Errno::ESRCH.into()),
        }
    }

    /// Waits for the end of a child process and leaves it to be reaped, so that its number is nobody else's yet; `false`
    /// if that cannot be done here, or somebody else has reaped it.
    #[cfg(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "haiku",
        all(target_os = "linux", not(target_env = "uclibc")),
    ))]
    pub(crate) fn await_end(id: u32) -> bool {
        use nix::sys::wait::{Id, WaitPidFlag, waitid};

        let Ok(pid) = pid(id) else { return false };
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
        loop {
            match waitid(Id::Pid(pid), flags) {
                Ok(_) => return true,
                Err(Errno::EINTR) => {}
                // Among them EINVAL, for an end by a signal that nix has no name for.
                Err(_) => return false,
            }
        }
    }

    /// See above; nix has no `waitid` here.
    #[cfg(not(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "haiku",
        all(target_os = "linux", not(target_env = "uclibc")),
    )))]
    pub(crate) fn await_end(_id: u32) -> bool {
        false
    }
}

#[cfg(not(unix))]
mod platform {
    use std::io;
    use std::process::{Child, Command};

    /// There are no process groups: who ends a child process does not reach those it has started.
    pub(crate) fn separate(_command: &mut Command) {}

    /// There is no way to ask: ends the child process at once.
    pub(crate) fn terminate(child: &mut Child) {
        drop(child.kill());
    }

    pub(crate) fn kill(child: &mut Child) -> io::Result<()> {
        // Who has started a process may end it; only one that is ending refuses.
        drop(child.kill());
        Ok(())
    }

    /// Nobody but the owner of a `Child` can wait for it here.
    pub(crate) fn await_end(_id: u32) -> bool {
        false
    }
}

#[cfg(all(test, unix))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn an_end_is_seen_and_left_to_be_reaped() {
        let mut child = Command::new("true").spawn().expect("it starts");
        let seen = await_end(child.id());
        if cfg!(target_os = "linux") {
            assert!(seen);
        }
        assert!(kill(&mut child).is_ok(), "it still has its number");
        let status = child.wait().expect("it is there to be reaped");
        assert!(status.success());
    }
}
