//! The count of visits, in memory and on disk.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context as _;
use parking_lot::Mutex;
use taskmuster::{TaskContext, TaskResult};

pub(crate) struct Visits {
    /// Read for the last time when all who write have ended, so nothing has to be ordered by it.
    count: AtomicU64,
    path: PathBuf,
    /// What the file says. Locked while it is written: the flusher and the keeper use the same partial file.
    saved: Mutex<Option<u64>>,
}

impl Visits {
    /// Goes on from what was saved; a file that says something else is left as it is.
    pub(crate) fn load(path: PathBuf) -> anyhow::Result<Self> {
        let name = path.display();
        let count = match fs::read_to_string(&path) {
            Ok(text) => text
                .trim_end()
                .parse()
                .with_context(|| format!("the state file {name} is corrupt"))?,
            Err(error) if error.kind() == ErrorKind::NotFound => 0,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read the state file {name}"));
            }
        };
        Ok(Self {
            count: AtomicU64::new(count),
            path,
            saved: Mutex::new(None),
        })
    }

    /// Counts one more visit and gives its number.
    pub(crate) fn add(&self) -> u64 {
        self.count.fetch_add(1, Relaxed) + 1
    }

    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    /// Writes what is not on disk yet. The file gets its name when it is complete: there is always a whole one.
    pub(crate) fn save(&self) -> anyhow::Result<()> {
        let mut saved = self.saved.lock();
        let count = self.count();
        if *saved != Some(count) {
            let name = self.path.display();
            self.write(count)
                .with_context(|| format!("cannot write the state file {name}"))?;
            *saved = Some(count);
        }
        Ok(())
    }

    fn write(&self, count: u64) -> io::Result<()> {
        let mut partial = self.path.clone().into_os_string();
        partial.push(".partial");
        let mut file = File::create(&partial)?;
        writeln!(file, "{count}")?;
        file.sync_all()?;
        fs::rename(&partial, &self.path)
    }
}

/// Writes the state before the first visit, so that a bad place is an error of the start, and after the last.
pub(crate) fn keep(ctx: &TaskContext, visits: &Visits) -> TaskResult {
    visits.save()?;
    ctx.ready();
    ctx.wait();
    visits.save()?;
    log::info!("saved {} visits", visits.count());
    Ok(())
}
