//! What this process uses of its machine, as the kernel says.

use std::fs;
use std::time::Duration;

use crate::race::until;

/// Memory in use, in KiB.
pub(crate) fn resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next());
    number
        .and_then(|number| number.parse().ok())
        .expect("a number of kB")
}

pub(crate) fn threads() -> usize {
    fs::read_dir("/proc/self/task").expect("procfs").count()
}

/// Threads of the library's own.
pub(crate) fn house_keepers() -> usize {
    let names = thread_names();
    names.iter().filter(|name| name.starts_with("tm-")).count()
}

fn thread_names() -> Vec<String> {
    let threads = fs::read_dir("/proc/self/task").expect("procfs").flatten();
    threads
        .map(|it| fs::read_to_string(it.path().join("comm")).unwrap_or_default())
        .collect()
}

pub(crate) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("procfs").count()
}

/// Processor time so far.
pub(crate) fn processor_time() -> Duration {
    let stat = fs::read_to_string("/proc/self/stat").expect("procfs");
    let after_name = stat.rsplit(')').next().expect("a name in parentheses");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
    // Fields 14 and 15 of proc(5), in steps of 10 ms on every platform std supports.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Waits until a thread of this name sleeps in a call of the kernel.
pub(crate) fn until_it_sleeps(name: &str) {
    let sleeps = || {
        let threads = fs::read_dir("/proc/self/task").expect("procfs").flatten();
        threads
            .filter_map(|it| fs::read_to_string(it.path().join("stat")).ok())
            .any(|stat| stat.contains(&format!("({name}) S")))
    };
    until("a thread that sleeps", sleeps);
}
