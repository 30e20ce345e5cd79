"""What is done to whole models."""

from gankern.nn._patch import PatchReport, patch

__all__ = ["PatchReport", "patch"]
