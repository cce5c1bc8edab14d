//! The table of flags: name, what its value looks like, what it is for.

use clap::builder::ValueParser;
use clap::{Arg, ArgAction, Command};

/// How a flag's value is read.
enum Value {
    /// No value: the flag is there or not.
    None,
    /// A path, of any bytes.
    Path(&'static str),
    /// Text in UTF-8.
    Text(&'static str),
    /// Text in UTF-8, and the flag may be given again.
    Texts(&'static str),
}

/// A flag and its line of help.
struct Flag(&'static str, Value, &'static str);

const FLAGS: &[Flag] = &[
    Flag("kernel", Value::Path("PATH"), "The kernel: a vmlinuz (bzImage) or an ELF vmlinux"),
    Flag("initrd", Value::Path("PATH"), "The initial RAM disk"),
    Flag("cmdline", Value::Text("TEXT"), "The kernel's command line, exactly; absent: a tuned default"),
    Flag("cpus", Value::Text("N"), "CPUs: 4, or boot=4[,max=4]; 1 to 32 [1]"),
    Flag("memory", Value::Text("SIZE"), "Memory: 2G, or size=2G[,shared=on][,hugepages=on] [512M]"),
    Flag("serial", Value::Text("TARGET"), "COM1: off, null, tty, stdio, pty, file=PATH, socket=PATH [null]"),
    Flag(
        "console",
        Value::Text("TARGET"),
        "The virtio console (hvc0), targets as above [,bw=SIZE][,ops=N] [off]",
    ),
    Flag("rng", Value::Text("WORD"), "The virtio entropy device: on, off, src=PATH[,bw=SIZE][,ops=N] [off]"),
    Flag("net", Value::Texts("TAP"), "A network device: tap=NAME or fd=N, and more; may be repeated [none]"),
    Flag("vsock", Value::Text("CID"), "Sockets between host and guest: cid=3[,fd=N] [none]"),
    Flag(
        "disk",
        Value::Texts("DISK"),
        "A disk, once for each: path=FILE[,readonly=on][,direct=on]... [none]",
    ),
    Flag(
        "balloon",
        Value::Text("WORD"),
        "Memory given back: on, off, size=SIZE[,deflate_on_oom=on]... [off]",
    ),
    Flag(
        "fs",
        Value::Texts("SHARE"),
        "A shared directory: tag=NAME,socket=PATH|fd=N; may be repeated [none]",
    ),
    Flag("transport", Value::Text("WORD"), "How virtio devices are attached: pci, mmio [pci]"),
    Flag("seccomp", Value::Text("WORD"), "System call filters: on, off, log [on]"),
    Flag("config", Value::Path("FILE"), "A machine in JSON; flags override it"),
    Flag("dry-run", Value::None, "Check everything, print the machine as JSON, start nothing"),
    Flag("silence", Value::Text("SECONDS"), "End a boot that is silent for so long; 0: never [0]"),
    Flag("guest-status", Value::None, "Exit with the status that the guest's init reported"),
    Flag("report", Value::Text("KIND"), "Boot report: off, text, json, FILE.svg, FILE.json [off]"),
    Flag("log-file", Value::Path("FILE"), "Append the log to FILE instead of writing it to standard error"),
    Flag("log-level", Value::Text("LEVEL"), "off, error, warn, info, debug, trace [warn]"),
];

/// All flags of the program.
pub(crate) fn flags() -> Command {
    let version = env!("CARGO_PKG_VERSION");
    let command = Command::new("vmm").version(version).about("Boots a Linux kernel in a KVM virtual machine");
    FLAGS.iter().fold(command, |command, flag| command.arg(argument(flag)))
}

fn argument(Flag(name, value, help): &'static Flag) -> Arg {
    let arg = Arg::new(*name).long(*name).help(*help);
    match value {
        Value::None => arg.action(ArgAction::SetTrue),
        Value::Path(of) => arg.value_name(*of).value_parser(ValueParser::os_string()),
        // A kernel command line may well begin with a dash.
        Value::Text(of) if *name == "cmdline" => arg.value_name(*of).allow_hyphen_values(true),
        Value::Texts(of) => arg.value_name(*of).action(ArgAction::Append),
        // "-1" is a wrong number, not an unknown flag.
        Value::Text(of) => arg.value_name(*of).allow_negative_numbers(true),
    }
}

/// The names of all flags, `--` in front, for the nearest one.
pub(crate) fn names() -> Vec<String> {
    let own = FLAGS.iter().map(|Flag(name, ..)| *name);
    own.chain(["help", "version"]).map(|name| format!("--{name}")).collect()
}
