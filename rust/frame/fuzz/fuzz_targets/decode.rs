//! Any bytes, cut anywhere, through decoder and assembler.
//!
//! `RUSTC_BOOTSTRAP=1 cargo fuzz run decode -- -max_total_time=60`, in `rust/frame`.

#![no_main]

use libfuzzer_sys::fuzz_target;
use midge_frame::{Assembler, Decoder, FRAME_PAYLOAD_MAX, HEADER_BYTES, MESSAGE_MAX, MessageError};

fuzz_target!(|input: (u16, &[u8])| {
    let (piece, bytes) = (usize::from(input.0).max(1), input.1);
    let (mut decoder, mut assembler) = (Decoder::new(), Assembler::new());
    let mut out = 0;
    for part in bytes.chunks(piece) {
        decoder.push(part);
        while let Ok(Some(frame)) = decoder.next_frame() {
            assert_eq!(frame.raw.len(), HEADER_BYTES + frame.payload.len());
            out += frame.raw.len() as u64;
            let mut result = assembler.push(&frame);
            if result == Err(MessageError::Interrupted) {
                result = assembler.push(&frame);
                assert_ne!(result, Err(MessageError::Interrupted));
            }
            assert!(result.ok().flatten().is_none_or(|message| message.len() <= MESSAGE_MAX));
        }
        if decoder.next_frame().is_err() {
            return;
        }
        assert!(decoder.pending_bytes() < HEADER_BYTES + FRAME_PAYLOAD_MAX);
    }
    assert_eq!(out + decoder.skipped_bytes() + decoder.pending_bytes() as u64, bytes.len() as u64);
});
