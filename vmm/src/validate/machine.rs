//! Rules about the configuration alone.

use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::disk::{self, DiskFault};
use super::fs::{self, FsFault};
use super::net::{self, NetFault};
use crate::config::{ConsoleTarget, VmConfig};

/// What a configuration breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigFault {
    /// Nothing to boot.
    #[error("no kernel is given; name one with --kernel PATH, for example a /boot/vmlinuz-*")]
    NoKernel,
    /// Too little memory for a Linux kernel.
    #[error("a machine needs at least 64 MiB of memory, not {0} bytes; write --memory 64M or more")]
    MemorySmall(u64),
    /// More memory than a processor addresses.
    #[error("{0} bytes of memory are more than a machine can address; 16 TiB is the most")]
    MemoryLarge(u64),
    /// Memory that is no whole number of pages.
    #[error("the memory size of {size} bytes is not a multiple of {page}, the size of a page of it")]
    MemoryPages {
        /// The size asked for.
        size: u64,
        /// Bytes a page.
        page: &'static str,
    },
    /// Too few or too many CPUs.
    #[error("a machine has 1 to 32 CPUs, not {0}; write --cpus 1 to --cpus 32")]
    Cpus(u8),
    /// CPUs to be added later.
    #[error(
        "max={max} CPUs would have to be added to the {boot} at boot, which vmm cannot do yet; leave max out"
    )]
    CpusMax {
        /// Present at boot.
        boot: u8,
        /// The limit asked for.
        max: u8,
    },
    /// Two consoles, one terminal.
    #[error(
        "--serial and --console both want the standard input and output; give one of them another target"
    )]
    OneTerminal,
    /// Two purposes, one path.
    #[error("{path} cannot be both {one} and {other}; give each a path of its own")]
    SamePath {
        /// The path.
        path: PathBuf,
        /// Its first use.
        one: &'static str,
        /// Its second use.
        other: &'static str,
    },
    /// A path that is no path.
    #[error("the path of {0} is empty")]
    EmptyPath(&'static str),
    /// A socket path that no socket can have.
    #[error("{what}'s socket path has {len} bytes; a socket's path has at most 107: use a shorter folder")]
    SocketPath {
        /// Which console.
        what: &'static str,
        /// Its length.
        len: usize,
    },
    /// A command line that the kernel would cut.
    #[error("the kernel command line has {0} bytes; a kernel takes at most 2047")]
    CmdlineLong(usize),
    /// A command line that the kernel would stop reading.
    #[error("the kernel command line holds a NUL byte, where the kernel would stop reading it")]
    CmdlineNul,
    /// A context id that no guest can have.
    #[error("the context id {0} is no guest's; --vsock cid= takes 3 to 4294967294, unique on this host")]
    Cid(u32),
    /// A network device that contradicts itself.
    #[error(transparent)]
    Net(NetFault),
    /// Standard input, output or error for a device.
    #[error(
        "descriptor {0} cannot be a device's: 0, 1 and 2 are standard input, output and error; give one from 3 on"
    )]
    StandardDescriptor(i32),
    /// One descriptor for two purposes.
    #[error("descriptor {0} is given twice; each needs one of its own")]
    DescriptorTwice(i32),
    /// A disk that is none.
    #[error(transparent)]
    Disk(#[from] DiskFault),
    /// A balloon that would leave the guest nothing.
    #[error(
        "a balloon of {balloon} MiB leaves a guest of {memory} MiB too little; make it at least 64 MiB smaller"
    )]
    BalloonLarge {
        /// Its size in MiB.
        balloon: u64,
        /// The machine's memory in MiB.
        memory: u64,
    },
    /// A limit that would stop a device.
    #[error("a device of {0} with bw=0 or ops=0 would never do anything; leave the limit out")]
    Limit(&'static str),
    /// A shared directory that cannot be.
    #[error(transparent)]
    Fs(#[from] FsFault),
}

type Rule = fn(&VmConfig) -> Option<ConfigFault>;

/// All rules, in the order in which their faults are told.
pub(super) const RULES: &[Rule] = &[
    a_kernel_is_given,
    memory_is_large_enough,
    memory_can_be_addressed,
    memory_is_whole_pages,
    cpus_are_1_to_32,
    cpus_stay_as_they_are,
    one_console_has_the_terminal,
    paths_are_not_empty,
    paths_have_one_use,
    socket_paths_fit,
    cmdline_fits,
    cmdline_has_no_nul,
    net::the_cid_is_a_guests,
    net::network_devices_are_sound,
    net::descriptors_are_not_the_standard_ones,
    net::descriptors_have_one_use,
    disk::every_disk_is_sound,
    the_balloon_leaves_room,
    limits_let_something_pass,
    fs::shares_can_be,
];

const MEMORY_MIN: u64 = 64 << 20;
const MEMORY_MAX: u64 = 16 << 40;
const CPUS_MAX: u8 = 32;
/// `COMMAND_LINE_SIZE` of x86 without the terminator.
const CMDLINE_MAX: usize = 2047;
/// `sun_path` without its terminator (unix(7)).
pub(super) const SOCKET_PATH_MAX: usize = 107;

fn a_kernel_is_given(config: &VmConfig) -> Option<ConfigFault> {
    config.boot.kernel.as_os_str().is_empty().then_some(ConfigFault::NoKernel)
}

fn memory_is_large_enough(config: &VmConfig) -> Option<ConfigFault> {
    let size = config.memory.size;
    (size < MEMORY_MIN).then_some(ConfigFault::MemorySmall(size))
}

fn memory_can_be_addressed(config: &VmConfig) -> Option<ConfigFault> {
    let size = config.memory.size;
    (size > MEMORY_MAX).then_some(ConfigFault::MemoryLarge(size))
}

fn memory_is_whole_pages(config: &VmConfig) -> Option<ConfigFault> {
    let (bytes, page) = if config.memory.hugepages { (2 << 20, "2 MiB") } else { (4096, "4 KiB") };
    let size = config.memory.size;
    (!size.is_multiple_of(bytes)).then_some(ConfigFault::MemoryPages { size, page })
}

fn the_balloon_leaves_room(config: &VmConfig) -> Option<ConfigFault> {
    let (balloon, memory) = (config.balloon.as_ref()?.size, config.memory.size);
    let fits = balloon == 0 || balloon.checked_add(MEMORY_MIN).is_some_and(|sum| sum <= memory);
    (!fits).then_some(ConfigFault::BalloonLarge { balloon: balloon >> 20, memory: memory >> 20 })
}

fn limits_let_something_pass(config: &VmConfig) -> Option<ConfigFault> {
    let console = [("--console", config.console_limits.bw, config.console_limits.ops)].into_iter();
    let rng = config.rng.iter().map(|rng| ("--rng", rng.bw, rng.ops));
    let nets = config.nets.iter().map(|net| ("--net", net.bw, net.ops));
    let disks = config.disks.iter().map(|disk| ("--disk", disk.bw, disk.ops));
    let mut all = console.chain(rng).chain(nets).chain(disks);
    let stops = |(_, bw, ops): &(_, Option<u64>, Option<u64>)| *bw == Some(0) || *ops == Some(0);
    all.find(stops).map(|(flag, ..)| ConfigFault::Limit(flag))
}

fn cpus_are_1_to_32(config: &VmConfig) -> Option<ConfigFault> {
    let boot = config.cpus.boot;
    (boot == 0 || boot > CPUS_MAX).then_some(ConfigFault::Cpus(boot))
}

fn cpus_stay_as_they_are(config: &VmConfig) -> Option<ConfigFault> {
    let boot = config.cpus.boot;
    config.cpus.max.filter(|max| *max != boot).map(|max| ConfigFault::CpusMax { boot, max })
}

fn one_console_has_the_terminal(config: &VmConfig) -> Option<ConfigFault> {
    let own = |target: &ConsoleTarget| matches!(target, ConsoleTarget::Tty | ConsoleTarget::Stdio);
    let both = own(&config.serial) && config.console.as_ref().is_some_and(own);
    both.then_some(ConfigFault::OneTerminal)
}

fn paths_are_not_empty(config: &VmConfig) -> Option<ConfigFault> {
    let empty = |(what, path): &(&'static str, &Path)| {
        path.as_os_str().is_empty().then_some(ConfigFault::EmptyPath(what))
    };
    // An empty kernel path is no kernel, which has its own rule.
    uses(config).iter().skip(1).find_map(empty)
}

fn paths_have_one_use(config: &VmConfig) -> Option<ConfigFault> {
    let uses = uses(config);
    let twice = |(i, (one, path)): (usize, &(&'static str, &Path))| {
        let other = uses.iter().skip(i + 1).find(|(_, other)| other == path && is_written(other))?.0;
        Some(ConfigFault::SamePath { path: path.to_path_buf(), one, other })
    };
    uses.iter().enumerate().find_map(twice)
}

/// /dev/null may serve everybody.
fn is_written(path: &Path) -> bool {
    !path.starts_with("/dev") && !path.as_os_str().is_empty()
}

fn socket_paths_fit(config: &VmConfig) -> Option<ConfigFault> {
    consoles(config).find_map(|(what, target)| match target {
        ConsoleTarget::Socket(path) => {
            let len = path.as_os_str().as_bytes().len();
            (len > SOCKET_PATH_MAX).then_some(ConfigFault::SocketPath { what, len })
        }
        _ => None,
    })
}

fn cmdline_fits(config: &VmConfig) -> Option<ConfigFault> {
    let len = config.boot.cmdline.as_ref()?.len();
    (len > CMDLINE_MAX).then_some(ConfigFault::CmdlineLong(len))
}

fn cmdline_has_no_nul(config: &VmConfig) -> Option<ConfigFault> {
    config.boot.cmdline.as_ref()?.contains('\0').then_some(ConfigFault::CmdlineNul)
}

fn consoles(config: &VmConfig) -> impl Iterator<Item = (&'static str, &ConsoleTarget)> {
    std::iter::once(("--serial", &config.serial)).chain(config.console.iter().map(|c| ("--console", c)))
}

/// Every path in the configuration and what it is for; the kernel first, written ones last.
fn uses(config: &VmConfig) -> Vec<(&'static str, &Path)> {
    let mut uses = vec![("the kernel", config.boot.kernel.as_path())];
    uses.extend(config.boot.initrd.iter().map(|initrd| ("the initrd", initrd.as_path())));
    uses.extend(consoles(config).filter_map(|(what, target)| match target {
        ConsoleTarget::File(path) | ConsoleTarget::Socket(path) => Some((what, path.as_path())),
        _ => None,
    }));
    uses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> VmConfig {
        let mut config = VmConfig::default();
        config.boot.kernel = "/boot/vmlinuz".into();
        config
    }

    fn faults(change: impl FnOnce(&mut VmConfig)) -> Vec<ConfigFault> {
        let mut config = good();
        change(&mut config);
        RULES.iter().filter_map(|rule| rule(&config)).collect()
    }

    #[test]
    fn a_kernel_and_the_defaults_break_no_rule() {
        assert_eq!(faults(|_| {}), []);
    }

    #[test]
    fn a_machine_without_a_kernel_is_refused() {
        assert_eq!(faults(|c| c.boot.kernel = "".into()), [ConfigFault::NoKernel]);
    }

    #[test]
    fn memory_below_64_mib_is_refused() {
        assert_eq!(faults(|c| c.memory.size = 1 << 20), [ConfigFault::MemorySmall(1 << 20)]);
        assert_eq!(faults(|c| c.memory.size = 64 << 20), []);
    }

    #[test]
    fn memory_beyond_any_address_is_refused() {
        assert_eq!(faults(|c| c.memory.size = 17 << 40), [ConfigFault::MemoryLarge(17 << 40)]);
    }

    #[test]
    fn memory_must_be_whole_pages_of_its_kind() {
        let size = (100 << 20) + 512;
        assert_eq!(faults(|c| c.memory.size = size), [ConfigFault::MemoryPages { size, page: "4 KiB" }]);
        let size = (100 << 20) + 4096;
        assert_eq!(faults(|c| c.memory.size = size), []);
        let huge = faults(|c| (c.memory.size, c.memory.hugepages) = (size, true));
        assert_eq!(huge, [ConfigFault::MemoryPages { size, page: "2 MiB" }]);
    }

    #[test]
    fn none_and_more_than_32_cpus_are_refused() {
        assert_eq!(faults(|c| c.cpus.boot = 0), [ConfigFault::Cpus(0)]);
        assert_eq!(faults(|c| c.cpus.boot = 33), [ConfigFault::Cpus(33)]);
        assert_eq!(faults(|c| c.cpus.boot = 32), []);
    }

    #[test]
    fn limits_of_nothing_are_refused_whatever_the_device() {
        assert_eq!(faults(|c| c.console_limits.bw = Some(0)), [ConfigFault::Limit("--console")]);
        assert_eq!(faults(|c| c.console_limits.ops = Some(1)), []);
        let rng = |c: &mut VmConfig| c.rng = crate::grammar::rng("on,ops=0").unwrap();
        assert_eq!(faults(rng), [ConfigFault::Limit("--rng")]);
        let net = |c: &mut VmConfig| c.nets = vec![crate::grammar::net("tap=t,bw=0").unwrap()];
        assert_eq!(faults(net), [ConfigFault::Limit("--net")]);
        let disk = |c: &mut VmConfig| c.disks = vec![crate::grammar::disk("/disk.img,ops=0").unwrap()];
        assert_eq!(faults(disk), [ConfigFault::Limit("--disk")]);
    }

    #[test]
    fn cpus_that_would_come_later_are_refused() {
        assert_eq!(faults(|c| c.cpus.max = Some(1)), []);
        assert_eq!(faults(|c| c.cpus.max = Some(8)), [ConfigFault::CpusMax { boot: 1, max: 8 }]);
    }

    #[test]
    fn a_balloon_that_leaves_no_room_is_refused() {
        let with = |size| {
            let balloon = crate::config::BalloonConfig { size, ..Default::default() };
            faults(move |c| (c.memory.size, c.balloon) = (256 << 20, Some(balloon)))
        };
        assert_eq!(with(192 << 20), []);
        assert_eq!(with(193 << 20), [ConfigFault::BalloonLarge { balloon: 193, memory: 256 }]);
        assert_eq!(with(u64::MAX).len(), 1);
        assert_eq!(with(0), []);
    }

    #[test]
    fn two_consoles_on_one_terminal_are_refused() {
        let both = |c: &mut VmConfig| {
            c.serial = ConsoleTarget::Tty;
            c.console = Some(ConsoleTarget::Stdio);
        };
        assert_eq!(faults(both), [ConfigFault::OneTerminal]);
        assert_eq!(faults(|c| c.serial = ConsoleTarget::Tty), []);
    }

    #[test]
    fn one_path_for_two_purposes_is_refused() {
        let both = faults(|c| {
            c.serial = ConsoleTarget::File("/run/x".into());
            c.console = Some(ConsoleTarget::Socket("/run/x".into()));
        });
        let same = ConfigFault::SamePath { path: "/run/x".into(), one: "--serial", other: "--console" };
        assert_eq!(both, [same]);
        let kernel = faults(|c| c.serial = ConsoleTarget::File("/boot/vmlinuz".into()));
        assert!(matches!(kernel.as_slice(), [ConfigFault::SamePath { one: "the kernel", .. }]));
        let null = faults(|c| {
            c.serial = ConsoleTarget::File("/dev/null".into());
            c.console = Some(ConsoleTarget::File("/dev/null".into()));
        });
        assert_eq!(null, []);
    }

    #[test]
    fn an_empty_path_is_refused() {
        assert_eq!(faults(|c| c.boot.initrd = Some("".into())), [ConfigFault::EmptyPath("the initrd")]);
    }

    #[test]
    fn a_socket_path_longer_than_a_socket_address_is_refused() {
        let path = |len: usize| PathBuf::from(format!("/{}", "x".repeat(len - 1)));
        assert_eq!(faults(|c| c.serial = ConsoleTarget::Socket(path(107))), []);
        let long = faults(|c| c.serial = ConsoleTarget::Socket(path(108)));
        assert_eq!(long, [ConfigFault::SocketPath { what: "--serial", len: 108 }]);
    }

    #[test]
    fn a_command_line_longer_than_the_kernels_or_with_a_nul_is_refused() {
        assert_eq!(faults(|c| c.boot.cmdline = Some("x".repeat(2047))), []);
        assert_eq!(faults(|c| c.boot.cmdline = Some("x".repeat(2048))), [ConfigFault::CmdlineLong(2048)]);
        assert_eq!(faults(|c| c.boot.cmdline = Some("a\0b".into())), [ConfigFault::CmdlineNul]);
    }

    #[test]
    fn all_broken_rules_are_told_at_once() {
        let many = faults(|c| {
            c.memory.size = 1000;
            c.cpus.boot = 0;
            c.boot.cmdline = Some("\0".into());
        });
        assert_eq!(many.len(), 4);
    }
}
