//! Devices compared: ours and those of QEMU's q35, machines in turn, one at a time, each of which does all
//! work some times.
//!
//! `cargo xtask bench devices` runs it in the closed test bed on the instruction clock. It says in the environment what
//! to boot (`KIWI_VMM`, `KIWI_QEMU`, `KIWI_KERNEL`, `KIWI_INITRD`, `KIWI_CMDLINE`) and which work to do (`KIWI_ONLY`, part of its
//! name), and there are two taps, `tap1` and
//! `tap2`, which have the addresses 10.0.1.1/24 and 10.0.2.1/24.
//!
//! Beside criterion's own output there are lines of JSON (`benches::DeviceLine`): for each kind of work, and at the end
//! for the memory of each machine.
#![allow(missing_docs)] // criterion's macros make public items
#![allow(clippy::panic)] // a benchmark that cannot run has nothing to measure

mod given;
mod interleaved;

use std::io;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use benches::load::{self, BURST, Disk, Order};
use benches::{Beside, Compared, DeviceLine, Devices, Machine, Subject, Times};
use criterion::{Criterion, criterion_group, criterion_main};
use given::{given, guest};

/// A boot that takes this long hangs.
const DEADLINE: Duration = Duration::from_secs(30);
/// What is left to do of the work before is done in this time.
const REST: Duration = Duration::from_millis(5);
/// Runs of each kind of work in a machine's life: as many as criterion wants, so that one life does for each.
const RUNS: usize = 11;
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
    output: PathBuf,
}

impl Contestant {
    fn new(number: u8, mut subject: Subject, words: fn(&Devices) -> Vec<String>) -> Self {
        let dir = std::env::temp_dir();
        let image = dir.join(format!("disk{number}"));
        load::image(&image, DISK).unwrap_or_else(|why| panic!("{}: {why}", image.display()));
        let devices = Devices::new(number, &image);
        subject.words.extend(words(&devices));
        Self { subject, devices, output: dir.join(format!("machine{number}.log")) }
    }

    /// One machine's life: all of `works`, and the memory it had then.
    fn turn(&self, works: &[Work]) -> (Vec<Vec<Duration>>, Beside) {
        let name = &self.subject.name;
        let mut machine = Machine::start(&self.subject, &self.devices, &self.output, DEADLINE)
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
        (done, beside)
    }
}

fn contestants() -> Vec<Contestant> {
    let (guest, vmm) = (guest(), PathBuf::from(given("KIWI_VMM")));
    let qemu: Vec<String> = given("KIWI_QEMU").split_whitespace().map(str::to_owned).collect();
    vec![
        Contestant::new(1, Subject::kiwi("kiwi", &vmm, &guest), Devices::kiwi),
        Contestant::new(2, Subject::q35(&qemu, &guest), Devices::qemu),
    ]
}

fn devices(criterion: &mut Criterion) {
    let only = given("KIWI_ONLY");
    let works: Vec<Work> = WORKS.into_iter().filter(|work| work.name.contains(&only)).collect();
    if works.is_empty() {
        panic!("no work is called anything with {only:?}");
    }
    let contestants = contestants();
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
    (work.run)(machine, work.pieces)?;
    (0..RUNS).map(|_| time(work, machine)).collect()
}

fn time(work: &Work, machine: &mut Machine) -> io::Result<Duration> {
    std::thread::sleep(REST);
    let start = Instant::now();
    (work.run)(machine, work.pieces)?;
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
