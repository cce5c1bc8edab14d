use super::*;
use crate::confine::Confinement;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::mpsc;

fn temp(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("kiwi-chardev-{name}-{}", std::process::id()))
}

#[test]
fn a_file_gets_every_byte_before_the_pump_is_gone() {
    let path = temp("file");
    let dev = Chardev::new(Target::file(&path).expect("opens")).expect("made");
    let mut out = dev.output();
    let pump = dev.start("test", &Confinement::none()).expect("starts");
    out.write(b"hello ");
    out.write(&[b'x'; 10_000]);
    drop(pump);
    let text = std::fs::read(&path).expect("reads");
    std::fs::remove_file(&path).expect("removes");
    assert_eq!(text.len(), 10_006);
    assert!(text.starts_with(b"hello x"));
}

#[test]
fn a_guest_that_floods_a_socket_nobody_reads_costs_a_bounded_ring() {
    let path = temp("flood");
    let dev = Chardev::new(Target::socket(&path).expect("binds")).expect("made");
    let (mut out, tail) = (dev.output(), dev.tail());
    let pump = dev.start("test", &Confinement::none()).expect("starts");
    for _ in 0..1000 {
        out.write(&[b'f'; 1000]);
    }
    assert_eq!(tail.written(), 1_000_000);
    assert!(tail.dropped() >= 1_000_000 - OUT_ROOM as u64);
    drop(pump);
    assert!(!path.exists(), "the socket went with its owner");
}

#[test]
fn a_socket_client_reads_what_was_said_before_it_came_and_is_heard() {
    let path = temp("client");
    let dev = Chardev::new(Target::socket(&path).expect("binds")).expect("made");
    let (mut out, input) = (dev.output(), dev.input());
    let (tell, told) = mpsc::channel();
    input.on_input(move || _ = tell.send(()));
    let _pump = dev.start("test", &Confinement::none()).expect("starts");
    out.write(b"early");
    let mut client = UnixStream::connect(&path).expect("connects");
    let mut got = [0; 5];
    client.read_exact(&mut got).expect("reads");
    assert_eq!(&got, b"early");
    client.write_all(b"hi").expect("writes");
    told.recv().expect("told");
    let mut buf = [0; 8];
    assert_eq!(input.take(&mut buf), 2);
}

#[test]
fn a_second_listener_on_one_path_is_refused_and_a_stale_one_replaced() {
    let path = temp("stale");
    let first = Target::socket(&path).expect("binds");
    assert!(matches!(Target::socket(&path), Err(ChardevError::InUse(_))));
    let Target::Socket(listener) = first else { unreachable!() };
    // A process that died leaves its path without a listener.
    let stale = temp("stale2");
    drop(std::os::unix::net::UnixListener::bind(&stale).expect("binds"));
    assert!(Target::socket(&stale).is_ok());
    drop(listener);
    assert!(!path.exists());
}

#[test]
fn a_pseudo_terminal_carries_both_ways() {
    let dev = Chardev::new(Target::pty().expect("opens")).expect("made");
    let path = dev.pty().expect("has a path").to_owned();
    let (mut out, input) = (dev.output(), dev.input());
    let (tell, told) = mpsc::channel();
    input.on_input(move || _ = tell.send(()));
    let _pump = dev.start("test", &Confinement::none()).expect("starts");
    let mut terminal = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("attaches");
    out.write(b"login:");
    let mut got = [0; 6];
    terminal.read_exact(&mut got).expect("reads");
    assert_eq!(&got, b"login:");
    terminal.write_all(b"me").expect("writes");
    told.recv().expect("told");
    assert!(input.is_ready());
}

#[test]
fn a_device_that_takes_nothing_stops_the_reading() {
    let path = temp("back");
    let dev = Chardev::new(Target::socket(&path).expect("binds")).expect("made");
    let input = dev.input();
    let (tell, told) = mpsc::channel();
    input.on_input(move || _ = tell.send(()));
    let pump = dev.start("test", &Confinement::none()).expect("starts");
    let mut client = UnixStream::connect(&path).expect("connects");
    client.write_all(&[7; 3 * IN_ROOM]).expect("the socket's own buffer takes it");
    let mut taken = 0;
    while taken < 3 * IN_ROOM {
        told.recv().expect("told");
        assert!(input.0.lock().input.len() <= IN_ROOM);
        let mut buf = [0; 700];
        loop {
            match input.take(&mut buf) {
                0 => break,
                n => taken += n,
            }
        }
    }
    drop(pump);
}
