"""Timing of every op against its peers, with the floor that the machine sets: what `gankern bench` runs.

`workload` says what one timed call is, `providers` who takes part, `timing` and `memory` how a call is measured,
`ceilings` what the machine can do at best, `runner` puts them together, `report` prints and stores the rows.
"""

from gankern.bench.memory import keep_freed_memory, peak_memory
from gankern.bench.providers import Provider
from gankern.bench.report import load, save
from gankern.bench.runner import Row, Settings, run
from gankern.bench.workload import ORDERS, Case

__all__ = ["ORDERS", "Case", "Provider", "Row", "Settings", "keep_freed_memory", "load", "peak_memory", "run", "save"]
