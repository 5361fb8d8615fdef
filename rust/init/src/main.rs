//! `midge-init`: PID 1 of a machine.
//!
//! Configures the machine as the host says, runs the user's program, reports its end, powers off. The same binary serves
//! virtual machines (as `/init` of the initramfs) and containers (`midge-init --container`, with the control socket's
//! descriptor in `MIDGE_CONTROL_FD`). The protocol is in `docs/guest-protocol.md`.

#![cfg_attr(not(test), no_main)]

mod boot;
mod channel;
mod clock;
mod command;
mod config;
mod error;
mod exec;
mod files;
mod filter;
mod find;
mod freeze;
mod identity;
mod json;
mod launch;
mod log;
mod machine;
mod mounts;
mod net;
mod oom;
mod outbox;
mod poller;
mod ps;
mod pty;
mod rehearse;
mod requests;
mod root;
mod shutdown;
mod source;
mod spawn;
mod start;
mod stats;
mod stdin;
mod swap;
mod sys;
mod users;
mod warm;

use libc::{c_char, c_int};

use boot::Options;
use command::EXIT_INIT_FAILED;
use error::{Context, Result};
use machine::{Machine, Mode};
use poller::Poller;

const USAGE: &str = "usage: midge-init [--container | --version | --wait]; without arguments only as PID 1 of a virtual machine";

/// The C entry point. Rust's own opens /dev/null where standard streams are closed and aborts if it cannot: PID 1 of a
/// machine without a console has neither streams nor, yet, a /dev/null.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn main(_argc: c_int, _argv: *const *const c_char) -> c_int {
    match std::env::args().nth(1).as_deref() {
        // Ends with its input: somebody to look at for a rehearsal.
        Some("--wait") => {
            let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::stdout());
            0
        }
        Some("--version") => {
            println!("midge-init {}", env!("CARGO_PKG_VERSION"));
            0
        }
        Some("--container") => container(),
        // Whatever a kernel hands to /init as arguments is not for us.
        _ if std::process::id() == 1 => virtual_machine(),
        _ => {
            eprintln!("{USAGE}");
            2
        }
    }
}

fn container() -> c_int {
    sys::take_over_signals();
    sys::set_umask();
    sys::take_over_descriptors();
    let run = || -> Result<i32> {
        let number = std::env::var("MIDGE_CONTROL_FD").unwrap_or_else(|_| "3".into());
        let poller = Poller::new().context(|| "cannot create an epoll".into())?;
        let channel = find::inherited(&number, &poller)?;
        Ok(Machine::new(Mode::Container, poller, channel)?.run())
    };
    // The kernel ends everything else with us.
    match run() {
        Ok(code) => code,
        Err(error) => {
            log::line(&error.to_string());
            EXIT_INIT_FAILED
        }
    }
}

fn virtual_machine() -> ! {
    sys::take_over_signals();
    sys::set_umask();
    let mut options = Options::default();
    match serve(&mut options) {
        Ok(machine) => {
            let volumes: Vec<String> = machine.config.mounts.iter().map(|mount| mount.path.clone()).collect();
            shutdown::power_off(&options, &volumes, machine.layer.as_ref())
        }
        Err(error) => {
            log::line(&error.to_string());
            shutdown::power_off(&options, &[], None)
        }
    }
}

/// Boots, waits for the host, runs the machine to its end.
fn serve(options: &mut Options) -> Result<Machine> {
    *options = boot::prepare()?;
    let poller = Poller::new().context(|| "cannot create an epoll".into())?;
    let channel = if options.vsock { find::vsock(&poller)? } else { find::virtio_port(&poller)? };
    let mut machine = Machine::new(Mode::Vm, poller, channel)?;
    machine.run();
    Ok(machine)
}
