//! Every file met so far: once, however many paths lead to it.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs::Metadata;
use std::path::Path;
use std::sync::Arc;

use crate::platform::Identity;

/// The number of a file in its catalogue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct FileId(usize);

/// A file that has to be hashed, since another one has its size.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) file: FileId,
    pub(crate) path: Arc<Path>,
    pub(crate) size: u64,
    pub(crate) identity: Identity,
}

#[derive(Debug, Default)]
pub(crate) struct Catalogue {
    /// The path that sorts first of all that lead to the file.
    paths: Vec<Arc<Path>>,
    by_identity: HashMap<Identity, FileId>,
    by_size: HashMap<u64, SameSize>,
}

#[derive(Debug)]
enum SameSize {
    /// Not hashed yet, and never to be if no other file has its size.
    Single(Job),
    Several,
}

impl Catalogue {
    /// Takes a file in and returns those that have to be hashed because of it: none, one or two.
    pub(crate) fn add(&mut self, path: Arc<Path>, metadata: &Metadata) -> Vec<Job> {
        let identity = Identity::of(&path, metadata);
        let file = FileId(self.paths.len());
        match self.by_identity.entry(identity.clone()) {
            Entry::Vacant(vacant) => drop(vacant.insert(file)),
            Entry::Occupied(known) => {
                let first = &mut self.paths[known.get().0];
                if path.as_os_str() < first.as_os_str() {
                    *first = path;
                }
                return Vec::new();
            }
        }
        self.paths.push(Arc::clone(&path));
        let size = metadata.len();
        self.due(Job {
            file,
            path,
            size,
            identity,
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.paths.len()
    }

    pub(crate) fn path(&self, file: FileId) -> &Path {
        &self.paths[file.0]
    }

    /// A size seen for the second time makes both files due, from then on every one is.
    fn due(&mut self, job: Job) -> Vec<Job> {
        match self.by_size.entry(job.size) {
            Entry::Vacant(vacant) => {
                vacant.insert(SameSize::Single(job));
                Vec::new()
            }
            Entry::Occupied(mut known) => match known.insert(SameSize::Several) {
                SameSize::Single(first) => vec![first, job],
                SameSize::Several => vec![job],
            },
        }
    }
}
