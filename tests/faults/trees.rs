//! Trees of tokens that change, and millions of them: faults 54 to 57.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::{CancellationToken, CauseKind};

use crate::books::{HANG, is_long, rounds};
use crate::callbacks::Tally;
use crate::child::{self, program::Program};
use crate::preload::assert_played;
use crate::race::race;
use crate::shim::Shim;
use crate::token::{note_of, noted};

// ---- 54, 55: trees that change while they are cancelled ----

#[test]
fn f054_what_is_made_below_a_token_as_it_is_cancelled_is_cancelled() {
    type Made = Mutex<Vec<CancellationToken>>;
    race(rounds(5_000, 200_000), || {
        let root = CancellationToken::new();
        let middle = root.child_token();
        (root, middle, Made::default())
    })
    .between(
        &[&|(root, ..)| root.cancel(), &|(root, middle, made)| {
            let child = middle.child_token();
            let grandchild = child.child_token();
            let any = CancellationToken::any([&CancellationToken::new(), &child]);
            let timed = root.child_with_timeout(HANG).expect("a timer");
            made.lock()
                .expect("no panic")
                .extend([child, grandchild, any, timed]);
            true
        }],
        |(.., made), _| {
            for token in made.lock().expect("no panic").iter() {
                assert!(token.is_cancelled());
                assert_eq!(
                    token.cause().map(|cause| cause.kind()),
                    Some(CauseKind::Request)
                );
            }
        },
    );
}

#[test]
fn f054_a_tree_dropped_as_it_is_cancelled_keeps_its_promises_to_those_who_are_left() {
    type Handles = Mutex<Option<Vec<CancellationToken>>>;
    race(rounds(5_000, 100_000), || {
        let root = CancellationToken::new();
        let mut chain = vec![root.child_token()];
        for _ in 0..6 {
            let next = chain[chain.len() - 1].child_token();
            chain.push(next);
        }
        let leaf = chain[6].child_token();
        let tally = Tally::default();
        leaf.on_cancel(tally.work()).keep();
        let doomed = chain[3].child_token();
        let dropped = Tally::default();
        doomed.on_cancel(dropped.work()).keep();
        chain.push(doomed);
        (root, leaf, Handles::new(Some(chain)), tally, dropped)
    })
    .between(
        &[
            &|(root, ..)| root.cancel(),
            &|(_, _, handles, ..)| {
                let mut chain = handles.lock().expect("no panic").take().expect("there");
                chain.reverse();
                drop(chain);
                true
            },
            &|(_, leaf, ..)| leaf.wait_timeout(HANG).is_some(),
        ],
        |(_, leaf, _, tally, dropped), answers| {
            assert_eq!(answers, [true; 3]);
            assert!(leaf.is_cancelled());
            assert_eq!((tally.runs(), tally.drops()), (1, 1));
            assert!(dropped.runs() <= 1, "reached before it was dropped, or not");
        },
    );
}

/// The memory this process has in use, in KiB.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("procfs");
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .expect("VmRSS");
    line.trim()
        .trim_end_matches(" kB")
        .parse()
        .expect("a number")
}

/// How much more may be resident afterwards, in KiB: what the allocator keeps for itself.
const KEPT: usize = 8 * 1024;

/// Runs `work` several times and fails if it leaves more behind each time.
fn leaves_nothing(what: &str, mut work: impl FnMut()) {
    work(); // the allocator's own needs
    println!("{what}: made and dropped");
    let before = resident();
    (0..4).for_each(|_| work());
    let after = resident();
    println!("{what}: took {before} KiB before, {after} KiB after four more rounds");
    assert!(
        after <= before + KEPT,
        "{what}: {before} KiB before, {after} KiB after"
    );
}

/// What comes and goes.
const COMERS: [&str; 5] = [
    "parents that die before their children",
    "children of a token that lives on",
    "callbacks that were taken back",
    "deadlines that were taken back",
    "tokens of several parents",
];

/// Short-lived tokens of every kind, hundreds of thousands of them.
#[test]
#[ignore = "a role of a child process"]
fn tokens_come_and_go() {
    leaves_nothing(COMERS[0], || {
        for _ in 0..MANY / 50 {
            let parent = CancellationToken::new();
            let callback = parent.on_cancel(|| unreachable!("nobody cancels it"));
            let child = parent.child_token();
            let grandchild = child.child_token();
            drop((callback, parent, child));
            assert!(!grandchild.is_cancelled());
            assert!(grandchild.cancel());
        }
    });
    let root = CancellationToken::new();
    leaves_nothing(COMERS[1], || {
        let mut kept = Vec::new();
        for number in 0..20_000_u32 {
            let child = root.child_token();
            match number % 3 {
                0 => drop(child),
                1 => drop((child.cancel(), child)),
                _ => kept.push(child),
            }
        }
    });
    leaves_nothing(COMERS[2], || {
        for _ in 0..MANY / 50 {
            drop(root.on_cancel(|| unreachable!("nobody cancels it")));
        }
    });
    leaves_nothing(COMERS[3], || {
        for _ in 0..MANY / 100 {
            let timed = root.child_with_timeout(HANG).expect("a timer");
            assert!(timed.set_timeout(2 * HANG).expect("a timer"));
        }
    });
    leaves_nothing(COMERS[4], || {
        let other = CancellationToken::new();
        for _ in 0..MANY / 100 {
            drop(CancellationToken::any([&root, &other]));
        }
    });
    assert!(root.cancel());
}

#[test]
#[cfg(target_os = "linux")]
fn f055_children_outlive_their_parents_and_neither_leaves_memory_behind() {
    let orphan = {
        let grandparent = CancellationToken::new();
        let parent = grandparent.child_token();
        let orphan = parent.child_token();
        drop(grandparent);
        parent.child_token().cancel();
        orphan
    };
    assert!(!orphan.is_cancelled() && orphan.cancel());
    passes("trees::tokens_come_and_go", &COMERS);
}

const MANY: usize = 1_000_000;

/// A million for the first way, and for the others as many as there is time for.
fn many(way: usize) -> usize {
    if way == 0 || is_long() {
        MANY
    } else {
        MANY / 10
    }
}

/// The time `work` takes, said in a line.
fn timed<T>(what: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!(
        "{what}: took {:?}, {} KiB resident",
        start.elapsed(),
        resident()
    );
    result
}

/// Gives back to the system what was given back to the allocator, whenever a thread yields: a small piece that is in use
/// keeps glibc from doing that for all below it.
const TRIMS: &str = r"
#define _GNU_SOURCE
#include <malloc.h>
#include <sys/syscall.h>
#include <unistd.h>
int sched_yield(void) {
    malloc_trim(0);
    return syscall(SYS_sched_yield);
}
";

/// The memory is given back, at once or when the thread of the deadlines has gone.
#[track_caller]
fn gives_back(before: usize) {
    let deadline = Instant::now() + HANG;
    loop {
        thread::yield_now(); // see TRIMS
        let now = resident();
        if now <= before + KEPT {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{before} KiB before, {now} KiB now"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// What becomes of a chain.
const CHAINS: [&str; 4] = [
    "the root is cancelled",
    "the leaf goes first",
    "only the leaf is held",
    "the middle is cancelled",
];

/// A million levels, cancelled and dropped from either end and from the middle, on a stack of 256 KiB.
#[test]
#[ignore = "a role of a child process"]
fn a_chain_of_a_million() {
    on_a_small_stack(|| {
        let before = resident();
        for (number, way) in CHAINS.into_iter().enumerate() {
            timed(way, || cancel_and_drop_a_chain(way, many(number)));
            gives_back(before);
        }
    });
}

fn cancel_and_drop_a_chain(way: &str, levels: usize) {
    let root = CancellationToken::new();
    let mut chain = vec![root.child_token()];
    for _ in 1..levels {
        let next = chain[chain.len() - 1].child_token();
        match way {
            "only the leaf is held" => chain[0] = next,
            _ => chain.push(next),
        }
    }
    println!("{way}: made");
    let leaf = chain[chain.len() - 1].clone();
    let tally = Tally::default();
    let _guard = leaf.on_cancel(tally.work());
    match way {
        "the middle is cancelled" => {
            assert!(chain[levels / 2].cancel_with(noted("the middle")));
            assert_eq!(note_of(&leaf).as_deref(), Some("the middle"));
            assert!(!chain[levels / 2 - 1].is_cancelled());
            assert!(root.cancel());
        }
        "the leaf goes first" => {
            let timed = leaf.child_with_timeout(10 * HANG).expect("a timer");
            assert!(timed.deadline().is_some(), "a walk to the root");
            chain.reverse();
        }
        _ => {
            assert!(root.cancel());
            assert_eq!(
                leaf.cause().map(|cause| cause.kind()),
                Some(CauseKind::Request)
            );
            assert!(leaf.wait_timeout(HANG).is_some());
        }
    }
    assert_eq!(tally.runs(), usize::from(leaf.is_cancelled()));
    chain.into_iter().for_each(drop);
}

/// How many children go.
const CROWDS: [&str; 4] = [
    "the youngest first",
    "dropped in disorder",
    "the eldest first",
    "dropped by four threads",
];

/// A million children of one token, dropped in every order, on a stack of 256 KiB.
#[test]
#[ignore = "a role of a child process"]
fn a_million_children() {
    on_a_small_stack(|| {
        let before = resident();
        let root = CancellationToken::new();
        for (number, way) in CROWDS.into_iter().enumerate() {
            timed(way, || make_and_drop_children(&root, way, many(number)));
            gives_back(before);
        }
        let survivors: Vec<_> = (0..MANY).map(|_| root.child_token()).collect();
        timed("cancel of a million", || assert!(root.cancel()));
        assert!(survivors.iter().all(CancellationToken::is_cancelled));
        drop(survivors);
        gives_back(before);
    });
}

fn make_and_drop_children(root: &CancellationToken, way: &str, many: usize) {
    let mut children: Vec<_> = (0..many).map(|_| root.child_token()).collect();
    println!("{way}: made");
    match way {
        "the youngest first" => children.reverse(),
        "dropped in disorder" => {
            for index in 0..many {
                children.swap(index, index.wrapping_mul(7_919) % many);
            }
        }
        "dropped by four threads" => thread::scope(|scope| {
            while children.len() >= many / 4 {
                let part = children.split_off(children.len() - many / 4);
                scope.spawn(move || part.into_iter().for_each(drop));
            }
        }),
        _ => {}
    }
    children.into_iter().for_each(drop);
}

/// Very many callbacks and deadlines of one token, taken back or come.
#[test]
#[ignore = "a role of a child process"]
fn callbacks_and_deadlines_without_number() {
    on_a_small_stack(|| {
        let (before, many) = (resident(), many(1));
        let (root, runs) = (CancellationToken::new(), Arc::new(AtomicUsize::new(0)));
        let register = || {
            let runs = Arc::clone(&runs);
            root.on_cancel(move || {
                runs.fetch_add(1, Ordering::Relaxed);
            })
        };
        timed("callbacks taken back", || {
            drop((0..many).map(|_| register()).collect::<Vec<_>>());
        });
        gives_back(before);
        timed("deadlines taken back", || {
            let timed = (0..many).map(|_| root.child_with_timeout(10 * HANG).expect("a timer"));
            drop(timed.collect::<Vec<_>>());
        });
        gives_back(before);
        let guards: Vec<_> = (0..many).map(|_| register()).collect();
        timed("callbacks run", || assert!(root.cancel()));
        assert_eq!(runs.load(Ordering::Relaxed), many);
        drop(guards);
        gives_back(before);
    });
}

fn on_a_small_stack(work: impl FnOnce() + Send + 'static) {
    let thread = thread::Builder::new().stack_size(256 * 1024).spawn(work);
    thread.expect("a thread").join().expect("no overflow");
}

/// Runs such a role, which says of each stage how long it took.
#[track_caller]
fn passes(role: &str, stages: &[&str]) {
    let Some(shim) = Shim::compile("trims", TRIMS) else {
        return;
    };
    let mut role = child::role(role);
    shim.under(&mut role);
    role.env("MALLOC_ARENA_MAX", "1"); // of the others the end is not trimmed
    let program = Program::start(&mut role);
    for stage in stages {
        for step in ["made", "took"] {
            println!("{}", program.wait_for_line(&format!("{stage}: {step}")));
        }
    }
    assert_played(program);
}

#[test]
#[cfg(target_os = "linux")]
fn f056_a_chain_a_million_deep_needs_no_stack_and_leaves_no_memory() {
    passes("trees::a_chain_of_a_million", &CHAINS);
}

#[test]
#[cfg(target_os = "linux")]
fn f057_a_million_children_of_one_token_leave_it_as_it_was() {
    passes("trees::a_million_children", &CROWDS);
}

#[test]
#[cfg(target_os = "linux")]
fn f057_callbacks_and_deadlines_without_number_leave_their_token_as_it_was() {
    passes("trees::callbacks_and_deadlines_without_number", &[]);
}
