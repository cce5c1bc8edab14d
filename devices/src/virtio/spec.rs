//! Numbers of the VIRTIO 1.3 specification, by section.

/// Device ids (5).
pub mod device {
    /// 5.1
    pub const NET: u32 = 1;
    /// 5.2
    pub const BLOCK: u32 = 2;
    /// 5.3
    pub const CONSOLE: u32 = 3;
    /// 5.4
    pub const ENTROPY: u32 = 4;
    /// 5.5
    pub const BALLOON: u32 = 5;
    /// 5.10
    pub const VSOCK: u32 = 19;
    /// 5.11
    pub const FS: u32 = 26;
}

/// Device status bits (2.1).
pub mod status {
    /// The guest has found the device.
    pub const ACKNOWLEDGE: u8 = 1;
    /// The guest knows how to drive it.
    pub const DRIVER: u8 = 2;
    /// The driver is ready: queues are live.
    pub const DRIVER_OK: u8 = 4;
    /// Feature negotiation is complete.
    pub const FEATURES_OK: u8 = 8;
    /// The device has met an error it cannot recover from.
    pub const DEVICE_NEEDS_RESET: u8 = 64;
    /// The guest has given up on the device.
    pub const FAILED: u8 = 128;
}

/// Feature bits that belong to rings and transports (6).
pub mod feature {
    /// Chains may be tables of their own.
    pub const RING_INDIRECT_DESC: u32 = 28;
    /// Notifications are suppressed by index.
    pub const RING_EVENT_IDX: u32 = 29;
    /// The device follows version 1 of the specification.
    pub const VERSION_1: u32 = 32;
    /// The guest's addresses for the device are translated; without it they are guest-physical.
    pub const ACCESS_PLATFORM: u32 = 33;

    /// What every device of ours offers beside its own features.
    pub const COMMON: u64 = 1 << VERSION_1 | 1 << RING_EVENT_IDX | 1 << RING_INDIRECT_DESC;
}

/// Available ring flag (2.7.7): the driver wants no interrupt.
pub const AVAIL_NO_INTERRUPT: u16 = 1;

/// Largest queue (2.7).
pub const MAX_QUEUE_SIZE: u16 = 32768;
