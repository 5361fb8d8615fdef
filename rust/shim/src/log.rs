//! The machine's log: one record a line, `TIME stdout|stderr F|P TEXT`, as container runtimes write theirs.
//!
//! `P` is a piece of a line whose rest is still to come: it is written at once, so that a prompt is seen. Times are the
//! host's, and no two records have the same: a time says where in the log a reader was. Rotation is by rename: `log`
//! becomes `log.1`, `log.1` becomes `log.2`, up to the number kept.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::paths::with_suffix;
use crate::stamp::{self, STAMP_BYTES, Stamp};

/// Longest text of one record; longer lines become several.
pub const TEXT_MAX: usize = 16_384;
/// Records are collected up to this many bytes between writes: two frames of ordinary output.
const BUFFER_MAX: usize = 131_072;
/// Time, stream, tag and the blanks between them, and the newline.
const RECORD_OVERHEAD: usize = STAMP_BYTES + " stdout F \n".len();
/// How far back the last record of an existing log is looked for: two of the longest.
const TAIL_BYTES: u64 = 2 * (TEXT_MAX + RECORD_OVERHEAD) as u64;

/// Where output came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b" stdout ",
            Self::Stderr => b" stderr ",
        }
    }
}

/// What of the buffer is not on disk yet.
#[derive(Clone, Copy, Default)]
struct Pending {
    /// Bytes of the machine's output, without the records' frame.
    output_bytes: u64,
    /// Lost bytes that a notice in the buffer tells of.
    notice_bytes: u64,
}

/// An open log.
pub struct MachineLog {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    file: File,
    size: u64,
    buffer: Vec<u8>,
    pending: Pending,
    /// Per stream: whether a line is open, with the buffer and without it.
    line_open: [bool; 2],
    line_open_on_disk: [bool; 2],
    last_ns: u64,
    stamp: Stamp,
    lost_unreported: u64,
    output_bytes: u64,
    lost_bytes: u64,
}

impl MachineLog {
    /// Opens a log to append to it; times go on after its last one.
    ///
    /// # Errors
    /// The file cannot be opened or read.
    pub fn open(path: &Path, max_bytes: u64, keep: u32) -> io::Result<Self> {
        let mut file = open_append(path)?;
        let (size, last_ns) = mend_tail(&mut file)?;
        Ok(Self {
            path: path.into(),
            max_bytes,
            keep,
            file,
            size,
            buffer: Vec::new(),
            pending: Pending::default(),
            line_open: [false; 2],
            line_open_on_disk: [false; 2],
            last_ns,
            stamp: Stamp::new(),
            lost_unreported: 0,
            output_bytes: 0,
            lost_bytes: 0,
        })
    }

    /// Bytes of output taken, lost ones included.
    pub fn output_bytes(&self) -> u64 {
        self.output_bytes
    }

    /// Bytes of output that did not reach the disk.
    pub fn lost_bytes(&self) -> u64 {
        self.lost_bytes
    }

    /// Takes output; on disk after [`MachineLog::flush`].
    pub fn append(&mut self, stream: Stream, bytes: &[u8], now_ns: u64) {
        self.output_bytes += bytes.len() as u64;
        self.last_ns = self.last_ns.max(now_ns.saturating_sub(1));
        self.notice_loss();
        let mut rest = bytes;
        while !rest.is_empty() {
            let window = &rest[..rest.len().min(TEXT_MAX + 1)];
            let (text, whole) = match window.iter().position(|&byte| byte == b'\n') {
                Some(end) => (&rest[..end], true),
                None => (&rest[..rest.len().min(TEXT_MAX)], false),
            };
            let taken = text.len() + usize::from(whole);
            self.record(stream, text, whole, taken);
            rest = &rest[taken..];
        }
    }

    /// Writes what was appended. What the disk has no room for is counted and dropped.
    pub fn flush(&mut self) {
        if self.buffer.is_empty() {
            return;
        }
        if self.size > 0 && self.size + self.buffer.len() as u64 > self.max_bytes {
            self.rotate();
        }
        match self.file.write_all(&self.buffer) {
            Ok(()) => {
                self.size += self.buffer.len() as u64;
                self.line_open_on_disk = self.line_open;
                self.lost_unreported -= self.pending.notice_bytes;
            }
            Err(_) => {
                // Part of a record may have been written: cut it off, so that every line of the log is whole.
                let _ = self.file.set_len(self.size);
                self.line_open = self.line_open_on_disk;
                self.lost_unreported += self.pending.output_bytes;
                self.lost_bytes += self.pending.output_bytes;
            }
        }
        self.pending = Pending::default();
        self.buffer.clear();
        self.buffer.shrink_to(BUFFER_MAX);
    }

    /// The last flush: says what was lost, if the disk has room again.
    pub fn finish(&mut self) {
        self.flush();
        self.notice_loss();
        self.flush();
    }

    fn record(&mut self, stream: Stream, text: &[u8], whole: bool, output_bytes: usize) {
        let length = text.len() + RECORD_OVERHEAD;
        let room = BUFFER_MAX.min(usize::try_from(self.max_bytes).unwrap_or(BUFFER_MAX));
        if self.buffer.len() + length > room {
            self.flush();
        }
        self.last_ns += 1;
        self.buffer.extend_from_slice(self.stamp.format(self.last_ns));
        self.buffer.extend_from_slice(stream.name());
        self.buffer.extend_from_slice(if whole { b"F " } else { b"P " });
        self.buffer.extend_from_slice(text);
        self.buffer.push(b'\n');
        self.line_open[stream as usize] = !whole;
        self.pending.output_bytes += output_bytes as u64;
    }

    /// A line that says how much was lost, after the end of the lines that were cut.
    fn notice_loss(&mut self) {
        let lost = self.lost_unreported;
        if lost == 0 || self.pending.notice_bytes > 0 {
            return;
        }
        for stream in Stream::ALL {
            if self.line_open[stream as usize] {
                self.record(stream, b"", true, 0);
            }
        }
        let text = format!("midge: {lost} bytes of output lost: no space");
        self.record(Stream::Stderr, text.as_bytes(), true, 0);
        self.pending.notice_bytes = lost;
    }

    /// Goes on in a new file; stays with the old one if there is none to be had.
    fn rotate(&mut self) {
        let next = with_suffix(&self.path, ".next");
        let Ok(file) = open_append(&next) else { return };
        if self.keep > 0 {
            for number in (1..self.keep).rev() {
                let _ = std::fs::rename(self.numbered(number), self.numbered(number + 1));
            }
            let _ = std::fs::rename(&self.path, self.numbered(1));
        }
        if std::fs::rename(&next, &self.path).is_ok() {
            self.file = file;
            self.size = 0;
        }
    }

    fn numbered(&self, number: u32) -> PathBuf {
        with_suffix(&self.path, &format!(".{number}"))
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(path)
}

/// Ends a half-written last line; size and time of the last record of a log that goes on.
fn mend_tail(file: &mut File) -> io::Result<(u64, u64)> {
    let size = file.metadata()?.len();
    let from = size.saturating_sub(TAIL_BYTES);
    file.seek(SeekFrom::Start(from))?;
    let mut tail = Vec::new();
    file.take(TAIL_BYTES).read_to_end(&mut tail)?;
    let end = tail.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
    let size = if from > 0 && end == 0 { size } else { from + end as u64 };
    file.set_len(size)?;
    let last_line = tail[..end].strip_suffix(b"\n").unwrap_or_default().rsplit(|&byte| byte == b'\n').next();
    let last_ns = last_line.and_then(stamp::parse).unwrap_or(0);
    tail.clear();
    Ok((size, last_ns))
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("midge-shim-log-{}-{name}", std::process::id()));
            std::fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn log(&self) -> PathBuf {
            self.0.join("log")
        }

        fn texts(&self, name: &str) -> Vec<String> {
            let text = std::fs::read_to_string(self.0.join(name)).unwrap();
            text.lines().map(|line| line[STAMP_BYTES + 1..].to_owned()).collect()
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn lines_pieces_and_streams() {
        let scratch = Scratch::new("lines");
        let mut log = MachineLog::open(&scratch.log(), 1 << 20, 1).unwrap();
        log.append(Stream::Stdout, b"one\ntwo", 5);
        log.append(Stream::Stderr, b"oops\n", 5);
        log.append(Stream::Stdout, b"\n\n", 5);
        log.flush();
        assert_eq!(
            scratch.texts("log"),
            ["stdout F one", "stdout P two", "stderr F oops", "stdout F ", "stdout F "]
        );
    }

    #[test]
    fn times_grow_even_if_the_clock_does_not() {
        let scratch = Scratch::new("times");
        let mut log = MachineLog::open(&scratch.log(), 1 << 20, 1).unwrap();
        log.append(Stream::Stdout, b"a\nb\n", 1000);
        log.append(Stream::Stdout, b"c\n", 10);
        log.flush();
        drop(log);
        let mut log = MachineLog::open(&scratch.log(), 1 << 20, 1).unwrap();
        log.append(Stream::Stdout, b"d\n", 10);
        log.flush();
        let text = std::fs::read(scratch.log()).unwrap();
        let times: Vec<u64> = text.split(|&b| b == b'\n').filter_map(stamp::parse).collect();
        assert_eq!(times, [1000, 1001, 1002, 1003]);
    }

    #[test]
    fn long_lines_are_cut() {
        let scratch = Scratch::new("long");
        let mut log = MachineLog::open(&scratch.log(), 1 << 20, 1).unwrap();
        let mut line = vec![b'x'; 2 * TEXT_MAX];
        line.push(b'\n');
        log.append(Stream::Stdout, &line, 1);
        log.flush();
        let lengths: Vec<usize> = scratch.texts("log").iter().map(String::len).collect();
        assert_eq!(lengths, [TEXT_MAX + 9, TEXT_MAX + 9]);
        assert!(scratch.texts("log")[1].starts_with("stdout F x"));
    }

    #[test]
    fn rotation_keeps_so_many_files_within_their_size() {
        let scratch = Scratch::new("rotate");
        let mut log = MachineLog::open(&scratch.log(), 65_536, 2).unwrap();
        for number in 0..10_000 {
            log.append(Stream::Stdout, format!("line {number}\n").as_bytes(), 1);
            log.flush();
        }
        let mut names: Vec<_> = std::fs::read_dir(&scratch.0)
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["log", "log.1", "log.2"]);
        let all: Vec<String> =
            ["log.2", "log.1", "log"].iter().flat_map(|name| scratch.texts(name)).collect();
        assert_eq!(all.last().unwrap(), "stdout F line 9999");
        let first: usize = all[0].rsplit(' ').next().unwrap().parse().unwrap();
        assert_eq!(all.len(), 10_000 - first);
        for name in names {
            assert!(std::fs::metadata(scratch.0.join(name)).unwrap().len() <= 65_536);
        }
    }

    #[test]
    fn a_half_record_at_the_end_is_cut_off() {
        let scratch = Scratch::new("mend");
        std::fs::write(scratch.log(), "1970-01-01T00:00:00.000000009Z stdout F a\n1970-01-01T00").unwrap();
        let mut log = MachineLog::open(&scratch.log(), 1 << 20, 1).unwrap();
        log.append(Stream::Stdout, b"b\n", 1);
        log.flush();
        assert_eq!(scratch.texts("log"), ["stdout F a", "stdout F b"]);
    }

    #[test]
    fn a_full_disk_loses_output_and_says_so() {
        let scratch = Scratch::new("full");
        let mut log = MachineLog::open(&scratch.log(), 1 << 20, 1).unwrap();
        log.append(Stream::Stdout, b"start of a line", 1);
        log.flush();
        let good =
            std::mem::replace(&mut log.file, OpenOptions::new().write(true).open("/dev/full").unwrap());
        log.append(Stream::Stdout, b" and its end\n", 1);
        log.flush();
        log.append(Stream::Stderr, b"xyz\n", 1);
        log.flush();
        assert_eq!(log.lost_bytes(), 17);
        log.file = good;
        log.append(Stream::Stdout, b"back\n", 1);
        log.flush();
        assert_eq!(
            scratch.texts("log"),
            [
                "stdout P start of a line",
                "stdout F ",
                "stderr F midge: 17 bytes of output lost: no space",
                "stdout F back",
            ]
        );
        assert_eq!(log.output_bytes(), 15 + 13 + 4 + 5);
    }
}
