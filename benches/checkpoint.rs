//! What a checkpoint costs, beside the other ways of asking "shall I stop?".
//!
//! `cargo bench -p taskmuster-benches --bench checkpoint`; set `TASKMUSTER_BENCH=quick` for a
//! run of under 30 seconds.
//!
//! Everything is measured inside a task, so that `ctx` is a real one. Each loop is a function
//! of its own, compiled alike: they differ only in the closure that looks.

use std::hint::{self, black_box};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use taskmuster::{CancellationToken, Group, Manager, ShutdownReport, TaskContext, TaskResult};
use taskmuster_benches::{Duel, Effort, Unit, time};

const OURS: &str = "ctx.checkpoint()";
const OUR_TOKEN: &str = "token.checkpoint()";
const OUR_DEEP_TOKEN: &str = "token.checkpoint(), 20 deep";
const FLAG: &str = "AtomicBool, relaxed";
const TOKIO: &str = "tokio-util is_cancelled()";
const NOTHING: &str = "no check";
const CLOCK: &str = "Instant::now()";

/// A loop that looks so many times, with a way of looking compiled in.
type Loop = fn(&TaskContext, &Subjects, u64) -> u64;

const LOADS: Loop = |_, subjects, passes| empty_loop(passes, || subjects.flag.load(Relaxed));
const CHECKPOINTS: Loop = |ctx, _, passes| empty_loop(passes, || ctx.checkpoint().is_err());

const EMPTY_LOOPS: [(&str, Loop); 7] = [
    (NOTHING, |_, _, passes| empty_loop(passes, || false)),
    (FLAG, LOADS),
    (OURS, CHECKPOINTS),
    (OUR_TOKEN, |_, subjects, passes| {
        empty_loop(passes, || subjects.token.checkpoint().is_err())
    }),
    (OUR_DEEP_TOKEN, |_, subjects, passes| {
        empty_loop(passes, || subjects.deep_token.checkpoint().is_err())
    }),
    (TOKIO, |_, subjects, passes| {
        empty_loop(passes, || subjects.tokio.is_cancelled())
    }),
    (CLOCK, |_, subjects, passes| {
        empty_loop(passes, || Instant::now() >= subjects.deadline)
    }),
];

const HASH_LOOPS: [(&str, Loop); 5] = [
    (NOTHING, |_, subjects, passes| {
        hash_loop(&subjects.blocks, passes, || false)
    }),
    (FLAG, |_, subjects, passes| {
        hash_loop(&subjects.blocks, passes, || subjects.flag.load(Relaxed))
    }),
    (OURS, |ctx, subjects, passes| {
        hash_loop(&subjects.blocks, passes, || ctx.checkpoint().is_err())
    }),
    (TOKIO, |_, subjects, passes| {
        hash_loop(&subjects.blocks, passes, || subjects.tokio.is_cancelled())
    }),
    (CLOCK, |_, subjects, passes| {
        hash_loop(&subjects.blocks, passes, || {
            Instant::now() >= subjects.deadline
        })
    }),
];

fn main() -> ShutdownReport {
    let effort = Effort::chosen();
    taskmuster::run(|manager| {
        let (switch, switched) = bounded(0);
        let group = manager.group("checkpoint");
        let bench = group.spawn("contenders", {
            let group = group.clone();
            move |ctx| measure(ctx, &group, &switch, effort)
        })?;
        monitor(manager, &switched);
        Ok(bench.join()?)
    })
}

fn measure(
    ctx: &TaskContext,
    group: &Group,
    switch: &Sender<Duration>,
    effort: Effort,
) -> TaskResult {
    let subjects = Arc::new(Subjects::new());
    empty(ctx, &subjects, effort);
    in_a_hash(ctx, &subjects, effort);
    sampled(ctx, &subjects, switch, effort);
    by_two(ctx, group, &subjects, effort)
}

fn empty(ctx: &TaskContext, subjects: &Subjects, effort: Effort) {
    let mut duel = Duel::new("checkpoint in an empty loop", Unit::Nanoseconds);
    for (name, looping) in EMPTY_LOOPS {
        duel.contender(name, move |passes| time(|| looping(ctx, subjects, passes)));
    }
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(FLAG);
    rounds.at_most_above(OURS, 0.5, FLAG);
    rounds.at_least_times_cheaper(OURS, 8.0, TOKIO);
    rounds.at_most_times(OUR_DEEP_TOKEN, 1.05, OUR_TOKEN);
    duel.criterion(&mut effort.criterion());
}

fn in_a_hash(ctx: &TaskContext, subjects: &Subjects, effort: Effort) {
    let mut duel = Duel::new("checkpoint per hashed block of 64 bytes", Unit::Nanoseconds);
    for (name, looping) in HASH_LOOPS {
        duel.contender(name, move |passes| time(|| looping(ctx, subjects, passes)));
    }
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(NOTHING);
    rounds.at_most_times(OURS, 1.02, NOTHING);
    duel.criterion(&mut effort.criterion());
}

fn sampled(ctx: &TaskContext, subjects: &Subjects, switch: &Sender<Duration>, effort: Effort) {
    const ALONE: &str = "ctx.checkpoint(), nobody looks";
    const EVERY_MILLISECOND: &str = "sampled every millisecond";
    const WITHOUT_PAUSE: &str = "sampled without a pause";
    const FLAG_BESIDE: &str = "AtomicBool, relaxed, beside the same";

    let mut duel = Duel::new("checkpoint while a monitor samples", Unit::Nanoseconds);
    duel.contender(ALONE, |passes| time(|| CHECKPOINTS(ctx, subjects, passes)));
    for (name, looping, pause) in [
        (EVERY_MILLISECOND, CHECKPOINTS, Duration::from_millis(1)),
        (WITHOUT_PAUSE, CHECKPOINTS, Duration::ZERO),
        (FLAG_BESIDE, LOADS, Duration::ZERO),
    ] {
        duel.contender(name, move |passes| {
            switch
                .send(pause)
                .expect("the monitor runs until the switch is gone");
            let elapsed = time(|| looping(ctx, subjects, passes));
            switch
                .send(pause)
                .expect("the monitor runs until the switch is gone");
            elapsed
        });
    }
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(ALONE);
    rounds.at_most_times(EVERY_MILLISECOND, 1.05, ALONE);
    rounds.at_most_above(WITHOUT_PAUSE, 0.5, FLAG_BESIDE);
    duel.criterion(&mut effort.criterion());
}

/// Samples all tasks from one message to the next, with the pause the first one names.
fn monitor(manager: &Manager, switched: &Receiver<Duration>) {
    while let Ok(pause) = switched.recv() {
        while let Err(RecvTimeoutError::Timeout) = switched.recv_timeout(pause) {
            black_box(manager.tasks());
        }
    }
}

fn by_two(
    ctx: &TaskContext,
    group: &Group,
    subjects: &Arc<Subjects>,
    effort: Effort,
) -> TaskResult {
    let pair = Pair::start(group, Arc::clone(subjects))?;
    let mut duel = Duel::new(
        "checkpoint of two threads, one shared token",
        Unit::Nanoseconds,
    );
    for (name, looping) in EMPTY_LOOPS {
        let pair = &pair;
        duel.contender(name, move |passes| pair.run(ctx, looping, passes));
    }
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(FLAG);
    rounds.at_least_times_cheaper(OURS, 40.0, TOKIO);
    duel.criterion(&mut effort.criterion());
    Ok(())
}

/// What is looked at: shared by the two threads of a pair.
struct Subjects {
    flag: AtomicBool,
    token: CancellationToken,
    deep_token: CancellationToken,
    tokio: tokio_util::sync::CancellationToken,
    deadline: Instant,
    blocks: Box<Blocks>,
}

impl Subjects {
    fn new() -> Self {
        let token = CancellationToken::new();
        let deep_token = (0..20).fold(token.clone(), |parent, _| parent.child_token());
        Self {
            flag: AtomicBool::new(false),
            token,
            deep_token,
            tokio: tokio_util::sync::CancellationToken::new(),
            deadline: Instant::now() + Duration::from_secs(24 * 60 * 60),
            blocks: Box::new(std::array::from_fn(|block| {
                std::array::from_fn(|word| (block * 8 + word) as u64)
            })),
        }
    }
}

/// This task and a second one of the same group, which run the same loop at the same time.
///
/// The partner never sleeps: two threads that wake each other are apt to share a core.
struct Pair {
    subjects: Arc<Subjects>,
    /// How often either of the two was ready for the next loop.
    ready: Arc<AtomicUsize>,
    jobs: Sender<(Loop, u64)>,
    times: Receiver<Duration>,
}

impl Pair {
    fn start(group: &Group, subjects: Arc<Subjects>) -> TaskResult<Self> {
        let (jobs, accepted) = bounded::<(Loop, u64)>(1);
        let (finished, times) = bounded(1);
        let ready = Arc::new(AtomicUsize::new(0));
        group.spawn("partner", {
            let subjects = Arc::clone(&subjects);
            let ready = Arc::clone(&ready);
            move |ctx| {
                loop {
                    match accepted.try_recv() {
                        Ok((looping, passes)) => {
                            meet(&ready);
                            finished.send(time(|| looping(ctx, &subjects, passes)))?;
                        }
                        Err(TryRecvError::Empty) => hint::spin_loop(),
                        Err(TryRecvError::Disconnected) => return Ok(()),
                    }
                }
            }
        })?;
        Ok(Self {
            subjects,
            ready,
            jobs,
            times,
        })
    }

    /// The mean of the two threads' times.
    fn run(&self, ctx: &TaskContext, looping: Loop, passes: u64) -> Duration {
        const GONE: &str = "the partner runs until the pair is gone";

        self.jobs.send((looping, passes)).expect(GONE);
        meet(&self.ready);
        let here = time(|| looping(ctx, &self.subjects, passes));
        let there = self.times.recv().expect(GONE);
        (here + there) / 2
    }
}

/// Returns when the other one is here, too.
fn meet(ready: &AtomicUsize) {
    let both = (ready.fetch_add(1, Relaxed) / 2 + 1) * 2;
    while ready.load(Relaxed) < both {
        hint::spin_loop();
    }
}

/// Looks `passes` times, or until `is_stopped`.
///
/// Eight looks a turn, which the compiler unrolls: with one, the figure would mostly tell
/// whether the few bytes of the loop happen to lie across two cache lines, a cycle each turn.
#[inline(never)]
fn empty_loop(passes: u64, is_stopped: impl Fn() -> bool) -> u64 {
    for turn in 0..passes.div_ceil(8) {
        for look in 0..8 {
            if is_stopped() {
                return turn;
            }
            black_box(look);
        }
    }
    passes
}

/// 16 KiB in blocks of 64 bytes: they stay in the nearest cache.
type Blocks = [[u64; 8]; 256];

/// The hash of as many blocks until `is_stopped`, in two lanes: 6 to 7 ns a block.
#[inline(never)]
fn hash_loop(blocks: &Blocks, passes: u64, is_stopped: impl Fn() -> bool) -> u64 {
    let mut lanes = [0_u64, 1];
    for block in blocks.iter().cycle().zip(0..passes).map(|(block, _)| block) {
        if is_stopped() {
            break;
        }
        for pair in block.as_chunks::<2>().0 {
            for (lane, word) in lanes.iter_mut().zip(pair) {
                *lane = (lane.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
            }
        }
    }
    lanes[0] ^ lanes[1]
}
