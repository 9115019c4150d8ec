"""What the train.py of every recipe does: SpeechBrain's skeleton, once."""

import re
from io import StringIO
from pathlib import Path

import speechbrain as sb
import yaml
from hyperpyyaml import load_hyperpyyaml, resolve_references
from speechbrain.utils.distributed import ddp_init_group, run_on_main
from speechbrain.utils.run_opts import RunOptions

from ser_peft.brains import EmotionBrain
from ser_peft.data import datasets
from ser_peft.errors import InputError, one_line_errors

__all__ = ["finished", "load_hparams", "train_emotion"]

# What may change between two starts of one run: where things are, how fast.
FREE = ("data_folder", "num_workers", "ckpt_interval_minutes")


def train_emotion(argv, prepare):
    """Prepare a corpus, train, test once, report.

    Started again after a kill it goes on where it was; started again after
    the end it says so.

    Arguments
    ---------
    argv : list of str
        A yaml and its overrides, as of ``python train.py``.
    prepare : callable
        Takes ``data_folder``, ``save_folder``, ``fold`` and ``classes`` and
        writes the manifests.
    """
    with one_line_errors():
        hparams_file, run_opts, overrides = sb.parse_arguments(argv)
        ddp_init_group(run_opts)
        hparams = load_hparams(hparams_file, overrides, EmotionBrain.reads)
        output_folder = hparams["output_folder"]
        if finished(hparams_file, overrides, output_folder):
            print(f"{output_folder}/results.json: this run is finished")
            return
        run_on_main(
            prepare,
            kwargs={
                "data_folder": hparams["data_folder"],
                "save_folder": hparams["manifests_folder"],
                "fold": hparams["fold"],
                "classes": hparams["classes"],
            },
        )
        about, sets = datasets(
            hparams["manifests_folder"], hparams["max_seconds"]
        )
        sb.create_experiment_directory(output_folder, hparams_file, overrides)
        brain = EmotionBrain(hparams, run_opts, about, sets)
        brain.fit(
            hparams["epoch_counter"],
            brain.train_loader(),
            brain.eval_loader("valid"),
        )
        results = brain.report()
        low, high = results["ua_ci95"]
        print(
            f"test UA {results['ua']:.3f} (95 % CI {low:.3f} to {high:.3f}), "
            f"WA {results['wa']:.3f}; report in {output_folder}/report.html"
        )


def load_hparams(hparams_file, overrides, reads):
    """Load a recipe's yaml, refusing what nothing would read.

    Arguments
    ---------
    hparams_file : str
        Path of the yaml.
    overrides : str
        ``--key=value`` pairs of the command line, as SpeechBrain's
        `parse_arguments` gives them.
    reads : iterable of str
        Top-level keys that the Brain and the script read.

    Returns
    -------
    dict
        The hyperparameters, built.

    Raises
    ------
    InputError
        If the file is missing or no yaml, a flag names no key, a required
        key is not given, or a key is read by nothing.
    """
    text = _read(hparams_file)
    keys = re.findall(r"^([A-Za-z]\w*):", text, flags=re.MULTILINE)
    referred = set(re.findall(r"<(\w+)", text))
    known = referred | set(reads) | set(RunOptions().as_dict())
    unread = [key for key in keys if key not in known]
    if unread:
        raise InputError(
            f"{hparams_file}: nothing reads the key '{unread[0]}'; remove it "
            "or correct its name"
        )
    given = yaml.safe_load(overrides) or {} if overrides else {}
    for key in given:
        if key not in keys:
            raise InputError(
                f"--{key}: {hparams_file} has no such key; it has "
                f"{', '.join(keys)}"
            )
    for key in re.findall(r"^(\w+): *!PLACEHOLDER", text, re.MULTILINE):
        if key not in given:
            raise InputError(f"--{key}=... is needed")
    try:
        return load_hyperpyyaml(StringIO(text), overrides)
    except yaml.YAMLError as error:
        raise InputError(f"{hparams_file}: not valid yaml ({error})") from error


def finished(hparams_file, overrides, output_folder):
    """Whether this very run is finished; refuse to mix two runs.

    Arguments
    ---------
    hparams_file, overrides : str
        As for `load_hparams`.
    output_folder : str or Path
        Where the run writes.

    Returns
    -------
    bool
        True if ``results.json`` is there.

    Raises
    ------
    InputError
        If the folder holds a run with other settings.
    """
    folder = Path(output_folder)
    before = folder / "hyperparams.yaml"
    if before.exists():
        old = _settings(before.read_text(encoding="utf-8"))
        new = _settings(
            resolve_references(
                StringIO(_read(hparams_file)), overrides
            ).getvalue()
        )
        for key in sorted(old.keys() | new.keys()):
            if key not in FREE and old.get(key) != new.get(key):
                raise InputError(
                    f"output_folder {folder}: holds a run with another "
                    f"'{key}'; choose another --output_folder or delete it"
                )
    return (folder / "results.json").exists()


def _read(hparams_file):
    try:
        return Path(hparams_file).read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"{hparams_file}: cannot be read; give one of the recipe's "
            "hparams/*.yaml"
        ) from error


def _settings(text):
    """Top-level keys and the text of their values, comments left out."""
    lines = [
        line
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith("#")
    ]
    settings, key = {}, None
    for line in lines:
        match = re.match(r"([A-Za-z_]\w*):", line)
        key = match.group(1) if match else key
        settings[key] = settings.get(key, "") + line + "\n"
    return settings
