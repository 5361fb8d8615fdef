//! Runs the paths of a start once on placeholder disks, so that the kernel's code is warm, and leaves no trace.

use std::fs;

use crate::command::NotStarted;
use crate::config::Root;
use crate::error::{Context, Result};
use crate::launch::Launch;
use crate::{json, root, sys, users};

/// Disks a waiting guest has before it is told who it is.
const LOWER: &str = "/dev/vda";
const UPPER: &str = "/dev/vdb";

/// Mounts the placeholders, runs a program if one is named, unmounts, drops what the page cache holds of them.
pub fn run(value: &serde_json::Value) -> Result<()> {
    let disks = Root {
        lower: json::optional_string(value, "lower")?.unwrap_or(LOWER).to_owned(),
        upper: Some(json::optional_string(value, "upper")?.unwrap_or(UPPER).to_owned()),
        persist: true,
    };
    let argv = json::strings(value, "argv")?;
    root::mount_layers(&disks)?;
    let result = if argv.is_empty() { Ok(()) } else { run_program(&argv).map_err(|failed| failed.error) };
    root::unmount_layers()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context(|| "cannot drop caches".into())?;
    result
}

fn run_program(argv: &[String]) -> std::result::Result<(), NotStarted> {
    let account = users::find(None)?;
    let launch = Launch {
        argv,
        env: Vec::new(),
        account: &account,
        cwd: "/",
        terminal: None,
        stdin: false,
        limits: &[],
        root: Some(root::NEW_ROOT),
    };
    let launched = launch.start()?;
    // Its pipes are read by nobody: it is a program of the host's choosing that says little and ends by itself.
    sys::reap(launched.pid, 0);
    Ok(())
}
