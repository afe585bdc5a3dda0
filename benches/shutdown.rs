//! From the signal until thousands of blocked threads are joined, and what a task weighs.
//!
//! `cargo bench -p taskmuster-benches --bench shutdown`; set `TASKMUSTER_BENCH=quick` for a run
//! of under 30 seconds.
//!
//! Creating the threads and letting them fall asleep is not counted. All stacks are of 64 KiB.
//! The limit is one futex word and one wake for all: `OnceLock::wait` is just that on Linux.

use std::any::Any;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use taskmuster::{BoxError, Manager, TaskContext, TaskResult};
use taskmuster_benches::{
    Duel, Effort, Quartiles, Unit, gain, time, to_be_weighed, verdict, weigh_in_child,
};
use tokio_util::sync::CancellationToken;

const FUTEX: &str = "one futex word";
const CONDVAR: &str = "std Mutex + Condvar";
const OURS: &str = "taskmuster, ctx.wait()";

const CROWDS: [(&str, Crowd); 6] = [
    (FUTEX, futex),
    (CONDVAR, condvar),
    (OURS, |size| tasks(size, |ctx| Err(ctx.wait().into()))),
    ("taskmuster, ctx.sleep()", |size| tasks(size, sleeping)),
    ("crossbeam cancel channel", cancel_channel),
    ("tokio drop(runtime)", blocking_threads_of_tokio),
];

/// Sets so many blocked threads up and says how to stop them.
type Crowd = fn(usize) -> Stop;

/// Stops them all and returns when they are joined, with what need not be dropped in time.
type Stop = Box<dyn FnOnce() -> Box<dyn Any>>;

fn main() -> Result<(), BoxError> {
    let effort = Effort::chosen();
    let crowd = effort.pick(100, 10_000, 10_000);
    if let Some(name) = to_be_weighed() {
        return weigh(&name, crowd);
    }
    let mut duel = stop_of(effort.pick(10, 1_000, 1_000), effort.pick(1, 11, 41));
    duel.criterion(&mut effort.criterion().sample_size(10));
    stop_of(crowd, effort.pick(1, 1, 9));
    memory(crowd, effort.pick(1, 1, 3))
}

fn stop_of(size: usize, rounds: usize) -> Duel<'static> {
    let title = format!("shutdown of {size} blocked threads");
    let mut duel = Duel::new(title, Unit::Milliseconds);
    for (name, crowd) in CROWDS {
        duel.contender(name, move |passes| {
            (0..passes).map(|_| time(crowd(size))).sum()
        });
    }
    let rounds = duel.rounds(rounds, Duration::ZERO);
    rounds.print(FUTEX);
    rounds.at_most_times(OURS, 1.15, FUTEX);
    rounds.at_most_times(OURS, 1.15, CONDVAR);
    duel
}

fn futex(size: usize) -> Stop {
    let signal = Arc::new(OnceLock::new());
    let threads = threads(size, {
        let signal = Arc::clone(&signal);
        move || *signal.wait()
    });
    Box::new(move || {
        signal.set(()).expect("this is the only signal");
        joined(threads)
    })
}

fn condvar(size: usize) -> Stop {
    let signal = Arc::new((Mutex::new(false), Condvar::new()));
    let threads = threads(size, {
        let signal = Arc::clone(&signal);
        move || {
            let (is_stopped, changed) = &*signal;
            let is_stopped = is_stopped.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(is_stopped, |is_stopped| !*is_stopped));
        }
    });
    Box::new(move || {
        let (is_stopped, changed) = &*signal;
        *is_stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        changed.notify_all();
        joined(threads)
    })
}

fn cancel_channel(size: usize) -> Stop {
    let (sender, receiver) = bounded::<()>(0);
    let threads = threads(size, move || {
        receiver.recv().expect_err("nothing is ever sent");
    });
    Box::new(move || {
        drop(sender);
        joined(threads)
    })
}

fn blocking_threads_of_tokio(size: usize) -> Stop {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(size)
        .thread_stack_size(STACK)
        .build()
        .expect("there is room for a runtime");
    let token = CancellationToken::new();
    let arrivals = Arrivals::default();
    for _ in 0..size {
        let (token, arrivals) = (token.clone(), arrivals.clone());
        let runtime = runtime.handle().clone();
        drop(runtime.clone().spawn_blocking(move || {
            arrivals.arrive();
            runtime.block_on(token.cancelled());
        }));
    }
    arrivals.wait_for(size);
    Box::new(move || {
        token.cancel();
        drop(runtime);
        Box::new(())
    })
}

fn tasks(size: usize, blocked: fn(&TaskContext) -> TaskResult) -> Stop {
    let manager = Manager::builder()
        .grace(Duration::from_secs(60))
        .max_tasks(size)
        .build()
        .expect("this many tasks are allowed");
    let arrivals = Arrivals::default();
    for _ in 0..size {
        let arrivals = arrivals.clone();
        let task = manager.task("waiter").stack_size(STACK).spawn(move |ctx| {
            arrivals.arrive();
            blocked(ctx)
        });
        drop(task.expect("there is room for a thread"));
    }
    arrivals.wait_for(size);
    Box::new(move || {
        let report = manager.shutdown().expect("nobody else stops this manager");
        assert!(report.is_clean(), "{report}");
        Box::new((manager, report))
    })
}

fn sleeping(ctx: &TaskContext) -> TaskResult {
    Ok(ctx.sleep(Duration::from_secs(24 * 60 * 60))?)
}

const STACK: usize = 64 * 1024;

fn threads(size: usize, blocked: impl Fn() + Clone + Send + 'static) -> Vec<JoinHandle<()>> {
    let arrivals = Arrivals::default();
    let thread = |_| {
        let (arrivals, blocked) = (arrivals.clone(), blocked.clone());
        thread::Builder::new()
            .name("waiter".to_owned())
            .stack_size(STACK)
            .spawn(move || {
                arrivals.arrive();
                blocked();
            })
            .expect("there is room for a thread")
    };
    let threads = (0..size).map(thread).collect();
    arrivals.wait_for(size);
    threads
}

fn joined(threads: Vec<JoinHandle<()>>) -> Box<dyn Any> {
    for thread in threads {
        thread.join().expect("no thread panics");
    }
    Box::new(())
}

/// Counts those who are about to block.
#[derive(Clone, Default)]
struct Arrivals(Arc<AtomicUsize>);

impl Arrivals {
    fn arrive(&self) {
        // Relaxed: it publishes nothing but itself.
        self.0.fetch_add(1, Relaxed);
    }

    /// Polls, so that nobody is woken by it, and gives the last ones time to fall asleep.
    fn wait_for(&self, size: usize) {
        while self.0.load(Relaxed) < size {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(20));
    }
}

/// Each crowd is weighed in a process of its own: memory freed by the last one would be reused.
fn memory(size: usize, rounds: usize) -> Result<(), BoxError> {
    let mut thread = Vec::new();
    let mut task = Vec::new();
    for _ in 0..rounds {
        thread.push(weigh_in_child(FUTEX)?);
        task.push(weigh_in_child(OURS)?);
    }
    let difference = Quartiles::of(task.iter().zip(&thread).map(|(task, thread)| task - thread));
    println!("\nresident memory of one of {size} blocked threads, bytes");
    println!("  plain thread, named  {}", Quartiles::of(thread));
    println!("  task                 {}", Quartiles::of(task));
    verdict(
        difference.median <= 1024.0,
        &format!("at most 1024 bytes more: {difference}"),
    );
    Ok(())
}

/// The child's side: prints the bytes a thread.
fn weigh(name: &str, size: usize) -> Result<(), BoxError> {
    let (_, crowd) = CROWDS
        .into_iter()
        .find(|(crowd, _)| *crowd == name)
        .ok_or("there is no such crowd")?;
    let (bytes, stop) = gain(|| crowd(size))?;
    println!("{}", bytes / f64::from(u32::try_from(size)?));
    drop(stop());
    Ok(())
}
