//! The host kernel's own tracing of KVM: every exit and every return to userspace, up to the marker.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

/// What is recorded. The way out of and into the guest are an event each.
const EVENTS: [&str; 7] = [
    "kvm/kvm_entry",
    "kvm/kvm_exit",
    "kvm/kvm_userspace_exit",
    "kvm/kvm_pio",
    "kvm/kvm_mmio",
    "kvm/kvm_msr",
    "kvm/kvm_cpuid",
];
/// Room for the events of the most talkative VMM.
const BUFFER_KIB: &str = "65536";
/// The marker's first byte, a `K` on its way to COM1, at which recording stops.
const MARK: &str = "traceoff if port==0x3f8 && val==0x4b";

fn write(file: &str, text: &str) -> io::Result<()> {
    let path = PathBuf::from("/sys/kernel/tracing").join(file);
    // Not create: a file that is not there is a kernel without it.
    let mut file = fs::OpenOptions::new().write(true).open(&path)?;
    io::Write::write_all(&mut file, text.as_bytes())
        .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))
}

/// Recording, stopped when dropped.
pub(crate) struct Recording(());

impl Recording {
    /// Clears what there is and starts.
    pub(crate) fn start() -> io::Result<Self> {
        write("tracing_on", "0")?;
        write("trace_clock", "mono")?;
        write("buffer_size_kb", BUFFER_KIB)?;
        // An open for writing truncates, which clears the buffer.
        fs::File::create("/sys/kernel/tracing/trace")?;
        for event in EVENTS {
            write(&format!("events/{event}/enable"), "1")?;
        }
        write("events/kvm/kvm_pio/trigger", MARK)?;
        write("tracing_on", "1")?;
        Ok(Self(()))
    }

    /// Marks the instant from which time is counted.
    pub(crate) fn mark_start(&self) -> io::Result<()> {
        write("trace_marker", "start")
    }

    /// What was recorded.
    pub(crate) fn text(&self) -> io::Result<String> {
        fs::read_to_string("/sys/kernel/tracing/trace")
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        let _ = write("tracing_on", "0");
        let _ = write("events/kvm/kvm_pio/trigger", "!traceoff");
        for event in EVENTS {
            let _ = write(&format!("events/{event}/enable"), "0");
        }
        let _ = write("buffer_size_kb", "1024");
    }
}

/// What a trace says.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Nanoseconds from the start to the first guest entry.
    pub(crate) first_entry: Option<u64>,
    /// VM exits by reason.
    pub(crate) exits: BTreeMap<String, u64>,
    /// Returns to userspace by reason.
    pub(crate) returns: BTreeMap<String, u64>,
    /// Accesses by port, register page or register: `in 0x71`, `read 0xfee00000`, `msr_write 6e0`, `cpuid b`.
    pub(crate) accesses: BTreeMap<String, u64>,
    /// Whether the marker was reached.
    pub(crate) marked: bool,
}

/// Reads a trace: `TASK-PID [CPU] FLAGS SECONDS: EVENT: WORDS`.
pub(crate) fn read(trace: &str) -> Told {
    let (mut told, mut start) = (Told::default(), None);
    for line in trace.lines() {
        let Some((time, event, words)) = split(line) else { continue };
        let count = |map: &mut BTreeMap<String, u64>, key: String| *map.entry(key).or_default() += 1;
        match event {
            "tracing_mark_write" if words == "start" => start = Some(time),
            "kvm_entry" => told.first_entry = told.first_entry.or(start.map(|s| time - s)),
            "kvm_exit" => count(&mut told.exits, after(words, "reason ")),
            "kvm_userspace_exit" => count(&mut told.returns, after(words, "reason KVM_EXIT_")),
            "kvm_pio" => {
                told.marked |= words.starts_with("pio_write at 0x3f8 ") && words.ends_with("val 0x4b");
                let way = if words.starts_with("pio_write") { "out" } else { "in" };
                count(&mut told.accesses, format!("{way} {}", after(words, " at ")));
            }
            "kvm_mmio" if !words.starts_with("mmio unsatisfied") => {
                let way = if words.contains("write") { "write" } else { "read" };
                count(&mut told.accesses, format!("{way} {}", page(&after(words, "gpa "))));
            }
            "kvm_msr" => count(&mut told.accesses, words.split(" = ").next().unwrap_or(words).to_owned()),
            "kvm_cpuid" => count(&mut told.accesses, format!("cpuid {}", after(words, "func "))),
            _ => {}
        }
    }
    told
}

fn split(line: &str) -> Option<(u64, &str, &str)> {
    let rest = line.split_once("] ")?.1;
    let (head, words) = rest.split_once(": ")?;
    let (event, words) = words.split_once(": ")?;
    let (seconds, micros) = head.split_whitespace().last()?.split_once('.')?;
    let time = seconds.parse::<u64>().ok()? * 1_000_000_000 + micros.parse::<u64>().ok()? * 1000;
    Some((time, event.trim(), words.trim()))
}

/// The word that follows `mark`.
fn after(words: &str, mark: &str) -> String {
    let rest = words.split_once(mark).map_or("", |(_, rest)| rest);
    rest.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Registers are told apart by their page.
fn page(address: &str) -> String {
    let number = address.strip_prefix("0x").and_then(|hex| u64::from_str_radix(hex, 16).ok());
    number.map_or_else(|| address.to_owned(), |n| format!("{:#x}", n & !0xfff))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "\
# tracer: nop
       stopwatch-90      [000] .....    10.000100: tracing_mark_write: start
             vmm-91      [000] d....    10.012300: kvm_entry: vcpu 0, rip 0x1000000
             vmm-91      [000] d....    10.012400: kvm_exit: vcpu 0 reason msr rip 0xf info1 0x0 info2 0x0
             vmm-91      [000] d....    10.012500: kvm_entry: vcpu 0, rip 0x1000002
             vmm-91      [000] d....    10.012600: kvm_exit: vcpu 0 reason io rip 0xf info1 0x0 info2 0x0
             vmm-91      [000] .....    10.012700: kvm_pio: pio_write at 0x3f8 size 1 count 1 val 0x4b 
             vmm-91      [000] .....    10.012800: kvm_userspace_exit: reason KVM_EXIT_IO (2)
             vmm-91      [000] .....    10.012900: kvm_mmio: mmio write len 4 gpa 0xfee000f0 val 0x1ff
";

    #[test]
    fn a_trace_tells_entry_exits_returns_and_the_marker() {
        let told = read(TRACE);
        assert_eq!(told.first_entry, Some(12_200_000));
        assert_eq!(told.exits.values().sum::<u64>(), 2);
        assert_eq!(told.exits["msr"], 1);
        assert_eq!(told.returns["IO"], 1);
        assert_eq!((told.accesses["out 0x3f8"], told.accesses["write 0xfee00000"]), (1, 1));
        assert!(told.marked);
    }
}
