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


def methods(rank=None, bottleneck=128, length=None, targets=None):
    """The methods that PEFT-SER compares and more, with their settings.

    Arguments
    ---------
    rank : int, optional
        Of LoRA and its kin: 16, in "combined" 32 where absent. VeRA, whose
        rank means something else, has its 256.
    bottleneck : int
        Width of the adapters' hidden layer.
    length : int, optional
        Prompt frames a layer: 5, in "combined" 1 where absent.
    targets : str, optional
        See `PeftLobe`: "attention+ffn", in "combined" "ffn" where absent.

    Returns
    -------
    dict of str to tuple
        Name -> method and targets for `PeftLobe`, settings in words. The
        defaults of "combined" are those of Feng and Narayanan 2023.

    Example
    -------
    >>> methods(rank=8)["lora_ffn"][1:]
    ('ffn', 'r=8, ffn')
    """
    r, p = rank or 16, length or 5
    goal = targets or "attention+ffn"
    both, one, few = targets or "ffn", length or 1, rank or 32
    adapter = BottleneckConfig(bottleneck)
    lora = peft.LoraConfig
    adalora = peft.AdaLoraConfig(init_r=3 * r // 2, target_r=r, total_step=1)
    return {
        "lora": (lora(r=r), goal, f"r={r}, {goal}"),
        "lora_ffn": (lora(r=r), "ffn", f"r={r}, ffn"),
        "dora": (lora(r=r, use_dora=True), goal, f"r={r}, {goal}"),
        "adalora": (adalora, goal, f"r={3 * r // 2} to {r}, {goal}"),
        "ia3": (peft.IA3Config(), goal, goal),
        "vera": (peft.VeraConfig(), goal, f"r=256, {goal}"),
        "adapter": (adapter, goal, f"width {bottleneck}"),
        "parallel_adapter": (
            BottleneckConfig(bottleneck, parallel=True),
            goal,
            f"width {bottleneck}",
        ),
        "prompt": (PromptConfig(p), goal, f"length {p}"),
        "combined": (
            [lora(r=few), adapter, PromptConfig(one)],
            both,
            f"r={few}, {both}, width {bottleneck}, length {one}",
        ),
        "frozen": ("frozen", goal, ""),
        "full": ("full", goal, ""),
    }


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
