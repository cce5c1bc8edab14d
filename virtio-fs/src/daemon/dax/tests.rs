//! Mappings that a guest asks for, honest and not, from a VMM that does what it should, or does not.

use std::fs;
use std::io::Seek;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use super::super::testing::{Asked, Guest, Vmm};
use super::{PAGE, PIECES};

const INIT: u32 = 26;
const UNLINK: u32 = 10;
const FORGET: u32 = 2;
const DESTROY: u32 = 38;

const WRITE: u64 = 1;
const READ: u64 = 2;
const BOTH: u64 = READ | WRITE;
/// What Linux's driver maps at once, and two of them.
const PIECE: u64 = 2 << 20;
const WINDOW: u64 = 2 * PIECE;

const MAP: u32 = 9;
const UNMAP: u32 = 10;

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        fs::write(place.file(), "content").expect("a file");
        place
    }

    fn file(&self) -> PathBuf {
        self.0.path().join("file")
    }

    /// A guest with a window and a file, and a VMM that does what it is asked for.
    fn guest(&self, words: &[&str]) -> (Guest, Vmm, u64) {
        let mut guest = Guest::new(self.0.path(), &[&["--dax-window=4M"], words].concat());
        let vmm = guest.connect(|asked| asked.answer(0));
        let file = guest.lookup(1, "file").expect("a file");
        (guest, vmm, file)
    }

    /// How often this process has the file open, beside naming it.
    fn opened(&self) -> usize {
        let all = fs::read_dir("/proc/self/fd").expect("descriptors");
        let ours = all.filter_map(Result::ok).filter(|fd| {
            fs::read_link(fd.path()).is_ok_and(|path| path.starts_with(self.0.path()))
                && fs::metadata(fd.path()).is_ok_and(|meta| meta.is_file())
                && fs::symlink_metadata(fd.path()).is_ok_and(|link| link.permissions().mode() & 0o400 != 0)
        });
        ours.count()
    }
}

/// How a descriptor accesses its file.
fn access(asked: &Asked) -> i32 {
    let file = asked.file.as_ref().expect("a descriptor");
    nix::fcntl::fcntl(file, nix::fcntl::FcntlArg::F_GETFL).expect("flags") & libc::O_ACCMODE
}

/// Whether two descriptors are of one open file: it has one position.
fn are_one(first: &Asked, second: &Asked) -> bool {
    let (mut first, mut second) = (first.file.as_ref().expect("one"), second.file.as_ref().expect("another"));
    first.seek(std::io::SeekFrom::Start(77)).expect("moved");
    let at = second.stream_position().expect("a position");
    first.rewind().expect("moved back");
    at == 77
}

#[test]
fn a_piece_of_a_file_reaches_the_vmm_with_a_descriptor_that_can_do_as_much_as_was_asked_for() {
    let place = Place::new();
    let (mut guest, vmm, file) = place.guest(&[]);
    assert_eq!(guest.map(file, 3 * PIECE, (PIECE, PIECE), READ), 0);
    assert_eq!(guest.map(file, 0, (0, PAGE), BOTH), 0);
    assert_eq!(guest.unmap(file, &[(PIECE, PIECE), (0, PAGE)]), 0);
    let asked = vmm.asked();
    let requests: Vec<_> = asked.iter().map(|asked| (asked.request, asked.numbers())).collect();
    // Region 0; 1 is that it can be written.
    let expected = [
        (MAP, [0, PIECE, PIECE, 3 * PIECE, 0]),
        (MAP, [0, 0, PAGE, 0, 1]),
        (UNMAP, [0, PIECE, PIECE, 0, 0]),
        (UNMAP, [0, 0, PAGE, 0, 0]),
    ];
    assert_eq!(requests, expected);
    assert_eq!((access(&asked[0]), access(&asked[1])), (libc::O_RDONLY, libc::O_RDWR));
    let inode = fs::metadata(place.file()).expect("it is there").ino();
    for asked in &asked[..2] {
        assert_eq!(asked.file.as_ref().map(|file| file.metadata().expect("known").ino()), Some(inode));
    }
    assert!(asked[2].file.is_none() && asked[3].file.is_none());
}

#[test]
fn a_file_that_is_mapped_piece_by_piece_is_opened_once_and_once_more_to_be_written() {
    let place = Place::new();
    let (mut guest, vmm, file) = place.guest(&[]);
    let rights = [READ, READ, READ, BOTH, BOTH, READ];
    for (n, rights) in (0..).zip(rights) {
        assert_eq!(guest.map(file, n * PIECE, (n % 2 * PIECE, PIECE), rights), 0);
    }
    let asked = vmm.asked();
    assert!(are_one(&asked[0], &asked[1]) && are_one(&asked[0], &asked[2]));
    assert!(!are_one(&asked[0], &asked[3]));
    assert!(are_one(&asked[3], &asked[4]) && are_one(&asked[3], &asked[5]));
    assert_eq!(asked.iter().map(|asked| asked.flags).collect::<Vec<_>>(), [0, 0, 0, 1, 1, 0]);
    drop(asked);
    assert_eq!(place.opened(), 1, "the one that cannot be written has gone");
}

#[test]
fn a_piece_that_becomes_one_to_be_written_is_asked_for_in_its_place_and_not_taken_away_before() {
    let place = Place::new();
    let (mut guest, vmm, file) = place.guest(&[]);
    assert_eq!(guest.map(file, 0, (PIECE, PIECE), READ), 0);
    assert_eq!(guest.map(file, 0, (PIECE, PIECE), BOTH), 0);
    let asked = vmm.asked();
    let seen: Vec<_> = asked.iter().map(|asked| (asked.request, asked.at, asked.flags)).collect();
    assert_eq!(seen, [(MAP, PIECE, 0), (MAP, PIECE, 1)]);
}

#[test]
fn a_piece_that_is_not_whole_pages_within_the_window_and_a_file_is_refused_and_the_vmm_hears_nothing() {
    let place = Place::new();
    let (mut guest, vmm, file) = place.guest(&[]);
    let last = i64::MAX.cast_unsigned() & !(PAGE - 1);
    let pieces = [
        // Past the window, or over its end.
        (0, WINDOW, PAGE),
        (0, PIECE, WINDOW),
        (0, 0, WINDOW + PAGE),
        (0, WINDOW + PAGE, PAGE),
        // Where sums wrap.
        (0, u64::MAX - PAGE + 1, PAGE),
        (0, u64::MAX - PAGE + 1, 2 * PAGE),
        (0, PAGE, u64::MAX - PAGE + 1),
        (0, 0, u64::MAX),
        (u64::MAX - PAGE + 1, 0, PAGE),
        (u64::MAX - PAGE + 1, 0, 2 * PAGE),
        // Past the last place that a file can have.
        (last, 0, PAGE),
        (last - PAGE, 0, 2 * PAGE),
        (1 << 63, 0, PAGE),
        // No whole pages, or none at all.
        (1, 0, PAGE),
        (PAGE - 1, 0, PAGE),
        (0, 1, PAGE),
        (0, 512, PAGE),
        (0, 0, 1),
        (0, 0, PAGE + 1),
        (0, PAGE, PAGE - 1),
        (0, 0, 0),
        (0, WINDOW, 0),
    ];
    for (from, at, len) in pieces {
        assert_eq!(guest.map(file, from, (at, len), BOTH), libc::EINVAL, "{from:#x} {at:#x} {len:#x}");
        if from == 0 {
            // The first one is sound, and is not taken away all the same.
            assert_eq!(guest.unmap(file, &[(0, PAGE), (at, len)]), libc::EINVAL, "{at:#x} {len:#x}");
        }
    }
    for rights in [0, WRITE, READ | 4, BOTH | 1 << 63, u64::MAX] {
        assert_eq!(guest.map(file, 0, (0, PAGE), rights), libc::EINVAL, "rights {rights:#x}");
    }
    assert!(vmm.asked().is_empty());
    // As near to all of these as can be.
    assert_eq!(guest.map(file, last - PAGE, (WINDOW - PAGE, PAGE), READ), 0);
    assert_eq!(guest.map(file, 0, (0, WINDOW), READ), 0);
}

#[test]
fn pieces_are_given_back_by_as_many_as_a_page_names_and_no_more() {
    let place = Place::new();
    let (mut guest, vmm, file) = place.guest(&[]);
    let pieces: Vec<_> = (0..PIECES as u64).map(|n| (n * PAGE, PAGE)).collect();
    assert_eq!(guest.unmap(file, &pieces), 0);
    let places: Vec<_> = vmm.asked().iter().map(|asked| (asked.at, asked.len)).collect();
    assert_eq!(places, pieces);
    assert_eq!(guest.unmap(file, &[&pieces[..], &[(0, PAGE)]].concat()), libc::EINVAL);
    assert_eq!(guest.unmap(file, &[]), libc::EINVAL);
    // More announced than there are, and more than there could be.
    for count in [3_u32, 65_536, u32::MAX] {
        let body = [&count.to_le_bytes()[..], &[0; 8], &PAGE.to_le_bytes()].concat();
        let request = guest.request(49, file, &body);
        guest.raw(&request, 4096);
    }
    assert!(vmm.asked().is_empty());
}

#[test]
fn only_regular_files_that_the_guest_has_looked_up_are_mapped() {
    let place = Place::new();
    let dir = place.0.path();
    symlink("file", dir.join("link")).expect("a link");
    symlink("/dev/zero", dir.join("out")).expect("a link");
    nix::unistd::mkfifo(&dir.join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(dir.join("socket")).expect("a socket");
    let zero = nix::sys::stat::makedev(1, 5);
    let node = nix::sys::stat::mknod(
        &dir.join("zero"),
        nix::sys::stat::SFlag::S_IFCHR,
        nix::sys::stat::Mode::S_IRWXU,
        zero,
    );
    let (mut guest, vmm, file) = place.guest(&[]);
    // Not everybody can make a device's node.
    let names = ["link", "out", "pipe", "socket"].into_iter().chain(node.is_ok().then_some("zero"));
    for node in names.map(|name| guest.lookup(1, name).expect("it is there")).collect::<Vec<_>>() {
        assert_eq!(guest.map(node, 0, (0, PIECE), READ), libc::ENODEV);
    }
    assert_eq!(guest.map(1, 0, (0, PIECE), READ), libc::ENODEV, "a folder");
    for forged in [0, file + 100, 1 << 32, u64::MAX] {
        assert_eq!(guest.map(forged, 0, (0, PIECE), READ), libc::ESTALE);
        assert_eq!(guest.unmap(forged, &[(0, PIECE)]), libc::ESTALE);
    }
    forget(&mut guest, file);
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), libc::ESTALE, "a number that was given back");
    assert!(vmm.asked().is_empty());
}

fn forget(guest: &mut Guest, node: u64) {
    let request = guest.request(FORGET, node, &u64::MAX.to_le_bytes());
    guest.raw(&request, 0);
}

#[test]
fn a_read_only_share_is_mapped_to_be_read() {
    let place = Place::new();
    let (mut guest, vmm, file) = place.guest(&["--readonly"]);
    assert_eq!(guest.map(file, 0, (0, PIECE), BOTH), libc::EROFS);
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), 0);
    assert_eq!(guest.map(file, 0, (0, PIECE), BOTH), libc::EROFS, "open or not");
    let asked = vmm.asked();
    assert_eq!((asked.len(), access(&asked[0]), asked[0].flags), (1, libc::O_RDONLY, 0));
}

#[test]
fn a_mapping_takes_the_rights_that_opening_takes() {
    let place = Place::new();
    // In a thread of its own, for rights are a thread's.
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (mut guest, _vmm, mut file) = place.guest(&[]);
            guest.user = 1234;
            for without in [false, true] {
                if without {
                    for right in [caps::Capability::CAP_DAC_OVERRIDE, caps::Capability::CAP_DAC_READ_SEARCH] {
                        caps::drop(None, caps::CapSet::Effective, right).expect("a right less");
                    }
                }
                // To be run, to be written, to be read, nothing.
                for mode in [0o100, 0o200, 0o400, 0o000] {
                    fs::set_permissions(place.file(), fs::Permissions::from_mode(mode)).expect("it is ours");
                    for (rights, flags) in [(READ, libc::O_RDONLY), (BOTH, libc::O_RDWR)] {
                        forget(&mut guest, file);
                        file = guest.lookup(1, "file").expect("a file");
                        let opened = guest.open(file, flags).err().unwrap_or(0);
                        let mapped = guest.map(file, 0, (0, PIECE), rights);
                        assert_eq!(mapped, opened, "mode {mode:o}, {rights}");
                    }
                }
            }
        });
    });
}

#[test]
fn without_a_window_or_without_a_vmm_that_was_asked_nothing_is_mapped() {
    let place = Place::new();
    let mut guest = Guest::new(place.0.path(), &[]);
    let file = guest.lookup(1, "file").expect("a file");
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), libc::EINVAL);
    assert_eq!(guest.unmap(file, &[(0, PIECE)]), libc::EINVAL);
    // One that has handed over no channel, and one that has not agreed to be asked on it.
    let mut guest = Guest::new(place.0.path(), &["--dax-window=4M"]);
    let file = guest.lookup(1, "file").expect("a file");
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), libc::ENOTCONN);
    assert_eq!(guest.unmap(file, &[(0, PIECE)]), libc::ENOTCONN);
    let vmm = guest.connect_as(|channel| channel.set_shmem_flag(false), |asked| asked.answer(0));
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), libc::EOPNOTSUPP);
    assert_eq!(guest.unmap(file, &[(0, PIECE)]), libc::EOPNOTSUPP);
    assert!(vmm.asked().is_empty());
}

#[test]
fn a_vmm_that_does_not_do_it_is_an_error_to_the_guest_and_asked_again() {
    let place = Place::new();
    let (mut guest, _, file) = place.guest(&[]);
    // Every other one, and not as the first.
    let mut n = 0;
    let vmm = guest.connect(move |asked| {
        n += 1;
        asked.answer([u64::MAX, 0][n % 2])
    });
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), 0);
    assert_eq!(guest.map(file, 0, (0, PIECE), BOTH), libc::EIO);
    assert_eq!(guest.map(file, 0, (0, PIECE), BOTH), 0);
    let all = [(0, PAGE), (PAGE, PAGE), (2 * PAGE, PAGE)];
    assert_eq!(guest.unmap(file, &all), libc::EIO);
    assert_eq!(vmm.asked().len(), 3 + all.len(), "the others are given back all the same");
}

#[test]
fn a_channel_that_is_closed_or_answers_nonsense_is_an_error_until_there_is_another() {
    let place = Place::new();
    let (mut guest, _, file) = place.guest(&[]);
    let nonsense: [fn(&Asked) -> Vec<u8>; 6] = [
        |_| vec![],
        |asked| asked.answer(0)[..3].to_vec(),
        |_| vec![0; 20],
        |_| vec![0xff; 20],
        // To another request, and no answer at all.
        |asked| [&[10][..], &asked.answer(0)[1..]].concat(),
        |asked| [&asked.answer(0)[..4], &[1], &asked.answer(0)[5..]].concat(),
    ];
    for (n, answer) in nonsense.into_iter().enumerate() {
        let vmm = guest.connect(answer);
        assert_eq!(guest.map(file, 0, (0, PIECE), READ), libc::ENOTCONN, "answer {n}");
        assert_eq!(guest.map(file, 0, (0, PIECE), READ), libc::ENOTCONN, "and it is not asked again");
        assert_eq!(guest.unmap(file, &[(0, PIECE)]), libc::ENOTCONN);
        assert_eq!(vmm.asked().len(), 1, "answer {n}");
    }
    let vmm = guest.connect(|asked| asked.answer(0));
    assert_eq!(guest.map(file, 0, (0, PIECE), READ), 0);
    assert_eq!(vmm.asked().len(), 1);
}

#[test]
fn a_file_that_was_forgotten_is_open_no_more_nor_is_any_for_a_guest_that_mounts_anew() {
    let place = Place::new();
    let init = [7_u32, 36, 1 << 20, 0, 0].map(u32::to_le_bytes).concat();
    let init = [init, vec![0; 44]].concat();
    for end in [FORGET, DESTROY, INIT] {
        fs::write(place.file(), "content").expect("a file");
        let (mut guest, vmm, file) = place.guest(&[]);
        assert_eq!(guest.map(file, 0, (0, PIECE), BOTH), 0);
        drop(vmm.asked());
        assert_eq!(place.opened(), 1);
        assert_eq!(guest.call(UNLINK, 1, b"file\0").errno, 0);
        assert_eq!(place.opened(), 1, "it is known still");
        match end {
            FORGET => forget(&mut guest, file),
            DESTROY => {
                let request = guest.request(DESTROY, 0, &[]);
                guest.raw(&request, 0);
            }
            _ => assert_eq!(guest.call(INIT, 0, &init).errno, 0),
        }
        assert_eq!(place.opened(), 0, "operation {end}");
        // What is mapped is the guest's to give back, unless its session is over.
        let taken_away: Vec<_> = vmm.asked().iter().map(|asked| (asked.request, asked.numbers())).collect();
        let all = [(UNMAP, [0, 0, WINDOW, 0, 0])];
        assert_eq!(taken_away, if end == FORGET { &[][..] } else { &all }, "operation {end}");
    }
}

#[test]
fn who_can_map_files_takes_set_user_id_bits_away_himself() {
    let place = Place::new();
    let init = [7_u32, 36, 1 << 20, u32::MAX, u32::MAX].map(u32::to_le_bytes).concat();
    let init = [init, vec![0; 44]].concat();
    for (words, offered) in [(&[][..], true), (&["--dax-window=4M"], false)] {
        let mut guest = Guest::new(place.0.path(), words);
        let body = guest.call(INIT, 0, &init).body;
        let flags = u32::from_le_bytes(body[12..16].try_into().expect("four bytes"));
        // HANDLE_KILLPRIV_V2.
        assert_eq!(flags & 1 << 28 != 0, offered);
    }
}
