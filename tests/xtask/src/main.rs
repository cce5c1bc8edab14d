//! The project's own commands: boot, test, testbed, lint, matrix.
fn main() {}
