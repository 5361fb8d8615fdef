//! A bounded fuzz with a fixed seed, so that it runs with every `cargo test`; `frame/fuzz` goes on where this stops.

use midge_frame::{
    Assembler, Decoder, FRAME_PAYLOAD_MAX, HEADER_BYTES, MESSAGE_MAX, encode_data, encode_message, kind,
};

/// Inputs tried; about a second without optimisation.
const ROUNDS: u32 = 2_000;

/// xorshift64*: small and reproducible.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

fn valid_stream(random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    for _ in 0..1 + random.below(6) {
        let kind = (1 + random.below(0x13)) as u8;
        let size = if random.below(8) == 0 { random.below(3 * FRAME_PAYLOAD_MAX) } else { random.below(200) };
        let bytes: Vec<u8> = (0..size).map(|_| random.next() as u8).collect();
        let stream = random.below(4) as u32;
        if kind::is_raw(kind) {
            encode_data(&mut out, kind, 0, stream, &bytes);
        } else {
            encode_message(&mut out, kind, stream, &bytes).unwrap();
        }
    }
    out
}

fn mutate(bytes: &mut Vec<u8>, random: &mut Random) {
    for _ in 0..random.below(8) {
        if bytes.is_empty() {
            return;
        }
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] ^= 1 << random.below(8),
            2 => drop(bytes.drain(at..(at + random.below(40)).min(bytes.len()))),
            _ => {
                bytes.splice(at..at, [b'M', b'D', b'G', random.next() as u8]);
            }
        }
    }
}

/// Feeds everything and checks what must hold for any input; gives the payload bytes that came out.
fn feed(bytes: &[u8], random: &mut Random) -> u64 {
    let (mut decoder, mut assembler) = (Decoder::new(), Assembler::new());
    let (mut rest, mut out) = (bytes, 0);
    while !rest.is_empty() {
        let (part, tail) = rest.split_at(1 + random.below(rest.len()));
        rest = tail;
        decoder.push(part);
        while let Ok(Some(frame)) = decoder.next_frame() {
            assert!(frame.payload.len() <= FRAME_PAYLOAD_MAX);
            assert_eq!(frame.raw.len(), HEADER_BYTES + frame.payload.len());
            out += frame.raw.len() as u64;
            if let Ok(Some(message)) = assembler.push(&frame) {
                assert!(message.len() <= MESSAGE_MAX);
            }
        }
        if decoder.next_frame().is_err() {
            return out;
        }
        assert!(decoder.pending_bytes() < HEADER_BYTES + FRAME_PAYLOAD_MAX);
    }
    assert_eq!(out + decoder.skipped_bytes() + decoder.pending_bytes() as u64, bytes.len() as u64);
    out
}

#[test]
fn no_input_breaks_the_decoder_and_every_byte_is_accounted_for() {
    let mut random = Random(0x6d69_6467_6531_0001);
    for _ in 0..ROUNDS {
        let mut bytes = valid_stream(&mut random);
        mutate(&mut bytes, &mut random);
        feed(&bytes, &mut random);
    }
}

#[test]
fn a_valid_stream_comes_out_whole_however_it_is_cut() {
    let mut random = Random(0x6d69_6467_6531_0002);
    for _ in 0..200 {
        let bytes = valid_stream(&mut random);
        assert_eq!(feed(&bytes, &mut random), bytes.len() as u64);
    }
}
