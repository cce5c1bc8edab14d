//! Requests that no honest guest sends, and a few that all do.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use caps::{CapSet, Capability};
use devices::testing::Buffer;
use vm_memory::{Bytes, GuestAddress, GuestAddressSpace};

use super::super::testing::{Guest, number};

const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const SETATTR: u32 = 4;
const READLINK: u32 = 5;
const SYMLINK: u32 = 6;
const MKNOD: u32 = 8;
const MKDIR: u32 = 9;
const UNLINK: u32 = 10;
const RMDIR: u32 = 11;
const RENAME: u32 = 12;
const LINK: u32 = 13;
const READ: u32 = 15;
const WRITE: u32 = 16;
const RELEASE: u32 = 18;
const SETXATTR: u32 = 21;
const GETXATTR: u32 = 22;
const LISTXATTR: u32 = 23;
const REMOVEXATTR: u32 = 24;
const OPENDIR: u32 = 27;
const READDIR: u32 = 28;
const CREATE: u32 = 35;
const BATCH_FORGET: u32 = 42;
const READDIRPLUS: u32 = 44;

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

fn named(head: &[u8], name: &str) -> Vec<u8> {
    [head, name.as_bytes(), b"\0"].concat()
}

fn create(flags: i32, name: &str) -> Vec<u8> {
    named(&words(&[flags.cast_unsigned(), 0o644, 0, 0]), name)
}

/// A directory in a directory, so that there is something to get out to: a file `secret` beside it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().expect("a folder"));
        fs::create_dir_all(place.dir().join("sub")).expect("a folder");
        fs::write(place.secret(), "secret").expect("a file");
        fs::write(place.dir().join("file"), "content").expect("a file");
        place
    }

    /// On the disk that this program is on: a tmpfs has no attributes of users before Linux 6.6.
    fn on_disk() -> Self {
        let program = std::env::current_exe().expect("this program's path");
        let place = Self(tempfile::tempdir_in(program.parent().expect("a folder")).expect("a folder"));
        fs::create_dir(place.dir()).expect("a folder");
        fs::write(place.dir().join("file"), "content").expect("a file");
        place
    }

    fn dir(&self) -> std::path::PathBuf {
        self.0.path().join("shared")
    }

    fn secret(&self) -> std::path::PathBuf {
        self.0.path().join("secret")
    }
}

const ESCAPES: [&str; 8] =
    ["..", ".", "", "../secret", "sub/../../secret", "/etc/passwd", "sub/", "file/../../secret"];

#[test]
fn a_name_that_is_more_than_one_name_is_refused_by_every_request() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &[]);
    let sub = guest.lookup(1, "sub").expect("it is there");
    for name in ESCAPES {
        let requests = [
            (LOOKUP, named(&[], name)),
            (MKNOD, named(&words(&[0o100_644, 0, 0, 0]), name)),
            (MKDIR, named(&words(&[0o755, 0]), name)),
            (UNLINK, named(&[], name)),
            (RMDIR, named(&[], name)),
            (SYMLINK, [named(&[], name), b"/etc\0".to_vec()].concat()),
            (CREATE, create(libc::O_RDWR, name)),
            (RENAME, [named(&1u64.to_le_bytes(), name), b"x\0".to_vec()].concat()),
            (RENAME, [named(&1u64.to_le_bytes(), "file"), named(&[], name)].concat()),
            (LINK, named(&sub.to_le_bytes(), name)),
        ];
        for (operation, body) in requests {
            for parent in [1, sub] {
                // An empty second name is no second name, which the library refuses without a reply.
                let request = guest.request(operation, parent, &body);
                let reply = guest.raw(&request, 4096);
                let errno = reply.get(4..8).map(|b| -i32::from_le_bytes(b.try_into().expect("four bytes")));
                let refused = matches!(errno, None | Some(libc::EINVAL | libc::ENOENT));
                assert!(refused, "operation {operation} with {name:?}: {errno:?}");
            }
        }
    }
    assert_eq!(fs::read_to_string(place.secret()).expect("untouched"), "secret");
    assert_eq!(fs::read_dir(place.dir()).expect("a folder").count(), 2);
}

#[test]
fn a_link_out_of_the_directory_leads_nowhere() {
    let place = Place::new();
    symlink(place.secret(), place.dir().join("link")).expect("a link");
    symlink("/", place.dir().join("root")).expect("a link");
    symlink(place.0.path().join("made"), place.dir().join("dangling")).expect("a link");
    let mut guest = Guest::new(&place.dir(), &["--xattr"]);
    let link = guest.lookup(1, "link").expect("the link itself");
    assert_eq!(guest.open(link, libc::O_RDWR), Err(libc::ENXIO));
    let target = guest.call(READLINK, link, &[]);
    assert_eq!(Path::new(std::str::from_utf8(&target.body).expect("text")), place.secret());
    let root = guest.lookup(1, "root").expect("the link itself");
    assert_eq!(guest.lookup(root, "etc"), Err(libc::ENOTDIR));
    assert_eq!(guest.call(OPENDIR, root, &[0; 8]).errno, libc::ENOTDIR);
    // Mode, size.
    for (valid, expected) in [(1, libc::EOPNOTSUPP), (8, libc::ENXIO)] {
        let mut body = vec![0; 88];
        body[0] = valid;
        assert_eq!(guest.call(SETATTR, link, &body).errno, expected);
    }
    for flags in [0, libc::O_EXCL, libc::O_TRUNC, libc::O_PATH, libc::O_PATH | libc::O_EXCL, libc::O_TMPFILE]
    {
        for name in ["link", "dangling"] {
            let reply = guest.call(CREATE, 1, &create(libc::O_RDWR | libc::O_CREAT | flags, name));
            assert!(matches!(reply.errno, libc::ENXIO | libc::EEXIST), "{name} {flags:#o}: {}", reply.errno);
        }
    }
    assert!(!place.0.path().join("made").exists());
    assert_eq!(fs::read_to_string(place.secret()).expect("untouched"), "secret");
    // An attribute of the link is the link's, which may have none of a user's.
    let body = [words(&[1, 0]), b"user.a\0x".to_vec()].concat();
    assert_ne!(guest.call(SETXATTR, link, &body).errno, 0);
}

#[test]
fn a_link_that_comes_in_the_way_of_a_name_is_not_followed() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &[]);
    let sub = guest.lookup(1, "sub").expect("a folder");
    // The guest holds the folder by its node; on the host its name comes to lead elsewhere.
    fs::rename(place.dir().join("sub"), place.dir().join("moved")).expect("moved");
    symlink(place.0.path(), place.dir().join("sub")).expect("a link");
    assert_eq!(guest.lookup(sub, "secret"), Err(libc::ENOENT));
    let again = guest.lookup(1, "sub").expect("the link itself");
    assert_eq!(guest.lookup(again, "secret"), Err(libc::ENOTDIR));
    assert_eq!(number(&guest.call(CREATE, sub, &create(libc::O_RDWR, "made"))).map(|_| ()), Ok(()));
    assert!(place.dir().join("moved/made").exists());
}

#[test]
fn a_folder_moved_out_on_the_host_has_no_way_up() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &[]);
    let sub = guest.lookup(1, "sub").expect("a folder");
    fs::rename(place.dir().join("sub"), place.0.path().join("outside")).expect("moved");
    assert_eq!(guest.lookup(sub, ".."), Err(libc::EINVAL));
    assert_eq!(guest.lookup(sub, "../secret"), Err(libc::EINVAL));
}

#[test]
fn devices_pipes_and_sockets_are_seen_and_never_opened() {
    let place = Place::new();
    nix::unistd::mkfifo(&place.dir().join("pipe"), nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    let _socket = std::os::unix::net::UnixListener::bind(place.dir().join("socket")).expect("a socket");
    let mut guest = Guest::new(&place.dir(), &[]);
    for name in ["pipe", "socket"] {
        let node = guest.lookup(1, name).expect("it is there");
        assert_eq!(guest.open(node, libc::O_RDONLY), Err(libc::ENXIO));
        let reply = guest.call(CREATE, 1, &create(libc::O_RDWR, name));
        assert_eq!(reply.errno, libc::ENXIO);
    }
    for (kind, device) in [(libc::S_IFCHR, 0x103), (libc::S_IFBLK, 0x800), (libc::S_IFBLK, 0)] {
        let body = named(&words(&[kind | 0o666, device, 0, 0]), "node");
        assert_eq!(guest.call(MKNOD, 1, &body).errno, libc::EPERM);
    }
    assert!(!place.dir().join("node").exists());
}

#[test]
fn numbers_that_were_never_given_or_are_given_back_find_nothing() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &[]);
    let file = guest.lookup(1, "file").expect("a file");
    for forged in [0, file + 1, 1 << 32, u64::MAX] {
        assert_eq!(guest.call(GETATTR, forged, &[0; 16]).errno, libc::ESTALE);
        assert_eq!(guest.lookup(forged, "file"), Err(libc::ESTALE));
        assert_eq!(guest.open(forged, 0), Err(libc::ESTALE));
    }
    let handle = guest.open(file, libc::O_RDONLY).expect("open");
    let other = guest.lookup(1, "sub").expect("a folder");
    let read =
        |handle: u64| [handle.to_le_bytes().to_vec(), vec![0; 8], words(&[16, 0, 0, 0, 0, 0])].concat();
    for (node, handle) in [(other, handle), (file, handle + 1), (file, u64::MAX)] {
        assert_eq!(guest.call(READ, node, &read(handle)).errno, libc::EBADF);
        assert_eq!(guest.call(READDIR, node, &read(handle)).errno, libc::EBADF);
    }
    assert_eq!(guest.call(READ, file, &read(handle)).body, b"content");
    assert_eq!(guest.call(RELEASE, file, &[handle.to_le_bytes(), [0; 8], [0; 8]].concat()).errno, 0);
    assert_eq!(guest.call(READ, file, &read(handle)).errno, libc::EBADF);
    // More lookups forgotten than there were.
    let request = guest.request(FORGET, file, &u64::MAX.to_le_bytes());
    guest.raw(&request, 0);
    assert_eq!(guest.call(GETATTR, file, &[0; 16]).errno, libc::ESTALE);
    let request = guest.request(FORGET, 1, &u64::MAX.to_le_bytes());
    guest.raw(&request, 0);
    assert_eq!(guest.call(GETATTR, 1, &[0; 16]).errno, 0, "the directory itself stays");
}

#[test]
fn lengths_past_the_buffers_are_cut_or_refused() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &["--xattr"]);
    let file = guest.lookup(1, "file").expect("a file");
    let handle = guest.open(file, libc::O_RDWR).expect("open");
    let sized =
        |size: u32| [handle.to_le_bytes().to_vec(), vec![0; 8], words(&[size, 0, 0, 0, 0, 0])].concat();
    assert_eq!(guest.call(READ, file, &sized(u32::MAX)).body, b"content");
    let write = [sized(u32::MAX), b"new".to_vec()].concat();
    let written = guest.call(WRITE, file, &write);
    assert_eq!(
        (written.errno, &written.body[..4]),
        (0, &[3, 0, 0, 0][..]),
        "what came, not what was announced"
    );
    let folder = number(&guest.call(OPENDIR, 1, &[0; 8])).expect("open");
    let list = [folder.to_le_bytes().to_vec(), vec![0; 8], words(&[u32::MAX, 0, 0, 0, 0, 0])].concat();
    for operation in [READDIR, READDIRPLUS] {
        assert_eq!(guest.call(operation, 1, &list).errno, libc::ENOMEM);
    }
    assert_eq!(guest.call(GETXATTR, file, &named(&words(&[u32::MAX, 0]), "user.none")).errno, libc::ENODATA);
    // A head that announces more, or less, than there is; a reply's room too small for its head.
    let mut request = guest.request(LOOKUP, 1, b"file\0");
    for len in [0, 39, 40, 41, 4096, u32::MAX] {
        request[..4].copy_from_slice(&len.to_le_bytes());
        guest.raw(&request, 4096);
    }
    for room in [0, 1, 15, 16, 17] {
        let request = guest.request(LOOKUP, 1, b"file\0");
        assert!(guest.raw(&request, room).len() <= room as usize);
    }
    let request = guest.request(BATCH_FORGET, 0, &words(&[u32::MAX, 0]));
    guest.raw(&request, 0);
    assert_eq!(fs::read_to_string(place.dir().join("file")).expect("a file"), "newtent");
}

#[test]
fn buffers_outside_of_the_guests_memory_reach_nothing_and_the_guest_is_told_where_it_can_be() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &[]);
    let file = guest.lookup(1, "file").expect("a file");
    let handle = guest.open(file, libc::O_RDWR).expect("open");
    let body = [handle.to_le_bytes().to_vec(), vec![0; 8], words(&[4096, 0, 0, 0, 0, 0])].concat();
    // In no memory, out of it, over the hole between its regions, past the last address.
    let nowhere =
        [(1 << 40, 4096), ((1 << 20) - 100, 4096), (1 << 20, 1), (u64::MAX - 10, 100), (0x1000, 0xffff_0000)];
    let head = |len| Buffer { at: 0x1000, len, writable: false };
    let reply = |len| Buffer { at: 0x8000, len, writable: true };
    for (operation, (at, len)) in [READ, WRITE].into_iter().flat_map(|op| nowhere.map(|place| (op, place))) {
        let request = guest.request(operation, file, &body);
        let unique = &request[8..16];
        let refusal = [&words(&[16, (-libc::EFAULT).cast_unsigned()])[..], unique].concat();
        let mut send = |chain: &[Buffer]| {
            let memory = guest.ram.memory();
            memory.write_slice(&request, GuestAddress(0x1000)).expect("in memory");
            memory.write_slice(&[0x55; 32], GuestAddress(0x8000)).expect("in memory");
            drop(memory);
            let len = guest.chain(chain);
            let mut bytes = [0; 32];
            guest.ram.memory().read_slice(&mut bytes, GuestAddress(0x8000)).expect("in memory");
            (len, bytes)
        };
        let data = Buffer { at, len, writable: operation == READ };
        let (first, second) = if operation == READ { (reply(16), data) } else { (data, reply(16)) };
        let (len, bytes) = send(&[head(80), first, second]);
        assert_eq!((len, &bytes[..16]), (16, &refusal[..]), "operation {operation} at {at:#x}");
        assert_eq!(bytes[16..], [0x55; 16], "and no more is written");
        // Nowhere to answer, or nothing to say which request: a head of the request or of its reply that is in no memory
        // itself, is too short, or is not there.
        let gone = |writable| Buffer { at: 1 << 40, len: 80, writable };
        let silent = [
            vec![gone(false), reply(16)],
            vec![head(39), data, reply(16)],
            vec![head(80), gone(true)],
            vec![head(80), gone(true), reply(16)],
            vec![head(80), reply(15), gone(true)],
            vec![head(80), gone(false)],
        ];
        for chain in silent {
            // What can be read comes before what can be written.
            let (mut chain, last): (Vec<_>, Vec<_>) = chain.into_iter().partition(|buffer| !buffer.writable);
            chain.extend(last);
            let (len, bytes) = send(&chain);
            assert_eq!((len, bytes), (0, [0x55; 32]), "operation {operation} at {at:#x}");
        }
    }
    // A reply's head of which a part lies in memory is not written in part.
    let request = guest.request(READ, file, &body);
    guest.ram.memory().write_slice(&request, GuestAddress(0x1000)).expect("in memory");
    let end = Buffer { at: (1 << 20) - 8, len: 16, writable: true };
    assert_eq!(guest.chain(&[head(80), end]), 0);
    let last: u64 = guest.ram.memory().read_obj(GuestAddress((1 << 20) - 8)).expect("in memory");
    assert_eq!(last, 0);
    assert_eq!(guest.call(READ, file, &body).body, b"content", "and it serves on");
}

#[test]
fn a_name_that_the_host_turns_into_a_link_and_back_never_leads_out() {
    let place = Place::new();
    let (dir, swap) = (place.dir(), place.0.path().join("swap"));
    fs::create_dir(dir.join("sub/below")).expect("a folder");
    symlink(place.0.path(), &swap).expect("a link");
    let over = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let ends = over.clone();
    let racer = std::thread::spawn(move || {
        let exchange = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
        let (here, cwd) = (dir.join("sub"), nix::fcntl::AT_FDCWD);
        while !ends.load(std::sync::atomic::Ordering::Relaxed) {
            nix::fcntl::renameat2(cwd, &swap, cwd, &here, exchange).expect("exchanged");
        }
    });
    let mut guest = Guest::new(&place.dir(), &[]);
    let (mut folders, mut links, mut rounds) = (0, 0, 0);
    // A busy machine may not let the two race at once.
    let end = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while rounds < 3000 || folders.min(links) == 0 && std::time::Instant::now() < end {
        rounds += 1;
        let sub = guest.lookup(1, "sub").expect("one or the other");
        match guest.lookup(sub, "secret") {
            Err(libc::ENOENT) => folders += 1,
            Err(libc::ENOTDIR) => links += 1,
            other => panic!("{other:?}"),
        }
        let made = number(&guest.call(CREATE, sub, &create(libc::O_RDWR, "made")));
        assert!(matches!(made, Ok(_) | Err(libc::ENOTDIR | libc::EEXIST)), "{made:?}");
        let request = guest.request(UNLINK, sub, b"secret\0");
        guest.raw(&request, 4096);
    }
    over.store(true, std::sync::atomic::Ordering::Relaxed);
    racer.join().expect("it ended");
    assert!(folders > 0 && links > 0, "{folders} times the folder, {links} times the link");
    assert_eq!(fs::read_to_string(place.secret()).expect("untouched"), "secret");
    assert!(!place.0.path().join("made").exists());
}

#[test]
fn a_hundred_thousand_lookups_leave_no_descriptor_open() {
    let place = Place::new();
    for n in 0..100 {
        fs::write(place.dir().join(format!("f{n}")), "").expect("a file");
    }
    let mut guest = Guest::new(&place.dir(), &[]);
    // Other tests of this process have files of their own open.
    let open = || {
        let all = fs::read_dir("/proc/self/fd").expect("descriptors");
        let paths = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        paths.filter(|path| path.starts_with(place.dir())).count()
    };
    for _ in 0..1000 {
        for n in 0..100 {
            let node = guest.lookup(1, &format!("f{n}")).expect("a file");
            let request = guest.request(FORGET, node, &1u64.to_le_bytes());
            guest.raw(&request, 0);
        }
    }
    assert_eq!((guest.shared.nodes.len(), open()), (1, 1), "the directory alone");
}

#[test]
fn a_name_looked_up_again_is_what_the_host_has_made_of_it() {
    let place = Place::new();
    let (dir, other) = (place.dir(), place.0.path().join("other"));
    let mut guest = Guest::new(&dir, &[]);
    let first = guest.lookup(1, "file").expect("a file");
    assert_eq!(guest.lookup(1, "file"), Ok(first), "the same");
    assert_eq!(guest.shared.nodes.get(first).expect("it is known").lookups(), 2, "counted each time");
    fs::write(&other, "").expect("a file");
    fs::rename(&other, dir.join("file")).expect("another in its place");
    let second = guest.lookup(1, "file").expect("a file");
    assert_ne!(second, first);
    fs::rename(dir.join("file"), dir.join("sub/file")).expect("moved");
    assert_eq!(guest.lookup(1, "file"), Err(libc::ENOENT));
    let sub = guest.lookup(1, "sub").expect("a folder");
    assert_eq!(guest.lookup(sub, "file"), Ok(second), "known by another name");
    symlink("sub/file", dir.join("file")).expect("a link");
    let link = guest.lookup(1, "file").expect("a link");
    assert!(link != second && guest.shared.nodes.get(link).expect("it is known").is_link());
}

/// All entries of an open folder, listed with attributes: their nodes, where they have one, and their names, in order.
fn list(guest: &mut Guest, node: u64, folder: u64) -> (Vec<u64>, Vec<String>) {
    let (mut offset, mut nodes, mut names) = (0u64, Vec::new(), Vec::new());
    loop {
        let body = [folder.to_le_bytes(), offset.to_le_bytes()]
            .concat()
            .into_iter()
            .chain(words(&[1500, 0, 0, 0, 0, 0]));
        let body: Vec<u8> = body.collect();
        let list = guest.call(READDIRPLUS, node, &body).body;
        let mut rest = &list[..];
        while rest.len() >= 152 {
            let u64_at = |at: usize| u64::from_le_bytes(rest[at..at + 8].try_into().expect("eight bytes"));
            let len = u32::from_le_bytes(rest[144..148].try_into().expect("four bytes")) as usize;
            nodes.extend(Some(u64_at(0)).filter(|node| *node != 0));
            offset = u64_at(136);
            names.push(String::from_utf8_lossy(&rest[152..152 + len]).into_owned());
            rest = &rest[(152 + len).next_multiple_of(8)..];
        }
        if list.is_empty() {
            break;
        }
    }
    names.sort();
    (nodes, names)
}

#[test]
fn listing_a_folder_with_attributes_counts_what_it_gives_and_no_more() {
    let place = Place::new();
    for n in 0..50 {
        fs::write(place.dir().join(format!("f{n}")), "").expect("a file");
    }
    let mut guest = Guest::new(&place.dir(), &[]);
    let folder = number(&guest.call(OPENDIR, 1, &[0; 8])).expect("open");
    let (nodes, names) = list(&mut guest, 1, folder);
    let mut expected: Vec<String> = (0..50).map(|n| format!("f{n}")).collect();
    expected.extend([".", "..", "file", "sub"].map(str::to_owned));
    expected.sort();
    assert_eq!(names, expected);
    for node in nodes {
        let request = guest.request(FORGET, node, &1u64.to_le_bytes());
        guest.raw(&request, 0);
    }
    assert_eq!(guest.shared.nodes.len(), 1);
}

#[test]
fn what_cannot_be_looked_at_is_listed_by_its_name() {
    let place = Place::new();
    let sub = place.dir().join("sub");
    ["a", "b"].iter().for_each(|name| fs::write(sub.join(name), "").expect("a file"));
    let mode = |mode| fs::set_permissions(&sub, fs::Permissions::from_mode(mode)).expect("it is ours");
    // In a thread of its own, for rights are a thread's.
    let seen = std::thread::scope(|scope| {
        let look = || {
            let mut guest = Guest::new(&place.dir(), &[]);
            let node = guest.lookup(1, "sub").expect("a folder");
            let handle = number(&guest.call(OPENDIR, node, &[0; 8])).expect("open");
            for right in [Capability::CAP_DAC_OVERRIDE, Capability::CAP_DAC_READ_SEARCH] {
                caps::drop(None, CapSet::Effective, right).expect("a right less");
            }
            mode(0o400);
            (guest.lookup(node, "a"), list(&mut guest, node, handle))
        };
        scope.spawn(look).join()
    });
    mode(0o700);
    let (found, (nodes, names)) = seen.expect("it was listed");
    assert_eq!(found, Err(libc::EACCES), "this folder lets nobody look at its entries");
    assert_eq!((nodes, names), (vec![], [".", "..", "a", "b"].map(str::to_owned).to_vec()));
}

#[test]
fn no_entry_of_a_folder_is_read_that_its_reply_has_no_room_for() {
    let place = Place::new();
    for len in [1, 4, 5, 8, 12, 13, 36, 200] {
        let folder = place.dir().join(format!("{len:0>len$}"));
        fs::create_dir(&folder).expect("a folder");
        (0..10)
            .for_each(|n| fs::write(folder.join(format!("{n}{}", "x".repeat(len - 1))), "").expect("a file"));
        (10..200).for_each(|n| fs::write(folder.join(format!("{n:0>len$}")), "").expect("a file"));
    }
    let mut guest = Guest::new(&place.dir(), &[]);
    for (len, operation) in
        [1, 4, 5, 8, 12, 13, 36, 200].into_iter().flat_map(|l| [(l, READDIR), (l, READDIRPLUS)])
    {
        let node = guest.lookup(1, &format!("{len:0>len$}")).expect("a folder");
        let handle = number(&guest.call(OPENDIR, node, &[0; 8])).expect("open");
        let mut offset = 0_u64;
        loop {
            let body =
                [handle.to_le_bytes().to_vec(), offset.to_le_bytes().to_vec(), words(&[4096, 0, 0, 0, 0, 0])];
            let list = guest.call(operation, node, &body.concat()).body;
            // An entry begins with its attributes, if it has them; then number, next place, length, kind and name.
            let head = if operation == READDIRPLUS { 128 } else { 0 };
            let mut rest = &list[..];
            while let [_, ..] = rest {
                offset = u64::from_le_bytes(rest[head + 8..head + 16].try_into().expect("eight bytes"));
                let name = u32::from_le_bytes(rest[head + 16..head + 20].try_into().expect("four bytes"));
                rest = &rest[(head + 24 + name as usize).next_multiple_of(8)..];
            }
            let mut file = &guest.shared.handles.get(handle, node).expect("it is open").file;
            let at = std::io::Seek::stream_position(&mut file).expect("a place");
            if list.is_empty() {
                break;
            }
            assert_eq!(at, offset, "operation {operation}, names of {len} bytes");
        }
    }
}

#[test]
fn extended_attributes_come_back_where_they_are_passed_on() {
    let place = Place::on_disk();
    let set = [words(&[5, 0]), b"user.a\0value".to_vec()].concat();
    let get = |size: u32| named(&words(&[size, 0]), "user.a");
    let mut guest = Guest::new(&place.dir(), &["--xattr"]);
    let file = guest.lookup(1, "file").expect("a file");
    assert_eq!(guest.call(SETXATTR, file, &set).errno, 0);
    assert_eq!(guest.call(GETXATTR, file, &get(0)).body[..4], [5, 0, 0, 0]);
    assert_eq!(guest.call(GETXATTR, file, &get(64)).body, b"value");
    assert_eq!(guest.call(GETXATTR, file, &get(2)).errno, libc::ERANGE);
    let list = guest.call(LISTXATTR, file, &words(&[256, 0])).body;
    assert!(list.split(|b| *b == 0).any(|name| name == b"user.a"), "{list:?}");
    assert_eq!(guest.call(REMOVEXATTR, file, &named(&[], "user.a")).errno, 0);
    assert_eq!(guest.call(GETXATTR, file, &get(64)).errno, libc::ENODATA);
    let mut guest = Guest::new(&place.dir(), &[]);
    let file = guest.lookup(1, "file").expect("a file");
    assert_eq!(guest.call(GETXATTR, file, &get(64)).errno, libc::ENOSYS);
}

#[test]
fn a_read_only_share_is_read_only() {
    let place = Place::new();
    let mut guest = Guest::new(&place.dir(), &["--readonly", "--xattr"]);
    let file = guest.lookup(1, "file").expect("a file");
    for flags in [libc::O_WRONLY, libc::O_RDWR, libc::O_TRUNC] {
        assert_eq!(guest.open(file, flags), Err(libc::EROFS));
    }
    let requests = [
        (CREATE, 1, create(libc::O_RDONLY, "new")),
        (MKDIR, 1, named(&words(&[0o755, 0]), "new")),
        (UNLINK, 1, named(&[], "file")),
        (LINK, 1, named(&file.to_le_bytes(), "new")),
        (SETATTR, file, vec![1; 88]),
        (SETXATTR, file, [words(&[1, 0]), b"user.a\0x".to_vec()].concat()),
    ];
    for (operation, node, body) in requests {
        assert_eq!(guest.call(operation, node, &body).errno, libc::EROFS, "operation {operation}");
    }
    assert!(guest.open(file, libc::O_RDONLY).is_ok());
}

#[test]
fn what_a_user_makes_is_that_users() {
    let place = Place::new();
    fs::set_permissions(place.dir(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("set");
    let mut guest = Guest::new(&place.dir(), &[]);
    guest.user = 1234;
    if !nix::unistd::geteuid().is_root() {
        // Who cannot be anybody else makes no file in his own name instead.
        let refused = number(&guest.call(CREATE, 1, &create(libc::O_RDWR, "theirs")));
        assert_eq!(refused, Err(libc::EPERM));
        assert!(!place.dir().join("theirs").exists());
        return;
    }
    // The guest's kernel has judged that it may.
    assert!(number(&guest.call(CREATE, 1, &create(libc::O_RDWR, "theirs"))).is_ok());
    assert_eq!(guest.call(MKDIR, 1, &named(&words(&[0o700, 0]), "folder")).errno, 0);
    for name in ["theirs", "folder"] {
        let meta = fs::metadata(place.dir().join(name)).expect("it is there");
        assert_eq!((meta.uid(), meta.gid()), (1234, 1234), "{name}");
    }
    guest.user = 0;
    assert!(number(&guest.call(CREATE, 1, &create(libc::O_RDWR, "roots"))).is_ok());
    assert_eq!(fs::metadata(place.dir().join("roots")).expect("it is there").uid(), 0);
}
