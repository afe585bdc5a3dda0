//! Paths for people to read.

use std::path::Path;

/// A path with its control characters escaped: raw they would break the line, or drive the terminal.
pub(crate) fn printable(path: &Path) -> String {
    let mut text = String::new();
    for c in path.to_string_lossy().chars() {
        if c.is_control() {
            text.extend(c.escape_default());
        } else {
            text.push(c);
        }
    }
    text
}
