//! Rehearses the start of the image's own programs, so that their code and the kernel's under it are warm.
//!
//! Each runs in the image up to its first act: the first thing that could be seen outside its process ends it. Three
//! walls keep it in: the filter (`filter`), a view of the image that is read-only and has no devices, /proc or /sys, and a
//! user without capabilities. What it computed ends with it. Whatever goes wrong, a start is only slower.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::command::NotStarted;
use crate::config::{bounded, variable};
use crate::error::{Context, Result};
use crate::launch::Launch;
use crate::{filter, json, root, sys, users};

/// Programs of one rehearsal; each may take REHEARSAL_TIMEOUT.
const PROGRAMS_MAX: usize = 4;
/// How long one may take: an interpreter's start under software emulation, and a loop must end.
const REHEARSAL_TIMEOUT: Duration = Duration::from_secs(4);
/// Where the image is seen from.
const STAGE: &str = "/stage";
/// The first to go if memory is short, see proc_pid_oom_score_adj(5).
const OOM_FIRST: &str = "1000";
/// Settings that make the kernel write about killed processes to its log, which is the machine's; off for a rehearsal.
const NOISE: [(&str, &str); 2] =
    [("/proc/sys/kernel/seccomp/actions_logged", ""), ("/proc/sys/debug/exception-trace", "0")];

/// A program as the image's configuration has it; nothing of a machine's.
#[derive(Debug, PartialEq, Eq)]
pub struct Program {
    argv: Vec<String>,
    env: Vec<(String, String)>,
    user: Option<String>,
    cwd: String,
}

impl Program {
    fn from_json(value: &Value) -> Result<Self> {
        Ok(Self {
            argv: bounded("argv", json::strings(value, "argv")?)?,
            env: bounded("env", json::list(value, "env", variable)?)?,
            user: json::optional_string(value, "user")?.filter(|user| !user.is_empty()).map(str::to_owned),
            cwd: json::optional_string(value, "cwd")?.filter(|cwd| !cwd.is_empty()).unwrap_or("/").to_owned(),
        })
    }
}

/// The programs a WARM names.
pub fn programs(value: &Value) -> Result<Vec<Program>> {
    let mut programs = json::list(value, "rehearse", Program::from_json)?;
    programs.truncate(PROGRAMS_MAX);
    Ok(programs)
}

/// Rehearses them, one after the other; the image is mounted.
pub fn run(programs: &[Program]) -> Result<()> {
    if programs.is_empty() {
        return Ok(());
    }
    build_stage()?;
    let noise: Vec<_> = NOISE.iter().map(|(path, quiet)| (path, replace(path, quiet))).collect();
    for program in programs {
        // A program that does not even start will say so when it is asked for.
        let _ = rehearse(program);
    }
    for (path, before) in noise {
        before.into_iter().for_each(|before| drop(fs::write(path, before)));
    }
    sys::unmount(STAGE, libc::MNT_DETACH).context(|| format!("cannot unmount {STAGE}"))
}

/// The image as it is mounted, so that what is looked up stays known, but with nothing to write to and no devices.
fn build_stage() -> Result<()> {
    const SAFE: u64 = libc::MS_RDONLY | libc::MS_NODEV | libc::MS_NOSUID | libc::MS_NOATIME;
    let _ = fs::create_dir(STAGE);
    sys::mount(root::NEW_ROOT, STAGE, "", libc::MS_BIND, "")?;
    let result = sys::mount("", STAGE, "", libc::MS_REMOUNT | libc::MS_BIND | SAFE, "");
    if result.is_err() {
        let _ = sys::unmount(STAGE, libc::MNT_DETACH);
    }
    result
}

fn replace(path: &str, value: &str) -> Option<String> {
    let before = fs::read_to_string(path).ok()?;
    fs::write(path, value).ok().map(|()| before)
}

fn rehearse(program: &Program) -> std::result::Result<(), NotStarted> {
    let account = users::find_in(STAGE, program.user.as_deref())?;
    let launch = Launch {
        argv: &program.argv,
        env: program.env.clone(),
        account: &account,
        cwd: &program.cwd,
        terminal: None,
        stdin: false,
        limits: &[("core".to_owned(), 0)],
        root: Some(STAGE),
        filter: filter::rehearsal(),
    };
    let launched = launch.start()?;
    let _ = fs::write(format!("/proc/{}/oom_score_adj", launched.pid), OOM_FIRST);
    // It can neither write nor wait for input, so nobody reads its pipes.
    if sys::reap_by(launched.pid, Instant::now() + REHEARSAL_TIMEOUT).is_none() {
        let _ = sys::kill(launched.pid, libc::SIGKILL);
        sys::reap(launched.pid, 0);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn programs_are_read_from_the_message() {
        let value = json!({"rehearse": [
            {"argv": ["/app"], "env": [["A", "b"]], "user": "app", "cwd": "/srv"},
            {"argv": ["sh", "-c", ":"], "user": null},
        ]});
        let programs = programs(&value).unwrap();
        assert_eq!(programs.len(), 2);
        assert_eq!((programs[0].user.as_deref(), programs[0].cwd.as_str()), (Some("app"), "/srv"));
        assert_eq!((programs[1].user.as_deref(), programs[1].cwd.as_str()), (None, "/"));
        assert!(super::programs(&json!({"rehearse": [{"argv": 1}]})).is_err());
        assert!(super::programs(&json!({})).unwrap().is_empty());
        assert_eq!(super::programs(&json!({"rehearse": vec![json!({}); 9]})).unwrap().len(), PROGRAMS_MAX);
    }
}
