//! First steps as PID 1: what does not depend on the machine, done before the template is taken.

use std::fs;
use std::os::fd::AsRawFd;

use crate::error::{Context, Result};
use crate::{clock, log, net, sys};

/// List of modules to load, one path a line, in order.
const MODULES_LIST: &str = "/modules.list";

/// What the kernel's command line says to the init.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// `midge.channel=vsock`: listen there instead of looking for the virtio-serial port.
    pub vsock: bool,
    /// `midge.off=poweroff`: how this VMM wants to be left; otherwise a reboot ends it.
    pub power_off: bool,
}

impl Options {
    pub fn parse(command_line: &str) -> Self {
        let mut options = Self::default();
        for word in command_line.split_ascii_whitespace() {
            match word {
                "midge.channel=vsock" => options.vsock = true,
                "midge.channel=virtio" => options.vsock = false,
                "midge.off=poweroff" => options.power_off = true,
                "midge.off=reboot" => options.power_off = false,
                _ => {}
            }
        }
        options
    }
}

/// Mounts the kernel's file systems, loads modules, brings up loopback.
pub fn prepare() -> Result<Options> {
    mount_kernel_file_systems()?;
    sys::take_over_descriptors();
    log::open();
    clock::open()?;
    let command_line = fs::read_to_string("/proc/cmdline").context(|| "cannot read /proc/cmdline".into())?;
    load_modules()?;
    for family in ["default", "eth0"] {
        // Addresses come from the host, and nothing on the link may add to them.
        for (name, value) in [("accept_ra", "0"), ("accept_dad", "0")] {
            let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{family}/{name}"), value);
        }
    }
    if let Err(error) = net::loopback_up() {
        log::line(&error.to_string());
    }
    Ok(Options::parse(&command_line))
}

fn mount_kernel_file_systems() -> Result<()> {
    const NOSUID: u64 = libc::MS_NOSUID;
    const STRICT: u64 = libc::MS_NOSUID | libc::MS_NOEXEC | libc::MS_NODEV;
    // A kernel with CONFIG_DEVTMPFS_MOUNT does so only for a root on disk.
    let mounts: [(&str, &str, u64, &str); 8] = [
        ("devtmpfs", "/dev", NOSUID, "mode=0755"),
        ("proc", "/proc", STRICT, ""),
        ("sysfs", "/sys", STRICT, ""),
        ("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755"),
        ("devpts", "/dev/pts", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0620,gid=5,ptmxmode=0666"),
        ("tmpfs", "/dev/shm", libc::MS_NOSUID | libc::MS_NODEV, "mode=1777"),
        ("mqueue", "/dev/mqueue", STRICT, ""),
        ("cgroup2", "/sys/fs/cgroup", STRICT, "nsdelegate"),
    ];
    for (index, (fstype, path, flags, data)) in mounts.into_iter().enumerate() {
        let _ = fs::create_dir_all(path);
        let result = sys::mount(fstype, path, fstype, flags, data);
        // The last four are for the programs that want them; a kernel may be built without.
        if index < 4 {
            result?;
        }
    }
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        let _ = std::os::unix::fs::symlink(target, link);
    }
    Ok(())
}

fn load_modules() -> Result<()> {
    let Ok(list) = fs::read_to_string(MODULES_LIST) else { return Ok(()) };
    for path in list.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let file = fs::File::open(path).context(|| format!("cannot open module {path}"))?;
        // SAFETY: an open descriptor and an empty parameter string.
        let result = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
        match sys::check(result as i32) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
            result => drop(result.context(|| format!("cannot load module {path}"))?),
        }
        // Frees its memory before the template is taken.
        let _ = fs::remove_file(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_word_on_the_command_line_counts() {
        let options = Options::parse("quiet midge.channel=vsock midge.off=poweroff");
        assert_eq!(options, Options { vsock: true, power_off: true });
        assert_eq!(
            Options::parse("midge.off=poweroff midge.off=reboot x=midge.channel=vsock"),
            Options::default()
        );
    }
}
