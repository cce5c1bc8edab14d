//! The only place that attaches a device to a machine.

use std::sync::{Arc, Mutex};

use devices::addr::AddrRange;
use devices::bus::SharedDevice;
use devices::legacy::ports;

use crate::acpi::Described;
use crate::builder::BuildError;
use crate::config::{Transport, VmConfig};
use crate::kvm::Vm;
use crate::vcpu::{Buses, Control};

/// Index registers: writing one means nothing until its data register is touched.
pub(crate) const COALESCED: [u16; 1] = [ports::RTC];

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
        eprintln!("port +{offset:#x} <- {data:x?}");
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
    let irq = lines.edge(devices::addr::Gsi(4)).map_err(BuildError::host("x"))?;
    let put = |base, len, d: SharedDevice| buses.pio.insert(AddrRange::new(base, len).expect("r"), d);
    put(0x3f8, 8, Arc::new(Mutex::new(Com1(vm_superio::Serial::new(Trig(irq), std::io::stdout())))))?;
    put(0x600, 16, Arc::new(Mutex::new(Power(control.clone()))))?;
    Ok(())
}
