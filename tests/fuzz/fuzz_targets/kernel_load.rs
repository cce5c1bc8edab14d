//! Any bytes as an ELF or a bzImage are loaded into guest memory, to begin inside it, or refused with one sentence.
#![no_main]

use std::fs::File;
use std::os::unix::fs::FileExt;

use libfuzzer_sys::fuzz_target;
use vmm::fuzzing::Loader;

/// The least that a machine has.
const MEMORY: u64 = 64 << 20;

thread_local! {
    static PLACES: (Loader, File) = {
        let file = tempfile::tempfile().expect("the host has room for a file");
        (Loader::new(MEMORY).expect("the host has memory"), file)
    };
}

fuzz_target!(|data: &[u8]| PLACES.with(|(loader, file)| load(loader, file, data)));

fn load(loader: &Loader, file: &File, data: &[u8]) {
    file.set_len(0).and_then(|()| file.write_all_at(data, 0)).expect("the file can be written");
    let open = || file.try_clone().expect("a descriptor");
    // Every other input is its own initrd too.
    let initrd = (data.len() % 2 == 1).then(open);
    match loader.load(open(), initrd) {
        Ok(entry) => assert!((1 << 20..MEMORY).contains(&entry), "begins at {entry:#x}"),
        Err(error) => assert_eq!(error.to_string().lines().count(), 1, "{error}"),
    }
}
