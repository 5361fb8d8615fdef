//! Starts a process.
//!
//! The child shares the init's memory until it executes (CLONE_VM | CLONE_VFORK), so that nothing is copied and it can
//! leave its error where the parent looks. In turn it must not allocate, lock or unwind: it only makes system calls on
//! what was prepared before.

use std::ffi::CString;
use std::io;
use std::os::fd::RawFd;
use std::ptr;

use libc::{c_char, c_int, c_void};

/// Stack of the child; it calls nothing deep.
const STACK_BYTES: usize = 16_384;

/// Everything the child needs, ready for system calls.
#[derive(Clone)]
pub struct Plan {
    /// Paths to try to execute, in order.
    pub candidates: Vec<CString>,
    pub argv: Vec<CString>,
    pub env: Vec<CString>,
    pub cwd: CString,
    /// New root directory; the old one if absent.
    pub root: Option<CString>,
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    /// Standard input, output and error; all above 2.
    pub stdio: [RawFd; 3],
    /// Whether standard input is a terminal that is to control the session.
    pub tty: bool,
    /// Resource and its new limit.
    pub limits: Vec<(u32, u64)>,
    /// Who the init is.
    pub own: Own,
    /// What the program may do, by seccomp; with it all capabilities go, too. Empty for no limits.
    pub filter: Vec<libc::sock_filter>,
}

/// What the init itself is, so that a child changes only what differs: each call is cold code after a restore.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own {
    /// User and group, real, effective and saved, are 0.
    is_root: bool,
    no_groups: bool,
    /// Its working directory is the root.
    is_at_root: bool,
}

impl Own {
    pub fn find() -> Self {
        let (mut ids, mut gids) = ([1; 3], [1; 3]);
        // SAFETY: room for three ids each; a size of 0 asks for the number of groups.
        unsafe {
            libc::getresuid(&raw mut ids[0], &raw mut ids[1], &raw mut ids[2]);
            libc::getresgid(&raw mut gids[0], &raw mut gids[1], &raw mut gids[2]);
            let no_groups = libc::getgroups(0, ptr::null_mut()) == 0;
            let is_at_root = std::env::current_dir().is_ok_and(|path| path.as_os_str() == "/");
            Self { is_root: ids == [0; 3] && gids == [0; 3], no_groups, is_at_root }
        }
    }
}

/// Where the child failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    Clone,
    Session,
    Stdio,
    Limits,
    Root,
    Directory,
    Identity,
    Filter,
    Exec,
}

impl Stage {
    pub fn words(self) -> &'static str {
        match self {
            Self::Clone => "cannot create a process",
            Self::Session => "cannot open a session",
            Self::Stdio => "cannot set up standard streams",
            Self::Limits => "cannot set resource limits",
            Self::Root => "cannot change root",
            Self::Directory => "cannot enter the working directory",
            Self::Identity => "cannot change user",
            Self::Filter => "cannot confine the process",
            Self::Exec => "cannot execute",
        }
    }
}

/// Where and with which errno.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failure {
    pub stage: Stage,
    pub errno: c_int,
}

struct Shared<'a> {
    plan: &'a Plan,
    argv: Vec<*const c_char>,
    env: Vec<*const c_char>,
    failure: Option<Failure>,
}

/// Starts the process and gives its pid once it executes its program.
pub fn spawn(plan: &Plan) -> Result<libc::pid_t, Failure> {
    let mut shared = Shared { plan, argv: pointers(&plan.argv), env: pointers(&plan.env), failure: None };
    let mut stack = vec![0_u128; STACK_BYTES / 16];
    let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::SIGCHLD;
    // SAFETY: the stack grows down from its aligned end; VFORK keeps this frame, and so the stack and what the child is
    // given, until the child has executed or ended. The child is `child`, which keeps to the module's rules.
    let pid = unsafe {
        let top = stack.as_mut_ptr().add(stack.len());
        libc::clone(child, top.cast(), flags, (&raw mut shared).cast())
    };
    if pid < 0 {
        return Err(Failure { stage: Stage::Clone, errno: errno() });
    }
    match shared.failure {
        None => Ok(pid),
        Some(failure) => {
            // SAFETY: it has ended, so this does not wait; nobody looks at its status.
            unsafe { libc::waitpid(pid, ptr::null_mut(), 0) };
            Err(failure)
        }
    }
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).chain([ptr::null()]).collect()
}

fn errno() -> c_int {
    io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

extern "C" fn child(argument: *mut c_void) -> c_int {
    // SAFETY: the parent passes its `Shared` and sleeps, so this is the only reference in use.
    let shared = unsafe { &mut *argument.cast::<Shared<'_>>() };
    let stage = prepare(shared.plan).err().unwrap_or_else(|| execute(shared));
    shared.failure = Some(Failure { stage, errno: errno() });
    // SAFETY: ends the child without running anything of the parent's.
    unsafe { libc::_exit(127) }
}

fn ok(result: c_int, stage: Stage) -> Result<(), Stage> {
    if result < 0 { Err(stage) } else { Ok(()) }
}

/// Everything up to exec. Raw system calls for the identity: libc's would signal "other threads", which are the parent.
fn prepare(plan: &Plan) -> Result<(), Stage> {
    // SAFETY: system calls on numbers and on memory the plan owns.
    unsafe {
        ok(libc::setsid(), Stage::Session)?;
        for (target, fd) in plan.stdio.iter().enumerate() {
            ok(libc::dup2(*fd, target as c_int), Stage::Stdio)?;
        }
        if plan.tty {
            ok(libc::ioctl(0, libc::TIOCSCTTY, 0), Stage::Session)?;
        }
        for (resource, value) in &plan.limits {
            let limit = libc::rlimit { rlim_cur: *value, rlim_max: *value };
            // A container may not be allowed to raise a limit; it then keeps what its runtime gave it.
            if libc::setrlimit(*resource as _, &raw const limit) < 0 && errno() != libc::EPERM {
                return Err(Stage::Limits);
            }
        }
        if let Some(root) = &plan.root {
            ok(libc::chroot(root.as_ptr()), Stage::Root)?;
        }
        if plan.root.is_some() || !plan.own.is_at_root || plan.cwd.as_bytes() != b"/" {
            ok(libc::chdir(plan.cwd.as_ptr()), Stage::Directory)?;
        }
        if !(plan.groups.is_empty() && plan.own.no_groups) {
            let set_groups = libc::syscall(libc::SYS_setgroups, plan.groups.len(), plan.groups.as_ptr());
            // A container without the right to may still run what needs no change.
            if set_groups < 0 && !(plan.groups.is_empty() && errno() == libc::EPERM) {
                return Err(Stage::Identity);
            }
        }
        if plan.gid != 0 || !plan.own.is_root {
            ok(libc::syscall(libc::SYS_setgid, plan.gid) as c_int, Stage::Identity)?;
        }
        if plan.uid != 0 || !plan.own.is_root {
            ok(libc::syscall(libc::SYS_setuid, plan.uid) as c_int, Stage::Identity)?;
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
        if !plan.filter.is_empty() {
            ok(confine(&plan.filter), Stage::Filter)?;
        }
    }
    Ok(())
}

/// Gives up all capabilities and the way back to them, then takes the filter.
unsafe fn confine(filter: &[libc::sock_filter]) -> c_int {
    // Version 3 of the interface, this process; two sets of three words. See capset(2).
    let (header, none) = ([0x2008_0522_u32, 0], [0_u32; 6]);
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_ptr().cast_mut() };
    // SAFETY: structures of the kernel's layout that live through the calls; the filter is only read.
    unsafe {
        if libc::syscall(libc::SYS_capset, header.as_ptr(), none.as_ptr()) < 0
            || libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0
        {
            return -1;
        }
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program)
    }
}

/// Tries the candidates as execvp(3) does: what is missing is passed over, what is forbidden remembered.
fn execute(shared: &Shared<'_>) -> Stage {
    let mut first_error = libc::ENOENT;
    for path in &shared.plan.candidates {
        // SAFETY: strings that end in zero and lists that end in null, which the parent keeps alive.
        unsafe { libc::execve(path.as_ptr(), shared.argv.as_ptr(), shared.env.as_ptr()) };
        let error = errno();
        let searching = shared.plan.candidates.len() > 1;
        match error {
            libc::ENOENT => {}
            libc::ENOTDIR if searching => {}
            libc::EACCES if searching => first_error = libc::EACCES,
            _ => {
                first_error = error;
                break;
            }
        }
    }
    // SAFETY: sets the errno of this process, which `child` reads next.
    unsafe { *libc::__errno_location() = first_error };
    Stage::Exec
}

/// The kernel's number for a limit's name.
pub fn resource(name: &str) -> Option<u32> {
    Some(match name {
        "core" => libc::RLIMIT_CORE,
        "cpu" => libc::RLIMIT_CPU,
        "data" => libc::RLIMIT_DATA,
        "fsize" => libc::RLIMIT_FSIZE,
        "memlock" => libc::RLIMIT_MEMLOCK,
        "nofile" => libc::RLIMIT_NOFILE,
        "nproc" => libc::RLIMIT_NPROC,
        "rtprio" => libc::RLIMIT_RTPRIO,
        "stack" => libc::RLIMIT_STACK,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{self, Status};
    use std::os::fd::AsRawFd;

    fn plan(program: &str, argv: &[&str]) -> (Plan, std::fs::File) {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null").unwrap();
        let strings = |texts: &[&str]| texts.iter().map(|text| CString::new(*text).unwrap()).collect();
        let plan = Plan {
            candidates: strings(&[program]),
            argv: strings(argv),
            env: strings(&["A=1"]),
            cwd: c"/".into(),
            root: None,
            uid: 0,
            gid: 0,
            groups: vec![],
            stdio: [null.as_raw_fd(); 3],
            tty: false,
            limits: vec![(libc::RLIMIT_CORE, 0)],
            own: Own::find(),
            filter: vec![],
        };
        (plan, null)
    }

    #[test]
    fn a_program_runs_and_its_code_comes_back() {
        let (plan, _null) = plan("/bin/sh", &["sh", "-c", "exit $((A + 6))"]);
        let pid = spawn(&plan).unwrap();
        assert_eq!(sys::reap(pid, 0), Some((pid, Status::Code(7))));
    }

    #[test]
    fn a_filtered_program_gets_as_far_as_its_first_act() {
        let (plan, _null) = plan("/bin/sh", &["sh", "-c", "exit 7"]);
        let confined = |argv: &[&str]| {
            let argv = argv.iter().map(|text| CString::new(*text).unwrap()).collect();
            let pid = spawn(&Plan { argv, filter: crate::filter::rehearsal(), ..plan.clone() }).unwrap();
            sys::reap(pid, 0).unwrap().1
        };
        assert_eq!(confined(&["sh", "-c", "read line < /etc/passwd; exit 7"]), Status::Code(7));
        for script in ["echo x", "true & wait", "kill $$", "cd /tmp && mkdir midge-never"] {
            assert_eq!(confined(&["sh", "-c", script]), Status::Signal(libc::SIGSYS), "{script}");
        }
        assert_eq!(confined(&["sh", "-c", "echo x > /tmp/midge-never"]), Status::Signal(libc::SIGSYS));
        assert!(!std::path::Path::new("/tmp/midge-never").exists());
    }

    #[test]
    fn the_failure_of_the_child_is_the_parents_to_know() {
        let (plan, _null) = plan("/nonexistent", &["x"]);
        assert_eq!(spawn(&plan), Err(Failure { stage: Stage::Exec, errno: libc::ENOENT }));
        let wrong_directory = Plan { cwd: c"/nonexistent".into(), ..plan };
        assert_eq!(spawn(&wrong_directory), Err(Failure { stage: Stage::Directory, errno: libc::ENOENT }));
    }
}
