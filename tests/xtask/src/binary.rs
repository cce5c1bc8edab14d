//! What must hold of the programs that users get: each one file, static, small.

use std::path::Path;

use guest_kernel::elf::{Elf, Segment};

use crate::build;
use crate::error::{Doing, Error, Result};

/// The most bytes that the stripped binary may have.
const LIMIT: usize = 3_000_000;

const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;

/// Builds the binaries as users get them and checks them; says their sizes.
pub(crate) fn check() -> Result<()> {
    let programs = build::programs()?;
    check_one("vmm", &programs.vmm)?;
    check_one("kiwi-virtiofsd", &programs.virtiofsd)
}

fn check_one(name: &str, path: &Path) -> Result<()> {
    let bytes = std::fs::read(path).doing(format_args!("reading {}", path.display()))?;
    println!("{name} has {} bytes", bytes.len());
    if bytes.len() > LIMIT {
        return Err(Error::new(format!("{name} has {} bytes; {LIMIT} is the most", bytes.len())));
    }
    let elf = Elf::parse(&bytes).doing(format_args!("reading {name}'s ELF header"))?;
    stands_alone(elf.segments()).map_err(|what| Error::new(format!("{name} {what}; it must be static")))
}

/// Whether a program needs nothing of the host's but its kernel; if not, what.
fn stands_alone(segments: &[Segment<'_>]) -> std::result::Result<(), &'static str> {
    if segments.iter().any(|s| s.kind == PT_INTERP) {
        return Err("is loaded by a dynamic linker");
    }
    let mut dynamic = segments.iter().filter(|s| s.kind == PT_DYNAMIC).flat_map(|s| s.bytes.chunks_exact(16));
    // An entry is a tag and a value, eight bytes each.
    match dynamic.any(|entry| entry.starts_with(&DT_NEEDED.to_le_bytes())) {
        true => Err("needs a shared library"),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linker_and_a_library_are_noticed_and_a_static_pie_is_not() {
        let segment = |kind, bytes| Segment { kind, bytes };
        let needed = [DT_NEEDED.to_le_bytes(), 77_u64.to_le_bytes()].concat();
        let hash = [4_u64.to_le_bytes(), DT_NEEDED.to_le_bytes()].concat();
        assert!(stands_alone(&[segment(1, &[]), segment(PT_DYNAMIC, &hash)]).is_ok());
        assert!(stands_alone(&[segment(PT_DYNAMIC, &hash), segment(PT_DYNAMIC, &needed)]).is_err());
        assert!(stands_alone(&[segment(PT_INTERP, b"/lib64/ld-linux-x86-64.so.2\0")]).is_err());
    }

    #[test]
    fn a_program_of_the_hosts_is_no_static_one() {
        let shell = std::fs::read("/bin/sh").expect("a shell");
        let elf = Elf::parse(&shell).expect("an ELF");
        assert!(stands_alone(elf.segments()).is_err());
    }
}
