use std::os::fd::OwnedFd;

use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

fn file(len: u64) -> File {
    named(c"file", len)
}

fn named(name: &std::ffi::CStr, len: u64) -> File {
    let file = File::from(memfd_create(name, MFdFlags::empty()).expect("a memfd"));
    file.set_len(len).expect("a length");
    file
}

fn region() -> Region {
    Region::new(4 * GRAIN).expect("a region")
}

/// The bytes at `at` of a region, by way of the kernel, which answers EFAULT where a look would end the process.
fn seen(region: &Region, at: u64) -> Option<[u8; 4]> {
    let address = usize::try_from(region.addresses().start + at).expect("an address");
    let place = nix::sys::uio::RemoteIoVec { base: address, len: 4 };
    let mut bytes = [0; 4];
    let mut local = [std::io::IoSliceMut::new(&mut bytes)];
    let got = nix::sys::uio::process_vm_readv(nix::unistd::Pid::this(), &mut local, &[place]);
    (got == Ok(4)).then_some(bytes)
}

/// Writes there, as a guest would.
fn write(region: &Region, at: u64, bytes: &[u8]) -> bool {
    let address = usize::try_from(region.addresses().start + at).expect("an address");
    let place = nix::sys::uio::RemoteIoVec { base: address, len: bytes.len() };
    nix::sys::uio::process_vm_writev(nix::unistd::Pid::this(), &[std::io::IoSlice::new(bytes)], &[place])
        .is_ok()
}

/// Mappings of this process inside the region.
fn mappings(region: &Region) -> usize {
    let range = region.addresses();
    let maps = std::fs::read_to_string("/proc/self/maps").expect("readable");
    let starts = maps.lines().filter_map(|line| u64::from_str_radix(line.split('-').next()?, 16).ok());
    starts.filter(|start| range.contains(start)).count()
}

#[test]
fn pieces_of_files_come_and_go() {
    use std::os::unix::fs::FileExt;
    let (region, file) = (region(), file(2 * GRAIN));
    file.write_all_at(b"abcd", 0).expect("written");
    file.write_all_at(b"efgh", GRAIN).expect("written");
    assert_eq!(seen(&region, 0), Some([0; 4]));
    region.map(GRAIN, GRAIN, (&file, GRAIN), true).expect("mapped");
    region.map(3 * GRAIN, GRAIN, (&file, 0), false).expect("mapped");
    assert_eq!((seen(&region, GRAIN), seen(&region, 3 * GRAIN)), (Some(*b"efgh"), Some(*b"abcd")));
    assert!(
        write(&region, GRAIN, b"ijkl") && !write(&region, 3 * GRAIN, b"xxxx") && !write(&region, 0, b"xxxx")
    );
    let mut there = [0; 4];
    file.read_exact_at(&mut there, GRAIN).expect("read");
    assert_eq!(&there, b"ijkl");
    // The other one in its place, without being taken away before.
    region.map(GRAIN, GRAIN, (&file, 0), true).expect("mapped");
    assert_eq!(seen(&region, GRAIN), Some(*b"abcd"));
    region.unmap(GRAIN, GRAIN).expect("taken away");
    assert_eq!((seen(&region, GRAIN), seen(&region, 3 * GRAIN)), (Some([0; 4]), Some(*b"abcd")));
    region.clear().expect("taken away");
    assert_eq!(seen(&region, 3 * GRAIN), Some([0; 4]));
    assert_eq!(mappings(&region), 1);
}

#[test]
fn bounds_that_are_none_are_refused_and_change_nothing() {
    let (region, file) = (region(), file(GRAIN));
    region.map(0, GRAIN, (&file, 0), true).expect("mapped");
    let before = mappings(&region);
    let wrong = [
        (0, 0, 0),
        (0, 4096, 0),
        (4096, GRAIN, 0),
        (4 * GRAIN, GRAIN, 0),
        (3 * GRAIN, 2 * GRAIN, 0),
        (u64::MAX - GRAIN + 1, GRAIN, 0),
        (GRAIN, u64::MAX - GRAIN + 1, 0),
        (0, GRAIN, 1),
        (0, GRAIN, u64::MAX - 4095),
        (0, GRAIN, (1 << 63) - GRAIN),
        (0, GRAIN, 1 << 63),
    ];
    for (at, len, from) in wrong {
        assert!(region.map(at, len, (&file, from), true).is_err(), "{at:#x} {len:#x} {from:#x}");
        if from == 0 {
            assert!(region.unmap(at, len).is_err(), "{at:#x} {len:#x}");
        }
    }
    assert_eq!(mappings(&region), before);
    for len in [0, GRAIN / 2, 3 * GRAIN, 2 * LEN_MAX, u64::MAX] {
        assert!(Region::new(len).is_err(), "{len:#x}");
    }
}

#[test]
fn only_regular_files_are_mapped_and_only_as_they_were_opened() {
    let region = region();
    let (read, write) = nix::unistd::pipe().expect("a pipe");
    let others: [OwnedFd; 4] = [
        read,
        write,
        File::open("/dev/zero").expect("a device").into(),
        File::open("/").expect("a folder").into(),
    ];
    for other in others {
        assert!(region.map(0, GRAIN, (&File::from(other), 0), false).is_err());
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("file");
    std::fs::write(&path, "text").expect("written");
    let readable = File::open(&path).expect("opened");
    region.map(0, GRAIN, (&readable, 0), false).expect("mapped");
    let why = region.map(0, GRAIN, (&readable, 0), true).expect_err("not to be written");
    assert_eq!(why.kind(), io::ErrorKind::PermissionDenied);
    assert_eq!(seen(&region, 0), Some(*b"text"), "what was there stays");
    let blind = std::fs::OpenOptions::new().write(true).open(&path).expect("opened");
    assert!(region.map(0, GRAIN, (&blind, 0), false).is_err());
}

#[test]
fn what_lies_past_a_files_end_is_not_there() {
    let (region, file) = (region(), file(GRAIN));
    region.map(0, GRAIN, (&file, 0), true).expect("mapped");
    assert_eq!(seen(&region, GRAIN - 4), Some([0; 4]));
    file.set_len(4096).expect("shorter");
    assert_eq!((seen(&region, 4092), seen(&region, 4096)), (Some([0; 4]), None));
    file.set_len(GRAIN).expect("longer");
    assert_eq!(seen(&region, 4096), Some([0; 4]));
}

#[test]
fn a_region_takes_its_mappings_along() {
    // Its addresses may be another test's at once, its name is nobody else's.
    let (region, file) = (region(), named(c"goes along", GRAIN));
    region.map(0, GRAIN, (&file, 0), true).expect("mapped");
    let maps = || std::fs::read_to_string("/proc/self/maps").expect("readable");
    assert!(maps().contains("memfd:goes along"));
    drop(region);
    assert!(!maps().contains("memfd:goes along"), "{}", maps());
}
