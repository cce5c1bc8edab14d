//! The file system device against a daemon that answers, and asks, whatever it likes.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::LazyLock;

use devices::confine::Confinement;
use devices::shared_memory::{GRAIN, Region};
use devices::testing::{Driver, Over};
use devices::virtio::vhost::requests::Requests;
use libfuzzer_sys::fuzz_target;
use virtio_fs::device::{Fs, Share};
use vmm_sys_util::sock_ctrl_msg::ScmSocket;

/// As much as a socket holds without a reader.
const MOST: usize = 64 << 10;

fn replies(data: &[u8], dax: bool) {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(data).expect("it holds that");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let share = Share { tag: "src".to_owned(), queues: 1, queue_size: 64, dax };
    // Most daemons are none; what one becomes a device works, or fails, and can be reset.
    if let Ok(device) = Fs::from_socket(share, ours, &Confinement::none()) {
        let mut driver = Driver::new(Box::new(device), Over::Pci);
        for _ in 0..2 {
            driver.start(u64::MAX);
            driver.notify(1);
            driver.set_status(0);
        }
    }
}

/// A window, behind which nothing is to change.
static REGION: LazyLock<Region> = LazyLock::new(|| Region::new(4 * GRAIN).expect("a region"));

/// Messages of the other direction, the first of them with a file.
fn requests(data: &[u8]) {
    static FILE: LazyLock<std::fs::File> = LazyLock::new(|| tempfile::tempfile().expect("a file"));
    let (ours, theirs) = Requests::new().expect("a channel");
    if !data.is_empty() {
        theirs.send_with_fd(data, FILE.as_raw_fd()).expect("it holds that");
    }
    // A reply that nobody reads is an error, and so is what is no message.
    while ours.answer(Some(&REGION)).is_ok() && theirs.shutdown(Shutdown::Write).is_ok() {}
    REGION.clear().expect("memory");
}

fuzz_target!(|data: &[u8]| {
    let Some((which, data)) = data.split_last() else { return };
    let data = &data[..data.len().min(MOST)];
    match which % 4 {
        0 => replies(data, false),
        1 => replies(data, true),
        _ => requests(data),
    }
});
