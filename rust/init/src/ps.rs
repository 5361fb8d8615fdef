//! The process list, with the sockets each process listens on.

use std::collections::BTreeMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde_json::{Value, json};

/// Processes listed; the answer has to fit into one message.
const PROCESSES_MAX: usize = 2_048;
/// Bytes of a command line.
const COMMAND_BYTES_MAX: usize = 256;
/// Descriptors looked at per process when searching for sockets.
const DESCRIPTORS_MAX: usize = 4_096;
/// Sockets listed per process.
const SOCKETS_MAX: usize = 64;
/// State of a listening TCP socket in /proc/net/tcp.
const TCP_LISTEN: &str = "0A";
/// State of an unconnected UDP socket in /proc/net/udp.
const UDP_UNCONNECTED: &str = "07";

/// PS_REPLY: times in milliseconds (start since 1970, run time, processor time), memory in bytes.
pub fn collect() -> Value {
    let (units, sockets) = (Units::read(), listening_sockets());
    let names = fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.file_name());
    let mut pids: Vec<u32> = names.filter_map(|name| name.to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let processes: Vec<Value> =
        pids.into_iter().filter_map(|pid| process(pid, &units, &sockets)).take(PROCESSES_MAX).collect();
    json!({ "processes": processes })
}

/// What the kernel's numbers are counted in.
struct Units {
    ticks_per_second: u64,
    page_bytes: u64,
    uptime_ms: u64,
    boot_ms: u64,
}

impl Units {
    fn read() -> Self {
        // SAFETY: no memory is involved; both values exist on every Linux.
        let (ticks, page) = unsafe { (libc::sysconf(libc::_SC_CLK_TCK), libc::sysconf(libc::_SC_PAGESIZE)) };
        let uptime = fs::read_to_string("/proc/uptime").unwrap_or_default();
        let uptime_s: f64 = uptime.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0);
        let uptime_ms = (uptime_s * 1_000.0) as u64;
        let now_ms = u64::try_from(crate::sys::wall_clock_ns() / 1_000_000).unwrap_or(0);
        Self {
            ticks_per_second: u64::try_from(ticks).unwrap_or(0).max(1),
            page_bytes: u64::try_from(page).unwrap_or(0).max(1),
            uptime_ms,
            boot_ms: now_ms.saturating_sub(uptime_ms),
        }
    }

    fn milliseconds(&self, ticks: u64) -> u64 {
        ticks.saturating_mul(1_000) / self.ticks_per_second
    }
}

/// One process; nothing if it has gone meanwhile.
fn process(pid: u32, units: &Units, sockets: &BTreeMap<u64, Value>) -> Option<Value> {
    let stat = Stat::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
    let started_ms = units.milliseconds(stat.start_ticks);
    let directory = fs::read_link(format!("/proc/{pid}/cwd")).unwrap_or_default();
    Some(json!({
        "pid": pid,
        "stime": units.boot_ms + started_ms,
        "rtime": units.uptime_ms.saturating_sub(started_ms),
        "cpu": units.milliseconds(stat.cpu_ticks),
        "rss": stat.rss_pages.saturating_mul(units.page_bytes),
        "command": command(pid, &stat.name),
        "directory": directory.to_string_lossy(),
        "listen_sockets": sockets_of(pid, sockets),
    }))
}

struct Stat {
    name: String,
    cpu_ticks: u64,
    start_ticks: u64,
    rss_pages: u64,
}

impl Stat {
    /// Fields of proc_pid_stat(5), counted after the name, which may contain anything.
    fn parse(text: &str) -> Option<Self> {
        let (before, after) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            name: before.split_once('(')?.1.to_owned(),
            cpu_ticks: field(14)? + field(15)?,
            start_ticks: field(22)?,
            rss_pages: field(24)?,
        })
    }
}

fn command(pid: u32, name: &str) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let bytes = bytes.strip_suffix(b"\0").unwrap_or(&bytes);
    if bytes.is_empty() {
        return format!("[{name}]");
    }
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(COMMAND_BYTES_MAX)]);
    text.replace('\0', " ")
}

fn sockets_of(pid: u32, sockets: &BTreeMap<u64, Value>) -> Vec<Value> {
    if sockets.is_empty() {
        return Vec::new();
    }
    let mut found = BTreeMap::new();
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    for descriptor in descriptors.take(DESCRIPTORS_MAX) {
        let target = fs::read_link(descriptor.path()).unwrap_or_default();
        let inode =
            target.to_str().and_then(|name| name.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok());
        if let Some((inode, socket)) = inode.and_then(|inode| Some((inode, sockets.get(&inode)?))) {
            found.insert(inode, socket.clone());
        }
    }
    found.into_values().take(SOCKETS_MAX).collect()
}

/// Listening sockets by inode.
fn listening_sockets() -> BTreeMap<u64, Value> {
    let mut sockets = BTreeMap::new();
    for (proto, state) in
        [("tcp", TCP_LISTEN), ("tcp6", TCP_LISTEN), ("udp", UDP_UNCONNECTED), ("udp6", UDP_UNCONNECTED)]
    {
        let text = fs::read_to_string(format!("/proc/net/{proto}")).unwrap_or_default();
        for (inode, address) in text.lines().skip(1).filter_map(|line| socket_line(line, state)) {
            sockets.insert(inode, json!({"proto": &proto[..3], "address": address.to_string()}));
        }
    }
    sockets
}

fn socket_line(line: &str, wanted_state: &str) -> Option<(u64, SocketAddr)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (address, port) = fields.get(1)?.split_once(':')?;
    if *fields.get(3)? != wanted_state {
        return None;
    }
    let address = SocketAddr::new(hex_address(address)?, u16::from_str_radix(port, 16).ok()?);
    Some((fields.get(9)?.parse().ok()?, address))
}

/// The kernel prints addresses as words in the order of the host's bytes.
fn hex_address(text: &str) -> Option<IpAddr> {
    let mut bytes = Vec::new();
    for start in (0..text.len()).step_by(8) {
        let word = u32::from_str_radix(text.get(start..start + 8)?, 16).ok()?;
        bytes.extend(word.to_ne_bytes());
    }
    match bytes.len() {
        4 => Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into()),
        16 => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn socket_lines_give_inode_and_address() {
        let line =
            "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  0 0 12345 1 x";
        assert_eq!(socket_line(line, "0A"), Some((12_345, "127.0.0.1:8080".parse().unwrap())));
        assert_eq!(socket_line(line, "07"), None);
        assert_eq!(hex_address("00000000000000000000000001000000"), Some("::1".parse().unwrap()));
        assert_eq!(hex_address("zz"), None);
        assert_eq!(socket_line("", "0A"), None);
    }

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text =
            "7 (a) (b) S 1 7 7 0 -1 4194560 1 2 3 4 100 50 7 8 20 0 1 0 900 1000 33 18446744073709551615";
        let stat = Stat::parse(text).unwrap();
        assert_eq!(
            (stat.name.as_str(), stat.cpu_ticks, stat.start_ticks, stat.rss_pages),
            ("a) (b", 150, 900, 33)
        );
        assert!(Stat::parse("").is_none());
    }
}
