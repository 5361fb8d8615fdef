//! The shim's end of the guest's stream.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;

use midge_frame::{Decoder, FrameRef, StreamBroken, kind};

use crate::outbox::Outbox;
use crate::vsock::Connector;

/// The guest's stream and what is under way on it.
pub struct Guest {
    /// The stream, while there is one.
    pub stream: Option<UnixStream>,
    /// The way to a new stream; none where the stream is inherited.
    pub connector: Option<Connector>,
    /// Frames for the guest.
    pub outbox: Outbox,
    /// Frames from the guest.
    pub decoder: Decoder,
    /// Nothing more comes of this channel.
    pub broken: bool,
}

/// What is to be done with a frame of the guest's.
#[derive(Debug, PartialEq, Eq)]
pub enum Route {
    /// Into the log.
    Log,
    /// The end of the main process.
    Exit,
    /// To the worker, as it is.
    Worker,
    /// Not the guest's to send.
    Drop,
}

impl Guest {
    /// A stream that is there.
    pub fn connected(stream: UnixStream) -> Self {
        Self { stream: Some(stream), ..Self::empty() }
    }

    /// A stream that has to be made.
    pub fn connecting(connector: Connector) -> Self {
        Self { connector: Some(connector), ..Self::empty() }
    }

    fn empty() -> Self {
        Self {
            stream: None,
            connector: None,
            outbox: Outbox::default(),
            decoder: Decoder::new(),
            broken: false,
        }
    }

    /// For SHIM_STATE.
    pub fn state(&self) -> &'static str {
        match (self.broken, &self.stream) {
            (true, _) => "broken",
            (false, Some(_)) => "open",
            (false, None) => "closed",
        }
    }

    /// Reads once; 0 means that nothing is there now, `Err` that the stream has ended.
    ///
    /// # Errors
    /// End or failure of the stream.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(stream) = &mut self.stream else { return Ok(0) };
        match stream.read(buffer) {
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
    /// The guest has sent nothing that makes sense for too long.
    pub fn next_frame(&mut self) -> Result<Option<FrameRef<'_>>, StreamBroken> {
        self.decoder.next_frame()
    }

    /// The stream has ended: what was under way on it is of no use on the next one.
    pub fn on_closed(&mut self) {
        self.stream = None;
        self.outbox = Outbox::default();
        self.decoder.reset();
    }
}

/// Where a frame type of the guest's goes.
pub fn route(frame_kind: u8) -> Route {
    match frame_kind {
        kind::OUTPUT => Route::Log,
        kind::EXIT => Route::Exit,
        // Types the shim does not know may be known to the worker.
        0x40..=0x7f => Route::Worker,
        _ => Route::Drop,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_guest_cannot_speak_as_host_or_shim() {
        assert_eq!(route(kind::HELLO), Route::Drop);
        assert_eq!(route(kind::SHIM_ENDED), Route::Drop);
        assert_eq!(route(0xff), Route::Drop);
        assert_eq!(route(0x7f), Route::Worker);
        assert_eq!(route(kind::HELLO_ACK), Route::Worker);
    }
}
