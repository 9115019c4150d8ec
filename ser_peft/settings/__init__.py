"""Settings of a training: its yaml and command line, read and checked."""

from ser_peft.settings.arguments import parse_arguments

__all__ = ["parse_arguments"]
