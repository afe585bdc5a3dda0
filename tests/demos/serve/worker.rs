//! The workers, and the desk where clients hand in what they ask.

use std::path::Path;
use std::time::Duration;

use parking_lot::Mutex;
use taskmuster::crossbeam_channel::{Receiver, Sender, bounded};
use taskmuster::{Cancelled, RecvError, TaskContext, TaskResult};

use crate::http::{Response, Target};
use crate::visits::Visits;

/// Where requests are handed in. It closes when the service drains: then the workers answer what was, and end.
pub(crate) struct Desk {
    /// Lent to a client for as long as it waits for room in the queue, no longer: the queue ends with its last sender.
    jobs: Mutex<Option<Sender<Job>>>,
}

/// What a client waits for; dropped without an answer, the client hears that as well.
pub(crate) struct Job {
    target: Target,
    answer: Sender<Response>,
}

impl Desk {
    pub(crate) fn new(jobs: Sender<Job>) -> Self {
        let jobs = Mutex::new(Some(jobs));
        Self { jobs }
    }

    /// Keeps the desk open until the service drains.
    pub(crate) fn tend(&self, ctx: &TaskContext) {
        ctx.ready();
        drop(ctx.recv(ctx.draining())); // nothing ever comes; it ends when a shutdown begins
        drop(self.jobs.lock().take());
    }

    /// Waits for an answer; `None` if the desk is closed, or a worker had to stop.
    pub(crate) fn ask(&self, ctx: &TaskContext, target: Target) -> Option<Response> {
        let asked = target.to_string();
        let (answer, response) = bounded(1);
        let jobs = self.jobs.lock().clone()?;
        ctx.send(&jobs, Job { target, answer }).ok()?;
        drop(jobs);
        log::debug!("asked for {asked}"); // which is in the queue now, and was not before
        // Not `ctx.recv`: whether a stop leaves time for the answer is up to the worker, who may have counted a visit.
        response.recv().ok()
    }
}

/// Answers one request after the other, until no more can come.
pub(crate) fn work(ctx: &TaskContext, queue: &Receiver<Job>, visits: &Visits) -> TaskResult {
    loop {
        let job = match ctx.recv(queue) {
            Ok(job) => job,
            Err(RecvError::Disconnected) => return Ok(()),
            Err(stopped) => return Err(stopped.into()),
        };
        log::debug!("answering {}", job.target);
        let response = respond(ctx, &job.target, visits)?;
        drop(job.answer.send(response)); // somebody waits for it, unless that task has panicked
    }
}

fn respond(ctx: &TaskContext, target: &Target, visits: &Visits) -> Result<Response, Cancelled> {
    Ok(match target.path() {
        "/" => Response::ok(format!("you are visitor {}\n", visits.add())),
        "/count" => Response::ok(format!("{}\n", visits.count())),
        "/slow" => work_slowly(ctx, target.query())?,
        _ => Response::new("404 Not Found", "there is no such page\n"),
    })
}

/// Is not cut by a stop, unless the time to drain is over.
fn work_slowly(ctx: &TaskContext, query: &str) -> Result<Response, Cancelled> {
    // No client looks anywhere else.
    let is_plain = |name: &&str| name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
    if let Some(name) = query.strip_prefix("until=").filter(is_plain) {
        while !Path::new(name).exists() {
            ctx.sleep(Duration::from_millis(10))?;
        }
        return Ok(Response::ok(format!("{name} is there\n")));
    }
    let Some(Ok(ms)) = query.strip_prefix("ms=").map(str::parse) else {
        return Ok(Response::new("400 Bad Request", "how many ms?\n"));
    };
    ctx.sleep(Duration::from_millis(ms))?;
    Ok(Response::ok(format!("{ms} ms of work\n")))
}
