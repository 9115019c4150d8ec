"""Commands on models: what they train, predict and score; their folders."""

import json
import re
import sys
from pathlib import Path

from ser_peft.cli.common import MODEL, computing, encoders, new_command, say
from ser_peft.errors import InputError

__all__ = ["add_commands"]


def add_commands(commands):
    """Add the commands to ``ser-peft``."""
    add = new_command(commands, params)
    add("backbone", nargs="*", help="Hugging Face ids or folders")
    add("--method", help="as lora; default: all in a table")
    add("--rank", type=int, help="rank of LoRA and its kin")
    add("--bottleneck", type=int, help="width of adapters")
    add("--length", type=int, help="number of prompt frames")
    add("--targets", help="attention, ffn, attention+ffn, or a regex")
    add("--head", default="LayerMixHead", help="class of the head")
    add("--classes", type=int, default=4, help="number of classes")
    conv = "the head leaves hidden state 0 out"
    add("--no-conv", action="store_false", dest="conv", help=conv)
    add("--yaml", help="count a recipe's own settings instead")
    add("--json", action="store_true", help="one object a line")

    add = new_command(commands, evaluate)
    add("model", help=MODEL)
    add(
        "test",
        help="a folder of manifests, one split in it (test.json), or the name "
        "of a corpus, all of which is tested",
    )
    add("data_folder", nargs="?", help="folder of a corpus that is named")
    add("--out", help="default: results/MODEL/on_TEST")
    add(
        "--trust_start", nargs="?", const="True", choices=["True", "False"],
        help="test a model that has no record of the speakers it has heard",
    )  # fmt: skip
    encoders(add)
    add("--device", help="default: a GPU if there is one")

    add = new_command(commands, export)
    add("model", help=MODEL)
    add("out", help="new folder; its name is the model's")
    merge = "merge the adapter into the encoder, and write that too"
    add("--merge", action="store_true", help=merge)
    onnx = "write OUT.onnx instead, one file that runs without torch"
    add("--onnx", action="store_true", help=onnx)
    add("--int8", action="store_true", help="with --onnx: smaller and faster")
    encoders(add, "where the encoder is for the model's users")
    add(
        "--sign", metavar="KEY",
        help="sign the folder with this private key (PEM), see `predict "
        "--verify`; needs pip install 'ser_peft[sign]'",
    )  # fmt: skip
    yaml = "add a hyperparams.yaml for SpeechBrain's own EncoderClassifier"
    add("--speechbrain", action="store_true", help=yaml)


def params(args):
    """Count what methods train in a backbone; needs no weights."""
    from ser_peft.evaluation.params import (
        count_methods,
        count_recipe,
        format_table,
    )

    if args.classes < 1:
        raise InputError(f"--classes {args.classes}: give 1 or more")
    if not (args.yaml or args.backbone):
        raise InputError("params: give a BACKBONE, or --yaml of a recipe")
    taken = "head classes conv rank bottleneck length targets".split()
    settings = {key: getattr(args, key) for key in taken}
    rows = []
    for backbone in args.backbone or [None]:
        if args.yaml:
            rows.append(count_recipe(args.yaml, backbone, args.classes))
        else:
            rows += count_methods(backbone, args.method, **settings)
    if args.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        print(format_table(rows), end="")


def evaluate(args):
    """Test a trained model on speakers of another set."""
    from ser_peft.evaluation.elsewhere import evaluate
    from ser_peft.evaluation.results import headline
    from ser_peft.report.run_page import write_report

    named = args.data_folder is not None
    name = args.test if named else "_".join(Path(args.test).parts[-2:])
    name = re.sub(r"[^\w.-]", "_", name.removesuffix(".json"))
    out = args.out or Path("results") / Path(args.model).name / f"on_{name}"
    with computing(args, out) as how:
        command = how.pop("command")
        tested = evaluate(
            args.model,
            args.test,
            out,
            data_folder=args.data_folder,
            trust_start=args.trust_start == "True",
            backbone=args.backbone,
            text_backbone=args.text_backbone,
            **how,
        )
        write_report(out, **tested, command=command)
    say(f"test {headline(tested['results'])}; report in {out}/report.html")


def export(args):
    """Copy a finished run to a folder to ship, with its hashes."""
    if args.onnx or args.int8:
        return _export_onnx(args)
    from ser_peft.inference.export import export
    from ser_peft.storage.released import registry_file

    entry = export(
        args.model,
        args.out,
        args.merge,
        args.backbone,
        args.text_backbone,
        args.sign,
        args.speechbrain,
    )
    print(json.dumps(entry, indent=2))
    say(
        f"{args.out}: done; to load it by its name, paste the entry above into "
        f"{registry_file()}",
        file=sys.stderr,
    )


def _export_onnx(args):
    from ser_peft.inference.onnx_export import export_onnx

    for flag in ("merge", "text_backbone", "sign", "speechbrain"):
        if getattr(args, flag):
            raise InputError(f"--{flag}: is not for --onnx; leave it out")
    if not args.onnx:
        raise InputError("--int8: is for ONNX files; add --onnx")
    about = export_onnx(args.model, args.out, args.int8, args.backbone)
    print(json.dumps(about, indent=2))
    size = Path(args.out).stat().st_size / 1e6
    say(f"{args.out}: done, {size:.1f} MB", file=sys.stderr)
