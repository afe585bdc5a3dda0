//! Counts primes on every core until it is told to stop: press Ctrl-C.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{env, process, thread};

use parking_lot::Mutex;
use taskmuster::{Manager, ShutdownReport, TaskContext, TaskResult};

mod command_line;

const HELP: &str = "\
Counts primes on every core until Ctrl-C or SIGTERM, then says what became of every task.

Usage: primes [--stubborn] [--join]

  --stubborn  adds a task that never looks at its stop flag: exit code 2, and a diagnosis
  --join      main sits in `join` of a worker instead of waiting for the signal

Environment: TASKMUSTER_GRACE=<seconds> to stop in, RUST_LOG=<level>, TMPDIR for primes.txt.";

/// How many numbers a worker takes at a time.
const BLOCK: u64 = 20_000;

#[derive(Default)]
struct Progress {
    taken: AtomicU64,
    counted: Mutex<Counted>,
}

/// What is said of the primes holds exactly: below `end` every block was counted to its last number.
#[derive(Default)]
struct Counted {
    end: u64,
    found: u64,
    /// The blocks that were counted before one below them, by their first number.
    ahead: BTreeMap<u64, u64>,
}

impl Progress {
    /// Notes how many primes there are in a whole block.
    fn add(&self, start: u64, found: u64) {
        let mut counted = self.counted.lock();
        counted.ahead.insert(start, found);
        let counted = &mut *counted;
        while let Some(found) = counted.ahead.remove(&counted.end) {
            counted.found += found;
            counted.end += BLOCK;
        }
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.counted.lock();
        write!(f, "{} primes below {}", counted.found, counted.end)
    }
}

fn main() -> ShutdownReport {
    command_line::print_help_if_asked(HELP);
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    taskmuster::logging::init();
    let manager = Manager::builder().grace(Duration::from_secs(5));
    manager.run(|manager| start(manager, &arguments)) // leaving `start` starts the shutdown
}

fn start(manager: &Manager, arguments: &[OsString]) -> TaskResult {
    let [mut stubbornly, mut in_join] = [false; 2];
    for argument in arguments {
        match argument.to_str() {
            Some("--stubborn") => stubbornly = true,
            Some("--join") => in_join = true,
            _ => return Err(command_line::unknown(argument)),
        }
    }
    manager.handle_signals()?;

    // Groups stop before the tasks beside them: the last line saved has all that the workers have counted.
    let progress = Arc::new(Progress::default());
    let shared = Arc::clone(&progress);
    manager.spawn("saver", move |ctx| save(ctx, &shared))?;

    let workers = manager.group("workers");
    let mut first = None;
    for number in 1..=thread::available_parallelism()?.get() {
        let shared = Arc::clone(&progress);
        let worker = workers.spawn(number.to_string(), move |ctx| count(ctx, &shared))?;
        first.get_or_insert(worker);
    }
    manager.spawn("upload", upload)?;
    if stubbornly {
        manager.spawn("stubborn", stubborn)?;
    }
    manager.spawn("heartbeat", move |ctx| beat(ctx, &progress))?;
    log::info!("ready: Ctrl-C stops, a second one hurries, a third one exits at once");

    match first {
        Some(worker) if in_join => worker.join()?,
        _ => drop(manager.wait()),
    }
    Ok(())
}

/// Takes block after block; once asked to stop, it does so at the very next number, and the block does not count.
fn count(ctx: &TaskContext, progress: &Progress) -> TaskResult {
    loop {
        let start = progress.taken.fetch_add(BLOCK, Relaxed);
        let mut found = 0;
        for n in start..start + BLOCK {
            ctx.checkpoint()?; // about a nanosecond
            found += u64::from(is_prime(n));
        }
        progress.add(start, found);
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..=n).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

/// Notes the progress in a file that gets its name only when it is complete, stop or no stop.
fn save(ctx: &TaskContext, progress: &Progress) -> TaskResult {
    let finished = env::temp_dir().join("primes.txt");
    let partial = finished.with_extension(format!("{}.partial", process::id()));
    log::info!("saving to {}", finished.display());
    let mut file = BufWriter::new(File::create(&partial)?);

    while ctx.sleep(Duration::from_millis(100)).is_ok() {
        writeln!(file, "{progress}")?;
    }
    writeln!(file, "{progress}, the end")?; // asked to stop: no `?` before the file is whole
    file.flush()?;
    fs::rename(&partial, &finished)?;
    log::info!("saved {progress}");
    Ok(())
}

/// Fails twice and tries again; a stop ends the pause between two attempts at once.
fn upload(ctx: &TaskContext) -> TaskResult {
    let mut backoff = Duration::from_millis(100);
    for server_is_up in [false, false, true] {
        if server_is_up {
            log::info!("uploaded");
            break;
        }
        log::warn!("upload refused, trying again in {backoff:?}");
        ctx.sleep(backoff)?;
        backoff *= 2;
    }
    Ok(())
}

/// Says where the workers are, once a second.
fn beat(ctx: &TaskContext, progress: &Progress) -> TaskResult {
    loop {
        writeln!(io::stdout(), "{progress}")?;
        ctx.sleep(Duration::from_secs(1))?;
    }
}

/// What no library can stop: a loop that never looks. The report says after which line.
fn stubborn(ctx: &TaskContext) -> TaskResult {
    ctx.checkpoint()?; // the only one
    writeln!(io::stdout(), "stubborn: I listen to nobody any more")?;
    loop {
        std::hint::black_box(is_prime(1_000_003));
    }
}
