//! Counts primes on every core until it is told to stop: press Ctrl-C.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use std::{env, process, thread};

use taskmuster::crossbeam_channel::{Receiver, Sender, bounded};
use taskmuster::{Manager, ShutdownReport, TaskContext, TaskResult};

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
    found: AtomicU64,
}

fn main() -> ShutdownReport {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help") {
        println!("{HELP}");
        process::exit(0);
    }
    taskmuster::logging::init();
    let manager = Manager::builder().grace(Duration::from_secs(5));
    manager.run(|manager| start(manager, &arguments)) // leaving `start` starts the shutdown
}

fn start(manager: &Manager, arguments: &[String]) -> TaskResult {
    let [mut stubbornly, mut in_join] = [false; 2];
    for argument in arguments {
        match argument.as_str() {
            "--stubborn" => stubbornly = true,
            "--join" => in_join = true,
            unknown => return Err(format!("unknown argument {unknown}\n{HELP}").into()),
        }
    }
    manager.handle_signals()?;

    // Groups stop before the tasks beside them: the saver gets everything the workers found.
    let progress = Arc::new(Progress::default());
    let (results, inbox) = bounded(64);
    manager.spawn("saver", move |ctx| save(ctx, &inbox))?;

    let workers = manager.group("workers");
    let mut first = None;
    for number in 1..=thread::available_parallelism()?.get() {
        let (progress, results) = (Arc::clone(&progress), results.clone());
        let work = move |ctx: &TaskContext| count(ctx, &progress, &results);
        first.get_or_insert(workers.spawn(number.to_string(), work)?);
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

/// Takes block after block; once asked to stop, it does so at the very next number.
fn count(ctx: &TaskContext, progress: &Progress, results: &Sender<(u64, u64)>) -> TaskResult {
    loop {
        let start = progress.taken.fetch_add(BLOCK, Relaxed);
        let mut found = 0;
        for n in start..start + BLOCK {
            ctx.checkpoint()?; // about a nanosecond
            found += u64::from(is_prime(n));
        }
        progress.found.fetch_add(found, Relaxed);
        ctx.send(results, (start, found))?; // waits while the saver is behind, and hears the stop
    }
}

fn is_prime(n: u64) -> bool {
    n >= 2 && (2..=n).take_while(|d| d * d <= n).all(|d| n % d != 0)
}

/// Keeps the results in a file that gets its name only when it is complete.
fn save(ctx: &TaskContext, inbox: &Receiver<(u64, u64)>) -> TaskResult {
    let finished = env::temp_dir().join("primes.txt");
    let partial = finished.with_extension(format!("{}.partial", process::id()));
    let mut file = BufWriter::new(File::create_new(&partial)?);

    while let Ok((start, found)) = ctx.recv(inbox) {
        writeln!(file, "{found} primes from {start} on")?;
    }
    for (start, found) in inbox.try_iter() {
        writeln!(file, "{found} primes from {start} on")?; // sent before the stop
    }
    file.flush()?;
    fs::rename(&partial, &finished)?;
    log::info!("saved the results in {}", finished.display());
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
        let (found, taken) = (progress.found.load(Relaxed), progress.taken.load(Relaxed));
        writeln!(io::stdout(), "{found} primes found, now at {taken}")?;
        ctx.sleep(Duration::from_secs(1))?;
    }
}

/// What no library can stop: a loop that never looks. It is named in the report, with its last place.
fn stubborn(ctx: &TaskContext) -> TaskResult {
    ctx.checkpoint()?; // the only one
    writeln!(
        io::stdout(),
        "the stubborn task listens to nobody from here on"
    )?;
    loop {
        std::hint::black_box(is_prime(1_000_003));
    }
}
