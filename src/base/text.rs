//! Text of users, fit for one line of a log or report.

use std::fmt::{self, Display, Write};

/// How many bytes of a text of users are kept: the books hold many, and each of them may be of any length.
const KEPT: usize = 4096;

/// What is kept of `text`: its first 4 KiB, with `…` at the end if there was more.
///
/// A text that is written piece by piece is never there as a whole: its writer is told to stop.
pub(crate) fn excerpt(text: impl Display) -> String {
    let mut excerpt = Excerpt {
        text: String::new(),
        is_full: false,
    };
    // An error says that it is full, or that the writer gave up: what there is stays.
    let _ = write!(excerpt, "{text}");
    excerpt.text
}

struct Excerpt {
    text: String,
    is_full: bool,
}

impl Write for Excerpt {
    fn write_str(&mut self, piece: &str) -> fmt::Result {
        if self.is_full {
            return Err(fmt::Error);
        }
        let room = KEPT - self.text.len();
        if piece.len() <= room {
            self.text.push_str(piece);
            return Ok(());
        }
        let end = (0..=room).rev().find(|&end| piece.is_char_boundary(end));
        self.text.extend(end.and_then(|end| piece.get(..end)));
        self.text.push('…');
        self.is_full = true;
        Err(fmt::Error)
    }
}

/// `text` with a blank in the place of each character that could forge a line, command a terminal or turn the order of
/// what follows.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if is_command(c) { ' ' } else { c })
        .collect()
}

/// Control characters, the separators of lines, and those that open or close a run of another direction.
fn is_command(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_text_stays_on_its_line() {
        assert_eq!(
            printable("x\n  exit code 0\u{1b}[2J"),
            "x   exit code 0 [2J"
        );
        assert_eq!(
            printable("a\u{202e}b\u{2028}c \u{200f}ש"),
            "a b c \u{200f}ש"
        );
    }

    #[test]
    fn a_text_of_any_length_is_kept_up_to_its_first_four_kibibytes() {
        let (fits, long) = ("x".repeat(KEPT), "x".repeat(KEPT + 1));
        assert_eq!(excerpt(&fits), fits);
        assert_eq!(excerpt(&long), format!("{fits}…"));
        assert_eq!(excerpt(excerpt(&long)), excerpt(&long));
        // The cut would go through a character of three bytes.
        let wide = "€".repeat(KEPT);
        assert_eq!(excerpt(&wide), format!("{}…", "€".repeat(KEPT / 3)));
        assert_eq!(
            excerpt(format_args!("{}{wide}", &fits[1..])),
            format!("{}…", &fits[1..])
        );
    }
}
