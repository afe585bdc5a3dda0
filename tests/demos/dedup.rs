//! Finds duplicate files in real directory trees: `dedup --help`.

use std::io;
use std::process::{ExitCode, Termination as _};
use std::sync::Arc;
use std::thread;

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{Manager, TaskContext, TaskResult};

use crate::findings::Findings;
use crate::options::{Options, Request};
use crate::output::tell;
use crate::printable::printable;

#[path = "dedup/catalogue.rs"]
mod catalogue;
#[path = "dedup/findings.rs"]
mod findings;
#[path = "dedup/hash.rs"]
mod hash;
#[path = "dedup/options.rs"]
mod options;
#[path = "dedup/output.rs"]
mod output;
#[path = "dedup/platform.rs"]
mod platform;
#[path = "dedup/printable.rs"]
mod printable;
#[path = "dedup/progress.rs"]
mod progress;
#[path = "dedup/walk.rs"]
mod walk;

/// How many batches of files may wait for a hasher before the walker waits for room.
const QUEUE: usize = 64;

fn main() -> ExitCode {
    match options::parse(std::env::args_os().skip(1)) {
        Ok(Request::Help) => unless_unwritten(output::print_help(), ExitCode::SUCCESS),
        Ok(Request::Search(options)) => dedup(&options),
        Err(unknown) => {
            tell(format_args!("{unknown}; see dedup --help"));
            ExitCode::FAILURE
        }
    }
}

fn dedup(options: &Options) -> ExitCode {
    let missing = options.unreadable_roots();
    if !missing.is_empty() {
        for (root, error) in missing {
            tell(format_args!("cannot read {}: {error}", printable(root)));
        }
        return ExitCode::FAILURE;
    }

    taskmuster::logging::init();
    let findings = Arc::new(Findings::default());
    let mut complete = false;
    let report = taskmuster::run(|manager| {
        search(manager, options, &findings)?;
        complete = true;
        Ok(())
    });

    // What was found lies outside the tasks: a Ctrl-C costs the rest of the search, not the result so far.
    let groups = findings.duplicates();
    let printed = output::print(&groups, options.format);
    output::summarize(&findings, &groups);
    if !complete {
        tell(format_args!("interrupted: the result is partial"));
    }
    let code = if complete && report.is_clean() {
        ExitCode::SUCCESS
    } else {
        report.report()
    };
    unless_unwritten(printed, code)
}

/// The exit code, or that of a failure if the output could not be written.
fn unless_unwritten(printed: io::Result<()>, code: ExitCode) -> ExitCode {
    match printed {
        Ok(()) => code,
        Err(error) => {
            tell(format_args!("cannot write to standard output: {error}"));
            ExitCode::FAILURE
        }
    }
}

/// Walks and hashes at the same time; comes back when everything has been hashed or somebody said stop.
fn search(manager: &Manager, options: &Options, findings: &Arc<Findings>) -> TaskResult {
    manager.handle_signals()?;
    let (jobs, queue) = bounded(QUEUE);
    let (searching, finished) = bounded(0);

    let progress = manager.spawn("progress", {
        let findings = Arc::clone(findings);
        move |ctx| progress::show(ctx, &findings, &finished)
    })?;
    let walk = manager.spawn("walk", {
        let (findings, options) = (Arc::clone(findings), options.clone());
        move |ctx| walk::walk(ctx, &options, &findings, &jobs)
    })?;
    let mut hashers = Vec::new();
    for number in 0..thread::available_parallelism()?.get() {
        let (findings, queue) = (Arc::clone(findings), queue.clone());
        let work = move |ctx: &TaskContext| hash::hash_files(ctx, &queue, &findings);
        hashers.push(manager.spawn(format!("hash/{number}"), work)?);
    }
    drop(queue); // without hashers there is nobody to wait for, and the walker must hear it

    walk.join()?;
    for hasher in &hashers {
        hasher.join()?;
    }
    drop(searching);
    progress.join()?;
    Ok(())
}
