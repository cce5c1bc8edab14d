//! Devices compared: ours and those of QEMU's q35, machines in turn, one at a time, each of which does all
//! work some times.
//!
//! `cargo xtask bench devices` and `files` run it in the closed test bed on the instruction clock. They say in the
//! environment what to boot (`KIWI_VMM`, `KIWI_QEMU`, `KIWI_KERNEL`, `KIWI_INITRD`, `KIWI_CMDLINE`) and which work to do:
//! `KIWI_WHAT`, `devices` or `files`, and `KIWI_ONLY`, part of its name.
//!
//! For devices there are two taps, `tap1` and `tap2`, which have the addresses 10.0.1.1/24 and 10.0.2.1/24; for files the
//! daemons that serve them, ours (`KIWI_VIRTIOFSD`) with our VMM and the other (`KIWI_OTHER_VIRTIOFSD`) with QEMU.
//!
//! Beside criterion's own output there are lines of JSON (`benches::DeviceLine`): for each kind of work, and at the end
//! for the memory of each machine.
#![allow(missing_docs)] // criterion's macros make public items
#![allow(clippy::panic)] // a benchmark that cannot run has nothing to measure

mod given;
mod interleaved;

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use benches::load::{self, BURST, Disk, Files, Kind, Order};
use benches::{Beside, Compared, DeviceLine, Devices, Machine, Subject, Times};
use criterion::{Criterion, criterion_group, criterion_main};
use given::{given, guest};
use tests::{Server, Share};

/// A boot that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(120);
/// What is left to do of the work before is done in this time.
const REST: Duration = Duration::from_millis(5);
/// Runs of each kind of work in a machine's life: as many as criterion wants, so that one life does.
const RUNS: usize = 11;
/// The same of files, for which more lives than one do: on the wall's clock what disturbs a life disturbs all its work.
const RUNS_OF_FILES: usize = 6;
/// Bytes of a disk.
const DISK: u64 = 64 << 20;
const BLOCK: usize = 4096;
const LARGE: usize = 128 << 10;

/// Work, what its pieces are called, how many there are, and how to do it.
struct Work {
    name: &'static str,
    piece: &'static str,
    pieces: u64,
    how: How,
}

enum How {
    /// The host has a part in it.
    Both(fn(&mut Machine, u64) -> io::Result<()>),
    /// The guest does it alone, in the directory that it shares.
    Files(Kind),
}

const fn work(
    name: &'static str,
    piece: &'static str,
    pieces: u64,
    run: fn(&mut Machine, u64) -> io::Result<()>,
) -> Work {
    Work { name, piece, pieces, how: How::Both(run) }
}

const fn files(name: &'static str, piece: &'static str, pieces: u64, kind: Kind) -> Work {
    Work { name, piece, pieces, how: How::Files(kind) }
}

impl Work {
    /// Does what comes before, which takes as long as it takes.
    fn prepare(&self, machine: &mut Machine) -> io::Result<()> {
        match self.how {
            How::Both(_) => Ok(()),
            How::Files(kind) => {
                machine.ask(&Order::Files(Files { kind, pieces: self.pieces, prepare: true }))
            }
        }
    }

    fn run(&self, machine: &mut Machine) -> io::Result<()> {
        match self.how {
            How::Both(run) => run(machine, self.pieces),
            How::Files(kind) => {
                machine.ask(&Order::Files(Files { kind, pieces: self.pieces, prepare: false }))
            }
        }
    }
}

const DEVICES: [Work; 14] = [
    work("TCP, host to guest", "KiB", 16 << 10, |m, n| load::push(&m.tcp(load::DRAIN), n << 10)),
    work("TCP, guest to host", "KiB", 16 << 10, |m, n| load::pull(&m.tcp(load::SOURCE), n << 10)),
    work("TCP ping-pong", "round trip", 200, |m, n| ping(&m.tcp(load::ECHO), n)),
    work("UDP, host to guest", "datagram", 1024, |m, n| m.datagrams()?.push(bursts(n))),
    work("UDP, guest to host", "datagram", 1024, |m, n| m.datagrams()?.pull(bursts(n))),
    work("vsock, host to guest", "KiB", 16 << 10, |m, n| load::push(&m.vsock(load::DRAIN), n << 10)),
    work("vsock, guest to host", "KiB", 16 << 10, |m, n| load::pull(&m.vsock(load::SOURCE), n << 10)),
    work("vsock ping-pong", "round trip", 200, |m, n| ping(&m.vsock(load::ECHO), n)),
    work("disk, random reads of 4 KiB", "request", 400, |m, n| disk(m, false, true, BLOCK, n, 1)),
    work("disk, random writes of 4 KiB", "request", 400, |m, n| disk(m, true, true, BLOCK, n, 1)),
    work("disk, random reads of 4 KiB by 8", "request", 400, |m, n| disk(m, false, true, BLOCK, n, 8)),
    work("disk, random writes of 4 KiB by 8", "request", 400, |m, n| disk(m, true, true, BLOCK, n, 8)),
    work("disk, sequential reads of 128 KiB", "request", 100, |m, n| disk(m, false, false, LARGE, n, 1)),
    work("disk, sequential writes of 128 KiB", "request", 100, |m, n| disk(m, true, false, LARGE, n, 1)),
];

const FILES: [Work; 9] = [
    files("sequential reads of 128 KiB", "request", 100, Kind::Read),
    files("sequential writes of 128 KiB", "request", 100, Kind::Write),
    files("random reads of 4 KiB", "request", 400, Kind::ReadRandom),
    files("random writes of 4 KiB", "request", 400, Kind::WriteRandom),
    files("files created", "file", 200, Kind::Create),
    files("files looked at", "file", 200, Kind::Stat),
    files("a folder listed with attributes", "file", 200, Kind::List),
    files("files removed", "file", 200, Kind::Unlink),
    files("compiling", "unit", 20, Kind::Build),
];

fn bursts(datagrams: u64) -> u32 {
    u32::try_from(datagrams).unwrap_or(u32::MAX) / BURST
}

fn ping(address: &tests::peer::Address, n: u64) -> io::Result<()> {
    tests::peer::ping(address.reach(), usize::try_from(n).unwrap_or(usize::MAX));
    Ok(())
}

fn disk(m: &mut Machine, write: bool, random: bool, bytes: usize, n: u64, threads: u64) -> io::Result<()> {
    m.ask(&Order::Disk(Disk { write, random, bytes, requests: n / threads, threads }))
}

/// A VMM with its devices, and where its guest and it write.
struct Contestant {
    subject: Subject,
    devices: Devices,
    share: Option<Sharing>,
    output: PathBuf,
}

/// Whose daemon serves a directory, and the words for it.
type Sharing = (Server, fn(&Devices, &Path, u32) -> Vec<String>);

impl Contestant {
    fn new(number: u8, mut subject: Subject, words: fn(&Devices) -> Vec<String>) -> Self {
        let dir = std::env::temp_dir();
        let image = dir.join(format!("disk{number}"));
        load::image(&image, DISK).unwrap_or_else(|why| panic!("{}: {why}", image.display()));
        let devices = Devices::new(number, &image);
        subject.words.extend(words(&devices));
        Self { subject, devices, share: None, output: dir.join(format!("machine{number}.log")) }
    }

    /// One with a shared directory and next to nothing else.
    fn sharing(number: u8, subject: Subject, sharing: Sharing) -> Self {
        let output = std::env::temp_dir().join(format!("machine{number}.log"));
        Self { subject, devices: Devices::new(number, Path::new("")), share: Some(sharing), output }
    }

    /// One machine's life: all of `works`, and the memory it had then.
    fn turn(&self, works: &[Work]) -> (Vec<Vec<Duration>>, Beside) {
        let (name, mut subject) = (&self.subject.name, self.subject.clone());
        let share = self.share.map(|(server, words)| {
            let share = Share::by(server, &[]);
            subject.words.extend(words(&self.devices, &share.socket(), guest().mib));
            share
        });
        let mut machine = Machine::start(&subject, &self.devices, &self.output, DEADLINE)
            .unwrap_or_else(|why| panic!("{why}"));
        let mut done = Vec::new();
        for work in works {
            let times = times(work, &mut machine);
            let failed = |why| panic!("{name}: {}: {why}; it said:\n{}", work.name, machine.said());
            done.push(times.unwrap_or_else(failed));
            // A line in a while is what tells that the bed lives.
            println!("{name}: {}", work.name);
        }
        let beside = machine.memory(guest().mib).unwrap_or_else(|why| panic!("{name}: {why}"));
        machine.end().unwrap_or_else(|why| panic!("{why}"));
        if let Some(share) = share {
            share.end().assert_status(0);
        }
        (done, beside)
    }
}

fn contestants(files: bool) -> Vec<Contestant> {
    let (guest, vmm) = (guest(), PathBuf::from(given("KIWI_VMM")));
    let qemu: Vec<String> = given("KIWI_QEMU").split_whitespace().map(str::to_owned).collect();
    let (kiwi, q35) = (Subject::kiwi("kiwi", &vmm, &guest), Subject::q35(&qemu, &guest));
    if files {
        let ours = Contestant::sharing(1, kiwi, (Server::Ours, Devices::kiwi_sharing));
        return vec![ours, Contestant::sharing(2, q35, (Server::Theirs, Devices::qemu_sharing))];
    }
    vec![Contestant::new(1, kiwi, Devices::kiwi), Contestant::new(2, q35, Devices::qemu)]
}

fn devices(criterion: &mut Criterion) {
    let (only, is_files) = (given("KIWI_ONLY"), given("KIWI_WHAT") == "files");
    let all: Vec<Work> = if is_files { FILES.into() } else { DEVICES.into() };
    let works: Vec<Work> = all.into_iter().filter(|work| work.name.contains(&only)).collect();
    if works.is_empty() {
        panic!("no work is called anything with {only:?}");
    }
    let contestants = contestants(is_files);
    let mut memory: Vec<Beside> = vec![Beside::default(); contestants.len()];
    let names: Vec<_> = contestants.iter().map(|one| one.subject.name.clone()).collect();
    let titles: Vec<_> = works.iter().map(|work| work.name).collect();
    let runs = interleaved::measure(criterion, &titles, &names, |at| {
        let contestant = contestants.get(at).unwrap_or_else(|| panic!("nobody is {at}"));
        let (done, beside) = contestant.turn(&works);
        memory.iter_mut().skip(at).take(1).for_each(|last| *last = beside);
        done
    });
    works.iter().zip(runs).for_each(|(work, runs)| say(&DeviceLine::Compared(compared(work, &names, runs))));
    let all = names.into_iter().zip(memory);
    all.for_each(|(subject, beside)| say(&DeviceLine::Memory { subject, beside }));
}

/// Runs of one kind of work; the first warms up and does not count.
fn times(work: &Work, machine: &mut Machine) -> io::Result<Vec<Duration>> {
    work.prepare(machine)?;
    work.run(machine)?;
    let runs = if let How::Files(_) = work.how { RUNS_OF_FILES } else { RUNS };
    (0..runs).map(|_| time(work, machine)).collect()
}

fn time(work: &Work, machine: &mut Machine) -> io::Result<Duration> {
    work.prepare(machine)?;
    std::thread::sleep(REST);
    let start = Instant::now();
    work.run(machine)?;
    Ok(start.elapsed())
}

fn compared(work: &Work, names: &[String], runs: Vec<Vec<u64>>) -> Compared {
    let times = names.iter().zip(runs);
    let times = times.map(|(subject, nanoseconds)| Times { subject: subject.clone(), nanoseconds }).collect();
    Compared { work: work.name.to_owned(), piece: work.piece.to_owned(), pieces: work.pieces, times }
}

fn say(line: &DeviceLine) {
    println!("{}", serde_json::to_string(line).unwrap_or_else(|why| panic!("{why}")));
}

criterion_group!(all, devices);
criterion_main!(all);
