//! What a program may do while its start is rehearsed: look, compute, map memory. A seccomp filter, see seccomp(2).
//!
//! Whatever could be seen outside the process ends it: that is the program's first act, and the rehearsal is over. A
//! few calls fail instead, where programs go on without: opening for writing, and what the filter cannot look into.

use libc::{c_long, sock_filter};

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e; // AUDIT_ARCH_X86_64
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7; // AUDIT_ARCH_AARCH64

/// Bit of the numbers of a second table of calls (x32), of which none is allowed.
const OTHER_TABLE: u32 = 0x4000_0000;
/// Offsets in `struct seccomp_data`; arguments are eight bytes each, the lower half first.
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const fn argument_at(index: u32) -> u32 {
    16 + 8 * index
}

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;
const KILL: u32 = libc::SECCOMP_RET_KILL_PROCESS;
const fn fail(errno: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | errno as u32
}

/// Flags of open(2) that write or create.
const OPEN_WRITES: i32 = libc::O_ACCMODE | libc::O_CREAT | libc::O_TRUNC;
/// Flags of clone(2) that together make a thread, which ends with its process.
const THREAD: i32 = libc::CLONE_VM | libc::CLONE_SIGHAND | libc::CLONE_THREAD;

/// Calls that have no effect outside the process, whatever their arguments. execve stays in the process, too, and a new
/// program keeps the filter. nanosleep is what threads of Go pass their time with; a program that sleeps by way of libc
/// (clock_nanosleep) has nothing more to rehearse.
const HARMLESS: &[c_long] = &[
    libc::SYS_read,
    libc::SYS_pread64,
    libc::SYS_readv,
    libc::SYS_close,
    libc::SYS_close_range,
    libc::SYS_lseek,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_readlinkat,
    libc::SYS_getdents64,
    libc::SYS_getcwd,
    libc::SYS_chdir,
    libc::SYS_fchdir,
    libc::SYS_umask,
    libc::SYS_fadvise64,
    libc::SYS_readahead,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_pipe2,
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_mincore,
    libc::SYS_brk,
    libc::SYS_membarrier,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_getparam,
    libc::SYS_sched_getscheduler,
    libc::SYS_getpriority,
    libc::SYS_set_tid_address,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_gettimeofday,
    libc::SYS_times,
    libc::SYS_getrusage,
    libc::SYS_getpid,
    libc::SYS_getppid,
    libc::SYS_gettid,
    libc::SYS_getpgid,
    libc::SYS_getsid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_getresuid,
    libc::SYS_getresgid,
    libc::SYS_getgroups,
    libc::SYS_capget,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getcpu,
    libc::SYS_execve,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// The same under the names that only the older architecture has.
#[cfg(target_arch = "x86_64")]
const HARMLESS_OLD: &[c_long] = &[
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_access,
    libc::SYS_readlink,
    libc::SYS_dup2,
    libc::SYS_pipe,
    libc::SYS_epoll_create,
    libc::SYS_getpgrp,
    libc::SYS_time,
    libc::SYS_arch_prctl,
];
#[cfg(not(target_arch = "x86_64"))]
const HARMLESS_OLD: &[c_long] = &[];

/// Calls that fail without more ado. clone3 hides its flags in memory; who gets ENOSYS goes back to clone.
const FAILING: &[(c_long, i32)] = &[
    (libc::SYS_clone3, libc::ENOSYS),
    (libc::SYS_openat2, libc::ENOSYS),
    // Questions whether a stream is a terminal: none is.
    (libc::SYS_ioctl, libc::ENOTTY),
];

/// The filter.
pub fn rehearsal() -> Vec<sock_filter> {
    let mut filter = vec![
        load(ARCHITECTURE_AT),
        jump(libc::BPF_JEQ, ARCHITECTURE, 1, 0),
        give(KILL),
        load(NUMBER_AT),
        jump(libc::BPF_JGE, OTHER_TABLE, 0, 1),
        give(KILL),
    ];
    for number in HARMLESS.iter().chain(HARMLESS_OLD) {
        rule(&mut filter, *number, &[give(ALLOW)]);
    }
    for (number, errno) in FAILING {
        rule(&mut filter, *number, &[give(fail(*errno))]);
    }
    let read_only = |argument| {
        [
            load(argument_at(argument)),
            jump(libc::BPF_JSET, OPEN_WRITES as u32, 0, 1),
            give(fail(libc::EROFS)),
            give(ALLOW),
        ]
    };
    rule(&mut filter, libc::SYS_openat, &read_only(2));
    #[cfg(target_arch = "x86_64")]
    rule(&mut filter, libc::SYS_open, &read_only(1));
    let all_of = |argument, bits: i32| {
        [
            load(argument_at(argument)),
            and(bits as u32),
            jump(libc::BPF_JEQ, bits as u32, 0, 1),
            give(ALLOW),
            give(KILL),
        ]
    };
    rule(&mut filter, libc::SYS_clone, &all_of(0, THREAD));
    // Limits of its own, not of other processes.
    rule(&mut filter, libc::SYS_prlimit64, &only(0, &[0]));
    // Descriptor flags and copies; no locks, leases, owners or notices.
    let commands =
        [libc::F_DUPFD, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL, libc::F_DUPFD_CLOEXEC];
    rule(&mut filter, libc::SYS_fcntl, &only(1, &commands));
    filter.push(give(KILL));
    filter
}

/// What to do for one call; `then` ends with a verdict.
fn rule(filter: &mut Vec<sock_filter>, number: c_long, then: &[sock_filter]) {
    filter.push(jump(libc::BPF_JEQ, number as u32, 0, then.len() as u8));
    filter.extend_from_slice(then);
}

/// Allows a call if the lower half of an argument is one of these values.
fn only(argument: u32, values: &[i32]) -> Vec<sock_filter> {
    let mut then = vec![load(argument_at(argument))];
    for value in values {
        then.extend([jump(libc::BPF_JEQ, *value as u32, 0, 1), give(ALLOW)]);
    }
    then.push(give(KILL));
    then
}

fn load(offset: u32) -> sock_filter {
    statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, offset)
}

fn and(bits: u32) -> sock_filter {
    statement(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, bits)
}

fn give(verdict: u32) -> sock_filter {
    statement(libc::BPF_RET | libc::BPF_K, verdict)
}

fn statement(code: u32, k: u32) -> sock_filter {
    sock_filter { code: code as u16, jt: 0, jf: 0, k }
}

fn jump(condition: u32, k: u32, jt: u8, jf: u8) -> sock_filter {
    sock_filter { code: (libc::BPF_JMP | condition | libc::BPF_K) as u16, jt, jf, k }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs the filter as the kernel does.
    fn verdict(number: c_long, arguments: &[(u32, u64)]) -> u32 {
        verdict_of(ARCHITECTURE, number as u32, arguments)
    }

    fn verdict_of(architecture: u32, number: u32, arguments: &[(u32, u64)]) -> u32 {
        let filter = rehearsal();
        let (mut at, mut accumulator) = (0, 0_u32);
        loop {
            let step = filter[at];
            at += 1;
            let taken = match u32::from(step.code) & !(libc::BPF_K) {
                code if code == libc::BPF_LD | libc::BPF_W | libc::BPF_ABS => {
                    accumulator = match step.k {
                        NUMBER_AT => number,
                        ARCHITECTURE_AT => architecture,
                        at => {
                            let index = (at - 16) / 8;
                            arguments.iter().find(|(known, _)| *known == index).map_or(0, |(_, v)| *v as u32)
                        }
                    };
                    continue;
                }
                code if code == libc::BPF_ALU | libc::BPF_AND => {
                    accumulator &= step.k;
                    continue;
                }
                code if code == libc::BPF_RET => return step.k,
                code if code == libc::BPF_JMP | libc::BPF_JEQ => accumulator == step.k,
                code if code == libc::BPF_JMP | libc::BPF_JGE => accumulator >= step.k,
                code if code == libc::BPF_JMP | libc::BPF_JSET => accumulator & step.k != 0,
                code => panic!("code {code:#x}"),
            };
            at += usize::from(if taken { step.jt } else { step.jf });
        }
    }

    #[test]
    fn what_a_loader_does_is_allowed() {
        for number in [libc::SYS_read, libc::SYS_mmap, libc::SYS_getdents64, libc::SYS_execve] {
            assert_eq!(verdict(number, &[]), ALLOW);
        }
        let thread = THREAD | libc::CLONE_FS | libc::CLONE_FILES;
        assert_eq!(verdict(libc::SYS_clone, &[(0, thread as u64)]), ALLOW);
        assert_eq!(verdict(libc::SYS_prlimit64, &[(0, 0), (2, 0x7fff_0000)]), ALLOW);
        assert_eq!(verdict(libc::SYS_fcntl, &[(1, libc::F_GETFL as u64)]), ALLOW);
    }

    #[test]
    fn what_others_could_notice_ends_the_process() {
        let calls = [
            libc::SYS_write,
            libc::SYS_writev,
            libc::SYS_pwrite64,
            libc::SYS_socket,
            libc::SYS_kill,
            libc::SYS_tgkill,
            libc::SYS_unlinkat,
            libc::SYS_mkdirat,
            libc::SYS_renameat2,
            libc::SYS_ftruncate,
            libc::SYS_fchmod,
            libc::SYS_utimensat,
            libc::SYS_mount,
            libc::SYS_ptrace,
            libc::SYS_io_uring_setup,
            libc::SYS_process_vm_writev,
            libc::SYS_shmget,
            libc::SYS_memfd_create,
            libc::SYS_clock_nanosleep,
            libc::SYS_setsid,
        ];
        for number in calls {
            assert_eq!(verdict(number, &[]), KILL, "{number}");
        }
        assert_eq!(verdict(libc::SYS_clone, &[(0, libc::SIGCHLD as u64)]), KILL);
        assert_eq!(verdict(libc::SYS_clone, &[(0, (libc::CLONE_VM | libc::CLONE_VFORK) as u64)]), KILL);
        assert_eq!(verdict(libc::SYS_prlimit64, &[(0, 1)]), KILL);
        for command in [libc::F_SETLK, libc::F_SETLEASE, libc::F_NOTIFY, libc::F_SETOWN] {
            assert_eq!(verdict(libc::SYS_fcntl, &[(1, command as u64)]), KILL);
        }
    }

    #[test]
    fn files_are_opened_for_reading_only() {
        let open = |flags: i32| verdict(libc::SYS_openat, &[(2, flags as u64)]);
        assert_eq!(open(libc::O_RDONLY | libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_PATH), ALLOW);
        for flags in
            [libc::O_WRONLY, libc::O_RDWR, libc::O_CREAT, libc::O_TRUNC, libc::O_TMPFILE | libc::O_RDWR, 3]
        {
            assert_eq!(open(flags), fail(libc::EROFS));
        }
        assert_eq!(verdict(libc::SYS_openat2, &[]), fail(libc::ENOSYS));
    }

    #[test]
    fn other_tables_of_calls_are_closed() {
        assert_eq!(verdict_of(ARCHITECTURE, OTHER_TABLE | libc::SYS_read as u32, &[]), KILL);
        assert_eq!(verdict_of(ARCHITECTURE ^ 1, libc::SYS_read as u32, &[]), KILL);
    }
}
