//! Lines about the init itself: the kernel's log in a virtual machine, standard error in a container.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

static KERNEL_LOG: OnceLock<File> = OnceLock::new();

/// Sends further lines to the kernel's log.
pub fn open() {
    if let Ok(file) = OpenOptions::new().write(true).open("/dev/kmsg") {
        let _ = KERNEL_LOG.set(file);
    }
}

/// Writes one line; there is nobody to tell if that fails.
pub fn line(text: &str) {
    let line = format!("midge-init: {text}\n");
    let _ = match KERNEL_LOG.get() {
        Some(mut file) => file.write_all(line.as_bytes()),
        None => std::io::stderr().write_all(line.as_bytes()),
    };
}
