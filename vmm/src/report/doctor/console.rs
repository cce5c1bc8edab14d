//! A guest's output, made fit to print.

/// Longer lines are cut.
const LINE: usize = 200;

/// The lines in `raw` that say something: no escape sequences, no control characters, nothing empty.
pub(super) fn lines(raw: &[u8]) -> Vec<String> {
    let text = without_escapes(&String::from_utf8_lossy(raw));
    let clean = |line: &str| -> String {
        line.chars().filter(|c| !c.is_control()).take(LINE).collect::<String>().trim_end().to_owned()
    };
    text.split(['\n', '\r']).map(clean).filter(|line| !line.is_empty()).collect()
}

/// Takes out what begins with ESC: `ESC [ … letter`, or ESC and one character.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        if c != '\u{1b}' {
            out.push(c);
        } else if chars.next() == Some('[') {
            // Consumes the parameters and the letter that ends them.
            chars.by_ref().find(|c| ('@'..='~').contains(c));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_fit_for_a_terminal() {
        let raw = b"\x1b[2J\x1b[1;31mred\x1b[0m\r\n\r\nbell\x07 and \x9b31m\x00\r\nbad \xff utf\n\x1b[";
        assert_eq!(lines(raw), ["red", "bell and \u{fffd}31m", "bad \u{fffd} utf"]);
        assert_eq!(lines(&vec![b'y'; 5000]).first().map(String::len), Some(LINE));
    }
}
