//! What only the operating system knows of a file.

#[cfg(unix)]
pub(crate) use unix::{Identity, open};

#[cfg(not(unix))]
pub(crate) use elsewhere::{Identity, open};

#[cfg(unix)]
mod unix {
    use std::fs::{File, Metadata};
    use std::io;
    use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
    use std::path::Path;

    /// `O_NONBLOCK`, so that a fifo that took the file's place cannot hold a hasher up for ever.
    const NON_BLOCKING: i32 = if cfg!(target_os = "linux") {
        0o4000
    } else {
        0x4
    };

    /// The same for all hard links of a file.
    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    pub(crate) struct Identity {
        device: u64,
        inode: u64,
    }

    impl Identity {
        pub(crate) fn of(_: &Path, metadata: &Metadata) -> Self {
            Self {
                device: metadata.dev(),
                inode: metadata.ino(),
            }
        }
    }

    pub(crate) fn open(path: &Path) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).custom_flags(NON_BLOCKING).open(path)
    }
}

/// Hard links count as files of their own here: std tells nothing of them.
#[cfg(not(unix))]
mod elsewhere {
    use std::fs::{File, Metadata};
    use std::io;
    use std::path::{Path, PathBuf};

    #[derive(Debug, Clone, PartialEq, Eq, Hash)]
    pub(crate) struct Identity(PathBuf);

    impl Identity {
        pub(crate) fn of(path: &Path, _: &Metadata) -> Self {
            Self(path.canonicalize().unwrap_or_else(|_| path.to_owned()))
        }
    }

    pub(crate) fn open(path: &Path) -> io::Result<File> {
        File::open(path)
    }
}
