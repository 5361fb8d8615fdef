//! The reading end of a process's output: a pipe or the master of its terminal.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;

use crate::sys;

/// Bytes taken from a terminal after its process has ended; a pipe says itself how many it holds.
const TERMINAL_DRAIN_BYTES: usize = 1_048_576;

/// What a read gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    Data(usize),
    Nothing,
    Ended,
}

#[derive(Debug)]
pub struct Source {
    fd: Rc<OwnedFd>,
    terminal: bool,
    /// Whether it carries standard error.
    pub stderr: bool,
    /// Whether a read may bring something; set by events, cleared by reading.
    pub ready: bool,
    /// Whether everything it will ever give has been read.
    pub ended: bool,
    /// Whether the other side has been told so.
    pub end_sent: bool,
    /// Bytes still to be read once the process is gone: what others write from then on is not waited for.
    left: Option<usize>,
}

impl Source {
    pub fn new(fd: Rc<OwnedFd>, terminal: bool, stderr: bool) -> Self {
        Self { fd, terminal, stderr, ready: true, ended: false, end_sent: false, left: None }
    }

    pub fn fd(&self) -> &Rc<OwnedFd> {
        &self.fd
    }

    /// Reads at most one buffer.
    pub fn read(&mut self, buffer: &mut [u8]) -> Read {
        if self.ended {
            return Read::Ended;
        }
        let size = buffer.len().min(self.left.unwrap_or(usize::MAX));
        if size == 0 {
            return self.end();
        }
        match sys::read(&self.fd, &mut buffer[..size]) {
            Ok(0) => self.end(),
            Ok(count) => {
                self.left = self.left.map(|left| left - count);
                Read::Data(count)
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Read::Nothing,
            // EIO: nobody has the terminal open at the moment. Somebody may again, as long as the process lives.
            Err(_) if self.left.is_some() => self.end(),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || self.terminal => {
                self.ready = false;
                Read::Nothing
            }
            Err(_) => self.end(),
        }
    }

    /// From now on only what is there is read, since the process has ended.
    pub fn finish(&mut self) {
        self.ready = true;
        self.left = Some(if self.terminal { self.flush_terminal() } else { self.waiting_bytes() });
    }

    fn end(&mut self) -> Read {
        self.ended = true;
        self.ready = false;
        Read::Ended
    }

    fn waiting_bytes(&self) -> usize {
        let mut count: libc::c_int = 0;
        // SAFETY: FIONREAD writes one int.
        let result = unsafe { libc::ioctl(self.fd.as_raw_fd(), libc::FIONREAD, &raw mut count) };
        if result < 0 { 0 } else { usize::try_from(count).unwrap_or(0) }
    }

    /// Polling a terminal makes the kernel hand over what its worker thread has not yet.
    fn flush_terminal(&self) -> usize {
        let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one initialised pollfd.
        unsafe { libc::poll(&raw mut poll, 1, 0) };
        TERMINAL_DRAIN_BYTES
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipe() -> (Source, OwnedFd) {
        let (read, write) = sys::pipe().unwrap();
        sys::set_nonblocking(&read).unwrap();
        (Source::new(Rc::new(read), false, false), write)
    }

    #[test]
    fn a_pipe_held_open_by_others_ends_with_what_it_held_when_the_process_ended() {
        let (mut source, write) = pipe();
        sys::write(&write, b"before").unwrap();
        source.finish();
        sys::write(&write, b"after").unwrap();
        let mut buffer = [0; 64];
        assert_eq!(source.read(&mut buffer), Read::Data(6));
        assert_eq!(source.read(&mut buffer), Read::Ended);
    }

    #[test]
    fn an_empty_pipe_waits_and_a_closed_one_ends() {
        let (mut source, write) = pipe();
        let mut buffer = [0; 64];
        assert_eq!(source.read(&mut buffer), Read::Nothing);
        assert!(!source.ready);
        drop(write);
        assert_eq!(source.read(&mut buffer), Read::Ended);
        assert!(source.ended);
    }
}
