//! Builds the guest image: kernel, modules, initrd.
