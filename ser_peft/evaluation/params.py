"""How many parameters a method trains, from configurations alone."""

import copy
import re
from contextlib import ExitStack
from io import StringIO
from pathlib import Path

import peft
import torch
from hyperpyyaml import load_hyperpyyaml, resolve_references
from ruamel.yaml import YAML, MappingNode, ScalarNode, YAMLError

from ser_peft.adapters import BottleneckConfig, PeftLobe, PromptConfig
from ser_peft.errors import InputError
from ser_peft.evaluation.markdown import markdown_table
from ser_peft.heads import HEADS, LayerMixHead
from ser_peft.heads.fusion import FUSIONS
from ser_peft.lobes import shapes
from ser_peft.lobes.configs import config_folder

__all__ = [
    "count",
    "count_methods",
    "count_recipe",
    "format_table",
    "methods",
]


FOLDER = Path(__file__).parents[1] / "methods"
"""Folder of the methods' yamls, which the recipes include."""

SIZES = {
    peft.AdaLoraConfig: (("rank", "target_r"),),
    peft.LoraConfig: (("rank", "r"),),
    BottleneckConfig: (("bottleneck", "bottleneck"),),
    PromptConfig: (("length", "length"),),
}
"""Settings that `methods` changes, a configuration each."""


def methods(targets=None, **sizes):
    """Methods that the recipes may include, with their settings.

    Arguments
    ---------
    targets : str, optional
        Modules that methods of PEFT adapt, in place of the file's; see
        `PeftLobe`.
    **sizes : int
        In place of the files': ``rank`` of LoRA and its kin (AdaLoRA starts
        with half as much again; VeRA's is something else, and stays),
        ``bottleneck`` of adapters, ``length`` of prompts, frames a layer.

    Returns
    -------
    dict of str to tuple
        Name -> method and targets for `PeftLobe`, settings in words.

    Raises
    ------
    InputError
        If a size is below 1.

    Example
    -------
    >>> methods(rank=8, targets="ffn")["lora"][1:]
    ('ffn', 'r=8, ffn')
    """
    for size, value in sizes.items():
        if value is not None and value < 1:
            raise InputError(f"--{size} {value}: must be at least 1")
    found = {}
    for path in sorted(FOLDER.glob("*.yaml")):
        with open(path, encoding="utf-8") as stream:
            content = load_hyperpyyaml(stream)
        config, goal = content["method"], targets or content["targets"]
        words = []
        for one in config if isinstance(config, list) else [config]:
            for size, key in SIZES.get(type(one), ()):
                if sizes.get(size):
                    setattr(one, key, sizes[size])
                words.append(f"{key}={getattr(one, key)}")
            if isinstance(one, peft.AdaLoraConfig) and sizes.get("rank"):
                one.init_r = 3 * one.target_r // 2
            if isinstance(one, peft.PeftConfig):
                words.append(goal)
        found[content["name"]] = config, goal, ", ".join(words)
    return found


def count(encoder, head, text_encoder=None):
    """Count the parameters of a model, which need not have weights.

    Arguments
    ---------
    encoder : PeftLobe
        With its method.
    head : ser_peft.heads.Head
        What trains beside it.
    text_encoder : PeftLobe, optional
        Counted together with the encoder.

    Returns
    -------
    dict
        ``method``, ``adapter`` and ``head`` (what trains), ``total``, and
        ``adapter_bytes``, the size of the tensors that are exported.
        AdaLoRA is counted as it starts.
    """
    encoders = [encoder] if text_encoder is None else [encoder, text_encoder]
    in_head, whole = _numel(head), sum(map(_numel, encoders))
    return {
        "method": encoder.method_name,
        "adapter": sum(e.num_adapter_parameters for e in encoders),
        "head": in_head,
        "total": whole + in_head,
        "adapter_bytes": sum(e.num_saved_bytes for e in encoders),
    }


def count_methods(
    backbone,
    method=None,
    head="LayerMixHead",
    classes=4,
    conv=True,
    **settings,
):
    """Count what one or all methods train in a backbone.

    Arguments
    ---------
    backbone : str or Path
        Hugging Face id or local folder; see `ser_peft.lobes.shapes`.
    method : str, optional
        One of `methods`, all where absent.
    head : str
        One of `ser_peft.heads.HEADS`.
    classes : int
        How many.
    conv : bool
        Whether the head mixes in hidden state 0.
    **settings
        See `methods`.

    Returns
    -------
    list of dict
        One a method: ``backbone``, ``settings`` (in words), ``encoder`` (its
        own parameters) and what `count` gives.

    Raises
    ------
    InputError
        If there is no such backbone, method or head.
    """
    chosen = methods(**settings)
    if method is not None:
        chosen = {method: _pick(chosen, method, "--method")}
    head = _pick(HEADS, head, "--head")
    mix = {} if conv else {"conv": False}
    if mix and not issubclass(head, LayerMixHead):
        raise InputError(f"--no-conv: {head.__name__} has no such setting")
    bare, rows = shapes(backbone), []
    for name, (config, targets, words) in chosen.items():
        with torch.device("meta"):
            encoder = PeftLobe(
                copy.deepcopy(bare), config, targets, trainable=False
            )
            row = count(encoder, head(encoder, classes, **mix))
        row |= {"backbone": str(backbone), "method": name, "settings": words}
        rows.append(row | {"encoder": _numel(bare)})
    return rows


def count_recipe(hparams_file, backbone=None, classes=4):
    """Count what a recipe's yaml trains.

    A yaml can name anything that Python can call: here only lobes, encoders,
    methods and heads are built, and nothing else is called.

    Arguments
    ---------
    hparams_file : str or Path
        With the keys ``backbone``, ``lobe``, ``encoder`` and ``head``; where
        there is text, ``text_backbone`` and so on.
    backbone : str, optional
        In place of the yaml's own.
    classes : int
        How many, where the yaml has the name of a class set.

    Returns
    -------
    dict
        As one of `count_methods`; ``settings`` is the yaml's name.

    Raises
    ------
    InputError
        If it is no such yaml, or its model is made of anything else.
    """
    try:
        _refuse_calls(hparams_file)
        text = Path(hparams_file).read_text(encoding="utf-8")
        given = re.findall(r"^(\w+): *!PLACEHOLDER", text, re.MULTILINE)
        given = dict.fromkeys(given, ".")
        if backbone is not None:
            given["backbone"] = str(backbone)
        stream = StringIO(text)
        stream.name = str(hparams_file)  # includes are relative to it
        tree = YAML().load(resolve_references(stream, given))
        backbone, bare = tree["backbone"], 0
        parts = [key for key in ("text_encoder", "encoder") if key in tree]
        with ExitStack() as stack:
            for key in parts:
                kind = key.removesuffix("encoder")
                source = tree[f"{kind}backbone"]
                lobe = tree[f"{kind}lobe"]
                bare += _numel(shapes(source, lobe.get("depth")))
                folder = stack.enter_context(config_folder(source))
                lobe |= {"source": folder, "weights": False}
                tree[key]["trainable"] = False
            if isinstance(tree["head"].get("classes"), str):
                tree["head"]["classes"] = classes
            model = StringIO()
            YAML().dump({key: tree[key] for key in (*parts, "head")}, model)
            _refuse_strangers(hparams_file, model.getvalue())
            with torch.device("meta"):
                model = load_hyperpyyaml(StringIO(model.getvalue()))
    except InputError:
        raise
    except _NO_RECIPE as e:
        raise InputError(
            f"--yaml {hparams_file}: cannot be counted ({e!r}); give one of a "
            "recipe's hparams/*.yaml"
        ) from e
    return {
        "backbone": str(backbone),
        "settings": Path(hparams_file).name,
        "encoder": bare,
        **count(model["encoder"], model["head"], model.get("text_encoder")),
    }


def _refuse_calls(path, depth=0):
    """Refuse a yaml, or one that it includes, that calls when it is read."""
    text = Path(path).read_text(encoding="utf-8")
    if "!applyref" in text:
        raise InputError(
            f"--yaml {path}: !applyref calls what it names when the yaml is "
            "read; write its result instead"
        )
    for name in re.findall(r"!include:(\S+)", text):
        if depth > 10:
            raise InputError(f"--yaml {path}: !include:{name}: goes in circles")
        _refuse_calls(Path(path).parent / name, depth + 1)


def _refuse_strangers(path, text):
    """Refuse a yaml of a model that names more than parts of models."""
    nodes = [YAML().compose(text)]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ScalarNode):
            # HyperPyYAML reads a tuple once more, tags and all.
            stranger = node.value.startswith("(") and "!" in node.value
        else:
            stranger = False
            nodes += (
                [part for pair in node.value for part in pair]
                if isinstance(node, MappingNode)
                else node.value
            )
        if stranger or not KNOWN_TAGS.fullmatch(str(node.tag)):
            named = node.value if stranger else node.tag
            raise InputError(
                f"--yaml {path}: {named}: is not built for counting, only "
                "lobes, encoders and heads of ser_peft, configurations of peft "
                "and modules of torch.nn are; give one of a recipe's "
                "hparams/*.yaml"
            )


KNOWN_TAGS = re.compile(
    r"tag:yaml\.org,2002:(?:bool|float|int|map|merge|null|seq|str)|!tuple"
    r"|!(?:new|name|apply):(?:ser_peft\.(?:"
    + "|".join(
        [
            r"adapters\.(?:PeftLobe|BottleneckConfig|PromptConfig)",
            r"lobes\.(?:load_lobe|load_text|SpanMask)",
            rf"heads\.(?:{'|'.join([*HEADS, *FUSIONS])})",
            r"pretraining\.states\.StateHead",
        ]
    )
    + r")|peft\.[A-Z]\w*Config|torch\.nn\.[A-Z]\w*)"
)
"""Tags of what a counted model is made of."""


def _numel(module):
    return sum(p.numel() for p in module.parameters())


_NO_RECIPE = (
    AttributeError,
    ImportError,
    KeyError,
    OSError,
    TypeError,
    ValueError,
    YAMLError,
)


def _pick(known, name, flag):
    if name not in known:
        raise InputError(f"{flag} {name}: unknown; give {', '.join(known)}")
    return known[name]


def format_table(rows):
    """Lay counts out as a markdown table.

    Arguments
    ---------
    rows : list of dict
        From `count_methods` and `count_recipe`.

    Returns
    -------
    str
        Ending in a newline.
    """
    head = "method|settings|adapter|head|trained %|encoder|total|adapter MB"
    cells = [
        [
            row["backbone"],
            row["method"],
            row["settings"],
            *(f"{row[key]:,}" for key in ("adapter", "head")),
            f"{100 * (row['adapter'] + row['head']) / row['total']:.2f}",
            *(f"{row[key]:,}" for key in ("encoder", "total")),
            f"{row['adapter_bytes'] / 1e6:.2f}",
        ]
        for row in rows
    ]
    return markdown_table(["backbone", *head.split("|")], cells)
