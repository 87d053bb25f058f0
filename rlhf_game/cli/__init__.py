"""The command line. Every command is a module here; it imports what it needs when it runs."""

from rlhf_game.cli.app import main

__all__ = ["main"]
