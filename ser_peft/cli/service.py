"""Commands that put a model to work for others."""

import os

from ser_peft.cli.common import inference, load, new_command
from ser_peft.errors import extra

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(commands, serve)
    inference(add)
    host = "address to listen on; another one than 127.0.0.1 needs a token"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, default=8000, help="0: a free one; default: 8000")
    token = "what clients must have; default: $SER_PEFT_TOKEN, seen by nobody"
    add("--token", help=token)
    add(
        "--max-mb", type=float, default=50, metavar="N",
        help="megabytes of a request; default: 50",
    )  # fmt: skip
    add(
        "--max-seconds", type=float, default=600, metavar="N",
        help="seconds of a recording; default: 600",
    )  # fmt: skip
    add(
        "--max-requests", type=int, default=128, metavar="N",
        help="requests at once, others are told to come back; default: 128",
    )  # fmt: skip
    add(
        "--batch-seconds", type=float, metavar="N",
        help="seconds of audio that are scored at once",
    )  # fmt: skip


def serve(args):
    """A page and a REST interface that name emotions, with one model."""
    with extra("serve"):
        from ser_peft.service import About, Limits, Service, serve
    limits = Limits(args.max_mb, args.max_seconds, args.max_requests)

    def service():
        about = About.of(args.model)
        return Service(load(args), about, limits, args.batch_seconds)

    token = args.token or os.environ.get("SER_PEFT_TOKEN") or None
    serve(service, args.host, args.port, token)
