//! From the shim to the program: cgroup, namespace, descriptors, limits, user, exec.
//!
//! The shim itself joins nothing: it stays outside the machine's cgroup and namespace, so that a machine out of memory
//! does not take its log with it.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::args::Args;
use crate::device;
use crate::sys::{self, check};

/// Most bytes of a message from the child about a step that failed.
const MESSAGE_MAX: u64 = 1_024;

/// How messages begin that say why the program has no device of its own; the worker looks for it.
const OWN_DEVICE: &str = "own device";

/// Descriptors the program gets.
pub struct Wiring<'a> {
    /// Its end of the channel and the number it is to have.
    pub channel: Option<(&'a OwnedFd, RawFd)>,
    /// Where its standard output and error go.
    pub output: &'a OwnedFd,
}

/// Starts the program; returns once it executes.
///
/// # Errors
/// The step that failed, for a person.
pub fn spawn(args: &Args, umask: libc::mode_t, wiring: &Wiring) -> Result<libc::pid_t, String> {
    let netns = match &args.netns {
        Some(path) => Some(File::open(path).map_err(|error| format!("open {}: {error}", path.display()))?),
        None => None,
    };
    let argv = args
        .program
        .iter()
        .map(|arg| CString::new(arg.as_str()).map_err(|_| "an argument contains a zero byte".to_owned()))
        .collect::<Result<Vec<_>, _>>()?;
    let (reader, writer) = pipe().map_err(|error| format!("pipe: {error}"))?;
    let parent = std::process::id();
    // SAFETY: the shim has one thread, so the child may do anything a process may.
    let pid = check(unsafe { libc::fork() }).map_err(|error| format!("fork: {error}"))?;
    if pid == 0 {
        let mut writer = writer;
        let message = match enter(args, umask, wiring, netns, &mut writer, parent) {
            Ok(()) => format!("exec {}: {}", args.program[0], exec(&argv)),
            Err((step, error)) => format!("{step}: {error}"),
        };
        let _ = writer.write_all(message.as_bytes());
        // SAFETY: ends the child at once, without running what belongs to the parent.
        unsafe { libc::_exit(127) }
    }
    drop(writer);
    let mut message = String::new();
    // Ends with nothing when exec closes the child's end.
    reader.take(MESSAGE_MAX).read_to_string(&mut message).map_err(|error| error.to_string())?;
    if message.is_empty() { Ok(pid) } else { Err(message) }
}

type Step = (String, io::Error);

/// Everything between fork and exec, in the order of the rights it takes.
fn enter(
    args: &Args,
    umask: libc::mode_t,
    wiring: &Wiring,
    netns: Option<File>,
    writer: &mut File,
    parent: u32,
) -> Result<(), Step> {
    let step = |name: &str| {
        let name = name.to_owned();
        move |error: io::Error| (name, error)
    };
    for path in &args.cgroups {
        write_zero(path).map_err(step(&format!("join {}", path.display())))?;
    }
    if let Some(netns) = netns {
        // SAFETY: no pointers.
        check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map_err(step("setns"))?;
    }
    let tap = match &args.tap {
        Some((name, _)) => Some(open_tap(name).map_err(step(&format!("open tap {name}")))?),
        None => None,
    };
    if let Some(score) = args.oom_score {
        std::fs::write("/proc/self/oom_score_adj", score.to_string()).map_err(step("oom_score_adj"))?;
    }
    wire(args, wiring, tap, writer).map_err(step("descriptors"))?;
    // After the wiring, which needs numbers above those in use, and they may lie above the limit.
    if let Some(limit) = args.nofile {
        let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: `limit` lives through the call.
        check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) })
            .map_err(step("setrlimit"))?;
    }
    let own = |what: &str, device: &Path| format!("{OWN_DEVICE} {}: {what}", device.display());
    if let (Some(device), Some(uid), Some(gid)) = (&args.own_device, args.uid, args.gid) {
        device::own(device, &args.dir, uid, gid).map_err(|(what, error)| (own(what, device), error))?;
    }
    drop_rights(args).map_err(step("setuid"))?;
    if let Some(device) = &args.own_device {
        // The program would say it in its own words, or not at all.
        device::try_open(device).map_err(|error| (own("open as the program's user", device), error))?;
    }
    // SAFETY: no pointers; dispositions and mask go back to what a program expects.
    unsafe {
        if args.no_new_privs {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)).map_err(step("no_new_privs"))?;
        }
        if args.pid_file.is_none() {
            // A machine without its shim has no log and no exit, so it does not outlive it. (A launcher does end first.)
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL)).map_err(step("pdeathsig"))?;
            if u32::try_from(libc::getppid()) != Ok(parent) {
                return Err(step("shim")(io::Error::other("has ended")));
            }
        }
        libc::umask(umask);
        // What the shim ignores, and what a worker had ignored.
        sys::default_signals();
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()))
            .map_err(step("sigprocmask"))?;
    }
    Ok(())
}

/// Gives descriptors their numbers. Everything else is closed by exec.
fn wire(args: &Args, wiring: &Wiring, tap: Option<File>, writer: &mut File) -> io::Result<()> {
    // A number wanted for one may be in use by another: all are copied out of the way before any is put in place.
    let tap = args.tap.as_ref().map(|(_, number)| *number).zip(tap.map(IntoRawFd::into_raw_fd));
    let channel = wiring.channel.map(|(fd, number)| (number, fd.as_raw_fd()));
    let output = wiring.output.as_raw_fd();
    let wanted: Vec<(RawFd, RawFd)> =
        [(1, output), (2, output)].into_iter().chain(channel).chain(tap).collect();
    let above = wanted.iter().map(|(number, _)| *number).max().unwrap_or(2) + 1;
    // SAFETY: descriptors are moved and copied by number; those replaced belong to this process alone.
    unsafe {
        let lift = |fd: RawFd| check(libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, above));
        *writer = File::from_raw_fd(lift(writer.as_raw_fd())?);
        let lifted =
            wanted.iter().map(|&(number, fd)| Ok((number, lift(fd)?))).collect::<io::Result<Vec<_>>>()?;
        for (number, fd) in lifted {
            check(libc::dup2(fd, number))?;
        }
        for &fd in &args.pass_fds {
            check(libc::fcntl(fd, libc::F_SETFD, 0))?;
        }
    }
    Ok(())
}

/// Opens a tap of the namespace just entered, so that the program needs no rights to `/dev/net/tun`.
fn open_tap(name: &str) -> io::Result<File> {
    // SAFETY: all zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (target, byte) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *target = libc::c_char::from_ne_bytes([byte]);
    }
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    request.ifr_ifru.ifru_flags = libc::c_short::try_from(flags).map_err(io::Error::other)?;
    // QEMU sets the descriptor up for its event loop, which must never block in a read.
    let file = File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun")?;
    // SAFETY: `request` lives through the call.
    check(unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(file)
}

fn drop_rights(args: &Args) -> io::Result<()> {
    let (Some(uid), Some(gid)) = (args.uid, args.gid) else { return Ok(()) };
    // SAFETY: the list of groups is as long as said and lives through the call.
    unsafe {
        check(libc::setgroups(args.groups.len(), args.groups.as_ptr()))?;
        check(libc::setresgid(gid, gid, gid))?;
        check(libc::setresuid(uid, uid, uid))?;
    }
    Ok(())
}

/// Executes the program; comes back only with an error.
fn exec(argv: &[CString]) -> io::Error {
    let mut pointers: Vec<*const libc::c_char> = argv.iter().map(|arg| arg.as_ptr()).collect();
    pointers.push(std::ptr::null());
    // SAFETY: the array ends with a null pointer, and the strings live through the call.
    unsafe { libc::execvp(pointers[0], pointers.as_ptr()) };
    io::Error::last_os_error()
}

/// Writing 0 to `cgroup.procs` moves the writer.
fn write_zero(path: &Path) -> io::Result<()> {
    File::options().write(true).open(path)?.write_all(b"0")
}

/// A pipe that exec closes.
pub fn pipe() -> io::Result<(File, File)> {
    let mut fds = [0; 2];
    // SAFETY: the array has room for two descriptors, which belong to nobody else.
    unsafe {
        check(libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC))?;
        Ok((File::from_raw_fd(fds[0]), File::from_raw_fd(fds[1])))
    }
}
