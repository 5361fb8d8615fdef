"""The mock driver: machines that do nothing, on order.

A product feature: whole-cluster tests, demos and load tests need no virtualisation. What a machine does is ordered by
its metadata, key ``midge.mock``, a JSON object; see `midge.drivers.mock.order`.
"""

from midge.drivers.mock.driver import MockDriver
from midge.drivers.mock.order import Order

__all__ = ["MockDriver", "Order"]
