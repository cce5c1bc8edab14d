//! The command line of `vmm`: words in, an [`Invocation`] out. Reads the `--config` file; prints nothing.
//!
//! 1. [`flags`] is the table of all flags; clap splits the words by it.
//! 2. The file of `--config` is the base, defaults without one; each flag given changes what it names.
//! 3. Whatever is not understood is one [`UsageError`], one sentence, with the nearest known word.

mod flags;
mod refusal;

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

use clap::ArgMatches;
use clap::error::ErrorKind;
use tracing::level_filters::LevelFilter;
use vmm::VmConfig;
use vmm::config::FileError;
use vmm::grammar::{self, GrammarError};
use vmm::report::Request;

pub(crate) use flags::flags;

/// What the words ask for.
#[derive(Debug)]
pub(crate) enum Invocation {
    /// Print this (help or version) and be done.
    Print(String),
    /// Boot a machine, or check one.
    Run(Box<Run>),
}

/// A machine to boot, and how.
#[derive(Debug)]
pub(crate) struct Run {
    /// The machine.
    pub(crate) config: VmConfig,
    /// Check and print instead of booting.
    pub(crate) dry_run: bool,
    /// End with the status the guest reported.
    pub(crate) guest_status: bool,
    /// The boot report asked for.
    pub(crate) report: Request,
    /// The log asked for.
    pub(crate) log: LogOptions,
}

/// Where the log goes and how much of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogOptions {
    /// A file to append to; absent means standard error.
    pub(crate) file: Option<PathBuf>,
    /// The least important level that is written.
    pub(crate) level: LevelFilter,
}

/// Why the words make no machine.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UsageError {
    /// A flag is unknown, repeated, or stands without its value.
    #[error("{0}")]
    Words(String),
    /// A flag's value is not understood.
    #[error(transparent)]
    Grammar(#[from] GrammarError),
    /// The configuration file is no good.
    #[error(transparent)]
    File(#[from] FileError),
}

/// Understands `words`, the program's name first.
pub(crate) fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, UsageError> {
    let matches = match flags().try_get_matches_from(words) {
        Ok(matches) => matches,
        Err(e) if e.kind() == ErrorKind::DisplayHelp => return Ok(Invocation::Print(e.to_string())),
        Err(e) if e.kind() == ErrorKind::DisplayVersion => return Ok(Invocation::Print(version())),
        Err(e) => return Err(UsageError::Words(refusal::sentence(&e))),
    };
    Ok(Invocation::Run(Box::new(Run {
        config: config(&matches)?,
        dry_run: matches.get_flag("dry-run"),
        guest_status: matches.get_flag("guest-status"),
        report: text(&matches, "report").map_or(Ok(Request::Off), report)?,
        log: log(&matches)?,
    })))
}

fn version() -> String {
    concat!("vmm ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

fn config(matches: &ArgMatches) -> Result<VmConfig, UsageError> {
    let mut config =
        path(matches, "config").map_or_else(|| Ok(VmConfig::default()), |p| vmm::config::read(&p))?;
    boot(matches, &mut config);
    machine(matches, &mut config)?;
    Ok(config)
}

fn boot(matches: &ArgMatches, config: &mut VmConfig) {
    if let Some(kernel) = path(matches, "kernel") {
        config.boot.kernel = kernel;
    }
    config.boot.initrd = path(matches, "initrd").or(config.boot.initrd.take());
    config.boot.cmdline = text(matches, "cmdline").map(str::to_owned).or(config.boot.cmdline.take());
}

fn machine(matches: &ArgMatches, config: &mut VmConfig) -> Result<(), GrammarError> {
    if let Some(cpus) = text(matches, "cpus") {
        grammar::cpus(cpus, &mut config.cpus)?;
    }
    if let Some(memory) = text(matches, "memory") {
        grammar::memory(memory, &mut config.memory)?;
    }
    if let Some(serial) = text(matches, "serial") {
        config.serial = grammar::serial(serial)?;
    }
    if let Some(console) = text(matches, "console") {
        let (target, limits) = grammar::console(console)?;
        (config.console, config.console_limits) = (Some(target), limits);
    }
    if let Some(rng) = text(matches, "rng") {
        config.rng = grammar::rng(rng)?;
    }
    // A machine's network devices are those of the flags, if there is one.
    if let Some(nets) = matches.get_many::<String>("net") {
        config.nets = nets.map(|net| grammar::net(net)).collect::<Result<_, _>>()?;
    }
    if let Some(vsock) = text(matches, "vsock") {
        config.vsock = Some(grammar::vsock(vsock)?);
    }
    if let Some(disks) = matches.get_many::<String>("disk") {
        config.disks = disks.map(|disk| grammar::disk(disk)).collect::<Result<_, _>>()?;
    }
    if let Some(balloon) = text(matches, "balloon") {
        config.balloon = grammar::balloon(balloon)?;
    }
    if let Some(shares) = matches.get_many::<String>("fs") {
        config.fs = shares.map(|share| grammar::fs(share)).collect::<Result<_, _>>()?;
    }
    if let Some(transport) = text(matches, "transport") {
        config.transport = grammar::transport(transport)?;
    }
    if let Some(seccomp) = text(matches, "seccomp") {
        config.seccomp = grammar::seccomp(seccomp)?;
    }
    if let Some(seconds) = text(matches, "silence") {
        config.silence = silence(seconds)?;
    }
    Ok(())
}

fn silence(seconds: &str) -> Result<u32, GrammarError> {
    seconds.parse().map_err(|_| GrammarError::Plain {
        flag: "silence",
        value: seconds.to_owned(),
        wants: "a whole number of seconds, 0 for no limit",
    })
}

fn report(word: &str) -> Result<Request, GrammarError> {
    Request::parse(word).ok_or_else(|| GrammarError::Plain {
        flag: "report",
        value: word.to_owned(),
        wants: "off, text, json, or a file whose name ends in .svg or .json",
    })
}

fn log(matches: &ArgMatches) -> Result<LogOptions, GrammarError> {
    let level = match text(matches, "log-level") {
        None | Some("warn") => LevelFilter::WARN,
        Some("off") => LevelFilter::OFF,
        Some("error") => LevelFilter::ERROR,
        Some("info") => LevelFilter::INFO,
        Some("debug") => LevelFilter::DEBUG,
        Some("trace") => LevelFilter::TRACE,
        Some(other) => {
            let known = ["off", "error", "warn", "info", "debug", "trace"];
            return Err(grammar::unknown_word("log-level", other, &known));
        }
    };
    Ok(LogOptions { file: path(matches, "log-file"), level })
}

fn text<'a>(matches: &'a ArgMatches, id: &str) -> Option<&'a str> {
    matches.get_one::<String>(id).map(String::as_str)
}

fn path(matches: &ArgMatches, id: &str) -> Option<PathBuf> {
    matches.get_one::<OsString>(id).map(OsString::as_os_str).map(<&OsStr>::into)
}

#[cfg(test)]
mod manual;
#[cfg(test)]
mod tests;
