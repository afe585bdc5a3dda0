//! Child processes of tasks: run, fed, stopped, reaped; none is left.

use std::collections::BTreeSet;
use std::env;
use std::error::Error;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use taskmuster::crossbeam_channel::{bounded, unbounded};
use taskmuster::{
    BoxError, Cancelled, CauseKind, ChildProcess, JoinError, Manager, Outcome, ProcessOutput,
    RunError, ShutdownReport, TaskContext, TaskHandle, TaskResult, TimeoutError,
};

use crate::{HANG, until};

const SIGTERM: i32 = 15;
const SIGKILL: i32 = 9;

fn manager() -> Manager {
    Manager::builder().grace(HANG).build().expect("a manager")
}

fn soon<T>(manager: &Manager, handle: &TaskHandle<T>) -> Result<T, JoinError> {
    let result = handle.join_timeout(HANG);
    if let Err(JoinError::StillRunning { .. }) = result {
        let name = handle.name();
        panic!("`{name}` hangs; live tasks: {:#?}", manager.tasks());
    }
    result
}

/// What `body` gives as the body of a task.
#[track_caller]
fn in_a_task<T: Send + 'static>(
    body: impl FnOnce(&TaskContext) -> TaskResult<T> + Send + 'static,
) -> T {
    let manager = manager();
    let task = manager.spawn("task", body).expect("spawned");
    let value = soon(&manager, &task).expect("it completes");
    assert!(manager.shutdown().expect("a report").is_clean());
    value
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

/// A line from a child process to its test, apart from what is captured.
struct Wire(BufReader<UnixStream>);

impl Wire {
    /// One end for the test and one for a stream of the child process.
    fn new() -> (Self, Stdio) {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        ours.set_read_timeout(Some(HANG)).expect("a timeout");
        (Self(BufReader::new(ours)), OwnedFd::from(theirs).into())
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).expect("it says a line in time");
        line.trim_end().to_owned()
    }

    #[track_caller]
    fn number(&mut self) -> u32 {
        self.line().parse().expect("a number")
    }
}

/// Whether the process with this number is there and not merely a zombie.
fn is_running(id: u32) -> bool {
    !matches!(state_of(id), None | Some('Z' | 'X'))
}

/// What the process with this number does, as a letter of `ps`; `None` if it is not there.
fn state_of(id: u32) -> Option<char> {
    let state = if cfg!(target_os = "linux") {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest.to_owned());
        after_name.unwrap_or_default()
    } else {
        let ps = Command::new("ps")
            .args(["-o", "stat=", "-p", &id.to_string()])
            .output();
        String::from_utf8_lossy(&ps.expect("ps starts").stdout).into_owned()
    };
    state.trim().chars().next()
}

/// A process that was killed is gone a moment later.
#[track_caller]
fn assert_is_gone(id: u32) {
    until("the process is still there", || !is_running(id));
}

fn kill(id: u32) {
    let status = Command::new("sh")
        .args(["-c", &format!("kill -9 {id}")])
        .status();
    assert!(status.expect("sh starts").success());
}

/// A file of this test in a directory of the build.
fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("process-{}-{name}", std::process::id()))
}

/// Runs a task with a child process of `script` and cancels it when the script has said a line on stderr, which is given
/// with how the run ended. The test sees what is on stderr, the run captures stdout.
fn run_and_cancel(script: &str) -> (String, Result<ProcessOutput, RunError>) {
    run_and_cancel_when(script, |_| true)
}

/// As `run_and_cancel`, when it is time: looked at again and again, with the line.
fn run_and_cancel_when(
    script: &str,
    is_time: impl Fn(&str) -> bool,
) -> (String, Result<ProcessOutput, RunError>) {
    let manager = manager();
    let (mut wire, stderr) = Wire::new();
    let mut command = shell(script);
    command.stderr(stderr);
    let (send, ended) = bounded(1);
    let task = manager.spawn("runner", move |ctx| {
        send.send(ctx.run(&mut command))?;
        ctx.checkpoint()?;
        Ok(())
    });
    let task = task.expect("spawned");
    let line = wire.line();
    until("it is never time", || is_time(&line));
    task.cancel();
    let end = ended.recv_timeout(HANG).expect("it does not hang");
    assert!(matches!(
        soon(&manager, &task),
        Err(JoinError::Cancelled { .. })
    ));
    (line, end)
}

/// Runs the ignored test `name` of this file in a process of its own, which the shell starts by way of `launcher`.
fn in_a_process_of_its_own(launcher: &str, name: &str) {
    let binary = env::current_exe().expect("this test");
    let script = format!("{launcher} \"$0\" --exact process::{name} --ignored --nocapture");
    let output = Command::new("sh")
        .arg("-c")
        .arg(script)
        .arg(binary)
        .output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    print!("{said}");
}

// ---- running to the end ----

#[test]
fn both_outputs_may_be_larger_than_any_pipe_at_once() {
    let output = in_a_task(|ctx| {
        let script = "head -c 3000000 /dev/zero & head -c 4000000 /dev/zero >&2; wait";
        Ok(ctx.run(&mut shell(script))?.success()?)
    });
    assert_eq!(
        (output.stdout.len(), output.stderr.len()),
        (3_000_000, 4_000_000)
    );
    assert!(output.is_complete());
}

#[test]
fn a_bad_end_is_no_error_of_the_run_but_one_if_asked_for() {
    let output = in_a_task(|ctx| Ok(ctx.run(&mut shell("echo no; echo why >&2; exit 3"))?));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b"no\n"[..], &b"why\n"[..])
    );
    let error = output.success().unwrap_err();
    assert!(
        error
            .to_string()
            .ends_with("exit status: 3; its last words were: why"),
        "{error}"
    );
    assert_eq!(error.into_output().stdout, b"no\n");

    let killed = in_a_task(|ctx| Ok(ctx.run(&mut shell("kill -9 $$"))?));
    assert_eq!(killed.status.signal(), Some(SIGKILL));
}

#[test]
fn what_the_command_redirects_stays_redirected_and_the_rest_is_captured() {
    let path = path("redirected");
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .expect("a file");
    let stdout = file.try_clone().expect("another handle");
    let output = in_a_task(move |ctx| {
        let mut command = shell("echo out; echo err >&2; cat");
        command.stdout(stdout);
        let first = ctx.run(&mut command)?.success()?;
        let second = ctx.run(&mut command)?.success()?;
        assert_eq!(first, second, "a second run is like the first");
        Ok(second)
    });
    let mut written = String::new();
    file.seek(SeekFrom::Start(0)).expect("a file");
    file.read_to_string(&mut written).expect("a text");
    fs::remove_file(path).expect("it is there");
    assert_eq!(written, "out\nout\n", "and there was nothing to read");
    assert_eq!(
        (&*output.stdout, &*output.stderr),
        (&b""[..], &b"err\n"[..])
    );
}

#[test]
fn standard_input_is_fed_from_a_file() {
    let path = path("input");
    fs::write(&path, "fed").expect("a file");
    let file = File::open(&path).expect("a file");
    let output = in_a_task(move |ctx| Ok(ctx.run(Command::new("cat").stdin(file))?.success()?));
    fs::remove_file(path).expect("it is there");
    assert_eq!(output.stdout, b"fed");
}

#[test]
fn standard_input_is_fed_by_a_helper_while_the_output_is_captured() {
    let output = in_a_task(|ctx| {
        let mut cat = Command::new("cat");
        let mut cat = ctx.spawn_child(cat.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
        let mut input = cat.take_stdin().ok_or("no pipe")?;
        assert!(cat.take_stdin().is_none());
        thread::scope(|scope| {
            scope.spawn(move || input.write_all(&vec![b'x'; 2_000_000]).expect("it is read"));
            Ok(cat.wait_with_output()?.success()?)
        })
    });
    assert_eq!(output.stdout.len(), 2_000_000);
    assert!(output.stdout.iter().all(|byte| *byte == b'x'));
}

#[test]
fn a_wait_closes_the_input_that_nobody_took() {
    in_a_task(|ctx| {
        let mut cat = ctx.spawn_child(
            Command::new("cat")
                .stdin(Stdio::piped())
                .stdout(Stdio::null()),
        )?;
        assert!(cat.wait()?.success());
        let output = ctx.run(Command::new("cat").stdin(Stdio::piped()))?;
        assert!(output.success()?.stdout.is_empty());
        Ok(())
    });
}

#[test]
fn streams_that_are_not_piped_are_this_program_s_own() {
    let (mut wire, stdout) = Wire::new();
    in_a_task(move |ctx| {
        let output = ctx
            .spawn_child(shell("echo here").stdout(stdout))?
            .wait_with_output()?;
        assert!(output.is_complete() && output.stdout.is_empty() && output.stderr.is_empty());
        Ok(())
    });
    assert_eq!(wire.line(), "here");
}

#[test]
fn a_grandchild_that_keeps_the_pipes_open_does_not_hold_the_run() {
    let output = in_a_task(|ctx| Ok(ctx.run(&mut shell("sleep 1000 & echo $!; echo err >&2"))?));
    assert!(output.status.success() && !output.is_complete());
    assert_eq!(output.stderr, b"err\n");
    let text = String::from_utf8(output.stdout).expect("a text");
    let id: u32 = text.trim().parse().expect("a number");
    assert!(is_running(id), "it is left alone");
    kill(id);
    assert_is_gone(id);
}

#[test]
fn a_grandchild_that_never_stops_writing_does_not_hold_the_run() {
    let script =
        "(while :; do echo more; sleep 0.01; done) & echo $! >&2; head -c 300000 /dev/zero";
    let output = in_a_task(move |ctx| Ok(ctx.run(&mut shell(script))?));
    assert!(output.status.success() && !output.is_complete());
    let zeroes: Vec<u8> = output
        .stdout
        .into_iter()
        .filter(|&byte| byte == 0)
        .collect();
    assert_eq!(
        zeroes.len(),
        300_000,
        "what the child itself wrote is there"
    );
    let text = String::from_utf8(output.stderr).expect("a text");
    // Its pipe is closed now, as that of anybody whose reader is gone.
    assert_is_gone(text.trim().parse().expect("a number"));
}

#[test]
fn a_program_that_is_not_there_is_an_error_that_says_what_to_do() {
    let directory = path("not-there");
    let script = path("script");
    fs::write(&script, "#!/no/such/interpreter\n").expect("a file");
    let no_mode = Command::new(&script);
    let said = |mut command: Command| {
        in_a_task(move |ctx| {
            let error = ctx.spawn_child(&mut command).unwrap_err();
            assert!(
                error
                    .source()
                    .is_some_and(<dyn Error>::is::<std::io::Error>)
            );
            let of_run = ctx.run(&mut command).unwrap_err().to_string();
            assert_eq!(error.to_string(), of_run);
            Ok(of_run)
        })
    };
    let name = said(Command::new("no-such-program-anywhere"));
    assert!(
        name.starts_with(
            "the child process `no-such-program-anywhere` could not be started (it is in no directory of PATH: is it \
             installed?): No such file"
        ),
        "{name}"
    );
    let file = said(Command::new("/no/such/file"));
    assert!(file.contains("(there is no such file)"), "{file}");
    let mut elsewhere = Command::new("true");
    elsewhere.current_dir(&directory);
    let elsewhere = said(elsewhere);
    assert!(elsewhere.contains("its working directory `"), "{elsewhere}");
    let no_mode = said(no_mode);
    assert!(
        no_mode.contains("(the file may not be executed: see its mode)"),
        "{no_mode}"
    );
    fs::set_permissions(&script, fs::Permissions::from_mode(0o700)).expect("a file of ours");
    let script_said = said(Command::new(&script));
    fs::remove_file(script).expect("it is there");
    assert!(
        script_said.contains("the interpreter in its first line"),
        "{script_said}"
    );
    let forged = said(Command::new("x\n  exit code 0"));
    assert!(forged.lines().count() == 1, "{forged}");
}

// ---- the task's stop ----

#[test]
fn a_child_that_ends_when_asked_has_its_grace_and_its_last_words() {
    let script =
        "trap 'echo bye; exit 7' TERM; echo hello; echo ready >&2; while :; do sleep 0.01; done";
    let (_, end) = run_and_cancel(script);
    let error = end.unwrap_err();
    assert!(error.is_cancelled());
    let cancelled = error.source().and_then(|source| source.downcast_ref());
    let cancelled: &Cancelled = cancelled.expect("the task's own");
    assert_eq!(cancelled.cause().kind(), CauseKind::Request);
    assert!(
        error
            .to_string()
            .starts_with("the child process `sh` was ended: cancelled: request"),
        "{error}"
    );
    let output = error.into_output().expect("it was started");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(output.stdout, b"hello\nbye\n");
}

#[test]
fn a_child_that_ignores_the_question_is_killed_when_its_grace_is_over() {
    const GRACE: Duration = Duration::from_millis(150);
    let manager = manager();
    let (mut wire, stderr) = Wire::new();
    let (send, ended) = bounded(1);
    let task = manager.spawn("runner", move |ctx| {
        let mut deaf = shell("trap '' TERM; echo $$ >&2; sleep 1000 & wait");
        let mut deaf = ctx.spawn_child(deaf.stderr(stderr))?.grace(GRACE);
        send.send(deaf.wait())?;
        assert!(deaf.wait().unwrap_err().is_cancelled(), "the same again");
        Ok(())
    });
    let task = task.expect("spawned");
    let id = wire.number();
    let start = Instant::now();
    task.cancel();
    let error = ended.recv_timeout(HANG).expect("no hang").unwrap_err();
    let took = start.elapsed();
    assert!(took >= GRACE, "{took:?}");
    let output = error.into_output().expect("it was started");
    assert_eq!(output.status.signal(), Some(SIGKILL));
    soon(&manager, &task).expect("it completes");
    assert!(!Path::new(&format!("/proc/{id}")).exists(), "it was reaped");
}

#[test]
fn what_ignores_the_question_in_the_group_of_a_child_that_ends_is_killed() {
    let script = "sh -c \"trap '' TERM; echo \\$\\$ >&2; exec sleep 1000\" & wait";
    let (id, end) = run_and_cancel(script);
    let output = end.unwrap_err().into_output().expect("it was started");
    assert_eq!(output.status.signal(), Some(SIGTERM));
    assert_is_gone(id.parse().expect("a number"));
}

#[test]
fn a_child_that_is_stopped_hears_the_question() {
    let script = "trap 'exit 7' TERM; echo $$ >&2; kill -STOP $$; while :; do sleep 0.01; done";
    let is_stopped = |id: &str| state_of(id.parse().expect("a number")) == Some('T');
    let (_, end) = run_and_cancel_when(script, is_stopped);
    let output = end.unwrap_err().into_output().expect("it was started");
    assert_eq!(output.status.code(), Some(7));
}

#[test]
fn nothing_is_started_for_a_task_that_was_asked_to_stop() {
    let path = path("never");
    let theirs = path.clone();
    in_a_task(move |ctx| {
        ctx.token().cancel();
        let mut touch = Command::new("touch");
        touch.arg(&theirs);
        let error = ctx.run(&mut touch).unwrap_err();
        assert!(error.is_cancelled());
        assert!(
            error.to_string().starts_with(
                "the child process `touch` was not started: cancelled: request by `task`"
            ),
            "{error}"
        );
        assert!(error.source().is_some_and(<dyn Error>::is::<Cancelled>));
        assert!(error.into_output().is_none());
        assert!(ctx.spawn_child(&mut touch).unwrap_err().is_cancelled());
        Ok(())
    });
    assert!(!path.exists());
}

#[test]
fn a_child_that_had_ended_before_the_stop_was_not_cancelled() {
    in_a_task(|ctx| {
        let mut child = ctx.spawn_child(&mut shell("exit 4"))?;
        assert_eq!(child.wait()?.code(), Some(4));
        ctx.token().cancel();
        assert_eq!(child.wait()?.code(), Some(4));
        assert_eq!(child.terminate(Duration::ZERO)?.code(), Some(4));
        assert_eq!(child.kill()?.code(), Some(4));
        Ok(())
    });
}

#[test]
fn an_end_and_a_stop_at_the_same_moment_are_one_or_the_other() {
    let manager = manager();
    let (mut ended, mut cut) = (0, 0);
    for round in 0..300_u32 {
        let start = Arc::new(Barrier::new(2));
        let go = Arc::clone(&start);
        let task = manager.spawn("racer", move |ctx| {
            go.wait();
            match ctx.run(&mut shell("echo done; exit 5")) {
                Ok(output) => Ok((Some(output.status), false)),
                Err(error) if error.is_cancelled() => {
                    let output = error.into_output();
                    Ok((output.map(|output| output.status), true))
                }
                Err(error) => Err(error.into()),
            }
        });
        let task = task.expect("spawned");
        start.wait();
        // From before the start until after the end of what takes about a millisecond.
        let until = Instant::now() + Duration::from_micros(u64::from(round) * 10);
        while Instant::now() < until {
            std::hint::spin_loop();
        }
        task.cancel();
        match soon(&manager, &task).expect("it says how it ended") {
            (Some(status), false) => {
                assert_eq!(status.code(), Some(5));
                ended += 1;
            }
            (Some(status), true) => {
                assert!(
                    status.code() == Some(5) || status.signal() == Some(SIGTERM),
                    "{status}"
                );
                cut += 1;
            }
            (None, true) => cut += 1,
            (None, false) => panic!("neither"),
        }
    }
    println!("{ended} ended by themselves, {cut} were cancelled");
}

#[test]
fn a_task_that_reads_from_its_child_is_released_by_the_stop() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let task = manager.spawn::<()>("reader", move |ctx| {
        let mut deaf = shell("trap '' TERM; echo $$; sleep 1000 & wait");
        let mut deaf = ctx
            .spawn_child(deaf.stdout(Stdio::piped()))?
            .grace(Duration::from_millis(50));
        let lines = BufReader::new(deaf.take_stdout().ok_or("no pipe")?).lines();
        for line in lines {
            there.send(line?)?; // a plain read, which hears nothing by itself
        }
        Err(deaf.wait().unwrap_err().into())
    });
    let task = task.expect("spawned");
    let id = ready.recv_timeout(HANG).expect("it says a line");
    task.cancel();
    assert!(matches!(
        soon(&manager, &task),
        Err(JoinError::Cancelled { .. })
    ));
    assert_is_gone(id.parse().expect("a number"));
}

#[test]
fn a_timeout_of_a_section_ends_the_child_and_is_told_from_a_stop() {
    in_a_task(|ctx| {
        let late = ctx.with_timeout(Duration::from_millis(20), |ctx| {
            Ok(ctx.run(Command::new("sleep").arg("1000"))?)
        });
        assert!(
            matches!(late, Err(TimeoutError::Elapsed { .. })),
            "{late:?}"
        );
        ctx.token().cancel();
        let output = ctx.shield(HANG, |ctx| Ok(ctx.run(Command::new("echo").arg("saved"))?));
        assert_eq!(output?.success()?.stdout, b"saved\n");
        Ok(())
    });
}

// ---- the handle ----

#[test]
fn a_dropped_handle_leaves_nothing_of_the_group() {
    let (mut wire, stderr) = Wire::new();
    in_a_task(move |ctx| {
        let mut deaf = shell("trap '' TERM; sleep 1000 & echo $! >&2; wait");
        let child = ctx.spawn_child(deaf.stderr(stderr))?;
        let (id, grandchild) = (child.id(), wire.number());
        assert!(is_running(id) && is_running(grandchild));
        drop(child);
        assert!(!Path::new(&format!("/proc/{id}")).exists(), "it was reaped");
        assert_is_gone(grandchild);
        Ok(())
    });
}

#[test]
fn a_panic_leaves_nothing_of_the_group() {
    let manager = manager();
    let (mut wire, stderr) = Wire::new();
    let task = manager.spawn::<()>("panics", move |ctx| {
        let mut deaf = shell("trap '' TERM; sleep 1000 & echo $! >&2; wait");
        let child = ctx.spawn_child(deaf.stderr(stderr))?;
        panic!("{} {}", child.id(), wire.number());
    });
    let end = soon(&manager, &task.expect("spawned"));
    let Err(JoinError::Panicked(panic)) = end else {
        panic!("{end:?}")
    };
    let ids = panic.message().expect("a text").split(' ').map(str::parse);
    let ids: Vec<u32> = ids.collect::<Result<_, _>>().expect("two numbers");
    assert!(
        !Path::new(&format!("/proc/{}", ids[0])).exists(),
        "it was reaped"
    );
    assert_is_gone(ids[1]);
}

#[test]
fn a_handle_asks_kills_and_looks() {
    in_a_task(|ctx| {
        let sleep = || {
            let mut sleep = Command::new("sleep");
            sleep.arg("1000");
            sleep
        };
        let mut looked_at = ctx.spawn_child(&mut sleep())?;
        assert!(looked_at.try_wait()?.is_none());
        assert!(looked_at.wait_timeout(Duration::from_millis(1))?.is_none());
        assert!(looked_at.wait_deadline(Instant::now())?.is_none());
        assert!(format!("{looked_at:?}").contains("program: \"sleep\""));
        let status = looked_at.terminate(HANG)?;
        assert_eq!(status.signal(), Some(SIGTERM));
        assert_eq!(looked_at.try_wait()?, Some(status));
        assert_eq!(looked_at.wait()?, status);

        assert_eq!(
            ctx.spawn_child(&mut sleep())?.kill()?.signal(),
            Some(SIGKILL)
        );

        let mut deaf = shell("trap '' TERM; echo; exec sleep 1000");
        let mut deaf = ctx.spawn_child(deaf.stdout(Stdio::piped()))?;
        deaf.take_stdout().ok_or("no pipe")?.read_exact(&mut [0])?;
        let start = Instant::now();
        let grace = Duration::from_millis(50);
        assert_eq!(deaf.terminate(grace)?.signal(), Some(SIGKILL));
        assert!(start.elapsed() >= grace);
        Ok(())
    });
}

#[test]
fn a_child_serves_helper_threads_of_its_task() {
    fn is_send_and_sync<T: Send + Sync>() {}
    is_send_and_sync::<ChildProcess<'_>>();
    in_a_task(|ctx| {
        let total = thread::scope(|scope| {
            let runs = (0..8_u64).map(|number| {
                scope.spawn(move || -> Result<u64, BoxError> {
                    let output = ctx.run(Command::new("echo").arg(number.to_string()))?;
                    Ok(String::from_utf8(output.success()?.stdout)?
                        .trim()
                        .parse()?)
                })
            });
            let runs: Vec<_> = runs.collect();
            let runs = runs.into_iter().map(|run| run.join().expect("no panic"));
            runs.sum::<Result<u64, BoxError>>()
        });
        assert_eq!(total?, 28);
        Ok(())
    });
}

// ---- the shutdown ----

/// A task that waits for a child process that ignores SIGTERM and may take as long as it likes.
fn task_with_deaf_child(manager: &Manager) -> u32 {
    let (mut wire, stderr) = Wire::new();
    let task = manager.spawn::<()>("builder", move |ctx| {
        let mut deaf = shell("trap '' TERM; echo $$ >&2; exec sleep 1000");
        let mut deaf = ctx.spawn_child(deaf.stderr(stderr))?.grace(Duration::MAX);
        Err(deaf.wait().unwrap_err().into())
    });
    drop(task.expect("spawned"));
    wire.number()
}

/// In time for its task to end as well; on a machine that is too busy for that, the report says what it waits for.
#[track_caller]
fn assert_child_was_killed(id: u32, report: &ShutdownReport) {
    assert_is_gone(id);
    if report.exit_code() == 0 {
        let is_reaped = !Path::new(&format!("/proc/{id}")).exists();
        assert!(is_reaped, "{report}");
    } else {
        assert!(report.to_string().contains("which was killed "), "{report}");
    }
}

#[test]
fn a_shutdown_kills_the_children_in_time_whatever_their_grace() {
    let manager = manager();
    let id = task_with_deaf_child(&manager);
    let start = Instant::now();
    let (last_call, limit) = (Duration::from_millis(900), Duration::from_secs(1));
    let report = manager.shutdown_timeout(limit).expect("a report");
    assert!(start.elapsed() >= last_call, "{report}");
    assert_child_was_killed(id, &report);
}

#[test]
fn a_hurry_kills_the_children_in_time() {
    let manager = manager();
    let id = task_with_deaf_child(&manager);
    manager.hurry();
    let report = manager.shutdown().expect("a report");
    assert_child_was_killed(id, &report);
}

#[test]
fn a_task_that_is_abandoned_leaves_no_child_behind() {
    let manager = manager();
    let (there, ready) = bounded(1);
    let (release, released) = unbounded::<()>();
    let task = manager.spawn("elsewhere", move |ctx| {
        let mut deaf = shell("trap '' TERM; echo; exec sleep 1000");
        let mut deaf = ctx
            .spawn_child(deaf.stdout(Stdio::piped()))?
            .grace(Duration::MAX);
        deaf.take_stdout().ok_or("no pipe")?.read_exact(&mut [0])?;
        there.send(deaf.id())?;
        let _ = released.recv(); // hears no stop
        Ok(())
    });
    let task = task.expect("spawned");
    let id = ready.recv_timeout(HANG).expect("it runs");
    let report = manager
        .shutdown_timeout(Duration::from_millis(150))
        .expect("a report");
    assert_eq!(report.exit_code(), 2, "{report}");
    assert_is_gone(id);
    drop(release);
    while !matches!(task.outcome(), Some(Outcome::Completed)) {
        thread::yield_now();
    }
    assert!(!Path::new(&format!("/proc/{id}")).exists(), "it was reaped");
}

#[test]
fn a_shield_does_not_save_a_child_from_the_end() {
    let manager = manager();
    let (mut wire, stderr) = Wire::new();
    let task = manager.spawn("shielded", move |ctx| {
        let mut sleep = shell("echo $$ >&2; exec sleep 1000");
        sleep.stderr(stderr);
        let end = ctx.shield(HANG, |ctx| Ok(ctx.run(&mut sleep)?));
        drop(end?);
        Ok(())
    });
    drop(task.expect("spawned"));
    let id = wire.number();
    let report = manager
        .shutdown_timeout(Duration::from_millis(300))
        .expect("a report");
    assert_child_was_killed(id, &report);
}

// ---- what needs a process of its own ----

#[test]
#[cfg(target_os = "linux")]
fn two_hundred_children_cancelled_at_random_moments_leave_nothing() {
    in_a_process_of_its_own("exec", "two_hundred_children");
}

#[test]
#[cfg(target_os = "linux")]
fn without_descriptors_nothing_is_started_and_nothing_lost() {
    in_a_process_of_its_own("ulimit -n 40; exec", "few_descriptors");
}

#[test]
#[cfg(target_os = "linux")]
fn a_program_that_ignores_its_children_is_told_so() {
    in_a_process_of_its_own("exec env --ignore-signal=CHLD", "ignored_children");
}

/// What a process has of the system. Only for a process in which nothing else happens.
#[derive(Debug, PartialEq, Eq)]
#[cfg(target_os = "linux")]
struct Belongings {
    threads: Vec<String>,
    descriptors: BTreeSet<String>,
    children: Vec<String>,
}

#[cfg(target_os = "linux")]
impl Belongings {
    fn now() -> Self {
        let mut threads: Vec<String> = entries("/proc/self/task")
            .map(|task| fs::read_to_string(task.join("comm")).unwrap_or_default())
            .collect();
        threads.sort();
        let descriptors = entries("/proc/self/fd")
            .filter_map(|fd| Some((fd.clone(), fs::read_link(fd).ok()?)))
            // That of this look itself.
            .filter(|(_, target)| !target.starts_with("/proc"))
            .map(|(fd, target)| format!("{} {}", fd.display(), target.display()));
        Self {
            threads,
            descriptors: descriptors.collect(),
            children: processes(|_, parent, _| parent == std::process::id()),
        }
    }

    /// Once a thread of this name is gone.
    fn without_thread(name: &str) -> Self {
        let start = Instant::now();
        loop {
            let now = Self::now();
            if !now.threads.iter().any(|thread| thread.trim() == name) {
                return now;
            }
            assert!(start.elapsed() < HANG, "`{name}` stays: {now:#?}");
            thread::yield_now();
        }
    }

    /// The house threads of deadlines and callbacks leave a second after their last work.
    fn until_they_are(&self, what: &str) {
        let start = Instant::now();
        loop {
            let now = Self::now();
            if now == *self {
                return;
            }
            assert!(
                start.elapsed() < HANG,
                "{what}: {now:#?}, but before {self:#?}"
            );
            thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(target_os = "linux")]
fn entries(directory: &str) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(directory).expect("procfs");
    entries.flatten().map(|entry| entry.path())
}

/// The processes, zombies among them, for which `is_wanted` holds of their state, parent and group.
#[cfg(target_os = "linux")]
fn processes(is_wanted: impl Fn(&str, u32, u32) -> bool) -> Vec<String> {
    let texts = entries("/proc").filter_map(|path| fs::read_to_string(path.join("stat")).ok());
    texts
        .filter(|text| {
            let after_name = text.rsplit_once(") ").map_or("", |(_, rest)| rest);
            let fields: Vec<&str> = after_name.split(' ').collect();
            let number = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
            match (fields.first(), number(1), number(2)) {
                (Some(state), Some(parent), Some(group)) => is_wanted(state, parent, group),
                _ => false,
            }
        })
        .collect()
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "run in a process of its own"]
fn two_hundred_children() {
    const CHILDREN: u64 = 200;
    let manager = manager();
    // Whatever is made once and stays is made before.
    let first = manager.spawn("first", |ctx| Ok(ctx.run(&mut shell("true"))?.success()?));
    drop(soon(&manager, &first.expect("spawned")));
    let before = Belongings::without_thread("first");
    let start = Instant::now();
    let mut random = Random::new();
    let (send, groups) = unbounded();
    let tasks: Vec<TaskHandle<()>> = (0..CHILDREN)
        .map(|number| {
            let send = send.clone();
            let task = manager.spawn(format!("child {number}"), move |ctx| {
                let mut deaf = shell("trap '' TERM; sleep 1000 & exec sleep 1000");
                let piped = deaf.stdout(Stdio::piped()).stderr(Stdio::piped());
                let mut child = ctx.spawn_child(piped)?.grace(Duration::from_millis(30));
                send.send(child.id())?;
                match number % 4 {
                    0 => drop(child.wait_with_output()?),
                    1 => drop(child.wait()?),
                    2 => return Err(ctx.wait().into()), // the handle is dropped
                    _ => {
                        let mut output = child.take_stdout().ok_or("no pipe")?;
                        output.read_to_end(&mut Vec::new())?;
                        child.wait()?;
                    }
                }
                Ok(())
            });
            task.expect("spawned")
        })
        .collect();
    drop(send);
    let mut order: Vec<&TaskHandle<()>> = tasks.iter().collect();
    while !order.is_empty() {
        let next = order.swap_remove(random.below(order.len()));
        next.cancel();
        thread::sleep(Duration::from_micros(random.below(4_000) as u64));
    }
    let mut started = 0;
    for task in &tasks {
        let end = soon(&manager, task);
        assert!(matches!(end, Err(JoinError::Cancelled { .. })), "{end:?}");
    }
    let groups: BTreeSet<u32> = groups.try_iter().inspect(|_| started += 1).collect();
    assert!(!groups.is_empty());
    println!(
        "{started} of {CHILDREN} children were started and ended within {:?} (seed {})",
        start.elapsed(),
        random.seed
    );
    drop(tasks);
    before.until_they_are("left behind");
    // Grandchildren that were killed are somebody else's zombies for a moment, or for ever where nobody reaps orphans.
    let start = Instant::now();
    loop {
        let left = processes(|state, _, group| groups.contains(&group) && state != "Z");
        if left.is_empty() {
            break;
        }
        assert!(start.elapsed() < HANG, "still running: {left:#?}");
        thread::yield_now();
    }
    println!("as before: {before:?}");
    let report = manager.shutdown().expect("a report");
    assert!(report.is_clean(), "{report}");
}

/// Numbers without a pattern; the seed is printed.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn new() -> Self {
        use std::hash::{BuildHasher as _, Hasher as _};
        let seed = std::hash::RandomState::new().build_hasher().finish() | 1;
        Self { seed, state: seed }
    }

    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state % limit as u64).expect("below a usize")
    }
}

#[test]
#[cfg(target_os = "linux")]
#[ignore = "run in a process of its own"]
fn few_descriptors() {
    let manager = manager();
    let task = manager.spawn("hungry", |ctx| {
        drop(ctx.run(&mut shell("true"))?.success()?);
        let mut hoard = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            hoard.push(file);
        }
        let mut refused = 0;
        // One descriptor after the other is given back: every step for which one is missing fails in turn.
        loop {
            match ctx.run(&mut shell("echo enough")) {
                Ok(output) => {
                    assert_eq!(output.success()?.stdout, b"enough\n");
                    break;
                }
                Err(RunError::Unavailable { error, .. } | RunError::NotStarted { error, .. }) => {
                    assert_eq!(error.raw_os_error(), Some(24), "{error}");
                    refused += 1;
                }
                Err(error) => return Err(error.into()),
            }
            drop(hoard.pop().ok_or("it should be enough now")?);
        }
        Ok(refused)
    });
    let refused = soon(&manager, &task.expect("spawned")).expect("it completes");
    assert!(refused > 2, "{refused}");
    println!("refused {refused} times, with one descriptor more each time");
    let start = Instant::now();
    loop {
        let now = Belongings::now();
        assert_eq!(now.children, Vec::<String>::new());
        let is_helper =
            |name: &String| name.starts_with("tm-child") || name.starts_with("tm-output");
        if !now.threads.iter().any(is_helper) {
            break;
        }
        assert!(start.elapsed() < HANG, "they stay: {now:#?}"); // and not only for a moment
        thread::yield_now();
    }
}

#[test]
#[ignore = "run in a process of its own"]
fn ignored_children() {
    in_a_task(|ctx| {
        let error = ctx.run(&mut shell("sleep 0.05; exit 3")).unwrap_err();
        assert!(matches!(error, RunError::Lost { .. }), "{error}");
        assert!(
            error.to_string().contains("do not ignore SIGCHLD"),
            "{error}"
        );
        let mut child = ctx.spawn_child(Command::new("sleep").arg("1000"))?;
        assert!(matches!(child.kill(), Err(RunError::Lost { .. })));
        drop(ctx.spawn_child(Command::new("sleep").arg("1000"))?);
        Ok(())
    });
}
