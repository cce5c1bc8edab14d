//! A flag's value as keys and values.

use super::GrammarError;
use super::words::{Hint, nearest};

/// The elements of `key=value,word,key="a,b"`, each to be taken once.
///
/// Double quotes keep commas and equals signs in a value; they may stand around a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pairs {
    flag: &'static str,
    left: Vec<(String, Option<String>)>,
}

impl Pairs {
    /// Splits `text`, the value of `--flag`; `wants` describes what the flag takes, for an empty element.
    ///
    /// # Errors
    /// An open quote, an empty element, a key given twice.
    pub fn parse(flag: &'static str, text: &str, wants: &'static str) -> Result<Self, GrammarError> {
        let mut left: Vec<(String, Option<String>)> = Vec::new();
        let mut rest = Some(text);
        while let Some(text) = rest {
            let (pair, next) = element(text).ok_or(GrammarError::Quote { flag })?;
            if pair.0.is_empty() {
                return Err(GrammarError::Empty { flag, wants });
            }
            if left.iter().any(|(key, _)| *key == pair.0) {
                return Err(GrammarError::Repeated { flag, key: pair.0 });
            }
            left.push(pair);
            rest = next;
        }
        Ok(Self { flag, left })
    }

    /// A first element without a value is taken as the value of the first of the `known` keys: `2G` for
    /// `size=2G`. One that looks like a key mistyped stays what it is.
    pub fn name_bare_first(&mut self, known: &[&'static str]) {
        if let (Some((first, value @ None)), Some(key)) = (self.left.first_mut(), known.first())
            && matches!(nearest(first, known), Hint::Known(_))
        {
            *value = Some(std::mem::replace(first, (*key).to_owned()));
        }
    }

    /// Takes the value of `key`, if the key is there; `wants` describes a value, for a key without one.
    ///
    /// # Errors
    /// The key stands there without a value, or twice (once as a bare first element).
    pub fn take(&mut self, key: &str, wants: &'static str) -> Result<Option<String>, GrammarError> {
        let Some(at) = self.left.iter().position(|(k, _)| k == key) else { return Ok(None) };
        let value = self.left.remove(at).1.filter(|v| !v.is_empty());
        if self.left.iter().any(|(k, _)| k == key) {
            return Err(GrammarError::Repeated { flag: self.flag, key: key.to_owned() });
        }
        let missing = || GrammarError::NoValue { flag: self.flag, key: key.to_owned(), wants };
        value.ok_or_else(missing).map(Some)
    }

    /// Takes the first element if it is a word without a value.
    pub fn word(&mut self) -> Option<String> {
        let bare = self.left.first().is_some_and(|(_, value)| value.is_none());
        bare.then(|| self.left.remove(0).0)
    }

    /// `parsed`, or the refusal of `value` as a value of `key`.
    ///
    /// # Errors
    /// `parsed` is absent.
    pub fn value<T>(
        &self,
        key: &str,
        value: &str,
        wants: &'static str,
        parsed: Option<T>,
    ) -> Result<T, GrammarError> {
        parsed.ok_or_else(|| GrammarError::Value {
            flag: self.flag,
            key: key.to_owned(),
            value: value.to_owned(),
            wants,
        })
    }

    /// The refusal of the first element that is left, by its nearest in `known`.
    pub fn unknown(&self, known: &[&'static str]) -> GrammarError {
        let key = self.left.first().map_or_else(String::new, |(key, _)| key.clone());
        let hint = nearest(&key, known);
        GrammarError::UnknownKey { flag: self.flag, key, hint }
    }

    /// Everything must have been taken.
    ///
    /// # Errors
    /// Something is left that is in `known` (given where something else already stood) or is not.
    pub fn finish(&self, known: &[&'static str]) -> Result<(), GrammarError> {
        if self.left.is_empty() { Ok(()) } else { Err(self.unknown(known)) }
    }
}

type Element<'a> = ((String, Option<String>), Option<&'a str>);

/// The first element of `text` and what follows its comma; `None` for an open quote.
fn element(text: &str) -> Option<Element<'_>> {
    let (mut key, mut value) = (String::new(), None::<String>);
    let mut quoted = false;
    for (at, c) in text.char_indices() {
        match (c, quoted) {
            ('"', _) => quoted = !quoted,
            (',', false) => return Some(((key, value), text.get(at + 1..))),
            ('=', false) if value.is_none() => value = Some(String::new()),
            _ => value.as_mut().unwrap_or(&mut key).push(c),
        }
    }
    (!quoted).then_some(((key, value), None))
}
