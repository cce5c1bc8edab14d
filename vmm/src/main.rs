//! The `vmm` binary: words to a configuration, a configuration to a machine, its end to an exit status.

mod bug;
mod cli;
mod log;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use cli::{Invocation, Run};
use vmm::exit::Outcome;
use vmm::report::{self, Milestone, Recorder, Request};
use vmm::{Error, Exit, Signals, VmBuilder, validate};

fn main() -> ExitCode {
    bug::report_panics(vmm::restore_terminal);
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
    let recorder = if run.report == Request::Off { Recorder::off() } else { Recorder::start() };
    recorder.reach(Milestone::Parsed);
    let outcome = until_the_end(run.config, &recorder)?;
    if let Some(diagnosis) = &outcome.diagnosis {
        eprintln!("vmm: {diagnosis}");
    }
    if let Some(report) = &outcome.report {
        // The guest's end stays what the exit status tells; a report that is lost is only said.
        let _ = report::deliver(&run.report, report).inspect_err(|e| eprintln!("vmm: {e}"));
    }
    Ok(status(outcome.exit, run.guest_status))
}

fn until_the_end(config: vmm::VmConfig, recorder: &Recorder) -> Result<Outcome, Error> {
    let signals = Signals::block().map_err(|e| Error::Host(e.into()))?;
    let silence = Some(config.silence).filter(|s| *s > 0).map(|s| Duration::from_secs(s.into()));
    let machine = VmBuilder::from(config).record(recorder).build()?;
    let vm = machine.start()?;
    vm.confine_this_thread()?;
    Ok(vm.conclude(Some(&signals), silence)?)
}

fn status(exit: Exit, guests: bool) -> u8 {
    match exit {
        Exit::Shutdown { guest_status: Some(status) } if guests => status,
        Exit::Shutdown { guest_status: None } if guests => {
            eprintln!("vmm: the guest powered off without reporting a status");
            exit.status()
        }
        exit => exit.status(),
    }
}
