"""What Prometheus sees: bounded label sets, base units, no machine ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import midge
from midge.worker.trace import label_of

if TYPE_CHECKING:
    from midge.worker.host import Host

REQUEST_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
# Phases that the control plane is done with in a tenth of a millisecond, and some that wait for an emulated guest.
PHASE_BUCKETS_S = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.05,
    0.1,
    0.2,
    0.5,
    1,
    2,
    5,
    10,
    30,
)
OPERATION_BUCKETS_S = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.03,
    0.05,
    0.075,
    0.1,
    0.2,
    0.3,
    0.5,
    1,
    2,
    5,
    10,
    30,
    60,
)
WITH_A_WAY = frozenset({"start", "resume", "restart", "update"})  # operations that may bring a machine up


class Metrics:
    """One registry for one api, so that several can live in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "midge_http_requests",
            "Requests answered, by route and status.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "midge_http_request_seconds",
            "Time from the request's head to the end of the answer.",
            ["method", "route"],
            buckets=REQUEST_BUCKETS_S,
            registry=self.registry,
        )
        self._machines = Gauge(
            "midge_machines", "Machines of this host by state.", ["state"], registry=self.registry
        )
        self._memory_total = Gauge(
            "midge_host_memory_bytes", "Memory machines may use in all.", registry=self.registry
        )
        self._memory_reserved = Gauge(
            "midge_host_memory_reserved_bytes", "Memory reserved by machines.", registry=self.registry
        )
        self._kept = Gauge(
            "midge_driver_kept", "What the driver keeps ready, by name.", ["what"], registry=self.registry
        )
        self._phases = {
            operation: Histogram(
                f"midge_{operation}_phase_seconds",
                f"How long the named phases of a {operation} took, by the way the machine came up.",
                ["driver", "path", "phase"],
                buckets=PHASE_BUCKETS_S,
                registry=self.registry,
            )
            for operation in ("start", "resume", "suspend")
        }
        self._operations = Histogram(
            "midge_operation_seconds",
            "From the arrival of a request until the end of its operation was durable.",
            ["driver", "operation", "path"],
            buckets=OPERATION_BUCKETS_S,
            registry=self.registry,
        )
        self._failed = Counter(
            "midge_operations_failed",
            "Operations that ended with an error.",
            ["driver", "operation"],
            registry=self.registry,
        )
        info = Gauge("midge_build_info", "The running version.", ["version"], registry=self.registry)
        info.labels(midge.__version__).set(1)
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Counts one answered request. Called once a request, so the labelled children are kept."""
        key = (method, route, status)
        counter = self._counters.get(key)
        if counter is None:
            counter = self._counters[key] = self._requests.labels(method, route, str(status))
            self._histograms.setdefault((method, route), self._seconds.labels(method, route))
        counter.inc()
        self._histograms[method, route].observe(seconds)

    def requests_total(self) -> int:
        """Requests answered since the process began."""
        total = 0.0
        for counter in self._counters.values():
            total += sum(sample.value for metric in counter.collect() for sample in metric.samples[:1])
        return int(total)

    def render(self, host: Host) -> bytes:
        """The text format, with the host's figures as of now."""
        status = host.status()
        self._machines.clear()
        for state, count in status.machines.items():
            self._machines.labels(state).set(count)
        self._memory_total.set(status.memory_total_mb * 1024 * 1024)
        self._memory_reserved.set(status.memory_reserved_mb * 1024 * 1024)
        for what, count in status.kept.items():
            self._kept.labels(what).set(count)
        self._count_operations(host)
        return generate_latest(self.registry)

    def _count_operations(self, host: Host) -> None:
        """Adds what has ended since the last scrape, so that nothing is counted while a machine starts."""
        driver = host.status().driver
        for traced in host.take_traces():
            way = traced.way if traced.operation in WITH_A_WAY else ""
            if not traced.ok:
                self._failed.labels(driver, traced.operation).inc()
                continue
            self._operations.labels(driver, traced.operation, way).observe(traced.total_ms / 1000)
            histogram = self._phases.get(traced.operation)
            if histogram is None:
                continue
            before = 0.0
            for phase, end_ms in traced.phases:
                histogram.labels(driver, way, label_of(phase)).observe((end_ms - before) / 1000)
                before = end_ms
