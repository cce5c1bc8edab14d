//! Whether `guest-image` keeps its promises on a real kernel: the same bytes wherever and whenever it is built, small,
//! and by the words of its systemd unit.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use guest::Source;

use crate::build::{self, Programs};
use crate::error::{Doing, Error, Result};
use crate::host;
use crate::kernels::{self, Flavour};

/// An initrd may have this many bytes, with Debian's cloud kernel's modules and our init.
const LARGEST_INITRD: u64 = 6_000_000;
/// What two builds have in common.
const FILES: [&str; 3] = ["vmlinux", "initrd", "manifest.json"];
const SERVICE: &str = "kiwi-guest-image.service";
/// Where the unit has its programs from.
const INSTALLED: [&str; 2] = ["/usr/bin/guest-image", "/usr/libexec/kiwi/guest-init"];

/// Check that guest images are reproducible and small, and their systemd units sound
#[derive(clap::Args)]
pub(crate) struct ImageCheck {}

impl ImageCheck {
    pub(crate) fn run(self) -> Result<u8> {
        check()?;
        Ok(0)
    }
}

/// Builds the image of Debian's cloud kernel twice, far apart, and compares.
pub(crate) fn check() -> Result<()> {
    host::need(&[("busybox", "busybox-static"), ("systemd-analyze", "systemd")])?;
    let programs = build::programs()?;
    let source = kernels::debian(Flavour::Cloud61)?;
    let scratch = host::target().join("image-check");
    let _ = fs::remove_dir_all(&scratch);
    let (one, two) = (scratch.join("one/image"), scratch.join("another/place/for/an/image"));
    verify_units(&programs, &scratch.join("units"))?;
    let mut by_unit = words_of_unit(&programs, &source, &one)?;
    let root = root_of(&source)?;
    run(by_unit.arg("--root").arg(&root), &scratch.join("cache-one"))?;
    let mut by_hand = Command::new(&programs.image);
    by_hand.args(["build", "--kernel-release", &source.release]).arg("--root").arg(&root);
    by_hand.arg("--out").arg(&two).current_dir("/").env("TZ", "Asia/Tokyo");
    run(&mut by_hand, &scratch.join("cache-two"))?;
    compare(&one, &two)?;
    let size = fs::metadata(one.join("initrd")).doing("examining the initrd")?.len();
    if size > LARGEST_INITRD {
        return Err(Error::new(format!("the initrd has {size} bytes (limit {LARGEST_INITRD})")));
    }
    println!("two images of {} are the same; the initrd has {size} bytes", source.release);
    fs::remove_dir_all(&scratch).doing(format_args!("removing {}", scratch.display()))
}

/// The folder that holds boot/ and lib/modules/.
fn root_of(source: &Source) -> Result<PathBuf> {
    let root = source.kernel.parent().and_then(Path::parent).map(Path::to_owned);
    root.ok_or_else(|| Error::new(format!("{} lies in no boot/ folder", source.kernel.display())))
}

/// Runs a build with a kernel cache of its own.
fn run(build: &mut Command, cache: &Path) -> Result<()> {
    host::output(build.env("KIWI_CACHE", cache)).map(drop)
}

fn compare(one: &Path, two: &Path) -> Result<()> {
    for name in FILES {
        let read = |folder: &Path| fs::read(folder.join(name)).doing(format_args!("reading {name}"));
        if read(one)? != read(two)? {
            let (one, two) = (one.display(), two.display());
            return Err(Error::new(format!("{name} differs: compare {one} with {two}")));
        }
    }
    Ok(())
}

fn units() -> PathBuf {
    host::root().join("guest/systemd")
}

/// Has systemd read the units, with the programs just built in place of the installed ones.
fn verify_units(programs: &Programs, scratch: &Path) -> Result<()> {
    fs::create_dir_all(scratch).doing(format_args!("making {}", scratch.display()))?;
    let mut analyze = Command::new("systemd-analyze");
    analyze.arg("verify");
    for entry in fs::read_dir(units()).doing("listing the units")? {
        let unit = entry.doing("listing the units")?;
        let text = fs::read_to_string(unit.path()).doing("reading a unit")?;
        let copy = scratch.join(unit.file_name());
        fs::write(&copy, here(programs, &text)).doing(format_args!("writing {}", copy.display()))?;
        analyze.arg(copy);
    }
    let said = analyze.output().doing("starting systemd-analyze")?;
    let said = String::from_utf8_lossy(&said.stderr).trim().to_owned();
    // It exits with 0 for much that it warns of.
    if said.is_empty() { Ok(()) } else { Err(Error::new(format!("systemd dislikes a unit: {said}"))) }
}

/// `text` with our programs' own paths.
fn here(programs: &Programs, text: &str) -> String {
    let [image, init] = INSTALLED;
    text.replace(image, &programs.image.to_string_lossy()).replace(init, &programs.init.to_string_lossy())
}

/// The unit's command, for a kernel in another place and another folder to write to.
fn words_of_unit(programs: &Programs, source: &Source, out: &Path) -> Result<Command> {
    let unit = fs::read_to_string(units().join(SERVICE)).doing("reading the unit")?;
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="));
    let line = line.ok_or_else(|| Error::new(format!("{SERVICE} starts nothing")))?;
    let line = here(programs, line).replace("/var/lib/kiwi/guest/%v", &out.to_string_lossy());
    let line = line.replace("%v", &source.release);
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    Ok(command)
}
