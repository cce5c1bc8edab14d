//! Process 1 of a Kiwi guest.
fn main() {}
