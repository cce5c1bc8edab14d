//! A vCPU's thread: run the guest, serve its exits, obey the machine.
//!
//! 1. The thread starts parked on its [`Control`] and enters the guest when the machine runs.
//! 2. Each exit goes to one device on one bus, with no lock held but that device's.
//! 3. A kick brings the thread back here; what to do next stands in the [`Control`].
//! 4. The thread ends when the machine has ended, for whatever reason; it never ends the process.

mod control;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use devices::bus::Bus;
use devices::confine::{Call, Confinement};

pub(crate) use control::{Control, Next};

use crate::exit::Exit;
use crate::kvm::{self, Kicker, Vcpu, VmExit};
use crate::report::Milestone;
use crate::running::Failure;

/// The two address spaces of the machine.
#[derive(Clone, Default)]
pub(crate) struct Buses {
    /// Ports.
    pub(crate) pio: Bus,
    /// Memory-mapped registers.
    pub(crate) mmio: Bus,
}

/// The ring of collected port writes is one for all vCPUs, so draining it takes turns.
pub(crate) type CoalescedTurn = Arc<Mutex<()>>;

/// A vCPU with all it needs to run.
pub(crate) struct Runner {
    pub(crate) vcpu: Vcpu,
    /// Whether the guest's registers move memory: a device has a shared memory region.
    pub(crate) moves_memory: bool,
    pub(crate) buses: Buses,
    pub(crate) control: Arc<Control>,
    /// Present where the kernel collects writes to index registers.
    pub(crate) coalesced: Option<CoalescedTurn>,
    /// Counts the returns to this process, where a report is asked for.
    pub(crate) returns: Option<Arc<AtomicU64>>,
}

/// What came of an exit.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Served {
    /// It has been dealt with.
    Done,
    /// The machine cannot go on; where the processor stands is yet to be noted.
    TripleFault,
}

/// Stack of a vCPU's thread: a page or two are used. Smaller than a huge page, or the host would back it by one.
const STACK: usize = 256 << 10;

/// What a vCPU's thread asks of the kernel: what the guest's accesses to registers come to, and no more.
pub(crate) const CALLS: &[Call] = &[
    Call::Only(libc::SYS_ioctl, 1, kvm::VCPU_REQUESTS),
    // A device that is stopped takes its own signal back.
    Call::Any(libc::SYS_read),
    // A vector's signals are looked at while it is masked.
    Call::Any(libc::SYS_poll),
    // A device that starts gets eventfds of its own.
    Call::Any(libc::SYS_eventfd2),
    #[allow(clippy::cast_possible_truncation)] // the kernel reads 32 bits of a command
    Call::Only(libc::SYS_fcntl, 1, &[libc::F_DUPFD_CLOEXEC as u32]),
    // The boot report's counters.
    Call::Any(libc::SYS_pread64),
];

impl Runner {
    /// Starts the thread; it waits for the machine to run.
    pub(crate) fn spawn(self, confinement: &Confinement) -> io::Result<RunningVcpu> {
        let thread = thread::Builder::new().name(format!("vcpu{}", self.vcpu.id())).stack_size(STACK);
        let calls = kvm::with_memory(CALLS, self.moves_memory);
        let thread = confinement.spawn(thread, &calls, move || {
            let mut runner = self;
            // A kick before this is not lost: what it was for is read before the guest is entered.
            runner.vcpu.bind_to_thread();
            runner.run();
        })?;
        let kicker = Kicker::of(&thread);
        Ok(RunningVcpu { thread: Some(thread), kicker })
    }

    fn run(&mut self) {
        let first = self.vcpu.id() == 0;
        if first && self.control.wait_until_running() == Next::Run {
            self.control.recorder().reach(Milestone::FirstEntry);
        }
        while self.control.wait_until_running() == Next::Run {
            match self.step() {
                Ok(()) => {}
                Err(failure) => return self.control.fail(failure),
            }
        }
        if first {
            self.control.set_rip(self.vcpu.rip());
        }
    }

    /// One trip into the guest and what it came back for.
    fn step(&mut self) -> Result<(), Failure> {
        if !self.vcpu.run()? {
            return Ok(());
        }
        if let Some(turn) = &self.coalesced {
            // Collected writes came before what we are back for, so they are served before it.
            drain(&mut self.vcpu, &self.buses, turn);
        }
        if let Some(returns) = &self.returns {
            returns.fetch_add(1, Ordering::Relaxed);
        }
        let served = Self::serve(self.vcpu.exit(), &self.buses, &self.control)?;
        if served == Served::TripleFault {
            self.control.set_rip(self.vcpu.rip());
            self.control.finish(Exit::TripleFault);
        }
        Ok(())
    }

    fn serve(exit: VmExit<'_>, buses: &Buses, control: &Control) -> Result<Served, Failure> {
        match exit {
            VmExit::PortIn { port, size, data } => {
                data.chunks_mut(size).for_each(|element| {
                    buses.pio.read(u64::from(port), element);
                });
            }
            VmExit::PortOut { port, size, data } => {
                data.chunks(size).for_each(|element| {
                    buses.pio.write(u64::from(port), element);
                });
            }
            VmExit::MmioRead { addr, data } => {
                buses.mmio.read(addr, data);
            }
            VmExit::MmioWrite { addr, data } => {
                buses.mmio.write(addr, data);
            }
            VmExit::TripleFault => return Ok(Served::TripleFault),
            VmExit::Halted => control.finish(Exit::Shutdown { guest_status: None }),
            VmExit::Failed { reason, detail } => return Err(Failure::Kvm { reason, detail }),
        }
        Ok(Served::Done)
    }
}

fn drain(vcpu: &mut Vcpu, buses: &Buses, turn: &CoalescedTurn) {
    let _turn = turn.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(write) = vcpu.next_coalesced() {
        let bus = if write.port { &buses.pio } else { &buses.mmio };
        bus.write(write.addr, write.data());
    }
}

/// A vCPU on its thread.
pub(crate) struct RunningVcpu {
    thread: Option<JoinHandle<Option<()>>>,
    kicker: Kicker,
}

impl RunningVcpu {
    /// Brings the vCPU out of the guest, to look at its [`Control`].
    pub(crate) fn kick(&self) {
        if self.thread.as_ref().is_some_and(|t| !t.is_finished()) {
            self.kicker.kick();
        }
    }

    /// Waits for the thread's end; the machine must have ended.
    pub(crate) fn join(&mut self) {
        if let Some(thread) = self.thread.take() {
            // A panic has been reported by the hook already.
            let _ = thread.join();
        }
    }
}
