"""Images made with plain Python: for tests, demos and the first `midge run` of a fresh installation.

`build_layout` writes an OCI image layout, `build_docker_archive` a `docker save` archive; both give the same
bytes for the same input. `busybox_web_image` is a complete small web server.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import platform
import shutil
import stat
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from midge.images.compression import zstd_compress

Compression = Literal["gzip", "zstd", "none"]

# One fixed time for everything built here (2024-01-01T00:00:00Z), so that equal input gives equal digests.
EPOCH_S = 1_704_067_200
_CREATED = "2024-01-01T00:00:00Z"
_OCI = "application/vnd.oci.image"
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}

HELLO_TAG = "midge/hello:latest"
HELLO_PORT = 8080


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer tar. `kind` is the tar type; `target` is the link target."""

    data: bytes = b""
    mode: int = 0o644
    kind: Literal["file", "dir", "symlink", "hardlink", "char", "block", "fifo"] = "file"
    target: str = ""
    uid: int = 0
    gid: int = 0
    mtime_s: float = EPOCH_S
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


Layer = Mapping[str, "bytes | str | Entry"] | Path


def directory(mode: int = 0o755, **more: Any) -> Entry:
    """A directory."""
    return Entry(kind="dir", mode=mode, **more)


def symlink(target: str) -> Entry:
    """A symbolic link."""
    return Entry(kind="symlink", mode=0o777, target=target)


def hardlink(target: str) -> Entry:
    """A hard link to an earlier member of the same layer."""
    return Entry(kind="hardlink", target=target)


def executable(data: bytes | str) -> Entry:
    """A file that may be run by everybody."""
    return Entry(data=data.encode() if isinstance(data, str) else data, mode=0o755)


def host_architecture() -> str:
    """This machine's architecture as OCI names it."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


def layer_tar(layer: Layer) -> bytes:
    """The tar of one layer: members in the mapping's order, or a directory's content in sorted order."""
    members = _from_directory(layer) if isinstance(layer, Path) else layer
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, value in members.items():
            _add(tar, name, value)
    return out.getvalue()


_TYPES = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "char": tarfile.CHRTYPE,
    "block": tarfile.BLKTYPE,
    "fifo": tarfile.FIFOTYPE,
}


def _add(tar: tarfile.TarFile, name: str, value: bytes | str | Entry) -> None:
    if isinstance(value, str):
        value = value.encode()
    entry = Entry(data=value) if isinstance(value, bytes) else value
    info = tarfile.TarInfo(name)
    info.type = _TYPES[entry.kind]
    info.mode, info.uid, info.gid, info.mtime = entry.mode, entry.uid, entry.gid, entry.mtime_s
    info.linkname = entry.target
    info.devmajor, info.devminor = entry.device
    info.size = len(entry.data)
    info.pax_headers = {
        f"SCHILY.xattr.{key}": content.decode("utf-8", "surrogateescape")
        for key, content in entry.xattrs.items()
    }
    tar.addfile(info, io.BytesIO(entry.data))


def _from_directory(root: Path) -> dict[str, Entry]:
    members: dict[str, Entry] = {}
    first_name: dict[tuple[int, int], str] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        common: dict[str, Any] = {
            "uid": info.st_uid,
            "gid": info.st_gid,
            "mtime_s": int(info.st_mtime),
            "mode": stat.S_IMODE(info.st_mode),
        }
        inode = (info.st_dev, info.st_ino)
        if stat.S_ISLNK(info.st_mode):
            members[name] = Entry(kind="symlink", target=str(path.readlink()), **common)
        elif stat.S_ISDIR(info.st_mode):
            members[name] = Entry(kind="dir", **common)
        elif inode in first_name:
            members[name] = Entry(kind="hardlink", target=first_name[inode], **common)
        elif stat.S_ISREG(info.st_mode):
            first_name[inode] = name
            xattrs = {key: os.getxattr(path, key) for key in os.listxattr(path)}
            members[name] = Entry(data=path.read_bytes(), xattrs=xattrs, **common)
        elif stat.S_ISFIFO(info.st_mode):
            members[name] = Entry(kind="fifo", **common)
        elif stat.S_ISCHR(info.st_mode):
            device = (os.major(info.st_rdev), os.minor(info.st_rdev))
            members[name] = Entry(kind="char", device=device, **common)
    return members


def compress(data: bytes, compression: Compression) -> bytes:
    """Compressed so that equal input gives equal output."""
    match compression:
        case "gzip":
            return gzip.compress(data, compresslevel=6, mtime=0)
        case "zstd":
            return zstd_compress(data)
        case "none":
            return data


def image_config(
    diff_ids: Sequence[str],
    *,
    entrypoint: Sequence[str] = (),
    cmd: Sequence[str] = (),
    env: Sequence[str] = (),
    workdir: str = "",
    user: str = "",
    labels: Mapping[str, str] | None = None,
    exposed_ports: Sequence[str] = (),
    stop_signal: str = "",
    architecture: str = "",
) -> dict[str, Any]:
    """The image configuration document (OCI image-spec, config.md)."""
    config: dict[str, Any] = {
        "Entrypoint": list(entrypoint),
        "Cmd": list(cmd),
        "Env": list(env),
        "WorkingDir": workdir,
        "User": user,
        "Labels": dict(labels or {}),
        "ExposedPorts": {port: {} for port in exposed_ports},
        "StopSignal": stop_signal,
    }
    return {
        "created": _CREATED,
        "architecture": architecture or host_architecture(),
        "os": "linux",
        "config": {key: value for key, value in config.items() if value},
        "rootfs": {"type": "layers", "diff_ids": list(diff_ids)},
        "history": [{"created": _CREATED, "created_by": "midge.testing.images"} for _ in diff_ids],
    }


def build_layout(
    dest: Path,
    *,
    layers: Sequence[Layer] | Path,
    tag: str | None = None,
    compression: Compression = "gzip",
    **config: Any,
) -> Path:
    """Writes an OCI image layout directory with one image.

    Args:
        dest: the directory to create; an existing layout there gets one more image.
        layers: bottom first; each a mapping of path to content, or a directory; a lone one is one layer.
        tag: kept as `org.opencontainers.image.ref.name`; a whole name also as `io.containerd.image.name`.
        compression: of the layers.
        **config: arguments of `image_config` (entrypoint, cmd, env, workdir, user, …).
    Returns:
        `dest`.
    """
    blobs = dest / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    descriptors, diff_ids = [], []
    suffix = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}[compression]
    for layer in [layers] if isinstance(layers, Path) else layers:
        tar = layer_tar(layer)
        diff_ids.append(_digest(tar))
        descriptors.append(
            _put(blobs, compress(tar, compression), f"{_OCI}.layer.v1.tar{suffix}"),
        )
    document = image_config(diff_ids, **config)
    manifest = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.manifest.v1+json",
        "config": _put(blobs, _json(document), f"{_OCI}.config.v1+json"),
        "layers": descriptors,
    }
    entry = _put(blobs, _json(manifest), f"{_OCI}.manifest.v1+json")
    entry["platform"] = {"architecture": document["architecture"], "os": "linux"}
    if tag is not None:
        entry["annotations"] = {"org.opencontainers.image.ref.name": tag}
        if "/" in tag or ":" in tag:
            entry["annotations"]["io.containerd.image.name"] = tag
    index_path = dest / "index.json"
    manifests = json.loads(index_path.read_bytes())["manifests"] if index_path.exists() else []
    index = {
        "schemaVersion": 2,
        "mediaType": f"{_OCI}.index.v1+json",
        "manifests": [*manifests, entry],
    }
    index_path.write_bytes(_json(index))
    (dest / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return dest


def build_docker_archive(
    dest: Path, *, layers: Sequence[Layer] | Path, tag: str | None = None, **config: Any
) -> Path:
    """Writes a `docker save` archive in its older form (manifest.json, one directory a layer).

    A name ending in ``.gz`` or ``.tgz`` is compressed. Returns `dest`.
    """
    members: dict[str, bytes] = {}
    names, diff_ids = [], []
    for layer in [layers] if isinstance(layers, Path) else layers:
        tar = layer_tar(layer)
        diff_ids.append(_digest(tar))
        name = f"{diff_ids[-1].removeprefix('sha256:')}/layer.tar"
        members[name] = tar
        names.append(name)
    document = _json(image_config(diff_ids, **config))
    config_name = f"{hashlib.sha256(document).hexdigest()}.json"
    members[config_name] = document
    manifest = [{"Config": config_name, "RepoTags": [tag] if tag else None, "Layers": names}]
    members["manifest.json"] = _json(manifest)
    tar = layer_tar(members)
    dest.write_bytes(compress(tar, "gzip") if dest.suffix in (".gz", ".tgz") else tar)
    return dest


def busybox_files() -> dict[str, bytes | str | Entry]:
    """A small root file system around the host's static busybox, with a link for each of its applets.

    Raises:
        FileNotFoundError: there is no static busybox (Debian: busybox-static).
    """
    found = shutil.which("busybox")
    if found is None:
        raise FileNotFoundError("no busybox in PATH; install the package busybox-static")
    applets = subprocess.run([found, "--list"], check=True, capture_output=True, text=True).stdout.split()
    files: dict[str, bytes | str | Entry] = {
        name: directory() for name in ("bin", "dev", "etc", "proc", "root", "run", "sys", "usr", "var")
    }
    files["tmp"] = directory(0o1777)
    files["bin/busybox"] = executable(Path(found).read_bytes())
    files.update({f"bin/{name}": symlink("busybox") for name in sorted(applets) if name != "busybox"})
    files["usr/bin"] = symlink("../bin")
    files["etc/passwd"] = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
    files["etc/group"] = "root:x:0:\nnogroup:x:65534:\n"
    files["etc/os-release"] = 'ID=busybox\nNAME="busybox"\nPRETTY_NAME="busybox"\n'
    return files


def busybox_image(dest: Path, *, tag: str = "midge/busybox:latest", **config: Any) -> Path:
    """An OCI layout with busybox and a shell as its command. Returns `dest`."""
    config.setdefault("cmd", ["/bin/sh"])
    config.setdefault("env", ["PATH=/usr/bin:/bin"])
    return build_layout(dest, layers=[busybox_files()], tag=tag, **config)


_INDEX_HTML = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>midge</title>
<h1>hello from a midge machine</h1>
</html>
"""


def busybox_web_image(dest: Path, *, tag: str = HELLO_TAG) -> Path:
    """An OCI layout with a web server on port 8080 that serves an index page. Returns `dest`.

    ``/cgi-bin/whoami`` answers with the machine's host name and uptime.
    """
    whoami = "#!/bin/sh\nprintf 'Content-Type: text/plain\\r\\n\\r\\n'\nhostname\ncat /proc/uptime\n"
    site: dict[str, bytes | str | Entry] = {
        "www": directory(),
        "www/index.html": _INDEX_HTML,
        "www/cgi-bin": directory(),
        "www/cgi-bin/whoami": executable(whoami),
    }
    return build_layout(
        dest,
        layers=[busybox_files(), site],
        entrypoint=["/bin/busybox"],
        cmd=["httpd", "-f", "-p", str(HELLO_PORT), "-h", "/www"],
        env=["PATH=/usr/bin:/bin"],
        workdir="/www",
        exposed_ports=[f"{HELLO_PORT}/tcp"],
        labels={"org.opencontainers.image.title": "midge hello"},
        tag=tag,
    )


def debian_root(dest: Path, *, include: Sequence[str] = (), suite: str = "bookworm") -> Path:
    """A minimal Debian root made by mmdebstrap; needs root and a package mirror. Returns `dest`."""
    command = ["mmdebstrap", "--quiet", "--variant=minbase", "--mode=root"]
    if include:
        command.append(f"--include={','.join(include)}")
    subprocess.run([*command, suite, str(dest)], check=True)
    return dest


def _json(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _put(blobs: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = _digest(data)
    (blobs / digest.removeprefix("sha256:")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}
