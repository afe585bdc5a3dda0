//! Contenders that take turns and are compared within each round.

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput};

use crate::quartiles::{Quartiles, Unit};

/// How long `work` takes.
///
/// What `work` returns is kept from the optimiser, and dropped after the clock has been read.
pub fn time<T>(work: impl FnOnce() -> T) -> Duration {
    let start = Instant::now();
    let result = black_box(work());
    let elapsed = start.elapsed();
    drop(result);
    elapsed
}

/// Contenders for one figure, who take turns.
///
/// A contender is told how many passes to make and says how long they took, as in criterion's
/// `iter_custom`; what it does not count is free.
///
/// ```no_run
/// use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
/// use std::time::Instant;
///
/// use taskmuster_benches::{Duel, Effort, Unit, time};
///
/// let flag = AtomicBool::new(false);
/// let mut duel = Duel::new("a look", Unit::Nanoseconds);
/// duel.contender("at a flag", |passes| time(|| (0..passes).any(|_| flag.load(Relaxed))));
/// duel.contender("at the clock", |passes| time(|| (0..passes).map(|_| Instant::now()).max()));
/// let effort = Effort::chosen();
/// let rounds = duel.rounds(effort.rounds(), effort.turn());
/// rounds.print("at a flag");
/// rounds.at_least_times_cheaper("at a flag", 10.0, "at the clock");
/// duel.criterion(&mut effort.criterion());
/// ```
pub struct Duel<'a> {
    title: String,
    unit: Unit,
    parts: u32,
    contenders: Vec<Contender<'a>>,
}

struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut(u64) -> Duration + 'a>,
}

impl<'a> Duel<'a> {
    /// A duel without contenders.
    pub fn new(title: impl Into<String>, unit: Unit) -> Self {
        Self {
            title: title.into(),
            unit,
            parts: 1,
            contenders: Vec::new(),
        }
    }

    /// Tells the time of one of so many equal parts of a pass, where a pass handles a crowd.
    #[must_use]
    pub fn parts(mut self, parts: u32) -> Self {
        self.parts = parts;
        self
    }

    /// Adds a contender.
    pub fn contender(
        &mut self,
        name: impl Into<String>,
        run: impl FnMut(u64) -> Duration + 'a,
    ) -> &mut Self {
        self.contenders.push(Contender {
            name: name.into(),
            run: Box::new(run),
        });
        self
    }

    /// Lets everyone take a turn in each round, with as many passes as fill `turn`.
    ///
    /// Every other round goes backwards, so that nobody always follows the same neighbour.
    /// Rounds in which the machine was busy need no discarding: a median ignores them.
    pub fn rounds(&mut self, rounds: usize, turn: Duration) -> Rounds {
        let passes: Vec<u64> = self
            .contenders
            .iter_mut()
            .map(|contender| contender.passes_within(turn))
            .collect();
        let mut times = vec![Vec::with_capacity(rounds); self.contenders.len()];
        for round in 0..rounds {
            for step in 0..self.contenders.len() {
                let index = match round % 2 {
                    0 => step,
                    _ => self.contenders.len() - 1 - step,
                };
                let elapsed = (self.contenders[index].run)(passes[index]);
                let per_pass = self.unit.per_pass(elapsed, passes[index]);
                times[index].push(per_pass / f64::from(self.parts));
            }
        }
        let names = self.contenders.iter().map(|it| it.name.clone());
        Rounds {
            title: self.title.clone(),
            unit: self.unit,
            times: names.zip(times).collect(),
        }
    }

    /// Hands the same contenders to criterion, one benchmark each.
    pub fn criterion(&mut self, criterion: &mut Criterion) {
        let mut group = criterion.benchmark_group(&self.title);
        if self.parts > 1 {
            group.throughput(Throughput::Elements(u64::from(self.parts)));
        }
        for contender in &mut self.contenders {
            group.bench_function(&contender.name, |bencher| {
                bencher.iter_custom(&mut contender.run);
            });
        }
        group.finish();
    }
}

impl Contender<'_> {
    /// Also the warm-up.
    fn passes_within(&mut self, turn: Duration) -> u64 {
        let mut passes = 1;
        while !turn.is_zero() && (self.run)(passes) < turn {
            passes *= 2;
        }
        passes
    }
}

/// What was measured in the rounds of a [`Duel`].
#[derive(Clone, Debug)]
pub struct Rounds {
    title: String,
    unit: Unit,
    times: Vec<(String, Vec<f64>)>,
}

impl Rounds {
    /// Prints a table: each contender's time for a pass, and its ratio to `reference`.
    ///
    /// # Panics
    ///
    /// When there is no such contender.
    pub fn print(&self, reference: &str) {
        let Self { title, unit, times } = self;
        let rounds = self.times(reference).len();
        println!("\n{title}: median (quartiles) of {rounds} rounds, ratio to \"{reference}\"");
        for (name, times) in times {
            let scale = Quartiles::of(times.iter().copied());
            let ratio = self.ratio(name, reference);
            println!("  {name:36} {:10.2} {unit}  x {ratio}", scale.median);
        }
    }

    /// Says whether `contender` costs at most `limit` units.
    ///
    /// # Panics
    ///
    /// When there is no such contender.
    pub fn at_most(&self, contender: &str, limit: f64) {
        let cost = Quartiles::of(self.times(contender).iter().copied());
        let unit = self.unit;
        verdict(
            cost.median <= limit,
            &format!("\"{contender}\" at most {limit} {unit}: {cost}"),
        );
    }

    /// Says whether `contender` costs at most `limit` times what `rival` costs.
    ///
    /// # Panics
    ///
    /// When there is no such contender.
    pub fn at_most_times(&self, contender: &str, limit: f64, rival: &str) {
        let ratio = self.ratio(contender, rival);
        verdict(
            ratio.median <= limit,
            &format!("\"{contender}\" at most {limit} times \"{rival}\": {ratio}"),
        );
    }

    /// Says whether `contender` is at least `limit` times cheaper than `rival`.
    ///
    /// # Panics
    ///
    /// When there is no such contender.
    pub fn at_least_times_cheaper(&self, contender: &str, limit: f64, rival: &str) {
        let ratio = self.ratio(rival, contender);
        verdict(
            ratio.median >= limit,
            &format!("\"{contender}\" at least {limit} times cheaper than \"{rival}\": {ratio}"),
        );
    }

    /// Says whether `contender` costs at most `limit` units more than `rival`.
    ///
    /// # Panics
    ///
    /// When there is no such contender.
    pub fn at_most_above(&self, contender: &str, limit: f64, rival: &str) {
        let difference = self.round_by_round(contender, rival, |ours, theirs| ours - theirs);
        let unit = self.unit;
        verdict(
            difference.median <= limit,
            &format!("\"{contender}\" at most {limit} {unit} above \"{rival}\": {difference}"),
        );
    }

    fn ratio(&self, contender: &str, reference: &str) -> Quartiles {
        self.round_by_round(contender, reference, |ours, theirs| ours / theirs)
    }

    fn round_by_round(
        &self,
        contender: &str,
        reference: &str,
        compared: impl Fn(f64, f64) -> f64,
    ) -> Quartiles {
        let rounds = self.times(contender).iter().zip(self.times(reference));
        Quartiles::of(rounds.map(|(ours, theirs)| compared(*ours, *theirs)))
    }

    fn times(&self, contender: &str) -> &[f64] {
        let found = self.times.iter().find(|(name, _)| name == contender);
        let Some((_, times)) = found else {
            panic!("nobody here is called {contender:?}");
        };
        times
    }
}

/// Prints one line about one figure to reach.
pub fn verdict(is_reached: bool, figure: &str) {
    let word = if is_reached { "reached" } else { "MISSED " };
    println!("  {word}  {figure}");
}
