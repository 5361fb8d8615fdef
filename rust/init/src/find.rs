//! Finds the channel of a virtual machine: a virtio-serial port by its name, or a vsock port.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::mem;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use crate::channel::{Carrier, Channel};
use crate::error::{Context, Error, Result};
use crate::poller::Poller;
use crate::sys;

/// Name of the virtio-serial port.
const PORT_NAME: &str = "midge.control";
/// Where the kernel lists virtio-serial ports.
const PORTS_DIRECTORY: &str = "/sys/class/virtio-ports";
/// Port the guest listens on with vsock.
const VSOCK_PORT: u32 = 10_000;
/// Size of a kernel event; longer ones are cut, which does no harm here.
const UEVENT_BYTES: usize = 8_192;

/// The port by that name; waits for the kernel to announce it.
pub fn virtio_port(poller: &Poller) -> Result<Channel> {
    // Listening starts before looking, so that a port that comes in between is not missed.
    let events = uevents().context(|| "cannot listen for kernel events".into())?;
    let mut buffer = [0; UEVENT_BYTES];
    let path = loop {
        if let Some(path) = find_port() {
            break path;
        }
        match sys::read(&events, &mut buffer) {
            // ENOBUFS: events were lost, so it is time to look again all the same.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {}
            Err(error) => return Err(error).context(|| "cannot read kernel events".into()),
        }
    };
    let file = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(&path);
    let file = file.context(|| format!("cannot open {}", path.display()))?;
    Channel::new(file.into(), Carrier::Port, poller).context(|| "cannot watch the control port".into())
}

fn find_port() -> Option<PathBuf> {
    for entry in fs::read_dir(PORTS_DIRECTORY).ok()?.flatten() {
        let name = fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if name.trim_end() == PORT_NAME {
            let device = PathBuf::from("/dev").join(entry.file_name());
            return device.exists().then_some(device);
        }
    }
    None
}

fn uevents() -> io::Result<OwnedFd> {
    // SAFETY: a zeroed address is valid, then filled in; the socket is checked before use.
    unsafe {
        let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC;
        let socket = sys::owned(libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_KOBJECT_UEVENT))?;
        let mut address: libc::sockaddr_nl = mem::zeroed();
        address.nl_family = libc::AF_NETLINK as libc::sa_family_t;
        address.nl_groups = 1;
        let size = mem::size_of_val(&address) as libc::socklen_t;
        sys::check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size))?;
        Ok(socket)
    }
}

/// Listens on vsock.
pub fn vsock(poller: &Poller) -> Result<Channel> {
    let listener = vsock_listener().context(|| format!("cannot listen on vsock port {VSOCK_PORT}"))?;
    Channel::new(listener, Carrier::Listener, poller).context(|| "cannot watch the vsock listener".into())
}

fn vsock_listener() -> io::Result<OwnedFd> {
    // SAFETY: a zeroed address is valid, then filled in; the socket is checked before use.
    unsafe {
        let socket = sys::owned(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        let mut address: libc::sockaddr_vm = mem::zeroed();
        address.svm_family = libc::AF_VSOCK as libc::sa_family_t;
        address.svm_port = VSOCK_PORT;
        address.svm_cid = libc::VMADDR_CID_ANY;
        let size = mem::size_of_val(&address) as libc::socklen_t;
        sys::check(libc::bind(socket.as_raw_fd(), (&raw const address).cast(), size))?;
        sys::check(libc::listen(socket.as_raw_fd(), 1))?;
        Ok(socket)
    }
}

/// The connected socket a container is started with, named by its number.
pub fn inherited(number: &str, poller: &Poller) -> Result<Channel> {
    let fd: RawFd = number.parse().ok().filter(|fd| *fd > 2).ok_or_else(|| {
        Error::new(format!("MIDGE_CONTROL_FD={number:?} is not a descriptor above standard error"))
    })?;
    // SAFETY: plain flag calls; F_GETFD fails if the number is not open.
    sys::check(unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) })
        .context(|| format!("descriptor {fd} named by MIDGE_CONTROL_FD is not open"))?;
    // SAFETY: it is open and handed over to this process, which uses it nowhere else.
    let file = unsafe { File::from_raw_fd(fd) };
    Channel::new(file.into(), Carrier::Socket, poller).context(|| "cannot watch the control socket".into())
}
