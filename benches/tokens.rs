//! What 100,000 tokens cost: to create, to cancel, to keep, to drop; and a receive that looks at one.
//!
//! `cargo bench -p taskmuster-benches --bench tokens`; set `TASKMUSTER_BENCH=quick` for a run of
//! under 30 seconds.
//!
//! The limit is a flat list of flags by hand: one allocation a flag, one list for all, no
//! subtrees, nobody ever leaves.

use std::error::Error;
use std::hint::black_box;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, select, unbounded};
use taskmuster::{BoxError, CancellationToken, Manager, TaskContext};
use taskmuster_benches::{
    Duel, Effort, Quartiles, Rounds, Unit, gain, time, to_be_weighed, verdict, weigh_in_child,
};
use tokio_util::sync::CancellationToken as TokioToken;

const OURS: &str = "taskmuster";
const TOKIO: &str = "tokio-util";
const FLAT: &str = "flat list of flags by hand";

const TOKENS: u32 = 100_000;

/// Where the token with this number hangs; `None` is the root.
type Shape = fn(usize) -> Option<usize>;

const SHAPES: [(&str, Shape); 3] = [
    ("wide", |_| None),
    ("100 chains", |index| {
        (!index.is_multiple_of(1_000)).then(|| index - 1)
    }),
    ("10-ary tree", |index| (index / 10).checked_sub(1)),
];

fn main() -> Result<(), BoxError> {
    if let Some(name) = to_be_weighed() {
        return weigh(&name);
    }
    let effort = Effort::chosen();
    create(effort);
    for (name, shape) in SHAPES {
        cancel(name, shape, effort);
    }
    requests(effort);
    weights(effort.pick(1, 3, 5))?;
    receive(effort)
}

fn create(effort: Effort) {
    let mut duel = crowd_duel("creation of 100,000 tokens");
    duel.contender(OURS, creating::<CancellationToken>);
    duel.contender(TOKIO, creating::<TokioToken>);
    duel.contender(FLAT, creating::<Flat>);
    let rounds = finish(duel, effort, Duration::ZERO);
    rounds.at_most_times(OURS, 1.0, TOKIO);
}

fn creating<T: Token>(passes: u64) -> Duration {
    (0..passes).map(|_| time(|| tree::<T>(|_| None))).sum()
}

fn cancel(name: &str, shape: Shape, effort: Effort) {
    let mut duel = crowd_duel(&format!("cancel of 100,000 tokens, {name}"));
    duel.contender(OURS, |passes| {
        cancelling::<CancellationToken>(shape, passes)
    });
    duel.contender(TOKIO, |passes| cancelling::<TokioToken>(shape, passes));
    duel.contender(FLAT, |passes| cancelling::<Flat>(shape, passes));
    let rounds = finish(duel, effort, Duration::ZERO);
    rounds.at_most(OURS, if name == "wide" { 20.0 } else { 35.0 });
    rounds.at_most_times(OURS, 1.0, TOKIO);
}

fn cancelling<T: Token>(shape: Shape, passes: u64) -> Duration {
    let cancel = |_| {
        let (root, tokens) = tree::<T>(shape);
        let elapsed = time(|| root.cancel());
        assert!(tokens.last().is_some_and(Token::is_cancelled));
        elapsed
    };
    (0..passes).map(cancel).sum()
}

/// A token for a request and ten for its parts, all dropped at its end, below a root that stays.
fn requests(effort: Effort) {
    let mut duel = Duel::new(
        "ten children a request, created and dropped, a token",
        Unit::Nanoseconds,
    )
    .parts(11);
    duel.contender(OURS, serving::<CancellationToken>());
    duel.contender(TOKIO, serving::<TokioToken>());
    duel.contender(FLAT, serving::<Flat>());
    let rounds = finish(duel, effort, effort.turn());
    rounds.at_most_times(OURS, 1.0, TOKIO);
}

fn serving<T: Token>() -> impl FnMut(u64) -> Duration {
    let root = T::root();
    move |passes| {
        time(|| {
            for _ in 0..passes {
                let request = root.request();
                let parts: [T; 10] = std::array::from_fn(|_| request.child());
                drop(black_box((request, parts)));
            }
        })
    }
}

fn crowd_duel(title: &str) -> Duel<'static> {
    Duel::new(title, Unit::Nanoseconds).parts(TOKENS)
}

/// A turn of no length is one pass: enough for 100,000 tokens.
fn finish(mut duel: Duel<'_>, effort: Effort, turn: Duration) -> Rounds {
    let rounds = duel.rounds(effort.rounds(), turn);
    rounds.print(FLAT);
    duel.criterion(&mut effort.criterion_of_crowds());
    rounds
}

/// What the contenders have in common.
trait Token: Sized {
    fn root() -> Self;
    fn child(&self) -> Self;
    fn cancel(&self);
    fn is_cancelled(&self) -> bool;

    /// A token that goes while the root stays.
    fn request(&self) -> Self {
        self.child()
    }
}

impl Token for CancellationToken {
    fn root() -> Self {
        Self::new()
    }

    fn child(&self) -> Self {
        self.child_token()
    }

    fn cancel(&self) {
        Self::cancel(self);
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled()
    }
}

impl Token for TokioToken {
    fn root() -> Self {
        Self::new()
    }

    fn child(&self) -> Self {
        self.child_token()
    }

    fn cancel(&self) {
        self.cancel();
    }

    fn is_cancelled(&self) -> bool {
        self.is_cancelled()
    }
}

/// A flag in a list of all flags.
struct Flat {
    flag: Arc<AtomicBool>,
    all: Arc<Mutex<Vec<Arc<AtomicBool>>>>,
}

impl Token for Flat {
    fn root() -> Self {
        Self {
            flag: Arc::default(),
            all: Arc::default(),
        }
    }

    fn child(&self) -> Self {
        let flag = Arc::new(AtomicBool::new(false));
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(Arc::clone(&flag));
        drop(all);
        Self {
            flag,
            all: Arc::clone(&self.all),
        }
    }

    fn cancel(&self) {
        self.flag.store(true, Relaxed);
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().for_each(|flag| flag.store(true, Relaxed));
    }

    fn is_cancelled(&self) -> bool {
        self.flag.load(Relaxed)
    }

    /// A list of its own: nobody ever leaves one.
    fn request(&self) -> Self {
        Self::root()
    }
}

fn tree<T: Token>(shape: Shape) -> (T, Vec<T>) {
    let root = T::root();
    let size = TOKENS as usize;
    let mut tokens: Vec<T> = Vec::with_capacity(size);
    for index in 0..size {
        let parent = shape(index).map_or(&root, |parent| &tokens[parent]);
        let token = parent.child();
        tokens.push(token);
    }
    (root, tokens)
}

fn weights(rounds: usize) -> Result<(), BoxError> {
    println!("\nresident memory of one of 100,000 tokens, bytes, without its handle");
    for (shape, _) in SHAPES {
        for name in [OURS, TOKIO, FLAT] {
            let weighed: Result<Vec<f64>, _> = (0..rounds)
                .map(|_| weigh_in_child(&format!("{name}/{shape}")))
                .collect();
            let bytes = Quartiles::of(weighed?);
            println!("  {shape:12} {name:28} {bytes}");
            if name == OURS {
                verdict(
                    bytes.median <= 128.0,
                    &format!("at most 128 bytes, {shape}"),
                );
            }
        }
    }
    Ok(())
}

/// The child's side: prints the bytes a token.
fn weigh(name: &str) -> Result<(), BoxError> {
    let (name, shape) = name.split_once('/').ok_or("a name and a shape")?;
    let (_, shape) = SHAPES
        .into_iter()
        .find(|(known, _)| *known == shape)
        .ok_or("there is no such shape")?;
    let bytes = match name {
        OURS => weight::<CancellationToken>(shape),
        TOKIO => weight::<TokioToken>(shape),
        _ => weight::<Flat>(shape),
    }?;
    println!("{bytes}");
    Ok(())
}

fn weight<T: Token>(shape: Shape) -> Result<f64, BoxError> {
    let (bytes, tree) = gain(|| tree::<T>(shape))?;
    drop(tree);
    let handle = u32::try_from(size_of::<T>())?;
    Ok(bytes / f64::from(TOKENS) - f64::from(handle))
}

const PLAIN_RECEIVE: &str = "receiver.recv()";
const SELECT: &str = "select! with a cancel channel";
const OUR_RECEIVE: &str = "token.recv()";
const OUR_TASKS_RECEIVE: &str = "ctx.recv()";

/// Measured inside a task, so that `ctx` is a real one.
fn receive(effort: Effort) -> Result<(), BoxError> {
    let manager = Manager::builder().build()?;
    manager
        .spawn("receiver", move |ctx| {
            receiving(ctx, effort);
            Ok(())
        })?
        .join()?;
    drop(manager.shutdown()?);
    Ok(())
}

fn receiving(ctx: &TaskContext, effort: Effort) {
    let (sender, receiver) = unbounded();
    let (_canceller, cancelled) = bounded::<()>(0);
    let token = CancellationToken::new();
    let mut duel = Duel::new("a receive with messages ready", Unit::Nanoseconds);
    duel.contender(PLAIN_RECEIVE, |passes| {
        taking(&sender, &receiver, passes, |receiver| Ok(receiver.recv()?))
    });
    duel.contender(SELECT, |passes| {
        taking(&sender, &receiver, passes, |receiver| {
            select! {
                recv(cancelled) -> _ => Err("cancelled".into()),
                recv(receiver) -> value => Ok(value?),
            }
        })
    });
    duel.contender(OUR_RECEIVE, |passes| {
        taking(&sender, &receiver, passes, |receiver| {
            Ok(token.recv(receiver)?)
        })
    });
    duel.contender(OUR_TASKS_RECEIVE, |passes| {
        taking(&sender, &receiver, passes, |receiver| {
            Ok(ctx.recv(receiver)?)
        })
    });
    let rounds = duel.rounds(effort.rounds(), effort.turn());
    rounds.print(PLAIN_RECEIVE);
    rounds.at_most_times(OUR_RECEIVE, 1.0, PLAIN_RECEIVE);
    rounds.at_most_times(OUR_TASKS_RECEIVE, 1.1, PLAIN_RECEIVE);
    rounds.at_least_times_cheaper(OUR_TASKS_RECEIVE, 2.0, SELECT);
    duel.criterion(&mut effort.criterion());
}

/// Takes `passes` messages out that were put in before the clock was read.
fn taking(
    sender: &Sender<u64>,
    receiver: &Receiver<u64>,
    passes: u64,
    take: impl Fn(&Receiver<u64>) -> Result<u64, Box<dyn Error + Send + Sync>>,
) -> Duration {
    for message in 0..passes {
        sender.send(message).expect("the receiver is here");
    }
    time(|| {
        for message in 0..passes {
            assert_eq!(take(receiver).ok(), Some(message));
        }
    })
}
