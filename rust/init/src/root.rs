//! The root file system of a virtual machine: read-only image below, writable layer above, and the way into it.

use std::fs::{self, File};
use std::os::fd::AsRawFd;

use crate::config::Root;
use crate::error::{Context, Result};
use crate::{swap, sys};

const LOWER: &str = "/lower";
const UPPER: &str = "/upper";
pub const NEW_ROOT: &str = "/newroot";
const PRACTICE_ROOT: &str = "/practice";
/// The mount that can be missed for a moment.
const PRACTICE_MOVE: &str = "/run";
/// Mounts that move along; what is mounted below them follows.
const MOVED: [&str; 4] = ["/dev", "/proc", "/sys", "/run"];
/// `_IOWR('X', 119, int)`: writes everything out and closes the journal, whatever is still open.
const FIFREEZE: libc::Ioctl = 0xc004_5877_u32 as libc::Ioctl;

/// The writable layer, as far as the end of the machine has to care for it.
pub struct WritableLayer {
    directory: File,
    persist: bool,
}

impl WritableLayer {
    /// Leaves the layer as if it had been unmounted, if anybody will read it again.
    pub fn close(&self) {
        if self.persist {
            // SAFETY: the argument is not used.
            unsafe { libc::ioctl(self.directory.as_raw_fd(), FIFREEZE, 0) };
        }
    }
}

/// Mounts both layers, unless they are mounted already, and makes them the root.
pub fn enter(root: &Root, swap_mb: u64, mounted: Option<&Root>) -> Result<WritableLayer> {
    if mounted != Some(root) {
        if mounted.is_some() {
            unmount_layers()?;
        }
        mount_layers(root)?;
    }
    let directory = File::open(UPPER).context(|| "cannot open the writable layer".into())?;
    let swap_file = format!("{UPPER}/swap");
    if swap_mb > 0 {
        swap::enable(&swap_file, swap_mb)?;
    } else if root.persist {
        // An earlier start may have left one.
        let _ = fs::remove_file(&swap_file);
    }
    switch()?;
    Ok(WritableLayer { directory, persist: root.persist })
}

/// Mounts the layers at `/newroot`, without moving there.
pub fn mount_layers(root: &Root) -> Result<()> {
    for directory in [LOWER, UPPER, NEW_ROOT] {
        make_directory(directory)?;
    }
    sys::mount(&root.lower, LOWER, "erofs", libc::MS_RDONLY | libc::MS_NOATIME, "")?;
    match &root.upper {
        // Nobody reads a layer that is not kept, so it needs no barriers.
        Some(upper) if root.persist => sys::mount(upper, UPPER, "ext4", libc::MS_NOATIME, "")?,
        Some(upper) => sys::mount(upper, UPPER, "ext4", libc::MS_NOATIME, "nobarrier")?,
        None => sys::mount("tmpfs", UPPER, "tmpfs", 0, "mode=0755")?,
    }
    mount_overlay(UPPER, root.persist, NEW_ROOT)
}

/// The image under what is written below a directory of the upper file system.
fn mount_overlay(writable: &str, persist: bool, target: &str) -> Result<()> {
    for directory in ["root", "work"] {
        make_directory(&format!("{writable}/{directory}"))?;
    }
    let volatile = if persist { "" } else { ",volatile" };
    let options = format!("lowerdir={LOWER},upperdir={writable}/root,workdir={writable}/work{volatile}");
    sys::mount("overlay", target, "overlay", 0, &options)
}

/// Does something in a second root of the same layers, of which nothing is left afterwards.
pub fn practise(act: impl FnOnce(&str)) -> Result<()> {
    let writable = format!("{UPPER}/practice");
    make_directory(&writable)?;
    make_directory(PRACTICE_ROOT)?;
    mount_overlay(&writable, false, PRACTICE_ROOT)?;
    act(PRACTICE_ROOT);
    sys::unmount(PRACTICE_ROOT, 0).context(|| format!("cannot unmount {PRACTICE_ROOT}"))?;
    fs::remove_dir_all(&writable).context(|| format!("cannot remove {writable}"))
}

/// The steps of [`switch`] that can be taken back: a mount moves there and returns, the root is changed to itself.
pub fn practise_switch() -> Result<()> {
    let target = format!("{NEW_ROOT}{PRACTICE_MOVE}");
    if fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_dir()) {
        sys::move_mount(PRACTICE_MOVE, &target)?;
        sys::move_mount(&target, PRACTICE_MOVE)?;
    }
    std::env::set_current_dir(NEW_ROOT).context(|| format!("cannot enter {NEW_ROOT}"))?;
    std::env::set_current_dir("/").context(|| "cannot enter the root".into())?;
    std::os::unix::fs::chroot("/").context(|| "cannot change root".into())
}

/// Undoes [`mount_layers`].
pub fn unmount_layers() -> Result<()> {
    for directory in [NEW_ROOT, UPPER, LOWER] {
        sys::unmount(directory, 0).context(|| format!("cannot unmount {directory}"))?;
    }
    Ok(())
}

fn make_directory(path: &str) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        result => result.context(|| format!("cannot create {path}")),
    }
}

fn switch() -> Result<()> {
    for path in MOVED {
        let target = format!("{NEW_ROOT}{path}");
        if !fs::symlink_metadata(&target).is_ok_and(|metadata| metadata.is_dir()) {
            let _ = fs::remove_file(&target);
            make_directory(&target)?;
        }
        sys::move_mount(path, &target)?;
    }
    // The files of the initramfs take memory for as long as they have names.
    for path in ["/init", "/modules.list"] {
        let _ = fs::remove_file(path);
    }
    std::env::set_current_dir(NEW_ROOT).context(|| format!("cannot enter {NEW_ROOT}"))?;
    sys::move_mount(".", "/")?;
    std::os::unix::fs::chroot(".").context(|| "cannot change root".into())?;
    std::env::set_current_dir("/").context(|| "cannot enter the new root".into())
}
