//! The only place that attaches a device to a machine.

use std::sync::{Arc, Mutex};

use devices::addr::{AddrRange, Gsi};
use devices::bus::{Bus, BusDevice, SharedDevice};
use devices::chardev::{Chardev, Pump, Tail, Target};
use devices::confine::Confinement;
use devices::legacy::boot_mark::BytePort;
use devices::legacy::i8042::I8042;
use devices::legacy::ioapic::IoApic;
use devices::legacy::power::Power;
use devices::legacy::pvpanic::PvPanic;
use devices::legacy::rtc::Rtc;
use devices::legacy::serial::SerialPort;
use devices::legacy::{EventSink, GuestEvent, ports};
use kvm_ioctls::IoEventAddress;

use crate::acpi::Described;
use crate::arch::layout;
use crate::builder::BuildError;
use crate::config::{ConsoleTarget, Transport, VmConfig};
use crate::exit::Exit;
use crate::kvm::{IrqLines, Vm};
use crate::report::Milestone;
use crate::terminal::Raw;
use crate::vcpu::{Buses, Control};

/// Index registers: writing one means nothing until its data register is touched.
const INDEX_REGISTERS: [(IoEventAddress, u32); 3] = [
    (IoEventAddress::Pio(ports::RTC as u64), 1),
    (IoEventAddress::Pio(ports::PCI_CONFIG as u64), 4),
    (IoEventAddress::Mmio(layout::IOAPIC as u64), 4),
];

/// Has the kernel collect the writes to [`INDEX_REGISTERS`]; true if any are.
pub(crate) fn coalesce(vm: &Vm) -> bool {
    // Not any(): every one is to be registered.
    INDEX_REGISTERS.iter().filter(|(at, len)| vm.coalesce(*at, *len)).count() > 0
}

/// Interrupt pins the machine needs: COM1's.
pub(crate) fn pins(_config: &VmConfig) -> u8 {
    1
}

/// A console of the machine.
pub(crate) struct Console {
    /// What the guest said last.
    pub(crate) tail: Tail,
    /// The thread that carries its bytes, where there is one.
    pub(crate) _pump: Option<Pump>,
}

/// What attaching came to.
pub(crate) struct Plugged {
    /// What the tables shall say.
    pub(crate) described: Described,
    pub(crate) consoles: Vec<Console>,
    /// Present while a console has the terminal.
    pub(crate) raw: Option<Raw>,
}

struct Plug<'a> {
    buses: &'a Buses,
    control: &'a Arc<Control>,
    /// Starts the devices' threads.
    confinement: Confinement,
    ioapic: IoApic,
    plugged: Plugged,
}

/// Attaches all of `config`'s devices.
pub(crate) fn attach(
    config: &VmConfig,
    vm: &Vm,
    buses: &Buses,
    control: &Arc<Control>,
) -> Result<Plugged, BuildError> {
    let lines = IrqLines::new(vm);
    let ioapic = IoApic::new(pins(config), &lines).map_err(BuildError::host("make interrupt lines"))?;
    let described = Described {
        cpus: config.cpus.boot,
        pci: config.transport == Transport::Pci,
        ram_size: config.memory.size,
        serial: config.serial != ConsoleTarget::Off,
        virtio_mmio: Vec::new(),
    };
    let confinement = crate::seccomp::confinement(config.seccomp);
    let plugged = Plugged { described, consoles: Vec::new(), raw: None };
    let mut plug = Plug { buses, control, confinement, ioapic, plugged };
    plug.legacy()?;
    plug.serial(&config.serial)?;
    let Plug { ioapic, plugged, .. } = plug;
    put(&buses.mmio, (layout::IOAPIC.into(), 0x20), share(ioapic))?;
    Ok(plugged)
}

fn share(device: impl BusDevice + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn put(bus: &Bus, at: (u64, u64), device: SharedDevice) -> Result<(), BuildError> {
    // A range of our own layout exists; were it empty there would be nothing to attach.
    AddrRange::new(at.0, at.1).map_or(Ok(()), |range| Ok(bus.insert(range, device)?))
}

impl Plug<'_> {
    fn port(&self, port: u16, len: u64, device: impl BusDevice + 'static) -> Result<(), BuildError> {
        put(&self.buses.pio, (port.into(), len), share(device))
    }

    /// The devices every machine has.
    fn legacy(&self) -> Result<(), BuildError> {
        let sink = sink(self.control.clone());
        self.port(ports::I8042_DATA, 5, I8042::new(sink.clone()))?;
        self.port(ports::RTC, 2, Rtc::default())?;
        self.port(ports::PVPANIC, 1, PvPanic::new(sink.clone()))?;
        self.port(ports::SLEEP_CONTROL, 3, Power::new(sink.clone()))?;
        self.port(ports::BOOT_MARK, 1, BytePort::marks(sink.clone()))?;
        self.port(ports::GUEST_STATUS, 1, BytePort::status(sink))
    }

    fn serial(&mut self, target: &ConsoleTarget) -> Result<(), BuildError> {
        let Some(chardev) = self.chardev(target)? else { return Ok(()) };
        let pin = Gsi(layout::COM1_GSI - layout::GSI_BASE);
        let interrupt = self.ioapic.interrupt(pin).map_err(BuildError::host("share an interrupt"))?;
        let port = SerialPort::attach(&chardev, interrupt);
        put(&self.buses.pio, (ports::COM1.into(), 8), port)?;
        self.start(chardev, "serial")
    }

    /// The open backend of a console; `None` for [`ConsoleTarget::Off`].
    fn chardev(&mut self, target: &ConsoleTarget) -> Result<Option<Chardev>, BuildError> {
        let mut chardev = Chardev::new(match target {
            ConsoleTarget::Off => return Ok(None),
            ConsoleTarget::Null => Target::Null,
            ConsoleTarget::Tty | ConsoleTarget::Stdio => Target::stdio()?,
            ConsoleTarget::File(path) => Target::file(path)?,
            ConsoleTarget::Pty => Target::pty()?,
            ConsoleTarget::Socket(path) => Target::socket(path)?,
        })?;
        if *target == ConsoleTarget::Tty {
            self.plugged.raw = Raw::enter();
            let control = self.control.clone();
            chardev.on_escape(move || control.finish(Exit::Stopped));
        }
        let control = self.control.clone();
        chardev.on_first_output(move || control.recorder().reach(Milestone::FirstConsoleByte));
        if let Some(path) = chardev.pty() {
            tracing::warn!("a console of the guest is at {}", path.display());
        }
        Ok(Some(chardev))
    }

    fn start(&mut self, chardev: Chardev, name: &str) -> Result<(), BuildError> {
        let tail = chardev.tail();
        self.plugged.consoles.push(Console { tail, _pump: chardev.start(name, &self.confinement)? });
        Ok(())
    }
}

/// What becomes of a guest's word about itself.
fn sink(control: Arc<Control>) -> EventSink {
    Arc::new(move |event| match event {
        GuestEvent::PowerOff => control.finish(Exit::Shutdown { guest_status: None }),
        GuestEvent::Reset => control.finish(Exit::Reset),
        GuestEvent::Panicked => control.finish(Exit::Panic),
        GuestEvent::CrashLoaded => tracing::warn!("the guest's kernel panicked; its crash kernel takes over"),
        GuestEvent::Mark(mark) => control.set_mark(mark),
        GuestEvent::Status(status) => control.set_guest_status(status),
    })
}
