"""Commands that put a model to work for others."""

import os

from ser_peft.cli.common import (
    MODEL,
    encoders,
    inference,
    load,
    new_command,
    say,
)
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

    add = new_command(commands, space)
    add("model", help=MODEL)
    add("out", help="new folder, to be pushed to the hub as a Space")
    merge = "merge the adapter into the encoder, and write that too"
    add("--merge", action="store_true", help=merge)
    encoders(add, "where the encoder is for the Space")


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


def space(args):
    """Write a Hugging Face Space that shows the page of a model."""
    with extra("serve"):
        from ser_peft.service import export_space

    places = args.backbone, args.text_backbone
    export_space(args.model, args.out, args.merge, *places)
    say(f"{args.out}: done; push it with `hf upload --repo-type space`")
