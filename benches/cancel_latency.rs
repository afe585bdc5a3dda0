//! From `cancel()` until the last of a thousand blocked threads is awake.
//!
//! `cargo bench -p taskmuster-benches --bench cancel_latency`; set `TASKMUSTER_BENCH=quick` for a
//! run of under 30 seconds.
//!
//! One crowd of threads serves all contenders in turn: it is told how to wait, falls asleep, is
//! woken, and whoever is awake sleeps at the gate again, which costs everybody the same. The
//! limit is one futex word and one wake for all: `OnceLock::wait` is just that on Linux.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

use crossbeam_channel::bounded;
use taskmuster::{BoxError, CancellationToken};
use taskmuster_benches::{Duel, Effort, Rounds, Unit, verdict};
use tokio_util::sync::CancellationToken as TokioToken;

const OURS: &str = "taskmuster, token.wait()";
const FUTEX: &str = "one futex word";
const UNPARK: &str = "park, unpark each";

const FOR_ONE_SIGNAL: [(&str, Signal); 8] = [
    (FUTEX, futex),
    ("std Mutex + Condvar", condvar),
    (OURS, |_| waiting(token_for_all)),
    ("taskmuster, token.recv()", |threads| {
        receiving(threads, token_for_all)
    }),
    ("tokio-util, block_on", |_| tokio_waiting(tokio_for_all)),
    (UNPARK, unpark),
    ("parking_lot Condvar", parking_lot_condvar),
    ("crossbeam, sender dropped", cancel_channel),
];

const EACH_ITS_OWN: [(&str, Signal); 5] = [
    (UNPARK, unpark),
    (OURS, |threads| waiting(|| child_each(threads.len()))),
    ("taskmuster, token.recv()", |threads| {
        receiving(threads, || child_each(threads.len()))
    }),
    ("tokio-util, block_on", |threads| {
        tokio_waiting(|| tokio_child_each(threads.len()))
    }),
    ("a futex word each", futex_each),
];

fn main() -> Result<(), BoxError> {
    let effort = Effort::chosen();
    let size = effort.pick(10, 1_000, 1_000);
    for_one_signal(size, effort);
    each_its_own(size, effort);
    alone(effort);
    idle(size, effort)
}

fn for_one_signal(size: usize, effort: Effort) {
    let title = format!("{size} threads wait for one token");
    let (awake, returned) = wake_up(&title, size, FOR_ONE_SIGNAL, effort);
    awake.print(FUTEX);
    awake.at_most_times(OURS, 1.5, FUTEX);
    returned.print(FUTEX);
    returned.at_most_times(OURS, 1.5, FUTEX);
}

fn each_its_own(size: usize, effort: Effort) {
    let title = format!("{size} threads wait for a token each, children of one");
    let (awake, returned) = wake_up(&title, size, EACH_ITS_OWN, effort);
    awake.print(UNPARK);
    awake.at_most_times(OURS, 1.3, UNPARK);
    returned.print(UNPARK);
    returned.at_most_times(OURS, 1.3, UNPARK);
}

/// The rounds for "last awake", and for "`cancel()` returned".
fn wake_up<const N: usize>(
    title: &str,
    size: usize,
    signals: [(&'static str, Signal); N],
    effort: Effort,
) -> (Rounds, Rounds) {
    let crowd = Crowd::of(size);
    let rounds = effort.pick(1, 21, 61);
    let returns = [const { RefCell::new(VecDeque::new()) }; N];
    let mut duel = Duel::new(format!("{title}: last awake"), Unit::Milliseconds);
    for ((name, signal), returns) in signals.into_iter().zip(&returns) {
        let crowd = &crowd;
        duel.contender(name, move |passes| {
            let wake = |_| {
                let wake = crowd.wake(signal, Duration::from_millis(10));
                returns.borrow_mut().push_back(wake.returned);
                wake.last_awake
            };
            (0..passes).map(wake).sum()
        });
    }
    let awake = duel.rounds(rounds, Duration::ZERO);
    duel.criterion(&mut effort.criterion_of_crowds());
    // The same rounds once more, from memory.
    let mut duel = Duel::new(format!("{title}: cancel() returned"), Unit::Milliseconds);
    for ((name, _), returns) in signals.into_iter().zip(&returns) {
        duel.contender(name, move |_| {
            returns.borrow_mut().pop_front().unwrap_or_default()
        });
    }
    (awake, duel.rounds(rounds, Duration::ZERO))
}

fn alone(effort: Effort) {
    let crowd = Crowd::of(1);
    let mut duel = Duel::new("one thread waits", Unit::Microseconds);
    for (name, signal) in FOR_ONE_SIGNAL {
        let crowd = &crowd;
        duel.contender(name, move |passes| {
            let wake = |_| crowd.wake(signal, Duration::from_micros(100)).last_awake;
            (0..passes).map(wake).sum()
        });
    }
    let rounds = duel.rounds(effort.pick(1, 31, 101), effort.turn() / 8);
    rounds.print(FUTEX);
    rounds.at_most_times(OURS, 1.2, FUTEX);
    rounds.at_most_times(OURS, 1.2, UNPARK);
    duel.criterion(&mut effort.criterion_of_crowds());
}

/// How many percent of a core a crowd burns that waits for a second.
fn idle(size: usize, effort: Effort) -> Result<(), BoxError> {
    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const POLLING: Duration = Duration::from_millis(10);

    let second = effort.pick(
        Duration::from_millis(10),
        Duration::from_secs(1),
        Duration::from_secs(5),
    );
    let crowd = Crowd::of(size);
    let waits: [(&str, Signal); 4] = [
        (OURS, |threads| waiting(|| child_each(threads.len()))),
        ("taskmuster, token.sleep()", |_| {
            with_tokens(token_for_all, |_, token| {
                token
                    .sleep(DAY)
                    .expect_err("it is cancelled on the same day");
            })
        }),
        ("taskmuster, token.recv()", |threads| {
            receiving(threads, token_for_all)
        }),
        ("polling every 10 ms", |_| {
            with_tokens(token_for_all, |_, token| {
                while !token.is_cancelled() {
                    thread::sleep(POLLING);
                }
            })
        }),
    ];
    println!("\n{size} idle threads, percent of a core");
    for (name, signal) in waits {
        let mut burnt = Ok(0.0);
        crowd.wake_after(signal, || {
            thread::sleep(Duration::from_millis(100));
            burnt = percent_of_a_core(second);
        });
        let burnt = burnt?;
        println!("  {name:36} {burnt:10.3} %");
        if name.starts_with("taskmuster") {
            verdict(burnt < 0.05, &format!("\"{name}\" burns 0.0 %"));
        }
    }
    Ok(())
}

fn percent_of_a_core(span: Duration) -> Result<f64, BoxError> {
    let before = processor_time_of_others()?;
    thread::sleep(span);
    let burnt = processor_time_of_others()?.saturating_sub(before);
    Ok(100.0 * burnt.as_secs_f64() / span.as_secs_f64())
}

/// What all threads but the calling one have used so far.
fn processor_time_of_others() -> Result<Duration, BoxError> {
    let own = fs::read_link("/proc/thread-self")?;
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir("/proc/self/task")? {
        let thread = thread?;
        if own.file_name() == Some(&thread.file_name()) {
            continue;
        }
        let used = fs::read_to_string(thread.path().join("schedstat"))?;
        let nanoseconds = used.split(' ').next().ok_or("an empty schedstat")?;
        sum += Duration::from_nanos(nanoseconds.parse()?);
    }
    Ok(sum)
}

// ---- ways of waiting ----

/// Sets up one signal for these threads: how the thread with a number waits, and how all are woken.
type Signal = fn(&[Thread]) -> (Wait, Wake);
type Wait = Box<dyn Fn(usize) + Send + Sync>;
type Wake = Box<dyn Fn()>;

/// The token to be cancelled, and those to wait at: the thread with a number takes the next.
type Tokens<T> = (T, Vec<T>);

fn token_for_all() -> Tokens<CancellationToken> {
    let token = CancellationToken::new();
    (token.clone(), vec![token])
}

fn child_each(size: usize) -> Tokens<CancellationToken> {
    let parent = CancellationToken::new();
    let children = (0..size).map(|_| parent.child_token()).collect();
    (parent, children)
}

fn waiting(tokens: impl FnOnce() -> Tokens<CancellationToken>) -> (Wait, Wake) {
    with_tokens(tokens, |_, token| drop(token.wait()))
}

/// Each has a channel of its own.
fn receiving(
    threads: &[Thread],
    tokens: impl FnOnce() -> Tokens<CancellationToken>,
) -> (Wait, Wake) {
    let channels: Vec<_> = threads.iter().map(|_| bounded::<()>(0)).collect();
    with_tokens(tokens, move |index, token| {
        let (_sender, receiver) = &channels[index];
        token.recv(receiver).expect_err("nothing is ever sent");
    })
}

fn with_tokens(
    tokens: impl FnOnce() -> Tokens<CancellationToken>,
    wait: impl Fn(usize, &CancellationToken) + Send + Sync + 'static,
) -> (Wait, Wake) {
    let (parent, tokens) = tokens();
    (
        Box::new(move |index| wait(index, &tokens[index % tokens.len()])),
        Box::new(move || assert!(parent.cancel())),
    )
}

fn tokio_for_all() -> Tokens<TokioToken> {
    let token = TokioToken::new();
    (token.clone(), vec![token])
}

fn tokio_child_each(size: usize) -> Tokens<TokioToken> {
    let parent = TokioToken::new();
    let children = (0..size).map(|_| parent.child_token()).collect();
    (parent, children)
}

fn tokio_waiting(tokens: impl FnOnce() -> Tokens<TokioToken>) -> (Wait, Wake) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("there is room for a runtime");
    let (parent, tokens) = tokens();
    let handle = runtime.handle().clone();
    (
        Box::new(move |index| handle.block_on(tokens[index % tokens.len()].cancelled())),
        Box::new(move || {
            let _runtime = &runtime;
            parent.cancel();
        }),
    )
}

fn futex(_: &[Thread]) -> (Wait, Wake) {
    let signal = Arc::new(OnceLock::new());
    let theirs = Arc::clone(&signal);
    (
        Box::new(move |_| *theirs.wait()),
        Box::new(move || signal.set(()).expect("this is the only signal")),
    )
}

fn futex_each(threads: &[Thread]) -> (Wait, Wake) {
    let signals: Arc<[OnceLock<()>]> = threads.iter().map(|_| OnceLock::new()).collect();
    let theirs = Arc::clone(&signals);
    (
        Box::new(move |index| *theirs[index].wait()),
        Box::new(move || {
            for signal in &*signals {
                signal.set(()).expect("this is the only signal");
            }
        }),
    )
}

fn condvar(_: &[Thread]) -> (Wait, Wake) {
    let signal = Arc::new((Mutex::new(false), Condvar::new()));
    let theirs = Arc::clone(&signal);
    (
        Box::new(move |_| {
            let (is_set, changed) = &*theirs;
            let is_set = is_set.lock().unwrap_or_else(PoisonError::into_inner);
            drop(changed.wait_while(is_set, |is_set| !*is_set));
        }),
        Box::new(move || {
            let (is_set, changed) = &*signal;
            *is_set.lock().unwrap_or_else(PoisonError::into_inner) = true;
            changed.notify_all();
        }),
    )
}

fn parking_lot_condvar(_: &[Thread]) -> (Wait, Wake) {
    let signal = Arc::new((parking_lot::Mutex::new(false), parking_lot::Condvar::new()));
    let theirs = Arc::clone(&signal);
    (
        Box::new(move |_| {
            let (is_set, changed) = &*theirs;
            changed.wait_while(&mut is_set.lock(), |is_set| !*is_set);
        }),
        Box::new(move || {
            let (is_set, changed) = &*signal;
            *is_set.lock() = true;
            changed.notify_all();
        }),
    )
}

fn cancel_channel(_: &[Thread]) -> (Wait, Wake) {
    let (sender, receiver) = bounded::<()>(0);
    let sender = RefCell::new(Some(sender));
    (
        Box::new(move |_| {
            receiver.recv().expect_err("nothing is ever sent");
        }),
        Box::new(move || drop(sender.take())),
    )
}

fn unpark(threads: &[Thread]) -> (Wait, Wake) {
    let is_set = Arc::new(AtomicBool::new(false));
    let theirs = Arc::clone(&is_set);
    let threads = threads.to_vec();
    (
        Box::new(move |_| {
            while !theirs.load(Ordering::Acquire) {
                thread::park();
            }
        }),
        Box::new(move || {
            is_set.store(true, Ordering::Release);
            threads.iter().for_each(Thread::unpark);
        }),
    )
}

// ---- the crowd ----

/// Threads that wait together, again and again.
struct Crowd {
    threads: Vec<Thread>,
    gate: RefCell<Arc<Gate>>,
    handles: Vec<JoinHandle<()>>,
}

/// Opens with the next round and the gate after it, or for the last time.
#[derive(Default)]
struct Gate(OnceLock<Option<(Arc<Round>, Arc<Gate>)>>);

/// One wait of the whole crowd.
struct Round {
    size: usize,
    wait: Wait,
    arrived: AtomicUsize,
    awake: AtomicUsize,
    over: OnceLock<Instant>,
}

/// How long it took from before the wake-up call.
struct WakeUp {
    returned: Duration,
    last_awake: Duration,
}

impl Crowd {
    fn of(size: usize) -> Self {
        const STACK: usize = 64 * 1024;

        let gate = Arc::new(Gate::default());
        let member = |index| {
            let gate = Arc::clone(&gate);
            thread::Builder::new()
                .stack_size(STACK)
                .spawn(move || attend(index, gate))
                .expect("there is room for a thread")
        };
        let handles: Vec<JoinHandle<()>> = (0..size).map(member).collect();
        Self {
            threads: handles.iter().map(|it| it.thread().clone()).collect(),
            gate: RefCell::new(gate),
            handles,
        }
    }

    fn wake(&self, signal: Signal, settle: Duration) -> WakeUp {
        self.wake_after(signal, || thread::sleep(settle))
    }

    fn wake_after(&self, signal: Signal, settled: impl FnOnce()) -> WakeUp {
        let (wait, wake) = signal(&self.threads);
        let round = Arc::new(Round {
            size: self.threads.len(),
            wait,
            arrived: AtomicUsize::new(0),
            awake: AtomicUsize::new(0),
            over: OnceLock::new(),
        });
        self.open_gate(Some(Arc::clone(&round)));
        // Polls, so that nobody is woken by it, and gives the last ones time to fall asleep.
        while round.arrived.load(Ordering::Relaxed) < round.size {
            thread::sleep(Duration::from_micros(50));
        }
        settled();
        let start = Instant::now();
        wake();
        let returned = start.elapsed();
        let last_awake = *round.over.wait() - start;
        WakeUp {
            returned,
            last_awake,
        }
    }

    fn open_gate(&self, round: Option<Arc<Round>>) {
        let next = Arc::new(Gate::default());
        let gate = self.gate.replace(Arc::clone(&next));
        let opened = gate.0.set(round.map(|round| (round, next)));
        assert!(opened.is_ok(), "each gate is opened once");
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.open_gate(None);
        for handle in self.handles.drain(..) {
            handle.join().expect("no thread panics");
        }
    }
}

fn attend(index: usize, mut gate: Arc<Gate>) {
    while let Some((round, next)) = gate.0.wait() {
        // Relaxed, both: they publish nothing but themselves.
        round.arrived.fetch_add(1, Ordering::Relaxed);
        (round.wait)(index);
        if round.awake.fetch_add(1, Ordering::Relaxed) + 1 == round.size {
            round
                .over
                .set(Instant::now())
                .expect("only one is the last");
        }
        gate = Arc::clone(next);
    }
}
