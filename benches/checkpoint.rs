//! What a checkpoint costs, beside the other ways of asking "shall I stop?".
//!
//! `cargo bench -p taskmuster-benches --bench checkpoint`; set `TASKMUSTER_BENCH=quick` for a
//! run of under 30 seconds.
//!
//! Everything is measured inside a task, so that `ctx` is a real one. Each loop is a function
//! of its own, compiled alike: they differ only in the closure that looks.

use std::hint::{self, black_box};
use std::panic::Location;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError, bounded};
use taskmuster::{CancellationToken, Group, Manager, ShutdownReport, TaskContext, TaskResult};
use taskmuster_benches::{Duel, Effort, Unit, time};

const OURS: &str = "ctx.checkpoint()";
const OUR_TOKEN: &str = "token.checkpoint()";
const OUR_DEEP_TOKEN: &str = "token.checkpoint(), 20 deep";
const FLAG: &str = "AtomicBool, relaxed";
const BY_HAND: &str = "flag, place and count by hand";
const TOKIO: &str = "tokio-util is_cancelled()";
const NOTHING: &str = "no check";
const CLOCK: &str = "Instant::now()";

/// A loop that looks so many times, with a way of looking compiled in.
type Loop = fn(&TaskContext, &Subjects, u64) -> u64;

const LOADS: Loop = |_, subjects, passes| empty_loop(passes, || subjects.flag.load(Relaxed));
const CHECKPOINTS: Loop = |ctx, _, passes| empty_loop(passes, || ctx.checkpoint().is_err());

const EMPTY_LOOPS: [(&str, Loop); 8] = [
    (NOTHING, |_, _, passes| empty_loop(passes, || false)),
    (FLAG, LOADS),
    (OURS, CHECKPOINTS),
    (BY_HAND, |_, subjects, passes| {
        let sign = Sign::default();
        empty_loop(passes, || sign.look(&subjects.flag))
    }),
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

/// The same loops around a hash.
const fn hash_loops<H: Hash>() -> [(&'static str, Loop); 6] {
    [
        (NOTHING, |_, subjects, passes| {
            hash_loop::<H>(&subjects.blocks, passes, || false)
        }),
        (FLAG, |_, subjects, passes| {
            hash_loop::<H>(&subjects.blocks, passes, || subjects.flag.load(Relaxed))
        }),
        (OURS, |ctx, subjects, passes| {
            hash_loop::<H>(&subjects.blocks, passes, || ctx.checkpoint().is_err())
        }),
        (BY_HAND, |_, subjects, passes| {
            let sign = Sign::default();
            hash_loop::<H>(&subjects.blocks, passes, || sign.look(&subjects.flag))
        }),
        (TOKIO, |_, subjects, passes| {
            hash_loop::<H>(&subjects.blocks, passes, || subjects.tokio.is_cancelled())
        }),
        (CLOCK, |_, subjects, passes| {
            let is_late = || Instant::now() >= subjects.deadline;
            hash_loop::<H>(&subjects.blocks, passes, is_late)
        }),
    ]
}

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
    in_a_chain(ctx, &subjects, effort);
    in_two_lanes(ctx, &subjects, effort);
    sampled(ctx, &subjects, switch, effort);
    by_two(ctx, group, &subjects, effort)
}

fn empty(ctx: &TaskContext, subjects: &Subjects, effort: Effort) {
    let mut duel = duel("checkpoint in an empty loop", EMPTY_LOOPS, ctx, subjects);
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(FLAG);
    rounds.at_most_above(OURS, 0.5, FLAG);
    rounds.at_least_times_cheaper(OURS, 8.0, TOKIO);
    rounds.at_most_times(OUR_DEEP_TOKEN, 1.05, OUR_TOKEN);
    duel.criterion(&mut effort.criterion());
}

/// Work in which each step waits for the last one: most parsers, searches, hashes.
fn in_a_chain(ctx: &TaskContext, subjects: &Subjects, effort: Effort) {
    let title = "checkpoint per block of 64 bytes, hashed in a chain";
    let mut duel = duel(title, hash_loops::<Chained>(), ctx, subjects);
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(NOTHING);
    rounds.at_most_times(OURS, 1.02, NOTHING);
    duel.criterion(&mut effort.criterion());
}

/// Work that keeps the processor's units busy: there the five instructions of a look show.
fn in_two_lanes(ctx: &TaskContext, subjects: &Subjects, effort: Effort) {
    let title = "checkpoint per block of 64 bytes, hashed in two lanes";
    let mut duel = duel(title, hash_loops::<Laned>(), ctx, subjects);
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(NOTHING);
    rounds.at_most_times(OURS, 1.02, BY_HAND);
    duel.criterion(&mut effort.criterion());
}

fn duel<'a>(
    title: &str,
    loops: impl IntoIterator<Item = (&'static str, Loop)>,
    ctx: &'a TaskContext,
    subjects: &'a Subjects,
) -> Duel<'a> {
    let mut duel = Duel::new(title, Unit::Nanoseconds);
    for (name, looping) in loops {
        duel.contender(name, move |passes| time(|| looping(ctx, subjects, passes)));
    }
    duel
}

fn sampled(ctx: &TaskContext, subjects: &Subjects, switch: &Sender<Duration>, effort: Effort) {
    const MONITORED: &str = "the monitor runs until the switch is gone";
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
            switch.send(pause).expect(MONITORED);
            let elapsed = time(|| looping(ctx, subjects, passes));
            switch.send(pause).expect(MONITORED);
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
    spans: Receiver<Span>,
}

/// When a loop began and ended.
#[derive(Clone, Copy)]
struct Span {
    start: Instant,
    end: Instant,
}

impl Pair {
    fn start(group: &Group, subjects: Arc<Subjects>) -> TaskResult<Self> {
        let (jobs, accepted) = bounded::<(Loop, u64)>(1);
        let (finished, spans) = bounded(1);
        let ready = Arc::new(AtomicUsize::new(0));
        group.spawn("partner", {
            let subjects = Arc::clone(&subjects);
            let ready = Arc::clone(&ready);
            move |ctx| {
                loop {
                    match accepted.try_recv() {
                        Ok((looping, passes)) => {
                            meet(&ready);
                            finished.send(Span::of(|| looping(ctx, &subjects, passes)))?;
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
            spans,
        })
    }

    /// The mean of the two threads' times, once they really ran side by side.
    ///
    /// On a busy machine one may have run after the other: a few more chances, then so be it.
    fn run(&self, ctx: &TaskContext, looping: Loop, passes: u64) -> Duration {
        const CHANCES: usize = 10;

        let mut attempts = (0..CHANCES).map(|_| self.attempt(ctx, looping, passes));
        let side_by_side = attempts.find(|(here, there)| here.overlaps(*there));
        let (here, there) = side_by_side.unwrap_or_else(|| self.attempt(ctx, looping, passes));
        (here.length() + there.length()) / 2
    }

    fn attempt(&self, ctx: &TaskContext, looping: Loop, passes: u64) -> (Span, Span) {
        const GONE: &str = "the partner runs until the pair is gone";

        self.jobs.send((looping, passes)).expect(GONE);
        meet(&self.ready);
        let here = Span::of(|| looping(ctx, &self.subjects, passes));
        (here, self.spans.recv().expect(GONE))
    }
}

impl Span {
    fn of<T>(work: impl FnOnce() -> T) -> Self {
        let start = Instant::now();
        black_box(work());
        let end = Instant::now();
        Self { start, end }
    }

    fn length(self) -> Duration {
        self.end - self.start
    }

    /// Whether at least nine tenths of the longer one are common to both.
    fn overlaps(self, other: Self) -> bool {
        let common = self
            .end
            .min(other.end)
            .saturating_duration_since(self.start.max(other.start));
        common * 10 >= self.length().max(other.length()) * 9
    }
}

/// Returns when the other one is here, too.
fn meet(ready: &AtomicUsize) {
    let both = (ready.fetch_add(1, Relaxed) / 2 + 1) * 2;
    while ready.load(Relaxed) < both {
        hint::spin_loop();
    }
}

/// The limit of a full checkpoint: nothing but its two stores and its load.
#[derive(Default)]
struct Sign {
    place: AtomicPtr<Location<'static>>,
    passed: AtomicUsize,
}

impl Sign {
    #[inline]
    #[track_caller]
    fn look(&self, flag: &AtomicBool) -> bool {
        let place: *const Location<'static> = Location::caller();
        self.place.store(place.cast_mut(), Relaxed);
        self.passed
            .store(self.passed.load(Relaxed).wrapping_add(1), Relaxed);
        flag.load(Relaxed)
    }
}

/// Looks `passes` times, or until `is_stopped`.
///
/// Eight looks a turn, which the compiler unrolls: with one, the figure would mostly tell
/// whether the few bytes of the loop happen to lie across two cache lines, a cycle each turn.
/// The black box is empty: a value in it would be stored, and a checkpoint is two stores.
#[inline(never)]
fn empty_loop(passes: u64, is_stopped: impl Fn() -> bool) -> u64 {
    for turn in 0..passes.div_ceil(8) {
        for _ in 0..8 {
            if is_stopped() {
                return turn;
            }
            black_box(());
        }
    }
    passes
}

type Block = [u64; 8];

/// 16 KiB: they stay in the nearest cache.
type Blocks = [Block; 256];

/// A hash of 6 to 7 ns a block, in one or two lanes.
trait Hash {
    fn add(lanes: [u64; 2], block: &Block) -> [u64; 2];
}

/// Like wyhash: each multiplication waits for the last one.
struct Chained;

impl Hash for Chained {
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a product")]
    fn add([mut hash, _]: [u64; 2], block: &Block) -> [u64; 2] {
        for [first, second] in block.as_chunks::<2>().0 {
            let product = u128::from(first ^ 0xa076_1d64_78bd_642f) * u128::from(second ^ hash);
            hash = product as u64 ^ (product >> 64) as u64;
        }
        [hash, 0]
    }
}

/// Like rustc's, twice: more than two instructions a cycle.
struct Laned;

impl Hash for Laned {
    fn add(mut lanes: [u64; 2], block: &Block) -> [u64; 2] {
        for pair in block.as_chunks::<2>().0 {
            for (lane, word) in lanes.iter_mut().zip(pair) {
                *lane = (lane.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
            }
        }
        lanes
    }
}

/// Hashes `passes` blocks, or until `is_stopped`.
#[inline(never)]
fn hash_loop<H: Hash>(blocks: &Blocks, passes: u64, is_stopped: impl Fn() -> bool) -> u64 {
    let mut lanes = [0, 1];
    for (block, _) in blocks.iter().cycle().zip(0..passes) {
        if is_stopped() {
            break;
        }
        lanes = H::add(lanes, block);
    }
    lanes[0] ^ lanes[1]
}
