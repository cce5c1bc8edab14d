//! The guest's end of device benchmarks: see `benches::load`.

use std::process::ExitCode;

fn main() -> ExitCode {
    match benches::load::serve() {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("load: no port for datagrams: {why}");
            ExitCode::FAILURE
        }
    }
}
