//! The daemon's command line: any words are understood or refused in one sentence.
#![no_main]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use virtio_fs::daemon::options::{Invocation, parse};

fuzz_target!(|data: &[u8]| {
    let words = data.split(|b| *b == b'\n').map(|word| OsStr::from_bytes(word).to_owned());
    match parse(words) {
        Ok(Invocation::Serve(options)) => assert!(!options.shared.as_os_str().is_empty() && options.threads <= 64),
        Ok(Invocation::Print(text)) => assert!(text.ends_with('\n')),
        Err(why) => assert!(!why.to_string().is_empty()),
    }
});
