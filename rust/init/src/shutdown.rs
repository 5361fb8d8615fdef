//! The end of the machine: nothing left running, everything on disk, power off.

use std::time::{Duration, Instant};

use crate::boot::Options;
use crate::root::WritableLayer;
use crate::{log, sys};

/// How long killed processes may take to go; one stuck in the kernel must not hold the machine.
const KILL_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries to unmount a volume before it is detached.
const UNMOUNT_TRIES: u32 = 5;
/// Between tries.
const UNMOUNT_PAUSE: Duration = Duration::from_millis(50);

/// Ends a virtual machine; does not return.
pub fn power_off(options: &Options, volumes: &[String], layer: Option<&WritableLayer>) -> ! {
    kill_everything();
    for path in volumes.iter().rev() {
        unmount(path);
    }
    if let Some(layer) = layer {
        layer.close();
    }
    // Whatever the VMM wants to see; the other one if it took no notice.
    let (first, second) = if options.power_off {
        (libc::RB_POWER_OFF, libc::RB_AUTOBOOT)
    } else {
        (libc::RB_AUTOBOOT, libc::RB_POWER_OFF)
    };
    loop {
        for how in [first, second] {
            // SAFETY: no memory is involved.
            unsafe { libc::reboot(how) };
        }
        log::line("the machine cannot be powered off");
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// Kills every other process and waits, within limits, until they are gone.
fn kill_everything() {
    let _ = sys::kill(-1, libc::SIGKILL);
    let deadline = Instant::now() + KILL_TIMEOUT;
    let children = sys::signal_set(&[libc::SIGCHLD]);
    loop {
        while sys::reap(-1, libc::WNOHANG).is_some() {}
        let none_left = std::io::Error::last_os_error().raw_os_error() == Some(libc::ECHILD);
        let left = deadline.saturating_duration_since(Instant::now());
        if none_left || left.is_zero() {
            return;
        }
        sys::wait_for(&children, left);
    }
}

fn unmount(path: &str) {
    for _ in 0..UNMOUNT_TRIES {
        match sys::unmount(path, 0) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => std::thread::sleep(UNMOUNT_PAUSE),
            _ => return,
        }
    }
    log::line(&format!("{path} is busy: detached and synced"));
    let _ = sys::unmount(path, libc::MNT_DETACH);
    // SAFETY: no arguments.
    unsafe { libc::sync() };
}
