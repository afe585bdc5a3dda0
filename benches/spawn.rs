//! From a spawn to its result: a task on a thread of its own, beside threads and pools.
//!
//! `cargo bench -p taskmuster-benches --bench spawn`; set `TASKMUSTER_BENCH=quick` for a run of
//! under 30 seconds.
//!
//! Hot is one after another; cold is each after 500 µs of silence, which is not counted. Pools
//! keep their threads and are here for the scale: a task pays for a thread.

use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;
use taskmuster::{BoxError, Manager, ShutdownReport};
use taskmuster_benches::{Duel, Effort, Unit, time};
use tokio::sync::oneshot;

const OURS: &str = "manager.spawn() + join";
const BUILDER: &str = "thread::Builder, named + join";
const SILENCE: Duration = Duration::from_micros(500);

/// Lets another thread return the number, and returns it from there.
type Spawn<'a> = Box<dyn Fn(u64) -> u64 + 'a>;

fn main() -> ShutdownReport {
    let effort = Effort::chosen();
    taskmuster::run(|manager| {
        let pools = Pools::of_two_threads()?;
        let contenders = contenders(manager, &pools);
        hot(&contenders, effort);
        cold(&contenders, effort);
        Ok(())
    })
}

fn hot(contenders: &[(&str, Spawn<'_>)], effort: Effort) {
    let mut duel = Duel::new("spawn to result, hot", Unit::Microseconds);
    for (name, spawn) in contenders {
        duel.contender(*name, move |passes| {
            time(|| (0..passes).for_each(|pass| assert_eq!(spawn(pass), pass)))
        });
    }
    finish(duel, effort);
}

fn cold(contenders: &[(&str, Spawn<'_>)], effort: Effort) {
    let mut duel = Duel::new(
        "spawn to result, after 500 µs of silence",
        Unit::Microseconds,
    );
    for (name, spawn) in contenders {
        duel.contender(*name, move |passes| {
            let after_silence = |pass| {
                thread::sleep(SILENCE);
                time(|| assert_eq!(spawn(pass), pass))
            };
            (0..passes).map(after_silence).sum()
        });
    }
    finish(duel, effort);
}

fn finish(mut duel: Duel<'_>, effort: Effort) {
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(BUILDER);
    rounds.at_most_times(OURS, 1.15, BUILDER);
    duel.criterion(&mut effort.criterion());
}

/// The rivals that keep their threads.
struct Pools {
    rayon: rayon::ThreadPool,
    rusty: rusty_pool::ThreadPool,
    threadpool: threadpool::ThreadPool,
    tokio: tokio::runtime::Runtime,
}

impl Pools {
    fn of_two_threads() -> Result<Self, BoxError> {
        Ok(Self {
            rayon: rayon::ThreadPoolBuilder::new().num_threads(2).build()?,
            rusty: rusty_pool::Builder::new().core_size(2).max_size(2).build(),
            threadpool: threadpool::ThreadPool::new(2),
            tokio: tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .build()?,
        })
    }
}

fn contenders<'a>(manager: &'a Manager, pools: &'a Pools) -> Vec<(&'static str, Spawn<'a>)> {
    vec![
        (BUILDER, Box::new(named_thread)),
        (OURS, Box::new(|number| task(manager, number))),
        ("thread::spawn + join", Box::new(plain_thread)),
        ("thread::scope", Box::new(scoped_thread)),
        (
            "tokio spawn_blocking + oneshot",
            Box::new(|number| spawn_blocking(&pools.tokio, number)),
        ),
        (
            "threadpool + channel",
            Box::new(|number| {
                let (sender, receiver) = bounded(1);
                pools
                    .threadpool
                    .execute(move || sender.send(number).expect(WAITS));
                receiver.recv().expect(RUNS)
            }),
        ),
        (
            "rayon spawn + channel",
            Box::new(|number| {
                let (sender, receiver) = bounded(1);
                pools.rayon.spawn(move || sender.send(number).expect(WAITS));
                receiver.recv().expect(RUNS)
            }),
        ),
        (
            "rusty_pool evaluate",
            Box::new(|number| pools.rusty.evaluate(move || number).await_complete()),
        ),
    ]
}

const WAITS: &str = "the receiver waits for the number";
const RUNS: &str = "the job sends the number";

fn task(manager: &Manager, number: u64) -> u64 {
    manager
        .spawn("job", move |_| Ok(number))
        .expect("the manager is open")
        .join()
        .expect(RUNS)
}

fn named_thread(number: u64) -> u64 {
    thread::Builder::new()
        .name("job".to_owned())
        .spawn(move || number)
        .expect("there is room for a thread")
        .join()
        .expect(RUNS)
}

fn plain_thread(number: u64) -> u64 {
    thread::spawn(move || number).join().expect(RUNS)
}

fn scoped_thread(number: u64) -> u64 {
    thread::scope(|scope| scope.spawn(|| number).join().expect(RUNS))
}

fn spawn_blocking(runtime: &tokio::runtime::Runtime, number: u64) -> u64 {
    let (sender, receiver) = oneshot::channel();
    runtime.spawn_blocking(move || sender.send(number).expect(WAITS));
    receiver.blocking_recv().expect(RUNS)
}
