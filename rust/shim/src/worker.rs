//! The attached worker, if there is one.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use midge_frame::{Decoder, FrameRef, StreamBroken, kind};

use crate::outbox::Outbox;

/// Most bytes queued for a worker that does not read. It is cut off then, and may attach again: nothing is lost but
/// execs, and a guest never waits for it.
pub const WORKER_QUEUE_MAX: usize = 4 << 20;

/// One connection.
pub struct Worker {
    /// The connection.
    pub stream: UnixStream,
    /// Frames for the worker.
    pub outbox: Outbox,
    /// What epoll watches it for.
    pub interest: u32,
    decoder: Decoder,
}

/// What is to be done with a frame of the worker's.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// To the guest, as it is.
    Guest,
    /// End the machine.
    Kill,
    /// Write another log from now on.
    Log,
    /// Nothing.
    Drop,
}

impl Worker {
    /// A connection just accepted.
    pub fn new(stream: UnixStream, interest: u32) -> Self {
        Self { stream, outbox: Outbox::default(), interest, decoder: Decoder::new() }
    }

    /// Reads once; 0 means that nothing is there now.
    ///
    /// # Errors
    /// End or failure of the connection.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.stream.read(buffer) {
            Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => {
                self.decoder.push(&buffer[..count]);
                Ok(count)
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                Ok(0)
            }
            Err(error) => Err(error),
        }
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// What it sends is not this protocol.
    pub fn next_frame(&mut self) -> Result<Option<FrameRef<'_>>, StreamBroken> {
        self.decoder.next_frame()
    }
}

/// What a frame type of the worker's asks for.
pub fn order(frame_kind: u8) -> Order {
    match frame_kind {
        kind::SHIM_KILL => Order::Kill,
        kind::SHIM_LOG => Order::Log,
        // Only the shim knows that an exit is on disk.
        kind::EXIT_ACK => Order::Drop,
        0x00..=0x3f => Order::Guest,
        _ => Order::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_speaks_to_the_guest_as_host_only() {
        assert_eq!(order(kind::HELLO), Order::Guest);
        assert_eq!(order(kind::EXIT_ACK), Order::Drop);
        assert_eq!(order(kind::OUTPUT), Order::Drop);
        assert_eq!(order(kind::SHIM_KILL), Order::Kill);
        assert_eq!(order(kind::SHIM_QUIT), Order::Drop);
        assert_eq!(order(kind::SHIM_LOG), Order::Log);
    }
}
