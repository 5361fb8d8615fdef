"""What changes between two configurations."""

from __future__ import annotations

from midge.cli.diff import lines


def test_each_member_is_a_line() -> None:
    before = {"image": "a", "guest": {"memory_mb": 256}, "env": {"X": "1"}}
    after = {"image": "b", "guest": {"memory_mb": 512}, "env": {"Y": "2"}}
    assert lines(before, after) == [
        '- env.X: "1"',
        '+ env.Y: "2"',
        "~ guest.memory_mb: 256 -> 512",
        '~ image: "a" -> "b"',
    ]


def test_absent_null_and_empty_are_equal() -> None:
    assert lines({"init": {}, "dns": None}, {"env": {}, "files": []}) == []


def test_list_elements_are_told_by_their_name() -> None:
    before = {"files": [{"guest_path": "/a", "raw_value": "1"}]}
    after = {"files": [{"guest_path": "/new", "raw_value": "2"}, {"guest_path": "/a", "raw_value": "1"}]}
    assert lines(before, after) == ['+ files[/new].guest_path: "/new"', '+ files[/new].raw_value: "2"']


def test_argument_vectors_are_one_value() -> None:
    assert lines({"init": {"cmd": ["a"]}}, {"init": {"cmd": ["a", "b"]}}) == [
        '~ init.cmd: ["a"] -> ["a", "b"]'
    ]


def test_long_values_are_cut() -> None:
    (line,) = lines({}, {"x": "y" * 1000})
    assert line.endswith("...")
    assert len(line) < 80


def test_false_and_zero_are_values() -> None:
    assert lines({"a": False}, {"a": True}) == ["~ a: false -> true"]
    assert lines({}, {"a": 0}) == ["+ a: 0"]
