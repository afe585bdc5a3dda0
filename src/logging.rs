//! A ready logger whose lines carry the task's name.

use std::io::Write as _;

use env_logger::{Builder, Env};

use crate::cancel::cause;

/// Installs a logger on stderr that prints time, level, **task name** and message; `true` if no other was installed.
///
/// The level comes from `RUST_LOG` and is `info` without it. The library itself never installs a logger: call this
/// first in `main`, or bring your own.
///
/// ```
/// taskmuster::logging::init();
/// log::info!("ready");
/// ```
#[expect(
    clippy::must_use_candidate,
    reason = "most programs have no other logger and do not ask"
)]
pub fn init() -> bool {
    Builder::from_env(Env::default().default_filter_or("info"))
        .format(|out, record| {
            let time = out.timestamp_millis();
            let task = cause::actor();
            writeln!(
                out,
                "{time} {:5} {}  {}",
                record.level(),
                task.as_deref().unwrap_or("-"),
                record.args()
            )
        })
        .try_init()
        .is_ok()
}
