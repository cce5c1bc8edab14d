//! What POSIX and Linux promise of files, in shared directories: `posix` (src/bin/posix) run in the guest, with both
//! daemons. One machine has many directories, each with a daemon of its own, which a boot each would take too long for.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // tests say what they expect by failing

use std::process::Command;

use tests::{Server, Share, TestVm};

/// Cache and threads: every mode, one thread and many, all together a machine's.
const SOME: [&[&str]; 4] = [
    &["--cache=never", "--thread-pool-size=8"],
    &["--cache=auto", "--thread-pool-size=1"],
    &["--cache=always", "--thread-pool-size=8"],
    &["--cache=always", "--thread-pool-size=1", "--writeback"],
];

/// Both words of every pair.
fn all() -> Vec<Vec<&'static str>> {
    let threads = ["--thread-pool-size=0", "--thread-pool-size=1", "--thread-pool-size=8"];
    let pairs = ["never", "auto", "always"].map(|cache| threads.map(|threads| (cache, threads)));
    let words = |(cache, threads)| match cache {
        "never" => vec!["--cache=never", threads],
        "auto" => vec!["--cache=auto", threads],
        _ => vec!["--cache=always", threads],
    };
    pairs.into_iter().flatten().map(words).collect()
}

#[derive(Clone, Copy)]
enum Place {
    Tmpfs,
    Disk,
}

fn shares(server: Server, place: Place, list: &[&[&str]]) -> Vec<Share> {
    let share = |words: &&[&str]| {
        let words = [*words, &["--xattr", "--posix-acl"]].concat();
        match place {
            Place::Tmpfs => Share::by(server, &words),
            Place::Disk => Share::on_disk(64, server, &words),
        }
    };
    list.iter().map(share).collect()
}

/// A machine that has them all, from /mnt0 on.
fn machine(transport: &str, shares: &[Share]) -> TestVm {
    let vm = TestVm::boot().serial("null").flag("--console", "stdio").flag("--transport", transport);
    let vm = vm.program("bin/posix", tests::program("posix"));
    let give = |vm, (n, share): (usize, &Share)| share.given_to(vm, &format!("tag{n}"), &format!("/mnt{n}"));
    shares.iter().enumerate().fold(vm, give)
}

fn probe(share: &Share) -> String {
    let probe =
        Command::new(tests::program("posix")).arg("probe").arg(share.dir()).output().expect("it runs");
    assert!(probe.status.success(), "{probe:?}");
    String::from_utf8(probe.stdout).expect("words").trim().to_owned()
}

/// Checks everything in each of the shares, in as many directories as words are listed.
fn holds(transport: &str, server: Server, place: Place, list: &[&[&str]], patience: u64) {
    let shares = shares(server, place, list);
    let has = probe(&shares[0]);
    let wanted: &[&str] =
        if matches!(place, Place::Disk) { &["attributes", "acls", "zeroes"] } else { &["acls"] };
    assert!(wanted.iter().all(|word| has.contains(word)), "the host's file system has only {has}");
    // A thread of virtiofsd 1.14 that has once acted for another user believes for ever that it has no CAP_FSETID to
    // drop (libcap-ng remembers what it had in that moment), so it takes set-user-id bits away no more.
    let modest = if server == Server::Ours { "modesty" } else { "" };
    let check = |n| format!("echo == {n}; posix check /mnt{n} {has} {modest} || exit 1\n");
    let script = (0..list.len()).map(check).collect::<String>();
    let outcome = machine(transport, &shares).within(patience).command(&["sh", "-c", &script]).run();
    let passed = outcome.output.matches("all is as it should be\n").count();
    assert!(
        outcome.status.success() && passed == list.len(),
        "{server:?} over {transport}: {passed} of {list:?}: {outcome}"
    );
}

#[test]
fn files_of_a_disk_do_in_the_guest_what_posix_says() {
    holds("pci", Server::Ours, Place::Disk, &SOME, 500);
}

#[test]
fn files_of_a_tmpfs_do_in_the_guest_what_posix_says() {
    holds("mmio", Server::Ours, Place::Tmpfs, &SOME, 500);
}

#[test]
fn files_of_another_daemon_do_in_the_guest_what_posix_says() {
    holds("pci", Server::Theirs, Place::Disk, &SOME, 500);
}

#[test]
#[ignore = "every cache, every number of threads, both transports and daemons take minutes; --ignored runs it"]
fn files_do_what_posix_says_in_every_cache_and_with_every_number_of_threads() {
    let all = all();
    let all: Vec<&[&str]> = all.iter().map(Vec::as_slice).collect();
    for server in Server::ALL {
        for transport in ["pci", "mmio"] {
            holds(transport, server, Place::Disk, &all, 1200);
            println!("{server:?} over {transport}: all {} hold", all.len());
        }
    }
}

/// Ten seconds in each of five directories. `KIWI_FSX_SECONDS` makes them more, `KIWI_FSX_SEED` others.
#[test]
fn random_use_of_a_file_agrees_with_a_model() {
    let number = |name, usual| std::env::var(name).map_or(usual, |text| text.parse().expect("a number"));
    let (seconds, seed) = (number("KIWI_FSX_SECONDS", 10), number("KIWI_FSX_SEED", 1));
    let theirs: [&[&str]; 1] = [&["--cache=auto", "--thread-pool-size=8"]];
    let mut shares = shares(Server::Ours, Place::Tmpfs, &SOME);
    shares.extend(self::shares(Server::Theirs, Place::Tmpfs, &theirs));
    let run = |n| format!("posix random /mnt{n} {seconds} {seed} & ids=\"$ids $!\"\n");
    let script = (0..shares.len()).map(run).collect::<String>();
    let script = format!("{script}for id in $ids; do wait $id || exit 1; done; echo all of them");
    let vm = machine("pci", &shares).within(300 + 2 * seconds);
    let outcome = vm.command(&["sh", "-c", &script]).run();
    assert!(outcome.assert_status(0).output.ends_with("all of them\n"), "seed {seed}: {outcome}");
    println!("{}", outcome.output);
    // Where files are cached, mappings are written, too.
    let written =
        outcome.output.lines().filter(|line| line.contains("steps") && !line.contains(" 0 written"));
    assert_eq!(written.count(), 4, "{outcome}");
}
