"""An HTTP client onto an api in this process that holds every answer against the api's own description."""

from __future__ import annotations

from functools import cache
from typing import Any

import httpx2
import msgspec

from midge.api.app import all_routes, build_api
from midge.api.dispatch import Api
from midge.api.openapi import build
from midge.api.services import Services

from .schema import check

_BODYLESS = (202, 204)
_ERROR = {"$ref": "#/components/schemas/ErrorBody"}


@cache
def _document() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(build(all_routes())))
    return found


class CheckedClient:
    """`get`, `post`, … as httpx2 has them; each answer is checked before it is returned."""

    def __init__(self, services: Services, token: str) -> None:
        self.api: Api = build_api(services)
        self.services = services
        self.document = _document()
        # A server error must not surface as an exception of the application: nobody over a socket would see it.
        transport = httpx2.ASGITransport(app=self.api, raise_app_exceptions=False)
        self.http = httpx2.AsyncClient(
            transport=transport,
            base_url="http://midge.test",
            headers={"authorization": f"Bearer {token}"} if token else {},
        )

    async def request(self, method: str, url: str, **options: Any) -> httpx2.Response:
        response = await self.http.request(method, url, **options)
        self.validate(response)
        return response

    async def get(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("GET", url, **options)

    async def post(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("POST", url, **options)

    async def put(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("PUT", url, **options)

    async def patch(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("PATCH", url, **options)

    async def delete(self, url: str, **options: Any) -> httpx2.Response:
        return await self.request("DELETE", url, **options)

    def validate(self, response: httpx2.Response) -> None:
        """Status, content type and body are what the document says about this route."""
        assert response.headers["fly-request-id"].endswith("-" + self.services.region)
        assert response.headers["server"].startswith("Midge/")
        found = self.api.router.find(
            response.request.method, response.request.url.raw_path.decode().partition("?")[0]
        )
        head = response.request.method == "HEAD"
        if found is None:
            if response.status_code == 405:
                assert response.headers["allow"]
                if not head:
                    check(response.json(), _ERROR, self.document["components"]["schemas"])
                return
            assert response.status_code == 404
            assert response.text == ("" if head else "404 page not found\n")
            return
        route, _ = found
        operation = self.document["paths"][route.path.replace("...}", "}")][route.method.lower()]
        described = operation["responses"].get(str(response.status_code))
        where = f"{route.method} {route.path} {response.status_code}: {response.text[:200]}"
        if described is None and response.status_code == 500:
            return
        assert described is not None, f"status is not described: {where}"
        if response.status_code in _BODYLESS:
            assert response.content == b"", where
            return
        content = described["content"]
        media_type = response.headers["content-type"].partition(";")[0]
        assert media_type in content, where
        if head:
            assert response.content == b"", where
        elif media_type == "application/json":
            check(response.json(), content[media_type]["schema"], self.document["components"]["schemas"])

    async def aclose(self) -> None:
        await self.http.aclose()
