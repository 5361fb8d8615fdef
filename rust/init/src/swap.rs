//! A swap file on the writable layer. It cannot lie on the overlay: the kernel wants the blocks of a real file.

use std::fs::OpenOptions;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use crate::error::{Context, Result};
use crate::sys;

/// Size of a page on every architecture this runs on.
const PAGE_BYTES: usize = 4_096;
/// Offset of version and last page in the header, see `union swap_header` of the kernel.
const INFO_OFFSET: usize = 1_024;
const SIGNATURE: &[u8; 10] = b"SWAPSPACE2";

/// Creates the file, formats it and turns it on.
pub fn enable(path: &str, size_mb: u64) -> Result<()> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).mode(0o600).open(path);
    let file = file.context(|| format!("cannot create swap file {path}"))?;
    let bytes = size_mb * 1_048_576;
    // SAFETY: an open descriptor and two sizes.
    sys::check(unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, bytes as libc::off_t) })
        .context(|| format!("no room for {size_mb} MB of swap on the writable layer"))?;
    file.write_all_at(&header(bytes), 0).context(|| "cannot format swap".into())?;
    let name = sys::cstring(path)?;
    // SAFETY: a string that ends in zero.
    sys::check(unsafe { libc::swapon(name.as_ptr(), 0) }).map(drop).context(|| "cannot turn on swap".into())
}

fn header(bytes: u64) -> [u8; PAGE_BYTES] {
    let mut page = [0; PAGE_BYTES];
    let last_page = u32::try_from(bytes / PAGE_BYTES as u64 - 1).unwrap_or(u32::MAX);
    page[INFO_OFFSET..INFO_OFFSET + 4].copy_from_slice(&1_u32.to_ne_bytes());
    page[INFO_OFFSET + 4..INFO_OFFSET + 8].copy_from_slice(&last_page.to_ne_bytes());
    page[PAGE_BYTES - SIGNATURE.len()..].copy_from_slice(SIGNATURE);
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_what_mkswap_writes() {
        let page = header(64 * 1_048_576);
        assert_eq!(&page[4_086..], b"SWAPSPACE2");
        assert_eq!(page[1_024..1_032], [1, 0, 0, 0, 0xff, 0x3f, 0, 0]);
        assert!(page[..1_024].iter().all(|byte| *byte == 0));
    }
}
