//! The command line. Plain argv, no configuration file: `ps` shows how a machine was started.

use std::os::fd::RawFd;
use std::path::PathBuf;
use std::str::FromStr;

/// Least size of a log file: several of the largest records fit.
const LOG_BYTES_MIN: u64 = 65_536;
/// Most rotated log files kept.
const LOG_KEEP_MAX: u32 = 100;

/// How the guest is reached.
#[derive(Debug, PartialEq, Eq)]
pub enum Channel {
    /// One end of a socket pair, which the program inherits under this number.
    Inherited(RawFd),
    /// Firecracker's socket and the port in the guest.
    Vsock {
        /// The host side's unix socket.
        path: PathBuf,
        /// Port the guest listens on.
        port: u32,
    },
}

/// Everything the shim is told.
#[derive(Debug, PartialEq, Eq)]
pub struct Args {
    /// Where the socket and the records go; absolute.
    pub dir: PathBuf,
    /// Network namespace to enter.
    pub netns: Option<PathBuf>,
    /// A tap device of that namespace to open, and the number the program inherits it under.
    pub tap: Option<(String, RawFd)>,
    /// `cgroup.procs` files to join.
    pub cgroups: Vec<PathBuf>,
    /// User to become.
    pub uid: Option<u32>,
    /// Group to become.
    pub gid: Option<u32>,
    /// A device of which the program gets a node of its own, in place of the host's.
    pub own_device: Option<PathBuf>,
    /// Supplementary groups; none without.
    pub groups: Vec<u32>,
    /// Limit of open files.
    pub nofile: Option<u64>,
    /// `oom_score_adj`.
    pub oom_score: Option<i32>,
    /// Sets `no_new_privs`.
    pub no_new_privs: bool,
    /// The machine's log.
    pub log: PathBuf,
    /// Size at which the log is rotated.
    pub log_max_bytes: u64,
    /// Rotated files kept beside the current one.
    pub log_keep: u32,
    /// How the guest is reached.
    pub channel: Channel,
    /// The program is a launcher that leaves the main process's pid here.
    pub pid_file: Option<PathBuf>,
    /// Further descriptors the program inherits, under the same numbers.
    pub pass_fds: Vec<RawFd>,
    /// Where to say that the program runs, or why not.
    pub ready_fd: Option<RawFd>,
    /// The program and its arguments.
    pub program: Vec<String>,
}

/// Reads the command line without the program's own name.
///
/// # Errors
/// What is wrong with it, for a person.
pub fn parse(argv: impl Iterator<Item = String>) -> Result<Args, String> {
    let mut argv = argv;
    let (mut dir, mut log, mut channel) = (None, None, None);
    let mut args = Args {
        dir: PathBuf::new(),
        netns: None,
        tap: None,
        cgroups: Vec::new(),
        uid: None,
        gid: None,
        own_device: None,
        groups: Vec::new(),
        nofile: None,
        oom_score: None,
        no_new_privs: false,
        log: PathBuf::new(),
        log_max_bytes: 10 << 20,
        log_keep: 3,
        channel: Channel::Inherited(3),
        pid_file: None,
        pass_fds: Vec::new(),
        ready_fd: None,
        program: Vec::new(),
    };
    while let Some(flag) = argv.next() {
        if flag == "--" {
            args.program = argv.collect();
            break;
        }
        if flag == "--no-new-privs" {
            args.no_new_privs = true;
            continue;
        }
        let value = argv.next().ok_or_else(|| format!("{flag} needs a value"))?;
        match flag.as_str() {
            "--dir" => dir = Some(absolute(&flag, value)?),
            "--netns" => args.netns = Some(absolute(&flag, value)?),
            "--tap" => args.tap = Some(tap(&flag, &value)?),
            "--cgroup" => args.cgroups.push(absolute(&flag, value)?),
            "--uid" => args.uid = Some(number(&flag, &value)?),
            "--gid" => args.gid = Some(number(&flag, &value)?),
            "--own-device" => args.own_device = Some(absolute(&flag, value)?),
            "--group" => args.groups.push(number(&flag, &value)?),
            "--nofile" => args.nofile = Some(number(&flag, &value)?),
            "--oom-score" => args.oom_score = Some(number(&flag, &value)?),
            "--log" => log = Some(absolute(&flag, value)?),
            "--log-max-bytes" => args.log_max_bytes = number(&flag, &value)?,
            "--log-keep" => args.log_keep = number(&flag, &value)?,
            "--channel-fd" => channel = Some(Channel::Inherited(descriptor(&flag, &value)?)),
            "--channel-vsock" => channel = Some(vsock(&flag, &value)?),
            "--pid-file" => args.pid_file = Some(absolute(&flag, value)?),
            "--pass-fd" => args.pass_fds.push(descriptor(&flag, &value)?),
            "--ready-fd" => args.ready_fd = Some(descriptor(&flag, &value)?),
            _ => return Err(format!("unknown option {flag}")),
        }
    }
    args.dir = dir.ok_or("--dir is missing")?;
    args.log = log.ok_or("--log is missing")?;
    args.channel = channel.ok_or("--channel-fd or --channel-vsock is missing")?;
    check(args)
}

fn check(args: Args) -> Result<Args, String> {
    if args.program.is_empty() {
        return Err("no program after --".into());
    }
    if args.log_max_bytes < LOG_BYTES_MIN {
        return Err(format!("--log-max-bytes is less than {LOG_BYTES_MIN}"));
    }
    if args.log_keep > LOG_KEEP_MAX {
        return Err(format!("--log-keep is more than {LOG_KEEP_MAX}"));
    }
    if args.uid.is_some() != args.gid.is_some() {
        return Err("--uid and --gid go together".into());
    }
    if args.own_device.is_some() && args.uid.is_none() {
        return Err("--own-device needs --uid".into());
    }
    let mut numbers: Vec<RawFd> = args
        .pass_fds
        .iter()
        .copied()
        .chain(args.ready_fd)
        .chain(args.tap.iter().map(|(_, fd)| *fd))
        .collect();
    if let Channel::Inherited(fd) = args.channel {
        numbers.push(fd);
    }
    numbers.sort_unstable();
    if numbers.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err("a descriptor number is given twice".into());
    }
    Ok(args)
}

fn absolute(flag: &str, value: String) -> Result<PathBuf, String> {
    let path = PathBuf::from(value);
    if path.is_absolute() { Ok(path) } else { Err(format!("{flag} needs an absolute path")) }
}

fn number<T: FromStr>(flag: &str, value: &str) -> Result<T, String> {
    value.parse().map_err(|_| format!("{flag}: {value} is no number in range"))
}

/// Highest number a descriptor can have: Linux allows a process no more (`fs.nr_open`) unless told to.
const DESCRIPTOR_MAX: RawFd = 1_048_575;

fn descriptor(flag: &str, value: &str) -> Result<RawFd, String> {
    match number(flag, value)? {
        fd @ 3..=DESCRIPTOR_MAX => Ok(fd),
        _ => Err(format!("{flag}: descriptors go from 3 to {DESCRIPTOR_MAX}")),
    }
}

fn tap(flag: &str, value: &str) -> Result<(String, RawFd), String> {
    let (name, fd) = value.split_once(':').ok_or_else(|| format!("{flag} needs NAME:FD"))?;
    if name.is_empty() || name.len() >= libc::IFNAMSIZ || name.contains('\0') {
        return Err(format!("{flag}: {name} is no interface name"));
    }
    Ok((name.to_owned(), descriptor(flag, fd)?))
}

fn vsock(flag: &str, value: &str) -> Result<Channel, String> {
    let (path, port) = value.rsplit_once(':').ok_or_else(|| format!("{flag} needs PATH:PORT"))?;
    Ok(Channel::Vsock { path: absolute(flag, path.into())?, port: number(flag, port)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_text(text: &str) -> Result<Args, String> {
        parse(text.split_whitespace().map(str::to_owned))
    }

    #[test]
    fn reads_every_option() {
        let args = parse_text(
            "--dir /r --netns /n --tap tap0:9 --cgroup /c/1 --cgroup /c/2 --uid 7 --gid 8 --group 9 --own-device /d --nofile 100 \
             --oom-score -5 --no-new-privs --log /l --log-max-bytes 65536 --log-keep 2 --channel-vsock /v:52 \
             --pid-file /p --pass-fd 5 --ready-fd 4 -- prog --dir x",
        )
        .unwrap();
        assert_eq!(args.cgroups.len(), 2);
        assert_eq!(args.tap, Some(("tap0".into(), 9)));
        assert_eq!(args.channel, Channel::Vsock { path: "/v".into(), port: 52 });
        assert_eq!(args.own_device, Some("/d".into()));
        assert_eq!(args.program, ["prog", "--dir", "x"]);
        assert_eq!((args.uid, args.gid, args.oom_score), (Some(7), Some(8), Some(-5)));
    }

    #[test]
    fn refuses_nonsense() {
        let base = "--dir /r --log /l --channel-fd 3";
        for (text, reason) in [
            ("--dir r", "absolute"),
            ("--dir", "needs a value"),
            ("--what x", "unknown option"),
            ("--dir /r --log /l -- p", "--channel-fd"),
            (base, "no program"),
            (&format!("{base} --pass-fd 3 -- p"), "twice"),
            (&format!("{base} --tap tap0:3 -- p"), "twice"),
            (&format!("{base} --tap tap0 -- p"), "NAME:FD"),
            (&format!("{base} --channel-fd 2 -- p"), "descriptors go"),
            (&format!("{base} --uid 1 -- p"), "go together"),
            (&format!("{base} --own-device /d -- p"), "needs --uid"),
            (&format!("{base} --own-device d --uid 1 --gid 1 -- p"), "absolute"),
            (&format!("{base} --log-max-bytes 10 -- p"), "less than"),
        ] {
            assert!(parse_text(text).unwrap_err().contains(reason), "{text}");
        }
    }
}
