//! `midge-shim`: the parent of one machine. See `docs/design/002-shim.md`.
//!
//! It starts the VMM or container, keeps the machine's log and the way it ended, and passes whole frames between the
//! guest and a worker that comes and goes. It decides nothing.

mod args;
mod child;
mod device;
mod guest;
mod log;
mod outbox;
mod paths;
mod records;
mod setup;
mod shim;
mod spawn;
mod stamp;
mod sys;
mod vmm_log;
mod vsock;
mod worker;

use std::process::ExitCode;

/// The command line makes no sense.
const EXIT_USAGE: u8 = 2;

fn main() -> ExitCode {
    let args = match args::parse(std::env::args().skip(1)) {
        Ok(args) => args,
        Err(message) => {
            eprintln!("midge-shim: {message}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let ended = setup::start(args).and_then(|shim| shim.run().map_err(|error| format!("epoll: {error}")));
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("midge-shim: {message}");
            ExitCode::FAILURE
        }
    }
}
