//! What the host asks for, frame by frame.

use midge_frame::{MessageError, PROTOCOL_VERSION, flag, kind};
use serde_json::{Value, json};

use crate::channel::Frame;
use crate::config::Identity;
use crate::error::{Error, Result};
use crate::exec::{self, EXECS_MAX};
use crate::machine::{Machine, Mode, State};
use crate::poller::Token;
use crate::{command, identity, json, ps, stats, sys, warm};

/// Longest nonce that is given back.
const NONCE_BYTES_MAX: usize = 128;
/// Highest signal number of Linux.
const SIGNAL_MAX: i32 = 64;

/// A stable word for programs, beside the message for people.
pub mod code {
    pub const BAD_MESSAGE: &str = "bad_message";
    pub const UNKNOWN_TYPE: &str = "unknown_type";
    pub const VERSION: &str = "version";
    /// Not in this state of the machine.
    pub const WRONG_STATE: &str = "wrong_state";
    /// Refused since something before it failed.
    pub const REFUSED: &str = "refused";
    pub const FAILED: &str = "failed";
    pub const NOT_FOUND: &str = "not_found";
    pub const NOT_EXECUTABLE: &str = "not_executable";
    pub const LIMIT: &str = "limit";
    pub const WINDOW: &str = "window";
}

impl Machine {
    /// Takes one frame.
    pub fn handle(&mut self, frame: Frame) {
        let (kind, stream) = (frame.header.kind, frame.header.stream);
        let end = frame.header.flags & flag::EOF != 0;
        match kind {
            kind::EXIT_ACK if self.report.is_some() => self.end = Some(self.exit_code()),
            kind::EXIT_ACK => {}
            // A host that has not said HELLO is one that has not noticed that its session is over.
            kind::STDIN if self.session => self.on_stdin(stream, &frame.payload, end),
            kind::FILE_DATA if self.session => self.on_file_data(stream, &frame.payload, end),
            kind::WINDOW if self.session => self.on_window(stream, &frame.payload),
            kind::STDIN | kind::FILE_DATA | kind::WINDOW => {}
            kind::HELLO..=kind::WARM => self.assemble(&frame),
            _ if self.session => {
                let message = Error::new(format!("frame type {kind:#04x} is not known"));
                self.error(kind, stream, code::UNKNOWN_TYPE, &message);
            }
            _ => {}
        }
    }

    fn assemble(&mut self, frame: &Frame) {
        let (kind, stream) = (frame.header.kind, frame.header.stream);
        let view = midge_frame::FrameRef { header: frame.header, payload: &frame.payload, raw: &[] };
        let under_way = self.assembler.under_way();
        let mut result = self.assembler.push(&view);
        if let (Err(MessageError::Interrupted), Some((kind, stream))) = (&result, under_way) {
            self.error(kind, stream, code::BAD_MESSAGE, &Error::new(MessageError::Interrupted.to_string()));
            result = self.assembler.push(&view);
        }
        match result {
            Ok(None) => {}
            Ok(Some(_)) if kind != kind::HELLO && !self.session => {}
            Ok(Some(payload)) => match json::parse(&payload) {
                Ok(value) => self.dispatch(kind, stream, &value),
                Err(error) => self.error(kind, stream, code::BAD_MESSAGE, &error),
            },
            Err(error) => self.error(kind, stream, code::BAD_MESSAGE, &Error::new(error.to_string())),
        }
    }

    fn dispatch(&mut self, kind: u8, stream: u32, value: &Value) {
        match kind {
            kind::HELLO => self.on_hello(value),
            kind::CONFIGURE => self.on_configure(value),
            kind::FILE => self.on_file(stream, value),
            kind::RUN => self.on_run(),
            kind::SIGNAL => self.on_signal(value),
            kind::EXEC => self.on_exec(stream, value),
            kind::RESIZE | kind::EXEC_SIGNAL => {
                if let Err(error) = self.on_exec_control(kind, stream, value) {
                    self.error(kind, stream, code::BAD_MESSAGE, &error);
                }
            }
            kind::STATS => {
                let paths: Vec<String> = self.config.mounts.iter().map(|mount| mount.path.clone()).collect();
                self.channel.outbox.control(kind::STATS_REPLY, stream, &stats::collect(&paths));
            }
            kind::PS => self.channel.outbox.control(kind::PS_REPLY, stream, &ps::collect()),
            kind::QUIESCE => self.on_quiesce(value),
            kind::RESUME => self.on_resume(value),
            kind::SHUTDOWN => self.end = Some(self.exit_code()),
            _ => self.on_warm(value),
        }
    }

    /// Answers ERROR; what fails before RUN also decides about RUN.
    pub fn error(&mut self, during: u8, stream: u32, code: &str, error: &Error) {
        let starting = matches!(self.state, State::Waiting | State::Configured);
        if starting
            && matches!(during, kind::CONFIGURE | kind::FILE | kind::FILE_DATA)
            && self.refusal.is_none()
        {
            self.refusal = Some(error.clone());
        }
        // FILE_DATA is never answered by itself: what fails is the file.
        let during = if during == kind::FILE_DATA { kind::FILE } else { during };
        let name = kind::name(during).map_or_else(|| format!("{during:#04x}"), str::to_ascii_lowercase);
        let message = json!({"code": code, "message": error.to_string(), "during": name});
        self.channel.outbox.control(kind::ERROR, stream, &message);
    }

    fn on_hello(&mut self, value: &Value) {
        self.channel.outbox.new_session();
        self.assembler.reset();
        self.transfers.abandon();
        for (_, exec) in std::mem::take(&mut self.execs) {
            exec.signal(libc::SIGKILL);
        }
        self.session = false;
        let version = json::integer::<u32>(value, "version").unwrap_or(0);
        let nonce = json::string(value, "nonce").ok().filter(|nonce| nonce.len() <= NONCE_BYTES_MAX);
        let Some(nonce) = nonce else {
            return self.error(kind::HELLO, 0, code::BAD_MESSAGE, &Error::new("HELLO has no nonce"));
        };
        if version < 1 {
            let message = Error::new(format!("version {version} is not spoken here, {PROTOCOL_VERSION} is"));
            return self.error(kind::HELLO, 0, code::VERSION, &message);
        }
        self.session = true;
        // Without a RESUME to come the machine was never away. What is malformed is no promise.
        if !json::boolean(value, "resume").unwrap_or(false) {
            self.freezer.thaw();
        }
        let answer = json!({
            "version": version.min(PROTOCOL_VERSION),
            "nonce": nonce,
            "init_version": env!("CARGO_PKG_VERSION"),
            "state": self.state.name(),
            "boot_id": self.boot_id,
            "start_id": self.config.start_id,
        });
        self.channel.outbox.control(kind::HELLO_ACK, 0, &answer);
        // The host may have missed it with the rest of the old session.
        if let Some(report) = self.report.as_ref().filter(|_| !self.channel.outbox.holds(kind::EXIT)) {
            self.channel.outbox.ordered(kind::EXIT, 0, report);
        }
    }

    fn on_signal(&mut self, value: &Value) {
        let running = self.main.as_ref().filter(|main| main.status.is_none()).map(|main| main.pid);
        let Some(pid) = running else {
            let message = Error::new("the main process is not running");
            return self.error(kind::SIGNAL, 0, code::WRONG_STATE, &message);
        };
        match signal_number(value) {
            Ok(signal) => drop(sys::kill(pid, signal)),
            Err(error) => self.error(kind::SIGNAL, 0, code::BAD_MESSAGE, &error),
        }
    }

    fn on_exec(&mut self, stream: u32, value: &Value) {
        if let Err((code, error)) = self.may_exec(stream) {
            return self.error(kind::EXEC, stream, code, &error);
        }
        let request = match exec::Request::from_json(value) {
            Ok(request) => request,
            Err(error) => return self.error(kind::EXEC, stream, code::BAD_MESSAGE, &error),
        };
        let exec = match request.start(&self.config.program) {
            Ok(exec) => exec,
            Err(failed) => {
                let code = match failed.exit_code {
                    command::EXIT_NOT_FOUND => code::NOT_FOUND,
                    command::EXIT_NOT_EXECUTABLE => code::NOT_EXECUTABLE,
                    _ => code::FAILED,
                };
                return self.error(kind::EXEC, stream, code, &failed.error);
            }
        };
        for (index, source) in (0..).zip(&exec.sources) {
            let _ = self.poller.add(&**source.fd(), Token::Source { stream, index });
        }
        if let Some(fd) = exec.stdin.as_ref().and_then(|stdin| stdin.own_fd()) {
            let _ = self.poller.add(&**fd, Token::Stdin { stream });
        }
        self.channel.outbox.control(kind::EXEC_STARTED, stream, &json!({"pid": exec.pid}));
        self.execs.insert(stream, exec);
    }

    fn may_exec(&self, stream: u32) -> std::result::Result<(), (&'static str, Error)> {
        let refuse = |code, message: String| Err((code, Error::new(message)));
        if !matches!(self.state, State::Configured | State::Running) {
            return refuse(code::WRONG_STATE, format!("machine is {}", self.state.name()));
        }
        if stream == 0 || self.execs.contains_key(&stream) {
            return refuse(code::BAD_MESSAGE, format!("stream {stream} is taken"));
        }
        if self.execs.len() >= EXECS_MAX {
            return refuse(code::LIMIT, format!("{EXECS_MAX} execs run already"));
        }
        Ok(())
    }

    /// RESIZE and EXEC_SIGNAL; an exec that has just ended is no error.
    fn on_exec_control(&mut self, kind: u8, stream: u32, value: &Value) -> Result<()> {
        if kind == kind::RESIZE {
            let size = exec::size(value)?;
            self.execs.get(&stream).into_iter().for_each(|exec| exec.resize(size));
        } else {
            let signal = signal_number(value)?;
            self.execs.get(&stream).into_iter().for_each(|exec| exec.signal(signal));
        }
        Ok(())
    }

    fn on_stdin(&mut self, stream: u32, bytes: &[u8], end: bool) {
        let Some(stdin) = self.execs.get_mut(&stream).and_then(|exec| exec.stdin.as_mut()) else { return };
        if stdin.push(bytes, end).is_err() {
            let message = Error::new("more standard input than was granted");
            return self.error(kind::STDIN, stream, code::WINDOW, &message);
        }
        self.feed(stream, false);
    }

    fn on_window(&mut self, stream: u32, payload: &[u8]) {
        let Ok(bytes) = payload.try_into() else {
            let message = Error::new("WINDOW is not four bytes");
            return self.error(kind::WINDOW, stream, code::BAD_MESSAGE, &message);
        };
        if let Some(exec) = self.execs.get_mut(&stream) {
            exec.window = exec.window.saturating_add(u32::from_le_bytes(bytes));
        }
    }

    fn on_quiesce(&mut self, value: &Value) {
        match json::boolean(value, "freeze") {
            Ok(freeze) => {
                if freeze {
                    self.freezer.freeze();
                }
                self.channel.outbox.quiesce();
            }
            Err(error) => self.error(kind::QUIESCE, 0, code::BAD_MESSAGE, &error),
        }
    }

    fn on_resume(&mut self, value: &Value) {
        match self.resume(value) {
            Ok(()) => self.channel.outbox.control(kind::RESUMED, 0, &json!({})),
            Err(error) => self.error(kind::RESUME, 0, code::FAILED, &error),
        }
    }

    fn resume(&mut self, value: &Value) -> Result<()> {
        let identity = Identity::from_json(value)?;
        if !self.is_container() {
            identity::apply_time(&identity)?;
        }
        let known = &mut self.config.identity.net;
        identity::apply(&identity, known.as_ref(), matches!(self.mode, Mode::Container))?;
        if identity.net.is_some() {
            *known = identity.net;
        }
        self.freezer.thaw();
        Ok(())
    }

    fn on_warm(&mut self, value: &Value) {
        if self.state != State::Waiting || self.is_container() || self.warmed.is_some() {
            let message = Error::new("only a virtual machine that waits can be warmed, once");
            return self.error(kind::WARM, 0, code::WRONG_STATE, &message);
        }
        self.laps.begin();
        let result = warm::run(value, &self.poller, &mut self.freezer);
        // What was killed for want of memory meanwhile was no program of the machine's.
        self.oom.has_grown();
        match result {
            Ok(warmed) => {
                self.warmed = warmed;
                // As the answers of a start say it, so that saying it is warm too.
                self.channel.outbox.control(kind::WARMED, 0, &json!({"took_us": self.laps.end_us()}));
            }
            Err(error) => self.error(kind::WARM, 0, code::FAILED, &error),
        }
    }
}

fn signal_number(value: &Value) -> Result<i32> {
    let signal = json::integer(value, "signal")?;
    if !(1..=SIGNAL_MAX).contains(&signal) {
        return Err(Error::new(format!("{signal} is not a signal")));
    }
    Ok(signal)
}
