//! Runs the paths of a start once before it is known whose start it will be, so that the kernel's code is warm.
//!
//! With placeholder disks nothing stays. With the disks the machine will have (`keep`), they stay mounted: the image is
//! read-only and the writable layer is still blank, so nothing in them can be another machine's. A network that is
//! configured for practice is replaced by the machine's own.

use std::fs;
use std::io::Read;

use crate::command::NotStarted;
use crate::config::{self, Net, Root};
use crate::error::{Context, Result};
use crate::launch::Launch;
use crate::{json, net, root, sys, users};

/// Disks a waiting guest has before it is told who it is.
const LOWER: &str = "/dev/vda";
const UPPER: &str = "/dev/vdb";
/// Most bytes of a file that are read ahead.
const READ_BYTES_MAX: u64 = 16 << 20;

/// What a warm-up has left in place.
#[derive(Default)]
pub struct Warmed {
    pub root: Option<Root>,
    pub net: Option<Net>,
}

/// Mounts the disks, and where they are named reads files, configures a network and runs a program.
pub fn run(value: &serde_json::Value) -> Result<Warmed> {
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
    write_once().context(|| "cannot write to the writable layer".into())?;
    let network = json::member(value, "net").map(config::net).transpose()?;
    if let Some(network) = &network {
        net::configure(network, None)?;
    }
    let inside = (!keep).then_some(root::NEW_ROOT);
    let result =
        if argv.is_empty() { Ok(()) } else { run_program(&argv, inside).map_err(|failed| failed.error) };
    if keep && result.is_ok() {
        return Ok(Warmed { root: Some(disks), net: network });
    }
    root::unmount_layers()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context(|| "cannot drop caches".into())?;
    result.map(|()| Warmed { root: None, net: network })
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

/// Makes a file in the writable layer and removes it again.
fn write_once() -> std::io::Result<()> {
    let path = format!("{}/.midge-warm", root::NEW_ROOT);
    fs::write(&path, "warm\n")?;
    fs::remove_file(&path)
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
