//! The few system calls the standard library does not have.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{SystemTime, UNIX_EPOCH};

/// The result of a call that says -1 for failure.
pub fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call has just returned this descriptor and nobody else owns it.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Nanoseconds since 1970.
pub fn now_ns() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// An epoll set.
pub struct Epoll(OwnedFd);

impl Epoll {
    /// An empty set.
    pub fn new() -> io::Result<Self> {
        // SAFETY: no pointers.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }).map(Self)
    }

    /// Adds a descriptor.
    pub fn add(&self, fd: &impl AsRawFd, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd.as_raw_fd(), token, events)
    }

    /// Changes what a descriptor is watched for.
    pub fn modify(&self, fd: &impl AsRawFd, token: u64, events: u32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd.as_raw_fd(), token, events)
    }

    fn control(&self, operation: libc::c_int, fd: RawFd, token: u64, events: u32) -> io::Result<()> {
        let mut event = libc::epoll_event { events, u64: token };
        // SAFETY: `event` lives through the call.
        check(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd, &raw mut event) }).map(drop)
    }

    /// Waits without limit; gives tokens and events.
    pub fn wait<'a>(&self, events: &'a mut [libc::epoll_event]) -> io::Result<&'a [libc::epoll_event]> {
        let capacity = libc::c_int::try_from(events.len()).unwrap_or(libc::c_int::MAX);
        loop {
            // SAFETY: the kernel writes at most `capacity` events.
            let count = unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), capacity, -1) };
            match check(count) {
                Ok(count) => return Ok(&events[..usize::try_from(count).unwrap_or(0)]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Blocks SIGCHLD and gives a descriptor that is readable when a child has ended.
pub fn sigchld_fd() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()))?;
        owned(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// The last signal of Linux on every architecture we build for; one bit each makes the size of a set.
const SIGNAL_MAX: libc::c_int = 64;
const SIGSET_BYTES: usize = 8;
/// Handler, flags, restorer (where there is one) and mask.
const SIGACTION_WORDS: usize = 4;

/// Gives every signal its default action; SIGKILL and SIGSTOP refuse, which is as well.
pub fn default_signals() {
    // The kernel's own form, not the library's, which refuses the signals it keeps for itself (32 to 34).
    let default = [0_u64; SIGACTION_WORDS];
    for signal in 1..=SIGNAL_MAX {
        // SAFETY: all zero is the default action, in an array as large as the structure; nothing is written.
        unsafe {
            let nothing = std::ptr::null::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, SIGSET_BYTES);
        }
    }
}

/// Ignores what would end the shim by the way: only SIGKILL does.
pub fn ignore_signals() {
    for signal in [libc::SIGHUP, libc::SIGPIPE, libc::SIGINT, libc::SIGTERM, libc::SIGQUIT] {
        // SAFETY: SIG_IGN installs no handler.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
}

/// A timer that is armed with [`arm_timer`].
pub fn timer_fd() -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    owned(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })
}

/// Lets a timer expire once.
pub fn arm_timer(timer: &OwnedFd, delay_ms: u32) -> io::Result<()> {
    let value = libc::timespec {
        tv_sec: libc::time_t::from(delay_ms / 1000),
        tv_nsec: libc::c_long::from(delay_ms % 1000) * 1_000_000,
    };
    let spec = libc::itimerspec { it_interval: libc::timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
    // SAFETY: `spec` lives through the call.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const spec, std::ptr::null_mut()) })
        .map(drop)
}

/// Watches a directory for new names.
pub fn watch_directory(path: &CString) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let watch = owned(unsafe { libc::inotify_init1(libc::IN_CLOEXEC | libc::IN_NONBLOCK) })?;
    // SAFETY: the path is a C string that lives through the call.
    check(unsafe {
        libc::inotify_add_watch(watch.as_raw_fd(), path.as_ptr(), libc::IN_CREATE | libc::IN_MOVED_TO)
    })?;
    Ok(watch)
}

/// Reads away what a signal, timer or watch descriptor holds.
pub fn drain(fd: &OwnedFd) {
    let mut buffer = [0_u8; 4096];
    // SAFETY: the buffer is as long as said.
    while unsafe { libc::read(fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) } > 0 {}
}

/// Waits until a descriptor takes bytes; false after the time.
pub fn wait_writable(fd: &impl AsRawFd, timeout_ms: i32) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd, as said.
    unsafe { libc::poll(&raw mut poll, 1, timeout_ms) > 0 }
}

/// Whether there is something to read, or the end.
pub fn is_readable(fd: Option<&impl AsRawFd>) -> bool {
    let Some(fd) = fd else { return false };
    let mut poll = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one pollfd, as said.
    unsafe { libc::poll(&raw mut poll, 1, 0) > 0 }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// By itself, with a code.
    Exited(i32),
    /// By a signal.
    Signaled(i32),
}

/// One child that has ended, if there is one.
pub fn reap() -> Option<(libc::pid_t, Status)> {
    loop {
        let mut status = 0;
        // SAFETY: `status` lives through the call.
        let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
        if pid <= 0 {
            return None;
        }
        if libc::WIFEXITED(status) {
            return Some((pid, Status::Exited(libc::WEXITSTATUS(status))));
        }
        if libc::WIFSIGNALED(status) {
            return Some((pid, Status::Signaled(libc::WTERMSIG(status))));
        }
    }
}

/// SIGKILL for a child that is not reaped yet, so the number is still its own.
pub fn kill(pid: libc::pid_t) {
    // SAFETY: no pointers.
    unsafe { libc::kill(pid, libc::SIGKILL) };
}

/// Parent and start time (fields 4 and 22 of `/proc/PID/stat`).
pub fn process_stat(pid: libc::pid_t) -> Option<(libc::pid_t, u64)> {
    let text = std::fs::read(format!("/proc/{pid}/stat")).ok()?;
    // The name, in parentheses, may hold anything, parentheses included.
    let after_name = text.iter().rposition(|&byte| byte == b')')? + 1;
    let fields: Vec<&str> = std::str::from_utf8(&text[after_name..]).ok()?.split_ascii_whitespace().collect();
    Some((fields.get(1)?.parse().ok()?, fields.get(19)?.parse().ok()?))
}

/// Reserves space for a file that has to be written when the disk may be full.
pub fn reserve(file: &std::fs::File, bytes: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, libc::off_t::from(bytes)) }).map(drop)
}
