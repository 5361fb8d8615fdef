//! The system calls std has no name for, each behind a safe function.

use std::ffi::CString;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::ptr;
use std::time::{Duration, Instant};

use libc::{c_int, c_ulong};

use crate::error::{Context, Error, Result};

/// The result of a call that gives -1 and sets errno when it fails.
pub fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// The same for calls that give a size.
pub fn check_size(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

/// A string for the kernel.
pub fn cstring(text: &str) -> Result<CString> {
    CString::new(text).map_err(|_| Error::new(format!("{text:?} contains a zero byte")))
}

/// Takes ownership of a descriptor a system call has just returned.
pub fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the caller passes the result of a call that creates a descriptor, which nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// mount(2).
pub fn mount(source: &str, target: &str, fstype: &str, flags: c_ulong, data: &str) -> Result<()> {
    let (c_source, c_target) = (cstring(source)?, cstring(target)?);
    let (c_fstype, c_data) = (cstring(fstype)?, cstring(data)?);
    // SAFETY: four strings that end in zero and live through the call.
    let result = unsafe {
        libc::mount(c_source.as_ptr(), c_target.as_ptr(), c_fstype.as_ptr(), flags, c_data.as_ptr().cast())
    };
    check(result).map(drop).context(|| format!("cannot mount {source} on {target} as {fstype}"))
}

/// Moves a mount with everything below it.
pub fn move_mount(from: &str, to: &str) -> Result<()> {
    mount(from, to, "", libc::MS_MOVE, "")
}

/// umount2(2).
pub fn unmount(target: &str, flags: c_int) -> io::Result<()> {
    let target = CString::new(target)?;
    // SAFETY: a string that ends in zero and lives through the call.
    check(unsafe { libc::umount2(target.as_ptr(), flags) }).map(drop)
}

/// read(2); `Ok(0)` is the end.
pub fn read(fd: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the buffer is writable for its whole length.
    check_size(unsafe { libc::read(fd.as_fd().as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) })
}

/// write(2).
pub fn write(fd: &impl AsFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the bytes are readable for their whole length.
    check_size(unsafe { libc::write(fd.as_fd().as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) })
}

/// A pipe: read end, write end; both close on exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    // SAFETY: room for two descriptors.
    check(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(fds[0])?, owned(fds[1])?))
}

/// Makes reads and writes return instead of wait.
pub fn set_nonblocking(fd: &impl AsFd) -> io::Result<()> {
    let fd = fd.as_fd().as_raw_fd();
    // SAFETY: plain flag calls on an open descriptor.
    unsafe {
        let flags = check(libc::fcntl(fd, libc::F_GETFL))?;
        check(libc::fcntl(fd, libc::F_SETFL, flags | libc::O_NONBLOCK))?;
    }
    Ok(())
}

/// Sends a signal to a process, or to a process group when `pid` is negative.
pub fn kill(pid: libc::pid_t, signal: c_int) -> io::Result<()> {
    // SAFETY: no memory is involved.
    check(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Code(i32),
    Signal(i32),
}

impl Status {
    pub fn from_wait(status: c_int) -> Self {
        if libc::WIFSIGNALED(status) {
            Self::Signal(libc::WTERMSIG(status))
        } else {
            Self::Code(libc::WEXITSTATUS(status))
        }
    }

    /// The code a shell would show.
    pub fn shell_code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    /// Killed by SIGKILL, or the exit of a shell whose command was.
    pub fn is_kill(self) -> bool {
        self.shell_code() == 128 + libc::SIGKILL
    }
}

/// A child that has ended, if there is one; `pid` -1 for any.
pub fn reap(pid: libc::pid_t, flags: c_int) -> Option<(libc::pid_t, Status)> {
    let mut status = 0;
    // SAFETY: room for one status.
    let pid = unsafe { libc::waitpid(pid, &raw mut status, flags) };
    (pid > 0).then(|| (pid, Status::from_wait(status)))
}

/// The same, waited for until a deadline. SIGCHLD has to be blocked.
pub fn reap_by(pid: libc::pid_t, deadline: Instant) -> Option<(libc::pid_t, Status)> {
    loop {
        let ended = reap(pid, libc::WNOHANG);
        let left = deadline.saturating_duration_since(Instant::now());
        if ended.is_some() || left.is_zero() {
            return ended;
        }
        wait_for(&signal_set(&[libc::SIGCHLD]), left);
    }
}

/// Waits for one of these (blocked) signals, or for a time.
pub fn wait_for(signals: &libc::sigset_t, time: Duration) {
    let time = libc::timespec {
        tv_sec: time.as_secs() as libc::time_t,
        tv_nsec: libc::c_long::from(time.subsec_nanos() as i32),
    };
    // SAFETY: an initialised set and timespec; nothing is asked about the signal.
    unsafe { libc::sigtimedwait(signals, ptr::null_mut(), &raw const time) };
}

/// A signal set of the given signals.
pub fn signal_set(signals: &[c_int]) -> libc::sigset_t {
    let mut set = MaybeUninit::uninit();
    // SAFETY: sigemptyset initialises the set before anything else looks at it.
    unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        for signal in signals {
            libc::sigaddset(set.as_mut_ptr(), *signal);
        }
        set.assume_init()
    }
}

/// The last signal of Linux on every architecture we build for; one bit each makes the size of a set.
const SIGNAL_MAX: c_int = 64;
const SIGSET_BYTES: usize = 8;
/// Handler, flags, restorer (where there is one) and mask.
const SIGACTION_WORDS: usize = 4;

/// Blocks every signal and gives all of them their default action, which children then inherit.
pub fn take_over_signals() {
    // SAFETY: a filled set and a zeroed action (SIG_DFL) are valid; signals that cannot be changed are refused.
    unsafe {
        let mut all = MaybeUninit::uninit();
        libc::sigfillset(all.as_mut_ptr());
        libc::sigprocmask(libc::SIG_SETMASK, all.as_ptr(), ptr::null_mut());
        // The kernel's own form, not the library's, which refuses the signals it keeps for itself (32 to 34).
        let default = [0_u64; SIGACTION_WORDS];
        for signal in 1..=SIGNAL_MAX {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null::<u64>(), SIGSET_BYTES);
        }
    }
}

/// Sets the file mode creation mask that programs start with.
pub fn set_umask() {
    // SAFETY: no memory is involved.
    unsafe { libc::umask(0o022) };
}

/// Makes sure that 0 to 2 are open, so that nothing of ours gets these numbers, and that children inherit nothing else.
pub fn take_over_descriptors() {
    // SAFETY: opens /dev/null until the lowest free number is above 2; marks what is above as close-on-exec.
    unsafe {
        loop {
            let fd = libc::open(c"/dev/null".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC);
            if fd > 2 {
                libc::close(fd);
            }
            if !(0..=2).contains(&fd) {
                break;
            }
        }
        libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC);
    }
}

/// A descriptor that becomes readable when one of these (blocked) signals arrives.
pub fn signal_fd(signals: &[c_int]) -> io::Result<OwnedFd> {
    let set = signal_set(signals);
    // SAFETY: the set is initialised.
    owned(unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) })
}

/// Nanoseconds since 1970 by the machine's clock.
pub fn wall_clock_ns() -> i64 {
    clock_ns(libc::CLOCK_REALTIME)
}

/// Nanoseconds by a clock that nobody sets, for differences.
pub fn monotonic_ns() -> i64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

fn clock_ns(clock: libc::clockid_t) -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for one timespec; the clocks asked for always exist.
    unsafe { libc::clock_gettime(clock, &raw mut now) };
    now.tv_sec * 1_000_000_000 + now.tv_nsec
}
