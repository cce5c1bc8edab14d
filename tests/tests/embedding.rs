//! The examples of the vmm crate do what they say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use tests::TestVm;

#[test]
fn the_smallest_embedding_boots_to_its_command_and_tells_its_end() {
    let vm = TestVm::boot().command(&["sh", "-c", "echo here is process $$; exit 3"]);
    let outcome = vm.run_by(&tests::example("minimal"));
    outcome.assert_status(0);
    assert!(outcome.output.contains("here is process "), "{outcome}");
    assert!(outcome.errors.contains("the guest powered off; its command's status: Some(3)"), "{outcome}");
}

#[test]
fn the_smallest_embedding_tells_what_is_wrong() {
    let vm = TestVm::boot().kernel("/no/such/kernel");
    let outcome = vm.run_by(&tests::example("minimal"));
    outcome.assert_status(1);
    assert!(outcome.errors.starts_with("minimal: there is no kernel at /no/such/kernel"), "{outcome}");
    assert_eq!(outcome.errors.lines().count(), 1, "{outcome}");
}
