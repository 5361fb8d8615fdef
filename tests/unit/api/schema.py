"""Checks a value against the part of JSON Schema that our OpenAPI document uses."""

from __future__ import annotations

from typing import Any

_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,),
    "array": (list,),
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "null": (type(None),),
}


class Mismatch(AssertionError):
    pass


def check(value: Any, schema: dict[str, Any], components: dict[str, Any], at: str = "$") -> None:
    """Raises Mismatch, which says where."""
    if "$ref" in schema:
        check(value, components[schema["$ref"].rpartition("/")[2]], components, at)
        return
    if "anyOf" in schema:
        if not any(_fits(value, option, components, at) for option in schema["anyOf"]):
            raise Mismatch(f"{at}: {value!r} fits none of {schema['anyOf']}")
        return
    if "enum" in schema and value not in schema["enum"]:
        raise Mismatch(f"{at}: {value!r} is not in {schema['enum']}")
    kind = schema.get("type")
    if kind is not None:
        is_bool_as_number = isinstance(value, bool) and kind in ("integer", "number")
        if not isinstance(value, _TYPES[kind]) or is_bool_as_number:
            raise Mismatch(f"{at}: {value!r} is not of type {kind}")
    if kind == "object":
        _check_object(value, schema, components, at)
    elif kind == "array":
        for index, item in enumerate(value):
            prefix = schema.get("prefixItems", [])
            item_schema = prefix[index] if index < len(prefix) else schema.get("items", {})
            if item_schema is not False:
                check(item, item_schema, components, f"{at}[{index}]")


def _check_object(value: dict[str, Any], schema: dict[str, Any], components: dict[str, Any], at: str) -> None:
    for name in schema.get("required", []):
        if name not in value:
            raise Mismatch(f"{at}: {name} is missing")
    properties = schema.get("properties", {})
    additional = schema.get("additionalProperties", {})
    for name, member in value.items():
        if name in properties:
            check(member, properties[name], components, f"{at}.{name}")
        elif isinstance(additional, dict) and additional:
            check(member, additional, components, f"{at}.{name}")
        elif properties and at == "$":
            raise Mismatch(f"{at}: {name} is not described")


def _fits(value: Any, schema: dict[str, Any], components: dict[str, Any], at: str) -> bool:
    try:
        check(value, schema, components, at)
    except Mismatch:
        return False
    return True
