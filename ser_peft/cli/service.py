"""Commands that put a model to work for others."""

import os

from ser_peft.cli.common import encoders, new_command
from ser_peft.errors import extra

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(commands, serve)
    model = "a finished run, its model/ folder, or a released model's name"
    add("model", help=model)
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
    encoders(add)
    add("--device", help="default: a GPU if there is one")
    add(
        "--precision", default="fp32", choices=["fp32", "bf16", "fp16", "auto"],
        help="auto: the fastest of the device; scores then differ by 0.01",
    )  # fmt: skip
    key = "public key (PEM) of the person who must have signed the model"
    add("--verify", metavar="KEY", help=key)


def serve(args):
    """A page and a REST interface that name emotions, with one model."""
    with extra("serve"):
        from ser_peft.service import About, Limits, Service, serve
    from ser_peft.device import find_device
    from ser_peft.inference import load_model

    limits = Limits(args.max_mb, args.max_seconds, args.max_requests)

    def service():
        model = load_model(
            args.model,
            args.backbone,
            device=find_device(args.device),
            text_backbone=args.text_backbone,
            verify=args.verify,
        ).optimize_for_inference(args.precision)
        return Service(model, About.of(args.model), limits, args.batch_seconds)

    token = args.token or os.environ.get("SER_PEFT_TOKEN") or None
    serve(service, args.host, args.port, token)
