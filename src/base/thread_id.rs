//! The kernel's numbers of threads, on Linux.

/// The number of the calling thread; `None` where the system has none that this library could use.
pub(crate) fn current() -> Option<u32> {
    #[cfg(all(target_os = "linux", not(any(loom, shuttle))))]
    return u32::try_from(nix::unistd::gettid().as_raw()).ok();
    #[cfg(not(all(target_os = "linux", not(any(loom, shuttle)))))]
    return None;
}

/// Whether no thread has this number any more, so that a join of the one that had it returns at once.
///
/// Should the number have been given away again meanwhile, or nothing be known, the answer is no.
pub(crate) fn is_gone(tid: u32) -> bool {
    #[cfg(target_os = "linux")]
    return i32::try_from(tid).is_ok_and(|tid| {
        // Signal 0 is not sent; the kernel only looks whether it could be (kill(2)).
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(tid), None)
            == Err(nix::errno::Errno::ESRCH)
    });
    #[cfg(not(target_os = "linux"))]
    {
        let _ = tid;
        false
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn a_thread_is_gone_only_after_its_end() {
        let mine = current().expect("Linux numbers its threads");
        assert!(!is_gone(mine));
        let theirs = thread::spawn(|| current().expect("it has one as well"))
            .join()
            .expect("it does not panic");
        assert_ne!(mine, theirs);
        // Its join returns a moment before the kernel forgets the number.
        while !is_gone(theirs) {
            thread::yield_now();
        }
        assert!(!is_gone(u32::MAX), "no such number can be asked for");
    }
}
