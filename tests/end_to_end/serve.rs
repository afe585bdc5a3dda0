//! `serve` and its clients: what they get, what is counted, and what a stop leaves of both.

use std::collections::BTreeSet;
use std::env;
use std::ffi::OsString;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use crate::client::{Answer, Client, Lost};
use crate::program::{Exit, FOR_EVER, Program, Stream, path_of, until};

/// More work than any test waits for.
const ENDLESS: &str = "/slow?ms=3600000";

const WORKERS: usize = 4;

#[test]
fn visits_on_one_connection_and_on_several_are_counted() {
    let state = State::new("visits");
    let service = state.serve();
    let mut client = service.client();
    for number in 1..=3 {
        assert_eq!(visitor(&client.get("/").expect("an answer")), number);
    }
    assert_eq!(visitor(&service.get("/")), 4);
    assert_eq!(service.get("/count").body, "4\n");
    assert_eq!(client.get("/count").expect("an answer").body, "4\n");
    service.stop().assert_code(0);
}

#[test]
fn what_it_does_not_understand_is_answered_too_and_the_answer_arrives() {
    let state = State::new("strange");
    let service = state.serve();
    let body = "x".repeat(10_000);
    for (request, status) in [
        ("GET /nowhere HTTP/1.1\r\n\r\n", 404),
        ("GET /slow HTTP/1.1\r\n\r\n", 400),
        ("GET /slow?ms=-1 HTTP/1.1\r\n\r\n", 400),
        ("DELETE / HTTP/1.1\r\n\r\n", 405),
        ("no request at all\r\n\r\n", 400),
        ("\u{16}\u{3}\u{1}TLS is not spoken here", 400),
        (&format!("GET /{body}{body} HTTP/1.1\r\n\r\n"), 400),
        (
            &format!("POST / HTTP/1.1\r\nContent-Length: 10000\r\n\r\n{body}"),
            405,
        ),
        ("GET /livez HTTP/1.0\r\n\r\n", 200),
        ("GET /readyz HTTP/1.1\r\nconnection: Close\r\n\r\n", 200),
    ] {
        let mut client = service.client();
        client.send(request).expect("it is sent");
        let answer = client.answer().expect(request);
        assert_eq!(answer.status, status, "{request}: {answer:?}");
    }
    assert_eq!(
        service.get("/count").body,
        "0\n",
        "none of them was a visit"
    );
    service.stop().assert_code(0);
}

#[test]
fn requests_sent_one_behind_the_other_are_answered_in_order() {
    let state = State::new("pipeline");
    let service = state.serve();
    let mut client = service.client();
    for _ in 0..10 {
        client.ask("/").expect("it is sent");
        client.ask("/count").expect("it is sent");
    }
    for number in 1..=10 {
        assert_eq!(visitor(&client.answer().expect("an answer")), number);
        let count = client.answer().expect("an answer").body;
        assert_eq!(count, format!("{number}\n"));
    }
    service.stop().assert_code(0);
}

#[test]
fn an_answer_to_a_head_has_no_body_that_the_next_answer_would_begin_with() {
    let state = State::new("head");
    let service = state.serve();
    let mut client = service.client();
    client.send("HEAD / HTTP/1.1\r\n\r\n").expect("it is sent");
    client.ask("/count").expect("it is sent");
    assert_eq!(client.head().expect("an answer").0, 405);
    assert_eq!(client.answer().expect("the next one").body, "0\n");
    client
        .send("HEAD / HTTP/1.1\r\n\r\nnonsense\r\n\r\n")
        .expect("it is sent");
    assert_eq!(client.head().expect("an answer").0, 405);
    assert_eq!(client.answer().expect("a whole one").status, 400);
    service.stop().assert_code(0);
}

#[test]
fn what_is_worked_on_or_queued_at_a_sigterm_is_answered_and_what_comes_then_gets_a_503() {
    let state = State::new("in-flight");
    let mut command = state.command("127.0.0.1:0");
    command
        .env("RUST_LOG", "debug")
        .current_dir(&state.directory);
    let service = Service::start(&mut command);
    let mut idle = service.client();
    assert_eq!(idle.get("/healthz").expect("an answer").status, 200);

    // Three more than there are workers.
    let mut clients: Vec<(String, Client)> = (0..WORKERS + 3)
        .map(|number| (format!("go-{number}"), service.client()))
        .collect();
    for (number, (name, client)) in clients.iter_mut().enumerate() {
        client
            .ask(&format!("/slow?until={name}"))
            .expect("it is sent");
        let is_worked_on = number < WORKERS;
        let what = if is_worked_on {
            "answering"
        } else {
            "asked for"
        };
        let line = format!("{what} /slow?until={name}");
        service.program.wait_for_line(&line);
    }
    service.program.signal("TERM");
    service.program.wait_for_line("to finish what was begun");

    for answer in [
        idle.get("/").expect("an answer"),
        service.get("/"),
        service.get("/healthz"),
        service.get("/readyz"),
    ] {
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.is_last, "{answer:?}");
    }
    assert_eq!(service.get("/livez").status, 200);
    for (name, _) in &clients {
        fs::write(state.directory.join(name), "").expect("it is writable");
    }
    for (name, client) in &mut clients {
        let answer = client.answer().expect("a complete answer");
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.body, format!("{name} is there\n"));
        assert!(answer.is_last, "{answer:?}");
    }
    let exit = service.program.exit();
    exit.assert_code(0);
    exit.assert_says("taskmuster: stopped by signal");
}

#[test]
fn under_load_a_sigterm_truncates_nothing_and_the_count_on_disk_is_that_of_the_answers() {
    let is_long = env::var("TASKMUSTER_LONG").is_ok_and(|value| value == "1");
    let rounds = if is_long { 50 } else { 5 };
    let mut sum = Tally::default();
    for round in 0..rounds {
        sum.add(sigterm_under_load(round));
    }
    println!("{rounds} runs: {sum}");
    assert!(sum.slow > 0 && sum.unavailable > 0, "{sum}");
}

#[test]
fn a_signal_while_it_still_starts_is_a_clean_stop() {
    for signal in ["TERM", "INT", "TERM", "INT", "TERM"] {
        let state = State::new("start");
        let program = Program::start(&mut state.command("127.0.0.1:0"));
        until("the keeper does not write", || state.path().exists());
        program.signal(signal); // the keeper has begun; of the others some have not
        program.exit().assert_code(0);
        assert_eq!(state.count(), 0);
    }
}

#[test]
fn a_second_ctrl_c_does_not_wait_for_what_was_begun() {
    // On a machine that is very busy somebody does not stop within the moment that is left: then once more.
    let is_in_time = (0..5).any(|round| {
        let state = State::new(&format!("hurry-{round}"));
        let service = state.serve();
        let mut client = service.client();
        client.ask(ENDLESS).expect("it is sent");
        service.program.wait_for_line("answering /slow");
        service.program.signal("INT");
        service.program.wait_for_line("to finish what was begun");
        service.program.signal("INT");
        let answer = client.answer();
        let exit = service.program.exit();
        exit.assert_says("hurried");
        if exit.status.code() == Some(2) {
            return false;
        }
        let answer = answer.expect("a complete answer");
        assert_eq!(answer.status, 503, "{answer:?}");
        exit.assert_code(0);
        true
    });
    assert!(is_in_time, "somebody never stops");
}

#[test]
fn what_does_not_end_in_the_drain_time_gets_a_503_and_so_does_what_waits_behind_it() {
    let state = State::new("drain");
    let mut command = state.command("127.0.0.1:0");
    let service = Service::start(
        command
            .args(["--drain", "1"])
            .env("TASKMUSTER_GRACE", FOR_EVER) // of which the rest is for the stop
            .env("RUST_LOG", "debug"),
    );
    // Each is asked to stop at about the moment at which it sends its answer.
    let mut clients: Vec<Client> = (0..16).map(|_| service.client()).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        let target = format!("{ENDLESS}{number:02}");
        client.ask(&target).expect("it is sent");
        let line = format!("asked for {target}");
        service.program.wait_for_line(&line);
    }
    for number in 1..=WORKERS {
        let line = format!("workers/{number}  answering");
        service.program.wait_for_line(&line);
    }
    service.program.signal("TERM");
    for client in &mut clients {
        let answer = client.answer().expect("a complete answer");
        assert_eq!(answer.status, 503, "{answer:?}");
    }
    let exit = service.program.exit();
    exit.assert_code(0);
    let (before, after) = exit.stderr.split_once("saved").expect("it is saved");
    let closed = before.matches("  closed").count();
    assert_eq!(closed, clients.len(), "{}", exit.stderr);
    assert!(!after.contains("  closed"), "saved too early: {after}");
}

#[test]
fn clients_who_say_nothing_half_of_something_or_too_much_do_not_hold_the_stop() {
    let state = State::new("silent");
    let service = state.serve();
    let mut silent = service.client();
    let mut stammering = service.client();
    stammering.get("/livez").expect("somebody listens");
    stammering.send("GET / HT").expect("it is sent");
    let mut idle = service.client();
    idle.get("/").expect("an answer");
    // It never reads, and asks until nobody has room for another request: the service is stuck in an answer.
    let mut deaf = service.client();
    deaf.give_up_sending_after(Duration::from_millis(300));
    while deaf.ask("/livez").is_ok() {}
    // All connections before this one have been accepted.
    assert_eq!(service.get("/count").body, "1\n");
    service.stop().assert_code(0);
    for client in [&mut silent, &mut stammering, &mut idle] {
        assert!(client.is_at_end(), "it was closed in order");
    }
    drop(deaf);
}

#[test]
fn a_client_who_goes_on_byte_by_byte_after_the_last_answer_is_closed() {
    let state = State::new("drip");
    let service = state.serve();
    let mut client = service.client();
    let last = "GET /livez HTTP/1.1\r\nConnection: close\r\n\r\n";
    client.send(last).expect("it is sent");
    assert!(client.answer().expect("an answer").is_last);
    let is_closed = || client.send("x").is_err();
    until("it holds its task", is_closed);
    service.stop().assert_code(0);
}

#[test]
#[cfg(target_os = "linux")]
fn clients_who_have_taken_all_descriptors_do_not_hold_the_stop() {
    const LIMIT: usize = 40;
    let state = State::new("descriptors");
    let serve = state.command("127.0.0.1:0");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\"")])
        .arg(serve.get_program())
        .args(serve.get_args());
    let service = Service::start(&mut shell);
    let mut clients = Vec::new();
    // The last one is that of the connection for which the acceptor waits.
    while service.program.descriptors_below(LIMIT) < LIMIT - 1 {
        let mut client = service.client();
        assert_eq!(client.get("/livez").expect("an answer").status, 200);
        clients.push(client);
    }
    service.stop().assert_code(0);
    for client in &mut clients {
        assert!(client.is_at_end(), "it was closed in order");
    }
}

#[test]
fn the_janitor_panics_is_restarted_and_nobody_else_notices() {
    let state = State::new("janitor");
    let service = state.serve();
    let mut client = service.client();
    for attempt in 1..=2 {
        let line = format!("`house/janitor` panicked in attempt {attempt} at");
        let line = service.program.wait_for_line(&line);
        assert!(line.contains("the broom broke; running it again"), "{line}");
        assert_eq!(visitor(&client.get("/").expect("an answer")), attempt);
    }
    let exit = service.stop();
    exit.assert_code(0);
    exit.assert_says("restarts");
}

#[test]
fn the_count_is_on_disk_while_it_runs_and_goes_on_after_a_restart() {
    let state = State::new("restart");
    for before in [0, 2, 4] {
        let service = state.serve();
        assert_eq!(state.count(), before, "written at the start");
        for number in 1..=2 {
            assert_eq!(visitor(&service.get("/")), before + number);
        }
        let is_flushed = || state.count() == before + 2;
        until("the flusher does not flush", is_flushed);
        service.stop().assert_code(0);
    }
}

#[test]
fn a_kill_in_the_middle_leaves_a_whole_file() {
    let state = State::new("kill");
    let service = state.serve();
    let mut client = service.client();
    let mut visits = 0;
    while state.count() == 0 {
        visits = visitor(&client.get("/").expect("an answer"));
    }
    service.program.signal("KILL");
    drop(service.program.exit());
    let service = state.serve();
    let count = state.count();
    assert!((1..=visits).contains(&count), "{count} of {visits}");
    service.stop().assert_code(0);
}

#[test]
fn a_corrupt_state_file_is_an_error_and_left_as_it_is() {
    let state = State::new("corrupt");
    for contents in ["", "many\n", "-5\n", "12 13\n", "18446744073709551616\n"] {
        fs::write(state.path(), contents).expect("it is writable");
        state.assert_fails("127.0.0.1:0", "is corrupt");
        assert_eq!(state.read(), contents);
    }
}

#[test]
fn a_state_file_that_cannot_be_read_or_written_is_an_error() {
    let state = State::new("unreadable");
    let path = state.path().display().to_string();
    fs::create_dir(state.path()).expect("it is not there");
    state.assert_fails("127.0.0.1:0", &format!("cannot read the state file {path}"));
    fs::remove_dir_all(&state.directory).expect("it is ours");
    state.assert_fails(
        "127.0.0.1:0",
        &format!("cannot write the state file {path}"),
    );
}

#[test]
fn an_address_that_is_bad_or_taken_is_an_error_and_the_count_is_kept() {
    let state = State::new("address");
    fs::write(state.path(), "7\n").expect("it is writable");
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = listener.local_addr().expect("it has one").to_string();
    for address in ["nonsense", "127.0.0.1", "127.0.0.1:99999", &taken] {
        state.assert_fails(address, &format!("cannot listen on {address}: "));
        assert_eq!(state.read(), "7\n");
    }
}

#[test]
fn an_unknown_argument_is_named() {
    for arguments in [["--lisen", "x"], ["--state", "--listen"]] {
        let exit = Program::example("serve", &arguments[..1]).exit();
        exit.assert_code(1);
        exit.assert_says(arguments[0]);
    }
}

#[test]
fn a_drain_time_that_is_none_is_refused() {
    for time in ["soon", "-1", "0.5", ""] {
        let exit = Program::example("serve", &["--drain", time]).exit();
        exit.assert_code(1);
        exit.assert_says(&format!("{time} is no number of seconds"));
    }
}

#[test]
fn a_state_file_without_a_name_is_refused() {
    let exit = Program::example("serve", &["--listen", "127.0.0.1:0", "--state", ""]).exit();
    exit.assert_code(1);
    exit.assert_says("--state needs the name of a file");
}

#[test]
fn a_state_file_may_have_any_name_that_a_file_may_have() {
    let mut state = State::new("bytes");
    state.name = OsString::from_vec(b"caf\xE9".to_vec());
    let service = state.serve();
    assert_eq!(visitor(&service.get("/")), 1);
    service.stop().assert_code(0);
    assert_eq!(state.count(), 1);
}

#[cfg(target_os = "linux")]
#[test]
fn a_standard_error_nobody_reads_changes_nothing() {
    let state = State::new("stderr");
    // A client there comes from 127.0.0.1, so that none reaches itself while nobody listens yet.
    let free = TcpListener::bind("127.0.0.2:0").expect("a port");
    let address = free.local_addr().expect("it has one").to_string();
    drop(free);
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = state.command(&address);
    let program = Program::start_without(command.stderr(writer), &[Stream::Stderr]);
    let listens = || Client::connect(&address).is_ok();
    until("it does not listen", listens);
    let mut client = Client::connect(&address).expect("it listens");
    assert_eq!(visitor(&client.get("/").expect("an answer")), 1);
    Service { program, address }.stop().assert_code(0);
    assert_eq!(state.count(), 1);
}

// ---- load ----

/// What became of the requests of one run, or of several.
#[derive(Default)]
struct Tally {
    /// The numbers of the visits that were answered.
    visits: Vec<u64>,
    slow: usize,
    unavailable: usize,
    refused: usize,
    truncated: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.visits.extend(other.visits);
        self.slow += other.slow;
        self.unavailable += other.unavailable;
        self.refused += other.refused;
        self.truncated.extend(other.truncated);
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (visits, truncated) = (self.visits.len(), self.truncated.len());
        let requests = visits + self.slow + self.unavailable + self.refused + truncated;
        write!(
            f,
            "{requests} requests: {visits} visits and {} slow ones answered, {} answered with 503, {} refused, {truncated} truncated",
            self.slow, self.unavailable, self.refused
        )
    }
}

/// Sends the signal when so many requests were answered that it comes at another moment in each round.
fn sigterm_under_load(round: usize) -> Tally {
    const CLIENTS: usize = 12;
    let is_logged = round % 2 == 0; // what the workers took; it changes the timing, so not always
    let level = if is_logged { "debug" } else { "info" };
    let state = State::new(&format!("load-{round}"));
    let service = Service::start(state.command("127.0.0.1:0").env("RUST_LOG", level));
    let load = Load {
        address: &service.address,
        answered: AtomicUsize::new(0),
        is_stopping: AtomicBool::new(false),
    };
    let load = &load;
    let tally = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|number| scope.spawn(move || load.run(Kind::of(number))))
            .collect();
        let enough = 50 + 137 * (round % 8);
        let is_enough = || load.answered.load(Ordering::SeqCst) >= enough;
        until("no answers any more", is_enough);
        load.is_stopping.store(true, Ordering::SeqCst);
        service.program.signal("TERM");
        let mut sum = Tally::default();
        for client in clients {
            sum.add(client.join().expect("a client does not panic"));
        }
        sum
    });
    let exit = service.program.exit();
    println!("run {}: {tally}", round + 1);

    exit.assert_code(0);
    assert_eq!(tally.truncated, Vec::<String>::new());
    let numbers: BTreeSet<u64> = tally.visits.iter().copied().collect();
    let answers = tally.visits.len() as u64;
    assert!(
        numbers.into_iter().eq(1..=answers),
        "a visit was counted whose answer nobody got, or two were counted as one: {:?}",
        tally.visits
    );
    assert_eq!(state.count(), answers);
    if is_logged {
        let taken = |what: &str| exit.stderr.matches(what).count();
        assert_eq!(taken("answering /slow"), tally.slow, "{}", exit.stderr);
        assert_eq!(taken("answering /"), tally.slow + tally.visits.len());
    }
    tally
}

struct Load<'a> {
    address: &'a str,
    answered: AtomicUsize,
    is_stopping: AtomicBool,
}

#[derive(Clone, Copy)]
enum Kind {
    /// Visits on one connection.
    Loyal,
    /// A connection for each visit.
    Fickle,
    /// Slow requests on one connection.
    Slow,
}

impl Kind {
    fn of(number: usize) -> Self {
        [Self::Loyal, Self::Fickle, Self::Slow][number % 3]
    }

    fn target(self) -> &'static str {
        match self {
            Self::Loyal | Self::Fickle => "/",
            Self::Slow => "/slow?ms=20",
        }
    }
}

impl Load<'_> {
    /// Asks again and again, until nobody listens any more.
    fn run(&self, kind: Kind) -> Tally {
        let mut tally = Tally::default();
        let mut kept = None;
        loop {
            let is_kept = kept.is_some();
            let client = kept
                .take()
                .map_or_else(|| Client::connect(self.address), Ok);
            let mut client = match client {
                Ok(client) => client,
                Err(lost) => {
                    self.assert_stopping(&format!("no connection: {lost:?}"));
                    return tally;
                }
            };
            let asked = client.ask(kind.target());
            let must_be_read = is_kept && asked.is_ok() && !self.is_stopping();
            match client.answer() {
                Ok(answer) => {
                    self.count(&mut tally, kind, &answer);
                    if !answer.is_last && !matches!(kind, Kind::Fickle) {
                        kept = Some(client);
                    }
                }
                Err(Lost::Refused(why)) => {
                    self.assert_stopping(&format!("no answer: {why}"));
                    assert!(!must_be_read, "it was there before the signal");
                    tally.refused += 1;
                }
                Err(Lost::Truncated(what)) => tally.truncated.push(what),
            }
        }
    }

    fn count(&self, tally: &mut Tally, kind: Kind, answer: &Answer) {
        match (answer.status, kind) {
            (200, Kind::Slow) => tally.slow += 1,
            (200, _) => tally.visits.push(visitor(answer)),
            (503, _) => {
                self.assert_stopping("503");
                assert!(answer.is_last, "{answer:?}");
                tally.unavailable += 1;
            }
            _ => panic!("{answer:?}"),
        }
        self.answered.fetch_add(1, Ordering::SeqCst);
    }

    fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::SeqCst)
    }

    #[track_caller]
    fn assert_stopping(&self, what: &str) {
        assert!(self.is_stopping(), "{what} before it was asked to stop");
    }
}

// ---- the service under test ----

struct Service {
    program: Program,
    address: String,
}

impl Service {
    fn start(command: &mut Command) -> Self {
        let program = Program::start(command);
        let line = program.wait_for_line("listening on http://");
        let address = line.trim_start_matches("listening on http://").to_owned();
        Self { program, address }
    }

    fn client(&self) -> Client {
        Client::connect(&self.address).expect("it listens")
    }

    /// One request on a connection of its own.
    fn get(&self, target: &str) -> Answer {
        self.client().get(target).expect("an answer")
    }

    fn stop(self) -> Exit {
        self.program.signal("TERM");
        self.program.exit()
    }
}

/// A directory of its own for one test, with nothing but the state file; removed at its end.
struct State {
    directory: PathBuf,
    name: OsString,
}

impl State {
    fn new(test: &str) -> Self {
        let name = format!("serve-{test}-{}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        drop(fs::remove_dir_all(&directory)); // of a run with the same number that was killed
        fs::create_dir_all(&directory).expect("the directory for tests is writable");
        let name = OsString::from("count");
        Self { directory, name }
    }

    fn path(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// `serve` on a free port, with what it does in its log.
    fn serve(&self) -> Service {
        Service::start(self.command("127.0.0.1:0").env("RUST_LOG", "debug"))
    }

    fn command(&self, address: &str) -> Command {
        let mut command = Command::new(path_of("serve"));
        command.args(["--listen", address, "--state"]);
        command.arg(self.path()).env("RUST_BACKTRACE", "0");
        // A machine may stand still for a minute; and a client that is waited for is waited for too long.
        command.args(["--drain", FOR_EVER]);
        command
    }

    /// A start that fails.
    #[track_caller]
    fn assert_fails(&self, address: &str, says: &str) {
        let exit = Program::start(&mut self.command(address)).exit();
        exit.assert_code(1);
        exit.assert_says(says);
        exit.assert_never_says("listening");
    }

    fn read(&self) -> String {
        fs::read_to_string(self.path()).expect("there is always a whole file")
    }

    fn count(&self) -> u64 {
        let text = self.read();
        text.trim_end().parse().expect("it is a number")
    }
}

impl Drop for State {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.directory));
    }
}

fn visitor(answer: &Answer) -> u64 {
    let number = answer.body.strip_prefix("you are visitor ");
    let number = number.and_then(|number| number.trim_end().parse().ok());
    number.unwrap_or_else(|| panic!("no visitor in {answer:?}"))
}
