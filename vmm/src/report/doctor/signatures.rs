//! What a kernel says when a boot fails, and what that means.
//!
//! The first signature of the table that is found wins, so causes stand before their consequences: an initrd that
//! was not unpacked before the missing init that follows from it.

use super::explain::{self, Advice};
use super::{Class, Facts};

/// What was found.
pub(super) struct Finding {
    pub(super) class: Class,
    /// The console line that told.
    pub(super) line: Option<String>,
    pub(super) cause: String,
    pub(super) cure: String,
}

/// Words of a console, their class, and how to explain the line they stand in.
struct Signature {
    class: Class,
    /// Any of these tells.
    words: &'static [&'static str],
    advice: fn(&Facts<'_>, &str) -> Advice,
}

const TABLE: &[Signature] = &[
    Signature {
        class: Class::Memory,
        words: &[
            "System is deadlocked on memory",
            "Out of memory and no killable processes",
            "Kernel panic - not syncing: Out of memory",
            "Initramfs unpacking failed: write error",
            "initrd extends beyond end of memory",
            "alloc_low_pages: can not alloc memory",
        ],
        advice: explain::memory,
    },
    Signature {
        class: Class::InitrdFormat,
        words: &["Initramfs unpacking failed:", "rootfs image is not initramfs"],
        advice: explain::initrd_format,
    },
    Signature {
        class: Class::Modules,
        words: &[
            ": disagrees about version of symbol",
            ": version magic '",
            ": Unknown symbol ",
            "modprobe: FATAL: Module",
            "could not insert module",
        ],
        advice: explain::module_mismatch,
    },
    Signature {
        class: Class::NoInit,
        words: &["Failed to execute /init (error", "Requested init ", "No working init found"],
        advice: explain::no_init,
    },
    Signature {
        class: Class::NoRoot,
        words: &["Unable to mount root fs", "Cannot open root device"],
        advice: explain::no_root,
    },
    Signature { class: Class::InitDied, words: &["Attempted to kill init!"], advice: explain::init_died },
    Signature {
        class: Class::Memory,
        words: &["Out of memory: Killed process", "page allocation failure"],
        advice: explain::memory,
    },
    Signature {
        class: Class::Modules,
        words: &["ALERT! ", "Gave up waiting for root", "dracut-initqueue timeout", "Could not boot."],
        advice: explain::modules,
    },
    Signature { class: Class::Modules, words: &["can't load the module"], advice: explain::module_mismatch },
    Signature {
        class: Class::DeviceWait,
        words: &["Waiting for root device", "A start job is running for", "Waiting for uevents"],
        advice: explain::device_wait,
    },
    Signature { class: Class::Panic, words: &["IO-APIC + timer doesn't work"], advice: explain::timer },
    Signature {
        class: Class::Oops,
        words: &[
            "BUG: kernel NULL pointer dereference",
            "BUG: unable to handle",
            "general protection fault",
            "kernel BUG at",
            "Oops: ",
        ],
        advice: explain::oops,
    },
    Signature {
        class: Class::Stall,
        words: &[
            "BUG: soft lockup",
            "detected stalls on CPUs/tasks",
            "self-detected stall on CPU",
            "blocked for more than",
            "hard LOCKUP",
        ],
        advice: explain::stall,
    },
    Signature { class: Class::Panic, words: &["Kernel panic - not syncing:"], advice: explain::panic },
];

/// The finding for these facts; there always is one.
pub(super) fn find(facts: &Facts<'_>, lines: &[String]) -> Finding {
    let told = TABLE.iter().find_map(|signature| {
        let tells = |line: &&String| signature.words.iter().any(|words| line.contains(words));
        Some((signature, lines.iter().find(tells)?))
    });
    match told {
        Some((signature, line)) => {
            let Advice { cause, cure } = (signature.advice)(facts, line);
            Finding { class: signature.class, line: Some(line.clone()), cause, cure }
        }
        None => {
            let (class, Advice { cause, cure }) = explain::wordless(facts, lines);
            Finding { class, line: None, cause, cure }
        }
    }
}
