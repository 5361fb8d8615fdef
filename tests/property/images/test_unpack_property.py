"""Any sequence of tar members: unpacking never escapes, and gives what a simple model says."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from midge.errors import ImageInvalid
from midge.images.merge import MergeLayer, merge
from midge.images.model import LayerInfo
from midge.testing.images import Entry, layer_tar
from tests.unit.images.jail import Jail

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="unpacking needs root")]

NAMES = ["a", "b", "c"]
HOSTILE = ["..", "/", "outside", ".wh.a", ".wh..wh..opq", ".wh..", "../outside", "", "."]
SETTINGS = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Members(list[tuple[str, Entry]]):
    """Ordered members that may repeat a name, which a mapping cannot."""

    def items(self) -> Members:
        return self


def paths(parts: list[str], most: int) -> st.SearchStrategy[str]:
    return st.lists(st.sampled_from(parts), min_size=1, max_size=most).map("/".join)


hostile_paths = paths(NAMES + HOSTILE, 5)
hostile_entries = st.builds(
    Entry,
    kind=st.sampled_from(["file", "dir", "symlink", "hardlink", "char", "block", "fifo"]),
    target=st.one_of(
        hostile_paths, st.sampled_from(["/etc", "../../outside", "../../outside/secret", "/", "."])
    ),
    data=st.just(b""),
    mode=st.integers(0, 0o7777),
    device=st.sampled_from([(0, 0), (1, 3), (8, 0)]),
    xattrs=st.sampled_from([{}, {"user.a": b"b"}, {"trusted.overlay.opaque": b"y"}]),
)


@SETTINGS
@given(st.lists(st.tuples(hostile_paths, hostile_entries), max_size=12))
def test_nothing_escapes_whatever_the_members(members: list[tuple[str, Entry]]) -> None:
    with tempfile.TemporaryDirectory() as base:
        jail = Jail(Path(base))
        try:
            jail.unpack(Members(members))  # type: ignore[arg-type] # has the one method layer_tar uses
        except ImageInvalid:
            pass


Tree = dict[str, Any]
tame_entries = st.one_of(
    st.binary(max_size=5).map(lambda data: Entry(data=data)),
    st.sampled_from([0o755, 0o700]).map(lambda mode: Entry(kind="dir", mode=mode)),
    st.just(Entry(kind="symlink", target="nowhere")),
)
tame_names = st.sampled_from([*NAMES, *NAMES, ".wh.a", ".wh.b", ".wh..wh..opq"])
tame_members = st.lists(
    st.tuples(st.tuples(st.lists(st.sampled_from(NAMES), max_size=2), tame_names), tame_entries), max_size=10
)


def walk(tree: Tree, path: list[str]) -> Tree | None:
    """The directory at a path, made where it is missing; None where something else is in the way."""
    for part in path:
        below = tree.setdefault(part, {})
        if not isinstance(below, dict):
            return None
        tree = below
    return tree


def apply_layer(lower: Tree, members: list[tuple[tuple[list[str], str], Entry]]) -> Tree | None:
    """What the OCI image-spec says a layer does, on dictionaries: directories are dicts, the rest tuples.

    Whiteouts hide lower entries only; None means the layer is impossible.
    """
    upper: Tree = {}
    hidden: list[list[str]] = []
    opaque: list[list[str]] = []
    for (parents, name), entry in members:
        where = walk(upper, parents)
        if where is None:
            return None
        if name == ".wh..wh..opq":
            opaque.append(parents)
        elif name.startswith(".wh."):
            hidden.append([*parents, name[4:]])
        elif entry.kind == "dir":
            if not isinstance(where.get(name, {}), dict):
                hidden.append([*parents, name])
            if not isinstance(where.get(name), dict):
                where[name] = {}
        else:
            where[name] = (entry.kind, entry.data, entry.target)
            # Marks below something that is gone are gone with it.
            gone = [*parents, name]
            hidden = [path for path in hidden if path[: len(gone)] != gone or len(path) == len(gone)]
            opaque = [path for path in opaque if path[: len(gone)] != gone]
    return _overlay(lower, upper, hidden, opaque, [])


def _overlay(
    lower: Any, upper: Tree, hidden: list[list[str]], opaque: list[list[str]], at: list[str]
) -> Tree:
    below: Tree = lower if isinstance(lower, dict) and at not in opaque else {}
    merged: Tree = {name: value for name, value in below.items() if [*at, name] not in hidden}
    for name, value in upper.items():
        if isinstance(value, dict):
            merged[name] = _overlay(merged.get(name), value, hidden, opaque, [*at, name])
        else:
            merged[name] = value
    return merged


def read(path: Path) -> Any:
    info = path.lstat()
    if stat.S_ISDIR(info.st_mode):
        return {below.name: read(below) for below in path.iterdir()}
    if stat.S_ISLNK(info.st_mode):
        return ("symlink", b"", str(path.readlink()))
    return ("file", path.read_bytes(), "")


@SETTINGS
@given(st.lists(tame_members, min_size=1, max_size=3))
def test_merged_layers_are_what_the_specification_says(
    layers: list[list[tuple[tuple[list[str], str], Entry]]],
) -> None:
    with tempfile.TemporaryDirectory() as base:
        expected: Tree | None = {}
        unpacked: list[MergeLayer] = []
        for number, members in enumerate(layers):
            assert expected is not None
            expected = apply_layer(expected, members)
            jail = Jail(Path(base) / str(number))
            info = unpack(jail, members)
            if info is None or expected is None:
                assert info is None
                assert expected is None
                return
            unpacked.append(MergeLayer(jail.root, implicit=info.implicit, opaque=info.root_opaque))
        dest = Path(base) / "merged"
        dest.mkdir()
        merge(unpacked, dest)
        assert read(dest) == expected


def unpack(jail: Jail, members: list[tuple[tuple[list[str], str], Entry]]) -> LayerInfo | None:
    tar = layer_tar(Members(("/".join([*parents, name]), entry) for (parents, name), entry in members))  # type: ignore[arg-type] # as above
    try:
        return jail.unpack_tar(tar)
    except ImageInvalid:
        return None
