//! System calls that no library makes for us: a tap's requests, and packets to and from guest memory.
#![allow(unsafe_code)] // ioctls and vectored input and output

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;

use libc::{c_int, c_ulong, ifreq, iovec};
use vm_memory::VolatileSlice;
use vmm_sys_util::ioctl::{
    _IOC_READ, _IOC_WRITE, ioctl_expr, ioctl_with_mut_ref, ioctl_with_ref, ioctl_with_val,
};

/// The type of a tap's requests (linux/if_tun.h).
const TUN: u32 = 0x54;

const fn request(direction: u32, number: u32) -> u32 {
    #[allow(clippy::cast_possible_truncation)] // four bytes, and 32 bits
    {
        ioctl_expr(direction, TUN, number, size_of::<c_int>() as u32) as u32
    }
}

const SET_IFF: u32 = request(_IOC_WRITE, 202);
const SET_HEADER_SIZE: u32 = request(_IOC_WRITE, 216);
/// Which offloads the other side takes.
pub(crate) const SET_OFFLOAD: u32 = request(_IOC_WRITE, 208);
/// Name and flags.
pub(crate) const GET_IFF: u32 = request(_IOC_READ, 210);
/// Whether a queue takes part.
pub(crate) const SET_QUEUE: u32 = request(_IOC_WRITE, 217);

/// More pieces than that no call takes (UIO_MAXIOV).
pub(crate) const PIECES: usize = 1024;

fn done(status: c_int) -> io::Result<()> {
    if status < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A request about the interface `name`; a name that is too long is cut, so callers look before.
fn about(name: &str) -> ifreq {
    // SAFETY: all zeros are a name that is empty and a union of numbers.
    let mut request: ifreq = unsafe { std::mem::zeroed() };
    #[allow(clippy::cast_possible_wrap)] // the kernel's characters are bytes
    request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(name.bytes()).for_each(|(to, b)| *to = b as i8);
    request
}

/// Makes `tun` a queue of the tap `name`.
pub(crate) fn set_iff(tun: &File, name: &str, flags: i32) -> io::Result<()> {
    let mut request = about(name);
    #[allow(clippy::cast_possible_truncation)] // 16 bits of them
    {
        request.ifr_ifru.ifru_flags = flags as i16;
    }
    // SAFETY: the kernel reads and writes the request, which outlives the call.
    done(unsafe { ioctl_with_ref(tun, c_ulong::from(SET_IFF), &request) })
}

/// The name and the flags of the tap that `tun` is a queue of.
pub(crate) fn get_iff(tun: &File) -> io::Result<(String, i32)> {
    let mut request = about("");
    // SAFETY: the kernel writes the request, which outlives the call.
    done(unsafe { ioctl_with_mut_ref(tun, c_ulong::from(GET_IFF), &mut request) })?;
    #[allow(clippy::cast_sign_loss)] // the kernel's characters are bytes
    let name: Vec<u8> = request.ifr_name.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    // SAFETY: the kernel has filled this member of the union.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((String::from_utf8_lossy(&name).into_owned(), i32::from(flags) & 0xffff))
}

/// Has each packet begin with a header of `size` bytes.
pub(crate) fn set_header_size(tun: &File, size: c_int) -> io::Result<()> {
    // SAFETY: the kernel only reads the number, which outlives the call.
    done(unsafe { ioctl_with_ref(tun, c_ulong::from(SET_HEADER_SIZE), &size) })
}

/// Says which offloads this side takes (TUN_F_*).
pub(crate) fn set_offload(tun: &File, flags: u32) -> io::Result<()> {
    // SAFETY: the request's argument is the number itself.
    done(unsafe { ioctl_with_val(tun, c_ulong::from(SET_OFFLOAD), c_ulong::from(flags)) })
}

/// Has the queue `tun` take part, or not.
pub(crate) fn set_queue(tun: &File, on: bool) -> io::Result<()> {
    let mut request = about("");
    let flags = if on { libc::IFF_ATTACH_QUEUE } else { libc::IFF_DETACH_QUEUE };
    #[allow(clippy::cast_possible_truncation)] // 16 bits of them
    {
        request.ifr_ifru.ifru_flags = flags as i16;
    }
    // SAFETY: the kernel only reads the request, which outlives the call.
    done(unsafe { ioctl_with_ref(tun, c_ulong::from(SET_QUEUE), &request) })
}

/// Brings the interface `name` up, by way of any `socket`.
pub(crate) fn bring_up(socket: &impl AsRawFd, name: &str) -> io::Result<()> {
    let mut request = about(name);
    // SAFETY: the kernel writes the request, which outlives the call.
    done(unsafe { ioctl_with_mut_ref(socket, libc::SIOCGIFFLAGS, &mut request) })?;
    // SAFETY: the kernel has filled this member of the union; any flags are valid in it.
    unsafe {
        #[allow(clippy::cast_possible_truncation)] // a small flag
        {
            request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        }
    }
    // SAFETY: the kernel only reads the request, which outlives the call.
    done(unsafe { ioctl_with_ref(socket, libc::SIOCSIFFLAGS, &request) })
}

/// Sets the largest packet of the interface `name`, by way of any `socket`.
pub(crate) fn set_mtu(socket: &impl AsRawFd, name: &str, mtu: u16) -> io::Result<()> {
    let mut request = about(name);
    request.ifr_ifru.ifru_mtu = c_int::from(mtu);
    // SAFETY: the kernel only reads the request, which outlives the call.
    done(unsafe { ioctl_with_ref(socket, libc::SIOCSIFMTU, &request) })
}

/// Pieces of guest memory as the kernel takes them.
fn pieces(slices: &[VolatileSlice<'_>]) -> (Vec<iovec>, c_int) {
    let pieces: Vec<_> = slices
        .iter()
        .take(PIECES)
        .map(|slice| iovec { iov_base: slice.ptr_guard().as_ptr().cast_mut().cast(), iov_len: slice.len() })
        .collect();
    let count = c_int::try_from(pieces.len()).unwrap_or(0);
    (pieces, count)
}

fn moved(status: isize) -> io::Result<usize> {
    usize::try_from(status).map_err(|_| io::Error::last_os_error())
}

/// One packet from `tap` into `slices`; what does not fit is lost.
pub(crate) fn read(tap: &File, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (pieces, count) = pieces(slices);
    // SAFETY: the pieces are guest memory that the slices keep mapped beyond the call; nobody holds references into
    // guest memory, which the guest may change at any time anyway.
    moved(unsafe { libc::readv(tap.as_raw_fd(), pieces.as_ptr(), count) })
}

/// `slices` as one packet to `tap`.
pub(crate) fn write(tap: &File, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    let (pieces, count) = pieces(slices);
    // SAFETY: the pieces are guest memory that the slices keep mapped beyond the call, which only reads them.
    moved(unsafe { libc::writev(tap.as_raw_fd(), pieces.as_ptr(), count) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_the_numbers_that_the_kernel_gives_them() {
        assert_eq!(u64::from(SET_IFF), libc::TUNSETIFF);
        assert_eq!(u64::from(GET_IFF), libc::TUNGETIFF);
        assert_eq!(u64::from(SET_OFFLOAD), libc::TUNSETOFFLOAD);
        assert_eq!(u64::from(SET_QUEUE), libc::TUNSETQUEUE);
        assert_eq!(u64::from(SET_HEADER_SIZE), libc::TUNSETVNETHDRSZ);
    }
}
