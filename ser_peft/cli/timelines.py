"""Commands on long recordings."""

from pathlib import Path

from ser_peft.cli.common import encoders, new_command, say, write_page
from ser_peft.errors import InputError

__all__ = ["add_commands"]

KINDS = ".csv", ".textgrid", ".html"


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(commands, timeline)
    model = "a finished run, its model/ folder, or a released model's name"
    add("model", help=model)
    add("recording", help="audio file of any length")
    add(
        "--out", required=True,
        help="x.csv: one row a segment; x.TextGrid: for Praat; x.html: a page",
    )  # fmt: skip
    add("--windows", help="also write this csv: one row a window")
    window = "seconds that the model hears at once (%(default)s)"
    add("--window", type=float, default=4.0, help=window)
    hop = "seconds from one window to the next (%(default)s)"
    add("--hop", type=float, default=1.0, help=hop)
    unsure = "no label below this probability; default: the model's own"
    add("--unsure", type=float, help=unsure)
    silent = "leave the sound out of the page"
    add("--no-audio", action="store_false", dest="sound", help=silent)
    encoders(add)
    add("--device", help="default: a GPU if there is one")
    add("--batch-seconds", type=float, help="audio that is scored at once")


def timeline(args):
    """Emotions along a recording of any length, where somebody speaks."""
    from ser_peft.data.audio import Recording
    from ser_peft.device import find_device
    from ser_peft.inference import load_model
    from ser_peft.inference.timeline import write_rows

    if Path(args.out).suffix.lower() not in KINDS:
        raise InputError(f"--out {args.out}: give a .csv, .TextGrid or .html")
    if args.unsure is not None and not 0 <= args.unsure <= 1:
        raise InputError(f"--unsure {args.unsure}: give a probability")
    recording = Recording(args.recording, warn=True)
    model = load_model(
        args.model,
        args.backbone,
        device=find_device(args.device),
        text_backbone=args.text_backbone,
    )
    found = model.timeline(
        recording,
        args.window,
        args.hop,
        args.unsure,
        args.batch_seconds,
        progress=True,
        name=Path(args.recording).name,
    )
    if Path(args.out).suffix.lower() == ".html":
        from ser_peft.report.timeline_page import render_timeline

        name = Path(args.model).name
        write_page(
            args.out, render_timeline(found, recording, args.sound, name)
        )
    else:
        found.write(args.out)
    if args.windows:
        write_rows(args.windows, found.windows, found)
    spoken = sum(one.end - one.start for one in found.segments)
    say(
        f"{args.out}: {len(found.segments)} segments, {spoken:.1f} s of speech "
        f"in {found.seconds:.1f} s"
    )
