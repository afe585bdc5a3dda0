//! Work to be done on cancel: once, by whoever comes first.
//!
//! Invariants:
//!
//! 1. A callback's work leaves `Pending` once, under the callback's lock: to be run, or to be dropped unrun. So it runs
//!    at most once, and "disarmed" and "ran" exclude each other.
//! 2. A list that was taken is closed: what is registered later is not put into it but run at once. So whatever was
//!    registered and not disarmed is run.
//! 3. No lock is held while work runs or is dropped; a panic of it stays here and is logged.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io;
use std::panic::Location;
use std::sync::Arc;

use crate::base::latch::Latch;
use crate::base::log::{self, Level};
use crate::base::sync::{self, Monitor, Mutex, start_thread};
use crate::base::time::{Deadline, Duration};
use crate::base::unwind;

type Work = Box<dyn FnOnce() + Send>;

/// One piece of work to be done on cancel.
pub(crate) struct Callback {
    state: Mutex<State>,
    /// Open when the work was run or dropped.
    over: Latch,
    registered_at: &'static Location<'static>,
}

enum State {
    Pending(Work),
    Running(sync::ThreadId),
    Over,
}

impl Callback {
    pub(crate) fn new(work: Work, registered_at: &'static Location<'static>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::Pending(work)),
            over: Latch::new(),
            registered_at,
        })
    }

    /// Runs the work, unless that was done or prevented before.
    pub(crate) fn run(&self) {
        let Some(work) = self.take(State::Running(sync::thread_id())) else {
            return;
        };
        if !unwind::contain(work) {
            let at = self.registered_at;
            let (file, line) = (at.file(), at.line());
            log::say(
                Level::Error,
                format_args!("the callback registered at {file}:{line} panicked"),
            );
        }
        *self.state.lock() = State::Over;
        self.over.open();
    }

    /// Prevents the work; `false` if it has begun.
    pub(crate) fn disarm(&self) -> bool {
        let Some(work) = self.take(State::Over) else {
            return false;
        };
        unwind::discard(work);
        self.over.open();
        true
    }

    /// Waits until the work is over, unless it is the caller's own.
    pub(crate) fn wait(&self) {
        if !self.is_mine() {
            self.over.wait_until(Deadline::NEVER);
        }
    }

    /// Whether the calling thread runs it.
    pub(crate) fn is_mine(&self) -> bool {
        matches!(&*self.state.lock(), State::Running(thread) if *thread == sync::thread_id())
    }

    /// Where it was registered.
    pub(crate) fn registered_at(&self) -> &'static Location<'static> {
        self.registered_at
    }

    fn take(&self, next: State) -> Option<Work> {
        let mut state = self.state.lock();
        if !matches!(*state, State::Pending(_)) {
            return None;
        }
        match std::mem::replace(&mut *state, next) {
            State::Pending(work) => Some(work),
            State::Running(_) | State::Over => None,
        }
    }
}

impl Drop for Callback {
    /// The captures of work that never ran may panic when they are dropped.
    fn drop(&mut self) {
        unwind::discard(self.take(State::Over));
    }
}

impl fmt::Debug for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Callback({})", self.registered_at)
    }
}

/// The callbacks of one token, in order of registration.
#[derive(Debug, Default)]
pub(crate) struct Callbacks(Mutex<List>);

#[derive(Debug, Default)]
struct List {
    closed: bool,
    next: u64,
    pending: BTreeMap<u64, Arc<Callback>>,
}

impl Callbacks {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(List::default()))
    }

    /// Puts a callback into the list and says under which number; `None` if the list is closed (2).
    pub(crate) fn register(&self, callback: &Arc<Callback>) -> Option<u64> {
        let mut list = self.0.lock();
        if list.closed {
            return None;
        }
        let number = list.next;
        list.next += 1;
        list.pending.insert(number, Arc::clone(callback));
        Some(number)
    }

    pub(crate) fn unregister(&self, number: u64) {
        let gone = self.0.lock().pending.remove(&number);
        drop(gone);
    }

    /// Drops what is in the list, which stays open.
    pub(crate) fn give_up(&self) {
        let pending = std::mem::take(&mut self.0.lock().pending);
        drop(pending);
    }

    /// Closes the list and gives what is in it, the youngest first.
    pub(crate) fn close(&self) -> Vec<Arc<Callback>> {
        let mut list = self.0.lock();
        list.closed = true;
        let pending = std::mem::take(&mut list.pending);
        drop(list);
        pending.into_values().rev().collect()
    }
}

/// Who wants to hear that a callback which was handed over is over.
pub(crate) trait Client: Send + Sync {
    fn is_over(&self, callback: &Arc<Callback>);
}

/// A callback to be run, and for whom.
struct Order {
    callback: Arc<Callback>,
    client: Option<Arc<dyn Client>>,
}

impl Order {
    fn carry_out(self) {
        self.callback.run();
        if let Some(client) = self.client {
            client.is_over(&self.callback);
        }
    }
}

/// How many threads run callbacks of deadlines and shutdowns, so that a few that block delay none of the others.
const CREW: usize = 4;

/// So many with those who came because all the others are stuck.
const MOST: usize = 64;

/// All are stuck if nobody took a callback for so long.
const PATIENCE: Duration = Duration::from_millis(100);

/// How long one of them stays without work: a deadline that comes meanwhile waits for no thread to be started.
const LINGER: Duration = Duration::from_secs(1);

#[cfg(not(any(loom, shuttle)))]
static CREW_ROOM: CrewRoom = CrewRoom(Monitor::new(Crew::new()));

#[cfg(any(loom, shuttle))]
crate::base::sync::checker::lazy_static! {
    static ref CREW_ROOM: CrewRoom = CrewRoom(Monitor::new(Crew::new()));
}

/// The threads that run the callbacks that no program line set going: they come when there is work and go when there was
/// none for a while. When all are busy and work is left, a stand-in watches, and joins them if they are stuck.
struct CrewRoom(Monitor<Crew>);

/// One is called at a time; who comes and takes a callback calls the next for the rest, since the callback may block.
struct Crew {
    queue: VecDeque<Order>,
    /// All who were started and have not gone.
    hired: usize,
    /// Those who sleep here and were not called.
    asleep: usize,
    /// Those who were woken or started and are not here yet.
    coming: usize,
    /// How many callbacks were taken so far.
    taken: u64,
    /// Somebody watches whether the others are stuck.
    is_watched: bool,
}

/// Whom to call.
enum Call {
    Nobody,
    Sleeper,
    Newcomer,
    StandIn,
}

/// Has `callbacks`, and whatever still waits for a thread, run by threads that may block; tells `client` of the end of
/// each.
///
/// # Errors
/// When there is no thread to be had: what waits is kept, and handed over by the next call, be it with no callbacks.
pub(crate) fn hand_over(
    callbacks: Vec<Arc<Callback>>,
    client: Option<&Arc<dyn Client>>,
) -> io::Result<()> {
    let mut crew = CREW_ROOM.0.lock();
    crew.queue
        .extend(callbacks.into_iter().map(|callback| Order {
            callback,
            client: client.map(Arc::clone),
        }));
    let call = crew.call();
    drop(crew);
    CREW_ROOM.make(&call)
}

/// Runs what waits for a thread of the crew.
pub(crate) fn work_off() {
    CREW_ROOM.work_off();
}

impl CrewRoom {
    fn make(&self, call: &Call) -> io::Result<()> {
        match call {
            Call::Nobody => Ok(()),
            Call::Sleeper => {
                self.0.notify_one();
                Ok(())
            }
            Call::Newcomer => {
                let started = start_thread("tm-callbacks".to_owned(), None, || CREW_ROOM.work());
                if started.is_err() {
                    let mut crew = self.0.lock();
                    crew.hired -= 1;
                    crew.one_is_here();
                }
                started.map(drop)
            }
            Call::StandIn => {
                let stand_in = || {
                    if CREW_ROOM.are_all_stuck() {
                        CREW_ROOM.work();
                    }
                };
                if start_thread("tm-callbacks".to_owned(), None, stand_in).is_err() {
                    self.0.lock().is_watched = false;
                }
                // Without it the work is still done by those who are there.
                Ok(())
            }
        }
    }

    /// Watches those who work until there is nothing left to do, or for `PATIENCE` nobody took anything: `true`, and the
    /// caller is one of them.
    fn are_all_stuck(&self) -> bool {
        let mut seen = None;
        loop {
            let mut crew = self.0.lock();
            if crew.queue.is_empty() {
                crew.is_watched = false;
                return false;
            }
            if seen == Some(crew.taken) {
                crew.is_watched = false;
                crew.hired += 1;
                crew.coming += 1;
                return true;
            }
            seen = Some(crew.taken);
            drop(crew);
            sync::sleep(PATIENCE);
        }
    }

    /// The life of a thread of the crew.
    fn work(&self) {
        self.0.lock().one_is_here();
        loop {
            self.work_off();
            if !self.stays() {
                return;
            }
        }
    }

    fn work_off(&self) {
        while let Some((order, call)) = self.next() {
            // Should nobody be had, the rest is done here, one after another.
            let called = self.make(&call);
            drop(called);
            order.carry_out();
        }
    }

    fn next(&self) -> Option<(Order, Call)> {
        let mut crew = self.0.lock();
        let order = crew.queue.pop_front()?;
        crew.taken += 1;
        Some((order, crew.call()))
    }

    /// Sleeps until there is work; `false` if there was none for long.
    fn stays(&self) -> bool {
        let patience = Deadline::after(LINGER);
        let mut crew = self.0.lock();
        while crew.queue.is_empty() {
            if patience.has_passed() {
                // In the same step: who enqueues after this finds one thread less.
                crew.hired -= 1;
                return false;
            }
            crew.asleep += 1;
            crew = self.0.wait_until(crew, patience);
            crew.one_is_here();
        }
        true
    }
}

impl Crew {
    const fn new() -> Self {
        Self {
            queue: VecDeque::new(),
            hired: 0,
            asleep: 0,
            coming: 0,
            taken: 0,
            is_watched: false,
        }
    }

    /// Whom to call for what is in the queue.
    fn call(&mut self) -> Call {
        if self.queue.is_empty() || self.coming > 0 {
            return Call::Nobody;
        }
        if self.asleep > 0 {
            self.asleep -= 1;
            self.coming += 1;
            Call::Sleeper
        } else if self.hired < CREW {
            self.hired += 1;
            self.coming += 1;
            Call::Newcomer
        } else if self.hired < MOST && !self.is_watched {
            self.is_watched = true;
            Call::StandIn
        } else {
            Call::Nobody
        }
    }

    /// One who slept or was started is here, called or not. Who came may not be who was called: the two numbers are right
    /// in sum, and each of those counted looks at the queue when it comes.
    fn one_is_here(&mut self) {
        match self.coming {
            0 => self.asleep -= 1,
            _ => self.coming -= 1,
        }
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::base::sync::{AtomicUsize, Ordering};

    fn counting(counter: &Arc<AtomicUsize>) -> Arc<Callback> {
        let counter = Arc::clone(counter);
        let work = move || {
            counter.fetch_add(1, Ordering::Relaxed);
        };
        Callback::new(Box::new(work), Location::caller())
    }

    #[test]
    fn work_runs_once_and_not_after_it_was_disarmed() {
        let counter = Arc::default();
        let callback = counting(&counter);
        callback.run();
        callback.run();
        assert!(!callback.disarm());
        let disarmed = counting(&counter);
        assert!(disarmed.disarm());
        disarmed.run();
        callback.wait();
        disarmed.wait();
        assert_eq!(counter.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_panic_is_contained_and_ends_the_wait() {
        let callback = Callback::new(Box::new(|| panic!("in a callback")), Location::caller());
        callback.run();
        callback.wait();
    }

    #[test]
    fn what_work_that_never_ran_holds_may_panic_when_it_is_dropped() {
        struct Panics;
        impl Drop for Panics {
            fn drop(&mut self) {
                panic!("dropped");
            }
        }
        let held = Panics;
        let work = Box::new(move || drop(held));
        drop(Callback::new(work, Location::caller()));
    }

    #[test]
    fn a_closed_list_takes_nothing_and_gave_the_youngest_first() {
        let counter = Arc::default();
        let (first, second) = (counting(&counter), counting(&counter));
        let list = Callbacks::new();
        let number = list.register(&first).expect("open");
        list.register(&second).expect("open");
        let third = counting(&counter);
        let gone = list.register(&third).expect("open");
        list.unregister(gone);
        let due = list.close();
        assert_eq!(number, 0);
        assert!(Arc::ptr_eq(&due[0], &second) && Arc::ptr_eq(&due[1], &first));
        assert_eq!(list.register(&third), None);
    }

    #[test]
    fn the_crew_runs_everything() {
        let counter = Arc::default();
        let callbacks: Vec<_> = (0..100).map(|_| counting(&counter)).collect();
        for pair in callbacks.chunks(2) {
            hand_over(pair.to_vec(), None).expect("there is room for a thread");
        }
        for callback in &callbacks {
            callback.wait();
        }
        assert_eq!(counter.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn one_is_called_at_a_time_a_sleeper_before_a_newcomer() {
        let callback = counting(&Arc::default());
        let mut crew = Crew::new();
        assert!(matches!(crew.call(), Call::Nobody), "there is no work");
        let order = |callback| Order {
            callback,
            client: None,
        };
        crew.queue
            .extend([Arc::clone(&callback), callback].map(order));
        assert!(matches!(crew.call(), Call::Newcomer));
        assert!(matches!(crew.call(), Call::Nobody), "one is coming");
        crew.one_is_here();
        crew.asleep = 1;
        assert!(matches!(crew.call(), Call::Sleeper));
        assert!(matches!(crew.call(), Call::Nobody), "one is coming");
        crew.one_is_here();
        assert_eq!((crew.hired, crew.asleep, crew.coming), (1, 0, 0));
    }

    #[test]
    fn who_had_no_work_for_long_makes_room_for_a_newcomer() {
        let mut crew = Crew::new();
        crew.hired = 1;
        let room = CrewRoom(Monitor::new(crew));
        assert!(!room.stays());
        let crew = room.0.lock();
        assert_eq!((crew.hired, crew.asleep, crew.coming), (0, 0, 0));
    }

    #[test]
    fn callbacks_that_block_delay_the_others_a_little_and_not_for_ever() {
        for blocking in [1, CREW - 1, CREW, CREW + 2] {
            the_last_one_lets_all_go(blocking);
        }
    }

    fn the_last_one_lets_all_go(blocking: usize) {
        let gate = Arc::new(Latch::new());
        let blocked = |_| {
            let gate = Arc::clone(&gate);
            let work = move || assert!(gate.wait_until(Deadline::NEVER));
            Callback::new(Box::new(work), Location::caller())
        };
        let theirs = Arc::clone(&gate);
        let opener = Callback::new(Box::new(move || assert!(theirs.open())), Location::caller());
        let callbacks: Vec<_> = (0..blocking).map(blocked).chain([opener]).collect();
        hand_over(callbacks.clone(), None).expect("there is room for a thread");
        for callback in &callbacks {
            callback.wait();
        }
    }
}
