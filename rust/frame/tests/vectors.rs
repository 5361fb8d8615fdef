//! The test vectors shared with the Python side.

use midge_frame::{Assembler, Decoder, encode_frame, kind};
use serde_json::Value;

struct Vector {
    name: String,
    hex: String,
    expect: Expect,
}

#[derive(Default)]
struct Expect {
    frames: Vec<ExpectedFrame>,
    messages: Vec<ExpectedMessage>,
    message_errors: Vec<String>,
    skipped_bytes: u64,
    pending_bytes: u64,
    error: Option<String>,
}

struct ExpectedFrame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: String,
}

#[derive(Debug, PartialEq)]
struct ExpectedMessage {
    kind: u8,
    stream: u32,
    json: Value,
}

fn text(value: &Value) -> String {
    value.as_str().expect("a string").to_owned()
}

fn number<T: TryFrom<u64, Error: std::fmt::Debug>>(value: &Value) -> T {
    value.as_u64().expect("a number").try_into().expect("in range")
}

/// The items of a list that may be absent.
fn list<T>(value: &Value, item: impl Fn(&Value) -> T) -> Vec<T> {
    value.as_array().map(|items| items.iter().map(item).collect()).unwrap_or_default()
}

impl Expect {
    fn from_json(value: &Value) -> Self {
        Self {
            frames: list(&value["frames"], |frame| ExpectedFrame {
                kind: number(&frame["type"]),
                flags: number(&frame["flags"]),
                stream: number(&frame["stream"]),
                payload: text(&frame["payload"]),
            }),
            messages: list(&value["messages"], |message| ExpectedMessage {
                kind: number(&message["type"]),
                stream: number(&message["stream"]),
                json: message["json"].clone(),
            }),
            message_errors: list(&value["message_errors"], text),
            skipped_bytes: value["skipped_bytes"].as_u64().unwrap_or(0),
            pending_bytes: value["pending_bytes"].as_u64().unwrap_or(0),
            error: value["error"].as_str().map(str::to_owned),
        }
    }
}

/// Hex words; `61*3` is the word three times.
fn bytes_of(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for word in text.split_whitespace() {
        let (hex, times) =
            word.split_once('*').map_or((word, 1), |(hex, times)| (hex, times.parse().unwrap()));
        let unit: Vec<u8> =
            (0..hex.len()).step_by(2).map(|i| u8::from_str_radix(&hex[i..i + 2], 16).unwrap()).collect();
        out.extend(unit.repeat(times));
    }
    out
}

fn vectors() -> Vec<Vector> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/vectors/frames.json");
    let all: Value = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let vectors = list(&all, |vector| Vector {
        name: text(&vector["name"]),
        hex: text(&vector["hex"]),
        expect: Expect::from_json(&vector["expect"]),
    });
    assert!(!vectors.is_empty());
    vectors
}

#[derive(Default)]
struct Outcome {
    frames: Vec<(u8, u8, u32, Vec<u8>)>,
    messages: Vec<ExpectedMessage>,
    message_errors: Vec<String>,
    error: Option<String>,
    skipped_bytes: u64,
    pending_bytes: u64,
}

fn run(bytes: &[u8], piece: usize) -> Outcome {
    let (mut decoder, mut assembler, mut outcome) = (Decoder::new(), Assembler::new(), Outcome::default());
    'pieces: for part in bytes.chunks(piece) {
        decoder.push(part);
        loop {
            let frame = match decoder.next_frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(_) => {
                    outcome.error = Some("stream_broken".into());
                    break 'pieces;
                }
            };
            let header = frame.header;
            outcome.frames.push((header.kind, header.flags, header.stream, frame.payload.to_vec()));
            if kind::is_raw(header.kind) {
                continue;
            }
            let mut result = assembler.push(&frame);
            if result == Err(midge_frame::MessageError::Interrupted) {
                outcome.message_errors.push("interrupted".into());
                result = assembler.push(&frame);
            }
            match result {
                Ok(Some(json)) => outcome.messages.push(ExpectedMessage {
                    kind: header.kind,
                    stream: header.stream,
                    json: serde_json::from_slice(&json).unwrap_or(Value::Null),
                }),
                Ok(None) => {}
                Err(_) => outcome.message_errors.push("too_long".into()),
            }
        }
    }
    outcome.skipped_bytes = decoder.skipped_bytes();
    outcome.pending_bytes = decoder.pending_bytes() as u64;
    outcome
}

#[test]
fn decoding_gives_what_the_vectors_expect_however_the_bytes_are_cut() {
    for vector in vectors() {
        let bytes = bytes_of(&vector.hex);
        for piece in [1, 7, 4096, bytes.len().max(1)] {
            let got = run(&bytes, piece);
            let frames: Vec<_> = (vector.expect.frames.iter())
                .map(|f| (f.kind, f.flags, f.stream, bytes_of(&f.payload)))
                .collect();
            let name = format!("{} in pieces of {piece}", vector.name);
            assert!(got.frames == frames, "{name}: frames differ");
            assert_eq!(got.message_errors, vector.expect.message_errors, "{name}");
            assert_eq!(got.error, vector.expect.error, "{name}");
            if !vector.expect.messages.is_empty() {
                assert_eq!(got.messages, vector.expect.messages, "{name}");
            }
            if got.error.is_none() {
                assert_eq!(got.skipped_bytes, vector.expect.skipped_bytes, "{name}");
                assert_eq!(got.pending_bytes, vector.expect.pending_bytes, "{name}");
            }
        }
    }
}

#[test]
fn encoding_the_frames_gives_the_bytes_of_the_clean_vectors() {
    for vector in vectors() {
        let expect = &vector.expect;
        let reserved_used = vector.name.contains("reserved");
        if expect.error.is_some() || expect.skipped_bytes > 0 || expect.pending_bytes > 0 || reserved_used {
            continue;
        }
        let mut out = Vec::new();
        for frame in &expect.frames {
            encode_frame(&mut out, frame.kind, frame.flags, frame.stream, &bytes_of(&frame.payload)).unwrap();
        }
        assert!(out == bytes_of(&vector.hex), "{}", vector.name);
    }
}
