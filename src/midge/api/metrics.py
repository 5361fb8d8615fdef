"""What Prometheus sees: bounded label sets, base units, no machine ids."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

import midge

if TYPE_CHECKING:
    from midge.worker.host import Host

REQUEST_BUCKETS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PHASE_BUCKETS_S = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
PHASE_MACHINES_MAX = 5_000  # machines looked at in one scrape; the rest come with the next
PHASE_STARTS_MAX = 20  # operations of one machine read in one scrape: a sample, where it has more


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
        self._phases = Histogram(
            "midge_start_phase_seconds",
            "How long the named phases of machine starts took.",
            ["kind", "phase"],
            buckets=PHASE_BUCKETS_S,
            registry=self.registry,
        )
        info = Gauge("midge_build_info", "The running version.", ["version"], registry=self.registry)
        info.labels(midge.__version__).set(1)
        self._counters: dict[tuple[str, str, int], Counter] = {}
        self._histograms: dict[tuple[str, str], Histogram] = {}
        self._newest_start = ""
        self._phases_since_ns = 0

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
        self._take_phases(host)
        return generate_latest(self.registry)

    def _take_phases(self, host: Host) -> None:
        """Adds the starts since the last scrape; wakes by the edge are among them, no hook in the hot path."""
        since_ns, newest = self._phases_since_ns, self._newest_start
        changed = [view for view in host.list() if view.updated_at_ns >= since_ns]
        changed.sort(key=lambda view: view.updated_at_ns)
        for view in changed[:PHASE_MACHINES_MAX]:
            self._phases_since_ns = view.updated_at_ns
            for start in host.phases(view.id, PHASE_STARTS_MAX):
                if start["start_id"] <= newest:
                    break
                if start.get("state", "done") != "done":
                    continue  # still under way: its phases are not complete
                self._newest_start = max(self._newest_start, start["start_id"])
                for phase, milliseconds in start["phases"]:
                    self._phases.labels(start["kind"], phase).observe(milliseconds / 1000)
