//! Devices compared: ours and those of QEMU's q35, two machines side by side, one piece of work on each in turn.
//!
//! `cargo xtask bench devices` runs it in the closed test bed on the instruction clock. It says in the environment what
//! to boot (`KIWI_VMM`, `KIWI_QEMU`, `KIWI_KERNEL`, `KIWI_INITRD`, `KIWI_CMDLINE`), and there are two taps, `tap1` and
//! `tap2`, which have the addresses 10.0.1.1/24 and 10.0.2.1/24.
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

use benches::load::{self, BURST, Disk, Order};
use benches::{Compared, DeviceLine, Devices, Machine, Subject, Times};
use criterion::{Criterion, criterion_group, criterion_main};
use given::{given, guest};

/// A boot that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(30);
/// What is left to do of the work before is done in this time.
const REST: Duration = Duration::from_millis(5);
/// Bytes of a disk.
const DISK: u64 = 64 << 20;
const BLOCK: usize = 4096;
const LARGE: usize = 128 << 10;

/// Work, what its pieces are called, how many there are, and how to do it.
struct Work {
    name: &'static str,
    piece: &'static str,
    pieces: u64,
    run: fn(&mut Machine, u64) -> io::Result<()>,
}

const fn work(
    name: &'static str,
    piece: &'static str,
    pieces: u64,
    run: fn(&mut Machine, u64) -> io::Result<()>,
) -> Work {
    Work { name, piece, pieces, run }
}

const WORKS: [Work; 14] = [
    work("TCP, host to guest", "KiB", 32 << 10, |m, n| load::push(&m.tcp(load::DRAIN), n << 10)),
    work("TCP, guest to host", "KiB", 32 << 10, |m, n| load::pull(&m.tcp(load::SOURCE), n << 10)),
    work("UDP, host to guest", "datagram", 2048, |m, n| m.datagrams()?.push(bursts(n))),
    work("UDP, guest to host", "datagram", 2048, |m, n| m.datagrams()?.pull(bursts(n))),
    work("vsock, host to guest", "KiB", 32 << 10, |m, n| load::push(&m.vsock(load::DRAIN), n << 10)),
    work("vsock, guest to host", "KiB", 32 << 10, |m, n| load::pull(&m.vsock(load::SOURCE), n << 10)),
    work("disk, random reads of 4 KiB", "request", 1000, |m, n| disk(m, false, true, BLOCK, n, 1)),
    work("disk, random writes of 4 KiB", "request", 1000, |m, n| disk(m, true, true, BLOCK, n, 1)),
    work("disk, random reads of 4 KiB by 8", "request", 1000, |m, n| disk(m, false, true, BLOCK, n, 8)),
    work("disk, random writes of 4 KiB by 8", "request", 1000, |m, n| disk(m, true, true, BLOCK, n, 8)),
    work("disk, sequential reads of 128 KiB", "request", 300, |m, n| disk(m, false, false, LARGE, n, 1)),
    work("disk, sequential writes of 128 KiB", "request", 300, |m, n| disk(m, true, false, LARGE, n, 1)),
    work("TCP ping-pong", "round trip", 50, |m, n| ping(&m.tcp(load::ECHO), n)),
    work("vsock ping-pong", "round trip", 50, |m, n| ping(&m.vsock(load::ECHO), n)),
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

/// Ours and QEMU's, at work.
fn machines() -> Vec<(String, Machine)> {
    let (guest, dir) = (guest(), std::env::temp_dir());
    let qemu: Vec<String> = given("KIWI_QEMU").split_whitespace().map(str::to_owned).collect();
    let vmm = PathBuf::from(given("KIWI_VMM"));
    let subjects = [Subject::kiwi("kiwi", &vmm, &guest), Subject::q35(&qemu, &guest)];
    let words: [fn(&Devices) -> Vec<String>; 2] = [Devices::kiwi, Devices::qemu];
    (1..).zip(subjects).zip(words).map(|((number, s), words)| start(number, s, words, &dir)).collect()
}

fn start(
    number: u8,
    mut subject: Subject,
    words: fn(&Devices) -> Vec<String>,
    dir: &Path,
) -> (String, Machine) {
    let image = dir.join(format!("disk{number}"));
    load::image(&image, DISK).unwrap_or_else(|why| panic!("{}: {why}", image.display()));
    let devices = Devices::new(number, &image);
    subject.words.extend(words(&devices));
    let output = dir.join(format!("machine{number}.log"));
    let machine = Machine::start(&subject, &devices, &output, DEADLINE);
    (subject.name, machine.unwrap_or_else(|why| panic!("{why}")))
}

fn devices(criterion: &mut Criterion) {
    let mut machines = machines();
    let names: Vec<_> = machines.iter().map(|(name, _)| name.clone()).collect();
    for work in WORKS {
        let runs = interleaved::measure(criterion, work.name, &names, |at| {
            let (name, machine) = machines.get_mut(at).unwrap_or_else(|| panic!("no machine {at}"));
            time(&work, machine).unwrap_or_else(|why| panic!("{name}: {}: {why}", work.name))
        });
        if let Some(compared) = compared(&work, &names, runs) {
            say(&DeviceLine::Compared(compared));
        }
    }
    for (subject, machine) in machines {
        let beside = machine.memory(guest().mib).unwrap_or_else(|why| panic!("{subject}: {why}"));
        say(&DeviceLine::Memory { subject, beside });
        machine.end().unwrap_or_else(|why| panic!("{why}"));
    }
}

fn time(work: &Work, machine: &mut Machine) -> io::Result<Duration> {
    std::thread::sleep(REST);
    let start = Instant::now();
    (work.run)(machine, work.pieces)?;
    Ok(start.elapsed())
}

/// All runs of a kind of work; nothing of what criterion was told to leave out.
fn compared(work: &Work, names: &[String], runs: Vec<Vec<u64>>) -> Option<Compared> {
    // The first run of each warms up.
    let times = names.iter().zip(runs).map(|(subject, runs)| Times {
        subject: subject.clone(),
        nanoseconds: runs.into_iter().skip(1).collect(),
    });
    let times: Vec<Times> = times.filter(|times| !times.nanoseconds.is_empty()).collect();
    let (work, piece, pieces) = (work.name.to_owned(), work.piece.to_owned(), work.pieces);
    (!times.is_empty()).then_some(Compared { work, piece, pieces, times })
}

fn say(line: &DeviceLine) {
    println!("{}", serde_json::to_string(line).unwrap_or_else(|why| panic!("{why}")));
}

criterion_group!(all, devices);
criterion_main!(all);
