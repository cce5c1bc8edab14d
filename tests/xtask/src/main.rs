//! The project's own commands: `cargo xtask boot`, `test`, `testbed` and the tools behind them.

mod bed;
mod bench;
mod binary;
mod boot;
mod build;
mod error;
mod fuzz;
mod host;
mod image;
mod kernels;
mod lint;
mod matrix;
mod measure;
mod network;
mod peer;
mod soak;
mod suite;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", disable_help_subcommand = true)]
struct Xtask {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Boot the host's own kernel with a generated initrd, to a shell or to a command
    Boot(boot::Boot),
    /// Run all of the project's checks and tests
    Test(suite::Test),
    /// Run fuzz targets
    Fuzz(fuzz::Fuzz),
    Lint(lint::Lint),
    ImageCheck(image::ImageCheck),
    Bench(bench::Bench),
    Matrix(matrix::Matrix),
    Soak(soak::Soak),
    /// Measure boots of our VMM and of QEMU on the instruction clock
    Measure(measure::Measure),
    /// Run a command in the test bed: an emulated host with a real KVM
    Testbed(bed::Testbed),
}

fn main() -> ExitCode {
    let done = match Xtask::parse().command {
        Command::Boot(boot) => boot.run(),
        Command::Test(test) => test.run(),
        Command::Fuzz(fuzz) => fuzz.run(),
        Command::Lint(lint) => lint.run(),
        Command::ImageCheck(check) => check.run(),
        Command::Bench(bench) => bench.run(),
        Command::Matrix(matrix) => matrix.run(),
        Command::Soak(soak) => soak.run(),
        Command::Measure(measure) => measure.run(),
        Command::Testbed(testbed) => testbed.run(),
    };
    match done {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("xtask: {error}");
            ExitCode::from(error::STATUS)
        }
    }
}
