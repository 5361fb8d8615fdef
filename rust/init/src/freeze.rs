//! Stops the user's processes for a suspend, so that none runs on with the old clock after the resume.
//!
//! By the freezer of cgroups, since a SIGSTOP would be seen by whoever waits for a process. Processes of the root group,
//! where a machine's are unless they have moved themselves, are taken into a group of their own for the time; a group they
//! have made is frozen as it is. Some time after they go on they are back where they were.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};
use crate::log;

/// How long processes stand still at most, by the machine's own time, should nobody say that they may go on.
const FREEZE_MAX: Duration = Duration::from_secs(10);
/// How long is waited until all stand still. One that does not by then sleeps in the kernel, or will stop on its way out.
const SETTLE_TIMEOUT: Duration = Duration::from_millis(200);
/// How long after a resume processes go back to the root group: not while the machine has to catch up.
const RETURN_AFTER: Duration = Duration::from_secs(1);
/// Passes over the root group; a process may fork while its siblings are taken away.
const PASSES_MAX: usize = 16;
/// Group of the processes that have none of their own.
const GROUP: &str = "midge.suspended";
const FILE_SYSTEM: &str = "cgroup2";

#[derive(Default)]
pub struct Freezer {
    /// The root group, by a way that no mount of the machine's can hide.
    root: Option<File>,
    /// When processes that stand still go on at the latest.
    thaw_at: Option<Instant>,
    /// Whether somebody has said that they may.
    told: bool,
    /// What "0" is to be written to for that. Closed later: closing is work, and the machine has to catch up first.
    stopped: Vec<File>,
    /// When processes go back to the root group.
    return_at: Option<Instant>,
}

impl Freezer {
    /// Opens the group file system that is mounted at a path; without one nothing is ever frozen.
    pub fn open(path: &str) -> Self {
        Self { root: File::open(path).ok(), ..Self::default() }
    }

    /// When [`Freezer::tick`] has something to do.
    pub fn deadline(&self) -> Option<Instant> {
        self.thaw_at.or(self.return_at)
    }

    /// Stops every process but the init. If it cannot, they run on.
    pub fn freeze(&mut self) {
        if self.root.is_none() || self.thaw_at.is_some() {
            return;
        }
        self.stopped.clear();
        if let Err(error) = self.stop_all() {
            log::line(&format!("processes run on through the suspend: {error}"));
        }
        self.told = false;
        self.return_at = None;
        self.thaw_at = Some(Instant::now() + FREEZE_MAX);
    }

    /// Lets them go on at the next [`Freezer::tick`]: first the host gets its answer.
    pub fn thaw(&mut self) {
        if self.thaw_at.is_some() {
            self.told = true;
            self.thaw_at = Some(Instant::now());
        }
    }

    /// All of it once, so that its code is warm.
    pub fn practise(&mut self) {
        self.freeze();
        self.thaw();
        for _ in ["thaw", "take back"] {
            let due = self.deadline();
            due.into_iter().for_each(|due| self.tick(due));
        }
    }

    /// What is to be done by now.
    pub fn tick(&mut self, now: Instant) {
        if self.thaw_at.is_some_and(|at| at <= now) {
            if !self.told {
                log::line("nobody resumes the machine: its processes go on");
            }
            for file in &mut self.stopped {
                let _ = file.write_all(b"0");
            }
            self.thaw_at = None;
            self.return_at = Some(now + RETURN_AFTER);
        }
        if self.return_at.is_some_and(|at| at <= now) {
            self.return_at = None;
            self.stopped.clear();
            if let Err(error) = self.take_back() {
                log::line(&error.to_string());
            }
        }
    }

    fn stop_all(&mut self) -> Result<()> {
        let context = || format!("cannot use {FILE_SYSTEM}");
        match fs::DirBuilder::new().mode(0o755).create(self.path(GROUP)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            result => result.context(context)?,
        }
        let entries = fs::read_dir(self.path("")).context(context)?;
        for entry in entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
            let path = entry.path().join("cgroup.freeze");
            // Gone meanwhile, with all that was in it.
            let Ok(mut file) = File::options().read(true).write(true).open(path) else { continue };
            // A group that the machine itself has frozen stays so.
            if !read_word(&mut file).is_ok_and(|word| word.starts_with('1')) {
                file.write_all(b"1").context(context)?;
                self.stopped.push(file);
            }
        }
        self.move_all("", GROUP)?;
        self.settle();
        Ok(())
    }

    /// Moves all processes but the init and the kernel's own from one group to another.
    fn move_all(&self, from: &str, to: &str) -> Result<()> {
        let open = |group: &str, write: bool| {
            let path = self.path(group).join("cgroup.procs");
            File::options()
                .read(!write)
                .write(write)
                .open(path)
                .context(|| format!("cannot open group {group:?}"))
        };
        let (mut source, mut target) = (open(from, false)?, open(to, true)?);
        for _ in 0..PASSES_MAX {
            let listed = read_word(&mut source).context(|| format!("cannot read group {from:?}"))?;
            let mut moved = false;
            for line in listed.lines().filter(|line| line.parse().is_ok_and(is_of_the_user)) {
                // One that has ended meanwhile, or is ending, need not move.
                moved |= target.write_all(line.as_bytes()).is_ok();
            }
            if !moved {
                break;
            }
        }
        Ok(())
    }

    /// Waits until the group says that all in it stand still.
    fn settle(&self) {
        let Ok(mut events) = File::open(self.path(GROUP).join("cgroup.events")) else { return };
        let deadline = Instant::now() + SETTLE_TIMEOUT;
        loop {
            let settled = read_word(&mut events)
                .is_ok_and(|text| text.contains("frozen 1") || text.contains("populated 0"));
            let left = deadline.saturating_duration_since(Instant::now());
            if settled || left.is_zero() {
                return;
            }
            let mut poll = libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLPRI, revents: 0 };
            // SAFETY: one initialised pollfd.
            unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as i32) };
        }
    }

    fn take_back(&self) -> Result<()> {
        self.move_all(GROUP, "")?;
        fs::remove_dir(self.path(GROUP)).context(|| format!("cannot remove group {GROUP}"))
    }

    /// A path below the root group, by its descriptor.
    fn path(&self, group: &str) -> PathBuf {
        let root = self.root.as_ref().map_or(-1, AsRawFd::as_raw_fd);
        PathBuf::from(format!("/proc/self/fd/{root}")).join(group)
    }
}

/// Threads of the kernel have no session, and neither has the init; whatever a user runs is in one that the init opened.
fn is_of_the_user(pid: libc::pid_t) -> bool {
    // SAFETY: no memory is involved.
    pid > 1 && unsafe { libc::getsid(pid) } > 0
}

/// A small file of the kernel's, from its beginning.
fn read_word(file: &mut File) -> io::Result<String> {
    file.rewind()?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    Ok(text)
}
