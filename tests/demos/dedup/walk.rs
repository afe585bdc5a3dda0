//! The walker: finds files and hands those that may have a twin to the hashers.

use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::mem;
use std::path::{Path, PathBuf};

use taskmuster::crossbeam_channel::Sender;
use taskmuster::{TaskContext, TaskResult};

use crate::catalogue::Job;
use crate::findings::Findings;
use crate::options::{EmptyFiles, Options};

/// A batch goes to a hasher when it has so many files, or so many bytes: to hand over each small
/// file by itself would cost as much as to hash it, and large ones should spread over all hashers.
const BATCH_FILES: usize = 64;
const BATCH_BYTES: u64 = 1024 * 1024;

/// Walks through all roots and ends with the last of them.
pub(crate) fn walk(
    ctx: &TaskContext,
    options: &Options,
    findings: &Findings,
    jobs: &Sender<Vec<Job>>,
) -> TaskResult {
    let mut walker = Walker {
        ctx,
        findings,
        jobs,
        batch: Vec::new(),
        empty_files: options.empty_files,
        directories: Vec::new(),
    };
    for root in &options.roots {
        walker.root(root)?;
        // A list of what is still to be read, not a recursion: trees may be deeper than a stack.
        while let Some(directory) = walker.directories.pop() {
            walker.directory(&directory)?;
        }
    }
    walker.send_batch()
}

struct Walker<'a> {
    ctx: &'a TaskContext,
    findings: &'a Findings,
    jobs: &'a Sender<Vec<Job>>,
    batch: Vec<Job>,
    empty_files: EmptyFiles,
    directories: Vec<PathBuf>,
}

enum Found {
    Directory,
    File(Metadata),
    /// Symbolic links, fifos, sockets, devices.
    Other,
}

impl Walker<'_> {
    fn root(&mut self, root: &Path) -> TaskResult {
        self.take(root.to_owned(), fs::metadata(root).map(Found::from))
    }

    fn directory(&mut self, directory: &Path) -> TaskResult {
        let entries = match fs::read_dir(directory) {
            Ok(entries) => entries,
            Err(error) => {
                self.findings.add_unreadable(directory, &error);
                return Ok(());
            }
        };
        for entry in entries {
            self.ctx.checkpoint()?;
            match entry {
                Ok(entry) => self.take(entry.path(), inspect(&entry))?,
                Err(error) => self.findings.add_unreadable(directory, &error),
            }
        }
        Ok(())
    }

    fn take(&mut self, path: PathBuf, found: io::Result<Found>) -> TaskResult {
        match found {
            Ok(Found::Directory) => self.directories.push(path),
            Ok(Found::File(metadata)) => self.file(&path, &metadata)?,
            Ok(Found::Other) => {}
            Err(error) => self.findings.add_unreadable(&path, &error),
        }
        Ok(())
    }

    fn file(&mut self, path: &Path, metadata: &Metadata) -> TaskResult {
        if metadata.len() == 0 && self.empty_files == EmptyFiles::LeftOut {
            return Ok(());
        }
        for job in self.findings.add_file(path, metadata) {
            self.batch.push(job);
            if is_full(&self.batch) {
                self.send_batch()?;
            }
        }
        Ok(())
    }

    /// Waits while the hashers are behind, and hears the stop.
    fn send_batch(&mut self) -> TaskResult {
        Ok(self.ctx.send(self.jobs, mem::take(&mut self.batch))?)
    }
}

fn is_full(batch: &[Job]) -> bool {
    let sizes = batch.iter().map(|job| job.size);
    batch.len() >= BATCH_FILES || sizes.fold(0, u64::saturating_add) >= BATCH_BYTES
}

impl From<Metadata> for Found {
    fn from(metadata: Metadata) -> Self {
        match metadata.file_type() {
            kind if kind.is_dir() => Self::Directory,
            kind if kind.is_file() => Self::File(metadata),
            _ => Self::Other,
        }
    }
}

/// Looks at the entry itself, never at what a symbolic link leads to; asks for no more than it needs.
fn inspect(entry: &DirEntry) -> io::Result<Found> {
    match entry.file_type()? {
        kind if kind.is_dir() => Ok(Found::Directory),
        kind if kind.is_file() => entry.metadata().map(Found::from),
        _ => Ok(Found::Other),
    }
}
