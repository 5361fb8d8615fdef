//! From what was asked for to what the kernel gets: environment, candidates for argv[0], and why it failed.

use std::ffi::CString;
use std::io;
use std::path::Path;

use crate::error::{Error, Result, describe};
use crate::spawn::{Failure, Stage};
use crate::sys;
use crate::users::Account;

/// Where programs are looked for if the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
const DEFAULT_TERM: &str = "xterm-256color";

/// Exit code: the init could not do its part.
pub const EXIT_INIT_FAILED: i32 = 125;
/// Exit code: the program is there, but cannot be executed.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code: there is no such program.
pub const EXIT_NOT_FOUND: i32 = 127;

/// Why a program does not run, with the exit code that says so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NotStarted {
    pub exit_code: i32,
    pub error: Error,
}

impl From<Error> for NotStarted {
    fn from(error: Error) -> Self {
        Self { exit_code: EXIT_INIT_FAILED, error }
    }
}

/// Adds what every program may rely on, where it is absent.
pub fn complete_environment(env: &mut Vec<(String, String)>, account: &Account, tty: bool) {
    let defaults = [("PATH", DEFAULT_PATH), ("HOME", account.home.as_str()), ("TERM", DEFAULT_TERM)];
    for (name, value) in &defaults[..if tty { 3 } else { 2 }] {
        if !env.iter().any(|(known, _)| known == name) {
            env.push(((*name).to_owned(), (*value).to_owned()));
        }
    }
}

/// The value of a variable; the last one counts, as for the programs that look.
pub fn variable<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
}

/// The paths to try for a program, in order: itself if it has a slash, otherwise in every directory of PATH.
pub fn candidates(program: &str, env: &[(String, String)]) -> Result<Vec<CString>> {
    if program.contains('/') {
        return Ok(vec![sys::cstring(program)?]);
    }
    let path = variable(env, "PATH").unwrap_or(DEFAULT_PATH);
    path.split(':')
        .map(|directory| if directory.is_empty() { "." } else { directory })
        .map(|directory| sys::cstring(&format!("{directory}/{program}")))
        .collect()
}

/// `NAME=value` strings.
pub fn environment(env: &[(String, String)]) -> Result<Vec<CString>> {
    env.iter().map(|(name, value)| sys::cstring(&format!("{name}={value}"))).collect()
}

/// Says in words why the child did not get to run, and with which exit code.
pub fn explain(failure: Failure, program: &str, cwd: &str, candidates: &[CString]) -> NotStarted {
    let cause = describe(&io::Error::from_raw_os_error(failure.errno));
    let failed = |exit_code, message: String| NotStarted { exit_code, error: Error::new(message) };
    match (failure.stage, failure.errno) {
        (Stage::Exec, libc::ENOENT) => {
            let there = candidates.iter().find(|path| exists(path, cwd));
            match there {
                None => failed(EXIT_NOT_FOUND, format!("command not found: {program:?}")),
                Some(path) => failed(
                    EXIT_NOT_EXECUTABLE,
                    format!("cannot execute {path:?}: its interpreter is missing"),
                ),
            }
        }
        (Stage::Exec, libc::ENOEXEC) => failed(
            EXIT_NOT_EXECUTABLE,
            format!("cannot execute {program:?}: not a program of this architecture, or a script without #!"),
        ),
        (Stage::Exec, _) => failed(EXIT_NOT_EXECUTABLE, format!("cannot execute {program:?}: {cause}")),
        (Stage::Directory, _) => {
            failed(EXIT_INIT_FAILED, format!("cannot enter working directory {cwd:?}: {cause}"))
        }
        (stage, _) => {
            failed(EXIT_INIT_FAILED, format!("cannot start {program:?}: {}: {cause}", stage.words()))
        }
    }
}

fn exists(path: &CString, cwd: &str) -> bool {
    path.to_str().is_ok_and(|path| Path::new(cwd).join(path).symlink_metadata().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn only_absent_variables_are_added_and_the_order_is_kept() {
        let account = Account { uid: 1, gid: 1, groups: vec![], home: "/home/app".into() };
        let mut given = env(&[("Z", "1"), ("HOME", "/x")]);
        complete_environment(&mut given, &account, false);
        assert_eq!(given, env(&[("Z", "1"), ("HOME", "/x"), ("PATH", DEFAULT_PATH)]));
        complete_environment(&mut given, &account, true);
        assert_eq!(variable(&given, "TERM"), Some("xterm-256color"));
    }

    #[test]
    fn a_program_is_looked_for_in_the_environments_path() {
        let given = env(&[("PATH", "/first"), ("PATH", "/a::/b")]);
        assert_eq!(candidates("x", &given).unwrap(), [c"/a/x", c"./x", c"/b/x"].map(CString::from));
        assert_eq!(candidates("./x", &given).unwrap(), [CString::from(c"./x")]);
        assert_eq!(candidates("/x", &[]).unwrap(), [CString::from(c"/x")]);
        assert_eq!(candidates("x", &[]).unwrap().len(), 6);
        assert!(candidates("a\0b", &given).is_err());
    }

    #[test]
    fn failures_have_the_exit_codes_of_shells() {
        let explain = |stage, errno, path: &str| {
            let paths = [CString::new(path).unwrap()];
            explain(Failure { stage, errno }, "prog", "/", &paths)
        };
        let missing = explain(Stage::Exec, libc::ENOENT, "/nonexistent/prog");
        assert_eq!(
            (missing.exit_code, missing.error.to_string().as_str()),
            (127, "command not found: \"prog\"")
        );
        assert_eq!(explain(Stage::Exec, libc::ENOENT, "/proc/self/exe").exit_code, 126);
        assert_eq!(explain(Stage::Exec, libc::EACCES, "/x").exit_code, 126);
        assert_eq!(explain(Stage::Exec, libc::ENOTDIR, "/x").exit_code, 126);
        assert_eq!(explain(Stage::Directory, libc::ENOENT, "/x").exit_code, 125);
        assert_eq!(explain(Stage::Identity, libc::EPERM, "/x").exit_code, 125);
    }
}
