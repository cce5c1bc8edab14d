//! Integration tests of Kiwi VMM and the harness they use.
