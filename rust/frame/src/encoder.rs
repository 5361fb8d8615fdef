//! Frames and messages to bytes.

use std::fmt;

use crate::{FRAME_PAYLOAD_MAX, HEADER_BYTES, MAGIC, MESSAGE_MAX, flag};

/// More bytes than the protocol lets through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeError {
    /// Bytes that were to be sent.
    pub length: usize,
    /// The limit they exceed.
    pub limit: usize,
}

impl fmt::Display for EncodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes are more than the limit of {}", self.length, self.limit)
    }
}

impl std::error::Error for EncodeError {}

/// The header of a frame whose payload of `length` bytes is sent separately.
///
/// # Errors
/// `length` is beyond [`FRAME_PAYLOAD_MAX`].
pub fn encode_header(
    kind: u8,
    flags: u8,
    stream: u32,
    length: usize,
) -> Result<[u8; HEADER_BYTES], EncodeError> {
    let wire_length = u32::try_from(length).ok().filter(|_| length <= FRAME_PAYLOAD_MAX);
    let wire_length = wire_length.ok_or(EncodeError { length, limit: FRAME_PAYLOAD_MAX })?;
    let mut header = [0; HEADER_BYTES];
    header[..4].copy_from_slice(&MAGIC);
    header[4] = kind;
    header[5] = flags;
    header[8..12].copy_from_slice(&stream.to_le_bytes());
    header[12..].copy_from_slice(&wire_length.to_le_bytes());
    Ok(header)
}

/// Appends one frame to `out`.
///
/// # Errors
/// The payload is beyond [`FRAME_PAYLOAD_MAX`]; `out` is unchanged then.
pub fn encode_frame(
    out: &mut Vec<u8>,
    kind: u8,
    flags: u8,
    stream: u32,
    payload: &[u8],
) -> Result<(), EncodeError> {
    let header = encode_header(kind, flags, stream, payload.len())?;
    out.reserve(HEADER_BYTES + payload.len());
    out.extend_from_slice(&header);
    out.extend_from_slice(payload);
    Ok(())
}

/// Appends a JSON message to `out`, in as many frames as it takes, all but the last flagged `MORE`.
///
/// # Errors
/// The message is beyond [`MESSAGE_MAX`]; `out` is unchanged then.
pub fn encode_message(out: &mut Vec<u8>, kind: u8, stream: u32, json: &[u8]) -> Result<(), EncodeError> {
    if json.len() > MESSAGE_MAX {
        return Err(EncodeError { length: json.len(), limit: MESSAGE_MAX });
    }
    append_pieces(out, kind, stream, json, flag::MORE, 0)
}

/// Appends raw bytes to `out`, in as many frames as it takes; `EOF` in `flags` is set on the last one only.
pub fn encode_data(out: &mut Vec<u8>, kind: u8, flags: u8, stream: u32, bytes: &[u8]) {
    let result = append_pieces(out, kind, stream, bytes, flags & !flag::EOF, flags);
    debug_assert!(result.is_ok(), "pieces are cut to the limit");
}

fn append_pieces(
    out: &mut Vec<u8>,
    kind: u8,
    stream: u32,
    bytes: &[u8],
    flags: u8,
    last_flags: u8,
) -> Result<(), EncodeError> {
    let mut rest = bytes;
    while rest.len() > FRAME_PAYLOAD_MAX {
        let (piece, tail) = rest.split_at(FRAME_PAYLOAD_MAX);
        encode_frame(out, kind, flags, stream, piece)?;
        rest = tail;
    }
    encode_frame(out, kind, last_flags, stream, rest)
}
