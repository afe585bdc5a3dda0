//! A hasher: reads one file after another, block by block.

use std::io::{self, Read as _};

use taskmuster::crossbeam_channel::Receiver;
use taskmuster::{Cancelled, RecvError, TaskContext, TaskResult};

use crate::catalogue::Job;
use crate::findings::Findings;
use crate::platform::{self, Identity};

/// All the memory a file of any size takes.
const BLOCK: usize = 64 * 1024;

#[derive(Debug, thiserror::Error)]
#[error(transparent)]
enum HashError {
    Cancelled(#[from] Cancelled),
    Unreadable(#[from] io::Error),
}

/// Hashes what comes in until nothing can come any more.
pub(crate) fn hash_files(
    ctx: &TaskContext,
    queue: &Receiver<Vec<Job>>,
    findings: &Findings,
) -> TaskResult {
    let mut block = vec![0; BLOCK];
    loop {
        let batch = match ctx.recv(queue) {
            Ok(batch) => batch,
            Err(RecvError::Disconnected) => return Ok(()),
            Err(stopped) => return Err(stopped.into()),
        };
        for job in batch {
            match hash_file(ctx, &job, &mut block, findings) {
                Ok(hash) => findings.add_digest(&job, hash),
                Err(HashError::Unreadable(error)) => findings.add_unreadable(&job.path, &error),
                Err(HashError::Cancelled(cancelled)) => return Err(cancelled.into()),
            }
        }
    }
}

fn hash_file(
    ctx: &TaskContext,
    job: &Job,
    block: &mut [u8],
    findings: &Findings,
) -> Result<blake3::Hash, HashError> {
    let mut file = platform::open(&job.path)?;
    if Identity::of(&job.path, &file.metadata()?) != job.identity {
        return Err(io::Error::other("another file has taken its place").into());
    }
    let mut hasher = blake3::Hasher::new();
    let mut at_end = false;
    while !at_end && hasher.count() <= job.size {
        ctx.checkpoint()?;
        match file.read(block) {
            Ok(length) => {
                hasher.update(&block[..length]);
                findings.add_hashed_bytes(length as u64);
                // A short read that ends where the file should is its end: most files need no second one.
                at_end = length == 0 || (length < block.len() && hasher.count() == job.size);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    if hasher.count() != job.size {
        return Err(io::Error::other("its size changed while it was read").into());
    }
    Ok(hasher.finalize())
}
