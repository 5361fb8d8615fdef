//! A device node that belongs to the program alone, in place of the host's.
//!
//! The host's node may belong to root or to a group that owns other things too. So the program gets no group: it enters
//! a mount namespace of its own, where a node of the same device, with the program's user as its owner, lies over the
//! host's. The node is on a small file system that is made here and ends with the namespace, so nothing has to be
//! removed afterwards.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use crate::sys::check;

/// Name of the node on its file system.
const NODE: &CStr = c"device";
/// Room for the node and the root directory, and nothing else. Source: tmpfs(5).
const TMPFS_OPTIONS: &CStr = c"mode=0700,size=4k,nr_inodes=4";

/// Puts a node of the program's own over `device`, for this process alone, which has to be root's.
///
/// Args: `scratch` is a directory that only root can change; the program sees it empty from now on.
///
/// # Errors
/// The step that failed and why. The process is of no more use then.
pub fn own(device: &Path, scratch: &Path, uid: u32, gid: u32) -> Result<(), (&'static str, io::Error)> {
    let failed = |step: &'static str| move |error: io::Error| (step, error);
    // SAFETY: no pointers.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) }).map_err(failed("enter a mount namespace"))?;
    // What the host unmounts later goes here too; what is mounted here stays here.
    mount(None, c"/", None, libc::MS_REC | libc::MS_SLAVE, None).map_err(failed("detach mounts"))?;
    let target = open_path(device).map_err(failed("open"))?;
    let found = target.metadata().map_err(failed("look at the device"))?;
    if !found.file_type().is_char_device() {
        return Err(failed("look at the device")(io::Error::other("it is no character device")));
    }
    let scratch = c_string(scratch).map_err(failed("scratch directory"))?;
    let flags = libc::MS_NOSUID | libc::MS_NOEXEC;
    mount(Some(c"tmpfs"), &scratch, Some(c"tmpfs"), flags, Some(TMPFS_OPTIONS))
        .map_err(failed("mount a file system for the node"))?;
    let node = make_node(&scratch, found.rdev(), uid, gid).map_err(failed("make the node"))?;
    let (source, target) = (descriptor_path(&node), descriptor_path(&target));
    mount(
        Some(&source.map_err(failed("bind the node"))?),
        &target.map_err(failed("bind the node"))?,
        None,
        libc::MS_BIND,
        None,
    )
    .map_err(failed("bind the node"))
}

/// Whether this process, with the rights it has now, can open the device.
pub fn try_open(device: &Path) -> io::Result<()> {
    File::options().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(device).map(drop)
}

/// The node, open as a path: whoever could change the directory, this is the one that was made.
fn make_node(folder: &CStr, device: libc::dev_t, uid: u32, gid: u32) -> io::Result<File> {
    let flags = libc::O_PATH | libc::O_DIRECTORY | libc::O_NOFOLLOW | libc::O_CLOEXEC;
    // SAFETY: the paths are C strings that live through the calls; each descriptor was just returned.
    unsafe {
        let folder = File::from_raw_fd(check(libc::open(folder.as_ptr(), flags))?);
        check(libc::mknodat(folder.as_raw_fd(), NODE.as_ptr(), libc::S_IFCHR | 0o600, device))?;
        let node = libc::O_PATH | libc::O_NOFOLLOW | libc::O_CLOEXEC;
        let node = File::from_raw_fd(check(libc::openat(folder.as_raw_fd(), NODE.as_ptr(), node))?);
        check(libc::fchownat(node.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH))?;
        Ok(node)
    }
}

fn open_path(path: &Path) -> io::Result<File> {
    File::options().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(path)
}

fn descriptor_path(file: &File) -> io::Result<CString> {
    let fd: RawFd = file.as_raw_fd();
    CString::new(format!("/proc/self/fd/{fd}")).map_err(io::Error::other)
}

fn c_string(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

fn mount(
    source: Option<&CStr>,
    target: &CStr,
    kind: Option<&CStr>,
    flags: libc::c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or a C string that lives through the call.
    check(unsafe {
        libc::mount(pointer(source), target.as_ptr(), pointer(kind), flags, pointer(options).cast())
    })
    .map(drop)
}
