//! The terminal's size, which termios does not hold.
#![allow(unsafe_code)] // an ioctl

use devices::virtio::console::Size;

/// Columns and rows of the terminal behind standard output.
pub(super) fn size() -> Option<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the structure it is given, which outlives the call.
    let got = unsafe { libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, &mut size) };
    (got == 0).then_some(Size { columns: size.ws_col, rows: size.ws_row })
}
