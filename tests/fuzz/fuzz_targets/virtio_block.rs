//! Disks against a driver that does whatever it likes: the image keeps its size, and one that is only read keeps its
//! content.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use devices::confine::Confinement;
use devices::rate::Rates;
use devices::testing::{Driver, Over, script};
use devices::virtio::block::{Block, Disk, Options};
use libfuzzer_sys::fuzz_target;

const SIZE: u64 = 64 << 10;

thread_local! {
    /// One that is served by io_uring, where there is one, and one in memory, which is served by plain calls.
    static IMAGES: [File; 2] = {
        let memory = tempfile::tempfile_in("/dev/shm").expect("a file in memory");
        let images = [tempfile::tempfile().expect("a file"), memory];
        images.iter().for_each(|image| image.set_len(SIZE).expect("room"));
        images
    };
}

fn content(image: &File) -> Vec<u8> {
    let mut all = vec![0; SIZE as usize];
    image.read_exact_at(&mut all, 0).expect("the image is whole");
    all
}

fuzz_target!(|data: &[u8]| {
    let [shape, rest @ ..] = data else { return };
    let over = if shape & 1 == 0 { Over::Mmio } else { Over::Pci };
    let options = Options { readonly: shape & 2 != 0, serial: "fuzzed".to_owned(), ..Options::default() };
    IMAGES.with(|images| {
        let image = &images[usize::from(shape >> 2 & 1)];
        let before = options.readonly.then(|| content(image));
        // A copy of the descriptor, so that the lock is the same one.
        let disk = Disk::new(image.try_clone().expect("a copy"), &options).expect("a disk");
        let queues = 1 + u16::from(shape >> 3 & 1);
        let block = Block::new(disk, queues, Rates::default(), &Confinement::none()).expect("threads");
        script::play(&mut Driver::new(Box::new(block), over), rest);
        assert_eq!(image.metadata().expect("told").len(), SIZE);
        assert!(before.is_none_or(|before| before == content(image)), "a disk that is only read was written");
    });
});
