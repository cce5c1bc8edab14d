//! Causes and cures in words.

use super::{Class, Facts};
use crate::boot::cmdline;
use crate::config::{ConsoleTarget, Transport};
use crate::exit::Exit;
use crate::report::Milestone;

/// A likely cause and its cure.
pub(super) struct Advice {
    pub(super) cause: String,
    pub(super) cure: String,
}

fn advice(cause: impl Into<String>, cure: impl Into<String>) -> Advice {
    Advice { cause: cause.into(), cure: cure.into() }
}

pub(super) fn memory(facts: &Facts<'_>, _: &str) -> Advice {
    let mib = facts.config.memory.size >> 20;
    advice(
        format!(
            "the guest's memory of {mib} MiB is too small for this kernel, its initrd unpacked, and what runs"
        ),
        format!("give it more, for example --memory {}M, or a smaller initrd", (mib * 2).max(128)),
    )
}

/// Compressions by their first bytes, and the kernel option that reads each (lib/decompress.c of Linux).
const COMPRESSIONS: &[(&[u8], &str, &str)] = &[
    (&[0x1f, 0x8b], "gzip", "CONFIG_RD_GZIP"),
    (b"BZh", "bzip2", "CONFIG_RD_BZIP2"),
    (&[0x5d, 0x00, 0x00], "lzma", "CONFIG_RD_LZMA"),
    (&[0xfd, b'7', b'z', b'X', b'Z'], "xz", "CONFIG_RD_XZ"),
    (&[0x89, b'L', b'Z', b'O'], "lzo", "CONFIG_RD_LZO"),
    (&[0x02, 0x21, 0x4c, 0x18], "lz4 (legacy frame)", "CONFIG_RD_LZ4"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "zstd", "CONFIG_RD_ZSTD"),
];
/// lz4's present frame, which the kernel does not read.
const LZ4_FRAME: &[u8] = &[0x04, 0x22, 0x4d, 0x18];

pub(super) fn initrd_format(facts: &Facts<'_>, line: &str) -> Advice {
    let known = COMPRESSIONS.iter().find(|(magic, ..)| facts.initrd.starts_with(magic));
    if facts.initrd.starts_with(LZ4_FRAME) {
        return advice(
            "the initrd is an lz4 frame of the present kind, and Linux reads only the legacy kind",
            "compress it with lz4 -l",
        );
    }
    match known {
        Some((_, name, option)) if line.contains("not configured") => advice(
            format!("the initrd is compressed with {name}, which this kernel was built without ({option})"),
            "compress it with gzip, or do not compress it",
        ),
        Some((_, name, option)) => advice(
            format!("the initrd is {name} and damaged or cut short, or this kernel has no {option}"),
            format!("check it on the host (for example with {name} -t, then cpio -it) and build it again"),
        ),
        None if facts.initrd.starts_with(b"0707") => advice(
            "the initrd begins as a cpio archive and goes on as something else",
            "check it with cpio -it; archives put together must each begin at a multiple of 4 bytes",
        ),
        None => advice(
            "the initrd is neither a newc cpio archive nor compressed in a way that Linux knows",
            "build it with cpio -o -H newc, and name it (not the kernel) in --initrd",
        ),
    }
}

pub(super) fn module_mismatch(_: &Facts<'_>, _: &str) -> Advice {
    advice(
        "a module of the initrd was built for another kernel, or one that it needs was not loaded before it",
        "build the initrd for exactly this kernel's release: guest-image build --kernel-release RELEASE",
    )
}

/// What the kernel's error numbers mean for a program it cannot run.
const EXEC_ERRORS: &[(&str, &str)] = &[
    ("(error -2)", "the interpreter or dynamic loader that it names is not in the initrd"),
    ("(error -8)", "it is no program for this processor, or a script without #! in its first line"),
    ("(error -13)", "it is not executable (chmod +x), or no regular file"),
    ("(error -26)", "it was not written whole, so the initrd is probably cut short"),
];

pub(super) fn no_init(facts: &Facts<'_>, line: &str) -> Advice {
    let reason = EXEC_ERRORS.iter().find(|(error, _)| line.contains(error)).map(|(_, reason)| *reason);
    match (reason, &facts.config.boot.initrd) {
        (Some(reason), _) => advice(
            format!("the kernel could not run init: {reason}"),
            "put a statically linked, executable /init into the initrd; guest-image build makes one that works",
        ),
        (None, Some(_)) => advice(
            "the initrd has no /init that the kernel can run",
            "put an executable /init at its root (rdinit=PATH names another); guest-image build makes one that works",
        ),
        (None, None) => advice(
            "the kernel found no init, and the machine was given no initrd",
            "name one with --initrd; guest-image build makes one for this kernel",
        ),
    }
}

pub(super) fn no_root(facts: &Facts<'_>, _: &str) -> Advice {
    if facts.config.boot.initrd.is_none() {
        return advice(
            "the machine was given no initrd and has no disk to take a root file system from",
            "name an initrd with --initrd; guest-image build makes one for this kernel",
        );
    }
    advice(
        "the initrd holds no /init, so the kernel went on to look for a root file system on a disk that is not there",
        "put an executable /init at the root of the archive (cd ROOT; find . | cpio -o -H newc), or name another \
         with rdinit=PATH",
    )
}

pub(super) fn init_died(_: &Facts<'_>, line: &str) -> Advice {
    let code =
        line.split_once("exitcode=0x").and_then(|(_, hex)| u32::from_str_radix(hex.get(..8)?, 16).ok());
    let how = match code {
        Some(code) if code & 0x7f != 0 => format!("was killed by {}", signal(code & 0x7f)),
        Some(code) => format!("exited with status {}", code >> 8 & 0xff),
        None => "ended".to_owned(),
    };
    advice(
        format!("process 1 {how}; a kernel cannot go on without it"),
        "see what it printed before that; an init must never end, but reap its children and power off",
    )
}

fn signal(number: u32) -> String {
    let name = match number {
        4 => " (illegal instruction: built for a newer processor?)",
        6 => " (abort)",
        7 => " (bus error)",
        9 => " (kill: memory may have run out)",
        11 => " (segmentation fault)",
        _ => "",
    };
    format!("signal {number}{name}")
}

pub(super) fn modules(facts: &Facts<'_>, _: &str) -> Advice {
    let module = match facts.config.transport {
        Transport::Pci => "virtio_pci",
        Transport::Mmio => "virtio_mmio",
    };
    advice(
        format!(
            "the initrd has no driver for a device that it waits for; devices are attached by {module} here"
        ),
        format!("add {module} and the device's own module (virtio_blk, virtio_console, …) to the initrd"),
    )
}

pub(super) fn device_wait(facts: &Facts<'_>, _: &str) -> Advice {
    let Advice { cure, .. } = modules(facts, "");
    advice(
        "the guest waits for a device that this machine does not have, or that the guest has no driver for",
        format!("take root= and its like out of the command line, or {cure}"),
    )
}

pub(super) fn timer(_: &Facts<'_>, _: &str) -> Advice {
    advice(
        "the kernel tested the old PC timer, which a busy host can make fail",
        "add no_timer_check to --cmdline",
    )
}

pub(super) fn oops(_: &Facts<'_>, _: &str) -> Advice {
    advice(
        "the kernel, or a module, ran into a fault of its own: a bug there, or a damaged file",
        "boot another kernel release with the same initrd; if that works, report the trace to the kernel's distributor",
    )
}

pub(super) fn stall(facts: &Facts<'_>, _: &str) -> Advice {
    let cpus = facts.config.cpus.boot;
    advice(
        format!(
            "a processor of the guest's {cpus} did not get on for seconds: the host is overloaded, or a driver hangs"
        ),
        "give the guest fewer CPUs than the host has idle, and look at the task that the lines name",
    )
}

pub(super) fn panic(_: &Facts<'_>, line: &str) -> Advice {
    let why = line.split_once("not syncing: ").map_or("it does not say why", |(_, why)| why);
    advice(
        format!("the guest's kernel gave up: {why}"),
        "read the lines before the panic; without \"quiet\" in --cmdline there are more of them",
    )
}

/// The end of a guest that left no telling words.
pub(super) fn wordless(facts: &Facts<'_>, lines: &[String]) -> (Class, Advice) {
    match facts.exit {
        Exit::TripleFault => (Class::TripleFault, triple_fault(facts, lines)),
        Exit::Panic if lines.is_empty() => (Class::NoConsole, no_console(facts)),
        Exit::Panic => (Class::Panic, panic(facts, "")),
        Exit::Reset if !has_console(facts) => (Class::Reset, no_console(facts)),
        Exit::Reset => (Class::Reset, reset()),
        _ if facts.reached >= Milestone::InitEntered => in_init(facts),
        _ if lines.is_empty() => (Class::NoConsole, no_console(facts)),
        _ => (Class::Silent, silent(facts, lines)),
    }
}

fn triple_fault(facts: &Facts<'_>, lines: &[String]) -> Advice {
    let place = facts.rip.map_or_else(String::new, |rip| format!(" at RIP {rip:#x}, {}", region(rip)));
    if lines.is_empty() {
        return advice(
            format!(
                "the first vCPU faulted thrice{place}, before the kernel could print: its file is damaged, or not \
                 for this processor, or memory ({} MiB) is too small for it",
                facts.config.memory.size >> 20
            ),
            "check the kernel file against its package, give the guest more memory, or boot another release",
        );
    }
    advice(
        format!(
            "a vCPU faulted thrice{place}; the kernel could not handle a fault of its own, or resets this way"
        ),
        "add earlyprintk=serial,ttyS0 to --cmdline to see more, and take reboot=t out of it if it is there",
    )
}

/// Where an instruction pointer lies (Documentation/arch/x86/x86_64/mm.rst of Linux).
fn region(rip: u64) -> &'static str {
    match rip {
        0..0x10_0000 => "below 1 MiB",
        0x10_0000..0x1_0000_0000 => "in code that runs at physical addresses (the kernel's first steps)",
        0xffff_ffff_8000_0000..0xffff_ffff_c000_0000 => "in the kernel's own text",
        0xffff_ffff_c000_0000.. => "in a module",
        0x1_0000_0000..0x8000_0000_0000 => "in a program",
        _ => "where no kernel code lies",
    }
}

fn reset() -> Advice {
    advice(
        "the guest asked for a reset: it was told to reboot, or its kernel panicked without a PVPANIC driver",
        "take \"quiet\" out of --cmdline and look for a panic; a guest that should end must power off",
    )
}

fn has_serial(facts: &Facts<'_>) -> bool {
    facts.config.serial != ConsoleTarget::Off
}

fn has_console(facts: &Facts<'_>) -> bool {
    has_serial(facts) || facts.config.console.as_ref().is_some_and(|c| *c != ConsoleTarget::Off)
}

/// What may keep a guest from being heard, the most likely first.
fn no_console(facts: &Facts<'_>) -> Advice {
    let words: Vec<&str> =
        facts.config.boot.cmdline.as_deref().unwrap_or(cmdline::DEFAULT).split(' ').collect();
    let names = |device: &str| {
        words.iter().any(|w| w.strip_prefix("console=").is_some_and(|c| c.starts_with(device)))
    };
    let serial = has_serial(facts);
    let at = facts
        .rip
        .map_or_else(String::new, |rip| format!(" (vCPU 0 stands at RIP {rip:#x}, {})", region(rip)));
    if !has_console(facts) {
        return advice(
            "the machine has no console at all, so nothing it says is heard",
            "give it --serial tty",
        );
    }
    if serial && !names("ttyS") && !names("hvc") {
        return advice(
            "the command line names no console that this machine has",
            "add console=ttyS0 to --cmdline (COM1 is ttyS0, --console is hvc0)",
        );
    }
    if !names("ttyS") || !serial {
        return advice(
            "only hvc0 is a console, and stock kernels load its driver, virtio_console, as a module from the initrd",
            "add --serial tty and console=ttyS0, or have the initrd load virtio_console early",
        );
    }
    if words.contains(&"quiet") {
        return advice(
            format!(
                "\"quiet\" keeps the kernel silent until something fails, and nothing has failed aloud{at}"
            ),
            "boot again with the same --cmdline without \"quiet\" and look for the last line",
        );
    }
    advice(
        format!(
            "the kernel has no driver for COM1 (CONFIG_SERIAL_8250_CONSOLE), or hangs before it prints{at}"
        ),
        "add earlyprintk=serial,ttyS0 to --cmdline; if that prints nothing either, boot another kernel",
    )
}

/// Silence behind the kernel.
fn in_init(facts: &Facts<'_>) -> (Class, Advice) {
    if facts.reached == Milestone::InitEntered {
        let Advice { cause, cure } = modules(facts, "");
        return (
            Class::Modules,
            advice(format!("init was loading modules and did not come back; {cause}"), cure),
        );
    }
    (Class::DeviceWait, device_wait(facts, ""))
}

fn silent(facts: &Facts<'_>, lines: &[String]) -> Advice {
    let last = lines.last().map_or("", String::as_str);
    if last.contains(" as init process") {
        return advice(
            "the kernel has started init, and init says nothing and sets no boot mark",
            "see that it writes to /dev/console; for an init of your own that is silent by design, use --silence 0",
        );
    }
    let at =
        facts.rip.map_or_else(String::new, |rip| format!("; vCPU 0 stands at RIP {rip:#x}, {}", region(rip)));
    advice(
        format!("the boot stopped behind the last line shown{at}"),
        "add initcall_debug and take \"quiet\" out of --cmdline to see what it waits for, or give it longer (--silence)",
    )
}
