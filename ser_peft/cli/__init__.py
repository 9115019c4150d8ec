"""``ser-peft``: the commands beside the recipes."""

from ser_peft.cli.main import main

__all__ = ["main"]
