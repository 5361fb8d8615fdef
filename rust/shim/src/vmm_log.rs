//! What the VMM or launcher itself writes: its last messages, within a fixed space.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::paths::with_suffix;

/// Size of one of the two files, the current one and the one before.
const FILE_BYTES_MAX: u64 = 131_072;
/// The end of it, kept in memory for the record of a program that never began.
const TAIL_BYTES: usize = 1_024;

/// An open `vmm.log`.
pub struct VmmLog {
    path: PathBuf,
    file: File,
    size: u64,
    tail: Vec<u8>,
}

impl VmmLog {
    /// Starts anew; the log of the last start is kept as `vmm.log.1`.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn create(path: PathBuf) -> io::Result<Self> {
        let _ = std::fs::rename(&path, with_suffix(&path, ".1"));
        let file = create(&path)?;
        Ok(Self { path, file, size: 0, tail: Vec::new() })
    }

    /// Adds output; what the disk has no room for is dropped.
    pub fn append(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(&bytes[bytes.len().saturating_sub(TAIL_BYTES)..]);
        let excess = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..excess);
        if self.size + bytes.len() as u64 > FILE_BYTES_MAX {
            let _ = std::fs::rename(&self.path, with_suffix(&self.path, ".1"));
            if let Ok(file) = create(&self.path) {
                self.file = file;
                self.size = 0;
            }
        }
        if self.file.write_all(bytes).is_ok() {
            self.size += bytes.len() as u64;
        }
    }

    /// A line of the shim's own.
    pub fn note(&mut self, text: &str) {
        self.append(format!("midge-shim: {text}\n").as_bytes());
    }

    /// The end of what was written.
    pub fn tail(&self) -> String {
        String::from_utf8_lossy(&self.tail).trim().to_owned()
    }
}

fn create(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(path)
}
