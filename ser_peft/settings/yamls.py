"""Yamls of recipes: read, checked, resolved, built."""

import os
import re
import sys
import unicodedata
from copy import deepcopy
from io import StringIO
from pathlib import Path

import ruamel.yaml
from hyperpyyaml import resolve_references
from ruamel.yaml import YAML, MappingNode, ScalarNode, YAMLError
from ruamel.yaml.comments import TaggedScalar
from ruamel.yaml.constructor import DuplicateKeyError

from ser_peft.errors import InputError
from ser_peft.settings.flags import RunOptions
from ser_peft.settings.places import is_place, place

__all__ = [
    "dump",
    "map_texts",
    "parse_yaml",
    "read_settings",
    "read_yaml",
    "resolve",
    "tag_of",
    "top_keys",
]

# HyperPyYAML does so when it is first called, and takes "(a)" for a tuple.
# Done before, such a text (a folder, a label) is written in quotes.
ruamel.yaml.Loader.add_implicit_resolver("!tuple", re.compile(r"\(.*\)$"), "(")

# Keys that a yaml may leave out and a command line still give.
OPTIONAL = {
    "augmented_versions",
    "balance",
    "balanced_sampling",
    "cache_gb",
    "dimension_weight",
    "drop_text",
    "ema_decay",
    "fairness_columns",
    "first_seconds",
    "focal_gamma",
    "head_epochs",
    "keep_best",
    "logit_adjustment",
    "mixing",
    "prior_smoothing",
    "report_audio",
    "side_tasks",
    "sorting",
    "targets",
    "tracker",
    "train_classes",
    "trust_start",
    "vote_dropout",
}

BUILT = ("!new:", "!name:", "!apply:", "!include:")
"""Tags of nodes that are more than a value."""

# Errors of parsing that are a yaml's own faults: a date of no month, a circle.
_OF_A_YAML = (
    ArithmeticError,
    ImportError,
    RecursionError,
    TypeError,
    ValueError,
    YAMLError,
)

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


def _beside(hparams_file, names):
    """Path that a yaml's includes are relative to: its own, or a recipe's.

    A copy of a recipe's yaml may lie anywhere: includes that are not there
    are looked up as if it lay in the ``hparams`` of the script.
    """
    path = Path(hparams_file)
    recipe = Path(sys.argv[0]).absolute().parent / "hparams" / path.name
    for one in (path, recipe):
        if all((one.parent / name).exists() for name in names):
            return one
    return path


def _method(hparams_file, tree, name):
    """Content of another method's file than the one that a yaml includes."""
    tag = tag_of(tree.get("peft"))
    if not tag.startswith("!include:"):
        raise InputError(
            f"--method: {hparams_file} includes no method; correct its "
            "encoder's method"
        )
    name_there = tag.removeprefix("!include:")
    included = _beside(hparams_file, [name_there]).parent / name_there
    there = Path(os.path.normpath(included.parent))
    path = Path(name) if name.endswith(".yaml") else there / f"{name}.yaml"
    if not path.is_file():
        names = sorted(p.stem for p in there.glob("*.yaml"))
        raise InputError(
            f"--method={name}: there is no {path}; choose one of "
            f"{', '.join(names)}, or give the path of a yaml"
        )
    return parse_yaml(path.read_text("utf-8"), path)


def read_settings(hparams_file, given, reads, run_opts=None):
    """Read a recipe's yaml, refusing what nothing would read.

    Arguments
    ---------
    hparams_file : str
        Path of the yaml.
    given : dict
        Values in place of the yaml's, from `parse_arguments`.
    reads : iterable of str
        Top-level keys that the Brain and the script read.
    run_opts : RunOptions, optional
        The options of the command line; those that change what is trained
        are written into the settings.

    Returns
    -------
    str
        The yaml with values and references resolved, nothing built.

    Raises
    ------
    InputError
        If the file is missing or no yaml, a flag names no key, a required
        key is not given, or a key is read by nothing.
    """
    text, tree = read_yaml(hparams_file, given, OPTIONAL.intersection(reads))
    options = {
        key: run_opts[key]
        for key in DECISIVE
        if run_opts is not None and key in run_opts.overridden_args
    }
    known = {"seed", *reads, *RunOptions().as_dict()}
    known.update(re.findall(r"<(\w+)", text))
    for key in tree:
        if key not in known and not str(key).startswith("__"):
            raise InputError(
                f"{hparams_file}: nothing reads the key '{key}'; remove it "
                "or correct its name"
            )
    given = {key: given[key] for key in given if key != "method"}
    for key, value in given.items():
        there, here = tag_of(tree.get(key)), tag_of(value)
        kept = isinstance(value, dict) or here.startswith((*BUILT, "!ref"))
        none = key == "wav_augment" and value is None
        if there.startswith(BUILT) and not (kept or none):
            raise InputError(
                f"--{key}={value}: {hparams_file} has {there} there; change "
                f"what is in it, as --{key}='{{...}}', or the yaml"
            )
    merged = {}
    for key, value in (deepcopy(given) | options).items():
        # hyperpyyaml merges a mapping into one, but takes none for a number.
        if isinstance(tree.get(key), dict) and not tag_of(value):
            merged[key] = value
        else:
            tree[key] = value
    return _resolve(hparams_file, tree, merged)


def read_yaml(hparams_file, given, optional=OPTIONAL):
    """A yaml as text and as tree; refused if a value is missing or unknown.

    Nothing is asked for where `given` is None.
    """
    try:
        text = Path(hparams_file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "is no UTF-8 text"
        raise InputError(
            f"{hparams_file}: cannot be read ({reason}); give one of the "
            "recipe's hparams/*.yaml"
        ) from error
    tree = parse_yaml(text, hparams_file)
    if given is None:
        return text, tree
    if "method" in given:
        tree["peft"] = _method(hparams_file, tree, given["method"])
    for key in given:
        if key not in {*tree, *optional, "method"}:
            raise InputError(
                f"--{key}: {hparams_file} has no such key; it has "
                f"{', '.join(k for k in map(str, tree) if k[:2] != '__')}"
            )
    needed = re.findall(r"^(\w+): *!PLACEHOLDER", text, re.MULTILINE)
    needed += [key for key in given if key.endswith(("_folder", "backbone"))]
    for key in needed:
        if given.get(key) is None:
            raise InputError(f"--{key}=... is needed")
    return text, tree


def tag_of(node):
    """Tag of a yaml node, empty without one."""
    return str(getattr(getattr(node, "tag", None), "value", None) or "")


def _resolve(hparams_file, tree, merged):
    """Resolve references, with nothing in a place taken for one."""
    places = []

    def hide(key, text):
        # A name of Python's, which HyperPyYAML can do no arithmetic with.
        places.append(place(text, key))
        return f"__place_{len(places) - 1}__"

    def show(text):
        return re.sub(r"__place_(\d+)__", lambda n: places[int(n[1])], text)

    for part in (tree, merged):
        for key, value in part.items():
            if not (is_place(key) or key == "corpora"):
                continue
            if isinstance(value, TaggedScalar):
                value.value = place(value.value, key)
            part[key] = map_texts(value, lambda text, key=key: hide(key, text))
    return dump(map_texts(resolve(hparams_file, dump(tree), merged), show))


def resolve(hparams_file, text, overrides):
    """Resolve references and includes of a yaml.

    Arguments
    ---------
    hparams_file : str
        Path of the yaml.
    text : str
        Its content.
    overrides : dict
        As of `hyperpyyaml.resolve_references`.

    Returns
    -------
    dict
        Key -> value, objects not built.

    Raises
    ------
    InputError
        If an include or a reference leads nowhere.
    """
    stream = StringIO(text)
    names = re.findall(r"!include:([^\s{]+)", text)
    stream.name = str(_beside(hparams_file, names))
    try:
        return YAML().load(resolve_references(stream, overrides).read())
    except OSError as error:
        raise InputError(
            f"{hparams_file}: !include:{error.filename}: {error.strerror}; "
            "correct the path, which is relative to the yaml's folder"
        ) from error
    except _OF_A_YAML as error:
        raise InputError(f"{hparams_file}: {error}") from error


def top_keys(hparams_file):
    """Top-level keys of a yaml.

    Raises
    ------
    InputError
        If there is no such yaml.
    """
    return [*map(str, read_yaml(hparams_file, None)[1])]


def dump(tree):
    """A yaml tree as text."""
    yaml, stream = YAML(), StringIO()
    yaml.width = 2**20  # a line each: a long path is not folded
    yaml.dump(tree, stream)
    return stream.getvalue()


def map_texts(tree, function):
    """Apply a function to every text of a yaml tree, in place.

    Arguments
    ---------
    tree : dict, list, str or other
        Keys are left alone, and what has a tag, as a ``!ref``.
    function : callable
        Takes a str, gives one.

    Returns
    -------
    object
        The tree; of a str what the function gave.

    Example
    -------
    >>> map_texts({"a": ["b", 3]}, str.upper)
    {'a': ['B', 3]}
    """
    if isinstance(tree, str):
        return function(tree)
    if isinstance(tree, (dict, list)):
        for key in tree if isinstance(tree, dict) else range(len(tree)):
            tree[key] = map_texts(tree[key], function)
    return tree


def parse_yaml(text, source):
    """A yaml's top level, tags kept; places and classes as written."""
    try:
        tree, root = YAML().load(text) or {}, YAML().compose(text)
    except DuplicateKeyError as error:
        key = error.problem.split('"')[1]
        raise InputError(
            f"{source}: '{key}' is given twice; leave one out"
        ) from error
    except _OF_A_YAML as error:
        raise InputError(f"{source}: not valid yaml ({error})") from error
    if not isinstance(tree, dict):
        raise InputError(
            f"{source}: '{text.strip()[:40]}' is no list of keys and values; "
            "give --key=value"
        )
    for key, node in root.value if tree else ():
        key = key.value
        if is_place(key):
            tree[key] = _written(node, tree[key])
        elif key in ("classes", "corpora") and isinstance(node, MappingNode):
            # Labels and names are text, also 0, null, 1.0 and a date.
            pairs = zip(node.value, tree[key].values(), strict=True)
            tree[key] = {
                unicodedata.normalize("NFC", name.value): _written(part, value)
                for (name, part), value in pairs
            }
    return tree


def _written(node, value):
    """A yaml scalar as it was written; null and what has a tag as read."""
    own_tag = isinstance(value, TaggedScalar) and node.tag != "!tuple"
    if value is None or own_tag or not isinstance(node, ScalarNode):
        return value
    return node.value
