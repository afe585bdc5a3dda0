//! What the tasks have found so far; it outlives them.

use std::collections::HashSet;
use std::fmt::{self, Display, Formatter};
use std::fs::Metadata;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use indicatif::{BinaryBytes, HumanCount};
use parking_lot::Mutex;

use crate::catalogue::{Catalogue, FileId, Job};
use crate::printable::printable;

/// How many unreadable files are named; the others are only counted.
const NAMED: usize = 20;

#[derive(Debug, Default)]
pub(crate) struct Findings {
    catalogue: Mutex<Catalogue>,
    /// Bytes of the files that have to be hashed, and how many of those bytes have been. Read by nobody
    /// but the progress line, so nothing has to be ordered by them.
    bytes_due: AtomicU64,
    bytes_hashed: AtomicU64,
    digests: Mutex<Vec<Digest>>,
    unreadable: Mutex<Unreadable>,
}

/// Sorts equal contents side by side.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Digest {
    size: u64,
    hash: [u8; blake3::OUT_LEN],
    file: FileId,
}

/// Files with equal contents, by path.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) size: u64,
    pub(crate) files: Vec<PathBuf>,
}

/// What could not be read, and why.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unreadable {
    /// Overlapping roots lead to the same place more than once.
    paths: HashSet<PathBuf>,
    named: Vec<String>,
}

/// How far the search is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    pub(crate) files_seen: usize,
    pub(crate) files_hashed: usize,
    pub(crate) bytes_due: u64,
    pub(crate) bytes_hashed: u64,
}

impl Findings {
    /// Takes a file in and returns those that have to be hashed because of it.
    pub(crate) fn add_file(&self, path: &Path, metadata: &Metadata) -> Vec<Job> {
        let jobs = self.catalogue.lock().add(path.into(), metadata);
        let bytes = jobs.iter().map(|job| job.size).sum();
        self.bytes_due.fetch_add(bytes, Relaxed);
        jobs
    }

    pub(crate) fn add_hashed_bytes(&self, bytes: u64) {
        self.bytes_hashed.fetch_add(bytes, Relaxed);
    }

    pub(crate) fn add_digest(&self, job: &Job, hash: blake3::Hash) {
        self.digests.lock().push(Digest {
            size: job.size,
            hash: hash.into(),
            file: job.file,
        });
    }

    pub(crate) fn add_unreadable(&self, path: &Path, reason: &dyn Display) {
        let canonical = canonical(path);
        let mut unreadable = self.unreadable.lock();
        if unreadable.paths.insert(canonical) && unreadable.named.len() < NAMED {
            let line = format!("{}: {reason}", printable(path));
            unreadable.named.push(line);
        }
    }

    /// `None` if everything could be read.
    pub(crate) fn unreadable(&self) -> Option<Unreadable> {
        let unreadable = self.unreadable.lock();
        (!unreadable.paths.is_empty()).then(|| unreadable.clone())
    }

    pub(crate) fn progress(&self) -> Progress {
        Progress {
            files_seen: self.catalogue.lock().len(),
            files_hashed: self.digests.lock().len(),
            bytes_due: self.bytes_due.load(Relaxed),
            bytes_hashed: self.bytes_hashed.load(Relaxed),
        }
    }

    /// The groups of equal files, the one that wastes most first.
    pub(crate) fn duplicates(&self) -> Vec<Group> {
        let mut digests = self.digests.lock().clone();
        digests.sort_unstable();
        let catalogue = self.catalogue.lock();
        let mut groups: Vec<Group> = digests
            .chunk_by(|a, b| (a.size, a.hash) == (b.size, b.hash))
            .filter(|equal| equal.len() > 1)
            .map(|equal| Group::new(equal, &catalogue))
            .collect();
        groups.sort_by(|a, b| (b.waste(), &a.files).cmp(&(a.waste(), &b.files)));
        groups
    }
}

impl Group {
    fn new(equal: &[Digest], catalogue: &Catalogue) -> Self {
        let paths = equal.iter().map(|digest| catalogue.path(digest.file));
        let mut files: Vec<PathBuf> = paths.map(Path::to_owned).collect();
        // By bytes, as `sort` would, and not by path components.
        files.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        Self {
            size: equal[0].size,
            files,
        }
    }

    /// The bytes that would be free if one file of the group were kept.
    pub(crate) fn waste(&self) -> u64 {
        self.size.saturating_mul(self.files.len() as u64 - 1)
    }
}

/// The same for all paths that lead to one place, even to one that is closed or gone.
fn canonical(path: &Path) -> PathBuf {
    let by_parent = || Some(path.parent()?.canonicalize().ok()?.join(path.file_name()?));
    let itself = path.canonicalize().ok();
    itself.or_else(by_parent).unwrap_or_else(|| path.to_owned())
}

impl Display for Progress {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "files seen: {}, hashed: {} ({} of {})",
            HumanCount(self.files_seen as u64),
            HumanCount(self.files_hashed as u64),
            BinaryBytes(self.bytes_hashed),
            BinaryBytes(self.bytes_due),
        )
    }
}

/// Several lines, the last without its end.
impl Display for Unreadable {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        let count = self.paths.len();
        write!(out, "files or directories that could not be read: {count}")?;
        for line in &self.named {
            write!(out, "\n  {line}")?;
        }
        match count - self.named.len() {
            0 => Ok(()),
            more => write!(out, "\n  and {more} more"),
        }
    }
}
