//! The machine's main process: the program itself, or what a launcher leaves behind.

use std::path::Path;

use crate::sys::{self, Status};

/// Ends of other children remembered while a launcher runs: one of them may be the main process's.
const STRAYS_MAX: usize = 64;

/// Where the launch stands.
enum Phase {
    /// The launcher runs; the main process is not known yet.
    Launching { strays: Vec<(libc::pid_t, Status)> },
    /// The main process runs, or did.
    Running,
}

/// What a reaped child means.
#[derive(Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing for anybody.
    None,
    /// The launcher is done and the main process is known.
    Launched,
    /// The machine has ended; with a reason if it never began.
    Ended(Option<Status>, Option<String>),
}

/// The process whose end is the machine's end.
pub struct Child {
    /// Launcher or main process.
    pid: libc::pid_t,
    start_time: u64,
    phase: Phase,
    kill_wanted: bool,
}

impl Child {
    /// A program that has just been started.
    pub fn new(pid: libc::pid_t, is_launcher: bool) -> Self {
        let phase = if is_launcher { Phase::Launching { strays: Vec::new() } } else { Phase::Running };
        Self { pid, start_time: start_time(pid), phase, kill_wanted: false }
    }

    /// Pid and start time of the main process; zeros while a launcher runs.
    pub fn identity(&self) -> (libc::pid_t, u64) {
        match self.phase {
            Phase::Launching { .. } => (0, 0),
            Phase::Running => (self.pid, self.start_time),
        }
    }

    /// Ends the machine: at once, or as soon as a launcher has said what to end.
    pub fn kill(&mut self) {
        self.kill_wanted = true;
        if matches!(self.phase, Phase::Running) {
            sys::kill(self.pid);
        }
    }

    /// Takes the end of any child.
    pub fn on_reaped(&mut self, pid: libc::pid_t, status: Status, pid_file: Option<&Path>) -> News {
        match &mut self.phase {
            Phase::Launching { strays } if pid == self.pid => {
                let strays = std::mem::take(strays);
                self.on_launched(status, pid_file, &strays)
            }
            Phase::Launching { strays } => {
                if strays.len() < STRAYS_MAX {
                    strays.push((pid, status));
                }
                News::None
            }
            Phase::Running if pid == self.pid => News::Ended(Some(status), None),
            Phase::Running => News::None,
        }
    }

    fn on_launched(
        &mut self,
        status: Status,
        pid_file: Option<&Path>,
        strays: &[(libc::pid_t, Status)],
    ) -> News {
        self.phase = Phase::Running;
        if status != Status::Exited(0) {
            return News::Ended(Some(status), Some("launcher failed".into()));
        }
        let text = pid_file.and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
        let Some(main) = text.trim().parse().ok().filter(|&pid: &libc::pid_t| pid > 1) else {
            return News::Ended(None, Some("launcher left no pid".into()));
        };
        if let Some((_, status)) = strays.iter().find(|(pid, _)| *pid == main) {
            return News::Ended(Some(*status), None);
        }
        match sys::process_stat(main) {
            Some((parent, start_time)) if u32::try_from(parent) == Ok(std::process::id()) => {
                self.pid = main;
                self.start_time = start_time;
                if self.kill_wanted {
                    sys::kill(main);
                }
                News::Launched
            }
            _ => {
                News::Ended(None, Some(format!("process {main} of the launcher is not a child of the shim")))
            }
        }
    }
}

fn start_time(pid: libc::pid_t) -> u64 {
    sys::process_stat(pid).map_or(0, |(_, start_time)| start_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own_pid() -> libc::pid_t {
        std::process::id().try_into().unwrap()
    }

    #[test]
    fn a_program_ends_the_machine() {
        let mut child = Child::new(own_pid(), false);
        assert!(child.identity().1 > 0);
        assert_eq!(child.on_reaped(1_000_000, Status::Exited(0), None), News::None);
        let status = Status::Signaled(9);
        assert_eq!(child.on_reaped(own_pid(), status, None), News::Ended(Some(status), None));
    }

    #[test]
    fn a_launcher_that_fails_ends_it_too() {
        let mut child = Child::new(own_pid(), true);
        assert_eq!(child.identity(), (0, 0));
        let news = child.on_reaped(own_pid(), Status::Exited(3), None);
        assert_eq!(news, News::Ended(Some(Status::Exited(3)), Some("launcher failed".into())));
    }

    #[test]
    fn a_main_process_may_end_before_its_launcher() {
        let path = std::env::temp_dir().join(format!("midge-shim-pid-{}", std::process::id()));
        std::fs::write(&path, "1000001\n").unwrap();
        let mut child = Child::new(own_pid(), true);
        assert_eq!(child.on_reaped(1_000_001, Status::Exited(7), Some(&path)), News::None);
        let news = child.on_reaped(own_pid(), Status::Exited(0), Some(&path));
        std::fs::remove_file(path).unwrap();
        assert_eq!(news, News::Ended(Some(Status::Exited(7)), None));
    }
}
