//! Signals: faults 91 to 102.

use std::os::unix::process::ExitStatusExt as _;
use std::time::Duration;

use taskmuster::Manager;

use crate::child;

/// Waits for signals with one task that hears its stop.
#[test]
#[ignore = "a role of a child process"]
fn waits_for_a_signal() {
    let report = Manager::builder()
        .grace(Duration::from_secs(10))
        .run(|manager| {
            manager.handle_signals()?;
            manager.spawn("waits", |ctx| {
                ctx.wait();
                Ok(())
            })?;
            eprintln!("ready");
            drop(manager.wait());
            Ok(())
        });
    child::end(&report);
}

#[test]
fn f100_other_signals_keep_their_default_action() {
    for (name, number) in [("QUIT", 3), ("USR1", 10)] {
        let program = child::start("signals::waits_for_a_signal");
        program.wait_for_line("ready");
        program.signal(name);
        let exit = program.exit();
        assert_eq!(exit.status.signal(), Some(number), "{}", exit.stderr);
    }
}
