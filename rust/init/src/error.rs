//! One kind of error: a sentence that says what failed on what, with the cause behind a colon.

use std::fmt;
use std::io;

/// A message for the host and the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error(String);

pub type Result<T> = std::result::Result<T, Error>;

/// Bytes of a message. What the host sent is quoted in it, and it has to fit into every report.
const MESSAGE_BYTES_MAX: usize = 1_024;

impl Error {
    pub fn new(message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MESSAGE_BYTES_MAX {
            let boundary = (0..=MESSAGE_BYTES_MAX).rev().find(|at| message.is_char_boundary(*at));
            message.truncate(boundary.unwrap_or(0));
            message.push('…');
        }
        Self(message)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Error {}

/// Adds what was being done to a failure of the system or of a deeper layer.
pub trait Context<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(format!("{}: {}", what(), describe(&error))))
    }
}

impl<T> Context<T> for Result<T> {
    fn context(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| Error::new(format!("{}: {error}", what())))
    }
}

/// The system's words for an error number, in lower case and without Rust's "(os error n)".
pub fn describe(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = words.chars();
    chars.next().map(|first| first.to_lowercase().chain(chars).collect()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_bounded_and_read_like_sentences() {
        assert!(Error::new("é".repeat(10_000)).to_string().len() < 1_100);
        let error =
            Err::<(), _>(io::Error::from_raw_os_error(libc::ENOENT)).context(|| "cannot open x".into());
        assert_eq!(error.unwrap_err().to_string(), "cannot open x: no such file or directory");
    }
}
