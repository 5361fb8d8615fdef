"""Checks values against the part of Swagger 2.0 that Firecracker's API description uses.

Stricter than Swagger in one thing, as Firecracker is: a member that is not described is an error.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

_TYPES: dict[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "boolean": bool,
    "array": list,
    "object": dict,
}


class Description:
    """The API's description, loaded from where the project keeps what it was designed against."""

    def __init__(self) -> None:
        yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
        root = Path(__file__).resolve().parents[4]
        shared = Path(os.environ.get("MIDGE_SHARED") or root.parent / "shared")
        path = shared / "reference" / "firecracker-api.yaml"
        if not path.is_file():
            pytest.skip(f"{path} is not there; MIDGE_SHARED says where it is")
        self.document: dict[str, Any] = yaml.safe_load(path.read_text())

    def operation(self, method: str, path: str) -> dict[str, Any]:
        """The description of one request; braces in `path` as the description has them."""
        operation: dict[str, Any] = self.document["paths"][path][method.lower()]
        return operation

    def body(self, method: str, path: str) -> dict[str, Any]:
        """The schema of a request's body."""
        parameters = self.operation(method, path)["parameters"]
        [schema] = [parameter["schema"] for parameter in parameters if parameter["in"] == "body"]
        return self.resolve(schema)

    def answer(self, method: str, path: str, status: int) -> dict[str, Any] | None:
        """The schema of an answer; None where there is no body."""
        responses = self.operation(method, path)["responses"]
        schema = responses.get(status, responses.get("default", {})).get("schema")
        return None if schema is None else self.resolve(schema)

    def resolve(self, schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref")
        if reference is None:
            return schema
        return self.resolve(self.document["definitions"][reference.rpartition("/")[2]])

    def errors(self, value: Any, schema: dict[str, Any], where: str = "body") -> list[str]:
        """What is wrong with a value."""
        schema = self.resolve(schema)
        kind = schema.get("type", "object")
        is_number_by_mistake = kind == "integer" and isinstance(value, bool)
        if not isinstance(value, _TYPES[kind]) or is_number_by_mistake:
            return [f"{where} is no {kind}"]
        found = []
        if "enum" in schema and value not in schema["enum"]:
            found.append(f"{where} is {value!r}, not one of {schema['enum']}")
        if "minimum" in schema and value < schema["minimum"]:
            found.append(f"{where} is less than {schema['minimum']}")
        if "maximum" in schema and value > schema["maximum"]:
            found.append(f"{where} is more than {schema['maximum']}")
        if kind == "array":
            for index, item in enumerate(value):
                found += self.errors(item, schema["items"], f"{where}[{index}]")
        if kind == "object":
            properties = schema.get("properties", {})
            found += [f"{where} lacks {name}" for name in schema.get("required", []) if name not in value]
            for name, member in value.items():
                if name in properties:
                    found += self.errors(member, properties[name], f"{where}.{name}")
                elif not schema.get("additionalProperties"):
                    found.append(f"{where}.{name} is not known")
        return found
