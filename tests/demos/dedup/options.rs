//! What the command line asks for.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

pub(crate) const HELP: &str = "\
Finds files with equal contents below the given paths.

Usage: dedup [OPTION…] [--] [PATH…]

Without a PATH it searches the current directory. A PATH that is a symbolic link is followed;
those found below a PATH are not. Hard links of one file, and a file reached through several
PATHs, count once, under the path that sorts first. Empty files are left out. Fifos, sockets
and devices are never opened.

      --json   print one line a group: {\"size\":BYTES,\"files\":[\"…\"]}
      --empty  take empty files as duplicates of each other
  -h, --help   print this

The groups go to standard output, the one that wastes most first; everything else, files that
cannot be read among them, goes to standard error. Ctrl-C stops the search and prints what was
found until then. Without --json, control characters in a path are printed as \\n or \\u{1b}.

Exit code: 0, also after Ctrl-C and with unreadable files; 1 if a PATH does not exist, an option
is unknown or the result cannot be written; 2 if a task did not stop in time; 130 after a third Ctrl-C.
Environment: TASKMUSTER_GRACE=<seconds> to stop in, RUST_LOG=<level>.
";

#[derive(Debug)]
pub(crate) enum Request {
    Help,
    Search(Options),
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    pub(crate) roots: Vec<PathBuf>,
    pub(crate) format: Format,
    pub(crate) empty_files: EmptyFiles,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Format {
    #[default]
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum EmptyFiles {
    #[default]
    LeftOut,
    Included,
}

#[derive(Debug, thiserror::Error)]
#[error("unknown option {}", .0.to_string_lossy())]
pub(crate) struct UnknownOption(OsString);

pub(crate) fn parse(
    arguments: impl IntoIterator<Item = OsString>,
) -> Result<Request, UnknownOption> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--json") => options.format = Format::Json,
            Some("--empty") => options.empty_files = EmptyFiles::Included,
            Some("-h" | "--help") => return Ok(Request::Help),
            Some("--") => options.roots.extend(arguments.by_ref().map(PathBuf::from)),
            _ if argument.as_encoded_bytes().starts_with(b"-") => {
                return Err(UnknownOption(argument));
            }
            _ => options.roots.push(argument.into()),
        }
    }
    if options.roots.is_empty() {
        options.roots.push(".".into());
    }
    Ok(Request::Search(options))
}

impl Options {
    /// The paths named by the user that lead nowhere.
    pub(crate) fn unreadable_roots(&self) -> Vec<(&Path, io::Error)> {
        let roots = self.roots.iter().map(PathBuf::as_path);
        roots
            .filter_map(|root| Some((root, fs::metadata(root).err()?)))
            .collect()
    }
}
