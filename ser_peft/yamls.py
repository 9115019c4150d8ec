"""Yamls of recipes: read, checked, built; and which run a folder holds."""

import re
from io import StringIO
from pathlib import Path

from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.constructor import DuplicateKeyError
from speechbrain.utils.run_opts import RunOptions

from ser_peft.errors import InputError

__all__ = ["build", "dump", "finished", "read_settings"]

# What may change between two starts of one run: where things are, how fast,
# and what is measured besides.
FREE = (
    "data_folder",
    "corpora",
    "num_workers",
    "ckpt_interval_minutes",
    "robustness",
    "fairness_columns",
    "cache_gb",
)

# What a yaml may leave out and a command line still give.
OPTIONAL = {
    "augmented_versions",
    "balance",
    "cache_gb",
    "dimension_weight",
    "drop_text",
    "head_epochs",
}

DONE = ("results.json", "pretraining.json")
"""What a training or a pretraining writes when all else is there."""

# Options of SpeechBrain's command line that change what is trained: they are
# kept with the settings, so that no other run goes on from this one.
DECISIVE = (
    "debug",
    "eval_precision",
    "grad_accumulation_factor",
    "max_grad_norm",
    "optimizer_step_limit",
    "precision",
    "skip_nonfinite_grads",
)


def read_settings(hparams_file, overrides, reads, run_opts=None):
    """Read a recipe's yaml, refusing what nothing would read.

    Arguments
    ---------
    hparams_file : str
        Path of the yaml.
    overrides : str
        ``--key=value`` pairs of the command line, as SpeechBrain's
        `parse_arguments` gives them.
    reads : iterable of str
        Top-level keys that the Brain and the script read.
    run_opts : speechbrain.utils.run_opts.RunOptions, optional
        The options of the command line; those that change what is trained
        are written into the settings.

    Returns
    -------
    str
        The yaml with overrides and references resolved, nothing built.

    Raises
    ------
    InputError
        If the file is missing or no yaml, a flag names no key, a required
        key is not given, or a key is read by nothing.
    """
    try:
        text = Path(hparams_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"{hparams_file}: cannot be read; give one of the recipe's "
            "hparams/*.yaml"
        ) from error
    tree = _parse(text, hparams_file)
    given = _parse(overrides, "command line")
    options = {
        key: run_opts[key]
        for key in DECISIVE
        if run_opts is not None and key in run_opts.overridden_args
    }
    known = {"seed", *reads, *RunOptions().as_dict()}
    known.update(re.findall(r"<(\w+)", text))
    for key in tree:
        if key not in known and not key.startswith("__"):
            raise InputError(
                f"{hparams_file}: nothing reads the key '{key}'; remove it "
                "or correct its name"
            )
    for key in given:
        if key not in {*tree, *OPTIONAL.intersection(reads)}:
            raise InputError(
                f"--{key}: {hparams_file} has no such key; it has "
                f"{', '.join(key for key in tree if not key.startswith('__'))}"
            )
        if key.endswith("_folder") and not isinstance(given[key], str):
            raise InputError(
                f"--{key}={given[key]}: is no path; write it as ./{given[key]}"
            )
    for key in re.findall(r"^(\w+): *!PLACEHOLDER", text, re.MULTILINE):
        if key not in given:
            raise InputError(f"--{key}=... is needed")
    merged = {}
    for key, value in (given | options).items():
        # hyperpyyaml merges a mapping into one, but takes none for a number.
        if isinstance(tree.get(key), dict):
            merged[key] = value
        else:
            tree[key] = value
    try:
        return resolve_references(StringIO(dump(tree)), merged).getvalue()
    except ValueError as error:
        raise InputError(f"{hparams_file}: {error}") from error


def build(hparams_file, text):
    """Build the hyperparameters: objects where the yaml says so.

    Arguments
    ---------
    hparams_file : str
        Path of the yaml, for messages.
    text : str
        From `read_settings`.

    Returns
    -------
    dict
        Top-level key -> value or object.

    Raises
    ------
    InputError
        If the yaml names what does not exist or gives it arguments that it
        does not take.
    """
    try:
        return load_hyperpyyaml(StringIO(text))
    except ImportError as error:
        raise InputError(f"{hparams_file}: {error}") from error
    except TypeError as error:
        # What hyperpyyaml says of a call's arguments; anything else is a bug.
        if not str(error.args[0]).startswith("Invalid argument"):
            raise
        reason = ": ".join(map(str, error.args))
        raise InputError(f"{hparams_file}: {reason}") from error


def finished(text, output_folder):
    """Whether this very run is finished; refuse to mix two runs.

    Arguments
    ---------
    text : str
        From `read_settings`.
    output_folder : str or Path
        Where the run writes.

    Returns
    -------
    bool
        True if what a run leaves last is there.

    Raises
    ------
    InputError
        If the folder holds a run with other settings.
    """
    folder = Path(output_folder)
    before = folder / "hyperparams.yaml"
    if before.exists():
        old = _by_key(before.read_text(encoding="utf-8"))
        new = _by_key(text)
        # In the file's order: what follows from a changed key stands below.
        for key in {**new, **old}:
            if key not in FREE and old.get(key) != new.get(key):
                raise InputError(
                    f"output_folder {folder}: holds a run with another "
                    f"'{key}'; choose another --output_folder or delete it"
                )
    return any((folder / name).exists() for name in DONE)


def dump(tree):
    """A yaml tree as text."""
    stream = StringIO()
    YAML().dump(tree, stream)
    return stream.getvalue()


def _parse(text, source):
    """A yaml's top level, tags kept."""
    try:
        tree = YAML().load(text) or {}
    except DuplicateKeyError as error:
        key = error.problem.split('"')[1]
        raise InputError(
            f"{source}: '{key}' is given twice; leave one out"
        ) from error
    except YAMLError as error:
        raise InputError(f"{source}: not valid yaml ({error})") from error
    if not isinstance(tree, dict):
        raise InputError(
            f"{source}: '{text.strip()[:40]}' is no list of keys and values; "
            "give --key=value"
        )
    return tree


def _by_key(text):
    """Top-level keys and the text of their values, comments left out."""
    settings, key = {}, None
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = re.match(r"([A-Za-z_]\w*):", line)
        key = match.group(1) if match else key
        settings[key] = settings.get(key, "") + line + "\n"
    return settings
