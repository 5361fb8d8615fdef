//! Network configuration by route netlink: all requests in one message, one answer each.

use std::ffi::CString;
use std::io;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use crate::config::Net;
use crate::error::{Context, Error, Result};
use crate::{log, sys};

/// Sizes of the fixed parts, see rtnetlink(7).
const HEADER_BYTES: usize = 16;
/// Answers are short; several fit.
const REPLY_BYTES: usize = 16_384;
/// Index of the loopback interface in every network namespace.
const LOOPBACK_INDEX: i32 = 1;
/// `RTNH_F_ONLINK`: the gateway is on the link though no address' prefix says so.
const ONLINK: u32 = 4;
/// IFA_FLAGS value: no duplicate address detection, which would hold the address back for a second.
const NODAD: u32 = 0x02;

/// Requests and, for each, what to say if it fails.
#[derive(Default)]
struct Batch {
    bytes: Vec<u8>,
    what: Vec<String>,
    start: usize,
}

impl Batch {
    fn begin(&mut self, kind: u16, flags: i32, what: String) {
        self.start = self.bytes.len();
        let flags = (flags | libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
        self.what.push(what);
        self.bytes.extend([0; 4]);
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(flags.to_ne_bytes());
        self.bytes.extend((self.what.len() as u32).to_ne_bytes());
        self.bytes.extend([0; 4]);
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend((4 + value.len() as u16).to_ne_bytes());
        self.bytes.extend(kind.to_ne_bytes());
        self.bytes.extend(value);
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn end(&mut self) {
        let length = (self.bytes.len() - self.start) as u32;
        self.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    fn link_up(&mut self, index: i32, mac: Option<[u8; 6]>, mtu: Option<u32>, name: &str) {
        self.begin(libc::RTM_NEWLINK, 0, format!("cannot bring up {name}"));
        self.link_body(index, libc::IFF_UP);
        if let Some(mac) = mac {
            self.attribute(libc::IFLA_ADDRESS, &mac);
        }
        if let Some(mtu) = mtu {
            self.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        self.end();
    }

    fn link_down(&mut self, index: i32, name: &str) {
        self.begin(libc::RTM_NEWLINK, 0, format!("cannot bring down {name}"));
        self.link_body(index, 0);
        self.end();
    }

    /// The interface, and whether it is to be up.
    fn link_body(&mut self, index: i32, flags: libc::c_int) {
        self.bytes.extend([0; 4]);
        self.bytes.extend(index.to_ne_bytes());
        self.bytes.extend((flags as u32).to_ne_bytes());
        self.bytes.extend((libc::IFF_UP as u32).to_ne_bytes());
    }

    fn address(&mut self, index: i32, address: IpAddr, prefix: u8) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.begin(libc::RTM_NEWADDR, flags, format!("cannot add address {address}/{prefix}"));
        self.address_body(index, address, prefix);
    }

    fn no_address(&mut self, index: i32, address: IpAddr, prefix: u8) {
        self.begin(libc::RTM_DELADDR, 0, format!("cannot remove address {address}/{prefix}"));
        self.address_body(index, address, prefix);
    }

    fn address_body(&mut self, index: i32, address: IpAddr, prefix: u8) {
        self.bytes.extend([family(address), prefix, NODAD as u8, 0]);
        self.bytes.extend((index as u32).to_ne_bytes());
        self.attribute(libc::IFA_LOCAL, &octets(address));
        self.attribute(libc::IFA_ADDRESS, &octets(address));
        self.attribute(libc::IFA_FLAGS, &NODAD.to_ne_bytes());
        self.end();
    }

    fn default_route(&mut self, index: i32, gateway: IpAddr) {
        let flags = libc::NLM_F_CREATE | libc::NLM_F_REPLACE;
        self.begin(libc::RTM_NEWROUTE, flags, format!("cannot add the default route through {gateway}"));
        let (table, protocol) = (libc::RT_TABLE_MAIN, libc::RTPROT_STATIC);
        let (scope, kind) = (libc::RT_SCOPE_UNIVERSE, libc::RTN_UNICAST);
        self.bytes.extend([family(gateway), 0, 0, 0, table, protocol, scope, kind]);
        self.bytes.extend(ONLINK.to_ne_bytes());
        self.attribute(libc::RTA_GATEWAY, &octets(gateway));
        self.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.end();
    }

    fn send(self) -> Result<()> {
        let socket = route_socket().context(|| "cannot open a netlink socket".into())?;
        sys::write(&socket, &self.bytes).context(|| "cannot send to netlink".into())?;
        let mut buffer = vec![0; REPLY_BYTES];
        let mut answers = 0;
        while answers < self.what.len() {
            let count = sys::read(&socket, &mut buffer).context(|| "cannot read from netlink".into())?;
            for (sequence, errno) in acknowledgements(&buffer[..count]) {
                answers += 1;
                if errno != 0 {
                    let what =
                        self.what.get((sequence as usize).wrapping_sub(1)).cloned().unwrap_or_default();
                    return Err(io::Error::from_raw_os_error(errno)).context(|| what);
                }
            }
        }
        Ok(())
    }
}

/// Sequence number and error of each answer in what was read.
fn acknowledgements(mut bytes: &[u8]) -> Vec<(u32, i32)> {
    let mut answers = Vec::new();
    while let Some(header) = bytes.first_chunk::<20>() {
        let word =
            |at: usize| u32::from_ne_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let length = (word(0) as usize).next_multiple_of(4);
        if u16::from_ne_bytes([header[4], header[5]]) == libc::NLMSG_ERROR as u16 {
            answers.push((word(8), -(word(16) as i32)));
        }
        bytes = bytes.get(length.max(HEADER_BYTES)..).unwrap_or_default();
    }
    answers
}

fn route_socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is involved.
    sys::owned(unsafe {
        libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE)
    })
}

fn family(address: IpAddr) -> u8 {
    if address.is_ipv4() { libc::AF_INET as u8 } else { libc::AF_INET6 as u8 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Brings up the loopback interface.
pub fn loopback_up() -> Result<()> {
    let mut batch = Batch::default();
    batch.link_up(LOOPBACK_INDEX, None, None, "lo");
    batch.send()
}

/// Gives the interface its hardware address, MTU, addresses and routes, and brings it up. Of what it had before, the
/// addresses go first: in a fork they are another machine's.
pub fn configure(net: &Net, before: Option<&Net>) -> Result<()> {
    let index = index_of(&net.interface)?;
    for old in before.iter().flat_map(|before| &before.addresses).filter(|old| !net.addresses.contains(old)) {
        // The program may have removed it itself.
        if let Err(error) = remove_address(index, *old) {
            log::line(&error.to_string());
        }
    }
    let mut batch = Batch::default();
    batch.link_up(index, net.mac, net.mtu, &net.interface);
    for (address, prefix) in &net.addresses {
        batch.address(index, *address, *prefix);
    }
    for gateway in &net.gateways {
        batch.default_route(index, *gateway);
    }
    batch.send()
}

/// Takes the addresses away again and the interface down; with them go routes, neighbours and its own addresses.
pub fn deconfigure(net: &Net) -> Result<()> {
    let index = index_of(&net.interface)?;
    net.addresses.iter().try_for_each(|address| remove_address(index, *address))?;
    let mut batch = Batch::default();
    batch.link_down(index, &net.interface);
    batch.send()
}

fn remove_address(index: i32, (address, prefix): (IpAddr, u8)) -> Result<()> {
    let mut batch = Batch::default();
    batch.no_address(index, address, prefix);
    batch.send()
}

fn index_of(interface: &str) -> Result<i32> {
    let name = CString::new(interface).map_err(|_| Error::new("interface name has a zero byte"))?;
    // SAFETY: a string that ends in zero.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) } as i32;
    if index == 0 {
        return Err(io::Error::last_os_error()).context(|| format!("no network interface {interface}"));
    }
    Ok(index)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_aligned_and_carry_their_length() {
        let mut batch = Batch::default();
        batch.link_up(2, Some([2, 0, 0, 0, 0, 1]), Some(1420), "eth0");
        batch.address(2, "10.0.0.5".parse().unwrap(), 32);
        batch.default_route(2, "fe80::1".parse().unwrap());
        let (mut at, mut count) = (0, 0);
        while at < batch.bytes.len() {
            let length = u32::from_ne_bytes(batch.bytes[at..at + 4].try_into().unwrap()) as usize;
            assert_eq!(length % 4, 0);
            at += length;
            count += 1;
        }
        assert_eq!((at, count), (batch.bytes.len(), 3));
        assert_eq!(size_of::<libc::nlmsghdr>(), HEADER_BYTES);
    }

    #[test]
    fn answers_of_any_bytes_are_read_without_panic() {
        let mut error = vec![0; 36];
        error[0] = 36;
        error[4] = libc::NLMSG_ERROR as u8;
        error[8] = 7;
        error[16..20].copy_from_slice(&(-libc::EEXIST).to_ne_bytes());
        assert_eq!(acknowledgements(&error), [(7, libc::EEXIST)]);
        assert_eq!(acknowledgements(&[0; 64]), []);
        assert_eq!(acknowledgements(&[0xff; 30]), []);
    }
}
