//! A blocking HTTP service that ends well: `serve --help`.

use std::env;
use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use taskmuster::crossbeam_channel::bounded;
use taskmuster::{Backoff, Manager, Restart, ShutdownReport, TaskContext, TaskResult};

use crate::visits::Visits;
use crate::worker::Desk;

#[path = "serve/client.rs"]
mod client;
mod command_line;
#[path = "serve/http.rs"]
mod http;
#[path = "serve/listener.rs"]
mod listener;
#[path = "serve/visits.rs"]
mod visits;
#[path = "serve/worker.rs"]
mod worker;

const HELP: &str = "\
Serves HTTP and counts its visitors, over restarts too.

Usage: serve [--listen ADDR] [--state FILE] [--drain N]

  --listen ADDR  where to listen, 127.0.0.1:8080 without it; port 0 takes a free one
  --state FILE   where the count is kept, serve.count in the temporary directory without it
  --drain N      how many seconds what was begun may take, 20 without it

  /              a visit, which is counted
  /count         how many there were
  /slow?ms=N     an answer that takes N ms of work
  /slow?until=F  an answer that takes until there is a file F in the working directory, for tests
  /livez         whether the process lives
  /readyz        whether it takes requests; /healthz is the same

Ctrl-C or SIGTERM ends it: what was begun gets its answer, what comes then a 503. A second one hurries.

Exit code: 0; 1 if it cannot listen there or the state cannot be read or written; 2 if a task did not stop in time;
130 after a third Ctrl-C.
Environment: TASKMUSTER_GRACE=<seconds> to stop in, RUST_LOG=<level>.";

/// What requests in flight may take, if nothing else is said.
const DRAIN: Duration = Duration::from_secs(20);

/// What is left for the stop behind it: 25 s in all, since Kubernetes kills after 30 s.
const STOP: Duration = Duration::from_secs(5);

/// How long a start may take.
const START: Duration = Duration::from_secs(5);

/// How often the count goes to disk.
const FLUSH: Duration = Duration::from_secs(1);

/// How many requests are worked on at a time, and how many may wait for that.
const WORKERS: usize = 4;
const QUEUE: usize = 64;

struct Options {
    listen: String,
    state: PathBuf,
    drain: Duration,
}

fn main() -> ShutdownReport {
    command_line::print_help_if_asked(HELP);
    taskmuster::logging::init();
    let options = parse(env::args_os().skip(1));
    let drain = options.as_ref().map_or(DRAIN, |options| options.drain);
    let manager = Manager::builder()
        .grace(drain.saturating_add(STOP))
        .drain(drain);
    // No rows in the report for clients who were gone before.
    manager.history(0).run(|manager| serve(manager, options?))
}

fn serve(manager: &Manager, options: Options) -> TaskResult {
    manager.handle_signals()?;
    let visits = Arc::new(Visits::load(options.state)?);

    // What is made first stops last: the state is written when nobody is left to change it.
    let state = manager.group("state");
    let clients = manager.group("clients");
    let workers = manager.group("workers");
    let front = manager.group("front");
    let house = manager.group("house");

    state.task("keeper").spawn_ready(START, {
        let visits = Arc::clone(&visits);
        move |ctx| visits::keep(ctx, &visits)
    })?;
    state.task("flusher").every(FLUSH).spawn({
        let visits = Arc::clone(&visits);
        move |_| Ok(visits.save()?)
    })?;

    let again = Restart::on_failure().backoff(Backoff::constant(Duration::from_millis(100)));
    let janitor = house.task("janitor").restart(again.clone().unlimited());
    janitor.spawn(sweep)?;

    let (jobs, queue) = bounded(QUEUE);
    for number in 1..=WORKERS {
        let (queue, visits) = (queue.clone(), Arc::clone(&visits));
        let worker = workers.task(number.to_string()).drains().critical();
        worker
            .restart(again.clone())
            .spawn(move |ctx| worker::work(ctx, &queue, &visits))?;
    }
    drop(queue); // it is the workers' alone
    let desk = Arc::new(Desk::new(jobs));
    workers.task("desk").drains().spawn_ready(START, {
        let desk = Arc::clone(&desk);
        move |ctx| {
            desk.tend(ctx);
            Ok(())
        }
    })?;

    front.task("acceptor").critical().spawn_ready(START, {
        let address = options.listen;
        move |ctx| listener::accept(ctx, &address, &clients, &desk)
    })?;

    drop(manager.wait()); // for a signal, or the failure of a critical task
    Ok(())
}

/// Breaks its broom at every fourth stroke: on purpose, and nobody else is any the worse for it.
fn sweep(ctx: &TaskContext) -> TaskResult {
    for _ in 1..4 {
        ctx.sleep(Duration::from_millis(500))?;
        log::debug!("swept");
    }
    panic!("the broom broke");
}

fn parse(mut arguments: impl Iterator<Item = OsString>) -> TaskResult<Options> {
    let mut options = Options {
        listen: "127.0.0.1:8080".to_owned(),
        state: env::temp_dir().join("serve.count"),
        drain: DRAIN,
    };
    while let Some(argument) = arguments.next() {
        let what = || format!("{} what?", argument.to_string_lossy());
        let mut value = || arguments.next().ok_or_else(what);
        match argument.to_str() {
            // No address is anything but text: what becomes of another one is refused where it is listened to.
            Some("--listen") => options.listen = value()?.to_string_lossy().into_owned(),
            Some("--state") => options.state = value()?.into(),
            Some("--drain") => options.drain = seconds(&value()?)?,
            _ => return Err(command_line::unknown(&argument)),
        }
    }
    if options.state.as_os_str().is_empty() {
        return Err("--state needs the name of a file".into());
    }
    Ok(options)
}

fn seconds(text: &OsStr) -> TaskResult<Duration> {
    let number = text.to_str().and_then(|text| text.parse().ok());
    let seconds = number.map(Duration::from_secs);
    seconds.ok_or_else(|| format!("{} is no number of seconds", text.to_string_lossy()).into())
}
