//! The writing end of an exec's standard input, with the window the host may fill.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use midge_frame::WINDOW_BYTES;

use crate::sys;

/// Consumed bytes after which more are granted: a quarter of the window, so that the host never runs dry.
const GRANT_BYTES: u32 = WINDOW_BYTES / 4;
/// What a terminal takes for the end of input.
const END_OF_TRANSMISSION: u8 = 4;

#[derive(Debug)]
pub struct Stdin {
    fd: Option<Rc<OwnedFd>>,
    terminal: bool,
    queue: Vec<u8>,
    written: usize,
    consumed: u32,
    ended: bool,
    /// Whether a write may succeed; set by events, cleared by writing.
    pub writable: bool,
}

/// More bytes than were granted.
#[derive(Debug, PartialEq, Eq)]
pub struct WindowExceeded;

impl Stdin {
    pub fn new(fd: Rc<OwnedFd>, terminal: bool) -> Self {
        Self {
            fd: Some(fd),
            terminal,
            queue: Vec::new(),
            written: 0,
            consumed: 0,
            ended: false,
            writable: true,
        }
    }

    /// The descriptor to watch, unless it is the terminal's, which is watched for its output already.
    pub fn own_fd(&self) -> Option<&Rc<OwnedFd>> {
        self.fd.as_ref().filter(|_| !self.terminal)
    }

    /// Queues input and writes what goes.
    pub fn push(&mut self, bytes: &[u8], end: bool) -> Result<(), WindowExceeded> {
        if self.ended {
            return Ok(());
        }
        if self.queue.len() - self.written + bytes.len() > WINDOW_BYTES as usize {
            return Err(WindowExceeded);
        }
        self.queue.extend_from_slice(bytes);
        if end {
            self.ended = true;
            if self.terminal {
                self.queue.push(END_OF_TRANSMISSION);
            }
        }
        self.flush();
        Ok(())
    }

    /// Writes until all is written or the process does not take more. Nobody there to read: input is thrown away.
    pub fn flush(&mut self) {
        while self.written < self.queue.len() && (self.writable || self.fd.is_none()) {
            let rest = &self.queue[self.written..];
            let count = match self.fd.as_ref().map_or(Ok(rest.len()), |fd| sys::write(fd, rest)) {
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.writable = false;
                    return;
                }
                Err(_) => {
                    self.fd = None;
                    continue;
                }
            };
            self.written += count;
            self.consumed = self.consumed.saturating_add(count as u32);
        }
        if self.written == self.queue.len() {
            self.queue.clear();
            self.written = 0;
            if self.ended && !self.terminal {
                self.fd = None;
            }
        }
    }

    /// The bytes to grant, if it is time to.
    pub fn take_grant(&mut self) -> Option<u32> {
        (self.consumed >= GRANT_BYTES && !self.ended).then(|| std::mem::take(&mut self.consumed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_window_is_kept_and_granted_again() {
        let (read, write) = sys::pipe().unwrap();
        sys::set_nonblocking(&write).unwrap();
        let mut stdin = Stdin::new(Rc::new(write), false);
        stdin.push(&vec![1; WINDOW_BYTES as usize], false).unwrap();
        assert!(!stdin.writable);
        assert_eq!(stdin.push(&vec![1; WINDOW_BYTES as usize], false), Err(WindowExceeded));
        let granted = stdin.take_grant().unwrap();
        assert_eq!(stdin.take_grant(), None);
        stdin.push(&vec![1; granted as usize], false).unwrap();
        drop(read);
        stdin.writable = true;
        stdin.flush();
        assert_eq!(stdin.take_grant(), Some(WINDOW_BYTES));
    }

    #[test]
    fn the_end_closes_the_pipe_after_its_bytes() {
        let (read, write) = sys::pipe().unwrap();
        let mut stdin = Stdin::new(Rc::new(write), false);
        stdin.push(b"x", true).unwrap();
        let mut buffer = [0; 8];
        assert_eq!(sys::read(&read, &mut buffer).unwrap(), 1);
        assert_eq!(sys::read(&read, &mut buffer).unwrap(), 0);
    }
}
