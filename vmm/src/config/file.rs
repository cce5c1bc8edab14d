//! Reading a configuration file: JSON of the [`VmConfig`] schema, refused with file, line and the nearest key.

use std::fs::OpenOptions;
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::VmConfig;

/// No machine needs more words than this.
const MAX_BYTES: u64 = 1 << 20;

/// Why a configuration file is no good.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("the configuration file {path} cannot be read: {why}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// What the host answered.
        why: io::Error,
    },
    /// It is no regular file.
    #[error("the configuration {path} is not a regular file")]
    Kind {
        /// Which file.
        path: PathBuf,
    },
    /// It is far too big.
    #[error("the configuration file {path} is larger than 1 MiB; it should be a small JSON document")]
    TooLarge {
        /// Which file.
        path: PathBuf,
    },
    /// It is no JSON, or no machine.
    #[error("{path}, line {line}, column {column}: {why}")]
    Content {
        /// Which file.
        path: PathBuf,
        /// Line, from 1.
        line: usize,
        /// Column, from 1 (0 at a line's beginning).
        column: usize,
        /// What is wrong, with the nearest key if it is a key.
        why: String,
    },
}

/// Reads the configuration in `path`. What the file leaves out has its default.
///
/// # Errors
/// See [`FileError`]. A FIFO is refused, not waited for.
pub fn read(path: &Path) -> Result<VmConfig, FileError> {
    let fail = |why| FileError::Read { path: path.to_owned(), why };
    // Looked at before it is opened, for opening a device may do something.
    if !std::fs::metadata(path).map_err(fail)?.is_file() {
        return Err(FileError::Kind { path: path.to_owned() });
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path).map_err(fail)?;
    let mut text = Vec::new();
    file.take(MAX_BYTES + 1).read_to_end(&mut text).map_err(fail)?;
    if text.len() as u64 > MAX_BYTES {
        return Err(FileError::TooLarge { path: path.to_owned() });
    }
    parse(&text, path)
}

/// Understands `text` as the configuration in the file `path`, which is only named.
///
/// # Errors
/// [`FileError::Content`].
pub fn parse(text: &[u8], path: &Path) -> Result<VmConfig, FileError> {
    serde_json::from_slice(text).map_err(|e| FileError::Content {
        path: path.to_owned(),
        line: e.line(),
        column: e.column(),
        why: sentence(&e),
    })
}

/// serde_json's message, without its place and in this program's words.
fn sentence(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let text = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message);
    let mut ticked = text.split('`').skip(1).step_by(2);
    let (what, word) = match (text.split_once(" `"), ticked.next()) {
        (Some(("unknown field", _)), Some(word)) => ("unknown key", word),
        (Some(("unknown variant", _)), Some(word)) => ("unknown value", word),
        (Some(("duplicate field", _)), Some(word)) => {
            return format!("the key \"{word}\" stands there twice");
        }
        _ => return text.replace('`', "\""),
    };
    let known: Vec<&str> = ticked.collect();
    format!("{what} \"{word}\"{}", crate::grammar::nearest(word, &known))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ConsoleTarget, Transport};

    fn understood(text: &[u8]) -> VmConfig {
        parse(text, Path::new("vm.json")).unwrap()
    }

    fn refused(text: &str) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vm.json");
        std::fs::write(&path, text).unwrap();
        let full = read(&path).unwrap_err().to_string();
        full.replace(&format!("{}, ", path.display()), "")
    }

    #[test]
    fn a_file_may_say_as_little_as_it_wants() {
        assert_eq!(understood(b"{}"), VmConfig::default());
        let config = understood(
            br#"{"boot": {"kernel": "/k"}, "memory": {"size": "2G"}, "serial": "tty",
                 "console": {"socket": "/run/c"}, "rng": {}, "transport": "mmio"}"#,
        );
        assert_eq!(config.memory.size, 2 << 30);
        assert_eq!(config.serial, ConsoleTarget::Tty);
        assert_eq!(config.console, Some(ConsoleTarget::Socket("/run/c".into())));
        assert!(config.rng.is_some());
        assert_eq!(config.transport, Transport::Mmio);
    }

    #[test]
    fn what_is_printed_reads_back_as_the_same_machine() {
        let config = VmConfig { silence: 9, console: Some(ConsoleTarget::Pty), ..VmConfig::default() };
        assert_eq!(understood(&serde_json::to_vec(&config).unwrap()), config);
    }

    #[test]
    fn an_unknown_key_names_line_and_nearest_key() {
        assert_eq!(
            refused("{\n  \"boot\": {\n    \"kernl\": \"/k\"\n  }\n}"),
            "line 3, column 11: unknown key \"kernl\"; did you mean \"kernel\"?"
        );
        assert_eq!(
            refused("{\"serial\": \"ttty\"}"),
            "line 1, column 17: unknown value \"ttty\"; did you mean \"tty\"?"
        );
    }

    #[test]
    fn keys_given_twice_and_broken_json_are_refused_with_their_place() {
        assert_eq!(
            refused("{\"cpus\":{},\n\"cpus\":{}}"),
            "line 2, column 6: the key \"cpus\" stands there twice"
        );
        assert!(refused("{\"cpus\":").starts_with("line 1, column 8: EOF"));
        assert!(refused("").contains("EOF"));
        assert!(refused("{\"memory\":{\"size\":\"lots\"}}").contains("a text such as \"2G\""));
        assert!(refused("{\"cpus\":{\"boot\":10000}}").contains("10000"));
    }

    #[test]
    fn a_directory_or_a_missing_file_is_one_sentence() {
        let dir = tempfile::tempdir().unwrap();
        assert!(read(dir.path()).unwrap_err().to_string().ends_with("is not a regular file"));
        let missing = read(&dir.path().join("none")).unwrap_err().to_string();
        assert!(missing.contains("none cannot be read: No such file"), "{missing}");
    }

    #[test]
    fn a_fifo_is_refused_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fifo");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert!(read(&path).unwrap_err().to_string().ends_with("is not a regular file"));
    }
}
