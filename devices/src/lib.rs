//! The virtio kernel and the small devices of Kiwi VMM: buses, interrupts, transports, queues.
