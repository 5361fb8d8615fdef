//! The byte stream to the host: reads frames, writes what the outbox has.

use std::io;
use std::os::fd::OwnedFd;

use midge_frame::{Decoder, Header, StreamBroken};

use crate::outbox::Outbox;
use crate::poller::{Poller, Token};
use crate::sys;

/// Bytes read at once.
const READ_BYTES: usize = 65_536;

/// What carries the stream, and so what its end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carrier {
    /// A virtio-serial port: the host end may close and open again.
    Port,
    /// A connected socket: its end is final.
    Socket,
    /// A socket that listens: the host connects again.
    Listener,
}

/// A frame that has been taken out of the decoder.
pub struct Frame {
    pub header: Header,
    pub payload: Vec<u8>,
}

pub struct Channel {
    carrier: Carrier,
    listener: Option<OwnedFd>,
    stream: Option<OwnedFd>,
    decoder: Decoder,
    scratch: Vec<u8>,
    readable: bool,
    writable: bool,
    ended: bool,
    pub outbox: Outbox,
}

impl Channel {
    /// Takes over a descriptor (made non-blocking here) and watches it.
    pub fn new(fd: OwnedFd, carrier: Carrier, poller: &Poller) -> io::Result<Self> {
        sys::set_nonblocking(&fd)?;
        let (listener, stream) =
            if carrier == Carrier::Listener { (Some(fd), None) } else { (None, Some(fd)) };
        if let Some(listener) = &listener {
            poller.add(listener, Token::Listener)?;
        }
        if let Some(stream) = &stream {
            poller.add(stream, Token::Channel)?;
        }
        Ok(Self {
            carrier,
            listener,
            stream,
            decoder: Decoder::new(),
            scratch: vec![0; READ_BYTES],
            readable: true,
            writable: true,
            ended: false,
            outbox: Outbox::default(),
        })
    }

    /// Takes note of an event on the stream.
    pub fn on_event(&mut self, readable: bool, writable: bool) {
        self.readable |= readable;
        self.writable |= writable;
    }

    /// Takes the newest connection; the one before it is closed.
    pub fn accept(&mut self, poller: &Poller) {
        use std::os::fd::AsRawFd;
        let Some(listener) = &self.listener else { return };
        let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
        loop {
            // SAFETY: no address is asked for.
            let fd = unsafe {
                libc::accept4(listener.as_raw_fd(), std::ptr::null_mut(), std::ptr::null_mut(), flags)
            };
            let Ok(stream) = sys::owned(fd) else { return };
            if poller.add(&stream, Token::Channel).is_ok() {
                self.stream = Some(stream);
                self.decoder.reset();
                self.outbox.rewind();
                (self.readable, self.writable) = (true, true);
            }
        }
    }

    /// Whether reading may bring something, and the host has not to read its answers first.
    pub fn can_read(&self) -> bool {
        self.readable && self.stream.is_some() && !self.outbox.is_overfull()
    }

    /// Reads once.
    pub fn fill(&mut self) {
        let Some(stream) = &self.stream else { return };
        match sys::read(stream, &mut self.scratch) {
            Ok(0) => self.on_end(),
            Ok(count) => self.decoder.push(&self.scratch[..count]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.readable = false,
            Err(_) => self.on_end(),
        }
    }

    /// The next frame that is whole. A stream without frames is searched on: this end cannot hang up a port.
    pub fn next_frame(&mut self) -> Option<Frame> {
        match self.decoder.next_frame() {
            Ok(frame) => frame.map(|frame| Frame { header: frame.header, payload: frame.payload.to_vec() }),
            Err(StreamBroken) => {
                self.decoder.reset();
                None
            }
        }
    }

    /// Writes until everything is out or the host does not take more.
    pub fn flush(&mut self) {
        while self.writable {
            let Some(stream) = &self.stream else { return };
            let bytes = self.outbox.pending();
            if bytes.is_empty() {
                return;
            }
            match sys::write(stream, bytes) {
                Ok(count) => self.outbox.advance(count),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.writable = false,
                Err(_) => self.on_end(),
            }
        }
    }

    /// Whether there can never be a host again.
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    fn on_end(&mut self) {
        match self.carrier {
            // Until the host end opens again, which is an event.
            Carrier::Port => (self.readable, self.writable) = (false, false),
            Carrier::Socket => {
                self.stream = None;
                self.ended = true;
            }
            Carrier::Listener => self.stream = None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_frame::{encode_message, kind};
    use std::io::{Read, Write};
    use std::os::unix::net::{UnixListener, UnixStream};

    fn event(poller: &Poller, channel: &mut Channel) {
        for event in poller.wait(Some(std::time::Duration::from_secs(5))) {
            match event.token {
                Token::Listener => channel.accept(poller),
                _ => channel.on_event(event.readable, event.writable),
            }
        }
    }

    fn frame_kind(host: &mut UnixStream) -> u8 {
        let mut header = [0; midge_frame::HEADER_BYTES];
        host.read_exact(&mut header).unwrap();
        let header = Header::parse(&header).unwrap();
        host.read_exact(&mut vec![0; header.length as usize]).unwrap();
        header.kind
    }

    #[test]
    fn a_listener_serves_the_newest_connection_from_a_frame_boundary() {
        let path = std::env::temp_dir().join(format!("midge-channel-{}", std::process::id()));
        let listener = UnixListener::bind(&path).unwrap();
        let poller = Poller::new().unwrap();
        let mut channel = Channel::new(listener.into(), Carrier::Listener, &poller).unwrap();
        let mut first = UnixStream::connect(&path).unwrap();
        event(&poller, &mut channel);
        // More than a socket holds, so that a frame is cut by the end of the connection.
        for _ in 0..64 {
            channel.outbox.output(kind::OUTPUT, 0, 0, &[0; 32_768]);
        }
        channel.flush();
        assert_eq!(frame_kind(&mut first), kind::OUTPUT);
        drop(first);
        let mut second = UnixStream::connect(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        event(&poller, &mut channel);
        channel.accept(&poller);
        channel.flush();
        assert_eq!(frame_kind(&mut second), kind::OUTPUT);
        let mut bytes = Vec::new();
        encode_message(&mut bytes, kind::HELLO, 0, b"{}").unwrap();
        second.write_all(&bytes).unwrap();
        channel.fill();
        assert_eq!(channel.next_frame().unwrap().header.kind, kind::HELLO);
        assert!(!channel.has_ended());
    }

    #[test]
    fn the_end_of_a_connected_socket_is_final() {
        let (host, machine) = UnixStream::pair().unwrap();
        let poller = Poller::new().unwrap();
        let mut channel = Channel::new(machine.into(), Carrier::Socket, &poller).unwrap();
        drop(host);
        channel.fill();
        assert!(channel.has_ended());
        assert!(!channel.can_read());
    }
}
