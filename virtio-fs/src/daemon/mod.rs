//! The daemon: `kiwi-virtiofsd`.
