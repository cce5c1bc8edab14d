//! The `vmm` binary: words to a configuration, a configuration to a machine, its end to an exit status.

mod bug;
mod cli;
mod log;

use std::io::Write;
use std::process::ExitCode;

use cli::{Invocation, Run};
use vmm::{Error, Exit, VmBuilder, validate};

fn main() -> ExitCode {
    // INTERIM: vmm::terminal::restore, once it is there.
    bug::report_panics(|| {});
    let status = invoke().unwrap_or_else(|error| {
        for line in vmm::sentence(&error).lines() {
            eprintln!("vmm: {line}");
        }
        error.status()
    });
    ExitCode::from(status)
}

fn invoke() -> Result<u8, Error> {
    match cli::parse(std::env::args_os()).map_err(usage)? {
        Invocation::Print(text) => Ok(print(&text)),
        Invocation::Run(run) => {
            log::start(&run.log).map_err(usage)?;
            validate::check(&run.config)?;
            if run.dry_run { dry_run(&run) } else { boot(*run) }
        }
    }
}

fn usage(error: impl std::error::Error + Send + Sync + 'static) -> Error {
    Error::Usage(error.into())
}

/// A reader that went away is no error of ours.
fn print(text: &str) -> u8 {
    let _ = std::io::stdout().write_all(text.as_bytes());
    vmm::exit::status::SHUTDOWN
}

fn dry_run(run: &Run) -> Result<u8, Error> {
    validate::kvm()?;
    let mut text = serde_json::to_string_pretty(&run.config).map_err(usage)?;
    text.push('\n');
    Ok(print(&text))
}

fn boot(run: Run) -> Result<u8, Error> {
    let exit = VmBuilder::from(run.config).build()?.start()?.wait()?;
    Ok(match exit {
        Exit::Shutdown { guest_status: Some(status) } if run.guest_status => status,
        exit => exit.status(),
    })
}
