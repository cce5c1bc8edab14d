//! clap's errors as one sentence each.

use clap::Error;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use vmm::grammar::{Hint, nearest};

use super::flags::names;

/// What is wrong with the words, and what to write instead.
pub(super) fn sentence(error: &Error) -> String {
    let word = context(error, ContextKind::InvalidArg);
    let flag = word.split([' ', '=']).next().unwrap_or_default();
    match error.kind() {
        ErrorKind::UnknownArgument if word.starts_with("--") => unknown_flag(flag),
        ErrorKind::UnknownArgument if word.starts_with('-') => {
            format!("there is no flag {flag}: flags are long here, as in --kernel PATH; --help lists them")
        }
        ErrorKind::UnknownArgument => {
            format!(
                "\"{word}\" stands alone: everything has a flag here, as in --kernel PATH; --help lists them"
            )
        }
        ErrorKind::ArgumentConflict => format!("{flag} is given twice; give it once"),
        ErrorKind::InvalidValue | ErrorKind::WrongNumberOfValues | ErrorKind::NoEquals => {
            format!("{word} needs its value behind it")
        }
        ErrorKind::TooManyValues => format!("{flag} takes no value"),
        ErrorKind::InvalidUtf8 => "a value is not UTF-8 text; only paths may be other bytes".to_owned(),
        _ => plain(error),
    }
}

fn unknown_flag(flag: &str) -> String {
    let names = names();
    let known: Vec<&str> = names.iter().map(String::as_str).collect();
    match nearest(flag, &known) {
        Hint::Nearest(best) => format!("there is no flag {flag}; did you mean {best}?"),
        Hint::Known(_) => format!("there is no flag {flag}; --help lists those there are"),
    }
}

/// A kind of error that we did not think of: clap's first line.
fn plain(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    line.strip_prefix("error: ").unwrap_or(line).to_owned()
}

fn context(error: &Error, kind: ContextKind) -> String {
    match error.get(kind) {
        Some(ContextValue::String(text)) => text.clone(),
        Some(ContextValue::Strings(texts)) => texts.first().cloned().unwrap_or_default(),
        _ => String::new(),
    }
}
