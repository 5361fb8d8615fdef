//! Files the host puts into the machine: whole or not at all.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::{Context, Error, Result};
use crate::{config, json};

/// Transfers at a time.
const TRANSFERS_MAX: usize = 16;
/// Largest file; it goes to disk as it comes, so this bounds mistakes, not memory.
const FILE_BYTES_MAX: u64 = 1_073_741_824;
/// Permission bits that may be asked for.
const MODE_MASK: u32 = 0o7777;

struct Transfer {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
    mode: u32,
    owner: (Option<u32>, Option<u32>),
    left: u64,
}

/// Files under way, by stream.
#[derive(Default)]
pub struct Transfers {
    open: BTreeMap<u32, Transfer>,
}

impl Transfers {
    /// Takes FILE: creates the parents and a temporary file beside the target.
    pub fn begin(&mut self, stream: u32, value: &Value) -> Result<()> {
        if self.open.contains_key(&stream) {
            return Err(Error::new(format!("stream {stream} carries a file already")));
        }
        if self.open.len() >= TRANSFERS_MAX {
            return Err(Error::new(format!("{TRANSFERS_MAX} files are under way already")));
        }
        let path = PathBuf::from(config::absolute(json::string(value, "path")?)?);
        let size: u64 = json::integer(value, "size")?;
        if size > FILE_BYTES_MAX {
            return Err(Error::new(format!("file of {size} bytes, the limit is {FILE_BYTES_MAX}")));
        }
        let mode = json::optional_integer::<u32>(value, "mode")?.unwrap_or(0o644) & MODE_MASK;
        let owner = (json::optional_integer(value, "uid")?, json::optional_integer(value, "gid")?);
        let (temporary, file) = create_beside(&path, stream)?;
        self.open.insert(stream, Transfer { path, temporary, file, mode, owner, left: size });
        Ok(())
    }

    /// Takes FILE_DATA; true when the file is in place, `None` for a stream without a file (it failed before).
    pub fn data(&mut self, stream: u32, bytes: &[u8], end: bool) -> Option<Result<bool>> {
        let transfer = self.open.get_mut(&stream)?;
        let result = transfer.write(bytes, end);
        if result.is_err() || end {
            let transfer = self.open.remove(&stream)?;
            if result.is_err() {
                let _ = fs::remove_file(&transfer.temporary);
            }
        }
        Some(result.map(|()| end))
    }

    /// Drops what is under way, at the start of a session.
    pub fn abandon(&mut self) {
        for transfer in std::mem::take(&mut self.open).into_values() {
            let _ = fs::remove_file(&transfer.temporary);
        }
    }
}

impl Transfer {
    fn write(&mut self, bytes: &[u8], end: bool) -> Result<()> {
        let name = self.path.display();
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| Error::new(format!("file {name} is longer than announced")))?;
        self.file.write_all(bytes).context(|| format!("cannot write {name}"))?;
        if !end {
            return Ok(());
        }
        if self.left > 0 {
            return Err(Error::new(format!("file {name} is {} bytes short", self.left)));
        }
        let (uid, gid) = self.owner;
        if uid.is_some() || gid.is_some() {
            fchown(&self.file, uid, gid).context(|| format!("cannot change the owner of {name}"))?;
        }
        // After the owner, whose change would clear the set-user-id bit.
        let permissions = fs::Permissions::from_mode(self.mode);
        self.file.set_permissions(permissions).context(|| format!("cannot set the mode of {name}"))?;
        fs::rename(&self.temporary, &self.path).context(|| format!("cannot put {name} in place"))
    }
}

/// A new file in the target's directory. A link at the target itself will be replaced; links on the way are the image's
/// own directories (/var/run, say) and are followed.
fn create_beside(path: &Path, stream: u32) -> Result<(PathBuf, File)> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Error::new(format!("{} names no file", path.display())));
    };
    if path.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(Error::new(format!("{} names no file", path.display())));
    }
    let mut temporary_name = std::ffi::OsString::from(".midge-");
    temporary_name.push(stream.to_string());
    let temporary = parent.join(temporary_name);
    let create = || {
        let _ = fs::remove_file(&temporary);
        File::options().write(true).create_new(true).mode(0o600).open(&temporary)
    };
    let file = match create() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            fs::create_dir_all(parent).and_then(|()| create())
        }
        result => result,
    };
    let file = file.context(|| format!("cannot create {} in {}", name.display(), parent.display()))?;
    Ok((temporary, file))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::{MetadataExt, symlink};

    fn directory(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("midge-files-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        path
    }

    #[test]
    fn a_file_appears_whole_with_its_mode_and_parents() {
        let base = directory("whole");
        let path = base.join("a/b/c");
        let mut transfers = Transfers::default();
        transfers.begin(1, &json!({"path": path, "mode": 0o4640, "size": 6, "uid": 0, "gid": 0})).unwrap();
        assert!(!transfers.data(1, b"abc", false).unwrap().unwrap());
        assert!(!path.exists());
        assert!(transfers.data(1, b"def", true).unwrap().unwrap());
        assert_eq!(fs::read(&path).unwrap(), b"abcdef");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o4640);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn a_link_at_the_target_is_replaced_and_not_followed() {
        let base = directory("link");
        fs::write(base.join("victim"), "safe").unwrap();
        symlink(base.join("victim"), base.join("link")).unwrap();
        let mut transfers = Transfers::default();
        transfers.begin(1, &json!({"path": base.join("link"), "mode": 0o600, "size": 1})).unwrap();
        transfers.data(1, b"x", true).unwrap().unwrap();
        assert_eq!(fs::read(base.join("victim")).unwrap(), b"safe");
        assert_eq!(fs::read(base.join("link")).unwrap(), b"x");
        fs::remove_dir_all(base).unwrap();
    }

    #[test]
    fn wrong_sizes_leave_nothing_behind() {
        let base = directory("sizes");
        let mut transfers = Transfers::default();
        transfers.begin(1, &json!({"path": base.join("long"), "mode": 0o600, "size": 1})).unwrap();
        transfers.begin(2, &json!({"path": base.join("short"), "mode": 0o600, "size": 9})).unwrap();
        transfers.begin(3, &json!({"path": base.join("open"), "mode": 0o600, "size": 9})).unwrap();
        assert!(transfers.data(1, b"xx", false).unwrap().is_err());
        assert!(transfers.data(1, b"xx", true).is_none());
        assert!(transfers.data(2, b"xx", true).unwrap().is_err());
        transfers.abandon();
        assert_eq!(fs::read_dir(&base).unwrap().count(), 0);
        for path in ["relative", "/", "/a/../b", "/a/"] {
            assert!(transfers.begin(4, &json!({"path": path, "mode": 0, "size": 0})).is_err(), "{path}");
        }
        fs::remove_dir_all(base).unwrap();
    }
}
