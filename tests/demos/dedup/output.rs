//! What the user gets: groups on stdout, everything else on stderr.

use std::fmt::Arguments;
use std::io::{self, BufWriter, Write};

use indicatif::{BinaryBytes, HumanCount};

use crate::findings::{Findings, Group};
use crate::options::{Format, HELP};
use crate::printable::printable;

/// Says something on standard error; if nobody listens there, nobody can be told so either.
pub(crate) fn tell(message: Arguments<'_>) {
    drop(writeln!(io::stderr(), "dedup: {message}"));
}

pub(crate) fn print_help() -> io::Result<()> {
    to_stdout(|out| out.write_all(HELP.as_bytes()))
}

pub(crate) fn print(groups: &[Group], format: Format) -> io::Result<()> {
    to_stdout(|out| {
        groups.iter().try_for_each(|group| match format {
            Format::Text => print_text(out, group),
            Format::Json => print_json(out, group),
        })
    })
}

/// Makes sure that all of it has arrived. A reader who has had enough, as `head` has, is no failure.
fn to_stdout(print: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let mut out = BufWriter::new(io::stdout().lock());
    match print(&mut out).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

fn print_text(out: &mut dyn Write, group: &Group) -> io::Result<()> {
    let size = BinaryBytes(group.size);
    let waste = BinaryBytes(group.waste());
    writeln!(
        out,
        "{} files of {size}, {waste} wasted:",
        group.files.len()
    )?;
    for file in &group.files {
        writeln!(out, "  {}", printable(file))?;
    }
    Ok(())
}

fn print_json(out: &mut dyn Write, group: &Group) -> io::Result<()> {
    let mut files: Vec<_> = group
        .files
        .iter()
        .map(|file| file.to_string_lossy())
        .collect();
    files.sort_unstable(); // a replacement character may have another place than the byte it stands for
    let files = serde_json::to_string(&files)?;
    writeln!(out, r#"{{"size":{},"files":{files}}}"#, group.size)
}

/// Says in a few lines what was searched, found and missed.
pub(crate) fn summarize(findings: &Findings, groups: &[Group]) {
    if let Some(unreadable) = findings.unreadable() {
        tell(format_args!("{unreadable}"));
    }
    let not_utf8 = count_not_utf8(groups);
    if not_utf8 > 0 {
        tell(format_args!(
            "paths that are not UTF-8, printed with \u{FFFD}: {not_utf8}"
        ));
    }
    let waste = groups.iter().map(Group::waste).fold(0, u64::saturating_add);
    tell(format_args!(
        "{}, groups of duplicates: {}, wasted: {}",
        findings.progress(),
        HumanCount(groups.len() as u64),
        BinaryBytes(waste),
    ));
}

fn count_not_utf8(groups: &[Group]) -> usize {
    let files = groups.iter().flat_map(|group| &group.files);
    files.filter(|file| file.to_str().is_none()).count()
}
