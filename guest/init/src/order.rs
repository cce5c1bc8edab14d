//! What the image asks for: the files under `/kiwi`.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Where the files lie in the initrd.
pub(crate) const FOLDER: &str = "/kiwi";
const SHELL: &str = "/bin/sh";
const DEFAULTS: [(&str, &str); 3] = [
    ("HOME", "/root"),
    ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
    ("TERM", "linux"),
];

/// The command to run and how.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Never empty.
    pub(crate) argv: Vec<OsString>,
    /// Names and values, later ones override.
    pub(crate) env: Vec<(OsString, OsString)>,
    /// Whether a person types: echo, line editing, ^C.
    pub(crate) interactive: bool,
    /// File systems to mount before: type, source, place.
    pub(crate) mounts: Vec<[OsString; 3]>,
    /// Where the command runs.
    pub(crate) folder: Option<OsString>,
}

impl Order {
    /// Reads what is there; what is not has its default.
    pub(crate) fn read(folder: &Path) -> Self {
        let argv = strings(&fs::read(folder.join("command")).unwrap_or_default());
        let own = strings(&fs::read(folder.join("env")).unwrap_or_default());
        let defaults = DEFAULTS.iter().map(|(name, value)| (name.into(), value.into()));
        let env = defaults.chain(own.iter().filter_map(|pair| split(pair))).collect();
        let shell = argv.is_empty();
        Self {
            argv: if shell { vec![SHELL.into()] } else { argv },
            env,
            interactive: shell || folder.join("interactive").exists(),
            mounts: triples(&fs::read(folder.join("mounts")).unwrap_or_default()),
            folder: strings(&fs::read(folder.join("folder")).unwrap_or_default()).into_iter().next(),
        }
    }
}

/// Strings that each end with a NUL; the last may lack it.
fn strings(bytes: &[u8]) -> Vec<OsString> {
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(bytes);
    if bytes.is_empty() {
        return Vec::new();
    }
    bytes.split(|byte| *byte == 0).map(|one| OsStr::from_bytes(one).to_owned()).collect()
}

/// Strings in threes; what is left over is left out.
fn triples(bytes: &[u8]) -> Vec<[OsString; 3]> {
    strings(bytes).as_chunks::<3>().0.to_vec()
}

fn split(pair: &OsStr) -> Option<(OsString, OsString)> {
    let bytes = pair.as_bytes();
    let at = bytes.iter().position(|byte| *byte == b'=').filter(|at| *at > 0)?;
    let (name, value) = bytes.split_at_checked(at)?;
    Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(value.get(1..)?).to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(command: &[u8], env: &[u8]) -> Order {
        let folder =
            std::env::temp_dir().join(format!("kiwi-order-{}-{}", std::process::id(), command.len()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("command"), command).unwrap();
        fs::write(folder.join("env"), env).unwrap();
        let order = Order::read(&folder);
        fs::remove_dir_all(folder).unwrap();
        order
    }

    #[test]
    fn an_image_without_a_command_runs_a_shell_for_a_person() {
        let order = Order::read(Path::new("/nonexistent"));
        assert_eq!(order.argv, [SHELL]);
        assert!(order.interactive);
    }

    #[test]
    fn arguments_keep_their_spaces_and_their_emptiness() {
        let order = order(b"sh\0-c\0exit 7\0\0", b"");
        assert_eq!(order.argv, ["sh", "-c", "exit 7", ""]);
        assert!(!order.interactive);
    }

    #[test]
    fn mounts_come_in_threes() {
        let mount: [OsString; 3] = ["virtiofs".into(), "a b".into(), "/mnt".into()];
        assert_eq!(triples(b"virtiofs\0a b\0/mnt\0proc\0"), [mount]);
        assert!(triples(b"").is_empty());
    }

    #[test]
    fn variables_come_after_the_defaults() {
        let order = order(b"env\0", b"TERM=xterm\0EMPTY=\0=bad\0worse\0A=b=c\0");
        let own: Vec<_> = order.env.iter().skip(DEFAULTS.len()).cloned().collect();
        let expected = [("TERM", "xterm"), ("EMPTY", ""), ("A", "b=c")];
        assert_eq!(own, expected.map(|(name, value)| (name.into(), value.into())));
    }
}
