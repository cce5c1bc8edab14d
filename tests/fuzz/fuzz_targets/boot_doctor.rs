//! Whatever a guest prints, the doctor has an answer that is fit for a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vmm::Exit;
use vmm::report::Milestone;
use vmm::report::doctor::{Facts, diagnose};

fuzz_target!(|data: &[u8]| {
    let (head, console) = data.split_at(data.len().min(8));
    let pick = |i: usize| usize::from(head.get(i).copied().unwrap_or(0));
    let exits = [Exit::Panic, Exit::TripleFault, Exit::Reset, Exit::Silent];
    let facts = Facts {
        exit: exits[pick(0) % exits.len()],
        reached: Milestone::ALL[pick(1) % Milestone::ALL.len()],
        console,
        rip: (pick(2) > 0).then_some(u64::MAX << (pick(2) % 64)),
        initrd: head,
        config: &vmm::VmConfig::default(),
    };
    let text = diagnose(&facts).expect("a bad end has a diagnosis").to_string();
    assert!(text.chars().all(|c| c == '\n' || !c.is_control()));
    assert!(text.len() < 16 << 10);
});
