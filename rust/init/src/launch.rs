//! Starts a program with its streams.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::sync::OnceLock;

use crate::command::{self, NotStarted};
use crate::error::{Context, Error, Result};
use crate::source::Source;
use crate::spawn::{self, Own, Plan};
use crate::users::Account;
use crate::{pty, sys};

/// The init changes neither its own identity nor, but for a moment, its directory.
static OWN: OnceLock<Own> = OnceLock::new();
/// What programs without input read from, opened once.
static NULL: OnceLock<File> = OnceLock::new();

/// A program that is to run.
pub struct Launch<'a> {
    pub argv: &'a [String],
    pub env: Vec<(String, String)>,
    pub account: &'a Account,
    pub cwd: &'a str,
    /// Size of its terminal, if it gets one.
    pub terminal: Option<(u16, u16)>,
    /// Whether its standard input is a pipe rather than /dev/null.
    pub stdin: bool,
    pub limits: &'a [(String, u64)],
    pub root: Option<&'a str>,
    /// What it may do, by seccomp; empty for no limits.
    pub filter: Vec<libc::sock_filter>,
}

/// A program that runs.
pub struct Launched {
    pub pid: libc::pid_t,
    pub sources: Vec<Source>,
    pub stdin: Option<Rc<OwnedFd>>,
}

/// Ends of the streams: the init's, and the child's three.
struct Streams {
    sources: Vec<Source>,
    stdin: Option<Rc<OwnedFd>>,
    /// The child's three, and what of them is to be closed once it has its own.
    stdio: [RawFd; 3],
    _child: Vec<OwnedFd>,
}

impl Launch<'_> {
    /// Starts it.
    pub fn start(mut self) -> std::result::Result<Launched, NotStarted> {
        let Some(program) = self.argv.first().filter(|program| !program.is_empty()) else {
            return Err(Error::new("no command given").into());
        };
        command::complete_environment(&mut self.env, self.account, self.terminal.is_some());
        let candidates = command::candidates(program, &self.env)?;
        let streams = match self.terminal {
            Some(size) => self.terminal_streams(size)?,
            None => self.pipe_streams()?,
        };
        let plan = Plan {
            candidates,
            argv: self.argv.iter().map(|text| sys::cstring(text)).collect::<Result<_>>()?,
            env: command::environment(&self.env)?,
            cwd: sys::cstring(self.cwd)?,
            root: self.root.map(sys::cstring).transpose()?,
            uid: self.account.uid,
            gid: self.account.gid,
            groups: self.account.groups.clone(),
            stdio: streams.stdio,
            tty: self.terminal.is_some(),
            limits: self.limits()?,
            own: *OWN.get_or_init(Own::find),
            filter: std::mem::take(&mut self.filter),
        };
        let pid = spawn::spawn(&plan)
            .map_err(|failure| command::explain(failure, program, self.cwd, &plan.candidates))?;
        Ok(Launched { pid, sources: streams.sources, stdin: streams.stdin })
    }

    fn limits(&self) -> Result<Vec<(u32, u64)>> {
        self.limits
            .iter()
            .map(|(name, value)| {
                let resource = spawn::resource(name);
                resource
                    .map(|resource| (resource, *value))
                    .ok_or_else(|| Error::new(format!("unknown limit {name:?}")))
            })
            .collect()
    }

    fn terminal_streams(&self, size: (u16, u16)) -> Result<Streams> {
        let (master, slave) = pty::open(size).context(|| "cannot open a terminal".into())?;
        self.give(&slave);
        let master = Rc::new(master);
        let sources = vec![Source::new(Rc::clone(&master), true, false)];
        let stdio = [slave.as_raw_fd(); 3];
        Ok(Streams { sources, stdin: Some(master), stdio, _child: vec![slave] })
    }

    fn pipe_streams(&self) -> Result<Streams> {
        let context = || "cannot create a pipe".to_owned();
        let (mut sources, mut child) = (Vec::new(), Vec::new());
        let mut stdin = None;
        let mut stdio = [null()?; 3];
        if self.stdin {
            let (read, write) = sys::pipe().context(context)?;
            sys::set_nonblocking(&write).context(context)?;
            self.give(&read);
            stdin = Some(Rc::new(write));
            stdio[0] = read.as_raw_fd();
            child.push(read);
        }
        for (at, stderr) in [(1, false), (2, true)] {
            let (read, write) = sys::pipe().context(context)?;
            sys::set_nonblocking(&read).context(context)?;
            self.give(&write);
            sources.push(Source::new(Rc::new(read), false, stderr));
            stdio[at] = write.as_raw_fd();
            child.push(write);
        }
        Ok(Streams { sources, stdin, stdio, _child: child })
    }

    /// Lets the program open its own streams by name (/dev/stdout) though it is not root. Best effort, as runtimes do.
    fn give(&self, fd: &impl AsFd) {
        if self.account.uid != 0 {
            // SAFETY: an open descriptor and two numbers.
            unsafe { libc::fchown(fd.as_fd().as_raw_fd(), self.account.uid, self.account.gid) };
        }
    }
}

/// The descriptor of /dev/null, which stays open.
fn null() -> Result<RawFd> {
    if let Some(null) = NULL.get() {
        return Ok(null.as_raw_fd());
    }
    let null = File::open("/dev/null").context(|| "cannot open /dev/null".into())?;
    Ok(NULL.get_or_init(|| null).as_raw_fd())
}
