//! Races: the same few steps on several threads at once, many times over.

use std::io::{self, Write as _};
use std::process;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::books::in_patience;
use crate::child::program::becomes_so;

/// How many rounds begin between two meetings of all runners.
const BATCH: usize = 50;

/// How long a runner waits for the others before a round; then it goes on alone, since they may not have a processor.
const SPINS: usize = 60;

/// One part of a race; its answer goes to the judge.
pub(crate) type Runner<'a, R> = &'a (dyn Fn(&R) -> bool + Sync);

/// A race of so many rounds, each on a field of its own.
pub(crate) fn race<R: Send + Sync, S: FnMut() -> R>(rounds: usize, set_up: S) -> Race<S> {
    Race { rounds, set_up }
}

/// See [`race`].
#[must_use = "nobody runs yet"]
pub(crate) struct Race<S> {
    rounds: usize,
    set_up: S,
}

impl<R: Send + Sync, S: FnMut() -> R> Race<S> {
    /// Has all runners go through the rounds side by side, and `judge` look at each of them afterwards with what the
    /// runners answered.
    pub(crate) fn between(mut self, runners: &[Runner<'_, R>], mut judge: impl FnMut(&R, &[bool])) {
        let steps: Vec<AtomicUsize> = runners.iter().map(|_| AtomicUsize::new(0)).collect();
        thread::scope(|scope| {
            let mut lanes = Vec::new();
            for (own, runner) in runners.iter().enumerate() {
                let (give, given) = bounded(1);
                let (tell, told) = bounded(1);
                let steps = &steps;
                scope.spawn(move || run(*runner, own, steps, &given, &tell));
                lanes.push(Lane { give, told });
            }
            for _ in 0..self.rounds.div_ceil(BATCH) {
                let batch: Arc<Vec<R>> = Arc::new((0..BATCH).map(|_| (self.set_up)()).collect());
                for lane in &lanes {
                    lane.give.send(Arc::clone(&batch)).expect("it is there");
                }
                let answers: Vec<Vec<bool>> = lanes.iter().map(Lane::answers).collect();
                for (round, field) in batch.iter().enumerate() {
                    let answers: Vec<bool> = answers.iter().map(|lane| lane[round]).collect();
                    judge(field, &answers);
                }
            }
        });
    }
}

struct Lane<R> {
    give: Sender<Arc<Vec<R>>>,
    told: Receiver<Vec<bool>>,
}

impl<R> Lane<R> {
    fn answers(&self) -> Vec<bool> {
        match in_patience(&self.told) {
            Ok(answers) => answers,
            Err(RecvTimeoutError::Disconnected) => panic!("a runner panicked"),
            Err(RecvTimeoutError::Timeout) => wedged("a runner hangs"),
        }
    }
}

fn run<R>(
    runner: Runner<'_, R>,
    own: usize,
    steps: &[AtomicUsize],
    given: &Receiver<Arc<Vec<R>>>,
    tell: &Sender<Vec<bool>>,
) {
    let mut step = 0;
    for batch in given {
        let answers = batch.iter().enumerate().map(|(round, field)| {
            step += 1;
            steps[own].store(step, Ordering::SeqCst);
            let all_there = || steps.iter().all(|it| it.load(Ordering::SeqCst) >= step);
            (0..SPINS)
                .take_while(|_| !all_there())
                .for_each(|_| std::hint::spin_loop());
            // Now the one, now the other comes a little later.
            (0..(round * 7 + own * 13) % 31).for_each(|_| std::hint::spin_loop());
            runner(field)
        });
        let answers = answers.collect();
        drop(batch);
        if tell.send(answers).is_err() {
            return; // the judge panicked
        }
    }
}

/// Comes now sooner, now later: for steps that would otherwise always win.
pub(crate) struct Dawdler {
    calls: AtomicUsize,
    micros: usize,
}

impl Dawdler {
    /// At most so many microseconds late.
    pub(crate) fn up_to(micros: usize) -> Self {
        Self {
            calls: AtomicUsize::new(0),
            micros,
        }
    }

    pub(crate) fn dawdle(&self) {
        let call = self.calls.fetch_add(1, Ordering::Relaxed);
        let micros = (call * 7) % (self.micros + 1);
        let until = Instant::now() + Duration::from_micros(micros as u64);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
    }
}

/// A hang cannot be ended by a panic here: the scope would wait for its threads.
fn wedged(what: &str) -> ! {
    let name = thread::current().name().unwrap_or("?").to_owned();
    drop(writeln!(io::stderr(), "{name}: {what}\n{}", threads()));
    process::abort()
}

/// What the kernel says of every thread of this process; empty where there is no `/proc`.
pub(crate) fn threads() -> String {
    let entries = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let lines = entries.map(|thread| {
        let read = |file| std::fs::read_to_string(thread.path().join(file)).unwrap_or_default();
        format!("thread {}: {}\n", read("comm").trim(), read("wchan"))
    });
    lines.collect()
}

/// Runs `work` on a thread of its own and gives its result; a hang fails with a dump of all threads.
#[track_caller]
pub(crate) fn in_time<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    let (tell, told) = bounded(1);
    let worker = thread::Builder::new()
        .name("in-time".to_owned())
        .spawn(move || {
            drop(tell.send(work()));
        });
    match in_patience(&told) {
        Ok(result) => result,
        Err(RecvTimeoutError::Disconnected) => {
            drop(worker.expect("a thread").join());
            panic!("{what} panicked")
        }
        Err(RecvTimeoutError::Timeout) => panic!("{what} hangs\n{}", threads()),
    }
}

/// Waits until `done` says so, and fails if it never does.
#[track_caller]
pub(crate) fn until(what: &str, done: impl Fn() -> bool) {
    assert!(becomes_so(done), "{what} did not happen");
}
