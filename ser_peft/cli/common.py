"""Arguments, output and locks that commands share."""

import os
import shlex
import signal
from contextlib import contextmanager

from ser_peft.errors import InputError, printable
from ser_peft.io import atomic_path, check_writable
from ser_peft.storage.lock import only_process

__all__ = [
    "MODEL",
    "check_positive",
    "class_set",
    "computing",
    "encoders",
    "inference",
    "load",
    "new_command",
    "print_counts",
    "protocols",
    "say",
    "slurm_of",
    "slurm_parameters",
    "stoppable",
    "write_page",
]


MODEL = (
    "a finished run, its model/ folder, or a name: of a released model, or "
    "user/name[@revision] of the Hugging Face hub"
)


def new_command(commands, run, **options):
    """Add a command; return the function that adds an argument to it.

    Arguments
    ---------
    commands : argparse._SubParsersAction
        From `add_subparsers`.
    run : callable
        Takes the parsed arguments; the command has its name and docstring.
    **options
        For `argparse.ArgumentParser`.

    Returns
    -------
    callable
        `argparse.ArgumentParser.add_argument`.
    """
    options |= {"help": run.__doc__, "description": run.__doc__}
    parser = commands.add_parser(run.__name__, **options)
    parser.set_defaults(run=run)
    return parser.add_argument


def class_set(text):
    """Name of a class set: a number where it is one."""
    return int(text) if text.isdigit() else text


def protocols(add):
    """Add the arguments that say how a corpus is split."""
    classes = "class set, 0 for dimensions alone; default: the corpus's first"
    add("--classes", type=class_set, help=classes)
    add("--protocol", help="default: the corpus's first")
    names = "numbers to predict: arousal valence dominance"
    add("--dimensions", nargs="+", default=[], metavar="NAME", help=names)


def encoders(add, text="where the encoder is, if it moved"):
    """Add the arguments that name a model's encoders."""
    add("--backbone", help=text)
    add("--text_backbone", help="the same for its text encoder")


def inference(add):
    """Add the arguments of commands that load a model to use it."""
    add("model", help=MODEL)
    encoders(add)
    add("--device", help="default: a GPU if there is one")
    add(
        "--precision", choices=["auto", "fp32", "bf16", "fp16"], default="auto",
        help="default: auto, bf16 where the device computes in it; scores in "
        "fp32 are the same on all devices",
    )  # fmt: skip
    key = "public key (PEM) of the person who must have signed the model"
    add("--verify", metavar="KEY", help=key)


def load(args):
    """Load the model that a command was given, for inference."""
    # Before torch: clips have many lengths, for each of which oneDNN would
    # keep kernels, 300 MB in the end.
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "16")
    from ser_peft.inference.onnx import is_onnx, load_onnx

    if is_onnx(args.model):  # without torch, which may not be there
        places = {k: getattr(args, k) for k in ("backbone", "text_backbone")}
        how = {"device": args.device, "verify": args.verify}
        precision = args.precision.replace("auto", "")
        return load_onnx(args.model, precision=precision, **places, **how)
    from ser_peft.device import find_device
    from ser_peft.inference import load_model

    model = load_model(
        args.model,
        args.backbone,
        device=find_device(args.device),
        text_backbone=args.text_backbone,
        verify=args.verify,
    )
    return model.optimize_for_inference(args.precision)


@contextmanager
def computing(args, out):
    """Check a command's output folder and device; hold the folder meanwhile.

    Arguments
    ---------
    args : argparse.Namespace
        With ``device`` and ``argv``.
    out : str or Path
        Folder, made where it is missing.

    Yields
    ------
    dict
        ``device``, and ``command``, the command line for the report.
    """
    from ser_peft.device import find_device

    check_writable(out, "out")
    command = shlex.join(["ser-peft", *args.argv])
    with only_process(out, "out"):
        yield {"device": find_device(args.device), "command": command}


def check_positive(args, *keys):
    """Refuse flags that were given and are not above 0."""
    for key in keys:
        value = getattr(args, key)
        if value not in (None, "auto") and not value > 0:
            flag = key.replace("_", "-")
            raise InputError(f"--{flag} {value:g}: give more than 0")


def slurm_parameters(add):
    """Add the arguments that say where jobs run."""
    add("--cluster", choices=["local", "slurm"], default="local")
    add(
        "--slurm", nargs="+", default=[], metavar="KEY=VALUE",
        help="as time=240 (minutes) partition=gpu gpus_per_node=1; needs "
        "pip install 'ser_peft[slurm]'",
    )  # fmt: skip


def slurm_of(args):
    """Parameters of sbatch that were given; None for jobs on this machine."""
    slurm = {} if args.cluster == "slurm" else None
    for text in args.slurm:
        key, equals, value = text.partition("=")
        if slurm is None or not equals:
            raise InputError(
                f"--slurm {text}: write key=value, and --cluster slurm"
            )
        slurm[key] = int(value) if value.isdigit() else value
    return slurm


@contextmanager
def stoppable():
    """Let any polite signal end this process by an exception, once."""

    def stop(number, frame):
        for other in before:
            signal.signal(other, signal.SIG_IGN)  # while it cleans up
        raise SystemExit(128 + number)

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {n: signal.getsignal(n) for n in numbers}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # nohup
            signal.signal(number, stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def say(line, file=None):
    """Print one line, whatever is in the names that are in it."""
    print(printable(line), file=file)


def print_counts(counts):
    """Print a table of counts.

    Arguments
    ---------
    counts : dict
        Column -> {row: count}, for instance split -> {class: clips}.

    Example
    -------
    >>> print_counts({"train": {"angry": 20, "sad": 8}, "test": {"sad": 2}})
              train    test
    angry        20       0
    sad           8       2
    """
    rows = dict.fromkeys(name for part in counts.values() for name in part)
    width = max(map(len, rows)) + 2
    print(" " * width + "".join(column.rjust(8) for column in counts))
    for name in rows:
        cells = [str(part.get(name, 0)).rjust(8) for part in counts.values()]
        say(name.ljust(width) + "".join(cells))


def write_page(path, text):
    """Write a page, whatever is in the names that are in it."""
    with atomic_path(path) as tmp:
        tmp.write_text(text, "utf-8", errors="backslashreplace")
