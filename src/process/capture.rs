//! Both outputs of a child process, read to their end or until told.
//!
//! A child that fills one pipe while its owner reads the other waits for ever, so both are read as they fill, by a
//! helper. A pipe ends when everybody who has its other end is gone, and that may be somebody the child has started and
//! left behind; so the helper can be told to come to an end.

use std::process::{ChildStderr, ChildStdout};

use crate::base::latch::Latch;
use crate::base::sync::Mutex;

pub(crate) use platform::Capture;

/// The ends of the pipes that are to be read.
#[derive(Debug)]
pub(crate) struct Pipes {
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
}

/// What was read.
#[derive(Debug, Default)]
pub(crate) struct Captured {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    /// Both were read to their end.
    pub(crate) complete: bool,
}

/// What the helper and the owner share.
#[derive(Debug, Default)]
struct Shared {
    captured: Mutex<Captured>,
    /// Open when both were read to their end, or as far as they could be.
    at_end: Latch,
}

#[cfg(unix)]
mod platform {
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;

    use nix::errno::Errno;
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use crate::base::latch::Latch;
    use crate::base::sync::{JoinHandle, Sender, bounded};
    use crate::base::unwind;
    use crate::process::capture::{Captured, Pipes, Shared};
    use crate::process::helper;

    /// How much is read at once: as much as a pipe usually holds.
    const CHUNK: usize = 64 * 1024;

    /// How much is still read of each stream once the helper was told: what the child itself wrote is in the pipe, and no
    /// pipe of an ordinary user holds more (pipe(7)). Somebody else may go on writing for ever.
    const REST: usize = 1024 * 1024;

    /// Reads the outputs of one child process. Dropping it ends that.
    #[derive(Debug)]
    pub(crate) struct Capture {
        shared: Arc<Shared>,
        begin: Option<Sender<Pipes>>,
        /// Closed to tell the helper.
        bell: Option<UnixStream>,
        helper: Option<JoinHandle<()>>,
    }

    impl Capture {
        /// Gets all that a capture needs, before there is a child.
        pub(crate) fn prepare() -> io::Result<Self> {
            let (bell, told) = UnixStream::pair()?;
            let (begin, pipes) = bounded::<Pipes>(1);
            let shared = Arc::new(Shared::default());
            let theirs = Arc::clone(&shared);
            let helper = helper::start("tm-output", move || {
                if let Ok(pipes) = pipes.recv() {
                    let captured = Reader::new(pipes, told).read();
                    let before = std::mem::replace(&mut *theirs.captured.lock(), captured);
                    drop(before);
                    theirs.at_end.open();
                }
            })?;
            Ok(Self {
                shared,
                begin: Some(begin),
                bell: Some(bell),
                helper: Some(helper),
            })
        }

        pub(crate) fn begin(&mut self, pipes: Pipes) {
            if let Some(begin) = self.begin.take() {
                // The helper is there to take it.
                drop(begin.send(pipes));
            }
        }

        /// Open when both streams were read to their end.
        pub(crate) fn at_end(&self) -> &Latch {
            &self.shared.at_end
        }

        /// Gives what was read, and what is there still.
        pub(crate) fn finish(mut self) -> Captured {
            self.end();
            std::mem::take(&mut *self.shared.captured.lock())
        }

        fn end(&mut self) {
            drop(self.begin.take());
            drop(self.bell.take());
            unwind::discard(self.helper.take().map(JoinHandle::join));
        }
    }

    impl Drop for Capture {
        fn drop(&mut self) {
            self.end();
        }
    }

    /// The helper's work.
    struct Reader {
        stdout: Stream,
        stderr: Stream,
        told: UnixStream,
        chunk: Box<[u8]>,
    }

    struct Stream {
        pipe: Option<File>,
        bytes: Vec<u8>,
        /// Reading failed before the end.
        broken: bool,
    }

    impl Reader {
        fn new(pipes: Pipes, told: UnixStream) -> Self {
            Self {
                stdout: Stream::new(pipes.stdout.map(OwnedFd::from)),
                stderr: Stream::new(pipes.stderr.map(OwnedFd::from)),
                told,
                chunk: vec![0; CHUNK].into_boxed_slice(),
            }
        }

        fn read(mut self) -> Captured {
            while self.stdout.pipe.is_some() || self.stderr.pipe.is_some() {
                match self.wait() {
                    Ok(Ready { told: true, .. }) => {
                        self.stdout.read_rest(&mut self.chunk);
                        self.stderr.read_rest(&mut self.chunk);
                        break;
                    }
                    Ok(ready) => {
                        if ready.stdout {
                            self.stdout.read_once(&mut self.chunk);
                        }
                        if ready.stderr {
                            self.stderr.read_once(&mut self.chunk);
                        }
                    }
                    // The pipes are closed, so that the child does not wait for a reader.
                    Err(_) => break,
                }
            }
            Captured {
                complete: self.stdout.is_complete() && self.stderr.is_complete(),
                stdout: self.stdout.bytes,
                stderr: self.stderr.bytes,
            }
        }

        /// Waits until there is something to read, or the end of something, or the owner tells.
        fn wait(&self) -> nix::Result<Ready> {
            let pipes = [&self.stdout, &self.stderr].map(|stream| stream.pipe.as_ref());
            let mut watched = vec![PollFd::new(self.told.as_fd(), PollFlags::POLLIN)];
            let open = pipes.iter().flatten();
            watched.extend(open.map(|pipe| PollFd::new(pipe.as_fd(), PollFlags::POLLIN)));
            match poll(&mut watched, PollTimeout::NONE) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(error) => return Err(error),
            }
            let mut events = watched.iter().map(has_news);
            let told = events.next().unwrap_or_default();
            let [stdout, stderr] =
                pipes.map(|pipe| pipe.is_some() && events.next().unwrap_or_default());
            Ok(Ready {
                told,
                stdout,
                stderr,
            })
        }
    }

    /// After an interruption nothing is said of anything.
    fn has_news(watched: &PollFd<'_>) -> bool {
        watched.any().unwrap_or(true)
    }

    struct Ready {
        told: bool,
        stdout: bool,
        stderr: bool,
    }

    impl Stream {
        fn new(pipe: Option<OwnedFd>) -> Self {
            Self {
                pipe: pipe.map(File::from),
                bytes: Vec::new(),
                broken: false,
            }
        }

        /// Reads what is there, of which `poll` has said that there is something; so this does not wait.
        fn read_once(&mut self, chunk: &mut [u8]) {
            let Some(pipe) = &mut self.pipe else { return };
            match pipe.read(chunk) {
                Ok(0) => self.pipe = None,
                Ok(length) => self
                    .bytes
                    .extend_from_slice(chunk.get(..length).unwrap_or_default()),
                Err(error) if is_passing(&error) => {}
                Err(_) => {
                    self.broken = true;
                    self.pipe = None;
                }
            }
        }

        /// Reads what is there without waiting for more.
        fn read_rest(&mut self, chunk: &mut [u8]) {
            let enough = self.bytes.len().saturating_add(REST);
            while self.bytes.len() < enough && self.has_something() {
                self.read_once(chunk);
            }
        }

        fn has_something(&self) -> bool {
            let Some(pipe) = &self.pipe else { return false };
            let mut watched = [PollFd::new(pipe.as_fd(), PollFlags::POLLIN)];
            loop {
                match poll(&mut watched, PollTimeout::ZERO) {
                    Ok(ready) => return ready > 0,
                    Err(Errno::EINTR) => {}
                    Err(_) => return false,
                }
            }
        }

        fn is_complete(&self) -> bool {
            self.pipe.is_none() && !self.broken
        }
    }

    fn is_passing(error: &io::Error) -> bool {
        matches!(
            error.kind(),
            io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock
        )
    }
}

#[cfg(not(unix))]
mod platform {
    use std::io::{self, Read};
    use std::sync::Arc;

    use crate::base::latch::Latch;
    use crate::base::sync::Mutex;
    use crate::process::capture::{Captured, Pipes, Shared};
    use crate::process::helper;

    const CHUNK: usize = 64 * 1024;

    /// Reads the outputs of one child process, with a helper for each. A read cannot be ended from outside here: a helper
    /// stays for as long as somebody has the other end of its pipe.
    #[derive(Debug)]
    pub(crate) struct Capture {
        shared: Arc<Shared>,
        reading: Arc<Mutex<usize>>,
    }

    impl Capture {
        pub(crate) fn prepare() -> io::Result<Self> {
            Ok(Self {
                shared: Arc::new(Shared::default()),
                reading: Arc::new(Mutex::new(0)),
            })
        }

        pub(crate) fn begin(&mut self, pipes: Pipes) {
            *self.reading.lock() = 1;
            if let Some(stdout) = pipes.stdout {
                self.read(stdout, |captured| &mut captured.stdout);
            }
            if let Some(stderr) = pipes.stderr {
                self.read(stderr, |captured| &mut captured.stderr);
            }
            leave(&self.shared, &self.reading);
        }

        fn read(
            &self,
            mut pipe: impl Read + Send + 'static,
            bytes: fn(&mut Captured) -> &mut Vec<u8>,
        ) {
            *self.reading.lock() += 1;
            let (shared, reading) = (Arc::clone(&self.shared), Arc::clone(&self.reading));
            let started = helper::start("tm-output", move || {
                let mut chunk = vec![0; CHUNK];
                while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                    let read = chunk.get(..length).unwrap_or_default();
                    bytes(&mut shared.captured.lock()).extend_from_slice(read);
                }
                leave(&shared, &reading);
            });
            // Without a reader the stream stays incomplete, and its pipe is closed.
            drop(started);
        }

        pub(crate) fn at_end(&self) -> &Latch {
            &self.shared.at_end
        }

        pub(crate) fn finish(self) -> Captured {
            std::mem::take(&mut *self.shared.captured.lock())
        }
    }

    fn leave(shared: &Shared, reading: &Mutex<usize>) {
        let mut left = reading.lock();
        *left -= 1;
        let is_last = *left == 0;
        drop(left);
        if is_last {
            shared.captured.lock().complete = true;
            shared.at_end.open();
        }
    }
}
