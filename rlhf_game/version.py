"""The version: that of the tag which was installed, or the next one with the number of commits that led to it."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rlhf-game")
except PackageNotFoundError:  # a tree that nobody installed
    __version__ = "0+unknown"
