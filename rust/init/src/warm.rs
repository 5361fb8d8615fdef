//! Runs the paths of a start once before it is known whose start it will be, so that the kernel's code is warm.
//!
//! With placeholder disks nothing stays. With the disks the machine will have (`keep`), they stay mounted: the image is
//! read-only and the writable layer is still blank, so nothing in them can be another machine's.

use std::fs;
use std::io::Read;

use crate::command::NotStarted;
use crate::config::Root;
use crate::error::{Context, Result};
use crate::launch::Launch;
use crate::{json, root, sys, users};

/// Disks a waiting guest has before it is told who it is.
const LOWER: &str = "/dev/vda";
const UPPER: &str = "/dev/vdb";
/// Most bytes of a file that are read ahead.
const READ_BYTES_MAX: u64 = 16 << 20;

/// Mounts the disks, reads files and runs a program if some are named. Gives the root that is still mounted.
pub fn run(value: &serde_json::Value) -> Result<Option<Root>> {
    let keep = json::boolean(value, "keep")?;
    let disks = Root {
        lower: json::optional_string(value, "lower")?.unwrap_or(LOWER).to_owned(),
        upper: Some(json::optional_string(value, "upper")?.unwrap_or(UPPER).to_owned()),
        persist: !keep,
    };
    let argv = json::strings(value, "argv")?;
    root::mount_layers(&disks)?;
    for path in json::strings(value, "read")? {
        read_ahead(&path);
    }
    let inside = (!keep).then_some(root::NEW_ROOT);
    let result =
        if argv.is_empty() { Ok(()) } else { run_program(&argv, inside).map_err(|failed| failed.error) };
    if keep && result.is_ok() {
        return Ok(Some(disks));
    }
    root::unmount_layers()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context(|| "cannot drop caches".into())?;
    result.map(|()| None)
}

/// Brings a file of the image into the page cache. One that is not there is not needed.
fn read_ahead(path: &str) {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return;
    }
    if let Ok(file) = fs::File::open(format!("{}{path}", root::NEW_ROOT)) {
        let _ = std::io::copy(&mut file.take(READ_BYTES_MAX), &mut std::io::sink());
    }
}

/// Runs a program to its end, in the image or, with `inside` empty, in the init's own root.
fn run_program(argv: &[String], inside: Option<&str>) -> std::result::Result<(), NotStarted> {
    let account = users::find(None)?;
    let launch = Launch {
        argv,
        env: Vec::new(),
        account: &account,
        cwd: "/",
        terminal: None,
        stdin: false,
        limits: &[],
        root: inside,
    };
    let launched = launch.start()?;
    // Its pipes are read by nobody: it is a program of the host's choosing that says little and ends by itself.
    sys::reap(launched.pid, 0);
    Ok(())
}
