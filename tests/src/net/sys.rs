//! A queue of a tap as a launcher opens it.
#![allow(unsafe_code)] // ioctls

use std::fs::File;
use std::os::fd::AsRawFd;

use libc::c_int;

nix::ioctl_write_ptr!(set_iff, b'T', 202, c_int);
nix::ioctl_write_ptr!(set_header_size, b'T', 216, c_int);
nix::ioctl_write_int!(set_offload, b'T', 208);

/// A queue of the many of tap `name`, with the header of before virtio 1 and all offloads.
pub(super) fn queue(name: &str) -> nix::Result<File> {
    let tun = File::options().read(true).write(true).open("/dev/net/tun").expect("the host has taps");
    // SAFETY: all zeros are an empty name and a union of numbers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from.cast_signed());
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR | libc::IFF_MULTI_QUEUE;
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("16 bits");
    // SAFETY: the kernel's request is a whole ifreq, whatever size its number tells.
    unsafe { set_iff(tun.as_raw_fd(), (&raw const request).cast()) }?;
    // SAFETY: the number outlives the call.
    unsafe { set_header_size(tun.as_raw_fd(), &10) }?;
    // SAFETY: the argument is a number.
    unsafe { set_offload(tun.as_raw_fd(), 0x0f) }?;
    Ok(tun)
}
