"""Prometheus metrics, from the registry."""

from docs.generate.tables import GENERATED, table
from prometheus_client import ProcessCollector

from unichoir.serving.metrics import Metrics

INTRODUCTION = f"""# Metrics

`unichoir serve` has these metrics at `/metrics`, in Prometheus's text format. A histogram has `_bucket`, `_sum` and
`_count`. Durations are in seconds.

{GENERATED}
"""


def rows() -> list[list[str]]:
    """Return name, type, labels and meaning of each metric."""
    found = []
    for collector in Metrics().registry._collector_to_names:
        for family in collector.collect() if isinstance(collector, ProcessCollector) else collector.describe():
            name = f"{family.name}_total" if family.type == "counter" else family.name
            labels = ", ".join(f"`{label}`" for label in getattr(collector, "_labelnames", ()))
            found.append([f"`{name}`", family.type, labels, f"{family.documentation.rstrip('.')}."])
    return sorted(found)


def page() -> str:
    """Return the whole page."""
    return "\n".join([INTRODUCTION, *table(["metric", "type", "labels", "meaning"], rows())])
