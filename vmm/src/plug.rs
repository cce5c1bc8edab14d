//! The only place that attaches a device to a machine.

use std::sync::{Arc, Mutex};

use devices::addr::AddrRange;
use devices::bus::SharedDevice;
use devices::legacy::ports;

use kvm_ioctls::IoEventAddress;

use crate::acpi::Described;
use crate::arch::layout;
use crate::builder::BuildError;
use crate::config::{Transport, VmConfig};
use crate::kvm::Vm;
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

/// Interrupt pins the machine needs.
pub(crate) fn pins(_config: &VmConfig) -> u8 {
    1
}

/// Attaches all of `config`'s devices; returns what the tables shall say about them.
pub(crate) fn attach(
    config: &VmConfig,
    vm: &Vm,
    buses: &Buses,
    control: &Arc<Control>,
) -> Result<Described, BuildError> {
    interim(vm, buses, control)?;
    Ok(Described {
        cpus: config.cpus.boot,
        pci: config.transport == Transport::Pci,
        ram_size: config.memory.size,
        serial: true,
        virtio_mmio: Vec::new(),
    })
}

// INTERIM until devices::legacy lands
struct Com1(vm_superio::Serial<Trig, vm_superio::serial::NoEvents, std::io::Stdout>);
struct Trig(devices::interrupt::Interrupt);
impl vm_superio::Trigger for Trig {
    type E = std::io::Error;
    fn trigger(&self) -> Result<(), Self::E> {
        self.0.raise();
        Ok(())
    }
}
impl devices::bus::BusDevice for Com1 {
    fn read(&mut self, offset: u64, out: &mut [u8]) {
        out[0] = self.0.read(offset as u8);
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        let _ = self.0.write(offset as u8, data[0]);
    }
}
struct Power(Arc<Control>);
impl devices::bus::BusDevice for Power {
    fn read(&mut self, _o: u64, out: &mut [u8]) {
        out.fill(0);
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 {
            self.0.finish(crate::exit::Exit::Shutdown { guest_status: None });
        }
        if offset == 2 {
            self.0.finish(crate::exit::Exit::Reset);
        }
    }
}
pub(crate) fn interim(vm: &Vm, buses: &Buses, control: &Arc<Control>) -> Result<(), BuildError> {
    let lines = crate::kvm::IrqLines::new(vm);
    let ioapic = devices::legacy::ioapic::IoApic::new(1, &lines).map_err(BuildError::host("x"))?;
    let irq = ioapic.interrupt(devices::addr::Gsi(0)).map_err(BuildError::host("x"))?;
    buses
        .mmio
        .insert(AddrRange::new(u64::from(layout::IOAPIC), 0x20).expect("r"), Arc::new(Mutex::new(ioapic)))?;
    buses.pio.insert(AddrRange::new(0xcf8, 8).expect("r"), Arc::new(Mutex::new(Conf1(0))))?;
    let put = |base, len, d: SharedDevice| buses.pio.insert(AddrRange::new(base, len).expect("r"), d);
    put(0x3f8, 8, Arc::new(Mutex::new(Com1(vm_superio::Serial::new(Trig(irq), std::io::stdout())))))?;
    put(0x70, 2, Arc::new(Mutex::new(Cmos(0))))?;
    put(0x600, 16, Arc::new(Mutex::new(Power(control.clone()))))?;
    Ok(())
}
struct Cmos(u8);
impl devices::bus::BusDevice for Cmos {
    fn read(&mut self, _o: u64, out: &mut [u8]) {
        out[0] = match self.0 & 0x7f {
            0x0a => 0x26,
            0x0b => 2,
            0x0d => 0x80,
            7 | 8 => 1,
            9 => 0x26,
            0x32 => 0x20,
            _ => 0,
        };
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 {
            self.0 = data[0];
        }
    }
}

struct Conf1(u32);
impl devices::bus::BusDevice for Conf1 {
    fn read(&mut self, o: u64, out: &mut [u8]) {
        let v = if o < 4 {
            self.0
        } else if self.0 & 0x00ff_ff00 == 0 {
            match self.0 & 0xfc {
                0 => 0x0d57_1b36,
                8 => 0x0600_0000,
                _ => 0,
            }
        } else {
            !0
        };
        let b = v.to_le_bytes();
        for (i, x) in out.iter_mut().enumerate() {
            *x = b[(o as usize % 4 + i) % 4];
        }
    }
    fn write(&mut self, offset: u64, data: &[u8]) {
        if offset == 0 && data.len() == 4 {
            self.0 = u32::from_le_bytes(data.try_into().unwrap());
        }
    }
}
