//! Building a machine, step by step, from its configuration.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, Scope, ScopedJoinHandle};

use devices::virtio::VirtioDevice;
use devices::virtio::block::DiskError;
use kvm_ioctls::Kvm;

use crate::acpi;
use crate::arch::{cpuid, layout, regs};
use crate::boot::{self, BootError, BootFiles, Booted, cmdline};
use crate::config::VmConfig;
use crate::kvm::{self, KvmError, StatsReader, Vcpu, Vm};
use crate::machine::{Kept, Machine};
use crate::ram::{self, RamError};
use crate::report::{Counters, Milestone, Recorder, TO_USERSPACE};
use crate::smbios;
use crate::vcpu::{Buses, Control, Runner};

/// Why a machine could not be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A boot file is missing or no good.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// KVM is missing or refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// The host has no memory to give.
    #[error(transparent)]
    Ram(#[from] RamError),
    /// The host refused something small.
    #[error("the host refused to {what}: {source}")]
    Host {
        /// What was being done, as a verb phrase.
        what: &'static str,
        /// What the host answered.
        source: std::io::Error,
    },
    /// A file that a device needs cannot be opened.
    #[error("{what} {path} cannot be opened: {source}")]
    Open {
        /// What it is for.
        what: &'static str,
        /// Which one.
        path: PathBuf,
        /// What the host answered.
        source: std::io::Error,
    },
    /// More devices than there is room for.
    #[error("a machine has room for 31 virtio devices over PCI and for 23 over MMIO; this one has more")]
    Slots,
    /// Shared memory regions that are too long.
    #[error(
        "the windows for DAX of this machine's shares do not fit, each at a multiple of its length, into the 64 GiB of \
         addresses that there are for them; start their daemons with smaller ones"
    )]
    Regions,
    /// A console's backend is not to be had.
    #[error(transparent)]
    Console(#[from] devices::chardev::ChardevError),
    /// A descriptor that was to be inherited is not there.
    #[error(transparent)]
    Inherit(#[from] crate::inherit::InheritError),
    /// There is no tap to be had.
    #[error(transparent)]
    Tap(#[from] virtio_net::TapError),
    /// There is no network device on it.
    #[error(transparent)]
    Net(#[from] virtio_net::NetError),
    /// There is no socket device to be had.
    #[error(transparent)]
    Vsock(#[from] vsock::VsockError),
    /// A disk is none, or not to be had.
    #[error("the disk {name} cannot be used: {why}")]
    Disk {
        /// Its path or descriptor.
        name: String,
        /// What is wrong with it.
        why: DiskError,
    },
    /// A directory cannot be shared.
    #[error(transparent)]
    Fs(#[from] virtio_fs::device::FsError),
    /// Two devices want one address: a bug of ours.
    #[error(transparent)]
    Bus(#[from] devices::bus::BusError),
}

impl BuildError {
    pub(crate) fn host(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Host { what, source }
    }
}

/// Makes a [`Machine`] from a configuration.
pub struct VmBuilder {
    config: VmConfig,
    attached: Vec<Box<dyn VirtioDevice>>,
    recorder: Recorder,
}

impl From<VmConfig> for VmBuilder {
    fn from(config: VmConfig) -> Self {
        Self { config, attached: Vec::new(), recorder: Recorder::off() }
    }
}

impl VmBuilder {
    /// Has `recorder` told how far the boot comes, and what it costs.
    pub fn record(self, recorder: &Recorder) -> Self {
        Self { recorder: recorder.clone(), ..self }
    }

    /// Attaches a virtio device of the caller's own, behind those of the configuration.
    pub fn attach(mut self, device: Box<dyn VirtioDevice>) -> Self {
        self.attached.push(device);
        self
    }

    /// Builds and wires the machine; nothing of the guest has run when it returns.
    pub fn build(self) -> Result<Machine, BuildError> {
        let Self { config, attached, recorder } = self;
        let files = open_files(&config)?;
        let kvm = kvm::open()?;
        let (ram, mapping) = ram::map(&config.ram())?;
        let (vm, Booted { entry, .. }) = thread::scope(|scope| {
            let vm = start_creating(scope, &kvm)?;
            let booted = boot::load(&ram, config.memory.size, &files)?;
            recorder.add_copied(booted.copied);
            recorder.reach(Milestone::KernelLoaded);
            Ok::<_, BuildError>((finished(vm)?, booted))
        })?;
        // Memory before the interrupt controllers: with an APIC present every slot change waits for readers.
        vm.map_ram(&ram)?;
        recorder.reach(Milestone::VmCreated);
        let pins = crate::plug::pins(&config, attached.len())?;
        vm.split_irqchip(pins)?;
        vm.set_tss_address(layout::TSS)?;
        vm.forbid_counters();
        let control = Arc::new(Control::new(recorder.clone()).map_err(BuildError::host("make an eventfd"))?);
        let buses = Buses::default();
        let plugged = crate::plug::attach(&config, attached, (&vm, &ram), &buses, &control)?;
        acpi::write(&ram, &plugged.described).map_err(BootError::Memory)?;
        smbios::write(&ram).map_err(BootError::Memory)?;
        let vcpus = vcpus(&kvm, &vm, config.cpus.boot, entry)?;
        let coalesced = crate::plug::coalesce(&vm);
        let coalesced = coalesced.then(|| Arc::new(Mutex::new(())));
        let returns = recorder.is_on().then(Arc::default);
        let runners: Vec<_> = vcpus
            .into_iter()
            .map(|mut vcpu| Runner {
                returns: returns.clone(),
                coalesced: coalesced.clone().filter(|_| vcpu.map_coalesced()),
                vcpu,
                moves_memory: !plugged.regions.is_empty(),
                buses: buses.clone(),
                control: control.clone(),
            })
            .collect();
        if let Some(returns) = returns {
            count(&recorder, &runners, returns);
        }
        recorder.reach(Milestone::VcpusReady);
        let confinement = crate::seccomp::confinement(config.seccomp);
        let kept = Kept {
            consoles: plugged.consoles,
            _raw: plugged.raw,
            regions: plugged.regions,
            config,
            _buses: buses,
            _vm: vm,
            _ram: ram,
            mapping,
        };
        Ok(Machine { runners, control, confinement, kept })
    }
}

/// Stack of the thread that creates the machine. Smaller than a huge page, or the host would back it by one.
const STACK: usize = 64 << 10;

/// Starts creating the machine in a thread of its own: the host's kernel is busy with it for a few microseconds and
/// then waits some ten milliseconds for a grace period of its RCU (a thread of the machine's joins our cgroup).
fn start_creating<'scope>(
    scope: &'scope Scope<'scope, '_>,
    kvm: &'scope Kvm,
) -> Result<ScopedJoinHandle<'scope, Result<Vm, KvmError>>, BuildError> {
    let thread = thread::Builder::new()
        .stack_size(STACK)
        .spawn_scoped(scope, || Vm::new(kvm))
        .map_err(BuildError::host("start a thread"))?;
    // On a host with no idle processor it would not run before this thread's time slice is over.
    thread::yield_now();
    Ok(thread)
}

fn finished<T>(thread: ScopedJoinHandle<'_, Result<T, KvmError>>) -> Result<T, KvmError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Has the recorder read each vCPU's counters, and the returns to this process beside them.
fn count(recorder: &Recorder, runners: &[Runner], returns: Arc<AtomicU64>) {
    let vcpus: Vec<_> = runners.iter().filter_map(|r| r.vcpu.stats()).collect();
    recorder.count_with(move || {
        let mut sum = Counters::new();
        for (name, number) in vcpus.iter().flat_map(StatsReader::read) {
            *sum.entry(name).or_default() += number;
        }
        sum.insert(TO_USERSPACE.to_owned(), returns.load(Ordering::Relaxed));
        sum
    });
}

fn open_files(config: &VmConfig) -> Result<BootFiles, BuildError> {
    let (kernel, given) = (open_kernel(&config.boot.kernel)?, config.boot.kernel.clone());
    let open = |what, path: &Path| -> Result<(File, PathBuf), BuildError> {
        File::open(path)
            .map(|f| (f, path.to_owned()))
            .map_err(|source| BootError::Read { what, path: path.to_owned(), source }.into())
    };
    Ok(BootFiles {
        kernel: (kernel, given),
        initrd: config.boot.initrd.as_deref().map(|p| open("initrd", p)).transpose()?,
        cmdline: config.boot.cmdline.clone().unwrap_or_else(|| cmdline::DEFAULT.to_owned()),
    })
}

/// The kernel as an ELF file: itself, or its payload unpacked once and kept; a payload that only the kernel itself
/// can unpack is booted as it is.
fn open_kernel(path: &Path) -> Result<File, BuildError> {
    let cache = guest_kernel::Cache::open_default().unwrap_or_else(|why| {
        tracing::warn!("unpacked kernels are not kept: {why}");
        guest_kernel::Cache::none()
    });
    match cache.vmlinux(path) {
        Ok(vmlinux) => Ok(vmlinux.file),
        Err(why) if why.is_fallback() => {
            tracing::warn!("the guest unpacks its kernel itself: {why}");
            File::open(path)
                .map_err(|source| BootError::Read { what: "kernel", path: path.to_owned(), source }.into())
        }
        Err(why) => Err(BootError::Unpack(why).into()),
    }
}

fn vcpus(kvm: &Kvm, vm: &Vm, count: u8, entry: regs::Entry) -> Result<Vec<Vcpu>, BuildError> {
    let supported = kvm
        .get_supported_cpuid(kvm_bindings::KVM_MAX_CPUID_ENTRIES)
        .map_err(KvmError::call("list the CPUID it supports"))?;
    let tsc_deadline = kvm.check_extension(kvm_ioctls::Cap::TscDeadlineTimer);
    (0..count)
        .map(|id| {
            let vcpu = vm.create_vcpu(id)?;
            let facts = cpuid::Facts { cpus: count, tsc_deadline, tsc_khz: vcpu.tsc_khz() };
            let table = cpuid::filter(&supported, id, facts)
                .map_err(|_| KvmError::Lacks("room for this processor's CPUID"))?;
            vcpu.set_cpuid(&table)?;
            if id == 0 {
                // The others wait for the first one's INIT and SIPI, in the state reset leaves them in.
                vcpu.edit_sregs(|sregs| {
                    regs::set_sregs(sregs);
                    regs::enable_x2apic(sregs);
                })?;
                vcpu.set_regs(&regs::regs(entry))?;
            }
            if let Some(msrs) = regs::boot_msrs() {
                vcpu.set_msrs(&msrs)?;
            }
            Ok(vcpu)
        })
        .collect()
}
