//! `guest-image`: builds what a Kiwi guest boots from.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use guest::{Command, Compression, Source, Spec, Step};
use guest_kernel::Cache;

/// Builds what a Kiwi guest boots from.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Write vmlinux, initrd and manifest.json for a kernel of this host.
    Build(Box<BuildArgs>),
    /// Write the archive that makes an initrd run a command: append it to a copy of the initrd.
    Segment(SegmentArgs),
    /// Write the benchmarks' initrd: it marks the boot and powers off.
    Mark {
        /// The file to write.
        #[arg(long)]
        out: PathBuf,
    },
}

#[derive(Args)]
struct BuildArgs {
    /// The kernel file, vmlinuz or vmlinux [default: the running kernel's in /boot, else the newest there]
    #[arg(long)]
    kernel: Option<PathBuf>,
    /// The kernel's release, as uname -r says it.
    #[arg(long)]
    kernel_release: Option<String>,
    /// The folder that holds boot/ and lib/modules/.
    #[arg(long, default_value = "/")]
    root: PathBuf,
    /// More modules, loaded at boot.
    #[arg(long, value_delimiter = ',')]
    modules: Vec<String>,
    /// The folder with modules.dep [default: lib/modules/RELEASE beside the kernel, else the host's]
    #[arg(long)]
    modules_dir: Option<PathBuf>,
    /// Take no modules: for a kernel with all drivers built in.
    #[arg(long, conflicts_with = "modules")]
    no_modules: bool,
    /// The static program for /init [default: guest-init beside this program]
    #[arg(long)]
    init: Option<PathBuf>,
    /// The static busybox [default: the host's]
    #[arg(long)]
    busybox: Option<PathBuf>,
    /// none, lz4, zstd, gzip or xz.
    #[arg(long, default_value = Compression::default().name(), value_parser = parse_compression)]
    compress: Compression,
    /// The folder to write to.
    #[arg(long)]
    out: PathBuf,
    /// Leave an image alone that is made of the same already.
    #[arg(long)]
    if_changed: bool,
    /// The command to run [default: a shell on the console]
    #[arg(long, num_args = 1.., allow_hyphen_values = true)]
    command: Vec<String>,
}

#[derive(Args)]
struct SegmentArgs {
    /// The file to write.
    #[arg(long)]
    out: PathBuf,
    /// A variable, NAME=VALUE.
    #[arg(long, value_parser = parse_variable)]
    env: Vec<(String, String)>,
    /// A person sits at the terminal.
    #[arg(long)]
    interactive: bool,
    /// The command and its arguments.
    #[arg(last = true)]
    argv: Vec<String>,
}

fn parse_compression(name: &str) -> Result<Compression, String> {
    let found = Compression::ALL.into_iter().find(|compression| compression.name() == name);
    found.ok_or_else(|| "it is one of none, lz4, zstd, gzip, xz".to_owned())
}

fn parse_variable(pair: &str) -> Result<(String, String), String> {
    let (name, value) = pair.split_once('=').ok_or("it must be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Build(args) => build(*args),
        Task::Segment(args) => segment(args),
        Task::Mark { out } => mark(&out),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("guest-image: {}", guest::sentence(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

fn build(args: BuildArgs) -> Result<(), Box<dyn Error>> {
    let (out, if_changed) = (args.out.clone(), args.if_changed);
    let spec = spec_of(args)?;
    if if_changed && guest::current(&spec, &out).is_some() {
        println!("{}: kernel {}, unchanged", out.display(), spec.source.release);
        return Ok(());
    }
    let cache = Cache::open_default().unwrap_or_else(|error| {
        eprintln!("guest-image: {}", guest::sentence(&error));
        Cache::none()
    });
    // Draws nothing where stderr is no terminal.
    let bar = indicatif::ProgressBar::new(Step::COUNT);
    bar.set_style(indicatif::ProgressStyle::with_template("{bar:20} {msg}")?);
    let manifest = guest::build(&spec, &cache, &out, |step| {
        bar.inc(1);
        bar.set_message(step.to_string());
    });
    bar.finish_and_clear();
    let manifest = manifest?;
    let loaded = manifest.modules.iter().filter(|module| module.loaded).count();
    println!(
        "{}: kernel {} ({}), initrd {} KiB, {} modules, {loaded} loaded at boot",
        out.display(),
        manifest.release,
        manifest.kernel,
        manifest.initrd_bytes.div_ceil(1024),
        manifest.modules.len(),
    );
    Ok(())
}

fn spec_of(args: BuildArgs) -> Result<Spec, Box<dyn Error>> {
    let release = args.kernel_release.as_deref();
    let mut source = match &args.kernel {
        Some(kernel) => Source::of_file(kernel, release)?,
        None => Source::find(&args.root, release)?,
    };
    if let Some(folder) = args.modules_dir {
        source.modules = folder;
    }
    let init = match args.init {
        Some(init) => init,
        None => std::env::current_exe()?.with_file_name("guest-init"),
    };
    Ok(Spec {
        source,
        modules: args.modules,
        with_modules: !args.no_modules,
        init,
        busybox: args.busybox,
        command: Command { argv: args.command, ..Command::default() },
        compression: args.compress,
    })
}

fn segment(args: SegmentArgs) -> Result<(), Box<dyn Error>> {
    let command =
        Command { argv: args.argv, env: args.env, interactive: args.interactive, ..Command::default() };
    write(&args.out, &command.segment()?)
}

fn mark(out: &Path) -> Result<(), Box<dyn Error>> {
    write(out, &guest::mark_initrd()?)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    fs::write(path, bytes).map_err(|error| format!("{} can't be written: {error}", path.display()).into())
}
