//! The event loop: one thread, one epoll, no tick.
//!
//! ```text
//!              CONFIGURE            RUN                main process ends
//!   waiting ─────────────► configured ─────► running ─────────────────► exited ── EXIT_ACK ──► end
//!      └── SHUTDOWN, or a container's host gone, ends the machine from every state ──────────────┘
//! ```
//!
//! Template snapshots are taken in `waiting`: no disk is open then, and nothing secret is known.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use midge_frame::{Assembler, FRAME_PAYLOAD_MAX, flag, kind};
use serde_json::{Value, json};

use crate::channel::Channel;
use crate::clock::Laps;
use crate::config::{Config, Root};
use crate::error::{Context, Error, Result};
use crate::exec::{Exec, status_members};
use crate::files::Transfers;
use crate::freeze::Freezer;
use crate::oom::OomCounter;
use crate::poller::{Event, Poller, Token};
use crate::root::WritableLayer;
use crate::source::{Read, Source};
use crate::sys::{self, Status};

/// How long the end of the machine waits for the host to have its exit on disk.
const EXIT_ACK_TIMEOUT: Duration = Duration::from_secs(10);
/// Reads of the channel, and rounds over all outputs, before the other side has its turn.
const TURN_MAX: usize = 16;

/// Where the groups are mounted at the beginning.
const CGROUPS: &str = "/sys/fs/cgroup";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Where this runs.
pub enum Mode {
    /// PID 1 of a virtual machine.
    Vm,
    /// PID 1 of a container; root, mounts and clock are the runtime's.
    Container,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Waiting,
    Configured,
    Running,
    Exited,
}

impl State {
    pub fn name(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Configured => "configured",
            Self::Running => "running",
            Self::Exited => "exited",
        }
    }
}

/// The main process.
pub struct Main {
    pub pid: libc::pid_t,
    pub sources: Vec<Source>,
    pub status: Option<Status>,
    pub oom_killed: bool,
}

pub struct Machine {
    pub mode: Mode,
    pub poller: Poller,
    pub channel: Channel,
    signals: OwnedFd,
    pub assembler: Assembler,
    /// Whether a host has said HELLO.
    pub session: bool,
    pub state: State,
    /// The first thing that went wrong on the way to RUN.
    pub refusal: Option<Error>,
    /// CONFIGURE, then all from there to RUNNING; before them WARM.
    pub laps: Laps,
    pub config: Config,
    pub layer: Option<WritableLayer>,
    pub freezer: Freezer,
    /// The disks a warm-up has left mounted.
    pub warmed: Option<Root>,
    pub main: Option<Main>,
    /// EXIT, from the end of the main process on.
    pub report: Option<Value>,
    ack_deadline: Option<Instant>,
    pub execs: BTreeMap<u32, Exec>,
    pub transfers: Transfers,
    pub oom: OomCounter,
    /// The stream that is asked first for output in the next round.
    next_stream: u32,
    buffer: Vec<u8>,
    /// Which boot of the kernel this is.
    pub boot_id: String,
    /// The exit code of the init, once the machine is to end.
    pub end: Option<i32>,
}

impl Machine {
    pub fn new(mode: Mode, poller: Poller, channel: Channel) -> Result<Self> {
        let container = matches!(mode, Mode::Container);
        let mut watched = vec![libc::SIGCHLD];
        if container {
            watched.extend(FORWARDED);
        }
        let signals = sys::signal_fd(&watched).context(|| "cannot watch signals".into())?;
        poller.add(&signals, Token::Signals).context(|| "cannot watch signals".into())?;
        Ok(Self {
            oom: OomCounter::new(container),
            mode,
            poller,
            channel,
            signals,
            assembler: Assembler::new(),
            session: false,
            state: State::Waiting,
            refusal: None,
            laps: Laps::default(),
            config: Config::default(),
            layer: None,
            freezer: if container { Freezer::default() } else { Freezer::open(CGROUPS) },
            warmed: None,
            main: None,
            report: None,
            ack_deadline: None,
            execs: BTreeMap::new(),
            transfers: Transfers::default(),
            next_stream: 0,
            buffer: vec![0; FRAME_PAYLOAD_MAX],
            boot_id: std::fs::read_to_string(BOOT_ID).unwrap_or_default().trim_end().to_owned(),
            end: None,
        })
    }

    /// Runs until the machine is to end; gives the exit code of the init.
    pub fn run(&mut self) -> i32 {
        loop {
            self.read_channel();
            let more_output = self.pump();
            self.finish_processes();
            self.channel.flush();
            self.check_deadlines();
            if let Some(code) = self.end {
                return code;
            }
            let busy = more_output || self.channel.can_read();
            let timeout = if busy { Some(Duration::ZERO) } else { self.time_to_deadline() };
            for event in self.poller.wait(timeout) {
                self.on_event(event);
            }
        }
    }

    fn read_channel(&mut self) {
        for _ in 0..TURN_MAX {
            if !self.channel.can_read() || self.end.is_some() {
                break;
            }
            self.channel.fill();
            while let Some(frame) = self.channel.next_frame() {
                self.handle(frame);
            }
        }
        // Nobody can ever take this machine over again.
        if self.channel.has_ended() && self.end.is_none() {
            self.end = Some(self.exit_code());
        }
    }

    fn on_event(&mut self, event: Event) {
        match event.token {
            Token::Channel => self.channel.on_event(event.readable, event.writable),
            Token::Listener => self.channel.accept(&self.poller),
            Token::Signals => self.on_signals(),
            Token::Source { stream: 0, index } => {
                let source = self.main.as_mut().and_then(|main| main.sources.get_mut(usize::from(index)));
                source.into_iter().for_each(|source| source.ready |= event.readable);
            }
            Token::Source { stream, index } => {
                let Some(exec) = self.execs.get_mut(&stream) else { return };
                let source = exec.sources.get_mut(usize::from(index));
                source.into_iter().for_each(|source| source.ready |= event.readable);
                // A terminal is one descriptor for both directions.
                self.feed(stream, event.writable);
            }
            Token::Stdin { stream } => self.feed(stream, event.writable),
        }
    }

    /// Writes waiting input, and grants the host more.
    pub fn feed(&mut self, stream: u32, writable: bool) {
        let Some(stdin) = self.execs.get_mut(&stream).and_then(|exec| exec.stdin.as_mut()) else { return };
        stdin.writable |= writable;
        stdin.flush();
        if let Some(count) = stdin.take_grant() {
            self.channel.outbox.control_raw(kind::STDIN_WINDOW, stream, &count.to_le_bytes());
        }
    }

    fn on_signals(&mut self) {
        let mut info = [0_u8; size_of::<libc::signalfd_siginfo>()];
        while let Ok(size) = sys::read(&self.signals, &mut info) {
            let Some(number) = info.first_chunk::<4>().filter(|_| size == info.len()) else { break };
            match i32::from_ne_bytes(*number) {
                libc::SIGCHLD => {}
                signal => self.forward(signal),
            }
        }
        while let Some((pid, status)) = sys::reap(-1, libc::WNOHANG) {
            self.on_exit(pid, status);
        }
    }

    /// A signal the container's runtime sent to PID 1 is meant for the program.
    fn forward(&mut self, signal: libc::c_int) {
        match &self.main {
            Some(main) if main.status.is_none() => drop(sys::kill(main.pid, signal)),
            Some(_) => {}
            None if matches!(signal, libc::SIGTERM | libc::SIGINT) => self.end = Some(128 + signal),
            None => {}
        }
    }

    /// Takes note of the end of a process; an orphan is nobody's.
    fn on_exit(&mut self, pid: libc::pid_t, status: Status) {
        let oom = &mut self.oom;
        let mut oom_killed = || status.is_kill() && oom.has_grown();
        if let Some(main) = self.main.as_mut().filter(|main| main.pid == pid && main.status.is_none()) {
            main.oom_killed = oom_killed();
            main.status = Some(status);
            main.sources.iter_mut().for_each(Source::finish);
            self.state = State::Exited;
        } else if let Some(exec) = self.execs.values_mut().find(|exec| exec.pid == pid) {
            exec.on_exit(status, oom_killed());
        }
    }

    /// Moves output towards the host in turns; true if there may be more to move.
    fn pump(&mut self) -> bool {
        for _ in 0..TURN_MAX {
            self.channel.flush();
            if !self.channel.outbox.has_room() {
                return false;
            }
            if !self.round() {
                return false;
            }
        }
        true
    }

    /// Asks every stream once for at most a frame of each output; false if none had any.
    fn round(&mut self) -> bool {
        let mut streams: Vec<u32> = std::iter::once(0).chain(self.execs.keys().copied()).collect();
        let first = streams.iter().position(|stream| *stream >= self.next_stream).unwrap_or(0);
        streams.rotate_left(first);
        let mut any = false;
        for stream in streams {
            if !self.channel.outbox.has_room() {
                self.next_stream = stream;
                return any;
            }
            any |= self.take_output(stream);
        }
        any
    }

    fn take_output(&mut self, stream: u32) -> bool {
        let mut unlimited = u32::MAX;
        let (sources, window, output) = if stream == 0 {
            let Some(main) = &mut self.main else { return false };
            (&mut main.sources, &mut unlimited, kind::OUTPUT)
        } else {
            let Some(exec) = self.execs.get_mut(&stream) else { return false };
            (&mut exec.sources, &mut exec.window, kind::EXEC_OUTPUT)
        };
        let mut any = false;
        for source in sources.iter_mut().filter(|source| source.ready && !source.ended) {
            let size = self.buffer.len().min(*window as usize);
            if size == 0 {
                break;
            }
            if let Read::Data(count) = source.read(&mut self.buffer[..size]) {
                any = true;
                *window -= count as u32;
                let flags = if source.stderr { flag::STDERR } else { 0 };
                self.channel.outbox.output(output, flags, stream, &self.buffer[..count]);
            }
        }
        any
    }

    /// Reports streams and processes that are over, once all they said is on its way.
    fn finish_processes(&mut self) {
        let outbox = &mut self.channel.outbox;
        self.execs.retain(|stream, exec| {
            for source in exec.sources.iter_mut().filter(|source| source.ended && !source.end_sent) {
                source.end_sent = true;
                let flags = flag::EOF | if source.stderr { flag::STDERR } else { 0 };
                outbox.output(kind::EXEC_OUTPUT, flags, *stream, &[]);
            }
            exec.report().inspect(|report| outbox.ordered(kind::EXEC_EXIT, *stream, report)).is_none()
        });
        let Some(main) = self.main.as_ref().filter(|_| self.report.is_none()) else { return };
        let Some(status) = main.status.filter(|_| main.sources.iter().all(|source| source.ended)) else {
            return;
        };
        let (exit_code, signal) = status_members(status);
        self.report_exit(exit_code, signal, main.oom_killed, None);
    }

    /// Queues EXIT behind all output.
    pub fn report_exit(
        &mut self,
        code: Option<i32>,
        signal: Option<i32>,
        oom_killed: bool,
        error: Option<&Error>,
    ) {
        let report = json!({
            "exit_code": code,
            "signal": signal,
            "oom_killed": oom_killed,
            "error": error.map(ToString::to_string),
            "exited_at_ns": sys::wall_clock_ns(),
        });
        self.channel.outbox.ordered(kind::EXIT, 0, &report);
        self.report = Some(report);
        self.state = State::Exited;
        self.ack_deadline = Some(Instant::now() + EXIT_ACK_TIMEOUT);
    }

    /// What a container's init ends with: as its main process did.
    pub fn exit_code(&self) -> i32 {
        let reported = |member: &str| self.report.as_ref()?[member].as_i64();
        let code = reported("exit_code").or_else(|| reported("signal").map(|signal| 128 + signal));
        code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0)
    }

    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.execs
            .values()
            .filter_map(|exec| exec.deadline)
            .chain(self.ack_deadline)
            .chain(self.freezer.deadline())
    }

    fn time_to_deadline(&self) -> Option<Duration> {
        self.deadlines().min().map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }

    fn check_deadlines(&mut self) {
        let now = Instant::now();
        self.execs.values_mut().for_each(|exec| exec.check_deadline(now));
        self.freezer.tick(now);
        if self.ack_deadline.is_some_and(|deadline| deadline <= now) && self.end.is_none() {
            self.end = Some(self.exit_code());
        }
    }
}

/// Signals a container's PID 1 passes on.
const FORWARDED: [libc::c_int; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGWINCH,
];
