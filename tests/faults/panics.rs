//! A panic at every place where the library calls code of its user.
//!
//! An *act* is a short program that makes the library call all kinds of user code. Each call is a *step*. An act is
//! played once to count its steps, and then once for each step, with a mine under it: that call panics. Whatever
//! happens then, nothing hangs or aborts, every accepted task ends once, the books balance, and the panic hits who it
//! should.

#![expect(clippy::unit_arg, reason = "a body that does one thing is one line")]

use std::any::Any;
use std::borrow::Cow;
use std::error::Error;
use std::fmt;
use std::iter;
use std::mem;
use std::panic::{self, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{Receiver, bounded};
use taskmuster::{
    Backoff, BoxError, CancellationToken, Cancelled, Cause, Child, Job, JoinError, Manager,
    OnFailure, Restart, Schedule, ShutdownReport, Strategy, Supervisor, TaskEnd, TaskResult,
    Timetable,
};

use crate::books::{
    HANG, arrives, assert_all_ended_once, assert_balanced, rounds, soon, until_nobody_lives,
};
use crate::child;
use crate::logger;
use crate::nasty::{Bomb, text_of};
use crate::preload::assert_played;

/// Whom the panic of a step must hit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hits {
    /// The task that made the library call it: it ends as panicked.
    Task,
    /// Whoever called the library.
    Caller,
    /// Nobody: it is contained.
    Nobody,
    /// The task or nobody, as it happens.
    TaskOrNobody,
}

use Hits::{Caller, Nobody, Task, TaskOrNobody};

type Place = (&'static str, Hits);

/// The steps of one act, and the mine under one of them.
#[derive(Clone)]
struct Mines(Arc<Field>);

struct Field {
    steps: AtomicUsize,
    /// From 1; 0 for none.
    mined: usize,
    /// Whether the payload of the panic is as nasty as can be.
    is_bomb: bool,
    hit: Mutex<Option<Place>>,
}

const MINE: &str = "a mine";

impl Mines {
    fn under(step: usize, is_bomb: bool) -> Self {
        Self(Arc::new(Field {
            steps: AtomicUsize::new(0),
            mined: step,
            is_bomb,
            hit: Mutex::new(None),
        }))
    }

    fn step(&self, what: &'static str, hits: Hits) {
        let step = self.0.steps.fetch_add(1, Ordering::SeqCst) + 1;
        if step == self.0.mined {
            *self.0.hit.lock().expect("no panic under it") = Some((what, hits));
            if self.0.is_bomb {
                panic::panic_any(Bomb(1));
            }
            panic!("{MINE}");
        }
    }

    fn steps(&self) -> usize {
        self.0.steps.load(Ordering::SeqCst)
    }

    fn hit(&self) -> Option<Place> {
        *self.0.hit.lock().expect("no panic under it")
    }

    /// Something whose destructor is a step.
    fn dropped(&self, what: &'static str, hits: Hits) -> Dropped {
        Dropped(self.clone(), what, hits)
    }

    /// Something whose conversion is a step.
    fn converted(&self, what: &'static str, hits: Hits) -> Converted {
        Converted(self.clone(), what, hits)
    }

    /// An error all of whose parts are steps.
    fn error(&self, source: Option<Cancelled>) -> Mined {
        Mined {
            dropped: self.dropped("the drop of an error", Nobody),
            source,
        }
    }
}

struct Dropped(Mines, &'static str, Hits);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.step(self.1, self.2);
    }
}

struct Converted(Mines, &'static str, Hits);

impl AsRef<str> for Converted {
    fn as_ref(&self) -> &str {
        self.0.step(self.1, self.2);
        self.1
    }
}

impl From<Converted> for String {
    fn from(converted: Converted) -> Self {
        converted.as_ref().to_owned()
    }
}

impl From<Converted> for Cow<'static, str> {
    fn from(converted: Converted) -> Self {
        String::from(converted).into()
    }
}

struct Mined {
    dropped: Dropped,
    source: Option<Cancelled>,
}

impl Mined {
    fn step(&self, what: &'static str, in_a_task: Hits) {
        let is_in_a_task = taskmuster::current().is_some();
        let hits = if is_in_a_task { in_a_task } else { Caller };
        self.dropped.0.step(what, hits);
    }

    /// With another victim of its drop.
    fn whose_drop_hits(mut self, hits: Hits) -> Self {
        self.dropped.2 = hits;
        self
    }
}

impl fmt::Debug for Mined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step("the Debug of an error", Nobody);
        f.write_str("Mined")
    }
}

impl fmt::Display for Mined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.step("the Display of an error", Nobody);
        f.write_str("mined")
    }
}

impl Error for Mined {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        // Asked for whose cancel it is, before its words are asked for.
        self.step("the source of an error", TaskOrNobody);
        self.source.as_ref().map(|source| source as _)
    }
}

// ---- acts ----

type Act = fn(&Manager, &Mines);

const ACTS: [(&str, Act); 20] = [
    ("a value that is taken", |manager, mines| {
        let (capture, inner) = (mines.dropped("a capture", Task), mines.clone());
        let name = mines.converted("a name", Caller);
        let handle = manager.spawn(name, move |ctx| {
            let _capture = &capture;
            ctx.checkpoint()?;
            inner.step("a body", Task);
            Ok(inner.dropped("the drop of a value that was taken", Caller))
        });
        drop(soon(manager, &handle.expect("spawned")));
    }),
    ("values that nobody takes", |manager, mines| {
        for is_first_to_go in [true, false] {
            let (inner, (go, going)) = (mines.clone(), bounded::<()>(0));
            let handle = manager.spawn("leaves", move |_| {
                let _ = going.recv();
                Ok(inner.dropped("the drop of a value that nobody takes", Nobody))
            });
            let handle = is_first_to_go.then_some(handle.expect("spawned"));
            drop(go);
            drop((manager.wait(), handle));
        }
    }),
    ("an error that is read", |manager, mines| {
        let inner = mines.clone();
        let handle = manager.spawn::<()>("fails", move |_| {
            let error = inner.error(None).whose_drop_hits(Caller);
            inner.step("a body", Task);
            Err(Box::new(error))
        });
        let handle = handle.expect("spawned");
        let error = soon(manager, &handle);
        drop((handle.outcome(), handle));
        if let Err(error @ JoinError::Failed { .. }) = error {
            let source = error
                .source()
                .map(|source| (source.to_string(), source.source().is_some()));
            drop((error.to_string(), format!("{error:?}"), source));
        }
    }),
    ("errors that nobody reads", |manager, mines| {
        for is_first_to_go in [true, false] {
            let (inner, (go, going)) = (mines.clone(), bounded::<()>(0));
            let handle = manager.spawn::<()>("fails", move |_| {
                let _ = going.recv();
                Err(Box::new(inner.error(None)))
            });
            let handle = is_first_to_go.then_some(handle.expect("spawned"));
            drop(go);
            drop((manager.wait(), handle));
        }
    }),
    ("an error that is no more than a stop", |manager, mines| {
        let (inner, (there, ready)) = (mines.clone(), bounded(1));
        let handle = manager.spawn::<()>("stopped", move |ctx| {
            there.send(())?;
            Err(Box::new(
                inner.error(Some(ctx.wait())).whose_drop_hits(Task),
            ))
        });
        let handle = handle.expect("spawned");
        arrives(&ready);
        handle.cancel();
        drop(soon(manager, &handle));
    }),
    ("payloads of panics", |manager, mines| {
        for is_taken in [false, true] {
            let hits = if is_taken { Caller } else { Nobody };
            let payload = mines.clone();
            let handle = manager.spawn::<()>("panics", move |_| {
                panic::panic_any(payload.dropped("the drop of a payload", hits));
            });
            let ended = soon(manager, &handle.expect("spawned"));
            if let (true, Err(JoinError::Panicked(panic))) = (is_taken, ended) {
                drop(panic.take_payload());
            }
        }
    }),
    ("callbacks", |manager, mines| {
        let callback = |what| {
            let (mines, capture) = (
                mines.clone(),
                mines.dropped("a capture of a callback", Nobody),
            );
            move || {
                let _capture = &capture;
                mines.step(what, Nobody);
            }
        };
        let token = CancellationToken::new();
        drop(token.on_cancel(callback("a callback that was taken back")));
        token
            .on_cancel(callback("a callback that was disarmed"))
            .disarm();
        let guards = [
            token.on_cancel(callback("a callback")),
            token.on_cancel(callback("another callback")),
        ];
        token
            .on_cancel(callback("a callback without a guard"))
            .keep();
        token
            .child_token()
            .on_cancel(callback("a callback of a child"))
            .disarm();
        token.cancel();
        drop(guards);
        token
            .on_cancel(callback("a callback that comes too late"))
            .wait();
        let timed = token_with_timeout();
        let by_time = timed.on_cancel(callback("a callback of a deadline"));
        timed.wait();
        by_time.wait();

        let (by_handle, by_shutdown) = (
            callback("a callback of a task"),
            callback("a callback of the shutdown"),
        );
        let (there, ready) = bounded(2);
        let say = there.clone();
        let handle = manager.spawn::<()>("is cancelled", move |ctx| {
            let _guard = ctx.on_cancel(by_handle);
            say.send(())?;
            Err(ctx.wait().into())
        });
        let other = manager.spawn::<()>("is stopped", move |ctx| {
            let _guard = ctx.on_cancel(by_shutdown);
            there.send(())?;
            Err(ctx.wait().into())
        });
        arrives(&ready);
        arrives(&ready);
        handle.expect("spawned").cancel();
        manager.request_shutdown("now");
        drop(soon(manager, &other.expect("spawned")));
    }),
    ("sections and loops", |manager, mines| {
        let inner = mines.clone();
        let handle = manager.spawn("sections", move |ctx| {
            ctx.with_timeout(HANG, |_| Ok(inner.step("a body with a timeout", Task)))?;
            ctx.shield(HANG, |ctx| {
                inner.step("a shielded body", Task);
                Ok(ctx.with_timeout(HANG, |_| Ok(inner.step("a body inside another", Task)))?)
            })?;
            let what = inner.converted("the name of foreign code", Task);
            ctx.foreign(what, HANG, || inner.step("foreign code", Task));
            let mut left = 3;
            let items = iter::from_fn(|| {
                inner.step("the next of an iterator", Task);
                left -= 1;
                (left > 0).then_some(left)
            });
            for item in ctx.iter(items) {
                item?;
            }
            let failed: TaskResult = ctx
                .with_timeout(HANG, |_| {
                    Err(Box::new(inner.error(None).whose_drop_hits(Task)))
                })
                .map_err(Into::into);
            drop(failed);
            let current = taskmuster::current().expect("this is a task");
            assert!(!format!("{:?}", current.token()).is_empty());
            let borrowed = inner.dropped("the drop of something that was borrowed", Task);
            ctx.scope(inner.converted("the name of a scope", Task), |scope| {
                scope.on_failure(OnFailure::Record);
                inner.step("the body of a scope in a task", Task);
                scope.spawn("borrows", |_| Ok(size_of_val(&borrowed)))?;
                Ok(())
            })?;
            Ok(())
        });
        drop(soon(manager, &handle.expect("spawned")));
        until_nobody_lives(manager);
    }),
    ("a scope", |manager, mines| {
        let borrowed = mines.dropped("the drop of something that was borrowed", Caller);
        let scope = manager.scope(mines.converted("the name of a scope", Caller), |scope| {
            mines.step("the beginning of the body of a scope", Caller);
            let captured = mines.dropped("a capture of a task of a scope", Task);
            let first = scope.spawn(mines.converted("a name in a scope", Caller), |ctx| {
                let (_borrowed, _captured) = (&borrowed, captured);
                mines.step("the body of a task of a scope", Task);
                Ok(ctx.checkpoint()?)
            });
            let waits = scope.spawn::<()>("waits", |ctx| Err(ctx.wait().into()))?;
            mines.step("the middle of the body of a scope", Caller);
            drop(first?.join());
            waits.cancel();
            Ok(mines.dropped("the drop of the result of a scope", Caller))
        });
        drop(scope);
        assert!(manager.tasks().is_empty(), "the scope did not wait");
    }),
    ("tasks that never begin", |manager, mines| {
        let group = manager.group(mines.converted("the name of a group", Caller));
        group.token().cancel();
        let capture = mines.dropped("a capture of a task that never begins", Task);
        let handle = group.spawn("never", move |_| Ok(size_of_val(&capture)));
        drop(soon(manager, &handle.expect("accepted")));
        let capture = mines.dropped("a capture of a task that is too late", Task);
        let late = manager.task("late").deadline(Instant::now());
        let handle = late.spawn(move |_| Ok(size_of_val(&capture)));
        drop(soon(manager, &handle.expect("accepted")));
    }),
    ("spawns that are refused", |manager, mines| {
        let capture = || mines.dropped("a capture of a task that was refused", Caller);
        let (first, second, third) = (capture(), capture(), capture());
        let huge = manager.task("huge").stack_size(usize::MAX);
        let error = huge.spawn(move |_| Ok(size_of_val(&first))).map(drop);
        let error = error.map_err(|error| drop((error.to_string(), format!("{error:?}"), error)));
        assert!(error.is_err());
        let group = manager.group("stopped");
        group.cancel();
        assert!(
            group
                .spawn("late", move |_| Ok(size_of_val(&second)))
                .map(drop)
                .is_err()
        );
        let scope = group.scope("late", |scope| {
            Ok(scope.spawn("late", |_| Ok(drop(third))).map(drop)?)
        });
        assert!(scope.is_err());
    }),
    ("a group that fails together", |manager, mines| {
        let group = manager.group("fails together");
        let (there, ready) = bounded(1);
        let inner = mines.clone();
        let sibling = group.spawn::<()>("sibling", move |ctx| {
            let mines = inner.clone();
            let _guard = ctx.on_cancel(move || mines.step("a callback of a failure", Nobody));
            there.send(())?;
            Err(Box::new(
                inner.error(Some(ctx.wait())).whose_drop_hits(Task),
            ))
        });
        arrives(&ready);
        let inner = mines.clone();
        let fatal = group.task("fatal").on_failure(OnFailure::StopGroup);
        let fatal = fatal.spawn::<()>(move |_| {
            inner.step("the body of a fatal task", Task);
            Err(Box::new(inner.error(None)))
        });
        drop(group.join_timeout(HANG));
        drop((fatal, sibling));
    }),
    ("starts in order", |manager, mines| {
        let body = |what| {
            let (mines, capture) = (mines.clone(), mines.dropped("a capture of a start", Task));
            move |ctx: &taskmuster::TaskContext| {
                let _capture = &capture;
                mines.step(what, Task);
                ctx.ready();
                Err(ctx.wait().into())
            }
        };
        let group = manager.group("services");
        drop(
            group
                .task("one")
                .spawn_ready::<()>(HANG, body("the body of a start")),
        );
        let never = mines.dropped("a capture of what is not started any more", Caller);
        let startup = group
            .startup(HANG)
            .then(group.task("first"), body("the body of the first"))
            .then(group.task("second"), body("the body of the second"))
            .then(group.task("fails"), |_| Err("before it was ready".into()))
            .then(group.task("never"), move |_| Ok(drop(never)));
        drop(startup.start());
    }),
    ("a task that runs again", |manager, mines| {
        let (capture, inner) = (
            mines.dropped("a capture of several runs", Task),
            mines.clone(),
        );
        let (mut run, task) = (0, manager.task("again").restart(again()));
        let handle = task.spawn(move |_| {
            let _capture = &capture;
            run += 1;
            inner.step("a run", Nobody);
            match run {
                1 => Err(Box::new(inner.error(None))),
                2 => panic::panic_any(inner.dropped("the drop of a payload between runs", Nobody)),
                _ => Ok(inner.dropped("the drop of a value that was taken", Caller)),
            }
        });
        drop(soon(manager, &handle.expect("spawned")));
    }),
    ("a task that gives up", |manager, mines| {
        let (capture, inner) = (
            mines.dropped("a capture of several runs", Nobody),
            mines.clone(),
        );
        let task = manager.task("gives up").restart(again());
        let handle = task.spawn::<()>(move |_| {
            let _capture = &capture;
            inner.step("a run", Nobody);
            Err(Box::new(inner.error(None).whose_drop_hits(TaskOrNobody)))
        });
        drop(soon(manager, &handle.expect("spawned")));
    }),
    ("a task with a schedule", |manager, mines| {
        let (capture, inner) = (
            mines.dropped("a capture of several ticks", Task),
            mines.clone(),
        );
        let schedule = Schedule::spaced(Duration::ZERO).times(4);
        let (mut tick, task) = (0, manager.task("ticks").schedule(schedule));
        let handle = task.spawn(move |_| {
            let _capture = &capture;
            tick += 1;
            inner.step("a tick", Nobody);
            match tick {
                2 => Err(Box::new(inner.error(None))),
                _ => Ok(inner.dropped("the drop of a value of a tick", Nobody)),
            }
        });
        mem::forget(soon(manager, &handle.expect("spawned")));
    }),
    ("a retry", |manager, mines| {
        let inner = mines.clone();
        let handle = manager.spawn("retries", move |ctx| {
            let retried = ctx.retry(Backoff::none(), |attempt| {
                inner.step("an attempt", Task);
                match attempt {
                    ..3 => Err(Box::new(inner.error(None))),
                    _ => Ok(()),
                }
            });
            Ok(retried?)
        });
        drop(soon(manager, &handle.expect("spawned")));
    }),
    ("children and jobs", |manager, mines| {
        let body = |what| {
            let (mines, capture) = (mines.clone(), mines.dropped("a capture of a body", Nobody));
            let mut run = 0;
            move |_: &taskmuster::TaskContext| {
                let _capture = &capture;
                run += 1;
                mines.step(what, Task);
                if run == 1 {
                    return Err(BoxError::from(mines.error(None)));
                }
                Ok(())
            }
        };
        let name = mines.converted("the name of a child", Caller);
        let child = Child::new(name, body("the body of a child"));
        let supervisor = Supervisor::new(Strategy::OneForAll).restart(again());
        let supervisor = supervisor.child(child.permanent());
        let supervisor = supervisor.child(Child::new("another", body("the body of another")));
        let family = manager.task("family").supervise(supervisor);
        let name = mines.converted("the name of a job", Caller);
        let often = Schedule::spaced(Duration::ZERO).times(3);
        let job = Job::new(name, often, body("the body of a job"));
        let house = manager.task("house").timetable(Timetable::new().job(job));
        drop((
            soon(manager, &house.expect("started")),
            soon(manager, &family.expect("started")),
        ));
    }),
    ("notes", |manager, mines| {
        let inner = mines.clone();
        let asks = manager.spawn("asks", move |ctx| {
            let note = inner.converted("the note of a task", Task);
            Ok(ctx.request_shutdown(note))
        });
        drop(soon(manager, &asks.expect("spawned")));
        let note = |what| mines.converted(what, Caller);
        CancellationToken::new()
            .cancel_with(Cause::request().with_note(note("the note of a cause")));
        manager
            .requester()
            .request_shutdown(note("the note of a requester"));
        manager.request_shutdown(note("the note of a request"));
    }),
    ("tokens of several parents", |_, mines| {
        let parent = CancellationToken::new();
        let mut left = 3;
        let token = CancellationToken::any(iter::from_fn(|| {
            mines.step("the next parent", Caller);
            left -= 1;
            (left > 0).then_some(&parent)
        }));
        let inner = mines.clone();
        let _guard = token.on_cancel(move || inner.step("a callback through a parent", Nobody));
        drop(parent.drop_guard());
        assert!(token.is_cancelled());
    }),
];

fn again() -> Restart {
    Restart::on_failure()
        .backoff(Backoff::none())
        .limit(5, HANG * 10)
}

fn token_with_timeout() -> CancellationToken {
    let token = CancellationToken::new().child_with_timeout(Duration::from_millis(1));
    token.expect("a thread for deadlines")
}

/// Plays something; `false` if it panicked.
fn plays(act: impl FnOnce()) -> bool {
    let played = panic::catch_unwind(AssertUnwindSafe(act));
    let (is_mine, is_well) = match &played {
        Ok(()) => (false, true),
        Err(payload) => (is_mine(&**payload), false),
    };
    if let Err(payload) = played {
        if !is_mine && !is_well {
            panic::resume_unwind(payload);
        }
        mem::forget(payload);
    }
    is_well
}

fn is_mine(payload: &(dyn Any + Send)) -> bool {
    payload.is::<Bomb>() || text_of(payload) == Some(MINE)
}

/// Plays an act with a manager of its own; gives how many of its tasks panicked.
fn play(name: &str, act: Act, mines: &Mines, usually: Option<u64>) -> u64 {
    let manager = Manager::builder()
        .grace(HANG)
        .history(2)
        .build()
        .expect("a manager");
    let ends = manager.root_group().ends();
    let is_well = plays(|| act(&manager, mines));
    let report = manager.shutdown().expect("a report");
    assert_eq!(report.stragglers().count(), 0, "{name}: {report}");
    let counts = manager.counts();
    assert_all_ended_once(counts, &ends);
    assert_eq!(report.counts(), counts);
    drop(manager);
    let hit = mines.hit();
    let panicked = counts.panicked;
    let Some(usually) = usually else {
        assert!(is_well, "{name}");
        return panicked;
    };
    let is_right = match hit.map(|(_, hits)| hits) {
        None | Some(Nobody) => is_well && panicked == usually,
        Some(Task) => is_well && panicked == usually + 1,
        Some(TaskOrNobody) => is_well && (panicked == usually || panicked == usually + 1),
        // Then it was not played to its end.
        Some(Caller) => !is_well && panicked <= usually,
    };
    assert!(
        is_right,
        "{name}: {hit:?} hit somebody else; {is_well}, {usually}: {report}"
    );
    panicked
}

/// Keeps the panic hook from printing what is meant to happen.
fn silence_mines() {
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let is_meant = is_mine(info.payload())
            || info.payload().is::<Dropped>()
            || text_of(info.payload()) == Some("a bomb went off");
        if !is_meant {
            before(info);
        }
    }));
}

#[test]
#[ignore = "a role of a child process"]
fn steps_on_every_mine() {
    silence_mines();
    for (name, act) in ACTS {
        let without = Mines::under(0, false);
        let usually = play(name, act, &without, None);
        let steps = without.steps();
        eprintln!("{name}: {steps} steps");
        assert!(steps > 0);
        let mut hit = 0;
        for _ in 0..rounds(1, 50) {
            // Two more, in case that the number depends on who comes first.
            for step in 1..=steps + 2 {
                for is_bomb in [false, true] {
                    let mines = Mines::under(step, is_bomb);
                    play(name, act, &mines, Some(usually));
                    hit += usize::from(mines.hit().is_some());
                }
            }
        }
        // Some steps are taken in some runs only: of a callback and its disarming, one comes first.
        assert!(
            hit > steps,
            "{name}: only {hit} of {} mines were found",
            2 * steps
        );
    }
}

#[test]
fn a_panic_in_any_call_of_user_code_hits_who_it_should_and_nobody_else() {
    let program = child::start("panics::steps_on_every_mine");
    for (name, _) in ACTS {
        program.wait_for_line(&format!("{name}: "));
    }
    assert_played(program);
}

// ---- run ----

/// A program in `run`; the report, and how many tasks were accepted.
fn runs(mines: &Mines) -> (Option<ShutdownReport>, u64, Receiver<TaskEnd>) {
    let (mut report, mut accepted) = (None, 0);
    let (tell, told) = bounded(1);
    let _ = plays(|| {
        let captured = mines.dropped("a capture of the body of run", Caller);
        let (there, ready) = bounded(2);
        report = Some(Manager::builder().grace(HANG).run(|manager| {
            let _captured = captured;
            tell.send(manager.root_group().ends())?;
            mines.step("the beginning of the body of run", Caller);
            for _ in 0..2 {
                let there = there.clone();
                drop(manager.spawn::<()>("waits", move |ctx| {
                    there.send(())?;
                    Err(ctx.wait().into())
                })?);
                accepted += 1;
            }
            arrives(&ready);
            arrives(&ready);
            mines.step("the middle of the body of run", Caller);
            manager.request_shutdown(mines.converted("a note", Caller));
            Err(Box::new(mines.error(None).whose_drop_hits(Nobody)))
        }));
    });
    (report, accepted, told.recv().expect("it was sent first"))
}

#[test]
#[ignore = "a role of a child process"]
fn steps_on_the_mines_of_run() {
    silence_mines();
    let without = Mines::under(0, false);
    let (report, ..) = runs(&without);
    assert_eq!(report.expect("a report").body_error(), Some("mined"));
    let steps = without.steps();
    for step in 1..=steps {
        for is_bomb in [false, true] {
            let mines = Mines::under(step, is_bomb);
            let (report, accepted, ends) = runs(&mines);
            let (place, hits) = mines.hit().expect("there was a mine");
            // The body's own panic goes on; what is asked of its error afterwards costs nobody the report.
            let is_own = hits == Caller && !place.ends_with("of an error");
            assert_eq!(report.is_none(), is_own, "{place}");
            if let Some(report) = report {
                assert_eq!(report.exit_code(), 1, "{place}: {report}");
                assert_balanced(report.counts());
                assert_eq!(report.counts().live, 0, "{place}: {report}");
            }
            // Whatever happened, all tasks have stopped.
            assert_eq!(ends.try_iter().count() as u64, accepted, "{place}");
        }
    }
}

#[test]
fn a_panic_in_the_body_of_run_goes_on_when_all_has_stopped_and_one_in_its_error_costs_nothing() {
    assert_played(child::start("panics::steps_on_the_mines_of_run"));
}

// ---- the logger ----

static LINES: AtomicUsize = AtomicUsize::new(0);
static MINED_LINE: AtomicUsize = AtomicUsize::new(0);

fn log_on_a_mine() {
    let line = LINES.fetch_add(1, Ordering::SeqCst) + 1;
    if line == MINED_LINE.load(Ordering::SeqCst) {
        panic::panic_any(Bomb(1));
    }
}

#[test]
#[ignore = "a role of a child process"]
fn logs_on_every_mine() {
    silence_mines();
    logger::install(|_| log_on_a_mine());
    for (name, act) in ACTS {
        LINES.store(0, Ordering::SeqCst);
        MINED_LINE.store(0, Ordering::SeqCst);
        let usually = play(name, act, &Mines::under(0, false), None);
        let lines = LINES.load(Ordering::SeqCst);
        eprintln!("{name}: {lines} lines");
        for line in 1..=lines + 1 {
            LINES.store(0, Ordering::SeqCst);
            MINED_LINE.store(line, Ordering::SeqCst);
            play(name, act, &Mines::under(0, false), Some(usually));
        }
    }
}

#[test]
fn a_panic_in_any_line_of_the_logger_hits_nobody() {
    let program = child::start("panics::logs_on_every_mine");
    for (name, _) in ACTS {
        program.wait_for_line(&format!("{name}: "));
    }
    assert_played(program);
}
