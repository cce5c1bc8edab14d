//! Stands where qemu-kiwi stood under Kata Containers.
