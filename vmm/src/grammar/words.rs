//! Switches and the nearest known word.

use std::fmt;

/// `on` or `true`, `off` or `false`.
pub fn switch(text: &str) -> Option<bool> {
    match text {
        "on" | "true" => Some(true),
        "off" | "false" => Some(false),
        _ => None,
    }
}

/// The end of a refusal's sentence: what was probably meant, or what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hint {
    /// One known word is near.
    Nearest(String),
    /// None is near: all there are.
    Known(Vec<String>),
}

impl fmt::Display for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nearest(word) => write!(f, "; did you mean \"{word}\"?"),
            Self::Known(words) => match words.split_last() {
                Some((last, [])) => write!(f, "; there is only {last}"),
                Some((last, rest)) => write!(f, "; there are {} and {last}", rest.join(", ")),
                None => Ok(()),
            },
        }
    }
}

/// Beyond this many letters nobody mistypes a known word; and the comparison's cost stays bounded.
const LONGEST_TYPO: usize = 64;

/// Which of `known` is nearest to `word`.
pub fn nearest(word: &str, known: &[&str]) -> Hint {
    let distance = |candidate: &&&str| strsim::damerau_levenshtein(word, candidate);
    let near = (word.len() <= LONGEST_TYPO).then(|| known.iter().min_by_key(distance)).flatten();
    // A third of the letters may be wrong, but one always may; a beginning is as good.
    let near = near.filter(|best| distance(best) <= (best.len() / 3).max(1));
    let near = near.or_else(|| known.iter().find(|k| word.len() >= 3 && k.starts_with(word)));
    near.map_or_else(
        || Hint::Known(known.iter().map(|k| (*k).to_owned()).collect()),
        |best| Hint::Nearest((*best).to_owned()),
    )
}
