//! The words of `--balloon`.

use super::{GrammarError, Pairs, SIZE, SWITCH, size, switch, unknown_word};
use crate::config::BalloonConfig;

const BALLOON: &str = "on, off or size=SIZE, and perhaps deflate_on_oom=on, free_page_reporting=on";
const KEYS: &[&str] = &["size", "deflate_on_oom", "free_page_reporting"];
const WORDS: &[&str] = &["on", "off", "size", "deflate_on_oom", "free_page_reporting"];

/// `--balloon on`, `--balloon off` or `--balloon size=256M,deflate_on_oom=on,free_page_reporting=on`.
///
/// # Errors
/// Any other word, an unknown, repeated or empty key, a size or a switch that is none.
pub fn balloon(text: &str) -> Result<Option<BalloonConfig>, GrammarError> {
    let mut pairs = Pairs::parse("balloon", text, BALLOON)?;
    let mut balloon = BalloonConfig::default();
    let on = pairs
        .word()
        .map_or(Ok(true), |word| switch(&word).ok_or_else(|| unknown_word("balloon", &word, WORDS)))?;
    if let Some(bytes) = pairs.take("size", SIZE)? {
        balloon.size = pairs.value("size", &bytes, SIZE, size(&bytes))?;
    }
    let switches = [
        ("deflate_on_oom", &mut balloon.deflate_on_oom),
        ("free_page_reporting", &mut balloon.free_page_reporting),
    ];
    for (key, field) in switches {
        if let Some(value) = pairs.take(key, SWITCH)? {
            *field = pairs.value(key, &value, SWITCH, switch(&value))?;
        }
    }
    pairs.finish(KEYS)?;
    Ok(on.then_some(balloon))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balloon_is_a_switch_or_keys() {
        assert_eq!(balloon("off").unwrap(), None);
        assert_eq!(balloon("on").unwrap(), Some(BalloonConfig::default()));
        let wanted = BalloonConfig { size: 256 << 20, deflate_on_oom: true, free_page_reporting: false };
        assert_eq!(balloon("size=256M,deflate_on_oom=on").unwrap(), Some(wanted));
        let wanted = BalloonConfig { free_page_reporting: true, ..BalloonConfig::default() };
        assert_eq!(balloon("on,free_page_reporting=on").unwrap(), Some(wanted));
    }

    #[test]
    fn a_balloon_that_is_not_understood_says_what_would_be() {
        let refused = |text| balloon(text).unwrap_err().to_string();
        assert_eq!(refused("size=1M,deflate_on_om=on"), {
            "--balloon has no key \"deflate_on_om\"; did you mean \"deflate_on_oom\"?"
        });
        assert!(refused("large").contains("--balloon does not know \"large\""));
        assert!(refused("size=large").contains("size takes a number of bytes"));
        assert!(refused("").contains("on, off or size=SIZE"));
    }
}
