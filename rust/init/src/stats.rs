//! Figures of the machine, from /proc.

use std::fs;

use serde_json::{Map, Value, json};

/// Names of the columns of a `cpu` line in /proc/stat, in hundredths of a second, see proc(5).
const CPU_MODES: [&str; 8] = ["user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal"];
/// Names of the columns of /proc/diskstats after the device.
const DISK_COLUMNS: [&str; 11] = [
    "reads",
    "reads_merged",
    "sectors_read",
    "time_reading_ms",
    "writes",
    "writes_merged",
    "sectors_written",
    "time_writing_ms",
    "io_in_progress",
    "time_io_ms",
    "time_io_weighted_ms",
];
/// Names of the columns of /proc/net/dev after the interface, and how they are numbered there.
const NET_COLUMNS: [(&str, usize); 8] = [
    ("recv_bytes", 0),
    ("recv_packets", 1),
    ("recv_errs", 2),
    ("recv_drop", 3),
    ("sent_bytes", 8),
    ("sent_packets", 9),
    ("sent_errs", 10),
    ("sent_drop", 11),
];
/// Names of /proc/meminfo, and ours; values are given in bytes.
const MEMORY: [(&str, &str); 11] = [
    ("MemTotal", "mem_total"),
    ("MemFree", "mem_free"),
    ("MemAvailable", "mem_available"),
    ("Buffers", "buffers"),
    ("Cached", "cached"),
    ("Active", "active"),
    ("Inactive", "inactive"),
    ("Dirty", "dirty"),
    ("Shmem", "shmem"),
    ("SwapTotal", "swap_total"),
    ("SwapFree", "swap_free"),
];
/// Disks and interfaces reported; a machine has a handful.
const DEVICES_MAX: usize = 64;

/// STATS_REPLY. What cannot be read is left out.
pub fn collect(mount_paths: &[String]) -> Value {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let mut file_systems = Map::new();
    for path in [&"/".to_owned()].into_iter().chain(mount_paths) {
        if let Some(usage) = file_system(path) {
            file_systems.insert(path.clone(), usage);
        }
    }
    json!({
        "memory": memory(&read("/proc/meminfo")),
        "load_average": load_average(&read("/proc/loadavg")),
        "uptime_s": read("/proc/uptime").split(' ').next().and_then(|word| word.parse::<f64>().ok()),
        "cpus": cpus(&read("/proc/stat")),
        "disks": disks(&read("/proc/diskstats")),
        "net": net(&read("/proc/net/dev")),
        "filefd": filefd(&read("/proc/sys/fs/file-nr")),
        "filesystems": file_systems,
    })
}

fn numbers(text: &str) -> Vec<u64> {
    text.split_ascii_whitespace().map(|word| word.parse().unwrap_or(0)).collect()
}

fn memory(text: &str) -> Map<String, Value> {
    let mut out = Map::new();
    for line in text.lines() {
        let Some((name, rest)) = line.split_once(':') else { continue };
        if let Some((_, ours)) = MEMORY.iter().find(|(theirs, _)| *theirs == name) {
            let kilobytes = numbers(rest).first().copied().unwrap_or(0);
            out.insert((*ours).into(), (kilobytes.saturating_mul(1_024)).into());
        }
    }
    out
}

fn load_average(text: &str) -> Vec<f64> {
    text.split_ascii_whitespace().take(3).filter_map(|word| word.parse().ok()).collect()
}

fn cpus(text: &str) -> Map<String, Value> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("cpu")?.split_once(' '));
    lines
        .filter(|(id, _)| !id.is_empty())
        .map(|(id, rest)| {
            let modes =
                CPU_MODES.iter().zip(numbers(rest)).map(|(name, count)| ((*name).into(), count.into()));
            (id.to_owned(), Value::Object(modes.collect()))
        })
        .collect()
}

fn disks(text: &str) -> Vec<Value> {
    let mut out = Vec::new();
    for line in text.lines().take(DEVICES_MAX) {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let Some(name) = words.get(2).filter(|name| name.starts_with("vd")) else { continue };
        let counts = numbers(&words[3..].join(" "));
        let mut disk: Map<_, _> =
            DISK_COLUMNS.iter().zip(counts).map(|(n, c)| ((*n).into(), c.into())).collect();
        disk.insert("name".into(), (*name).into());
        out.push(disk.into());
    }
    out
}

fn net(text: &str) -> Vec<Value> {
    let mut out = Vec::new();
    for line in text.lines().take(DEVICES_MAX) {
        let Some((name, rest)) = line.split_once(':') else { continue };
        let counts = numbers(rest);
        let column =
            |(name, index): &(&str, usize)| ((*name).into(), counts.get(*index).copied().unwrap_or(0).into());
        let mut device: Map<_, _> = NET_COLUMNS.iter().map(column).collect();
        device.insert("name".into(), name.trim().into());
        out.push(device.into());
    }
    out
}

fn filefd(text: &str) -> Value {
    let counts = numbers(text);
    json!({"allocated": counts.first(), "maximum": counts.get(2)})
}

fn file_system(path: &str) -> Option<Value> {
    let path = std::ffi::CString::new(path).ok()?;
    // SAFETY: a zeroed statvfs is valid, the path ends in zero.
    let usage = unsafe {
        let mut usage: libc::statvfs = std::mem::zeroed();
        (libc::statvfs(path.as_ptr(), &raw mut usage) == 0).then_some(usage)?
    };
    Some(json!({
        "size_bytes": usage.f_blocks.saturating_mul(usage.f_frsize),
        "free_bytes": usage.f_bavail.saturating_mul(usage.f_frsize),
        "inodes": usage.f_files,
        "inodes_free": usage.f_favail,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_of_proc_become_figures() {
        assert_eq!(memory("MemTotal:  1024 kB\nOther: 1 kB\n")["mem_total"], 1_048_576);
        assert_eq!(load_average("0.50 1.25 2.00 1/100 5\n"), [0.5, 1.25, 2.0]);
        let cpus = cpus("cpu  9 9 9\ncpu0 1 2 3 4 5 6 7 8 9 10\nintr 5\n");
        assert_eq!((cpus.len(), &cpus["0"]["steal"]), (1, &json!(8)));
        let disks = disks(" 254 0 vda 10 0 80 5 1 0 8 2 0 7 7 0 0\n 7 0 loop0 1 2 3\n");
        assert_eq!((disks.len(), &disks[0]["writes"]), (1, &json!(1)));
        let net = net("Inter-| x\n face |y\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n");
        assert_eq!((&net[0]["name"], &net[0]["sent_bytes"]), (&json!("eth0"), &json!(9)));
        assert_eq!(filefd("64\t0\t9000\n"), json!({"allocated": 64, "maximum": 9000}));
    }
}
