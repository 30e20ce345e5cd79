"""The version, from the installed package's metadata; the number itself stands in pyproject.toml alone."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("gankern")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+uninstalled"
