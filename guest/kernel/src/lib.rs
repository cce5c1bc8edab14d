//! Finds a host's kernel, unpacks its vmlinux once and caches it.
