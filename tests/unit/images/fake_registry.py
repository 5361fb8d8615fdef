"""A registry in memory, with the bad habits of real ones, behind httpx2's transport seam."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2

from midge.images.media import sha256

HOST = "registry.test"
REPOSITORY = "team/app"
REFERENCE = f"{HOST}/{REPOSITORY}:v1"
_PATH = re.compile(r"/v2/(?P<repository>.+)/(?P<kind>manifests|blobs)/(?P<version>[^/]+)")


class _Cut(httpx2.AsyncByteStream):
    """A body that may end in a broken connection."""

    def __init__(self, data: bytes, cut: bool) -> None:
        self._data = data
        self._cut = cut

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._data), 4096):
            yield self._data[start : start + 4096]
        if self._cut:
            raise httpx2.ReadError("connection reset")


class FakeRegistry(httpx2.AsyncBaseTransport):
    """Serves one OCI layout as `REFERENCE`.

    Attributes:
        auth: ``""``, ``"bearer"`` or ``"basic"``; users `password` by name may get in.
        cut_after: bytes of a blob after which the connection breaks; counts down in `cuts`.
        ranges: whether Range is honoured.
        storage: a host blobs are redirected to.
        status: answer everything with this status.
        requests: everything asked, in order.
    """

    def __init__(self, layout: Path) -> None:
        self.blobs = {
            sha256(path.read_bytes()): path.read_bytes() for path in (layout / "blobs/sha256").iterdir()
        }
        index = json.loads((layout / "index.json").read_bytes())
        self.manifest = index["manifests"][0]
        self.tags = {"v1": self.manifest["digest"]}
        self.auth = ""
        self.passwords: dict[str, str] = {}
        self.realm = "https://auth.test/token"
        self.cut_after = 0
        self.cuts = 0
        self.ranges = True
        self.storage = ""
        self.status = 0
        self.token_life_s = 300
        self.requests: list[httpx2.Request] = []
        self.blob_requests: Counter[str] = Counter()

    @property
    def layers(self) -> list[str]:
        return [layer["digest"] for layer in json.loads(self.blobs[self.manifest["digest"]])["layers"]]

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.status:
            return httpx2.Response(self.status)
        if request.url.host == "auth.test":
            return self._token(request)
        if request.url.host == self.storage:
            return self._blob(request, request.url.path.removeprefix("/"))
        if self.auth and not self._is_allowed(request):
            return self._challenge()
        found = _PATH.fullmatch(request.url.path)
        if found is None or found["repository"] != REPOSITORY:
            return httpx2.Response(404)
        digest = self.tags.get(found["version"], found["version"])
        if digest not in self.blobs:
            return httpx2.Response(404)
        if found["kind"] == "manifests":
            headers = {"Content-Type": self.manifest["mediaType"], "Docker-Content-Digest": digest}
            return httpx2.Response(200, headers=headers, stream=_Cut(self.blobs[digest], False))
        if self.storage:
            return httpx2.Response(307, headers={"Location": f"https://{self.storage}/{digest}"})
        return self._blob(request, digest)

    def _blob(self, request: httpx2.Request, digest: str) -> httpx2.Response:
        self.blob_requests[digest] += 1
        data, status, headers = self.blobs[digest], 200, {}
        wanted = request.headers.get("range")
        if wanted and self.ranges:
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if start >= len(data):
                return httpx2.Response(416)
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            data, status = data[start:], 206
        cut = self.cuts > 0 and len(data) > self.cut_after
        if cut:
            self.cuts -= 1
            data = data[: self.cut_after]
        return httpx2.Response(status, headers=headers, stream=_Cut(data, cut))

    def _is_allowed(self, request: httpx2.Request) -> bool:
        header = request.headers.get("authorization", "")
        if self.auth == "bearer":
            return header == "Bearer good"
        return header in self._basics()

    def _basics(self) -> set[str]:
        return {httpx2.BasicAuth(*pair)._auth_header for pair in self.passwords.items()}

    def _challenge(self) -> httpx2.Response:
        if self.auth == "basic":
            return httpx2.Response(401, headers={"WWW-Authenticate": 'Basic realm="x"'})
        scope = f"repository:{REPOSITORY}:pull"
        header = f'Bearer realm="{self.realm}",service="{HOST}",scope="{scope}"'
        return httpx2.Response(401, headers={"WWW-Authenticate": header})

    def _token(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.params["service"] == HOST
        if self.passwords and request.headers.get("authorization") not in self._basics():
            return httpx2.Response(401)
        body = json.dumps({"token": "good", "expires_in": self.token_life_s}).encode()
        return httpx2.Response(200, stream=_Cut(body, False))
