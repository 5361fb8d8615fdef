//! Whole frames on their way out.

use std::io::{self, Write};

use midge_frame::HEADER_BYTES;

/// Memory kept between bursts.
const KEEP_BYTES: usize = 65_536;

/// A queue of whole frames; the first of them may have been sent in part.
#[derive(Default)]
pub struct Outbox {
    bytes: Vec<u8>,
    /// Where the first frame that is not sent whole begins.
    frame: usize,
    /// How far has been sent.
    sent: usize,
}

impl Outbox {
    /// Bytes still to be sent.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether everything is sent.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds one or more whole frames.
    pub fn push(&mut self, frames: &[u8]) {
        self.bytes.extend_from_slice(frames);
    }

    /// Forgets frames of which nothing has been sent.
    pub fn discard_unsent(&mut self) {
        self.advance();
        let end = if self.sent > self.frame { self.frame + self.frame_bytes() } else { self.frame };
        self.bytes.truncate(end);
    }

    /// Sends as much as the other side takes without waiting.
    ///
    /// # Errors
    /// The other side has gone.
    pub fn flush(&mut self, out: &mut impl Write) -> io::Result<()> {
        while !self.is_empty() {
            match out.write(&self.bytes[self.sent..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.sent += count,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.advance();
        if self.is_empty() {
            self.bytes.clear();
            self.bytes.shrink_to(KEEP_BYTES);
            (self.frame, self.sent) = (0, 0);
        } else if self.frame > KEEP_BYTES {
            self.bytes.drain(..self.frame);
            self.sent -= self.frame;
            self.frame = 0;
        }
        Ok(())
    }

    fn advance(&mut self) {
        while self.frame < self.sent && self.frame + self.frame_bytes() <= self.sent {
            self.frame += self.frame_bytes();
        }
    }

    /// Length of the frame at `frame`, which is whole.
    fn frame_bytes(&self) -> usize {
        let length =
            self.bytes[self.frame + 12..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
        HEADER_BYTES + length as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Takes so many bytes and then no more.
    struct Narrow(Vec<u8>, usize);

    impl Write for Narrow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let count = bytes.len().min(self.1);
            if count == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            self.1 -= count;
            self.0.extend_from_slice(&bytes[..count]);
            Ok(count)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn frames() -> Vec<u8> {
        let mut bytes = Vec::new();
        for number in 0..3 {
            midge_frame::encode_frame(&mut bytes, 1, 0, number, &[b'x'; 10]).unwrap();
        }
        bytes
    }

    #[test]
    fn discards_all_but_the_frame_under_way() {
        for (taken, left) in [(0, 0), (1, 25), (25, 1), (26, 0), (27, 25), (52, 0), (60, 18), (78, 0)] {
            let mut outbox = Outbox::default();
            outbox.push(&frames());
            let mut out = Narrow(Vec::new(), taken);
            outbox.flush(&mut out).unwrap();
            outbox.discard_unsent();
            assert_eq!(outbox.len(), left, "after {taken}");
            out.1 = 1000;
            outbox.flush(&mut out).unwrap();
            assert_eq!(out.0, frames()[..taken + left]);
            assert_eq!(out.0.len() % 26, 0);
        }
    }
}
