"""What a waiting guest may run ahead: the image's own words, and nothing of a machine's."""

from __future__ import annotations

from typing import Any

from midge.drivers.rehearsal import PROGRAM_BYTES_MAX, SHELL, programs
from midge.machine.spec import ImageSpec


def image(**members: Any) -> ImageSpec:
    return ImageSpec(digest="sha256:0", reference="x", **members)


def test_the_images_command_runs_as_the_image_says_and_then_a_shell() -> None:
    found = programs(
        image(
            entrypoint=["/app"], cmd=["-v"], env=["A=b=c", "broken", "=x"], working_dir="/srv", user="app:app"
        )
    )
    assert [program.argv for program in found] == [("/app", "-v"), SHELL]
    assert {(program.env, program.cwd, program.user) for program in found} == {
        ((("A", "b=c"),), "/srv", "app:app")
    }


def test_an_image_without_a_command_rehearses_a_shell_once() -> None:
    [program] = programs(image())
    assert (program.argv, program.cwd, program.user) == (SHELL, "/", None)
    assert len(programs(image(cmd=list(SHELL)))) == 1


def test_what_is_too_long_for_a_message_is_left_out() -> None:
    assert [p.argv for p in programs(image(cmd=["x" * PROGRAM_BYTES_MAX, "y"]))] == [SHELL]
    assert programs(image(env=[f"A={'x' * PROGRAM_BYTES_MAX}"])) == ()
