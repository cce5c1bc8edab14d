//! Can this machine run a Linux guest on its KVM? Exit status 0 for yes; otherwise 1 and a line that says why not.
//!
//! Found by trying: a guest of a few bytes counts down in ring 0. Hardware and nested KVM do it in milliseconds;
//! a KVM that interprets every instruction of the guest's kernel mode needs seconds, and a Linux boot hours.

use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    match vmm::probe::count(5_000_000, Duration::from_secs(1)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            println!("this machine's KVM does not run Linux guests: {why}");
            ExitCode::FAILURE
        }
    }
}
