"""``ser-peft``: the commands beside the recipes."""

import argparse
import json
import re
import shlex
import signal
import sys
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

from ser_peft.corpora import CORPORA
from ser_peft.errors import InputError, one_line_errors, printable
from ser_peft.io import check_writable
from ser_peft.settings.flags import place
from ser_peft.storage.lock import only_process

# Heavy imports wait for the command that needs them: --help is quick.

__all__ = ["main"]

# Arguments that name files, folders, or models that may be folders.
PLACES = (
    "audio backbone checkpoint data_folder hparams html manifests model others "
    "out output_folder pca pretrain reference results script source "
    "test text_backbone yaml"
).split()
# What crossval hands on to the trainings. argparse would take one with a
# blank in it for another yaml.
OVERRIDE = re.compile(
    r"--(?!(folds|seeds|output_folder|pretrain|jobs|cluster|slurm)=)\w+="
)


class _Parser(argparse.ArgumentParser):
    """Refuses in one line."""

    def error(self, message):
        raise InputError(f"{message}; see {self.prog} --help")


def _say(line, file=None):
    """Print one line, whatever is in the names that are in it."""
    print(printable(line), file=file)


def _prepare(args):
    from ser_peft.data import prepare, read_manifests

    with only_process(args.out, "out"):
        prepare(
            args.corpus,
            args.data_folder,
            args.out,
            args.classes,
            args.fold,
            args.protocol,
            args.dimensions,
        )
    about, manifests = read_manifests(args.out)
    kinds = about["classes"] or ["utterances"]
    width = max(map(len, [*kinds, "speakers"])) + 2
    _say(
        f"{about['corpus']}, {about['protocol']}, fold {about['fold']} of "
        f"{about['folds_total']} ({about['protocol_sha']})"
    )
    print("".ljust(width) + "".join(split.rjust(8) for split in manifests))
    counts = {
        split: Counter(e.get("emotion", kinds[0]) for e in entries.values())
        for split, entries in manifests.items()
    }
    for name in kinds:
        _say(
            name.ljust(width)
            + "".join(str(counts[split][name]).rjust(8) for split in manifests)
        )
    print(
        "speakers".ljust(width)
        + "".join(
            str(len({e["speaker"] for e in entries.values()})).rjust(8)
            for entries in manifests.values()
        )
    )


def _probe(args):
    from ser_peft.device import find_device
    from ser_peft.evaluation.results import headline
    from ser_peft.training.probe import run_probe

    out = args.out or Path(args.manifests) / "probe" / Path(args.backbone).name
    check_writable(out, "out")
    with only_process(out, "out"):
        results = run_probe(
            args.backbone,
            args.manifests,
            out,
            device=find_device(args.device),
            command=shlex.join(["ser-peft", *args.argv]),
        )
    _say(f"linear probe: test {headline(results)}; report in {out}/report.html")


def _evaluate(args):
    from ser_peft.device import find_device
    from ser_peft.evaluation.elsewhere import evaluate
    from ser_peft.evaluation.results import headline
    from ser_peft.report.run_page import write_report

    named = args.data_folder is not None
    name = args.test if named else "_".join(Path(args.test).parts[-2:])
    name = re.sub(r"[^\w.-]", "_", name.removesuffix(".json"))
    out = args.out or Path("results") / Path(args.model).name / f"on_{name}"
    check_writable(out, "out")
    with only_process(out, "out"):
        tested = evaluate(
            args.model,
            args.test,
            out,
            data_folder=args.data_folder,
            trust_start=args.trust_start == "True",
            device=find_device(args.device),
            backbone=args.backbone,
            text_backbone=args.text_backbone,
        )
        command = shlex.join(["ser-peft", *args.argv])
        write_report(out, **tested, command=command)
    _say(f"test {headline(tested['results'])}; report in {out}/report.html")


def _transcribe(args):
    from ser_peft.data.transcribe import transcribe
    from ser_peft.device import find_device

    with only_process(args.manifests, "manifests"):
        counts = transcribe(
            args.manifests,
            args.checkpoint,
            find_device(args.device),
            args.all,
            args.language,
        )
    names = list(
        dict.fromkeys(name for part in counts.values() for name in part)
    )
    width = max(map(len, names)) + 2
    print("".ljust(width) + "".join(split.rjust(8) for split in counts))
    for name in names:
        _say(
            name.ljust(width)
            + "".join(
                str(part.get(name, 0)).rjust(8) for part in counts.values()
            )
        )


def _vggish(args):
    from ser_peft.lobes.vggish import convert_vggish

    relu = None if args.final_relu is None else args.final_relu == "on"
    folder = convert_vggish(args.source, args.out, args.pca, relu).resolve()
    _say(f"{folder}: done; give --backbone={folder} to a training")


def _predict(args):
    from tqdm import tqdm

    from ser_peft.data.audio import summary
    from ser_peft.device import find_device
    from ser_peft.inference import load_model

    model = load_model(
        args.model,
        args.backbone,
        device=find_device(args.device),
        text_backbone=args.text_backbone,
        verify=args.verify,
    )
    texts = args.texts or [""] * len(args.audio)
    if len(texts) != len(args.audio):
        raise InputError(
            f"--texts: {len(texts)} for {len(args.audio)} audio files; give "
            "one each"
        )
    if model.text_encoder and not args.texts:
        print(
            "no --texts: this model reads what is said too, and does without",
            file=sys.stderr,
        )
    pairs = list(zip(args.audio, texts, strict=True))
    broken = {}
    for path, text in tqdm(pairs, unit="file", disable=len(pairs) < 2):
        try:
            answer = model.predict([path], [text])[0]
        except InputError as error:
            broken[path] = str(error)
            continue
        if args.json:
            tqdm.write(json.dumps({"file": path, **answer}))
            continue
        parts = [f"{path}:"]
        if "label" in answer:
            parts.append(f"{answer['label']}  ({_listed(answer['scores'])})")
        if "dimensions" in answer:
            parts.append(_listed(answer["dimensions"]))
        tqdm.write(printable(" ".join(parts)))
    if len(broken) > 1:
        for message in broken.values():
            _say(message, file=sys.stderr)
    if broken:
        raise InputError(summary(broken, len(pairs)))


def _listed(values):
    return "  ".join(f"{name} {value:.2f}" for name, value in values.items())


def _export(args):
    from ser_peft.inference.export import export
    from ser_peft.storage.released import registry_file

    entry = export(
        args.model,
        args.out,
        args.merge,
        args.backbone,
        args.text_backbone,
        args.sign,
    )
    print(json.dumps(entry, indent=2))
    _say(
        f"{args.out}: done; to load it by its name, paste the entry above into "
        f"{registry_file()}",
        file=sys.stderr,
    )


def _summarize(args):
    from ser_peft.evaluation.summary import summarize
    from ser_peft.report.tables import format_summary

    summary = summarize(args.results, args.compare)
    print(format_summary(summary), end="")
    _write_summary(summary, args.out, args.html)


def _compare(args):
    from ser_peft.evaluation.compare import compare
    from ser_peft.io import atomic_path, write_json
    from ser_peft.report.comparison_page import (
        format_comparison,
        render_comparison,
    )

    if args.repeats < 1:
        raise InputError(f"--repeats {args.repeats}: give 1 or more")
    found = compare([args.reference, *args.others], args.repeats)
    print(format_comparison(found), end="")
    write_json(Path(args.out) / "compare.json", found)
    page = Path(args.out) / "compare.html"
    with atomic_path(page) as tmp:
        tmp.write_text(
            render_comparison(found), "utf-8", errors="backslashreplace"
        )
    _say(f"page: {page}")


def _write_summary(summary, out, html):
    """As JSON and as a page, where told so."""
    from ser_peft.io import atomic_path, write_json
    from ser_peft.report.summary_page import render_summary

    if out:
        write_json(out, summary)
    if html:
        with atomic_path(html) as tmp:
            tmp.write_text(
                render_summary(summary), "utf-8", errors="backslashreplace"
            )


def _params(args):
    from ser_peft.evaluation.params import (
        count_methods,
        count_recipe,
        format_table,
    )

    if args.classes < 1:
        raise InputError(f"--classes {args.classes}: give 1 or more")
    if args.yaml:
        rows = [
            count_recipe(args.yaml, backbone, args.classes)
            for backbone in args.backbone or [None]
        ]
    elif args.backbone:
        rows = [
            row
            for backbone in args.backbone
            for row in count_methods(
                backbone,
                args.method,
                head=args.head,
                classes=args.classes,
                conv=args.conv,
                rank=args.rank,
                bottleneck=args.bottleneck,
                length=args.length,
                targets=args.targets,
            )
        ]
    else:
        raise InputError("params: give a BACKBONE, or --yaml of a recipe")
    if args.json:
        print("\n".join(map(json.dumps, rows)))
    else:
        print(format_table(rows), end="")


@contextmanager
def _stoppable():
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


def _crossval(args):
    from ser_peft.crossval import crossval, numbers, trainings
    from ser_peft.evaluation.summary import summarize
    from ser_peft.report.tables import format_summary

    if args.jobs < 1:
        raise InputError(f"--jobs {args.jobs}: give 1 or more")
    slurm = {} if args.cluster == "slurm" else None
    for text in args.slurm:
        key, equals, value = text.partition("=")
        if slurm is None or not equals:
            raise InputError(
                f"--slurm {text}: write key=value, and --cluster slurm"
            )
        slurm[key] = int(value) if value.isdigit() else value
    runs = trainings(
        args.script,
        args.hparams,
        numbers(args.folds),
        numbers(args.seeds),
        args.output_folder,
        args.overrides,
        args.pretrain,
    )
    out = runs[0].folder.parents[2]
    with only_process(out, "output_folder"), _stoppable():
        failed = crossval(runs, args.jobs, slurm)
    finished = [run for run in runs if run.results.exists()]
    if finished:
        summary = summarize([run.results for run in finished])
        print("", format_summary(summary), sep="\n", end="")
        page = out / "summary.html"
        _write_summary(summary, out / "summary.json", page)
        _say(f"page: {page}")
    for name, reason in failed.items():
        _say(f"failed: {name}: {reason}", file=sys.stderr)
    if failed:
        raise SystemExit(1)


def _parser():
    parser = _Parser(
        prog="ser-peft", description="Parameter-efficient emotion recognition."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    sub = commands.add_parser(
        "prepare", help="corpus folder -> train, valid and test manifests"
    )
    sub.add_argument("corpus", help=f"{', '.join(CORPORA)}, emobox:NAME")
    sub.add_argument("data_folder", help="the corpus as published; a csv")
    sub.add_argument("out", help="gets train.json, valid.json, test.json")
    sub.add_argument(
        "--classes",
        type=lambda name: int(name) if name.isdigit() else name,
        help="class set, 0 for dimensions alone; default: the corpus's first",
    )
    sub.add_argument("--fold", type=int, default=1, help="from 1")
    sub.add_argument("--protocol", help="default: the corpus's first")
    sub.add_argument(
        "--dimensions", nargs="+", default=[], metavar="NAME",
        help="numbers to predict: arousal valence dominance",
    )  # fmt: skip
    sub.set_defaults(run=_prepare)

    sub = commands.add_parser(
        "probe", help="the linear-probe baseline of a frozen backbone"
    )
    sub.add_argument("backbone", help="Hugging Face id or local folder")
    sub.add_argument("manifests", help="folder that `prepare` wrote")
    sub.add_argument("--out", help="default: MANIFESTS/probe/BACKBONE")
    sub.add_argument("--device", help="default: a GPU if there is one")
    sub.set_defaults(run=_probe)

    sub = commands.add_parser(
        "transcribe", help="write into manifests what is said, by a Whisper"
    )
    sub.add_argument("manifests", help="folder that `prepare` wrote")
    sub.add_argument("checkpoint", help="Whisper: Hugging Face id or folder")
    sub.add_argument("--language", help="as en; default: guessed, if several")
    sub.add_argument(
        "--all", action="store_true", help="replace transcripts that are there"
    )
    sub.add_argument("--device", help="default: a GPU if there is one")
    sub.set_defaults(run=_transcribe)

    sub = commands.add_parser(
        "vggish", help="VGGish's published weights -> a folder for --backbone"
    )
    sub.add_argument("source", help="vggish-10086976.pth, or its URL")
    sub.add_argument("out", help="new folder")
    sub.add_argument(
        "--pca", help="AudioSet's vggish_pca_params.npz, to apply it too"
    )
    sub.add_argument(
        "--final-relu", choices=["on", "off"],
        help="behind the last layer; default: on, with --pca off",
    )  # fmt: skip
    sub.set_defaults(run=_vggish)

    sub = commands.add_parser(
        "params", help="what methods train in a backbone; needs no weights"
    )
    sub.add_argument("backbone", nargs="*", help="Hugging Face ids or folders")
    sub.add_argument("--method", help="as lora; default: all in a table")
    sub.add_argument("--rank", type=int, help="of LoRA and its kin")
    sub.add_argument("--bottleneck", type=int, default=128, help="of adapters")
    sub.add_argument("--length", type=int, help="of prompts")
    sub.add_argument("--targets", help="attention, ffn, attention+ffn, a regex")
    sub.add_argument("--head", default="LayerMixHead", help="its class")
    sub.add_argument("--classes", type=int, default=4, help="how many")
    sub.add_argument(
        "--no-conv", action="store_false", dest="conv",
        help="the head leaves hidden state 0 out",
    )  # fmt: skip
    sub.add_argument("--yaml", help="count a recipe's own settings instead")
    sub.add_argument("--json", action="store_true", help="one object a line")
    sub.set_defaults(run=_params)

    sub = commands.add_parser(
        "predict", help="the emotion of recordings, calibrated probabilities"
    )
    sub.add_argument(
        "model", help="a finished run, its model/ folder, or a released name"
    )
    sub.add_argument(
        "audio", nargs="+", help="audio files; those that cannot be judged "
        "are named at the end (exit status 2)",
    )  # fmt: skip
    sub.add_argument("--backbone", help="where the encoder is, if it moved")
    sub.add_argument("--text_backbone", help="likewise of a text encoder")
    sub.add_argument(
        "--texts", nargs="+", metavar="TEXT",
        help="what is said, one a file, for a model that reads it",
    )  # fmt: skip
    sub.add_argument("--device", help="default: a GPU if there is one")
    sub.add_argument(
        "--json", action="store_true",
        help="one object a line, with calibrated probabilities (scores) and "
        "uncalibrated ones",
    )  # fmt: skip
    sub.add_argument(
        "--verify", metavar="KEY",
        help="public key (PEM) of who must have signed the model",
    )  # fmt: skip
    sub.set_defaults(run=_predict)

    sub = commands.add_parser(
        "evaluate", help="test a trained model on speakers of another set"
    )
    sub.add_argument("model", help="as for predict")
    sub.add_argument(
        "test",
        help="a folder of manifests, one split in it (test.json), or the name "
        "of a corpus, all of which is tested",
    )
    sub.add_argument("data_folder", nargs="?", help="of a corpus that is named")
    sub.add_argument("--out", help="default: results/MODEL/on_TEST")
    sub.add_argument(
        "--trust_start", nargs="?", const="True", choices=["True", "False"],
        help="test a model that has no record of whom it has heard",
    )  # fmt: skip
    sub.add_argument("--backbone", help="where the encoder is, if it moved")
    sub.add_argument("--text_backbone", help="likewise of a text encoder")
    sub.add_argument("--device", help="default: a GPU if there is one")
    sub.set_defaults(run=_evaluate)

    sub = commands.add_parser(
        "export", help="a finished run -> a folder to ship, and its hashes"
    )
    sub.add_argument("model", help="as for predict")
    sub.add_argument("out", help="new folder; its name is the model's")
    sub.add_argument(
        "--merge", action="store_true",
        help="fold the adapter in and write the encoder too",
    )  # fmt: skip
    sub.add_argument("--backbone", help="where the encoder is for its users")
    sub.add_argument("--text_backbone", help="likewise of a text encoder")
    sub.add_argument(
        "--sign", metavar="KEY",
        help="sign the folder with this private key (PEM), see `predict "
        "--verify`; needs pip install 'ser_peft[sign]'",
    )  # fmt: skip
    sub.set_defaults(run=_export)

    sub = commands.add_parser(
        "summarize", help="mean and std of runs over folds and seeds"
    )
    sub.add_argument("results", nargs="+", help="results.json or folders")
    sub.add_argument(
        "--compare", nargs=2, metavar="METHOD",
        help="two methods, paired; default: all with the best",
    )  # fmt: skip
    sub.add_argument("--out", help="also write this JSON file")
    sub.add_argument("--html", help="also write this page")
    sub.set_defaults(run=_summarize)

    sub = commands.add_parser(
        "compare",
        help="models beside a reference: scores, agreement, size, latency",
    )
    sub.add_argument(
        "reference",
        help="a finished run, or a folder of one model's folds and seeds",
    )
    sub.add_argument("others", nargs="+", help="likewise, on the same test set")
    sub.add_argument(
        "--out", default="compare",
        help="gets compare.json and compare.html (%(default)s)",
    )  # fmt: skip
    sub.add_argument(
        "--repeats", type=int, default=20, help="of each timing (%(default)s)"
    )
    sub.set_defaults(run=_compare)

    sub = commands.add_parser(
        "crossval",
        help="train on every fold with every seed, then summarize",
        usage="%(prog)s SCRIPT HPARAMS [HPARAMS ...] --folds 1-5 "
        "[--seeds 8,16] --data_folder=... [--KEY=VALUE ...] [options]",
        epilog="Any --KEY=VALUE of the yaml goes to every run. Started again, "
        "it goes on: finished runs are skipped.",
        allow_abbrev=False,
    )
    sub.add_argument("script", help="a recipe's train.py")
    sub.add_argument(
        "hparams", nargs="+", help="its yamls; each gets the same folds, seeds"
    )
    sub.add_argument("--folds", required=True, help="as 1-5 or 1,3")
    sub.add_argument("--seeds", default="8", help="as 8,16,24; default: 8")
    sub.add_argument(
        "--output_folder", help="default: results, in the recipe's folder"
    )
    sub.add_argument(
        "--pretrain", nargs=2, metavar=("SCRIPT", "YAML"),
        help="as train_ptapt.py hparams/ptapt.yaml: done first, a fold and "
        "seed; the runs start from it",
    )  # fmt: skip
    sub.add_argument("--jobs", type=int, default=1, help="at once, here")
    sub.add_argument("--cluster", choices=["local", "slurm"], default="local")
    sub.add_argument(
        "--slurm", nargs="+", default=[], metavar="KEY=VALUE",
        help="as time=240 (minutes) partition=gpu gpus_per_node=1",
    )  # fmt: skip
    sub.set_defaults(run=_crossval)
    return parser


def main(argv=None):
    """Run a command.

    Arguments
    ---------
    argv : list of str, optional
        Command line without the program; ``sys.argv[1:]`` where absent.
    """
    argv = sys.argv[1:] if argv is None else argv
    with one_line_errors():
        args = _arguments(argv)
        args.run(args)


def _arguments(argv):
    parser, overrides = _parser(), []
    if argv[:1] == ["crossval"]:
        overrides = [word for word in argv if OVERRIDE.match(word)]
    args, left = parser.parse_known_args(
        [word for word in argv if word not in overrides]
    )
    if left and args.run is not _crossval:
        parser.error(f"unrecognized arguments: {' '.join(left)}")
    args.argv, args.overrides = argv, [*overrides, *left]
    for key, value in vars(args).items():
        if key in PLACES and isinstance(value, str):
            setattr(args, key, place(value, key))
        elif key in PLACES and value:
            setattr(args, key, [place(path, key) for path in value])
    for key in ("out", "html", "output_folder"):
        if path := getattr(args, key, None):
            check_writable(Path(path).parent, key)
    return args


if __name__ == "__main__":
    main()
