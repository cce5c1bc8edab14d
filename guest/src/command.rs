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
    /// File systems to mount before.
    pub mounts: Vec<Mount>,
    /// Where it runs; absent: `/`.
    pub folder: Option<String>,
}

/// A file system of a device's, to be mounted in the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The file system's type: `virtiofs`.
    pub kind: String,
    /// What is mounted: a virtio-fs tag, a block device.
    pub source: String,
    /// The folder where; it is made if there is none.
    pub place: String,
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
        if !self.mounts.is_empty() {
            let parts = self.mounts.iter().flat_map(|mount| [&mount.kind, &mount.source, &mount.place]);
            archive.file("kiwi/mounts", 0o644, terminated(parts.map(String::as_str)));
        }
        if let Some(folder) = &self.folder {
            archive.file("kiwi/folder", 0o644, terminated([folder.as_str()].into_iter()));
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
    Command { argv: argv.to_vec(), env: env.to_vec(), ..Command::default() }.segment()
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
    fn a_segment_holds_what_to_mount_and_where_to_run() {
        let mount = Mount { kind: "virtiofs".into(), source: "src".into(), place: "/mnt".into() };
        let command = Command { mounts: vec![mount], folder: Some("/mnt".into()), ..Command::default() };
        let segment = command.segment().unwrap();
        let holds = |part: &[u8]| segment.windows(part.len()).any(|window| window == part);
        assert!(holds(b"kiwi/mounts\0") && holds(b"virtiofs\0src\0/mnt\0") && holds(b"kiwi/folder\0"));
    }

    #[test]
    fn a_shell_for_a_person_needs_no_command_file() {
        let mut archive = Archive::new();
        Command::default().add_to(&mut archive);
        assert_eq!(archive.to_bytes().unwrap(), Archive::new().to_bytes().unwrap());
    }
}
