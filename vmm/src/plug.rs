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
use devices::memory::GuestRam;
use devices::pci::ports::ConfigPorts;
use devices::pci::root::Root;
use devices::virtio::VirtioDevice;
use devices::virtio::transport::Host;
use devices::virtio::transport::mmio::MmioTransport;
use devices::virtio::transport::pci::PciTransport;
use kvm_ioctls::IoEventAddress;
use vm_memory::GuestMemoryMmap;

use crate::acpi::Described;
use crate::arch::layout;
use crate::builder::BuildError;
use crate::config::{ConsoleTarget, Transport, VmConfig};
use crate::exit::Exit;
use crate::kvm::{IrqLines, Vm};
use crate::registry;
use crate::report::Milestone;
use crate::slots::{self, Slots};
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

/// Interrupt pins the machine needs: COM1's, and over MMIO one for each virtio device. Over PCI interrupts are
/// messages, which need none.
pub(crate) fn pins(config: &VmConfig, attached: usize) -> Result<u8, BuildError> {
    let virtio = match config.transport {
        Transport::Pci => 0,
        Transport::Mmio => registry::count(config) + attached,
    };
    u8::try_from(1 + virtio).ok().filter(|pins| *pins <= slots::PINS).ok_or(BuildError::Slots)
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
    /// What devices show the guest beside its memory: where it is in this process.
    pub(crate) regions: Vec<std::ops::Range<u64>>,
}

/// What a device is attached to.
pub(crate) struct Plug<'a> {
    buses: &'a Buses,
    control: &'a Arc<Control>,
    /// Starts the devices' threads.
    pub(crate) confinement: Confinement,
    lines: IrqLines,
    ioapic: IoApic,
    root: Root,
    host: Host,
    slots: Slots,
    plugged: Plugged,
}

/// Attaches all of `config`'s devices, and those `attached` beside them.
pub(crate) fn attach(
    config: &VmConfig,
    attached: Vec<Box<dyn VirtioDevice>>,
    (vm, ram): (&Vm, &GuestMemoryMmap),
    buses: &Buses,
    control: &Arc<Control>,
) -> Result<Plugged, BuildError> {
    let lines = IrqLines::new(vm);
    let pins = pins(config, attached.len())?;
    let ioapic = IoApic::new(pins, &lines).map_err(BuildError::host("make interrupt lines"))?;
    let described = Described {
        cpus: config.cpus.boot,
        pci: false,
        ram_size: config.memory.size,
        serial: config.serial != ConsoleTarget::Off,
        virtio_mmio: Vec::new(),
    };
    let mut plug = Plug {
        buses,
        control,
        confinement: crate::seccomp::confinement(config.seccomp),
        lines,
        ioapic,
        root: Root::new(&buses.mmio, &buses.pio),
        host: Host {
            ram: GuestRam::new(ram.clone()),
            doorbells: Arc::new(vm.clone()),
            regions: Arc::new(vm.clone()),
        },
        slots: Slots::default(),
        plugged: Plugged { described, consoles: Vec::new(), raw: None, regions: Vec::new() },
    };
    plug.legacy()?;
    plug.serial(&config.serial)?;
    let devices: Vec<_> = registry::make(config, &mut plug)?.into_iter().chain(attached).collect();
    let regions = plug.regions(&devices)?;
    for (device, region) in devices.into_iter().zip(regions) {
        plug.virtio(device, config.transport, region)?;
    }
    plug.finish()
}

fn share(device: impl BusDevice + 'static) -> SharedDevice {
    Arc::new(Mutex::new(device))
}

fn put(bus: &Bus, at: (u64, u64), device: SharedDevice) -> Result<(), BuildError> {
    // A range of our own layout exists; were it empty there would be nothing to attach.
    AddrRange::new(at.0, at.1).map_or(Ok(()), |range| Ok(bus.insert(range, device)?))
}

impl Plug<'_> {
    /// Puts a virtio device where a guest finds it.
    fn virtio(
        &mut self,
        device: Box<dyn VirtioDevice>,
        transport: Transport,
        region: Option<u64>,
    ) -> Result<(), BuildError> {
        match transport {
            Transport::Pci => self.pci(device, region),
            Transport::Mmio => self.mmio(device, region),
        }
    }

    /// Where each of `devices` shows what it has of shared memory.
    fn regions(&mut self, devices: &[Box<dyn VirtioDevice>]) -> Result<Vec<Option<u64>>, BuildError> {
        let regions: Vec<_> = devices.iter().map(|device| device.shared_memory()).collect();
        self.plugged.regions = regions.iter().flatten().map(|region| region.addresses()).collect();
        let lengths: Vec<_> = regions.iter().flatten().map(|region| region.len()).collect();
        let places = slots::regions(self.plugged.described.ram_size, &lengths);
        let mut places = places.ok_or(BuildError::Regions)?.into_iter();
        Ok(regions.iter().map(|region| region.as_ref().and_then(|_| places.next())).collect())
    }

    fn pci(&mut self, device: Box<dyn VirtioDevice>, region: Option<u64>) -> Result<(), BuildError> {
        let (memory, ports) = self.slots.function().ok_or(BuildError::Slots)?;
        let function = PciTransport::new(device, self.host.clone(), (memory, ports, region), &self.lines)
            .map_err(BuildError::host("make a PCI function's interrupts"))?;
        self.root.plug(function)?.ok_or(BuildError::Slots)?;
        Ok(())
    }

    fn mmio(&mut self, device: Box<dyn VirtioDevice>, region: Option<u64>) -> Result<(), BuildError> {
        let (base, gsi) = self.slots.mmio().ok_or(BuildError::Slots)?;
        let pin = Gsi(gsi - layout::GSI_BASE);
        let interrupt =
            if device.lends() { self.ioapic.lent_interrupt(pin) } else { self.ioapic.interrupt(pin) };
        let interrupt = interrupt.map_err(BuildError::host("share an interrupt"))?;
        let transport = MmioTransport::new(device, self.host.clone(), (base.into(), region), interrupt);
        put(&self.buses.mmio, (base.into(), layout::VIRTIO_MMIO_STRIDE), share(transport))?;
        self.plugged.described.virtio_mmio.push((base, gsi));
        Ok(())
    }

    /// Puts what the devices are attached to on the buses themselves.
    fn finish(self) -> Result<Plugged, BuildError> {
        let Self { ioapic, root, mut plugged, buses, .. } = self;
        put(&buses.mmio, (layout::IOAPIC.into(), 0x20), share(ioapic))?;
        // Without a function there is no bus: a kernel that is told of one looks at all its 32 places.
        plugged.described.pci = !root.is_empty();
        let root = share(root);
        if plugged.described.pci {
            put(&buses.mmio, layout::ECAM, root.clone())?;
        }
        // The ports answer all the same: a kernel that finds none complains aloud, byte by byte over COM1.
        put(&buses.pio, (ports::PCI_CONFIG.into(), 8), share(ConfigPorts::new(root)))?;
        Ok(plugged)
    }

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
        self.carry(chardev, "serial")
    }

    /// The open backend of a console; `None` for [`ConsoleTarget::Off`].
    pub(crate) fn chardev(&mut self, target: &ConsoleTarget) -> Result<Option<Chardev>, BuildError> {
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

    /// Has `chardev` carry bytes from now on, in a thread called `name`.
    pub(crate) fn carry(&mut self, chardev: Chardev, name: &str) -> Result<(), BuildError> {
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
