//! What the shim leaves on disk for a worker that comes later.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::paths::with_suffix;
use crate::sys::{self, Status};

/// Space reserved for a record that must be written on a full disk; no record is longer.
const RECORD_BYTES: u32 = 8_192;
/// Longest text of a guest's error that is kept: with every character escaped it still fits into a record.
const ERROR_TEXT_MAX: usize = 1_024;

/// A file that does not exist yet but has its space.
pub struct Reserved {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
}

impl Reserved {
    /// Reserves `dir/name`; an older file of that name goes.
    ///
    /// # Errors
    /// No space, or no such directory.
    pub fn new(dir: &Path, name: &str) -> io::Result<Self> {
        let path = dir.join(name);
        let temporary = with_suffix(&path, ".tmp");
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        sys::reserve(&file, RECORD_BYTES)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(Self { file, temporary, path }),
        }
    }

    /// Writes the record: on disk, and whole or not there at all.
    ///
    /// # Errors
    /// The disk has failed.
    pub fn write(&mut self, record: &Value) -> io::Result<()> {
        let text = record.to_string();
        self.file.write_all(text.as_bytes())?;
        self.file.set_len(text.len() as u64)?;
        self.file.sync_all()?;
        std::fs::rename(&self.temporary, &self.path)?;
        match self.path.parent() {
            Some(dir) => File::open(dir)?.sync_all(),
            None => Ok(()),
        }
    }
}

/// Replaces `dir/name` at once; not forced to disk, it is of no use after a crash of the host.
///
/// # Errors
/// The directory cannot be written.
pub fn replace(dir: &Path, name: &str, record: &Value) -> io::Result<()> {
    let path = dir.join(name);
    let temporary = with_suffix(&path, ".tmp");
    std::fs::write(&temporary, record.to_string())?;
    std::fs::rename(&temporary, &path)
}

/// The guest's EXIT with nothing in it that the guest could blow up; `None` if it is malformed.
pub fn exit_record(payload: &[u8], now_ns: u64) -> Option<Value> {
    let sent: Value = serde_json::from_slice(payload).ok()?;
    let sent = sent.as_object()?;
    let within = |name: &str, least: u64, most: u64| {
        sent.get(name).and_then(Value::as_u64).filter(|value| (least..=most).contains(value))
    };
    let error = sent.get("error").and_then(Value::as_str).map(|text| cut(text, ERROR_TEXT_MAX));
    Some(json!({
        "exit_code": within("exit_code", 0, 255),
        "signal": within("signal", 1, 64),
        "oom_killed": sent.get("oom_killed").and_then(Value::as_bool).unwrap_or(false),
        "error": error,
        "exited_at_ns": within("exited_at_ns", 0, i64::MAX as u64).unwrap_or(0),
        "received_at_ns": now_ns,
    }))
}

/// How the VMM or container ended; `error` if it never began.
pub fn ended_record(status: Option<Status>, error: Option<&str>, now_ns: u64) -> Value {
    let (exit_code, signal) = match status {
        Some(Status::Exited(code)) => (Some(code), None),
        Some(Status::Signaled(signal)) => (None, Some(signal)),
        None => (None, None),
    };
    json!({
        "exit_code": exit_code,
        "signal": signal,
        "error": error.map(|text| cut(text, ERROR_TEXT_MAX)),
        "ended_at_ns": now_ns,
    })
}

fn cut(text: &str, limit: usize) -> &str {
    let mut end = text.len().min(limit);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_is_cut_to_size_and_range() {
        let payload = json!({"exit_code": 300, "signal": 9, "error": "\u{1}".repeat(5000), "other": [1]});
        let record = exit_record(payload.to_string().as_bytes(), 5).unwrap();
        assert_eq!((&record["exit_code"], &record["signal"]), (&Value::Null, &json!(9)));
        assert!(record.to_string().len() < RECORD_BYTES as usize);
        assert!(record.get("other").is_none());
    }

    #[test]
    fn malformed_exits_are_none() {
        for payload in [&b""[..], b"[]", b"{", b"\xff", b"null"] {
            assert_eq!(exit_record(payload, 0), None);
        }
        let deep = [b"{\"x\":".as_slice(), &b"[".repeat(10_000)].concat();
        assert_eq!(exit_record(&deep, 0), None);
    }
}
