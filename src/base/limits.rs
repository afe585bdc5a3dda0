//! How many threads this process may start.
//!
//! Above about `vm.max_map_count / 4` threads std cannot protect the new thread's signal stack and aborts the whole
//! process (rust-lang/rust#78497). So the limit is asked for first, and an error is returned instead.

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use crate::base::sync::{Ordering, StaticCounter};

/// Linux's default `vm.max_map_count`; used where nothing can be read.
const FALLBACK: usize = 65_530;

/// The default limit of live tasks: `vm.max_map_count / 6`, bounded by the process and cgroup limits.
pub(crate) fn default_max_tasks() -> usize {
    bounded(max_map_count() / 6)
}

/// The threads of all managers of this process.
static THREADS: StaticCounter = StaticCounter::new(0);

/// How many threads of tasks this process may have, whatever its managers say: `vm.max_map_count / 5`, bounded likewise.
fn process_cap() -> usize {
    static CAP: OnceLock<usize> = OnceLock::new();
    if cfg!(any(loom, shuttle)) {
        // Models are done a million times, and some leave tasks behind.
        return usize::MAX;
    }
    *CAP.get_or_init(|| bounded(max_map_count() / 5))
}

/// Counts one more thread of a task; gives the limit, if it is reached.
pub(crate) fn claim_thread() -> Result<(), usize> {
    let cap = process_cap();
    let one_more = |threads: usize| (threads < cap).then_some(threads + 1);
    // Relaxed: only the number counts.
    let claimed = THREADS.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
    claimed.map(drop).map_err(|_| cap)
}

/// Whether this process has half of the threads it may have, or more.
pub(crate) fn are_threads_scarce() -> bool {
    THREADS.load(Ordering::Relaxed) >= process_cap() / 2
}

/// A thread that was claimed is no more.
pub(crate) fn release_thread() {
    THREADS.fetch_sub(1, Ordering::Relaxed);
}

fn bounded(limit: usize) -> usize {
    [max_processes(), cgroup_pids_max()]
        .into_iter()
        .flatten()
        .fold(limit, usize::min)
        .max(1)
}

fn max_map_count() -> usize {
    number_in(Path::new("/proc/sys/vm/max_map_count")).unwrap_or(FALLBACK)
}

fn max_processes() -> Option<usize> {
    soft_limit(
        &fs::read_to_string("/proc/self/limits").ok()?,
        "Max processes",
    )
}

/// `Max processes             94000                94000                processes`
fn soft_limit(limits: &str, name: &str) -> Option<usize> {
    let line = limits.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The least `pids.max` of this process's cgroups and those above them.
fn cgroup_pids_max() -> Option<usize> {
    let memberships = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    memberships
        .lines()
        .filter_map(pids_directory)
        // A container may see the host's path but only its own subtree, at the root.
        .chain([
            "/sys/fs/cgroup".to_owned(),
            "/sys/fs/cgroup/pids".to_owned(),
        ])
        .flat_map(|directory| {
            let ancestors = Path::new(&directory).ancestors();
            let limits = ancestors.map(|directory| number_in(&directory.join("pids.max")));
            limits.flatten().collect::<Vec<_>>()
        })
        .min()
}

/// `0::/user.slice` (version 2) or `4:pids:/docker/ab12` (version 1).
fn pids_directory(membership: &str) -> Option<String> {
    let mut fields = membership.splitn(3, ':').skip(1);
    match (fields.next()?, fields.next()?) {
        ("", path) => Some(format!("/sys/fs/cgroup{path}")),
        ("pids", path) => Some(format!("/sys/fs/cgroup/pids{path}")),
        _ => None,
    }
}

fn number_in(path: &Path) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limits_are_read_from_the_kernel_s_own_lines() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max processes             94000                95000                processes\n";
        assert_eq!(soft_limit(limits, "Max processes"), Some(94_000));
        assert_eq!(
            soft_limit(
                "Max processes unlimited unlimited processes",
                "Max processes"
            ),
            None
        );
        assert_eq!(
            pids_directory("0::/user.slice"),
            Some("/sys/fs/cgroup/user.slice".to_owned())
        );
        assert_eq!(
            pids_directory("4:pids:/docker/ab12"),
            Some("/sys/fs/cgroup/pids/docker/ab12".to_owned())
        );
        assert_eq!(pids_directory("3:cpu:/docker/ab12"), None);
        assert!(default_max_tasks() >= 1);
    }
}
