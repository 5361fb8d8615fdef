//! Users and groups by the image's own /etc/passwd and /etc/group.

use std::cell::RefCell;
use std::fs::{self, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

use crate::error::{Error, Result};
use crate::sys;

const PASSWD: &str = "/etc/passwd";
const GROUP: &str = "/etc/group";
/// Seconds after its last change from which on a file can be known by its times.
const SETTLED_AFTER_S: i64 = 2;
/// Lines longer than this, and files longer than the second, are not what passwd(5) means.
const FILE_BYTES_MAX: u64 = 8 * 1_048_576;
/// Most supplementary groups the kernel takes.
const GROUPS_MAX: usize = 65_536;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

struct PasswdEntry<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

struct GroupEntry<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

/// Finds an account: `name`, `uid`, `name:group` or `uid:gid`; root if nothing is said.
///
/// A number needs no entry. An explicit group replaces the supplementary ones, as it does for container runtimes.
pub fn find(spec: Option<&str>) -> Result<Account> {
    let spec = spec.unwrap_or("0");
    let stamps = [Stamp::of(PASSWD), Stamp::of(GROUP)];
    let known = LAST.with_borrow(|last| {
        let last = last.as_ref().filter(|last| last.spec == spec && last.stamps == stamps)?;
        Some(last.account.clone())
    });
    if let Some(account) = known {
        return Ok(account);
    }
    let account = find_in("", Some(spec))?;
    if stamps.iter().flatten().all(Stamp::is_settled) {
        LAST.set(Some(Found { spec: spec.to_owned(), stamps, account: account.clone() }));
    }
    Ok(account)
}

/// The account found last. Commands of a machine run as the same user, mostly, and to look at two files is half of the
/// cold code of reading them.
struct Found {
    spec: String,
    stamps: [Option<Stamp>; 2],
    account: Account,
}

thread_local! {
    static LAST: RefCell<Option<Found>> = const { RefCell::new(None) };
}

/// A file's content, as far as its times tell.
#[derive(PartialEq, Eq)]
struct Stamp {
    file: (u64, u64, u64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &str) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino(), found.size()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether a later change would show: the kernel's clock for files is a coarse one.
    fn is_settled(&self) -> bool {
        self.changed.0 + SETTLED_AFTER_S < sys::wall_clock_ns() / 1_000_000_000
    }
}

/// The same by the files below another root; empty for the own one.
pub fn find_in(root: &str, spec: Option<&str>) -> Result<Account> {
    lookup(spec.unwrap_or("0"), &read(&format!("{root}{PASSWD}")), &read(&format!("{root}{GROUP}")))
}

fn read(path: &str) -> String {
    // Without waiting, should it be a pipe.
    let opened = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path);
    let Ok(file) = opened else { return String::new() };
    let small = file.metadata().is_ok_and(|metadata| metadata.is_file() && metadata.len() <= FILE_BYTES_MAX);
    let mut bytes = Vec::new();
    if !small || file.take(FILE_BYTES_MAX).read_to_end(&mut bytes).is_err() {
        return String::new();
    }
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

fn lookup(spec: &str, passwd: &str, group: &str) -> Result<Account> {
    let (user, wanted_group) = spec.split_once(':').map_or((spec, ""), |(user, group)| (user, group));
    let user = if user.is_empty() { "0" } else { user };
    let number = user.parse::<u32>().ok();
    let entry = passwd_entries(passwd).find(|entry| entry.name == user || Some(entry.uid) == number);
    let (uid, own_gid, home) = match (&entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home),
        (None, Some(uid)) => (uid, 0, ""),
        (None, None) if user == "root" => (0, 0, ""),
        (None, None) => {
            return Err(Error::new(format!("unknown user {user:?}: not in the image's /etc/passwd")));
        }
    };
    let home = match home {
        "" if uid == 0 => "/root",
        "" => "/",
        home => home,
    };
    let (gid, groups) = if wanted_group.is_empty() {
        (own_gid, entry.map_or(Vec::new(), |entry| groups_of(entry.name, group)))
    } else {
        (find_group(wanted_group, group)?, Vec::new())
    };
    Ok(Account { uid, gid, groups, home: home.to_owned() })
}

fn groups_of(name: &str, group: &str) -> Vec<u32> {
    let listed = |entry: &GroupEntry<'_>| entry.members.split(',').any(|member| member.trim() == name);
    group_entries(group).filter(listed).map(|entry| entry.gid).take(GROUPS_MAX).collect()
}

fn find_group(wanted: &str, group: &str) -> Result<u32> {
    let number = wanted.parse::<u32>().ok();
    let entry = group_entries(group).find(|entry| entry.name == wanted || Some(entry.gid) == number);
    match (entry, number) {
        (Some(entry), _) => Ok(entry.gid),
        (None, Some(gid)) => Ok(gid),
        (None, None) if wanted == "root" => Ok(0),
        (None, None) => Err(Error::new(format!("unknown group {wanted:?}: not in the image's /etc/group"))),
    }
}

fn passwd_entries(text: &str) -> impl Iterator<Item = PasswdEntry<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, uid, gid, _, home, ..] = *fields else { return None };
        Some(PasswdEntry { name, uid: uid.parse().ok()?, gid: gid.parse().ok()?, home })
    })
}

fn group_entries(text: &str) -> impl Iterator<Item = GroupEntry<'_>> {
    text.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let [name, _, gid, ref rest @ ..] = *fields else { return None };
        Some(GroupEntry { name, gid: gid.parse().ok()?, members: rest.first().copied().unwrap_or("") })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n# comment\napp:x:1000:1001:App:/home/app:/bin/sh\n\
        broken:x:nan:1::/:\nnohome:x:7:7:::\n1234:x:55:56::/digits:\n";
    const GROUP: &str = "root:x:0:\napp:x:1001:\nwheel:x:10:root,app\naudio:x:29: app\nsolo:x:99\n";

    fn account(uid: u32, gid: u32, groups: &[u32], home: &str) -> Account {
        Account { uid, gid, groups: groups.to_vec(), home: home.into() }
    }

    #[test]
    fn all_four_spellings_are_understood() {
        let find = |spec| lookup(spec, PASSWD, GROUP).unwrap();
        assert_eq!(find("app"), account(1000, 1001, &[10, 29], "/home/app"));
        assert_eq!(find("1000"), account(1000, 1001, &[10, 29], "/home/app"));
        assert_eq!(find("app:wheel"), account(1000, 10, &[], "/home/app"));
        assert_eq!(find("1000:29"), account(1000, 29, &[], "/home/app"));
        assert_eq!(find("4321:8765"), account(4321, 8765, &[], "/"));
        assert_eq!(find("4321"), account(4321, 0, &[], "/"));
        assert_eq!(find("0"), account(0, 0, &[10], "/root"));
        assert_eq!(find(":solo"), account(0, 99, &[], "/root"));
        assert_eq!(find("nohome"), account(7, 7, &[], "/"));
        assert_eq!(find("1234"), account(55, 56, &[], "/digits"));
    }

    #[test]
    fn a_file_is_known_by_its_times_once_they_are_old() {
        let path = std::env::temp_dir().join(format!("midge-users-{}", std::process::id()));
        let path = path.to_str().unwrap();
        std::fs::write(path, PASSWD).unwrap();
        let first = Stamp::of(path).unwrap();
        assert!(!first.is_settled());
        assert!(Stamp { changed: (first.changed.0 - SETTLED_AFTER_S - 1, 0), ..first }.is_settled());
        std::fs::write(path, GROUP).unwrap();
        assert!(Stamp::of(path) != Stamp::of("/nonexistent"));
        std::fs::remove_file(path).unwrap();
        assert!(Stamp::of(path).is_none());
    }

    #[test]
    fn root_needs_no_files() {
        assert_eq!(lookup("root", "", "").unwrap(), account(0, 0, &[], "/root"));
        assert_eq!(lookup("0:root", "", "").unwrap(), account(0, 0, &[], "/root"));
    }

    #[test]
    fn the_unknown_is_named() {
        assert!(lookup("ghost", PASSWD, GROUP).unwrap_err().to_string().contains("unknown user \"ghost\""));
        assert!(
            lookup("app:crew", PASSWD, GROUP).unwrap_err().to_string().contains("unknown group \"crew\"")
        );
        assert!(lookup("broken", PASSWD, GROUP).is_err());
        assert!(lookup("-1", PASSWD, GROUP).is_err());
    }
}
