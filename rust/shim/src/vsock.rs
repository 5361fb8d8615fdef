//! Firecracker's vsock: a unix socket that takes `CONNECT <port>` and says `OK …` once the guest listens.
//!
//! The socket appears some time after the VMM has started, the guest listens later still, and a resume from a snapshot
//! ends every connection: each time the way starts over.

use std::ffi::CString;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::sys;

/// First and longest pause between attempts while the guest does not listen yet.
const RETRY_MIN_MS: u32 = 2;
const RETRY_MAX_MS: u32 = 100;
/// How long an answer may take. A restored guest that has not yet dropped the connection of its former life never
/// answers one that looks the same, and Firecracker does not time it out; the next one looks different.
const ANSWER_TIMEOUT_MS: u32 = 500;
/// Longest answer to CONNECT: `OK ` and a port.
const ANSWER_MAX: usize = 32;

/// What came of an event.
pub enum Progress {
    /// Nothing yet; the timer or the watch will tell.
    Waiting,
    /// A connection that waits for its answer; readable then.
    Asked,
    /// The guest is there.
    Connected,
}

/// The way to the guest.
pub struct Connector {
    path: PathBuf,
    port: u32,
    /// Readable when a name appears in the socket's directory.
    pub watch: OwnedFd,
    /// Readable when it is time to try again.
    pub timer: OwnedFd,
    pause_ms: u32,
    stream: Option<UnixStream>,
    asked: Instant,
    answer: Vec<u8>,
}

impl Connector {
    /// Watches for the socket.
    ///
    /// # Errors
    /// Its directory does not exist.
    pub fn new(path: &Path, port: u32) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        let dir = CString::new(dir.as_os_str().as_bytes()).map_err(io::Error::other)?;
        Ok(Self {
            path: path.into(),
            port,
            watch: sys::watch_directory(&dir)?,
            timer: sys::timer_fd()?,
            pause_ms: RETRY_MIN_MS,
            stream: None,
            asked: Instant::now(),
            answer: Vec::new(),
        })
    }

    /// The connection under way, to be watched for its answer.
    pub fn stream(&self) -> Option<&UnixStream> {
        self.stream.as_ref()
    }

    /// The connection, once `on_readable` has said `Connected`.
    pub fn take(&mut self) -> Option<UnixStream> {
        self.pause_ms = RETRY_MIN_MS;
        self.stream.take()
    }

    /// Tries again, unless an attempt is under way that may still be answered.
    pub fn attempt(&mut self) -> Progress {
        let timeout = Duration::from_millis(ANSWER_TIMEOUT_MS.into());
        if self.stream.is_some() && self.asked.elapsed() < timeout {
            return Progress::Waiting;
        }
        self.stream = None;
        self.answer.clear();
        match self.ask() {
            Ok(stream) => {
                self.stream = Some(stream);
                self.asked = Instant::now();
                let _ = sys::arm_timer(&self.timer, ANSWER_TIMEOUT_MS);
                Progress::Asked
            }
            // The watch tells when it is there.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Progress::Waiting,
            Err(_) => self.retry(),
        }
    }

    /// Reads the answer, a byte at a time: what follows it is the guest's.
    pub fn on_readable(&mut self) -> Progress {
        let Some(stream) = &mut self.stream else { return Progress::Waiting };
        let mut byte = [0];
        loop {
            match stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' && self.answer.starts_with(b"OK ") => return Progress::Connected,
                Ok(1) if byte[0] != b'\n' && self.answer.len() < ANSWER_MAX => self.answer.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Progress::Waiting,
                _ => {
                    self.stream = None;
                    return self.retry();
                }
            }
        }
    }

    /// Another attempt after a pause that grows.
    pub fn retry(&mut self) -> Progress {
        let _ = sys::arm_timer(&self.timer, self.pause_ms);
        self.pause_ms = (self.pause_ms * 2).min(RETRY_MAX_MS);
        Progress::Waiting
    }

    fn ask(&self) -> io::Result<UnixStream> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_nonblocking(true)?;
        stream.write_all(format!("CONNECT {}\n", self.port).as_bytes())?;
        Ok(stream)
    }
}
