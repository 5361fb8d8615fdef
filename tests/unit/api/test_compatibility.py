"""Our description next to the published one of the Machines API.

Set MIDGE_MACHINES_OPENAPI to the published document, or have it at ``../shared/reference/machines-openapi.json``
beside the repository.
"""

from __future__ import annotations

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from midge.api.app import all_routes
from midge.api.openapi import build

_BESIDE = Path(__file__).parents[4] / "shared" / "reference" / "machines-openapi.json"
PUBLISHED = Path(os.environ.get("MIDGE_MACHINES_OPENAPI") or _BESIDE)

# Members that we leave out knowingly, by the published name of their type.
LEFT_OUT = {
    "Machine": {"incomplete_config"},  # only while a host is unreachable, which one host is not
    "MachineExecRequest": {"machine"},  # runs outside the machine's containers: there are none
    "fly.MachineConfig": set(),
}

# What the published names are called here.
OURS = {
    "App": "App",
    "AppOrganizationInfo": "Organization",
    "CreateAppRequest": "CreateApp",
    "ListAppsResponse": "ListApps",
    "Machine": "Machine",
    "MachineEvent": "MachineEvent",
    "MachineVersion": "MachineVersion",
    "MachineExecRequest": "ExecBody",
    "flydv1.ExecResponse": "ExecResult",
    "CreateMachineRequest": "CreateMachine",
    "UpdateMachineRequest": "UpdateMachine",
    "CreateLeaseRequest": "LeaseBody",
    "Lease": "Lease",
    "StrippedLease": "StrippedLease",
    "ImageRef": "ImageRef",
    "CheckStatus": "CheckStatus",
    "ProcessStat": "ProcessStat",
    "ListenSocket": "ListenSocket",
    "SignalRequest": "SignalBody",
    "StopRequest": "StopBody",
    "WaitMachineResponse": "Waited",
    "updateMetadataRequest": "MetadataChanges",
    "upsertMetadataKeyRequest": "MetadataValue",
    "metadataValueResponse": "MetadataValueResponse",
    "OrgMachine": "OrgMachine",
    "OrgMachinesResponse": "OrgMachines",
    "MachineOverviewConfig": "MachineOverviewConfig",
    "main.regionResponse": "Regions",
    "main.regionRow": "Region",
    "main.tokenInfo": "TokenInfo",
    "CurrentTokenResponse": "CurrentToken",
    "CreateAppDeployTokenRequest": "CreateDeployToken",
    "ErrorResponse": "ErrorBody",
    "fly.MachineConfig": "MachineConfig",
    "fly.MachineGuest": "Guest",
    "fly.MachineInit": "Init",
    "fly.MachineRestart": "Restart",
    "fly.MachineService": "Service",
    "fly.MachinePort": "Port",
    "fly.MachineCheck": "Check",
    "fly.MachineMount": "Mount",
    "fly.MachineProcess": "Process",
    "fly.File": "File",
    "fly.StopConfig": "StopConfig",
    "fly.DNSConfig": "Dns",
    "fly.Static": "Static",
}

# What must be there, so that nothing gets lost unnoticed; everything else of the document is for later versions.
IMPLEMENTED_MIN = 34


@cache
def published() -> dict[str, Any]:
    if not PUBLISHED.exists():
        pytest.skip(f"no published description at {PUBLISHED}")
    found: dict[str, Any] = json.loads(PUBLISHED.read_text())
    return found


@cache
def ours() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(build(all_routes())))
    return found


def report() -> dict[str, str]:
    """``implemented``, ``partial`` (a parameter is missing) or ``absent`` for every published operation."""
    found = {}
    for path, operations in published()["paths"].items():
        for method, operation in operations.items():
            mine = ours()["paths"].get(path, {}).get(method)
            if mine is None:
                found[f"{method.upper()} {path}"] = "absent"
                continue
            have = {parameter["name"] for parameter in mine["parameters"]}
            want = {parameter["name"] for parameter in operation.get("parameters", [])}
            found[f"{method.upper()} {path}"] = "partial" if want - have else "implemented"
    return found


def test_what_is_there_stays_there() -> None:
    states = report()
    assert [name for name, state in states.items() if state == "partial"] == []
    implemented = [name for name, state in states.items() if state == "implemented"]
    assert len(implemented) >= IMPLEMENTED_MIN, implemented


def test_every_machine_operation_but_memory_is_implemented() -> None:
    prefix = "/v1/apps/{app_name}/machines"
    absent = {
        name for name, state in report().items() if state == "absent" and name.split()[1].startswith(prefix)
    }
    assert all("/memory" in name for name in absent), absent


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_published_member_is_described(name: str) -> None:
    wanted = published()["components"]["schemas"][name].get("properties", {})
    have = ours()["components"]["schemas"][OURS[name]]["properties"]
    assert sorted(set(wanted) - set(have) - LEFT_OUT.get(name, set())) == []


@pytest.mark.parametrize("name", sorted(OURS))
def test_members_have_the_published_type(name: str) -> None:
    wanted = published()["components"]["schemas"][name].get("properties", {})
    have = ours()["components"]["schemas"][OURS[name]]["properties"]
    for member, schema in wanted.items():
        kind = schema.get("type")
        if member in have and kind is not None:
            assert kind in _types(have[member]) or not _types(have[member]), f"{name}.{member}"


def _types(schema: dict[str, Any]) -> set[str]:
    if "$ref" in schema:
        return _types(ours()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return set().union(*(_types(option) for option in schema["anyOf"]))
    if "enum" in schema:
        return {"string"} if all(isinstance(value, str) for value in schema["enum"]) else set()
    if schema.get("type") == "number":
        return {"number", "integer"}
    return {schema["type"]} if "type" in schema else set()


def test_success_statuses_agree() -> None:
    for path, operations in published()["paths"].items():
        for method, operation in operations.items():
            mine = ours()["paths"].get(path, {}).get(method)
            if mine is not None:
                wanted = {code for code in operation["responses"] if code.startswith("2")}
                assert wanted <= set(mine["responses"]), f"{method} {path}"


def test_operation_ids_are_unique() -> None:
    ids = [op["operationId"] for operations in ours()["paths"].values() for op in operations.values()]
    assert len(ids) == len(set(ids))


def test_every_operation_says_what_it_does() -> None:
    for path, operations in ours()["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"], f"{method} {path}"
