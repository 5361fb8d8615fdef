//! Host name, machine id, hosts and resolver.

use std::fmt::Write as _;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::config::{Host, Identity, Net, Resolv};
use crate::error::{Context, Result};
use crate::{clock, net, sys};

const HOSTS_BEGIN: &str = "# midge begin";
const HOSTS_END: &str = "# midge end";
const HOSTS_DEFAULT: &str = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n";

/// Clock and randomness, before anything else happens. The kernel of a container belongs to its host.
pub fn apply_time(identity: &Identity) -> Result<()> {
    if let Some(wall_clock_ns) = identity.wall_clock_ns {
        clock::set(wall_clock_ns)?;
    }
    clock::reseed(&identity.entropy)
}

/// Everything that is written into the root file system, and the network, which may have been `before`.
pub fn apply(identity: &Identity, before: Option<&Net>, container: bool) -> Result<()> {
    if let Some(hostname) = &identity.hostname {
        match set_hostname(hostname) {
            // A container's runtime has set it, and rarely leaves the right to.
            Err(error) if container && error.raw_os_error() == Some(libc::EPERM) => {}
            result => result.context(|| format!("cannot set hostname {hostname:?}"))?,
        }
    }
    write_files("", identity)?;
    if let Some(net) = &identity.net {
        net::configure(net, before)?;
    }
    Ok(())
}

/// The files below a root, which is empty for the own one.
pub fn write_files(root: &str, identity: &Identity) -> Result<()> {
    let [hostname, machine_id, hosts, resolv] =
        ["hostname", "machine-id", "hosts", "resolv.conf"].map(|name| format!("{root}/etc/{name}"));
    if let Some(name) = &identity.hostname {
        write_etc(&hostname, &format!("{name}\n"))?;
    }
    // An image without the file may mean it: its absence says "first boot" to some.
    if let Some(id) = identity.machine_id.as_ref().filter(|_| exists(&machine_id)) {
        write_etc(&machine_id, &format!("{id}\n"))?;
    }
    if let Some(wanted) = identity.hosts.as_ref().filter(|wanted| !wanted.is_empty() || !exists(&hosts)) {
        let before = fs::read(&hosts).unwrap_or_else(|_| HOSTS_DEFAULT.into());
        write_etc(&hosts, &hosts_file(&String::from_utf8_lossy(&before), wanted))?;
    }
    if let Some(wanted) = identity.resolv.as_ref().filter(|wanted| **wanted != Resolv::default()) {
        write_etc(&resolv, &resolv_file(wanted))?;
    }
    Ok(())
}

fn exists(path: &str) -> bool {
    Path::new(path).symlink_metadata().is_ok()
}

fn set_hostname(hostname: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong together.
    sys::check(unsafe { libc::sethostname(hostname.as_ptr().cast(), hostname.len()) }).map(drop)
}

/// Writes a file of the machine's own. A link there (to a resolver that does not run, say) is replaced, not followed.
fn write_etc(path: &str, content: &str) -> Result<()> {
    let open = || {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o644).custom_flags(libc::O_NOFOLLOW).open(path)
    };
    let file = match open() {
        Err(error) if error.raw_os_error() == Some(libc::ELOOP) => {
            fs::remove_file(path).and_then(|()| open())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            Path::new(path).parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| open())
        }
        result => result,
    };
    file.and_then(|mut file| file.write_all(content.as_bytes())).context(|| format!("cannot write {path}"))
}

/// The image's lines, and ours in a block of their own that is replaced as a whole.
fn hosts_file(before: &str, hosts: &[Host]) -> String {
    let mut text = String::new();
    let mut inside = false;
    for line in before.lines() {
        inside |= line == HOSTS_BEGIN;
        if !inside {
            text.push_str(line);
            text.push('\n');
        }
        inside &= line != HOSTS_END;
    }
    let _ = writeln!(text, "{HOSTS_BEGIN}");
    for host in hosts {
        let _ = writeln!(text, "{}\t{}", host.ip, host.names.join(" "));
    }
    let _ = writeln!(text, "{HOSTS_END}");
    text
}

fn resolv_file(resolv: &Resolv) -> String {
    let mut text = String::new();
    for nameserver in &resolv.nameservers {
        let _ = writeln!(text, "nameserver {nameserver}");
    }
    for (word, values) in [("search", &resolv.searches), ("options", &resolv.options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{word} {}", values.join(" "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_block_is_replaced_and_the_rest_kept() {
        let host = |ip: &str| vec![Host { ip: ip.parse().unwrap(), names: vec!["a".into(), "b".into()] }];
        let first = hosts_file("127.0.0.1 localhost", &host("10.0.0.1"));
        assert_eq!(first, "127.0.0.1 localhost\n# midge begin\n10.0.0.1\ta b\n# midge end\n");
        let second = hosts_file(&format!("{first}10.9.9.9 own\n"), &host("fdaa::2"));
        let expected = "127.0.0.1 localhost\n10.9.9.9 own\n# midge begin\nfdaa::2\ta b\n# midge end\n";
        assert_eq!(second, expected);
    }

    #[test]
    fn the_resolver_file_has_a_line_per_server() {
        let resolv = Resolv {
            nameservers: vec!["1.1.1.1".into(), "fdaa::3".into()],
            searches: vec!["internal".into()],
            options: vec!["ndots:1".into(), "timeout:2".into()],
        };
        let expected = "nameserver 1.1.1.1\nnameserver fdaa::3\nsearch internal\noptions ndots:1 timeout:2\n";
        assert_eq!(resolv_file(&resolv), expected);
    }
}
