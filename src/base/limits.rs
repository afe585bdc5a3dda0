//! How many threads this process may start.
//!
//! Above about `vm.max_map_count / 4` threads std cannot protect the new thread's signal stack and aborts the whole
//! process (rust-lang/rust#78497). So the limit is asked for first, and an error is returned instead.

use std::fs;

/// Linux's default `vm.max_map_count` of 65,530 divided by six; used where nothing can be read.
const FALLBACK: usize = 10_921;

/// The default limit of live tasks: `vm.max_map_count / 6`, bounded by the process and cgroup limits.
pub(crate) fn default_max_tasks() -> usize {
    [max_processes(), cgroup_pids_max()]
        .into_iter()
        .flatten()
        .fold(by_memory_maps(), usize::min)
        .max(1)
}

fn by_memory_maps() -> usize {
    number_in("/proc/sys/vm/max_map_count").map_or(FALLBACK, |maps| maps / 6)
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
        .find_map(|directory| number_in(&format!("{directory}/pids.max")))
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

fn number_in(path: &str) -> Option<usize> {
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
