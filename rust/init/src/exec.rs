//! Further processes: started, fed and ended for the host, beside the main one.

use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use midge_frame::WINDOW_BYTES;
use serde_json::{Value, json};

use crate::command::NotStarted;
use crate::config::{ITEMS_MAX, Program, bounded};
use crate::error::{Error, Result};
use crate::launch::{Launch, Launched};
use crate::pty;
use crate::source::Source;
use crate::stdin::Stdin;
use crate::sys::{self, Status};
use crate::{json, users};

/// Execs at a time; each holds a process and up to four descriptors.
pub const EXECS_MAX: usize = 64;

/// EXEC as the host sent it.
#[derive(Debug, PartialEq, Eq)]
pub struct Request {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    user: Option<String>,
    cwd: Option<String>,
    terminal: Option<(u16, u16)>,
    stdin: bool,
    timeout: Option<Duration>,
}

impl Request {
    pub fn from_json(value: &Value) -> Result<Self> {
        let terminal = if json::boolean(value, "tty")? { Some(size(value)?) } else { None };
        Ok(Self {
            argv: bounded("argv", json::strings(value, "argv")?)?,
            env: environment(value)?,
            user: json::optional_string(value, "user")?.filter(|user| !user.is_empty()).map(str::to_owned),
            cwd: json::optional_string(value, "cwd")?.filter(|cwd| !cwd.is_empty()).map(str::to_owned),
            terminal,
            stdin: json::boolean(value, "stdin")?,
            timeout: json::optional_integer::<u32>(value, "timeout_ms")?
                .map(|timeout| Duration::from_millis(timeout.into())),
        })
    }

    /// Starts the process as the machine's program would: its user, directory and environment, where nothing else is
    /// said.
    pub fn start(self, program: &Program) -> std::result::Result<Exec, NotStarted> {
        let account = users::find(self.user.as_deref().or(program.user.as_deref()))?;
        let mut env = program.env.clone();
        if self.user.is_some() {
            // The home of another user is another.
            env.retain(|(name, _)| name != "HOME");
        }
        env.retain(|(name, _)| !self.env.iter().any(|(new, _)| new == name));
        env.extend(self.env);
        let launched = Launch {
            argv: &self.argv,
            env,
            account: &account,
            cwd: self.cwd.as_deref().unwrap_or(&program.cwd),
            terminal: self.terminal,
            stdin: self.stdin,
            limits: &program.limits,
            root: None,
            filter: Vec::new(),
        }
        .start()?;
        // A deadline that is beyond the clock is none.
        let deadline = self.timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        Ok(Exec::new(launched, self.terminal.is_some(), deadline))
    }
}

/// Rows and columns, of which 0 stands for "unknown".
pub fn size(value: &Value) -> Result<(u16, u16)> {
    let rows = json::optional_integer(value, "rows")?.unwrap_or(pty::DEFAULT_SIZE.0);
    Ok((rows, json::optional_integer(value, "cols")?.unwrap_or(pty::DEFAULT_SIZE.1)))
}

fn environment(value: &Value) -> Result<Vec<(String, String)>> {
    let wrong = || Error::new("member \"env\" is not an object of strings");
    let Some(member) = json::member(value, "env") else { return Ok(Vec::new()) };
    let members = member.as_object().filter(|members| members.len() <= ITEMS_MAX).ok_or_else(wrong)?;
    members
        .iter()
        .map(|(name, value)| match value {
            Value::String(value) if !name.is_empty() && !name.contains('=') => {
                Ok((name.clone(), value.clone()))
            }
            _ => Err(wrong()),
        })
        .collect()
}

pub struct Exec {
    pub pid: libc::pid_t,
    pub sources: Vec<Source>,
    pub stdin: Option<Stdin>,
    terminal: bool,
    /// Bytes of output the host will take.
    pub window: u32,
    pub deadline: Option<Instant>,
    timed_out: bool,
    status: Option<Status>,
    oom_killed: bool,
}

impl Exec {
    fn new(launched: Launched, terminal: bool, deadline: Option<Instant>) -> Self {
        Self {
            pid: launched.pid,
            sources: launched.sources,
            stdin: launched.stdin.map(|fd| Stdin::new(fd, terminal)),
            terminal,
            window: WINDOW_BYTES,
            deadline,
            timed_out: false,
            status: None,
            oom_killed: false,
        }
    }

    /// Sends a signal to its process group; nothing if it has ended.
    pub fn signal(&self, signal: libc::c_int) {
        if self.status.is_none() {
            // A group that is gone, or a signal that does not exist: nobody waits for an answer.
            let _ = sys::kill(-self.pid, signal);
        }
    }

    pub fn resize(&self, size: (u16, u16)) {
        if let Some(source) = self.sources.first().filter(|_| self.terminal) {
            let _ = pty::resize(&source.fd().as_raw_fd(), size);
        }
    }

    /// Kills it if its time is up.
    pub fn check_deadline(&mut self, now: Instant) {
        if self.deadline.is_some_and(|deadline| deadline <= now) {
            self.deadline = None;
            if self.status.is_none() {
                self.timed_out = true;
                self.signal(libc::SIGKILL);
            }
        }
    }

    /// Takes note of its end; its output is still to be read.
    pub fn on_exit(&mut self, status: Status, oom_killed: bool) {
        self.status = Some(status);
        self.oom_killed = oom_killed;
        self.deadline = None;
        self.stdin = None;
        self.sources.iter_mut().for_each(Source::finish);
    }

    /// EXEC_EXIT, once there is nothing more to read.
    pub fn report(&self) -> Option<Value> {
        let status = self.status.filter(|_| self.sources.iter().all(|source| source.ended))?;
        let (exit_code, signal) = status_members(status);
        Some(json!({
            "exit_code": exit_code,
            "signal": signal,
            "timed_out": self.timed_out,
            "oom_killed": self.oom_killed,
        }))
    }
}

/// The `exit_code` and `signal` members of a report.
pub fn status_members(status: Status) -> (Option<i32>, Option<i32>) {
    match status {
        Status::Code(code) => (Some(code), None),
        Status::Signal(signal) => (None, Some(signal)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_read_with_its_defaults() {
        let request = Request::from_json(&json!({"argv": ["sh"], "tty": true, "timeout_ms": 5})).unwrap();
        assert_eq!(request.terminal, Some((24, 80)));
        assert_eq!(request.timeout, Some(Duration::from_millis(5)));
        assert_eq!(request.env, []);
        let sized = Request::from_json(&json!({"argv": [], "tty": true, "rows": 50, "cols": 132})).unwrap();
        assert_eq!(sized.terminal, Some((50, 132)));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for value in [
            json!({"argv": "sh"}),
            json!({"argv": [1]}),
            json!({"argv": ["sh"], "env": [["A", "1"]]}),
            json!({"argv": ["sh"], "env": {"A": 1}}),
            json!({"argv": ["sh"], "tty": true, "rows": 70_000}),
            json!({"argv": ["sh"], "timeout_ms": -1}),
        ] {
            assert!(Request::from_json(&value).is_err(), "{value}");
        }
    }
}
