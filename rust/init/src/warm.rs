//! Runs the paths of a start once before it is known whose start it will be, so that the code they need is warm.
//!
//! With placeholder disks nothing stays. With the disks the machine will have (`keep`), they stay mounted: the image is
//! read-only and the writable layer is still blank, so nothing in them can be another machine's. What is written and
//! configured for practice is undone; clock, name and entropy are set by CONFIGURE in any case.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::Duration;

use serde_json::Value;

use crate::command::NotStarted;
use crate::config::{self, Config, Identity, Root};
use crate::error::{Context, Result};
use crate::freeze::Freezer;
use crate::launch::Launch;
use crate::poller::{Poller, Token};
use crate::source::Read as SourceRead;
use crate::{identity, json, net, rehearse, root, sys, users};

/// Disks a waiting guest has before it is told who it is.
const LOWER: &str = "/dev/vda";
const UPPER: &str = "/dev/vdb";
/// Most bytes of a file that are read ahead.
const READ_BYTES_MAX: u64 = 16 << 20;
/// A step of the clock that is large enough to be made.
const CLOCK_STEP: Duration = Duration::from_millis(10);
const ENTROPY_BYTES: usize = 64;
const REQUEST: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
const RESPONSE: &[u8] = b"HTTP/1.0 200 OK\r\n\r\n";
/// Nobody else is in the way.
const PEER_TIMEOUT: Duration = Duration::from_secs(1);

/// A CONFIGURE with every member that starts have, of a machine that does not exist.
const PRACTICE: &str = r#"{"start_id": "practice", "mode": "vm", "wall_clock_ns": 1, "entropy": "bWlkZ2U=",
    "hostname": "practice", "machine_id": "00000000000000000000000000000000",
    "root": {"lower": "/dev/vda", "upper": "/dev/vdb", "persist": false}, "mounts": [], "swap_mb": 0,
    "net": {"mac": "02:00:00:00:00:01", "addresses": ["169.254.1.1/32"], "gateway": "169.254.0.1", "gateway6": null,
            "mtu": 1500, "interface": "eth0"},
    "hosts": [{"ip": "169.254.1.1", "names": ["practice"]}, {"ip": "fdaa::3", "names": ["practice"]}],
    "resolv": {"nameservers": ["169.254.0.1"], "searches": ["internal"], "options": ["ndots:1"]},
    "env": [["PATH", "/bin"]], "image_user": null, "user": null, "argv": ["/bin/true", "-x"], "cwd": "/", "tty": false,
    "limits": {"nofile": 65536}}"#;

/// Mounts the disks, and where they are named reads files, configures a network, runs a program and rehearses those of
/// the image. Gives the disks if they stay mounted.
pub fn run(value: &Value, poller: &Poller, freezer: &mut Freezer) -> Result<Option<Root>> {
    let keep = json::boolean(value, "keep")?;
    let disks = Root {
        lower: json::optional_string(value, "lower")?.unwrap_or(LOWER).to_owned(),
        upper: Some(json::optional_string(value, "upper")?.unwrap_or(UPPER).to_owned()),
        persist: !keep,
    };
    let argv = json::strings(value, "argv")?;
    let programs = rehearse::programs(value)?;
    root::mount_layers(&disks)?;
    let result = walk(value, &argv, if keep { None } else { Some(root::NEW_ROOT) }, poller, freezer)
        .and_then(|()| rehearse::run(&programs));
    if keep && result.is_ok() {
        return Ok(Some(disks));
    }
    root::unmount_layers()?;
    fs::write("/proc/sys/vm/drop_caches", "3").context(|| "cannot drop caches".into())?;
    result.map(|()| None)
}

fn walk(
    value: &Value,
    argv: &[String],
    inside: Option<&str>,
    poller: &Poller,
    freezer: &mut Freezer,
) -> Result<()> {
    for path in json::strings(value, "read")? {
        read_ahead(&path);
    }
    let practice = json::parse(PRACTICE.as_bytes()).and_then(|value| Config::from_json(&value))?;
    draw_and_reseed()?;
    // Where the image has something else in place of a file, its start will say so.
    root::practise(|root| drop(identity::write_files(root, &practice.identity)))?;
    root::practise_switch()?;
    if let Some(network) = json::member(value, "net").map(config::net).transpose()? {
        net::configure(&network, None)?;
        // Whoever cannot connect to itself will not be reached by others either, but may not care.
        let _ = connect_to_self();
        net::deconfigure(&network)?;
    }
    if argv.is_empty() {
        return Ok(());
    }
    run_program(argv, &practice.program.limits, inside, poller, freezer).map_err(|failed| failed.error)
}

/// Steps the clock and reseeds the generator, with what it gave itself: nothing is gained or lost.
fn draw_and_reseed() -> Result<()> {
    let mut entropy = vec![0; ENTROPY_BYTES];
    // SAFETY: the buffer is writable for its whole length.
    let drawn = unsafe { libc::getrandom(entropy.as_mut_ptr().cast(), entropy.len(), 0) };
    sys::check_size(drawn).context(|| "cannot draw random bytes".into())?;
    let later = sys::wall_clock_ns() + CLOCK_STEP.as_nanos() as i64;
    identity::apply_time(&Identity { wall_clock_ns: Some(later), entropy, ..Identity::default() })
}

/// Answers a request of its own over loopback, as a server would.
fn connect_to_self() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect_timeout(&listener.local_addr()?, PEER_TIMEOUT)?;
    let (mut server, _) = listener.accept()?;
    let (mut request, mut response) = ([0; REQUEST.len()], [0; RESPONSE.len()]);
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PEER_TIMEOUT))?;
    }
    client.write_all(REQUEST)?;
    server.read_exact(&mut request)?;
    server.write_all(RESPONSE)?;
    client.read_exact(&mut response)?;
    // Ended by a reset: nothing lingers in the tables, which will be the machine's.
    let at_once = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = size_of_val(&at_once) as libc::socklen_t;
    // SAFETY: an open socket and an option of its size.
    let result = unsafe {
        let option = (&raw const at_once).cast();
        libc::setsockopt(server.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, option, size)
    };
    sys::check(result).map(drop)
}

/// Brings a file of the image into the page cache. One that is not there is not needed.
fn read_ahead(path: &str) {
    if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
        return;
    }
    if let Ok(file) = fs::File::open(format!("{}{path}", root::NEW_ROOT)) {
        let _ = std::io::copy(&mut file.take(READ_BYTES_MAX), &mut std::io::sink());
    }
}

/// Runs a program to its end, in the image or, with `inside` empty, in the init's own root.
fn run_program(
    argv: &[String],
    limits: &[(String, u64)],
    inside: Option<&str>,
    poller: &Poller,
    freezer: &mut Freezer,
) -> std::result::Result<(), NotStarted> {
    let account = users::find(None)?;
    let launch = Launch {
        argv,
        env: Vec::new(),
        account: &account,
        cwd: "/",
        terminal: None,
        stdin: true,
        limits,
        root: inside,
        filter: Vec::new(),
    };
    let mut launched = launch.start()?;
    for (index, source) in (0..).zip(&launched.sources) {
        // Closing takes it off again.
        let _ = poller.add(&**source.fd(), Token::Source { stream: 0, index });
    }
    freezer.practise();
    launched.stdin = None;
    // It is a program of the host's choosing that says little, which its pipes hold, and ends by itself.
    sys::reap(launched.pid, 0);
    let mut buffer = [0; 4096];
    for source in &mut launched.sources {
        source.finish();
        while source.read(&mut buffer) != SourceRead::Ended {}
    }
    Ok(())
}
