//! What 100,000 pending deadlines cost, and how late they come.
//!
//! `cargo bench -p taskmuster-benches --bench timers`; set `TASKMUSTER_BENCH=quick` for a run of
//! under 30 seconds.
//!
//! Beside tokio's wheel, and a heap by hand: a lock, a condition variable, a thread, and entries
//! that are thrown away when they come up, if they were cancelled. It has no tokens.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::{BoxError, CancellationToken};
use taskmuster_benches::{
    Duel, Effort, Quartiles, Unit, gain, time, to_be_weighed, verdict, weigh_in_child,
};
use tokio::runtime::{Builder, Runtime};
use tokio::time::Sleep;
use tokio_util::time::DelayQueue;

const PENDING: u32 = 100_000;

const PLAIN: &str = "child_token()";
const WITH_TIMEOUT: &str = "child_with_timeout()";
const SET: &str = "set_deadline()";
const HEAP: &str = "heap by hand";
const TOKIO: &str = "tokio sleep";
const QUEUE: &str = "tokio-util DelayQueue";

fn main() -> Result<(), BoxError> {
    if let Some(name) = to_be_weighed() {
        return weigh(&name);
    }
    let effort = Effort::chosen();
    insert(effort);
    cancel(effort);
    move_all(effort);
    weights(effort.pick(1, 3, 5))?;
    for pending in [10_000, effort.pick(10_000, 100_000, 100_000)] {
        lateness(pending, effort)?;
    }
    Ok(())
}

fn insert(effort: Effort) {
    let runtime = runtime();
    let mut duel = duel("set 100,000 deadlines, one of them");
    duel.contender(PLAIN, |passes| each(passes, || (), |()| children()));
    duel.contender(WITH_TIMEOUT, |passes| {
        each(passes, || (), |()| children_with_timeouts())
    });
    duel.contender(SET, |passes| {
        each(passes, children, |(parent, children)| {
            set_deadlines(&children);
            (parent, children)
        })
    });
    duel.contender(HEAP, |passes| each(passes, || (), |()| heap_by_hand()));
    duel.contender(TOKIO, |passes| each(passes, || (), |()| sleeps(&runtime)));
    duel.contender(QUEUE, |passes| {
        each(passes, || (), |()| delay_queue(&runtime))
    });
    let rounds = duel.rounds(effort.pick(1, 15, 61), Duration::ZERO);
    rounds.print(HEAP);
    rounds.at_most_above(WITH_TIMEOUT, 60.0, PLAIN);
    rounds.at_most(SET, 60.0);
    rounds.at_most_times(SET, 1.2, HEAP);
    duel.criterion(&mut effort.criterion_of_crowds());
}

fn cancel(effort: Effort) {
    const DROPPED: &str = "drop of a pending child";
    const PLAIN_DROPPED: &str = "drop of a plain child";
    const CANCELLED: &str = "cancel() of a pending child";
    const PLAIN_CANCELLED: &str = "cancel() of a plain child";

    let runtime = runtime();
    let mut duel = duel("take 100,000 deadlines back, one of them");
    duel.contender(PLAIN_DROPPED, |passes| each(passes, children, drop));
    duel.contender(DROPPED, |passes| each(passes, children_with_timeouts, drop));
    duel.contender(PLAIN_CANCELLED, |passes| {
        each(passes, children, cancel_each)
    });
    duel.contender(CANCELLED, |passes| {
        each(passes, children_with_timeouts, cancel_each)
    });
    duel.contender(HEAP, |passes| {
        each(passes, heap_by_hand, |heap| {
            (0..PENDING as usize).for_each(|index| heap.cancel(index));
            heap
        })
    });
    duel.contender(TOKIO, |passes| each(passes, || sleeps(&runtime), drop));
    duel.contender(QUEUE, |passes| {
        each(
            passes,
            || delay_queue(&runtime),
            |(mut queue, keys)| {
                for key in &keys {
                    queue.remove(key);
                }
                (queue, keys)
            },
        )
    });
    let rounds = duel.rounds(effort.pick(1, 15, 61), Duration::ZERO);
    rounds.print(HEAP);
    rounds.at_most_above(DROPPED, 60.0, PLAIN_DROPPED);
    rounds.at_most_above(CANCELLED, 60.0, PLAIN_CANCELLED);
    duel.criterion(&mut effort.criterion_of_crowds());
}

fn move_all(effort: Effort) {
    let mut duel = duel("move 100,000 deadlines, one of them");
    for (name, timeout) in MOVES {
        duel.contender(name, move |passes| {
            each(passes, children_with_timeouts, |children| {
                move_all_to(&children, |index| timeout(index, 1));
                children
            })
        });
    }
    let rounds = duel.rounds(effort.pick(1, 15, 61), Duration::ZERO);
    rounds.print(LATER);
    duel.criterion(&mut effort.criterion_of_crowds());
}

/// The new timeout of the child with the first number, when all are moved for the time with the second.
type Timeout = fn(u64, u64) -> Duration;

const LATER: &str = "set_timeout(), later";

const MOVES: [(&str, Timeout); 3] = [
    (LATER, |index, _| far_away(index) * 2),
    ("set_timeout(), earlier", |index, _| far_away(index) / 2),
    ("set_timeout(), later and earlier", |index, time| {
        far_away(index.wrapping_add(time))
    }),
];

fn move_all_to((_, children): &Children, timeout: impl Fn(u64) -> Duration) {
    for (index, child) in (0..).zip(children) {
        let moved = child.set_timeout(timeout(index));
        assert_eq!(moved.ok(), Some(true));
    }
}

fn duel(title: &str) -> Duel<'static> {
    Duel::new(title, Unit::Nanoseconds).parts(PENDING)
}

/// How long `work` takes so many times, not counting what it is given and what it leaves.
fn each<A, B>(passes: u64, prepare: impl Fn() -> A, work: impl Fn(A) -> B) -> Duration {
    let once = |_| {
        let prepared = prepare();
        time(|| work(prepared))
    };
    (0..passes).map(once).sum()
}

// ---- ours ----

type Children = (CancellationToken, Vec<CancellationToken>);

fn children() -> Children {
    let parent = CancellationToken::new();
    let children = (0..PENDING).map(|_| parent.child_token()).collect();
    (parent, children)
}

fn children_with_timeouts() -> Children {
    let parent = CancellationToken::new();
    let child = |index| {
        parent
            .child_with_timeout(far_away(index))
            .expect("there is room for a thread")
    };
    let children = (0..u64::from(PENDING)).map(child).collect();
    (parent, children)
}

fn set_deadlines(children: &[CancellationToken]) {
    let now = Instant::now();
    for (index, child) in (0..).zip(children) {
        let set = child.set_deadline(now + far_away(index));
        assert_eq!(set.ok(), Some(true));
    }
}

fn cancel_each((parent, children): Children) -> Children {
    for child in &children {
        child.cancel();
    }
    (parent, children)
}

/// Between an hour and two, in no order.
fn far_away(index: u64) -> Duration {
    let scattered = index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 44;
    Duration::from_secs(3_600) + Duration::from_millis(scattered * 3)
}

// ---- rivals ----

fn runtime() -> Runtime {
    Builder::new_multi_thread()
        .worker_threads(1)
        .enable_time()
        .build()
        .expect("there is room for a thread")
}

/// A sleep is in the wheel when it was polled once.
fn sleeps(runtime: &Runtime) -> Vec<Pin<Box<Sleep>>> {
    let _inside = runtime.enter();
    let mut context = Context::from_waker(Waker::noop());
    let sleep = |index| {
        let mut sleep = Box::pin(tokio::time::sleep(far_away(index)));
        assert!(sleep.as_mut().poll(&mut context).is_pending());
        sleep
    };
    (0..u64::from(PENDING)).map(sleep).collect()
}

type Delays = (DelayQueue<()>, Vec<tokio_util::time::delay_queue::Key>);

fn delay_queue(runtime: &Runtime) -> Delays {
    let _inside = runtime.enter();
    let mut queue = DelayQueue::new();
    let keys = (0..u64::from(PENDING))
        .map(|index| queue.insert((), far_away(index)))
        .collect();
    (queue, keys)
}

fn heap_by_hand() -> Heap {
    let heap = Heap::default();
    for index in 0..u64::from(PENDING) {
        heap.insert(Instant::now() + far_away(index));
    }
    heap
}

#[derive(Default)]
struct Heap {
    entries: Mutex<Entries>,
    changed: Condvar,
}

#[derive(Default)]
struct Entries {
    heap: BinaryHeap<Reverse<(Instant, usize)>>,
    pending: Vec<bool>,
}

impl Heap {
    fn insert(&self, at: Instant) {
        let mut entries = self.lock();
        let index = entries.pending.len();
        entries.pending.push(true);
        entries.heap.push(Reverse((at, index)));
        let is_first = entries.heap.peek().is_some_and(|first| first.0.1 == index);
        drop(entries);
        if is_first {
            self.changed.notify_one();
        }
    }

    fn cancel(&self, index: usize) {
        self.lock().pending[index] = false;
    }

    /// Gives each entry that is due to `ring`, until there are none.
    fn run(&self, ring: impl Fn(usize)) {
        let mut entries = self.lock();
        while let Some(Reverse((at, index))) = entries.heap.peek().copied() {
            let now = Instant::now();
            if at > now {
                let waited = self.changed.wait_timeout(entries, at - now);
                entries = waited.unwrap_or_else(PoisonError::into_inner).0;
                continue;
            }
            entries.heap.pop();
            if entries.pending[index] {
                drop(entries);
                ring(index);
                entries = self.lock();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ---- bytes ----

const MOVED_FIVE_TIMES: &str = "moved 5 times";
const MOVED_FIFTY_TIMES: &str = "moved 50 times";

fn weights(rounds: usize) -> Result<(), BoxError> {
    println!("\nresident memory of one of 100,000 deadlines, bytes");
    let weighed = |name| -> Result<Quartiles, BoxError> {
        let bytes: Result<Vec<f64>, _> = (0..rounds).map(|_| weigh_in_child(name)).collect();
        let bytes = Quartiles::of(bytes?);
        println!("  {name:36} {bytes}");
        Ok(bytes)
    };
    weighed(PLAIN)?;
    weighed(WITH_TIMEOUT)?;
    let few = weighed(MOVED_FIVE_TIMES)?;
    let many = weighed(MOVED_FIFTY_TIMES)?;
    for name in [HEAP, TOKIO, QUEUE] {
        weighed(name)?;
    }
    verdict(
        many.median <= few.median * 1.05,
        "moving all deadlines again and again does not let them grow",
    );
    Ok(())
}

/// The child's side: prints the bytes a deadline.
fn weigh(name: &str) -> Result<(), BoxError> {
    let runtime = runtime();
    let bytes = match name {
        PLAIN => weight(children),
        WITH_TIMEOUT => weight(children_with_timeouts),
        MOVED_FIVE_TIMES => weight(|| moved(5)),
        MOVED_FIFTY_TIMES => weight(|| moved(50)),
        HEAP => weight(heap_by_hand),
        TOKIO => weight(|| sleeps(&runtime)),
        _ => weight(|| delay_queue(&runtime)),
    }?;
    println!("{bytes}");
    Ok(())
}

fn weight<T>(make: impl FnOnce() -> T) -> Result<f64, BoxError> {
    let (bytes, things) = gain(make)?;
    drop(things);
    Ok(bytes / f64::from(PENDING))
}

fn moved(times: u64) -> Children {
    let children = children_with_timeouts();
    for time in 0..times {
        for (_, timeout) in MOVES {
            move_all_to(&children, |index| timeout(index, time));
        }
    }
    children
}

// ---- lateness ----

/// Lets so many deadlines come in the course of a second; how late each of them was.
type Scatter = fn(u32) -> Vec<f64>;

const SCATTERED: [(&str, Scatter); 4] = [
    (WAITED_FOR, waited_for),
    (CALLED, called),
    ("heap by hand, its thread", heap_rings),
    ("tokio sleep, a task each", tasks_sleep),
];

const WAITED_FOR: &str = "taskmuster, wait() for each in turn";
const CALLED: &str = "taskmuster, on_cancel()";

fn lateness(size: u32, effort: Effort) -> Result<(), BoxError> {
    println!("\n{size} deadlines scattered over a second, µs late: median, 99th percentile");
    let rounds = effort.pick(1, 1, 5);
    let mut medians: Vec<Vec<f64>> = vec![Vec::new(); SCATTERED.len()];
    let mut tails = medians.clone();
    for _ in 0..rounds {
        for (index, (_, scatter)) in SCATTERED.into_iter().enumerate() {
            let mut late = scatter(size);
            late.sort_by(f64::total_cmp);
            medians[index].push(*late.get(late.len() / 2).ok_or("no deadline came")?);
            tails[index].push(*late.get(late.len() * 99 / 100).ok_or("no deadline came")?);
        }
    }
    for ((name, _), (medians, tails)) in SCATTERED.iter().zip(medians.into_iter().zip(tails)) {
        let median = Quartiles::of(medians).median;
        let tail = Quartiles::of(tails).median;
        println!("  {name:36} {median:10.1} {tail:10.1}");
        if [WAITED_FOR, CALLED].contains(name) {
            verdict(median <= 100.0, &format!("\"{name}\" at most 100 µs late"));
        }
    }
    Ok(())
}

/// When each deadline is to come, and how late it came.
struct Schedule {
    moments: Vec<Instant>,
    nanoseconds_late: Vec<AtomicU64>,
    missing: AtomicUsize,
}

impl Schedule {
    /// Over a second, in no order, and not before all of them are set.
    fn of(size: u32) -> Arc<Self> {
        let start = Instant::now() + Duration::from_millis(300);
        let moment = |index: u32| {
            let scattered = index.wrapping_mul(0x9e37_79b9) >> 2;
            start + Duration::from_nanos(u64::from(scattered) % 1_000_000_000)
        };
        Arc::new(Self {
            moments: (0..size).map(moment).collect(),
            nanoseconds_late: (0..size).map(|_| AtomicU64::new(0)).collect(),
            missing: AtomicUsize::new(size as usize),
        })
    }

    fn came(&self, index: usize) {
        let late = self.moments[index].elapsed();
        let late = u64::try_from(late.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds_late[index].store(late, Ordering::Relaxed);
        // Release, with the acquire below: publishes the store before.
        self.missing.fetch_sub(1, Ordering::Release);
    }

    /// In microseconds, when all have come.
    fn late(&self) -> Vec<f64> {
        while self.missing.load(Ordering::Acquire) > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        let microseconds = |late: &AtomicU64| {
            Duration::from_nanos(late.load(Ordering::Relaxed)).as_secs_f64() * 1e6
        };
        self.nanoseconds_late.iter().map(microseconds).collect()
    }

    fn children(&self) -> Vec<CancellationToken> {
        let parent = CancellationToken::new();
        let child = |at: &Instant| {
            parent
                .child_with_deadline(*at)
                .expect("there is room for a thread")
        };
        self.moments.iter().map(child).collect()
    }
}

/// By one thread, which takes no notice of the others while it waits for one.
fn waited_for(size: u32) -> Vec<f64> {
    let schedule = Schedule::of(size);
    let children = schedule.children();
    let mut turns: Vec<usize> = (0..children.len()).collect();
    turns.sort_by_key(|index| schedule.moments[*index]);
    for index in turns {
        drop(children[index].wait());
        schedule.came(index);
    }
    schedule.late()
}

fn called(size: u32) -> Vec<f64> {
    let schedule = Schedule::of(size);
    let children = schedule.children();
    let watch = |(index, child): (usize, &CancellationToken)| {
        let schedule = Arc::clone(&schedule);
        child.on_cancel(move || schedule.came(index))
    };
    let guards: Vec<_> = children.iter().enumerate().map(watch).collect();
    let late = schedule.late();
    drop(guards);
    late
}

fn heap_rings(size: u32) -> Vec<f64> {
    let schedule = Schedule::of(size);
    let heap = Heap::default();
    for at in &schedule.moments {
        heap.insert(*at);
    }
    thread::scope(|scope| {
        scope.spawn(|| heap.run(|index| schedule.came(index)));
        schedule.late()
    })
}

fn tasks_sleep(size: u32) -> Vec<f64> {
    let runtime = runtime();
    let schedule = Schedule::of(size);
    for (index, at) in schedule.moments.iter().copied().enumerate() {
        let schedule = Arc::clone(&schedule);
        drop(runtime.spawn(async move {
            tokio::time::sleep_until(at.into()).await;
            schedule.came(index);
        }));
    }
    schedule.late()
}
