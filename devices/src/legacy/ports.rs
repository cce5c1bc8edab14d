//! The PC's own part of the port map: every port that means something, and the values that do.
//!
//! All of these lie below 0x1000, where no PCI window is ever put; the window is in vmm/src/arch/layout.rs.

/// COM1, eight registers.
pub const COM1: u16 = 0x3f8;
/// Keyboard controller data port.
pub const I8042_DATA: u16 = 0x60;
/// Keyboard controller command and status port; writing 0xfe pulses the reset line.
pub const I8042_COMMAND: u16 = 0x64;
/// CMOS RTC index; its data port follows.
pub const RTC: u16 = 0x70;
/// PVPANIC (QEMU docs/specs/pvpanic): one byte of events.
pub const PVPANIC: u16 = 0x505;
/// ACPI sleep control register (ACPI 6.5, 4.8.3.7).
pub const SLEEP_CONTROL: u16 = 0x600;
/// ACPI sleep status register.
pub const SLEEP_STATUS: u16 = 0x601;
/// FADT reset register.
pub const RESET: u16 = 0x602;
/// What resets when written to [`RESET`].
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of the S5 (soft off) state.
pub const SLEEP_TYPE_OFF: u8 = 5;
/// Boot marks: the guest's init writes a phase number here.
pub const BOOT_MARK: u16 = 0x608;
/// The guest's init writes its command's exit status here before powering off.
pub const GUEST_STATUS: u16 = 0x60c;
/// PCI configuration mechanism #1: address, then data at +4.
pub const PCI_CONFIG: u16 = 0xcf8;
