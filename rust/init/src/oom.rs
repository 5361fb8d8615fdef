//! Whether the kernel killed for want of memory: counters, read when a process ends by SIGKILL.

use std::fs;

/// Where a count of OOM kills may be, and the word before it. A machine of its own counts in vmstat; a container in its
/// group, by either version of cgroups.
const COUNTERS: [(&str, &str); 3] = [
    ("/sys/fs/cgroup/memory.events", "oom_kill"),
    ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ("/proc/vmstat", "oom_kill"),
];

/// The counter that belongs to this machine, and what it last said.
pub struct OomCounter {
    counters: &'static [(&'static str, &'static str)],
    seen: u64,
}

impl OomCounter {
    /// A machine and its group begin with none. In a container the kernel-wide count is everybody's and says nothing.
    pub fn new(container: bool) -> Self {
        Self { counters: if container { &COUNTERS[..2] } else { &COUNTERS[2..] }, seen: 0 }
    }

    /// Whether the count has grown since it was last asked.
    pub fn has_grown(&mut self) -> bool {
        let now = self.read();
        now > std::mem::replace(&mut self.seen, now)
    }

    fn read(&self) -> u64 {
        let read =
            |(path, word): &(&str, &str)| fs::read_to_string(path).ok().and_then(|text| count(&text, word));
        self.counters.iter().find_map(read).unwrap_or(0)
    }
}

fn count(text: &str, word: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(word)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_all_three_files() {
        assert_eq!(count("low 0\noom 3\noom_kill 2\noom_group_kill 0\n", "oom_kill"), Some(2));
        assert_eq!(count("oom_kill_disable 0\nunder_oom 0\noom_kill 5\n", "oom_kill"), Some(5));
        assert_eq!(count("nr_free_pages 1\n", "oom_kill"), None);
    }
}
