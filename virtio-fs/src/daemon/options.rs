//! The daemon's command line: what `virtiofsd` takes, in both its generations, as far as it can be honoured.
//!
//! Contract: words in, [`Options`] or one sentence out; nothing is opened. What would weaken the sandbox, and what
//! is not there (locks of the host, migration), is refused by name and never ignored.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::Duration;

use caps::Capability;
use devices::shared_memory::{GRAIN, LEN_MAX};
use devices::size;

/// What the words ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Invocation {
    /// Print this and be done.
    Print(String),
    /// Serve a directory.
    Serve(Box<Options>),
}

/// Where the VMM connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Listen {
    /// At a socket to be made.
    Path(PathBuf),
    /// At a listening socket that the process was started with.
    Fd(i32),
}

/// How much the guest may remember.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cache {
    /// Nothing: what changes on the host is seen at once.
    Never,
    /// Names and attributes for a day, data not at all.
    Metadata,
    /// Names and attributes for a second; data until a file is opened again.
    #[default]
    Auto,
    /// Everything for a day: nobody else changes the directory.
    Always,
}

impl Cache {
    /// How long names and attributes are good.
    pub const fn timeout(self) -> Duration {
        match self {
            Self::Never => Duration::ZERO,
            Self::Auto => Duration::from_secs(1),
            Self::Metadata | Self::Always => Duration::from_secs(86400),
        }
    }
}

/// A daemon to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Where the VMM connects.
    pub listen: Listen,
    /// What is shared.
    pub shared: PathBuf,
    /// How much the guest may remember.
    pub cache: Cache,
    /// Whether the guest may hold writes back.
    pub writeback: bool,
    /// Whether extended attributes are passed on.
    pub xattr: bool,
    /// Whether ACLs are passed on, which are extended attributes.
    pub acl: bool,
    /// Whether nothing may be changed.
    pub readonly: bool,
    /// Whether O_DIRECT of the guest's reaches the host.
    pub direct_io: bool,
    /// Bytes of the window in which the guest maps files; absent: it maps none.
    pub dax_window: Option<u64>,
    /// Threads that serve a queue beside the queue's own; 0: it serves itself.
    pub threads: usize,
    /// Capabilities added to those that the daemon keeps, or taken from them.
    pub capabilities: Vec<(bool, Capability)>,
    /// Most descriptors that may be open; absent: as many as the host gives, up to a million.
    pub descriptors: Option<u64>,
    /// Whether the log goes to the system's.
    pub syslog: bool,
    /// The least important level that is logged.
    pub level: log::LevelFilter,
}

/// Why the words make no daemon.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// No such option.
    #[error("there is no option {0}; kiwi-virtiofsd --help lists those there are")]
    Unknown(String),
    /// An option without its value.
    #[error("{0} needs a value: {1}")]
    Value(String, &'static str),
    /// A value that makes no sense.
    #[error("{0}={1} is not understood; it takes {2}")]
    Wrong(String, String, &'static str),
    /// Something that is not there, or not to be switched off.
    #[error("{0} cannot be done: {1}")]
    Refused(String, &'static str),
    /// An option that must be given and is not, or is given twice.
    #[error("{0}")]
    Needed(&'static str),
}

const HELP: &str = "\
kiwi-virtiofsd: serves a directory to a virtual machine by virtio-fs

Usage: kiwi-virtiofsd --socket-path=PATH|--fd=N --shared-dir=DIR [OPTIONS]

  --socket-path=PATH      Listen at a new unix socket for the one VMM
  --fd=N                  Listen at an inherited, listening unix socket
  --shared-dir=DIR        The directory (also -o source=DIR)
  --cache=WORD            auto, always, never, metadata [auto] (also -o cache=WORD)
  --writeback             The guest may hold writes back (also -o writeback)
  --xattr                 Pass extended attributes on (also -o xattr)
  --posix-acl             Pass ACLs on; implies --xattr
  --allow-direct-io       Pass O_DIRECT on
  --readonly              Nothing may be changed
  --dax-window=SIZE       Let the guest map files in a window of 2M to 32G, a power of two [none]
  --thread-pool-size=N    Threads beside each queue's own [0]
  --modcaps=LIST          +NAME or -NAME, with colons between them (also -o modcaps=LIST)
  --rlimit-nofile=N       Most open files [1000000, or what the host allows]
  --sandbox=namespace     As it is; no other is there
  --seccomp=kill          As it is; no other is there
  --syslog                Log to the system's log
  --log-level=LEVEL       off, error, warn, info, debug, trace [warn]
  -f                      Stay in the foreground, as always
  -d                      --log-level=debug
  -o LIST                 Options as above with commas between them; no_posix_lock and no_flock, as it is
  --print-capabilities    Say what kind of daemon this is, in JSON
  -V, --version           Print the version
  -h, --help              Print this
";

/// Understands `words`, without the program's name.
///
/// # Errors
/// See [`OptionsError`].
pub fn parse(words: impl IntoIterator<Item = OsString>) -> Result<Invocation, OptionsError> {
    let mut words = words.into_iter();
    let mut found = Found::default();
    while let Some(word) = words.next() {
        let (name, value) = split(&word);
        match name.as_ref() {
            "-h" | "--help" => return Ok(Invocation::Print(HELP.to_owned())),
            "-V" | "--version" => return Ok(Invocation::Print(version())),
            "--print-capabilities" => return Ok(Invocation::Print("{\n  \"type\": \"fs\"\n}\n".to_owned())),
            "-o" => {
                let list = value.or_else(|| words.next());
                found.list(&list.ok_or(OptionsError::Value(name, "options with commas between them"))?)?;
            }
            long if long.starts_with("--") && TAKES.contains(&long) => {
                let value = value.or_else(|| words.next());
                let value = value.ok_or_else(|| OptionsError::Value(long.to_owned(), "see --help"))?;
                found.set(&name, &value)?;
            }
            _ if value.is_some() => return Err(OptionsError::Unknown(word.display().to_string())),
            _ => found.switch(&name)?,
        }
    }
    found.finish().map(Box::new).map(Invocation::Serve)
}

fn version() -> String {
    concat!("kiwi-virtiofsd ", env!("CARGO_PKG_VERSION"), "\n").to_owned()
}

/// Options that have a value.
const TAKES: [&str; 15] = [
    "--fd",
    "--socket-path",
    "--shared-dir",
    "--cache",
    "--dax-window",
    "--thread-pool-size",
    "--modcaps",
    "--rlimit-nofile",
    "--sandbox",
    "--seccomp",
    "--log-level",
    "--inode-file-handles",
    "--tag",
    "--uid-map",
    "--gid-map",
];

/// How large a window may be: from one piece of what Linux's driver maps at once to what a processor with few bits of
/// addresses has room for beside memory.
const WINDOWS: std::ops::RangeInclusive<u64> = GRAIN..=LEN_MAX;

/// A word's name, and its value if it has one behind an equals sign; `-oLIST` is `-o=LIST`.
fn split(word: &OsStr) -> (String, Option<OsString>) {
    let bytes = word.as_bytes();
    if let Some(list) = bytes.strip_prefix(b"-o").filter(|list| !list.is_empty()) {
        return ("-o".to_owned(), Some(OsStr::from_bytes(list).to_owned()));
    }
    let at = bytes.iter().position(|b| *b == b'=').unwrap_or(bytes.len());
    let (name, value) = bytes.split_at(at);
    let value = value.strip_prefix(b"=").map(|value| OsStr::from_bytes(value).to_owned());
    (OsStr::from_bytes(name).display().to_string(), value)
}

/// What was said so far.
#[derive(Debug, Default)]
struct Found {
    listen: Option<Listen>,
    shared: Option<PathBuf>,
    cache: Cache,
    switches: Switches,
    dax_window: Option<u64>,
    threads: usize,
    capabilities: Vec<(bool, Capability)>,
    descriptors: Option<u64>,
    level: Option<log::LevelFilter>,
}

#[derive(Debug, Default)]
struct Switches {
    writeback: bool,
    xattr: bool,
    acl: bool,
    readonly: bool,
    direct_io: bool,
    syslog: bool,
}

const LOCKS: &str = "locks are the guest's own, and the host does not see them";

impl Found {
    /// The list of an `-o`, in the words of the first virtiofsd.
    fn list(&mut self, list: &OsStr) -> Result<(), OptionsError> {
        for part in list.as_bytes().split(|b| *b == b',') {
            let (name, value) = split(OsStr::from_bytes(part));
            let long = format!("--{}", name.replace('_', "-"));
            match (name.as_str(), value) {
                ("source", Some(value)) => self.set("--shared-dir", &value)?,
                (
                    "cache" | "modcaps" | "sandbox" | "seccomp" | "thread_pool_size" | "log_level",
                    Some(value),
                ) => {
                    self.set(&long, &value)?;
                }
                // As it is: there are none of them to switch off.
                ("no_posix_lock" | "no_flock" | "no_writeback" | "no_xattr", None) => {}
                ("posix_lock" | "flock", None) => {
                    return Err(OptionsError::Refused(format!("-o {name}"), LOCKS));
                }
                ("writeback" | "xattr" | "posix_acl" | "allow_direct_io" | "announce_submounts", None) => {
                    self.switch(&long)?;
                }
                _ => return Err(OptionsError::Unknown(format!("-o {}", OsStr::from_bytes(part).display()))),
            }
        }
        Ok(())
    }

    fn switch(&mut self, name: &str) -> Result<(), OptionsError> {
        let switch = match name {
            // As it is.
            "-f" | "--announce-submounts" => return Ok(()),
            "-d" => {
                self.level = Some(log::LevelFilter::Debug);
                return Ok(());
            }
            "--writeback" => &mut self.switches.writeback,
            "--xattr" => &mut self.switches.xattr,
            "--posix-acl" => &mut self.switches.acl,
            "--readonly" => &mut self.switches.readonly,
            "--allow-direct-io" => &mut self.switches.direct_io,
            "--syslog" => &mut self.switches.syslog,
            other => return Err(OptionsError::Unknown(other.to_owned())),
        };
        *switch = true;
        Ok(())
    }

    fn set(&mut self, name: &str, value: &OsStr) -> Result<(), OptionsError> {
        let text = value.to_str().unwrap_or_default();
        let wrong = |wants| OptionsError::Wrong(name.to_owned(), value.display().to_string(), wants);
        let refused = |why| Err(OptionsError::Refused(format!("{name}={}", value.display()), why));
        match name {
            "--fd" => self.listen(Listen::Fd(number(text).ok_or_else(|| wrong("a descriptor's number"))?)),
            "--socket-path" => self.listen(Listen::Path(value.into())),
            "--shared-dir" => match self.shared.replace(value.into()) {
                Some(_) => Err(OptionsError::Needed("the shared directory is given twice; give it once")),
                None => Ok(()),
            },
            "--cache" => {
                self.cache = cache(text).ok_or_else(|| wrong("auto, always, never or metadata"))?;
                Ok(())
            }
            "--dax-window" => {
                let size = size::parse(text).ok_or_else(|| wrong("a size, such as 1G"))?;
                if !size.is_power_of_two() {
                    return refused("a window is a power of two of bytes; write 1G or 2G, for example");
                }
                if !WINDOWS.contains(&size) {
                    return refused("a window has 2M to 32G; write 1G, for example");
                }
                self.dax_window = Some(size);
                Ok(())
            }
            "--thread-pool-size" => {
                let threads = number(text).filter(|n| *n <= 64);
                self.threads = threads.ok_or_else(|| wrong("a number of threads from 0 to 64"))?;
                Ok(())
            }
            "--modcaps" => {
                let list = capabilities(text);
                self.capabilities
                    .extend(list.ok_or_else(|| wrong("+NAME or -NAME, with colons between them"))?);
                Ok(())
            }
            "--rlimit-nofile" => {
                let most = number(text).filter(|n: &u64| *n >= 64);
                self.descriptors = Some(most.ok_or_else(|| wrong("a number of files from 64 on"))?);
                Ok(())
            }
            "--log-level" => {
                self.level = Some(text.parse().map_err(|_| wrong("off, error, warn, info, debug or trace"))?);
                Ok(())
            }
            "--sandbox" if text == "namespace" => Ok(()),
            "--sandbox" => refused("there is the sandbox of namespaces and no other"),
            "--seccomp" if text == "kill" => Ok(()),
            "--seccomp" => refused("a call outside of the filter ends the daemon; there is no other way"),
            "--inode-file-handles" if text == "never" => Ok(()),
            "--inode-file-handles" => refused("files are kept open, which needs no capability"),
            _ => refused("it is not there"),
        }
    }

    fn listen(&mut self, listen: Listen) -> Result<(), OptionsError> {
        match self.listen.replace(listen) {
            Some(_) => {
                Err(OptionsError::Needed("the socket is given twice; write --socket-path or --fd, once"))
            }
            None => Ok(()),
        }
    }

    fn finish(self) -> Result<Options, OptionsError> {
        let Switches { writeback, xattr, acl, readonly, direct_io, syslog } = self.switches;
        let needed = OptionsError::Needed;
        let listen = self.listen.ok_or(needed("no socket is given; write --socket-path=PATH or --fd=N"))?;
        let shared = self.shared.filter(|dir| !dir.as_os_str().is_empty());
        Ok(Options {
            listen,
            shared: shared.ok_or(needed("no directory is given; write --shared-dir=DIR"))?,
            cache: self.cache,
            writeback,
            xattr: xattr || acl,
            acl,
            readonly,
            direct_io,
            dax_window: self.dax_window,
            threads: self.threads,
            capabilities: self.capabilities,
            descriptors: self.descriptors,
            syslog,
            level: self.level.unwrap_or(log::LevelFilter::Warn),
        })
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    // Not "+3".
    text.parse().ok().filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
}

fn cache(text: &str) -> Option<Cache> {
    match text {
        "auto" => Some(Cache::Auto),
        "always" => Some(Cache::Always),
        "never" | "none" => Some(Cache::Never),
        "metadata" => Some(Cache::Metadata),
        _ => None,
    }
}

fn capabilities(text: &str) -> Option<Vec<(bool, Capability)>> {
    let one = |part: &str| {
        let (sign, name) = part.split_at_checked(1)?;
        let capability = format!("CAP_{}", name.to_ascii_uppercase()).parse().ok()?;
        match sign {
            "+" => Some((true, capability)),
            "-" => Some((false, capability)),
            _ => None,
        }
    };
    text.split(':').map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Invocation, OptionsError> {
        parse(line.split(' ').filter(|word| !word.is_empty()).map(OsString::from))
    }

    fn options(line: &str) -> Options {
        match parsed(line).expect("understood") {
            Invocation::Serve(options) => *options,
            Invocation::Print(text) => unreachable!("{text}"),
        }
    }

    fn refused(line: &str) -> String {
        parsed(line).expect_err("refused").to_string()
    }

    const BASE: &str = "--fd=3 --shared-dir=/srv ";

    fn parsed_words(words: &[&str]) -> Result<Invocation, OptionsError> {
        parse(BASE.split_whitespace().chain(words.iter().copied()).map(OsString::from))
    }

    #[test]
    fn what_kata_2_1_says_is_understood() {
        let words = "--fd=3 -o source=/run/kata-containers/shared/sandboxes/id/shared -o cache=auto --syslog \
                     -o no_posix_lock -f --thread-pool-size=1 -o modcaps=+sys_admin -o xattr";
        let options = options(words);
        assert_eq!(options.listen, Listen::Fd(3));
        assert_eq!(options.shared, PathBuf::from("/run/kata-containers/shared/sandboxes/id/shared"));
        assert_eq!((options.cache, options.threads), (Cache::Auto, 1));
        assert!(options.syslog && options.xattr && !options.acl);
        assert_eq!(options.capabilities, [(true, Capability::CAP_SYS_ADMIN)]);
        assert_eq!(options.level, log::LevelFilter::Warn);
    }

    #[test]
    fn what_later_katas_say_is_understood() {
        let go = options("--syslog --cache=always --shared-dir=/srv/x --fd=3 --thread-pool-size=1 -d");
        assert_eq!((go.cache, go.level), (Cache::Always, log::LevelFilter::Debug));
        let rs = options("--socket-path /run/s --shared-dir /srv/x --cache never --xattr --readonly");
        assert_eq!(rs.listen, Listen::Path("/run/s".into()));
        assert!(rs.xattr && rs.readonly && rs.cache == Cache::Never);
        let list = options("--fd=3 -osource=/a=b,cache=none,writeback,no_flock");
        assert_eq!(list.shared, PathBuf::from("/a=b"));
        assert!(list.writeback && list.cache == Cache::Never);
    }

    #[test]
    fn the_sandbox_is_not_to_be_talked_away() {
        for word in [
            "--sandbox=none",
            "--sandbox=chroot",
            "-o sandbox=none",
            "--seccomp=none",
            "--seccomp=log",
            "--inode-file-handles=mandatory",
            "-o posix_lock",
        ] {
            let why = refused(&format!("{BASE}{word}"));
            assert!(why.contains("cannot be done"), "{why}");
        }
        assert_eq!(options(&format!("{BASE}--sandbox namespace --seccomp=kill")).threads, 0);
    }

    #[test]
    fn what_is_not_understood_is_an_error_and_named() {
        assert!(refused("--fd=3").contains("--shared-dir"));
        assert!(refused("--shared-dir=/x").contains("--socket-path"));
        assert!(refused("--fd=3 --socket-path=/x --shared-dir=/x").contains("twice"));
        assert!(refused("--fd=+3 --shared-dir=/x").contains("a descriptor's number"));
        for word in ["--frobnicate", "-x", "stray", "-o frob", "-o cache", "--xattr=on", "--daemonize", "-o"]
        {
            let why = refused(&format!("{BASE}{word}"));
            assert!(why.contains(word.trim_start_matches("-o ")), "{why}");
        }
        for word in
            ["--cache=some", "--thread-pool-size=65", "--modcaps=sys_admin", "--modcaps=+flying", "-o ,"]
        {
            assert!(parsed(&format!("{BASE}{word}")).is_err(), "{word}");
        }
    }

    #[test]
    fn a_window_is_a_power_of_two_of_bytes_with_or_without_a_unit() {
        let window = |word: &str| options(&format!("{BASE}{word}")).dax_window;
        assert_eq!(window(""), None);
        for (word, bytes) in [
            ("--dax-window=2M", 2 << 20),
            ("--dax-window 1G", 1 << 30),
            ("--dax-window=32GiB", 32 << 30),
            ("--dax-window=2048k", 2 << 20),
            ("--dax-window=2097152", 2 << 20),
        ] {
            assert_eq!(window(word), Some(bytes), "{word}");
        }
        for word in ["", "G", "-1G", "+1G", "1.5G", "1 G", "1X", "some", "99999999999999999999", "16777216T"]
        {
            let why = parsed_words(&[&format!("--dax-window={word}")]).expect_err("refused").to_string();
            assert!(
                why.starts_with("--dax-window=") && why.contains("not understood; it takes a size"),
                "{why}"
            );
        }
        for (word, what) in
            [("0", "power"), ("3G", "power"), ("1M", "2M to 32G"), ("4k", "2M to 32G"), ("64G", "2M to 32G")]
        {
            let why = refused(&format!("{BASE}--dax-window={word}"));
            assert!(why.contains(what) && why.contains("; write 1G") && why.contains(word), "{why}");
        }
    }

    #[test]
    fn help_names_every_option() {
        assert!(matches!(parsed("--fd=3 --help"), Ok(Invocation::Print(text)) if text == HELP));
        assert!(
            matches!(parsed("--version"), Ok(Invocation::Print(text)) if text.starts_with("kiwi-virtiofsd "))
        );
        let known = TAKES.iter().filter(|name| !["--tag", "--uid-map", "--gid-map"].contains(name));
        assert!(known.filter(|name| **name != "--inode-file-handles").all(|name| HELP.contains(name)));
    }
}
