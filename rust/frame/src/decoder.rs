//! Bytes to frames, with the way back to a boundary after garbage.

use std::fmt;

use crate::{HEADER_BYTES, Header, MAGIC, RESYNC_BYTES_MAX};

/// Consumed bytes at the front of the buffer beyond which they are moved out of it.
const COMPACT_BYTES: usize = 65_536;

/// A frame that lies in the decoder's buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameRef<'a> {
    /// Type, flags, stream and length.
    pub header: Header,
    /// The bytes after the header.
    pub payload: &'a [u8],
    /// Header and payload as they came, for passing on.
    pub raw: &'a [u8],
}

/// No frame was found in [`RESYNC_BYTES_MAX`] bytes: what arrives is not this protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamBroken;

impl fmt::Display for StreamBroken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no frame in {RESYNC_BYTES_MAX} bytes")
    }
}

impl std::error::Error for StreamBroken {}

/// Cuts a byte stream into frames.
///
/// Push bytes as they arrive, then call [`Decoder::next_frame`] until it has none; the buffer then holds less than one
/// frame.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
    start: usize,
    skipped_in_a_row: usize,
    skipped_bytes: u64,
    broken: bool,
}

impl Decoder {
    /// A decoder at a frame boundary.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes that have arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        } else if self.start >= COMPACT_BYTES {
            self.buffer.drain(..self.start);
            self.start = 0;
        }
        self.buffer.extend_from_slice(bytes);
    }

    /// The next whole frame, or `None` until more bytes are pushed.
    ///
    /// # Errors
    /// [`StreamBroken`], and again on every call until [`Decoder::reset`].
    pub fn next_frame(&mut self) -> Result<Option<FrameRef<'_>>, StreamBroken> {
        loop {
            if self.broken {
                return Err(StreamBroken);
            }
            let Some((header, end)) = self.header_at_start() else {
                if self.skip_to_candidate() {
                    continue;
                }
                return if self.broken { Err(StreamBroken) } else { Ok(None) };
            };
            if self.buffer.len() < end {
                return Ok(None);
            }
            let start = self.start;
            self.start = end;
            self.skipped_in_a_row = 0;
            let raw = &self.buffer[start..end];
            return Ok(Some(FrameRef { header, payload: &raw[HEADER_BYTES..], raw }));
        }
    }

    /// Bytes that wait for the rest of their frame.
    #[must_use]
    pub fn pending_bytes(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// Bytes dropped so far because no frame began at them.
    #[must_use]
    pub fn skipped_bytes(&self) -> u64 {
        self.skipped_bytes
    }

    /// Forgets everything buffered and any failure, for a stream that starts anew.
    pub fn reset(&mut self) {
        *self = Self { skipped_bytes: self.skipped_bytes, ..Self::default() };
    }

    /// The plausible header at the read position and the position after its frame.
    fn header_at_start(&self) -> Option<(Header, usize)> {
        let bytes = self.buffer.get(self.start..self.start + HEADER_BYTES)?;
        let header = Header::parse(bytes.try_into().ok()?)?;
        Some((header, self.start + HEADER_BYTES + header.length as usize))
    }

    /// Drops bytes up to the next place where a frame may begin; true if a whole header is there to be looked at.
    fn skip_to_candidate(&mut self) -> bool {
        let from = self.start;
        while self.start < self.buffer.len() && !self.may_begin_frame() {
            self.start += 1;
        }
        let skipped = self.start - from;
        self.skipped_bytes += skipped as u64;
        self.skipped_in_a_row += skipped;
        self.broken = self.skipped_in_a_row > RESYNC_BYTES_MAX;
        !self.broken && self.pending_bytes() >= HEADER_BYTES
    }

    /// Whether the bytes at the read position are a plausible header, or the beginning of one.
    fn may_begin_frame(&self) -> bool {
        let rest = &self.buffer[self.start..];
        match rest.first_chunk::<HEADER_BYTES>() {
            Some(header) => Header::parse(header).is_some(),
            None => {
                let known = rest.len().min(MAGIC.len());
                rest[..known] == MAGIC[..known]
            }
        }
    }
}
