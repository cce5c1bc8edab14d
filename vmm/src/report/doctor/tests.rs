use super::*;
use crate::config::{ConsoleTarget, Transport};

/// A machine with an initrd and the default command line, serial discarded.
fn config() -> VmConfig {
    let mut config = VmConfig::default();
    config.boot.kernel = "/k".into();
    config.boot.initrd = Some("/i".into());
    config
}

fn facts<'a>(config: &'a VmConfig, exit: Exit, console: &'a str) -> Facts<'a> {
    let reached = if console.is_empty() { Milestone::FirstEntry } else { Milestone::FirstConsoleByte };
    Facts { exit, reached, console: console.as_bytes(), rip: None, initrd: b"070701", config }
}

/// The diagnosis of a panic that printed `console`.
fn panic(console: &str) -> Diagnosis {
    diagnose(&facts(&config(), Exit::Panic, console)).unwrap()
}

#[track_caller]
fn expect(diagnosis: &Diagnosis, class: Class, cause: &str, cure: &str) {
    assert_eq!(diagnosis.class, class, "{diagnosis}");
    assert!(diagnosis.cause.contains(cause), "{diagnosis}");
    assert!(diagnosis.cure.contains(cure), "{diagnosis}");
}

#[test]
fn a_good_end_needs_no_doctor() {
    let config = config();
    for exit in [Exit::Shutdown { guest_status: None }, Exit::Stopped, Exit::Signal(2)] {
        assert_eq!(diagnose(&facts(&config, exit, "Kernel panic - not syncing: x")), None);
    }
}

#[test]
fn no_initrd_and_no_disk_is_no_root() {
    let mut config = config();
    config.boot.initrd = None;
    let found = diagnose(&facts(&config, Exit::Panic, include_str!("samples/no-root.txt"))).unwrap();
    expect(&found, Class::NoRoot, "was given no initrd", "--initrd");
}

#[test]
fn an_initrd_without_init_is_no_root_with_another_cure() {
    let found = panic(include_str!("samples/initrd-without-init.txt"));
    expect(&found, Class::NoRoot, "holds no /init", "rdinit=");
}

#[test]
fn an_init_whose_interpreter_is_missing_is_told_from_one_that_is_no_program() {
    let found = panic(include_str!("samples/init-interpreter.txt"));
    expect(&found, Class::NoInit, "interpreter or dynamic loader", "statically linked");
    assert!(found.telling.is_none() || found.telling.as_ref().unwrap().contains("error -2"));
    let found = panic(include_str!("samples/init-not-a-program.txt"));
    expect(&found, Class::NoInit, "no program for this processor", "guest-image build");
}

#[test]
fn an_init_that_ends_is_named_with_its_status_or_signal() {
    expect(
        &panic(include_str!("samples/init-exited.txt")),
        Class::InitDied,
        "exited with status 3",
        "power off",
    );
    let found = panic(include_str!("samples/init-segfault.txt"));
    expect(&found, Class::InitDied, "killed by signal 11 (segmentation fault)", "printed before");
}

#[test]
fn an_initrd_in_lz4s_present_frame_is_recognised() {
    let config = config();
    let console = include_str!("samples/initrd-lz4-frame.txt");
    let facts =
        Facts { initrd: &[0x04, 0x22, 0x4d, 0x18, 0x64, 0x40], ..facts(&config, Exit::Panic, console) };
    expect(&diagnose(&facts).unwrap(), Class::InitrdFormat, "only the legacy kind", "lz4 -l");
}

#[test]
fn an_initrd_cut_short_is_the_cause_and_not_the_init_that_is_missing_then() {
    let config = config();
    let console = include_str!("samples/initrd-cut-short.txt");
    let facts = Facts { initrd: &[0x1f, 0x8b, 8, 0, 0, 0], ..facts(&config, Exit::Panic, console) };
    expect(&diagnose(&facts).unwrap(), Class::InitrdFormat, "gzip and damaged or cut short", "gzip -t");
}

#[test]
fn an_initrd_that_is_none_is_recognised() {
    let config = config();
    let console = include_str!("samples/initrd-random.txt");
    let facts = Facts { initrd: b"\x7fELF\x02\x01", ..facts(&config, Exit::Panic, console) };
    expect(&diagnose(&facts).unwrap(), Class::InitrdFormat, "neither a newc cpio archive", "cpio -o -H newc");
}

#[test]
fn a_compression_that_the_kernel_lacks_is_named_with_its_option() {
    let config = config();
    let console = "[    0.6] Initramfs unpacking failed: compression method zstd not configured\n";
    let facts = Facts { initrd: &[0x28, 0xb5, 0x2f, 0xfd, 4, 0], ..facts(&config, Exit::Panic, console) };
    expect(&diagnose(&facts).unwrap(), Class::InitrdFormat, "CONFIG_RD_ZSTD", "gzip");
}

#[test]
fn a_kernel_that_runs_out_of_memory_wants_more() {
    let mut config = config();
    config.memory.size = 72 << 20;
    let found = diagnose(&facts(&config, Exit::Panic, include_str!("samples/out-of-memory.txt"))).unwrap();
    expect(&found, Class::Memory, "memory of 72 MiB", "--memory 144M");
    let full =
        "[    0.9] Initramfs unpacking failed: write error\n[    1.1] Failed to execute /init (error -8)\n";
    expect(&panic(full), Class::Memory, "its initrd unpacked", "--memory 1024M");
}

#[test]
fn waiting_for_a_root_device_is_told_when_the_boot_goes_silent() {
    let config = config();
    let found = diagnose(&facts(&config, Exit::Silent, include_str!("samples/rootwait.txt"))).unwrap();
    expect(&found, Class::DeviceWait, "waits for a device", "virtio_pci");
}

#[test]
fn a_module_of_another_kernel_is_named() {
    let console = "[    1.2] virtio_console: disagrees about version of symbol module_layout\n";
    expect(&panic(console), Class::Modules, "built for another kernel", "--kernel-release");
    let console = "modprobe: FATAL: Module virtio_pci not found in directory /lib/modules/6.1.0\n";
    expect(&panic(console), Class::Modules, "built for another kernel", "--kernel-release");
}

#[test]
fn a_missing_driver_names_the_transports_module() {
    let mut config = config();
    config.transport = Transport::Mmio;
    let console = "Gave up waiting for root file system device.  Common problems:\n";
    let found = diagnose(&facts(&config, Exit::Silent, console)).unwrap();
    expect(&found, Class::Modules, "attached by virtio_mmio", "add virtio_mmio");
    let facts = Facts { reached: Milestone::InitEntered, ..facts(&config, Exit::Silent, "") };
    expect(&diagnose(&facts).unwrap(), Class::Modules, "was loading modules", "virtio_mmio");
}

#[test]
fn oopses_stalls_and_other_panics_are_told_apart() {
    expect(
        &panic(
            "[    2.0] BUG: kernel NULL pointer dereference, address: 0000000000000008\n[    2.1] Kernel panic - not syncing: Fatal exception\n",
        ),
        Class::Oops,
        "fault of its own",
        "another kernel",
    );
    expect(
        &panic("[   28.0] watchdog: BUG: soft lockup - CPU#0 stuck for 26s! [swapper/0:1]\n"),
        Class::Stall,
        "did not get on",
        "fewer CPUs",
    );
    expect(
        &panic("[   21.0] rcu: INFO: rcu_preempt detected stalls on CPUs/tasks:\n"),
        Class::Stall,
        "overloaded",
        "fewer CPUs",
    );
    expect(
        &panic("[    0.1] Kernel panic - not syncing: IO-APIC + timer doesn't work!  Boot with apic=debug\n"),
        Class::Panic,
        "old PC timer",
        "no_timer_check",
    );
    expect(
        &panic("[    0.1] Kernel panic - not syncing: sysrq triggered crash\n"),
        Class::Panic,
        "sysrq triggered crash",
        "before the panic",
    );
}

#[test]
fn a_triple_fault_says_where_the_processor_stood() {
    let config = config();
    let facts = Facts { rip: Some(0x100_0200), ..facts(&config, Exit::TripleFault, "") };
    let found = diagnose(&facts).unwrap();
    expect(
        &found,
        Class::TripleFault,
        "at RIP 0x1000200, in code that runs at physical addresses",
        "another release",
    );
    let facts = Facts { rip: Some(0xffff_ffff_8100_0000), console: b"[ 0.0] Linux version", ..facts };
    expect(&diagnose(&facts).unwrap(), Class::TripleFault, "in the kernel's own text", "reboot=t");
}

#[test]
fn a_guest_that_says_nothing_is_asked_about_its_consoles_first() {
    let silent = |change: fn(&mut VmConfig)| {
        let mut config = config();
        change(&mut config);
        diagnose(&facts(&config, Exit::Silent, "")).unwrap()
    };
    expect(&silent(|c| c.serial = ConsoleTarget::Off), Class::NoConsole, "no console at all", "--serial tty");
    expect(
        &silent(|c| c.boot.cmdline = Some("panic=-1".into())),
        Class::NoConsole,
        "names no console",
        "console=ttyS0",
    );
    expect(
        &silent(|c| {
            c.serial = ConsoleTarget::Off;
            c.console = Some(ConsoleTarget::Tty);
            c.boot.cmdline = Some("console=hvc0".into());
        }),
        Class::NoConsole,
        "virtio_console, as a module",
        "console=ttyS0",
    );
    expect(&silent(|_| {}), Class::NoConsole, "\"quiet\" keeps", "without \"quiet\"");
    expect(
        &silent(|c| c.boot.cmdline = Some("console=ttyS0".into())),
        Class::NoConsole,
        "CONFIG_SERIAL_8250_CONSOLE",
        "earlyprintk=serial,ttyS0",
    );
}

#[test]
fn an_init_that_is_silent_is_not_called_a_hang_of_the_kernel() {
    let config = config();
    let found = diagnose(&facts(&config, Exit::Silent, "[    1.7] Run /init as init process\n")).unwrap();
    expect(&found, Class::Silent, "init says nothing", "--silence 0");
    let found =
        diagnose(&facts(&config, Exit::Silent, "[    0.7] smp: Bringing up secondary CPUs ...\n")).unwrap();
    expect(&found, Class::Silent, "behind the last line", "initcall_debug");
    let facts = Facts { reached: Milestone::ModulesLoaded, ..facts(&config, Exit::Silent, "") };
    expect(&diagnose(&facts).unwrap(), Class::DeviceWait, "waits for a device", "virtio_pci");
}

#[test]
fn a_reset_without_a_panic_is_a_reset() {
    let config = config();
    let found = diagnose(&facts(&config, Exit::Reset, "[    9.0] reboot: Restarting system\n")).unwrap();
    expect(&found, Class::Reset, "asked for a reset", "power off");
    // With panic=-1 and no PVPANIC driver, the reset follows a panic that was printed.
    let found = diagnose(&facts(&config, Exit::Reset, include_str!("samples/no-root.txt"))).unwrap();
    assert_eq!(found.class, Class::NoRoot);
    // Without a console nobody can know.
    let mute = VmConfig { serial: ConsoleTarget::Off, ..config };
    let found = diagnose(&facts(&mute, Exit::Reset, "")).unwrap();
    expect(&found, Class::Reset, "no console at all", "--serial tty");
}

#[test]
fn the_lines_shown_end_with_the_panic_and_not_with_its_registers() {
    let found = panic(include_str!("samples/init-segfault.txt"));
    assert!(found.last.last().unwrap().contains(PANIC), "{found}");
    assert!(found.last.iter().any(|line| line.contains("segfault at 0")), "{found}");
}

#[test]
fn the_diagnosis_prints_phase_lines_cause_and_cure() {
    let text = panic(include_str!("samples/init-exited.txt")).to_string();
    assert!(
        text.starts_with("the guest's kernel panicked (init-died)\n  phase reached: the guest printed"),
        "{text}"
    );
    assert!(text.contains("\n  last console lines:\n    | ["), "{text}");
    assert!(text.contains("\n  likely cause: process 1 exited") && text.contains("\n  cure: "), "{text}");
    assert!(text.lines().filter(|l| l.starts_with("    | ")).count() <= LAST_LINES + 1);
}

#[test]
fn a_telling_line_far_from_the_end_is_shown_too() {
    let mut console = "[    0.6] Initramfs unpacking failed: read error\n".to_owned();
    (0..40).for_each(|i| console.push_str(&format!("[    1.{i:02}] noise\n")));
    let found = panic(&console);
    assert_eq!(found.telling.as_deref(), Some("[    0.6] Initramfs unpacking failed: read error"));
    assert_eq!(found.last.len(), LAST_LINES);
}

#[test]
fn every_class_has_a_name_of_its_own() {
    let names: std::collections::BTreeSet<_> = Class::ALL.iter().map(|c| c.name()).collect();
    assert_eq!(names.len(), Class::ALL.len());
}

proptest::proptest! {
    #[test]
    fn any_output_and_any_end_has_a_diagnosis(
        console in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..400),
        rip in proptest::prelude::any::<Option<u64>>(),
        reached in 0_usize..11,
    ) {
        let config = config();
        for exit in [Exit::Panic, Exit::TripleFault, Exit::Reset, Exit::Silent] {
            let reached = Milestone::ALL[reached];
            let facts = Facts { exit, reached, console: &console, rip, initrd: &console, config: &config };
            let text = diagnose(&facts).unwrap().to_string();
            let escapes = text.contains('\u{1b}');
            proptest::prop_assert!(!escapes);
        }
    }
}
