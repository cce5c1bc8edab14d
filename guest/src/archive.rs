//! A newc cpio archive: what Linux unpacks as its first root.

use std::collections::BTreeMap;
use std::io::{self, Write};

use cpio::newc::{Builder, ModeFileType, trailer};

/// Linux looks for the next archive at a multiple of 4; a sector also pleases other readers.
const ALIGNMENT: usize = 512;
const DIRECTORY_MODE: u32 = 0o755;

#[derive(Debug, Clone)]
enum Entry {
    Directory(u32),
    File(u32, Vec<u8>),
    Link(String),
    CharDevice { major: u32, minor: u32 },
}

/// Files on their way into an initrd; the same entries give the same bytes in whatever order they came.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    // Sorted, so that a folder precedes what is in it.
    entries: BTreeMap<String, Entry>,
}

impl Archive {
    /// An archive without entries.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a folder with its permission bits, and the folders above it.
    pub fn directory(&mut self, path: &str, mode: u32) {
        self.add(path, Entry::Directory(mode));
    }

    /// Adds a regular file with its permission bits; a path is relative to the root and replaces what was there.
    pub fn file(&mut self, path: &str, mode: u32, content: impl Into<Vec<u8>>) {
        self.add(path, Entry::File(mode, content.into()));
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, Entry::Link(target.to_owned()));
    }

    /// Adds a character device that only root may use.
    pub fn char_device(&mut self, path: &str, (major, minor): (u32, u32)) {
        self.add(path, Entry::CharDevice { major, minor });
    }

    fn add(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (end, _) in path.match_indices('/') {
            let above = path.get(..end).unwrap_or_default();
            self.entries.entry(above.to_owned()).or_insert(Entry::Directory(DIRECTORY_MODE));
        }
        self.entries.insert(path.to_owned(), entry);
    }

    /// The archive's bytes, padded so that another may follow.
    ///
    /// # Errors
    /// A file is larger than 4 GiB, the most that the format can say.
    pub fn to_bytes(&self) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        for (number, (path, entry)) in (1u32..).zip(&self.entries) {
            write_entry(&mut out, Builder::new(path).ino(number), entry)?;
        }
        out = trailer(out)?;
        out.resize(out.len().next_multiple_of(ALIGNMENT), 0);
        Ok(out)
    }
}

fn write_entry(out: &mut Vec<u8>, builder: Builder, entry: &Entry) -> io::Result<()> {
    let builder = match entry {
        Entry::Directory(mode) => builder.mode(*mode).nlink(2).set_mode_file_type(ModeFileType::Directory),
        Entry::File(mode, _) => builder.mode(*mode).nlink(1).set_mode_file_type(ModeFileType::Regular),
        Entry::Link(_) => builder.mode(0o777).nlink(1).set_mode_file_type(ModeFileType::Symlink),
        Entry::CharDevice { major, minor } => builder
            .mode(0o600)
            .nlink(1)
            .rdev_major(*major)
            .rdev_minor(*minor)
            .set_mode_file_type(ModeFileType::Char),
    };
    let content = match entry {
        Entry::File(_, content) => content.as_slice(),
        Entry::Link(target) => target.as_bytes(),
        Entry::Directory(_) | Entry::CharDevice { .. } => &[],
    };
    let size = u32::try_from(content.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let mut writer = builder.write(out, size);
    writer.write_all(content)?;
    writer.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cpio::newc::Reader;

    fn sample(reverse: bool) -> Archive {
        let mut archive = Archive::new();
        let mut steps: Vec<fn(&mut Archive)> = vec![
            |a| a.file("bin/tool", 0o755, "#!"),
            |a| a.link("bin/alias", "tool"),
            |a| a.char_device("dev/console", (5, 1)),
            |a| a.directory("tmp", 0o1777),
        ];
        if reverse {
            steps.reverse();
        }
        for step in steps {
            step(&mut archive);
        }
        archive
    }

    #[test]
    fn the_order_of_additions_does_not_show() {
        assert_eq!(sample(false).to_bytes().unwrap(), sample(true).to_bytes().unwrap());
    }

    #[test]
    fn a_reader_finds_folders_first_and_everything_in_them() {
        let bytes = sample(true).to_bytes().unwrap();
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let mut rest = bytes.as_slice();
        let mut seen = Vec::new();
        loop {
            let reader = Reader::new(rest).unwrap();
            if reader.entry().is_trailer() {
                break;
            }
            let entry = reader.entry();
            assert_eq!((entry.uid(), entry.gid(), entry.mtime()), (0, 0, 0));
            seen.push((entry.name().to_owned(), entry.mode(), entry.rdev_major()));
            rest = reader.finish().unwrap();
        }
        let expected = [
            ("bin", 0o040_755, 0),
            ("bin/alias", 0o120_777, 0),
            ("bin/tool", 0o100_755, 0),
            ("dev", 0o040_755, 0),
            ("dev/console", 0o020_600, 5),
            ("tmp", 0o041_777, 0),
        ];
        assert_eq!(seen, expected.map(|(name, mode, major)| (name.to_owned(), mode, major)));
    }
}
