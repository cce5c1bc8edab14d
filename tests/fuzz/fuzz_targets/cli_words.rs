//! Any words are understood or refused with one sentence; a machine that is understood survives being printed.
#![no_main]

// The command line belongs to the binary, so it is compiled in from there.
#[allow(dead_code)]
#[path = "../../../vmm/src/cli/mod.rs"]
mod cli;

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let words: Vec<OsString> = data.split(|b| *b == b'\n').map(|w| OsString::from_vec(w.to_vec())).collect();
    // Which file a random word names is nobody's business here; config_json has that part.
    if words.iter().any(|w| w.as_encoded_bytes().starts_with(b"--config")) {
        return;
    }
    match cli::parse(std::iter::once("vmm".into()).chain(words)) {
        Ok(cli::Invocation::Run(run)) => {
            // A path that is not UTF-8 cannot be printed, and says so.
            if let Ok(text) = serde_json::to_vec(&run.config) {
                let again = vmm::config::parse(&text, "printed".as_ref());
                assert_eq!(again.expect("what is printed is a configuration"), run.config);
            }
        }
        Ok(cli::Invocation::Print(text)) => assert!(!text.is_empty()),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
