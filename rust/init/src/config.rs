//! CONFIGURE as types. Nothing here touches the system.

use std::net::IpAddr;

use serde_json::Value;

use crate::error::{Error, Result};
use crate::json;

/// Most entries of any list in CONFIGURE or EXEC: arguments, variables, mounts, hosts.
pub const ITEMS_MAX: usize = 8_192;
/// Largest swap file.
const SWAP_MB_MAX: u64 = 1_048_576;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Root {
    pub lower: String,
    pub upper: Option<String>,
    pub persist: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub device: String,
    pub path: String,
    pub fstype: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Net {
    pub interface: String,
    pub mac: Option<[u8; 6]>,
    pub addresses: Vec<(IpAddr, u8)>,
    pub gateways: Vec<IpAddr>,
    pub mtu: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    pub ip: IpAddr,
    pub names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Resolv {
    pub nameservers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// Who the machine is: also what RESUME may change.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Identity {
    pub wall_clock_ns: Option<i64>,
    pub entropy: Vec<u8>,
    pub hostname: Option<String>,
    pub machine_id: Option<String>,
    pub net: Option<Net>,
    pub hosts: Option<Vec<Host>>,
    pub resolv: Option<Resolv>,
}

/// What the machine runs.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Program {
    pub argv: Vec<String>,
    pub env: Vec<(String, String)>,
    pub user: Option<String>,
    pub cwd: String,
    pub tty: bool,
    pub limits: Vec<(String, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub start_id: Option<String>,
    pub identity: Identity,
    pub root: Option<Root>,
    pub mounts: Vec<Mount>,
    pub swap_mb: u64,
    pub program: Program,
}

impl Config {
    pub fn from_json(value: &Value) -> Result<Self> {
        let root = json::member(value, "root").map(root).transpose()?;
        Ok(Self {
            start_id: json::optional_string(value, "start_id")?.map(str::to_owned),
            identity: Identity::from_json(value)?,
            root,
            mounts: bounded("mounts", json::list(value, "mounts", mount)?)?,
            swap_mb: json::optional_integer::<u64>(value, "swap_mb")?.unwrap_or(0).min(SWAP_MB_MAX),
            program: program(value)?,
        })
    }
}

impl Identity {
    pub fn from_json(value: &Value) -> Result<Self> {
        let hosts = json::member(value, "hosts").map(|_| json::list(value, "hosts", host)).transpose()?;
        let entropy = json::optional_string(value, "entropy")?.map(json::base64).transpose()?;
        let machine_id = json::optional_string(value, "machine_id")?.filter(|id| !id.is_empty());
        if machine_id.is_some_and(|id| id.len() != 32 || !id.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            return Err(Error::new("member \"machine_id\" is not 32 hex digits"));
        }
        Ok(Self {
            wall_clock_ns: json::optional_integer(value, "wall_clock_ns")?.filter(|time: &i64| *time > 0),
            entropy: entropy.unwrap_or_default(),
            hostname: json::optional_string(value, "hostname")?
                .filter(|name| !name.is_empty())
                .map(str::to_owned),
            machine_id: machine_id.map(str::to_owned),
            net: json::member(value, "net").map(net).transpose()?,
            hosts: hosts.map(|hosts| bounded("hosts", hosts)).transpose()?,
            resolv: json::member(value, "resolv").map(resolv).transpose()?,
        })
    }
}

/// Refuses lists that no machine needs.
pub fn bounded<T>(name: &str, items: Vec<T>) -> Result<Vec<T>> {
    if items.len() > ITEMS_MAX {
        return Err(Error::new(format!("{name} has {} entries, the limit is {ITEMS_MAX}", items.len())));
    }
    Ok(items)
}

fn root(value: &Value) -> Result<Root> {
    Ok(Root {
        lower: json::string(value, "lower")?.to_owned(),
        upper: json::optional_string(value, "upper")?.map(str::to_owned),
        persist: json::boolean(value, "persist")?,
    })
}

fn mount(value: &Value) -> Result<Mount> {
    Ok(Mount {
        device: json::string(value, "device")?.to_owned(),
        path: absolute(json::string(value, "path")?)?,
        fstype: json::optional_string(value, "fstype")?.unwrap_or("ext4").to_owned(),
    })
}

/// A path from the root that does not climb.
pub fn absolute(path: &str) -> Result<String> {
    let climbs = path.split('/').any(|part| part == "..");
    if !path.starts_with('/') || climbs || path.contains('\0') {
        return Err(Error::new(format!("{path:?} is not an absolute path without ..")));
    }
    Ok(path.to_owned())
}

fn ip(text: &str) -> Result<IpAddr> {
    text.parse().map_err(|_| Error::new(format!("{text:?} is not an IP address")))
}

pub fn net(value: &Value) -> Result<Net> {
    let gateways = ["gateway", "gateway6"].map(|key| json::optional_string(value, key));
    let gateways = gateways.into_iter().collect::<Result<Vec<_>>>()?;
    Ok(Net {
        interface: json::optional_string(value, "interface")?.unwrap_or("eth0").to_owned(),
        mac: json::optional_string(value, "mac")?.filter(|mac| !mac.is_empty()).map(mac).transpose()?,
        addresses: json::strings(value, "addresses")?
            .iter()
            .map(|text| address(text))
            .collect::<Result<_>>()?,
        gateways: gateways
            .into_iter()
            .flatten()
            .filter(|text| !text.is_empty())
            .map(ip)
            .collect::<Result<_>>()?,
        mtu: json::optional_integer(value, "mtu")?,
    })
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let bytes: Option<Vec<u8>> = text.split(':').map(|part| u8::from_str_radix(part, 16).ok()).collect();
    let bytes = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    bytes.ok_or_else(|| Error::new(format!("{text:?} is not a MAC address")))
}

fn address(text: &str) -> Result<(IpAddr, u8)> {
    let (host, prefix) = text.split_once('/').map_or((text, None), |(host, prefix)| (host, Some(prefix)));
    let host = ip(host)?;
    let bits = if host.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Some(bits), |prefix| prefix.parse().ok()).filter(|prefix| *prefix <= bits);
    prefix
        .map(|prefix| (host, prefix))
        .ok_or_else(|| Error::new(format!("{text:?} has no valid prefix length")))
}

fn host(value: &Value) -> Result<Host> {
    let names = json::strings(value, "names")?;
    if names.iter().any(|name| name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '#')) {
        return Err(Error::new("member \"hosts\" has a name with blanks"));
    }
    Ok(Host { ip: ip(json::string(value, "ip")?)?, names })
}

fn resolv(value: &Value) -> Result<Resolv> {
    let words = |key: &str| {
        let words = json::strings(value, key)?;
        let clean = words.iter().all(|word| !word.contains(char::is_whitespace));
        clean.then_some(words).ok_or_else(|| Error::new(format!("member {key:?} has an entry with blanks")))
    };
    Ok(Resolv {
        nameservers: words("nameservers")?,
        searches: words("searches")?,
        options: words("options")?,
    })
}

fn program(value: &Value) -> Result<Program> {
    let user = |key| json::optional_string(value, key).map(|user| user.filter(|user| !user.is_empty()));
    let limits = match json::member(value, "limits").and_then(Value::as_object) {
        None => Vec::new(),
        Some(members) => members
            .iter()
            .filter(|(_, limit)| !limit.is_null())
            .map(|(name, _)| Ok((name.clone(), json::integer(&value["limits"], name)?)))
            .collect::<Result<_>>()?,
    };
    Ok(Program {
        argv: bounded("argv", json::strings(value, "argv")?)?,
        env: bounded("env", json::list(value, "env", variable)?)?,
        user: user("user")?.or(user("image_user")?).map(str::to_owned),
        cwd: json::optional_string(value, "cwd")?.filter(|cwd| !cwd.is_empty()).unwrap_or("/").to_owned(),
        tty: json::boolean(value, "tty")?,
        limits,
    })
}

pub fn variable(pair: &Value) -> Result<(String, String)> {
    match pair.as_array().map(Vec::as_slice) {
        Some([Value::String(name), Value::String(value)]) if !name.is_empty() && !name.contains('=') => {
            Ok((name.clone(), value.clone()))
        }
        _ => Err(Error::new("member \"env\" is not a list of [name, value]")),
    }
}

#[cfg(test)]
#[path = "config_tests.rs"]
mod tests;
