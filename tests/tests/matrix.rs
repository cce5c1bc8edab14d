//! The matrix of boots: kernels, their forms, transports, processors, memory.
//!
//! `every_cell_boots` takes minutes and is run by `cargo xtask matrix`; the others are the selection that every run
//! of the suite makes: each value of each dimension at least once, and the pairs that have most to do with each other
//! (a packed kernel of each kind, the newest kernel over MMIO, much memory with many processors).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::fmt;
use std::time::Instant;

use tests::TestVm;

#[derive(Clone, Copy)]
struct Cell {
    kernel: &'static str,
    form: &'static str,
    transport: &'static str,
    cpus: u8,
    memory: &'static str,
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, form, transport, cpus, memory } = self;
        write!(f, "{kernel} {form} {transport} {cpus} CPU {memory}")
    }
}

impl Cell {
    /// Boots to the marker: the guest's init runs a command, which finds the processors, the memory and the device.
    fn boot(self) {
        let device = match self.transport {
            "pci" => "/sys/bus/pci/drivers/virtio-pci/*/virtio0",
            _ => "/sys/bus/platform/drivers/virtio-mmio/*/virtio0",
        };
        let script = format!(
            "test $(grep -c ^processor /proc/cpuinfo) = {} && ls -d {device} && \
             awk '/^MemTotal/ {{exit !($2 > {} && $2 <= {})}}' /proc/meminfo",
            self.cpus,
            // A kernel keeps tens of MiB for itself, and a page structure for every page.
            kib(self.memory) / 16 * 15 - kib("56M"),
            kib(self.memory),
        );
        let outcome = TestVm::of(self.kernel)
            .kernel(tests::assets().join(self.kernel).join(self.form))
            .cpus(self.cpus)
            .memory(self.memory)
            .flag("--transport", self.transport)
            .flag("--rng", "on")
            .command(&["sh", "-c", &script])
            .run();
        assert_eq!(outcome.status.code(), Some(0), "{self}: {outcome}");
    }
}

fn kib(memory: &str) -> u64 {
    let (number, unit) = memory.split_at(memory.len() - 1);
    let shift = if unit == "G" { 20 } else { 10 };
    number.parse::<u64>().expect("a number") << shift
}

fn cells() -> Vec<Cell> {
    let mut all = Vec::new();
    for kernel in ["6.1-cloud", "6.1-generic", "6.12-cloud"] {
        for form in ["vmlinux", "vmlinuz"] {
            for transport in ["pci", "mmio"] {
                for cpus in [1, 4] {
                    for memory in ["128M", "2G", "6G"] {
                        all.push(Cell { kernel, form, transport, cpus, memory });
                    }
                }
            }
        }
    }
    all
}

#[test]
#[ignore = "takes minutes: cargo xtask matrix"]
fn every_cell_boots() {
    let only = std::env::var("KIWI_CELLS").unwrap_or_default();
    let chosen: Vec<_> = cells().into_iter().filter(|cell| cell.to_string().contains(&only)).collect();
    assert!(!chosen.is_empty(), "no cell's name contains {only:?}");
    let mut failed = Vec::new();
    for cell in &chosen {
        let start = Instant::now();
        // One bad cell must not hide the others.
        let booted = std::panic::catch_unwind(|| cell.boot()).is_ok();
        println!(
            "{} {cell}: {:.1} s",
            if booted { "ok    " } else { "FAILED" },
            start.elapsed().as_secs_f32()
        );
        if !booted {
            failed.push(cell.to_string());
        }
    }
    println!("{} of {} cells booted", chosen.len() - failed.len(), chosen.len());
    assert!(failed.is_empty(), "did not boot: {failed:?}");
}

#[test]
fn a_generic_kernel_packed_with_xz_boots_over_pci_on_one_processor() {
    Cell { kernel: "6.1-generic", form: "vmlinuz", transport: "pci", cpus: 1, memory: "128M" }.boot();
}

#[test]
fn a_cloud_kernel_packed_with_lz4_boots_over_mmio_on_four_processors() {
    Cell { kernel: "6.1-cloud", form: "vmlinuz", transport: "mmio", cpus: 4, memory: "2G" }.boot();
}

#[test]
fn a_cloud_kernel_as_elf_boots_over_pci_with_memory_above_the_hole() {
    Cell { kernel: "6.1-cloud", form: "vmlinux", transport: "pci", cpus: 4, memory: "6G" }.boot();
}

#[test]
fn a_newer_kernel_packed_with_zstd_boots_over_mmio_with_memory_above_the_hole() {
    Cell { kernel: "6.12-cloud", form: "vmlinuz", transport: "mmio", cpus: 4, memory: "6G" }.boot();
}

#[test]
fn a_generic_kernel_as_elf_boots_over_mmio_on_one_processor() {
    Cell { kernel: "6.1-generic", form: "vmlinux", transport: "mmio", cpus: 1, memory: "2G" }.boot();
}
