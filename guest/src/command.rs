//! The command of one run, as files under `/kiwi` that the guest's init reads.

use std::io;

use crate::archive::Archive;

/// What the guest shall run. Strings must not contain NUL bytes; such bytes would end them early.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Command {
    /// The program and its arguments; empty means a shell for a person.
    pub argv: Vec<String>,
    /// Variables beside PATH, HOME and TERM, which have defaults.
    pub env: Vec<(String, String)>,
    /// Whether a person sits at the terminal: echo, line editing, ^C. Without it the terminal passes every byte
    /// as it is.
    pub interactive: bool,
}

impl Command {
    /// Adds the command's files to an archive.
    pub fn add_to(&self, archive: &mut Archive) {
        if !self.argv.is_empty() {
            archive.file("kiwi/command", 0o644, terminated(self.argv.iter().map(String::as_str)));
        }
        if !self.env.is_empty() {
            let pairs: Vec<_> = self.env.iter().map(|(name, value)| format!("{name}={value}")).collect();
            archive.file("kiwi/env", 0o644, terminated(pairs.iter().map(String::as_str)));
        }
        if self.interactive {
            archive.file("kiwi/interactive", 0o644, "");
        }
    }

    /// The archive to append to an initrd: later files replace earlier ones.
    ///
    /// # Errors
    /// The strings are longer than an archive can hold (4 GiB).
    pub fn segment(&self) -> io::Result<Vec<u8>> {
        let mut archive = Archive::new();
        self.add_to(&mut archive);
        archive.to_bytes()
    }
}

/// The archive to append to an initrd so that it runs `argv`, with `env` beside the defaults.
///
/// # Errors
/// See [`Command::segment`].
pub fn command_segment(argv: &[String], env: &[(String, String)]) -> io::Result<Vec<u8>> {
    Command { argv: argv.to_vec(), env: env.to_vec(), interactive: false }.segment()
}

fn terminated<'a>(strings: impl Iterator<Item = &'a str>) -> Vec<u8> {
    strings.flat_map(|string| string.bytes().chain([0])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_segment_holds_each_argument_with_its_end() {
        let segment =
            command_segment(&["sh".into(), "-c".into(), "exit 7".into()], &[("A".into(), "b".into())]);
        let segment = segment.unwrap();
        let holds = |part: &[u8]| segment.windows(part.len()).any(|window| window == part);
        assert!(holds(b"kiwi/command\0") && holds(b"sh\0-c\0exit 7\0") && holds(b"A=b\0"));
        assert_eq!(segment.len() % 4, 0);
    }

    #[test]
    fn a_shell_for_a_person_needs_no_command_file() {
        let mut archive = Archive::new();
        Command::default().add_to(&mut archive);
        assert_eq!(archive.to_bytes().unwrap(), Archive::new().to_bytes().unwrap());
    }
}
