"""The command for long recordings: ``ser-peft timeline``."""

from pathlib import Path

from ser_peft.cli.common import (
    check_positive,
    inference,
    load,
    new_command,
    say,
    write_page,
)
from ser_peft.errors import InputError

__all__ = ["add_commands"]

KINDS = ".csv", ".textgrid", ".html"


def add_commands(commands):
    """Add the command to ``ser-peft``."""
    add = new_command(commands, timeline)
    inference(add)
    add("recording", help="audio file of any length")
    kinds = "x.csv: a row a segment; x.TextGrid: for Praat; x.html: a page"
    add("--out", required=True, help=kinds)
    windows = "also write this .csv: a row a window, not smoothed"
    add("--windows", metavar="TABLE", help=windows)
    window = "seconds that the model hears at once (%(default)s)"
    add("--window", type=float, default=4.0, metavar="SECONDS", help=window)
    hop = "seconds from one window to the next (%(default)s)"
    add("--hop", type=float, default=1.0, metavar="SECONDS", help=hop)
    batch = "seconds of audio that are scored at once; default: 30"
    add("--batch-seconds", type=float, metavar="SECONDS", help=batch)
    unsure = (
        "no label where the highest probability is below this; auto: the "
        "model's own threshold"
    )
    add("--unsure", type=probability, metavar="P", help=unsure)
    silent = "leave the sound out of the page"
    add("--no-audio", action="store_false", dest="sound", help=silent)


def timeline(args):
    """Emotions along a recording of any length, where somebody speaks."""
    from ser_peft.data.audio import Recording
    from ser_peft.inference.timeline import write_rows

    _check(args)
    page = Path(args.out).suffix.lower() == ".html"
    render = _renderer(args) if page else None
    recording = Recording(args.recording, warn=True)
    found = load(args).timeline(
        recording,
        args.window,
        args.hop,
        args.unsure,
        args.batch_seconds,
        progress=True,
        name=Path(args.recording).name,
    )
    if page:
        model = Path(args.model).name
        text = render(found, recording, args.sound, model, progress=True)
        write_page(args.out, text)
    else:
        found.write(args.out)
    if args.windows:
        write_rows(args.windows, found.windows, found)
    spoken = sum(one.end - one.start for one in found.segments)
    say(
        f"{args.out}: {len(found.segments)} segments, {spoken:.1f} s of speech "
        f"in {found.seconds:.1f} s"
    )


def _renderer(args):
    """Look for what a page needs before the work is done."""
    try:
        from ser_peft.report.timeline_page import render_timeline
    except ImportError as error:  # where only ONNX files are run
        raise InputError(
            f"--out {args.out}: a page needs {error.name} and the other "
            "requirements of ser_peft; give a .csv or .TextGrid"
        ) from error
    return render_timeline


def probability(text):
    return text if text == "auto" else float(text)


def _check(args):
    if Path(args.out).suffix.lower() not in KINDS:
        raise InputError(f"--out {args.out}: give a .csv, .TextGrid or .html")
    if args.windows and Path(args.windows).suffix.lower() != ".csv":
        raise InputError(f"--windows {args.windows}: give a .csv")
    check_positive(args, "batch_seconds", "unsure")
