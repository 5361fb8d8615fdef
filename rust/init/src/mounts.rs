//! Volumes.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};

use crate::config::Mount;
use crate::error::{Context, Result};
use crate::sys;
use crate::users::Account;

/// Mounts a volume and hands its top directory to the machine's user.
pub fn mount(volume: &Mount, owner: Option<&Account>) -> Result<()> {
    fs::create_dir_all(&volume.path).context(|| format!("cannot create mount point {}", volume.path))?;
    sys::mount(&volume.device, &volume.path, &volume.fstype, libc::MS_RELATIME, "")?;
    let Some(owner) = owner else { return Ok(()) };
    let metadata = fs::metadata(&volume.path).context(|| format!("cannot look at {}", volume.path))?;
    if (metadata.uid(), metadata.gid()) != (owner.uid, owner.gid) {
        chown(&volume.path, Some(owner.uid), Some(owner.gid))
            .context(|| format!("cannot change the owner of {}", volume.path))?;
    }
    Ok(())
}
