"""What a run made, how diverse it is, and what the kernels saved: numbers, pictures and one page."""

from gankern.training.report.findings import Findings
from gankern.training.report.write import write_report

__all__ = ["Findings", "write_report"]
