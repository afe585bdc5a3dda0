//! What things weigh in resident memory, each in a process of its own.

use std::process::Command;
use std::{env, fs, io};

/// Set for a child process: the name of what it is to weigh.
const WEIGHED: &str = "TASKMUSTER_BENCH_WEIGHED";

/// The name of what this process was started to weigh; `None` in the bench itself.
#[must_use]
pub fn to_be_weighed() -> Option<String> {
    env::var(WEIGHED).ok()
}

/// The bytes that this bench prints when it is started again to weigh `name`.
///
/// A process of its own: memory that an earlier crowd has freed would be used again.
///
/// # Errors
///
/// When the child cannot be started or does not print a number.
pub fn weigh_in_child(name: &str) -> io::Result<f64> {
    let child = Command::new(env::current_exe()?)
        .args(env::args_os().skip(1))
        .env(WEIGHED, name)
        .output()?;
    let printed = String::from_utf8_lossy(&child.stdout);
    printed.trim().parse().map_err(io::Error::other)
}

/// What `make` makes, and by how many bytes this process has grown meanwhile.
///
/// # Errors
///
/// When the kernel does not tell the resident memory.
pub fn gain<T>(make: impl FnOnce() -> T) -> io::Result<(f64, T)> {
    let before = resident()?;
    let things = make();
    Ok((resident()? - before, things))
}

/// `smaps_rollup` counts; `VmRSS` of `status` is an estimate that lags behind each thread.
fn resident() -> io::Result<f64> {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup")?;
    let kib = rollup
        .lines()
        .find_map(|line| line.strip_prefix("Rss:")?.strip_suffix("kB"))
        .ok_or_else(|| io::Error::other("the kernel does not tell the resident memory"))?;
    let kib: f64 = kib.trim().parse().map_err(io::Error::other)?;
    Ok(kib * 1024.0)
}
