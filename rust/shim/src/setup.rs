//! From the command line to a running shim.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};

use serde_json::json;

use crate::args::{Args, Channel};
use crate::child::Child;
use crate::guest::Guest;
use crate::log::MachineLog;
use crate::records::{self, Reserved};
use crate::shim::Shim;
use crate::spawn::{self, Wiring};
use crate::sys::{self, check};
use crate::vmm_log::VmmLog;
use crate::vsock::Connector;

/// Name of the socket in the run directory.
pub const SOCKET: &str = "guest.sock";

/// Detaches, listens, starts the program, says that it runs.
///
/// # Errors
/// What failed, for a person; nothing runs then.
pub fn start(args: Args) -> Result<Shim, String> {
    let mut ready = isolate(&args).map_err(|error| format!("shim: {error}"))?;
    let socket = args.dir.join(SOCKET);
    match prepare(args) {
        Ok((shim, record)) => {
            if let Some(ready) = &mut ready {
                let _ = writeln!(ready, "{record}");
            }
            // The worker's terminal or journal is not the shim's.
            null_onto(&[1, 2]).map_err(|error| format!("shim: {error}"))?;
            Ok(shim)
        }
        Err(message) => {
            let _ = std::fs::remove_file(socket);
            if let Some(ready) = &mut ready {
                let _ = writeln!(ready, "{}", json!({ "error": message }));
            }
            Err(message)
        }
    }
}

/// Own session, no signals, no descriptors but those meant for it.
fn isolate(args: &Args) -> io::Result<Option<File>> {
    // SAFETY: no pointers. Fails only for the leader of a session, which has nothing to leave.
    unsafe { libc::setsid() };
    sys::ignore_signals();
    std::env::set_current_dir("/")?;
    let wanted: HashSet<RawFd> = args.pass_fds.iter().copied().chain(args.ready_fd).collect();
    let open: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|&fd| fd > 2) {
        // SAFETY: nothing in this process owns these yet; the directory's own descriptor is closed already.
        unsafe {
            if wanted.contains(&fd) {
                check(libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC))?;
            } else {
                libc::close(fd);
            }
        }
    }
    null_onto(&[0])?;
    // SAFETY: the worker has passed this descriptor for the shim alone.
    Ok(args.ready_fd.map(|fd| unsafe { File::from_raw_fd(fd) }))
}

fn null_onto(numbers: &[RawFd]) -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    for &number in numbers {
        // SAFETY: replaces standard streams, which nothing owns.
        check(unsafe { libc::dup2(null.as_raw_fd(), number) })?;
    }
    Ok(())
}

fn prepare(args: Args) -> Result<(Shim, serde_json::Value), String> {
    // SAFETY: no pointers.
    let umask = unsafe { libc::umask(0o177) };
    let dir = &args.dir;
    let failed = |what: &str| {
        let what = format!("{what} in {}", dir.display());
        move |error: io::Error| format!("{what}: {error}")
    };
    let log = MachineLog::open(&args.log, args.log_max_bytes, args.log_keep)
        .map_err(|error| format!("log {}: {error}", args.log.display()))?;
    let vmm_log = VmmLog::create(dir.join("vmm.log")).map_err(failed("vmm.log"))?;
    let exit_file = Reserved::new(dir, "exit.json").map_err(failed("exit.json"))?;
    let ended_file = Reserved::new(dir, "ended.json").map_err(failed("ended.json"))?;
    if let Some(path) = &args.pid_file {
        let _ = std::fs::remove_file(path);
        // SAFETY: no pointers.
        check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1) }).map_err(failed("subreaper"))?;
    }
    let socket = dir.join(SOCKET);
    let _ = std::fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).map_err(failed(SOCKET))?;
    listener.set_nonblocking(true).map_err(failed(SOCKET))?;
    let signals = sys::sigchld_fd().map_err(failed("signalfd"))?;
    let (output, output_end) = spawn::pipe().map_err(failed("pipe"))?;
    set_nonblocking(&output).map_err(failed("pipe"))?;
    let output_end = OwnedFd::from(output_end);

    let (guest, pid) = match &args.channel {
        Channel::Inherited(number) => {
            let (ours, theirs) = UnixStream::pair().map_err(failed("channel"))?;
            ours.set_nonblocking(true).map_err(failed("channel"))?;
            let theirs = OwnedFd::from(theirs);
            let wiring = Wiring { channel: Some((&theirs, *number)), output: &output_end };
            (Guest::connected(ours), spawn::spawn(&args, umask, &wiring)?)
        }
        Channel::Vsock { path, port } => {
            let connector = Connector::new(path, *port).map_err(failed("vsock"))?;
            let wiring = Wiring { channel: None, output: &output_end };
            (Guest::connecting(connector), spawn::spawn(&args, umask, &wiring)?)
        }
    };
    for &fd in &args.pass_fds {
        // SAFETY: passed for the program, which has its copy now.
        unsafe { libc::close(fd) };
    }
    let child = Child::new(pid, args.pid_file.is_some());
    let shim = Shim::new(args, listener, signals, output, guest, child, log, vmm_log, exit_file, ended_file)
        .map_err(|error| format!("epoll: {error}"))?;
    let record = shim.identity();
    records::replace(&shim.args.dir, "shim.json", &record).map_err(|error| {
        sys::kill(pid);
        format!("shim.json: {error}")
    })?;
    Ok((shim, record))
}

fn set_nonblocking(fd: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) }).map(drop)
}
