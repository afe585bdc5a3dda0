//! Names of tasks: as given, as printed, as the kernel takes them.

use std::borrow::Cow;

/// The longest name that is kept, in bytes.
const LONGEST: usize = 1024;

/// The longest name of a thread on Linux, in bytes.
const KERNEL: usize = 15;

/// The printed name of a task or group: the path of its groups and its own name, fit for logs.
///
/// Control characters and those that turn the direction of writing become `_`, so that a name can neither forge a line
/// of a log nor make the kernel refuse the thread; an empty name becomes `unnamed`.
pub(crate) fn path(group: &str, name: &str) -> String {
    let name = shorten(name, LONGEST, Keep::Start);
    let name: Cow<'_, str> = match name {
        "" => "unnamed".into(),
        name if name.contains(is_unprintable) => name.replace(is_unprintable, "_").into(),
        name => name.into(),
    };
    if group.is_empty() {
        name.into_owned()
    } else {
        format!("{group}/{name}")
    }
}

/// The name of the operating system's thread: at most 15 bytes, of which the distinguishing end survives.
pub(crate) fn thread_name(path: &str) -> String {
    shorten(path, KERNEL, Keep::End).to_owned()
}

fn is_unprintable(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[derive(Clone, Copy)]
enum Keep {
    Start,
    End,
}

/// At most `bytes` bytes of `text`, cut between characters.
fn shorten(text: &str, bytes: usize, keep: Keep) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let whole = |&index: &usize| text.is_char_boundary(index);
    match keep {
        Keep::Start => (0..=bytes).rev().find(whole).map_or("", |end| &text[..end]),
        Keep::End => (text.len() - bytes..=text.len())
            .find(whole)
            .map_or("", |start| &text[start..]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths_fit_for_logs() {
        assert_eq!(path("", "walk"), "walk");
        assert_eq!(path("ingest", "reader"), "ingest/reader");
        assert_eq!(path("", ""), "unnamed");
        assert_eq!(
            path("", "a\nERROR b\0\u{1b}[31m\u{202e}"),
            "a_ERROR b__[31m_"
        );
        assert_eq!(path("", &"é".repeat(100_000)).len(), LONGEST);
    }

    #[test]
    fn the_kernel_gets_the_end_of_a_name_in_whole_characters() {
        assert_eq!(thread_name("hash/1"), "hash/1");
        assert_eq!(thread_name("ingest/documents/reader-17"), "ments/reader-17");
        assert_eq!(thread_name("ääääääääää"), "äääääää");
        assert!(thread_name(&"€".repeat(40)).len() <= KERNEL);
    }
}
