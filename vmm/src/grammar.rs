//! The words of the command line: `key=value,key=value` lists, sizes, switches, and what a flag's words mean.
//!
//! Contract: text in, plain configuration out; no file is opened, nothing is printed, any text at all is either
//! understood or refused with one sentence. A flag changes only what it names, so flags override a file key by key.
//!
//! 1. [`Pairs`] splits a flag's value into keys and values, quotes resolved, nothing given twice.
//! 2. Each section function ([`cpus`], [`memory`], [`serial`], [`console`], [`rng`], [`net()`], [`vsock()`], [`disk()`], [`balloon()`],
//!    [`fs()`], [`transport`], [`seccomp`]) takes the pairs it knows; what is left over is an error that names the
//!    nearest known word.

mod balloon;
mod disk;
mod fs;
mod net;
mod pairs;
mod words;

use std::path::PathBuf;

use crate::config::{
    ConsoleTarget, CpusConfig, LimitsConfig, MemoryConfig, RngConfig, SeccompMode, Transport,
};

pub use balloon::balloon;
pub use devices::size::parse as size;
pub use disk::disk;
pub use fs::fs;
pub use net::{net, vsock};
pub use pairs::Pairs;
pub use words::{Hint, nearest, switch};

/// Why a flag's value was not understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// A key that the flag does not have.
    #[error("--{flag} has no key \"{key}\"{hint}")]
    UnknownKey {
        /// The flag, without its dashes.
        flag: &'static str,
        /// What was written.
        key: String,
        /// The nearest known one.
        hint: Hint,
    },
    /// A key that was given twice.
    #[error("--{flag} has the key \"{key}\" twice; give it once")]
    Repeated {
        /// The flag, without its dashes.
        flag: &'static str,
        /// The key.
        key: String,
    },
    /// A key without a value.
    #[error("--{flag} {key} needs a value: {wants}")]
    NoValue {
        /// The flag, without its dashes.
        flag: &'static str,
        /// The key.
        key: String,
        /// What a value looks like.
        wants: &'static str,
    },
    /// A value that its key cannot have.
    #[error("--{flag} {key}={value} is not understood; {key} takes {wants}")]
    Value {
        /// The flag, without its dashes.
        flag: &'static str,
        /// The key.
        key: String,
        /// What was written.
        value: String,
        /// What a value looks like.
        wants: &'static str,
    },
    /// A value that the whole flag cannot have.
    #[error("--{flag} {value} is not understood; it takes {wants}")]
    Plain {
        /// The flag, without its dashes.
        flag: &'static str,
        /// What was written.
        value: String,
        /// What a value looks like.
        wants: &'static str,
    },
    /// A word that is none of the flag's words.
    #[error("--{flag} does not know \"{word}\"{hint}")]
    UnknownWord {
        /// The flag, without its dashes.
        flag: &'static str,
        /// What was written.
        word: String,
        /// The nearest known one.
        hint: Hint,
    },
    /// A double quote that is never closed.
    #[error("--{flag} has an opening double quote without a closing one")]
    Quote {
        /// The flag, without its dashes.
        flag: &'static str,
    },
    /// Nothing where something must be.
    #[error("--{flag} has an empty element; write {wants}")]
    Empty {
        /// The flag, without its dashes.
        flag: &'static str,
        /// What the flag takes.
        wants: &'static str,
    },
}

const CPUS: &str = "a number, or boot=N[,max=M]";
const COUNT: &str = "a number of CPUs from 1 to 32";
const MEMORY: &str = "a size such as 2G, or size=2G[,shared=on][,hugepages=on]";
const SIZE: &str = "a number of bytes, or one with K, M, G or T";
const SWITCH: &str = "on or off";
const NUMBER: &str = "a whole number";
const SERIAL: &str = "off, null, tty, stdio, pty, file=PATH or socket=PATH";
const CONSOLE: &str = "off, null, tty, stdio, pty, file=PATH or socket=PATH, and perhaps bw=SIZE, ops=N";
const RNG: &str = "on, off or src=PATH, and perhaps bw=SIZE, ops=N";

/// `--cpus 4` or `--cpus boot=4,max=4`.
///
/// # Errors
/// An unknown, repeated or empty key, or a value that is not a small number.
pub fn cpus(text: &str, into: &mut CpusConfig) -> Result<(), GrammarError> {
    let mut pairs = Pairs::parse("cpus", text, CPUS)?;
    pairs.name_bare_first(&["boot", "max"]);
    if let Some(count) = pairs.take("boot", COUNT)? {
        into.boot = pairs.value("boot", &count, COUNT, count.parse().ok())?;
        // A file's limit goes with the file's number; a new number begins anew.
        into.max = None;
    }
    if let Some(count) = pairs.take("max", COUNT)? {
        into.max = Some(pairs.value("max", &count, COUNT, count.parse().ok())?);
    }
    pairs.finish(&["boot", "max"])
}

/// `--memory 2G` or `--memory size=2G,shared=on,hugepages=on`.
///
/// # Errors
/// An unknown, repeated or empty key, a size or a switch that is none.
pub fn memory(text: &str, into: &mut MemoryConfig) -> Result<(), GrammarError> {
    let mut pairs = Pairs::parse("memory", text, MEMORY)?;
    pairs.name_bare_first(&["size", "shared", "hugepages"]);
    if let Some(value) = pairs.take("size", SIZE)? {
        into.size = pairs.value("size", &value, SIZE, size(&value))?;
    }
    for (key, field) in [("shared", &mut into.shared), ("hugepages", &mut into.hugepages)] {
        if let Some(value) = pairs.take(key, SWITCH)? {
            *field = pairs.value(key, &value, SWITCH, switch(&value))?;
        }
    }
    pairs.finish(&["size", "shared", "hugepages"])
}

/// The target of `--serial`.
///
/// # Errors
/// A word that is no target, a path that is missing, or more than one target.
pub fn serial(text: &str) -> Result<ConsoleTarget, GrammarError> {
    let mut pairs = Pairs::parse("serial", text, SERIAL)?;
    let target = target("serial", &mut pairs, TARGETS)?;
    pairs.finish(TARGETS)?;
    Ok(target)
}

/// `--console TARGET`, with the targets of `--serial`, or `--console TARGET,bw=1M,ops=1000`.
///
/// # Errors
/// Those of [`serial`], and limits that are none.
pub fn console(text: &str) -> Result<(ConsoleTarget, LimitsConfig), GrammarError> {
    let mut pairs = Pairs::parse("console", text, CONSOLE)?;
    let limits = limits(&mut pairs)?;
    let target = target("console", &mut pairs, CONSOLE_KEYS)?;
    pairs.finish(CONSOLE_KEYS)?;
    Ok((target, limits))
}

fn target(
    flag: &'static str,
    pairs: &mut Pairs,
    known: &[&'static str],
) -> Result<ConsoleTarget, GrammarError> {
    if let Some(path) = pairs.take("file", "PATH")? {
        return Ok(ConsoleTarget::File(PathBuf::from(path)));
    }
    if let Some(path) = pairs.take("socket", "PATH")? {
        return Ok(ConsoleTarget::Socket(PathBuf::from(path)));
    }
    match pairs.word().as_deref() {
        Some("off") => Ok(ConsoleTarget::Off),
        Some("null") => Ok(ConsoleTarget::Null),
        Some("tty") => Ok(ConsoleTarget::Tty),
        Some("stdio") => Ok(ConsoleTarget::Stdio),
        Some("pty") => Ok(ConsoleTarget::Pty),
        Some(word) => Err(unknown_word(flag, word, known)),
        None => Err(pairs.unknown(known)),
    }
}

const TARGETS: &[&str] = &["off", "null", "tty", "stdio", "pty", "file", "socket"];
const CONSOLE_KEYS: &[&str] = &["off", "null", "tty", "stdio", "pty", "file", "socket", "bw", "ops"];

/// `--rng on`, `--rng off`, `--rng src=/dev/urandom` or `--rng on,bw=64K,ops=100`.
///
/// # Errors
/// Any other word or key, limits that are none.
pub fn rng(text: &str) -> Result<Option<RngConfig>, GrammarError> {
    let mut pairs = Pairs::parse("rng", text, RNG)?;
    let LimitsConfig { bw, ops } = limits(&mut pairs)?;
    let mut rng = RngConfig { bw, ops, ..RngConfig::default() };
    let mut on = true;
    if let Some(src) = pairs.take("src", "PATH")? {
        rng.src = PathBuf::from(src);
    } else {
        let word = pairs.word().ok_or_else(|| pairs.unknown(RNG_KEYS))?;
        on = switch(&word).ok_or_else(|| unknown_word("rng", &word, RNG_KEYS))?;
    }
    pairs.finish(RNG_KEYS)?;
    Ok(on.then_some(rng))
}

const RNG_KEYS: &[&str] = &["on", "off", "src", "bw", "ops"];

/// The limits that any device may have: `bw=SIZE`, `ops=N`.
fn limits(pairs: &mut Pairs) -> Result<LimitsConfig, GrammarError> {
    let mut limits = LimitsConfig::default();
    if let Some(bytes) = pairs.take("bw", SIZE)? {
        limits.bw = Some(pairs.value("bw", &bytes, SIZE, size(&bytes))?);
    }
    if let Some(ops) = pairs.take("ops", NUMBER)? {
        limits.ops = Some(pairs.value("ops", &ops, NUMBER, ops.parse().ok())?);
    }
    Ok(limits)
}

/// `--transport pci` or `--transport mmio`.
///
/// # Errors
/// Any other word.
pub fn transport(text: &str) -> Result<Transport, GrammarError> {
    match text {
        "pci" => Ok(Transport::Pci),
        "mmio" => Ok(Transport::Mmio),
        other => Err(unknown_word("transport", other, &["pci", "mmio"])),
    }
}

/// `--seccomp on`, `off` or `log`.
///
/// # Errors
/// Any other word.
pub fn seccomp(text: &str) -> Result<SeccompMode, GrammarError> {
    match (text, switch(text)) {
        ("log", _) => Ok(SeccompMode::Log),
        (_, Some(true)) => Ok(SeccompMode::On),
        (_, Some(false)) => Ok(SeccompMode::Off),
        (other, None) => Err(unknown_word("seccomp", other, &["on", "off", "log"])),
    }
}

/// The refusal of a word, with the nearest of those that would have been right.
pub fn unknown_word(flag: &'static str, word: &str, known: &[&'static str]) -> GrammarError {
    GrammarError::UnknownWord { flag, word: word.to_owned(), hint: nearest(word, known) }
}

#[cfg(test)]
mod tests;
