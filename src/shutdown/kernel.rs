//! What the kernel says of a thread, on Linux.
//!
//! Read from `/proc/self/task/TID`, which any user may do for its own process (proc(5)). It costs 30 to 150 µs a
//! thread. Everything degrades quietly: without `/proc`, or elsewhere, there is nothing to say.

use std::fs;

use crate::base::time::Duration;

/// One look at a thread.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sight {
    /// On a processor or ready for one.
    pub(crate) running: bool,
    /// The processor time it has used in all, in steps of 10 ms.
    pub(crate) cpu: Duration,
    /// The system call it is blocked in: `read(0)`, `futex`.
    pub(crate) call: Option<String>,
}

/// Looks at the thread with this number.
pub(crate) fn look(tid: u32) -> Option<Sight> {
    let stat = fs::read(format!("/proc/self/task/{tid}/stat")).ok()?;
    let (running, cpu) = parse_stat(&stat)?;
    let call = if running { None } else { blocking_call(tid) };
    Some(Sight { running, cpu, call })
}

/// `12 (any name) R 1 12 … utime stime …`: the name may hold blanks, parentheses and half a character.
fn parse_stat(stat: &[u8]) -> Option<(bool, Duration)> {
    let name_end = stat.iter().rposition(|&byte| byte == b')')?;
    let rest = std::str::from_utf8(stat.get(name_end + 1..)?).ok()?;
    let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
    let ticks = |index: usize| fields.get(index)?.parse::<u64>().ok();
    // Fields 3, 14 and 15 of proc(5); its unit, USER_HZ, is 100 on every platform std supports.
    let cpu = Duration::from_millis(10 * (ticks(11)? + ticks(12)?));
    Some((*fields.first()? == "R", cpu))
}

fn blocking_call(tid: u32) -> Option<String> {
    let of_kernel = |file: &str| fs::read_to_string(format!("/proc/self/task/{tid}/{file}")).ok();
    of_kernel("syscall")
        .and_then(|line| parse_syscall(&line))
        .or_else(|| {
            let wchan = of_kernel("wchan")?;
            (!matches!(&*wchan, "" | "0")).then(|| format!("the kernel's {wchan}"))
        })
}

/// `0 0x3 0x7ffd… …` is system call 0 on descriptor 3; `running` and `-1 …` are none.
fn parse_syscall(line: &str) -> Option<String> {
    let mut fields = line.split_ascii_whitespace();
    let number: u32 = fields.next()?.parse().ok()?;
    let descriptor = fields
        .next()
        .and_then(|hex| u64::from_str_radix(hex.trim_start_matches("0x"), 16).ok());
    Some(match (name_of(number), descriptor) {
        (Some((name, Takes::Descriptor)), Some(descriptor)) => format!("{name}({descriptor})"),
        (Some((name, _)), _) => name.to_owned(),
        (None, _) => format!("system call {number}"),
    })
}

#[derive(Clone, Copy)]
enum Takes {
    Descriptor,
    Other,
}

/// The system calls in which threads block.
#[cfg(target_arch = "x86_64")]
fn name_of(number: u32) -> Option<(&'static str, Takes)> {
    use Takes::{Descriptor, Other};
    Some(match number {
        0 => ("read", Descriptor),
        1 => ("write", Descriptor),
        7 => ("poll", Other),
        16 => ("ioctl", Descriptor),
        17 => ("pread64", Descriptor),
        18 => ("pwrite64", Descriptor),
        19 => ("readv", Descriptor),
        20 => ("writev", Descriptor),
        23 => ("select", Other),
        34 => ("pause", Other),
        35 => ("nanosleep", Other),
        40 => ("sendfile", Descriptor),
        42 => ("connect", Descriptor),
        43 => ("accept", Descriptor),
        44 => ("sendto", Descriptor),
        45 => ("recvfrom", Descriptor),
        46 => ("sendmsg", Descriptor),
        47 => ("recvmsg", Descriptor),
        61 => ("wait4", Other),
        72 => ("fcntl", Descriptor),
        73 => ("flock", Descriptor),
        74 => ("fsync", Descriptor),
        75 => ("fdatasync", Descriptor),
        128 => ("rt_sigtimedwait", Other),
        202 => ("futex", Other),
        230 => ("clock_nanosleep", Other),
        232 => ("epoll_wait", Descriptor),
        247 => ("waitid", Other),
        257 => ("openat", Other),
        270 => ("pselect6", Other),
        271 => ("ppoll", Other),
        281 => ("epoll_pwait", Descriptor),
        288 => ("accept4", Descriptor),
        299 => ("recvmmsg", Descriptor),
        426 => ("io_uring_enter", Descriptor),
        _ => return None,
    })
}

/// The system calls in which threads block.
#[cfg(any(target_arch = "aarch64", target_arch = "riscv64"))]
fn name_of(number: u32) -> Option<(&'static str, Takes)> {
    use Takes::{Descriptor, Other};
    Some(match number {
        22 => ("epoll_pwait", Descriptor),
        25 => ("fcntl", Descriptor),
        29 => ("ioctl", Descriptor),
        32 => ("flock", Descriptor),
        56 => ("openat", Other),
        63 => ("read", Descriptor),
        64 => ("write", Descriptor),
        65 => ("readv", Descriptor),
        66 => ("writev", Descriptor),
        67 => ("pread64", Descriptor),
        68 => ("pwrite64", Descriptor),
        71 => ("sendfile", Descriptor),
        72 => ("pselect6", Other),
        73 => ("ppoll", Other),
        82 => ("fsync", Descriptor),
        83 => ("fdatasync", Descriptor),
        95 => ("waitid", Other),
        98 => ("futex", Other),
        101 => ("nanosleep", Other),
        115 => ("clock_nanosleep", Other),
        137 => ("rt_sigtimedwait", Other),
        202 => ("accept", Descriptor),
        203 => ("connect", Descriptor),
        206 => ("sendto", Descriptor),
        207 => ("recvfrom", Descriptor),
        211 => ("sendmsg", Descriptor),
        212 => ("recvmsg", Descriptor),
        242 => ("accept4", Descriptor),
        243 => ("recvmmsg", Descriptor),
        260 => ("wait4", Other),
        426 => ("io_uring_enter", Descriptor),
        _ => return None,
    })
}

#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "aarch64",
    target_arch = "riscv64"
)))]
fn name_of(_number: u32) -> Option<(&'static str, Takes)> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_full_of_traps_does_not_confuse_the_reader_of_stat() {
        let stat = b"17 (a) R (\xffb) S 1 17 17 0 -1 4194368 90 0 0 0 250 12 0 0 20 0 3 0 1 2 3";
        assert_eq!(
            parse_stat(stat),
            Some((false, Duration::from_millis(2_620)))
        );
        let stat = b"17 (spin) R 1 17 17 0 -1 4194368 90 0 0 0 7 0 0 0 20 0 3 0 1 2 3";
        assert_eq!(parse_stat(stat), Some((true, Duration::from_millis(70))));
        assert_eq!(parse_stat(b"17 (cut"), None);
        assert_eq!(parse_stat(b""), None);
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn a_blocked_thread_is_in_a_call_with_a_name() {
        assert_eq!(
            parse_syscall("0 0x3 0x7f 0x400 0x0 0x0 0x0 0x1 0x2\n").as_deref(),
            Some("read(3)")
        );
        assert_eq!(
            parse_syscall("202 0x55 0x80 0x0 0x0 0x0 0x0 0x1 0x2\n").as_deref(),
            Some("futex")
        );
        assert_eq!(
            parse_syscall("999 0x0\n").as_deref(),
            Some("system call 999")
        );
        assert_eq!(parse_syscall("running\n"), None);
        assert_eq!(parse_syscall("-1 0x0 0x0\n"), None);
    }

    #[test]
    #[cfg(all(
        target_os = "linux",
        any(target_arch = "x86_64", target_arch = "aarch64")
    ))]
    fn the_numbers_of_the_calls_are_the_system_s() {
        use nix::libc;

        let named = |number: libc::c_long| parse_syscall(&format!("{number} 0x7 0x0\n"));
        let calls = [
            ("read(7)", libc::SYS_read),
            ("write(7)", libc::SYS_write),
            ("ioctl(7)", libc::SYS_ioctl),
            ("pread64(7)", libc::SYS_pread64),
            ("pwrite64(7)", libc::SYS_pwrite64),
            ("readv(7)", libc::SYS_readv),
            ("writev(7)", libc::SYS_writev),
            ("nanosleep", libc::SYS_nanosleep),
            ("sendfile(7)", libc::SYS_sendfile),
            ("connect(7)", libc::SYS_connect),
            ("accept(7)", libc::SYS_accept),
            ("sendto(7)", libc::SYS_sendto),
            ("recvfrom(7)", libc::SYS_recvfrom),
            ("sendmsg(7)", libc::SYS_sendmsg),
            ("recvmsg(7)", libc::SYS_recvmsg),
            ("wait4", libc::SYS_wait4),
            ("fcntl(7)", libc::SYS_fcntl),
            ("flock(7)", libc::SYS_flock),
            ("fsync(7)", libc::SYS_fsync),
            ("fdatasync(7)", libc::SYS_fdatasync),
            ("rt_sigtimedwait", libc::SYS_rt_sigtimedwait),
            ("futex", libc::SYS_futex),
            ("clock_nanosleep", libc::SYS_clock_nanosleep),
            ("waitid", libc::SYS_waitid),
            ("openat", libc::SYS_openat),
            ("pselect6", libc::SYS_pselect6),
            ("ppoll", libc::SYS_ppoll),
            ("epoll_pwait(7)", libc::SYS_epoll_pwait),
            ("accept4(7)", libc::SYS_accept4),
            ("recvmmsg(7)", libc::SYS_recvmmsg),
            ("io_uring_enter(7)", libc::SYS_io_uring_enter),
            #[cfg(target_arch = "x86_64")]
            ("poll", libc::SYS_poll),
            #[cfg(target_arch = "x86_64")]
            ("select", libc::SYS_select),
            #[cfg(target_arch = "x86_64")]
            ("pause", libc::SYS_pause),
            #[cfg(target_arch = "x86_64")]
            ("epoll_wait(7)", libc::SYS_epoll_wait),
        ];
        for (name, number) in calls {
            assert_eq!(named(number).as_deref(), Some(name), "{number}");
        }
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_calling_thread_is_seen_running() {
        let link = fs::read_link("/proc/thread-self").expect("procfs");
        let tid = link
            .file_name()
            .and_then(|tid| tid.to_str())
            .and_then(|tid| tid.parse().ok())
            .expect("a number");
        assert!(look(tid).expect("this thread exists").running);
        assert_eq!(look(u32::MAX), None);
    }
}
