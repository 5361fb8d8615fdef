//! The end of a machine, and of its shim.

use std::time::{Duration, Instant};

use midge_frame::kind;

use super::{READ_BYTES, READS_PER_TURN, Shim};
use crate::records;
use crate::setup::SOCKET;
use crate::sys::{self, Status};

/// Most bytes read from what an ended machine left in its stream.
const DRAIN_BYTES_MAX: usize = 16 << 20;
/// How long an ended machine's shim waits for its worker to take the last frames.
const LAST_WORDS: Duration = Duration::from_secs(2);

impl Shim {
    /// The machine has ended: everything it left goes to disk, then to the worker.
    pub(super) fn finish(mut self, status: Option<Status>, error: Option<String>) {
        self.guest.connector = None;
        let mut drained = 0;
        while self.guest.stream.is_some() && drained < DRAIN_BYTES_MAX {
            match self.read_guest(READS_PER_TURN) {
                0 => break,
                count => drained += count,
            }
        }
        self.log.finish();
        for _ in 0..DRAIN_BYTES_MAX / READ_BYTES {
            if self.program.is_none() || !sys::is_readable(self.program.as_ref()) {
                break;
            }
            self.read_program();
        }
        let error = error.map(|reason| match self.vmm_log.tail() {
            tail if tail.is_empty() => reason,
            tail => format!("{reason}: {tail}"),
        });
        let record = records::ended_record(status, error.as_deref(), sys::now_ns());
        if let Err(error) = self.ended_file.write(&record) {
            self.vmm_log.note(&format!("ended.json: {error}"));
        }
        // From here on a worker that wants to attach finds nobody, and reads the files.
        let _ = std::fs::remove_file(self.args.dir.join(SOCKET));
        self.accept();
        self.tell_worker(kind::SHIM_ENDED, &record);
        let deadline = Instant::now() + LAST_WORDS;
        while let Some(worker) = &mut self.worker {
            let failed = worker.outbox.flush(&mut worker.stream).is_err();
            let left = deadline.saturating_duration_since(Instant::now());
            let left_ms = i32::try_from(left.as_millis()).unwrap_or(0);
            if failed || worker.outbox.is_empty() || !sys::wait_writable(&worker.stream, left_ms) {
                break;
            }
        }
    }
}
