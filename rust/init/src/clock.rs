//! Time and randomness: what a fork must never share with its template.

use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::sync::OnceLock;

use crate::error::{Context, Error, Result};
use crate::sys;

/// A smaller difference than this is the way of the message, not a wrong clock.
const STEP_MIN_NS: i64 = 5_000_000;
/// Entropy taken at once; the host sends 64 bytes.
const ENTROPY_BYTES_MAX: usize = 512;
/// `_IOW('R', 0x03, int[2])`, see random(4).
const RNDADDENTROPY: libc::Ioctl = 0x4008_5203_u32 as libc::Ioctl;
/// `_IO('R', 0x07)`, see random(4).
const RNDRESEEDCRNG: libc::Ioctl = 0x5207;

static GENERATOR: OnceLock<File> = OnceLock::new();

/// Opens the random generator for good: each way through the file system would be cold code after a restore.
pub fn open() -> Result<()> {
    let device = OpenOptions::new().write(true).open("/dev/urandom");
    let _ = GENERATOR.set(device.context(|| "cannot open /dev/urandom".into())?);
    Ok(())
}

/// How long steps take that follow each other. One number and no `Instant`: a start counts every block of code.
#[derive(Default)]
pub struct Laps {
    began_ns: i64,
}

impl Laps {
    pub fn begin(&mut self) {
        self.began_ns = sys::monotonic_ns();
    }

    /// Microseconds since the step began. The next one begins.
    pub fn end_us(&mut self) -> i64 {
        self.end_at(sys::monotonic_ns())
    }

    fn end_at(&mut self, now_ns: i64) -> i64 {
        (now_ns - std::mem::replace(&mut self.began_ns, now_ns)) / 1000
    }
}

/// Sets the clock if it is off.
pub fn set(wall_clock_ns: i64) -> Result<()> {
    if (wall_clock_ns - sys::wall_clock_ns()).abs() < STEP_MIN_NS {
        return Ok(());
    }
    let time =
        libc::timespec { tv_sec: wall_clock_ns / 1_000_000_000, tv_nsec: wall_clock_ns % 1_000_000_000 };
    // SAFETY: an initialised timespec.
    let result = unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) };
    sys::check(result).map(drop).context(|| "cannot set the clock".into())
}

/// Mixes bytes into the kernel's generator, credits them and has it reseed at once.
pub fn reseed(entropy: &[u8]) -> Result<()> {
    #[repr(C)]
    struct PoolInfo {
        entropy_bits: libc::c_int,
        size: libc::c_int,
        bytes: [u8; ENTROPY_BYTES_MAX],
    }
    let size = entropy.len().min(ENTROPY_BYTES_MAX);
    if size == 0 {
        return Ok(());
    }
    let mut info =
        PoolInfo { entropy_bits: size as i32 * 8, size: size as i32, bytes: [0; ENTROPY_BYTES_MAX] };
    info.bytes[..size].copy_from_slice(&entropy[..size]);
    let device = GENERATOR.get().ok_or_else(|| Error::new("/dev/urandom is not open"))?;
    // SAFETY: the structure has the layout of rand_pool_info with room for `size` bytes.
    let added = unsafe { libc::ioctl(device.as_raw_fd(), RNDADDENTROPY, &raw const info) };
    sys::check(added).context(|| "cannot add entropy".into())?;
    // SAFETY: no argument.
    let reseeded = unsafe { libc::ioctl(device.as_raw_fd(), RNDRESEEDCRNG) };
    sys::check(reseeded).map(drop).context(|| "cannot reseed the random generator".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lap_begins_where_the_one_before_ended() {
        let mut laps = Laps { began_ns: 1_000_000 };
        assert_eq!(laps.end_at(3_500_999), 2500);
        assert_eq!(laps.end_at(3_501_998), 0);
        assert_eq!(laps.end_at(3_503_000), 1);
        laps.begin();
        assert!(laps.began_ns > 0);
        assert!(laps.end_us() >= 0);
    }
}
