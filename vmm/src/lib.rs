//! A virtual machine monitor for Linux sandboxes: library and binary.
