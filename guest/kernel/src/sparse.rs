//! Writes a file so that its zero pages take no room and need no copying later.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

const PAGE: usize = 4096;

/// Writes `bytes` from the start of an empty `file`, leaving a hole for every page of zeros.
///
/// A vmlinux is zeros in `.bss`-like parts (`.init.scratch`, per-CPU areas, padding), and a VMM that asks for
/// the data extents (`SEEK_DATA`) copies none of them.
///
/// # Errors
/// What the file system says.
pub fn write_sparse(file: &File, bytes: &[u8]) -> io::Result<()> {
    let mut run = 0..0;
    for (index, page) in bytes.chunks(PAGE).enumerate() {
        let start = index * PAGE;
        if page.iter().all(|byte| *byte == 0) {
            write_run(file, bytes, &run)?;
            run = start + page.len()..start + page.len();
        } else {
            run.end = start + page.len();
        }
    }
    write_run(file, bytes, &run)?;
    file.set_len(bytes.len() as u64)
}

fn write_run(file: &File, bytes: &[u8], run: &std::ops::Range<usize>) -> io::Result<()> {
    match bytes.get(run.clone()) {
        Some(data) if !data.is_empty() => file.write_all_at(data, run.start as u64),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn zero_pages_become_holes_and_the_content_stays() {
        let mut bytes = vec![0u8; 1 << 20];
        bytes[5 * PAGE + 7] = 1;
        bytes[200 * PAGE..201 * PAGE + 9].fill(2);
        let file = tempfile::tempfile().unwrap();
        write_sparse(&file, &bytes).unwrap();
        let mut back = vec![9u8; bytes.len()];
        file.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(back, bytes);
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
        assert!(file.metadata().unwrap().blocks() * 512 < 64 * 1024);
    }

    #[test]
    fn a_file_of_zeros_only_has_its_length() {
        let file = tempfile::tempfile().unwrap();
        write_sparse(&file, &[0; 3 * PAGE + 5]).unwrap();
        assert_eq!(file.metadata().unwrap().len(), (3 * PAGE + 5) as u64);
    }
}
