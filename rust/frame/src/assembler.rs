//! Messages that were sent in several frames.

use std::fmt;

use crate::{FrameRef, MESSAGE_MAX, flag};

/// A message that cannot be put together; the stream of frames itself is intact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageError {
    /// More than [`MESSAGE_MAX`] bytes; the rest of the message is swallowed.
    TooLong,
    /// Another message began before this one was complete; the incomplete one is dropped, the other one counts.
    Interrupted,
}

impl fmt::Display for MessageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => write!(f, "message is longer than {MESSAGE_MAX} bytes"),
            Self::Interrupted => f.write_str("another message began before this one was complete"),
        }
    }
}

impl std::error::Error for MessageError {}

/// Joins the frames of one message at a time; raw frames may come between and do not pass through here.
#[derive(Debug, Default)]
pub struct Assembler {
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    kind: u8,
    stream: u32,
    bytes: Vec<u8>,
    too_long: bool,
}

impl Assembler {
    /// An assembler without a message under way.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Type and stream of the message that is not complete yet.
    #[must_use]
    pub fn under_way(&self) -> Option<(u8, u32)> {
        self.open.as_ref().map(|open| (open.kind, open.stream))
    }

    /// Takes a control frame; gives the whole message once its last frame is in.
    ///
    /// # Errors
    /// [`MessageError`]. After `Interrupted` the same frame has to be given again, as the first of its message.
    pub fn push(&mut self, frame: &FrameRef<'_>) -> Result<Option<Vec<u8>>, MessageError> {
        let (kind, stream) = (frame.header.kind, frame.header.stream);
        let more = frame.header.flags & flag::MORE != 0;
        let mut open = match self.open.take() {
            Some(open) if (open.kind, open.stream) != (kind, stream) => {
                return Err(MessageError::Interrupted);
            }
            Some(open) => open,
            None if !more => return Ok(Some(frame.payload.to_vec())),
            None => Open { kind, stream, bytes: Vec::new(), too_long: false },
        };
        let first_excess = !open.too_long && open.bytes.len() + frame.payload.len() > MESSAGE_MAX;
        if first_excess {
            open.too_long = true;
            open.bytes = Vec::new();
        } else if !open.too_long {
            open.bytes.extend_from_slice(frame.payload);
        }
        let complete = (!more && !open.too_long).then(|| std::mem::take(&mut open.bytes));
        if more {
            self.open = Some(open);
        }
        if first_excess { Err(MessageError::TooLong) } else { Ok(complete) }
    }

    /// Forgets a message under way, at the start of a session.
    pub fn reset(&mut self) {
        self.open = None;
    }
}
