//! The loop: one thread, level-triggered epoll.
//!
//! ```text
//!  worker ◄── outbox ── frames ◄── guest stream ── OUTPUT ──► log
//!     └──── frames ──► outbox ──────► guest           EXIT ──► exit.json ──► EXIT_ACK
//!                                   child's end ──► ended.json ──► SHIM_ENDED, and the shim is done
//! ```

mod connect;
mod finish;

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use midge_frame::{encode_frame, flag, kind};
use serde_json::{Value, json};

use crate::args::Args;
use crate::child::{Child, News};
use crate::guest::{Guest, Route, route};
use crate::log::{MachineLog, Stream};
use crate::records::{self, Reserved};
use crate::sys::{self, Epoll, Status};
use crate::vmm_log::VmmLog;
use crate::worker::{Order, WORKER_QUEUE_MAX, Worker, order};

/// Bytes queued for the guest above which the worker is not read.
const GUEST_QUEUE_MAX: usize = 1 << 20;
/// Bytes read at a time: one frame.
const READ_BYTES: usize = 65_536;
/// Reads of one descriptor before the others have their turn.
const READS_PER_TURN: usize = 8;

const IN: u32 = libc::EPOLLIN as u32;
const OUT: u32 = libc::EPOLLOUT as u32;

const LISTENER: u64 = 0;
const SIGNALS: u64 = 1;
const PROGRAM: u64 = 2;
const WORKER: u64 = 3;
const GUEST: u64 = 4;
const VSOCK: u64 = 5;
const WATCH: u64 = 6;
const TIMER: u64 = 7;

/// A machine's parent.
pub struct Shim {
    /// The command line.
    pub args: Args,
    epoll: Epoll,
    listener: UnixListener,
    signals: OwnedFd,
    program: Option<File>,
    guest: Guest,
    guest_interest: u32,
    worker: Option<Worker>,
    child: Child,
    log: MachineLog,
    vmm_log: VmmLog,
    exit: Option<Value>,
    exit_file: Reserved,
    ended_file: Reserved,
    buffer: Vec<u8>,
}

impl Shim {
    /// A shim whose program runs.
    ///
    /// # Errors
    /// The system is out of descriptors.
    #[expect(clippy::too_many_arguments, reason = "called once, with everything a shim consists of")]
    pub fn new(
        args: Args,
        listener: UnixListener,
        signals: OwnedFd,
        program: File,
        guest: Guest,
        child: Child,
        log: MachineLog,
        vmm_log: VmmLog,
        exit_file: Reserved,
        ended_file: Reserved,
    ) -> io::Result<Self> {
        let epoll = Epoll::new()?;
        epoll.add(&listener, LISTENER, IN)?;
        epoll.add(&signals, SIGNALS, IN)?;
        epoll.add(&program, PROGRAM, IN)?;
        if let Some(stream) = &guest.stream {
            epoll.add(stream, GUEST, IN)?;
        }
        if let Some(connector) = &guest.connector {
            epoll.add(&connector.watch, WATCH, IN)?;
            epoll.add(&connector.timer, TIMER, IN)?;
        }
        let mut shim = Self {
            args,
            epoll,
            listener,
            signals,
            program: Some(program),
            guest,
            guest_interest: IN,
            worker: None,
            child,
            log,
            vmm_log,
            exit: None,
            exit_file,
            ended_file,
            buffer: vec![0; READ_BYTES],
        };
        shim.connect_guest();
        Ok(shim)
    }

    /// What tells this shim and its machine from any other, for `shim.json`.
    pub fn identity(&self) -> Value {
        let shim_pid = std::process::id();
        let own = libc::pid_t::try_from(shim_pid).ok().and_then(sys::process_stat);
        let (child_pid, child_start_time) = self.child.identity();
        let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        json!({
            "shim_pid": shim_pid,
            "shim_start_time": own.map_or(0, |(_, start_time)| start_time),
            "child_pid": child_pid,
            "child_start_time": child_start_time,
            "boot_id": boot_id.trim(),
            "log": self.args.log.to_string_lossy(),
        })
    }

    /// Runs until the machine has ended.
    ///
    /// # Errors
    /// epoll has failed, which it does not.
    pub fn run(mut self) -> io::Result<()> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 8];
        loop {
            let mut ended = None;
            for event in self.epoll.wait(&mut events)? {
                match event.u64 {
                    LISTENER => self.accept(),
                    SIGNALS => ended = self.on_children().or(ended),
                    PROGRAM => self.read_program(),
                    WORKER => drop(self.read_worker()),
                    GUEST => drop(self.read_guest(READS_PER_TURN)),
                    VSOCK => self.on_vsock_answer(),
                    WATCH | TIMER => self.on_vsock_wake(),
                    _ => {}
                }
            }
            if let Some((status, error)) = ended {
                self.finish(status, error);
                return Ok(());
            }
            self.settle()?;
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if stream.set_nonblocking(true).is_err() || self.epoll.add(&stream, WORKER, IN).is_err() {
                continue;
            }
            // The one before is gone. Its orders to the shim count; what it wanted of the guest, and has not been
            // sent, was of its session.
            for _ in 0..READS_PER_TURN {
                if !self.read_worker() {
                    break;
                }
            }
            self.guest.outbox.discard_unsent();
            let mut worker = Worker::new(stream, IN);
            worker.outbox.push(&message(kind::SHIM_STATE, &self.state()));
            self.worker = Some(worker);
        }
    }

    fn state(&self) -> Value {
        let (child_pid, child_start_time) = self.child.identity();
        json!({
            "shim_pid": std::process::id(),
            "child_pid": child_pid,
            "child_start_time": child_start_time,
            "exit": self.exit,
            "ended": null,
            "log_bytes": self.log.output_bytes(),
            "log_lost_bytes": self.log.lost_bytes(),
            "channel": self.guest.state(),
        })
    }

    /// Takes what the worker has sent; false if that was nothing.
    fn read_worker(&mut self) -> bool {
        let Some(worker) = &mut self.worker else { return false };
        match worker.read(&mut self.buffer) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(_) => {
                self.worker = None;
                return false;
            }
        }
        loop {
            match worker.next_frame() {
                Ok(Some(frame)) => match order(frame.header.kind) {
                    // Without a channel nobody would ever take it.
                    Order::Guest if self.guest.broken => {}
                    Order::Guest => self.guest.outbox.push(frame.raw),
                    Order::Kill => self.child.kill(),
                    Order::Log => {
                        let path = PathBuf::from(OsStr::from_bytes(frame.payload));
                        match MachineLog::open(&path, self.args.log_max_bytes, self.args.log_keep) {
                            Ok(log) => {
                                self.log = log;
                                self.args.log = path;
                            }
                            Err(error) => self.vmm_log.note(&format!("log {}: {error}", path.display())),
                        }
                    }
                    Order::Drop => {}
                },
                Ok(None) => return true,
                Err(broken) => {
                    self.vmm_log.note(&format!("worker cut off: {broken}"));
                    self.worker = None;
                    return false;
                }
            }
        }
    }

    /// Takes what the guest has sent; gives the number of bytes.
    fn read_guest(&mut self, reads: usize) -> usize {
        let mut total = 0;
        for _ in 0..reads {
            match self.guest.read(&mut self.buffer) {
                Ok(0) => break,
                Ok(count) => {
                    total += count;
                    self.take_frames();
                    if count < READ_BYTES {
                        break;
                    }
                }
                Err(_) => {
                    self.on_guest_closed();
                    break;
                }
            }
        }
        self.log.flush();
        total
    }

    fn take_frames(&mut self) {
        let now_ns = sys::now_ns();
        loop {
            match self.guest.next_frame() {
                Ok(Some(frame)) => match route(frame.header.kind) {
                    Route::Log => {
                        let is_error = frame.header.flags & flag::STDERR != 0;
                        let stream = if is_error { Stream::Stderr } else { Stream::Stdout };
                        self.log.append(stream, frame.payload, now_ns);
                    }
                    Route::Worker => {
                        if let Some(worker) = &mut self.worker {
                            worker.outbox.push(frame.raw);
                        }
                    }
                    Route::Exit => {
                        let payload = frame.payload.to_vec();
                        self.on_exit(&payload, now_ns);
                    }
                    Route::Drop => {}
                },
                Ok(None) => break,
                Err(broken) => {
                    self.on_broken(&broken.to_string());
                    break;
                }
            }
        }
        if self.worker.as_ref().is_some_and(|worker| worker.outbox.len() > WORKER_QUEUE_MAX) {
            self.vmm_log.note("worker cut off: it does not read");
            self.worker = None;
        }
    }

    /// Log, then record, then acknowledgement, then worker: whoever hears of the exit finds all of it on disk.
    fn on_exit(&mut self, payload: &[u8], now_ns: u64) {
        if self.exit.is_some() {
            return;
        }
        let Some(record) = records::exit_record(payload, now_ns) else {
            self.vmm_log.note("guest sent a malformed exit");
            return;
        };
        self.log.flush();
        match self.exit_file.write(&record) {
            Ok(()) => self.guest.outbox.push(&message(kind::EXIT_ACK, &Value::Null)),
            Err(error) => self.vmm_log.note(&format!("exit.json: {error}")),
        }
        self.tell_worker(kind::EXIT, &record);
        self.exit = Some(record);
    }

    fn tell_worker(&mut self, frame_kind: u8, record: &Value) {
        if let Some(worker) = &mut self.worker {
            worker.outbox.push(&message(frame_kind, record));
        }
    }

    /// What the guest sends is not the protocol any more. The machine itself may be well: the worker decides.
    fn on_broken(&mut self, reason: &str) {
        self.vmm_log.note(&format!("guest channel closed: {reason}"));
        self.guest.broken = true;
        self.guest.on_closed();
        let error = json!({ "code": "channel_broken", "message": reason, "during": "channel" });
        self.tell_worker(kind::ERROR, &error);
    }

    fn on_guest_closed(&mut self) {
        self.guest.on_closed();
        self.connect_guest();
    }

    fn read_program(&mut self) {
        let Some(program) = &mut self.program else { return };
        match program.read(&mut self.buffer) {
            Ok(0) => self.program = None,
            Ok(count) => self.vmm_log.append(&self.buffer[..count]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_) => self.program = None,
        }
    }

    /// Reaps; tells how the machine ended, if it has.
    fn on_children(&mut self) -> Option<(Option<Status>, Option<String>)> {
        sys::drain(&self.signals);
        let mut ended = None;
        while let Some((pid, status)) = sys::reap() {
            match self.child.on_reaped(pid, status, self.args.pid_file.as_deref()) {
                News::None => {}
                News::Launched => {
                    if let Err(error) = records::replace(&self.args.dir, "shim.json", &self.identity()) {
                        self.vmm_log.note(&format!("shim.json: {error}"));
                    }
                }
                News::Ended(status, error) => ended = Some((status, error)),
            }
        }
        ended
    }

    /// Sends what can be sent, and watches for what can be done next.
    fn settle(&mut self) -> io::Result<()> {
        if let Some(stream) = &mut self.guest.stream {
            if self.guest.outbox.flush(stream).is_ok() {
                let interest = if self.guest.outbox.is_empty() { IN } else { IN | OUT };
                if interest != self.guest_interest {
                    self.epoll.modify(stream, GUEST, interest)?;
                    self.guest_interest = interest;
                }
            } else {
                // Reading says when it has ended; until then it may still hold output.
                self.guest.outbox = crate::outbox::Outbox::default();
            }
        }
        let Some(worker) = &mut self.worker else { return Ok(()) };
        if worker.outbox.flush(&mut worker.stream).is_err() {
            self.worker = None;
            return Ok(());
        }
        let mut interest = if self.guest.outbox.len() < GUEST_QUEUE_MAX { IN } else { 0 };
        if !worker.outbox.is_empty() {
            interest |= OUT;
        }
        if interest != worker.interest {
            self.epoll.modify(&worker.stream, WORKER, interest)?;
            worker.interest = interest;
        }
        Ok(())
    }
}

/// A control frame of the shim's own; all of them fit into one.
fn message(frame_kind: u8, record: &Value) -> Vec<u8> {
    let body = if record.is_null() { String::new() } else { record.to_string() };
    let mut bytes = Vec::new();
    let encoded = encode_frame(&mut bytes, frame_kind, 0, 0, body.as_bytes());
    debug_assert!(encoded.is_ok(), "records are cut to size");
    bytes
}
