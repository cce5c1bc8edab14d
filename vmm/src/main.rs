//! The `vmm` binary.

mod cli;

use std::process::ExitCode;

use cli::{Invocation, Run};

fn main() -> ExitCode {
    match cli::parse(std::env::args_os()) {
        Ok(Invocation::Print(text)) => {
            print!("{text}");
            ExitCode::SUCCESS
        }
        Ok(Invocation::Run(run)) => boot(*run),
        Err(e) => {
            eprintln!("vmm: {e}");
            ExitCode::from(vmm::exit::status::USAGE)
        }
    }
}

fn boot(run: Run) -> ExitCode {
    if run.dry_run {
        println!("{}", serde_json::to_string_pretty(&run.config).unwrap_or_default());
        return ExitCode::SUCCESS;
    }
    let exit = vmm::VmBuilder::from(run.config)
        .build()
        .map_err(|e| e.to_string())
        .and_then(|m| m.start().map_err(|e| e.to_string()))
        .and_then(|r| r.wait().map_err(|e| e.to_string()));
    match exit {
        Ok(vmm::Exit::Shutdown { guest_status: Some(status) }) if run.guest_status => ExitCode::from(status),
        Ok(exit) => ExitCode::from(exit.status()),
        Err(e) => {
            eprintln!("vmm: {e}");
            ExitCode::from(vmm::exit::status::BUG)
        }
    }
}
