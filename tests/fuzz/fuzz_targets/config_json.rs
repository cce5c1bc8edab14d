//! Any bytes as a configuration file are a machine or are refused with their line; a machine keeps or breaks rules,
//! and survives being printed.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| match vmm::config::parse(data, "f".as_ref()) {
    Ok(config) => {
        let text = serde_json::to_vec(&config).expect("paths from JSON are UTF-8");
        assert_eq!(vmm::config::parse(&text, "f".as_ref()).expect("printed from a machine"), config);
        let _ = vmm::validate::rules(&config);
    }
    Err(error) => assert!(error.to_string().starts_with("f, line ")),
});
