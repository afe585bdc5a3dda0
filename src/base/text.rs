//! Text of users, fit for one line of a log or report.

/// `text` with a blank in the place of each control character, which could forge a line or command a terminal.
pub(crate) fn printable(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
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
    }
}
