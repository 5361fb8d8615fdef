//! What is to be sent: control frames ahead of bulk output, nothing ever lost, everything bounded.
//!
//! ```text
//! control ─┐
//!          ├─► pending (whole frames, in their final order) ─► channel
//! bulk ────┘
//! ```
//!
//! Frames whose place among the output matters (EXIT, EXEC_EXIT, QUIESCED) travel with the bulk.

use std::collections::VecDeque;

use midge_frame::{HEADER_BYTES, Header, encode_data, encode_message, kind};
use serde_json::Value;

/// Bytes of output that may wait; beyond it pipes are not read, and the writers in the machine wait.
pub const BULK_BYTES_MAX: usize = 262_144;
/// Bytes of answers that may wait; beyond it the host is not read until it reads its answers.
pub const CONTROL_BYTES_MAX: usize = 4_194_304;
/// Bytes handed to the channel at once: what virtio-serial takes in one write.
const PENDING_BYTES: usize = 32_768;

#[derive(Default)]
pub struct Outbox {
    control: VecDeque<Vec<u8>>,
    control_bytes: usize,
    bulk: VecDeque<(u8, Vec<u8>)>,
    bulk_bytes: usize,
    pending: Vec<u8>,
    written: usize,
    quiescing: bool,
    silent: bool,
}

impl Outbox {
    /// Queues a message that may overtake output.
    pub fn control(&mut self, kind: u8, stream: u32, message: &Value) {
        let bytes = encoded(kind, stream, message);
        self.control_bytes += bytes.len();
        self.control.push_back(bytes);
    }

    /// Queues raw bytes that may overtake output.
    pub fn control_raw(&mut self, kind: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_data(&mut bytes, kind, 0, stream, payload);
        self.control_bytes += bytes.len();
        self.control.push_back(bytes);
    }

    /// Queues a message behind the output queued so far.
    pub fn ordered(&mut self, kind: u8, stream: u32, message: &Value) {
        let bytes = encoded(kind, stream, message);
        self.push_bulk(kind, bytes);
    }

    /// Queues output.
    pub fn output(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = Vec::new();
        encode_data(&mut bytes, kind, flags, stream, payload);
        self.push_bulk(kind, bytes);
    }

    fn push_bulk(&mut self, kind: u8, bytes: Vec<u8>) {
        self.bulk_bytes += bytes.len();
        self.bulk.push_back((kind, bytes));
    }

    /// Whether output may be read and queued.
    pub fn has_room(&self) -> bool {
        self.bulk_bytes < BULK_BYTES_MAX && !self.quiescing
    }

    /// Whether the host owes us reading before it is heard again.
    pub fn is_overfull(&self) -> bool {
        self.control_bytes > CONTROL_BYTES_MAX && !self.silent
    }

    /// Says QUIESCED after what is queued, and then nothing until [`Outbox::new_session`].
    pub fn quiesce(&mut self) {
        if !self.quiescing {
            self.quiescing = true;
            self.ordered(kind::QUIESCED, 0, &serde_json::json!({}));
        }
    }

    /// Forgets everything meant for the old session; output and end of the main process are kept.
    pub fn new_session(&mut self) {
        self.control.clear();
        self.control_bytes = 0;
        self.bulk.retain(|(kind, _)| matches!(*kind, kind::OUTPUT | kind::EXIT));
        self.bulk_bytes = self.bulk.iter().map(|(_, bytes)| bytes.len()).sum();
        self.quiescing = false;
        self.silent = false;
    }

    /// Whether a frame of this type waits among the output.
    pub fn holds(&self, wanted: u8) -> bool {
        self.bulk.iter().any(|(kind, _)| *kind == wanted)
    }

    /// The next bytes to write, empty if there are none.
    pub fn pending(&mut self) -> &[u8] {
        if self.written == self.pending.len() {
            self.refill();
        }
        &self.pending[self.written..]
    }

    /// Notes that the channel took bytes.
    pub fn advance(&mut self, count: usize) {
        self.written += count;
    }

    /// Goes back to the beginning of the frame that is half written, for a new connection.
    pub fn rewind(&mut self) {
        let mut boundary = 0;
        while let Some(header) =
            self.pending.get(boundary..).and_then(|rest| rest.first_chunk::<HEADER_BYTES>())
        {
            let length = Header::parse(header).map_or(0, |header| header.length as usize);
            if boundary + HEADER_BYTES + length > self.written {
                break;
            }
            boundary += HEADER_BYTES + length;
        }
        self.written = boundary.min(self.written);
    }

    fn refill(&mut self) {
        self.pending.clear();
        self.written = 0;
        while !self.silent && self.pending.len() < PENDING_BYTES {
            if let Some(bytes) = self.control.pop_front() {
                self.control_bytes -= bytes.len();
                self.pending.extend_from_slice(&bytes);
            } else if let Some((kind, bytes)) = self.bulk.pop_front() {
                self.bulk_bytes -= bytes.len();
                self.pending.extend_from_slice(&bytes);
                self.silent = kind == kind::QUIESCED;
            } else {
                return;
            }
        }
    }
}

fn encoded(kind: u8, stream: u32, message: &Value) -> Vec<u8> {
    // Cannot fail: keys are strings.
    let json = serde_json::to_vec(message).unwrap_or_default();
    let mut bytes = Vec::new();
    if encode_message(&mut bytes, kind, stream, &json).is_err() {
        let request = kind::name(kind).unwrap_or_default().trim_end_matches("_REPLY").to_ascii_lowercase();
        let error = serde_json::json!({
            "code": "too_long", "message": "the answer is too long for a message", "during": request,
        });
        // Cannot fail: the message is short.
        let _ = encode_message(&mut bytes, kind::ERROR, stream, error.to_string().as_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use midge_frame::Decoder;
    use serde_json::json;

    fn kinds(outbox: &mut Outbox) -> Vec<u8> {
        let mut decoder = Decoder::new();
        let mut kinds = Vec::new();
        loop {
            let bytes = outbox.pending().to_vec();
            if bytes.is_empty() {
                return kinds;
            }
            outbox.advance(bytes.len());
            decoder.push(&bytes);
            while let Some(frame) = decoder.next_frame().unwrap() {
                kinds.push(frame.header.kind);
            }
        }
    }

    #[test]
    fn control_overtakes_output_but_the_exit_does_not() {
        let mut outbox = Outbox::default();
        outbox.output(kind::OUTPUT, 0, 0, b"text");
        outbox.ordered(kind::EXIT, 0, &json!({}));
        outbox.control(kind::STATS_REPLY, 3, &json!({}));
        assert_eq!(kinds(&mut outbox), [kind::STATS_REPLY, kind::OUTPUT, kind::EXIT]);
    }

    #[test]
    fn nothing_is_said_between_quiesced_and_the_next_session() {
        let mut outbox = Outbox::default();
        outbox.output(kind::OUTPUT, 0, 0, b"before");
        outbox.quiesce();
        assert!(!outbox.has_room());
        assert_eq!(kinds(&mut outbox), [kind::OUTPUT, kind::QUIESCED]);
        outbox.output(kind::OUTPUT, 0, 0, b"after");
        outbox.ordered(kind::EXEC_EXIT, 1, &json!({}));
        outbox.control(kind::ERROR, 1, &json!({}));
        assert!(kinds(&mut outbox).is_empty());
        outbox.new_session();
        outbox.control(kind::HELLO_ACK, 0, &json!({}));
        assert_eq!(kinds(&mut outbox), [kind::HELLO_ACK, kind::OUTPUT]);
    }

    #[test]
    fn a_full_queue_has_no_room_until_it_is_written() {
        let mut outbox = Outbox::default();
        while outbox.has_room() {
            outbox.output(kind::OUTPUT, 0, 0, &[0; 65_536]);
        }
        assert_eq!(kinds(&mut outbox).len(), 4);
        assert!(outbox.has_room());
    }

    #[test]
    fn a_half_written_frame_is_sent_again_whole() {
        let mut outbox = Outbox::default();
        outbox.output(kind::OUTPUT, 0, 0, b"first");
        outbox.output(kind::OUTPUT, 0, 0, b"second");
        assert_eq!(outbox.pending().len(), 2 * HEADER_BYTES + 11);
        outbox.advance(HEADER_BYTES + 5 + 3);
        outbox.rewind();
        assert_eq!(&outbox.pending()[HEADER_BYTES..], b"second");
    }

    #[test]
    fn an_answer_that_is_too_long_becomes_an_error() {
        let mut outbox = Outbox::default();
        outbox.control(kind::PS_REPLY, 4, &json!({"x": "y".repeat(midge_frame::MESSAGE_MAX)}));
        assert_eq!(kinds(&mut outbox), [kind::ERROR]);
    }
}
