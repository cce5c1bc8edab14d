//! The file system device against a daemon that answers whatever it likes.
#![no_main]

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

use devices::confine::Confinement;
use devices::testing::{Driver, Over};
use libfuzzer_sys::fuzz_target;
use virtio_fs::device::{Fs, Share};

/// As much as a socket holds without a reader.
const MOST: usize = 64 << 10;

fuzz_target!(|data: &[u8]| {
    let (ours, mut theirs) = UnixStream::pair().expect("a pair");
    theirs.write_all(&data[..data.len().min(MOST)]).expect("it holds that");
    theirs.shutdown(Shutdown::Write).expect("it is open");
    let share = Share { tag: "src".to_owned(), queues: 1, queue_size: 64 };
    // Most daemons are none; what one becomes a device works, or fails, and can be reset.
    if let Ok(device) = Fs::from_socket(share, ours, &Confinement::none()) {
        let mut driver = Driver::new(Box::new(device), Over::Pci);
        for _ in 0..2 {
            driver.start(u64::MAX);
            driver.notify(1);
            driver.set_status(0);
        }
    }
});
