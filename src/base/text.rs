//! Text of users, fit for one line of a log or report.

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
}
