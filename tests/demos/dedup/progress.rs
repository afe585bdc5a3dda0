//! The progress display: a bar on a terminal, log lines elsewhere.

use std::convert::Infallible;
use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use taskmuster::crossbeam_channel::Receiver;
use taskmuster::{RecvError, TaskContext, TaskResult};

use crate::findings::{Findings, Progress};

/// Shows how far the search is, until the sender of `finished` is gone.
pub(crate) fn show(
    ctx: &TaskContext,
    findings: &Findings,
    finished: &Receiver<Infallible>,
) -> TaskResult {
    let display = Display::for_stderr()?;
    loop {
        match ctx.recv_timeout(finished, display.interval()) {
            Err(RecvError::Timeout) => display.update(findings.progress()),
            Err(RecvError::Disconnected) => return Ok(()),
            Err(stopped) => return Err(stopped.into()),
            Ok(never) => match never {},
        }
    }
}

enum Display {
    /// Clears itself when it is dropped.
    Bar(ProgressBar),
    Log,
}

impl Display {
    fn for_stderr() -> Result<Self, indicatif::style::TemplateError> {
        if !io::stderr().is_terminal() {
            log::info!("the search begins");
            return Ok(Self::Log);
        }
        let style = ProgressStyle::with_template("{bar:30} {msg}")?;
        Ok(Self::Bar(ProgressBar::new(0).with_style(style)))
    }

    fn interval(&self) -> Duration {
        match self {
            Self::Bar(_) => Duration::from_millis(100),
            Self::Log => Duration::from_secs(1),
        }
    }

    fn update(&self, progress: Progress) {
        match self {
            Self::Bar(bar) => {
                bar.set_length(progress.bytes_due);
                bar.set_position(progress.bytes_hashed);
                bar.set_message(progress.to_string());
            }
            Self::Log => log::info!("{progress}"),
        }
    }
}
