"""What a template is good for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from midge.drivers.qemu import template
from midge.drivers.qemu.command import Hardware
from midge.drivers.qemu.template import Recipe
from midge.machine.spec import Shape
from tests.unit.drivers.firecracker.parts import make_kernel


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    hardware = Hardware(shape=Shape(), acceleration="tcg", cpu_model="max")
    return Recipe(hardware=hardware, kernel=make_kernel(tmp_path), qemu_version="7.2", upper_mb=64)


def test_a_template_is_for_what_it_was_made_with(recipe: Recipe) -> None:
    others = [
        dataclasses.replace(recipe, upper_mb=128),
        dataclasses.replace(recipe, qemu_version="7.3"),
        dataclasses.replace(recipe, hardware=dataclasses.replace(recipe.hardware, cpu_model="host")),
    ]
    assert len({recipe.key, *(other.key for other in others)}) == 4
    assert dataclasses.replace(recipe).key == recipe.key


def test_a_guest_booted_with_other_parameters_is_another(
    recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = recipe.key
    monkeypatch.setattr(template, "PARAMETERS_ID", "other")
    assert recipe.key != before
