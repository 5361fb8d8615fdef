"""Requests about apps."""

from __future__ import annotations

from midge.client.request import Request, get, path, query


def list_apps(org: str) -> Request:
    return get(path("apps"), query=query(org_slug=org))


def get_app(name: str) -> Request:
    return get(path("apps", name))


def create(name: str, org: str, network: str = "") -> Request:
    """An empty name lets the server choose one. Not idempotent: a second send finds the name taken."""
    body = {"name": name, "org_slug": org} | ({"network": network} if network else {})
    return Request(method="POST", path=path("apps"), body=body)


def destroy(name: str) -> Request:
    return Request(method="DELETE", path=path("apps", name), query=query(force=True), idempotent=True)
