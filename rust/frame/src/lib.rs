//! Framing of the guest protocol (`docs/guest-protocol.md`), shared by the init and the shim.
//!
//! Bytes go into a [`Decoder`], frames come out; control frames go through an [`Assembler`] that joins what was sent
//! in pieces. Nothing here does I/O, and nothing trusts a length: every buffer has a named limit.

mod assembler;
mod decoder;
mod encoder;
pub mod kind;

pub use assembler::{Assembler, MessageError};
pub use decoder::{Decoder, FrameRef, StreamBroken};
pub use encoder::{EncodeError, encode_data, encode_frame, encode_header, encode_message};

/// Opens every frame; its last byte names the major version of the framing.
pub const MAGIC: [u8; 4] = *b"MDG1";
/// Bytes before the payload: magic, type, flags, reserved, stream, length.
pub const HEADER_BYTES: usize = 16;
/// Most bytes of payload in one frame: small enough to be fair between streams, large enough to be cheap.
pub const FRAME_PAYLOAD_MAX: usize = 65_536;
/// Most bytes of one JSON message over all its frames.
pub const MESSAGE_MAX: usize = 1_048_576;
/// Most bytes dropped in a row in search of a frame before the stream counts as broken.
pub const RESYNC_BYTES_MAX: usize = 262_144;
/// Bytes of one exec's output (or input) that may be under way before the receiver has to grant more.
pub const WINDOW_BYTES: u32 = 262_144;
/// Highest protocol version this crate knows.
pub const PROTOCOL_VERSION: u32 = 1;

/// Bits of a frame's flags byte.
pub mod flag {
    /// Last frame of a byte stream.
    pub const EOF: u8 = 0x01;
    /// The bytes are standard error, not standard output.
    pub const STDERR: u8 = 0x02;
    /// The JSON message goes on in the next frame of this type and stream.
    pub const MORE: u8 = 0x80;
}

/// What a frame says about itself, without its payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Frame type, see [`kind`].
    pub kind: u8,
    /// Flag bits, see [`flag`].
    pub flags: u8,
    /// 0 for the machine itself, otherwise an exec, transfer or query.
    pub stream: u32,
    /// Bytes of payload that follow.
    pub length: u32,
}

impl Header {
    /// Reads a header; `None` if the magic is wrong or the length beyond [`FRAME_PAYLOAD_MAX`].
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let [m0, m1, m2, m3, kind, flags, _, _, s0, s1, s2, s3, l0, l1, l2, l3] = *bytes;
        let length = u32::from_le_bytes([l0, l1, l2, l3]);
        if [m0, m1, m2, m3] != MAGIC || length as usize > FRAME_PAYLOAD_MAX {
            return None;
        }
        Some(Self { kind, flags, stream: u32::from_le_bytes([s0, s1, s2, s3]), length })
    }
}
