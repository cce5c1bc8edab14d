//! What `cargo xtask bench` says in the environment.

use benches::Guest;

/// The variable `name`.
pub(crate) fn given(name: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| panic!("{name} is not set: run this with `cargo xtask bench`"))
}

/// What every subject boots.
pub(crate) fn guest() -> Guest {
    Guest {
        kernel: given("KIWI_KERNEL").into(),
        initrd: given("KIWI_INITRD").into(),
        cmdline: given("KIWI_CMDLINE"),
        mib: 256,
    }
}
