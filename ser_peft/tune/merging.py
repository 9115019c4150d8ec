"""Settings put into the text of a yaml, which stays as it was otherwise."""

import json
import re

from ruamel.yaml import YAML, MappingNode

from ser_peft.settings.places import is_place

__all__ = ["overrides_of", "with_settings"]


def overrides_of(settings):
    """Write settings as flags of a recipe.

    Arguments
    ---------
    settings : dict
        Key -> text; a dot in a key leads into a mapping.

    Returns
    -------
    list of str

    Example
    -------
    >>> overrides_of({"lr": "0.1", "peft.method.r": "8", "peft.lr": "0.2"})
    ['--lr=0.1', '--peft={method: {r: 8}, lr: 0.2}']
    """
    tree = {}
    for key, text in settings.items():
        *path, last = key.split(".")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[last] = text
    return [f"--{key}={_flow(node)}" for key, node in tree.items()]


def with_settings(text, settings):
    """Put settings into the text of a yaml.

    Arguments
    ---------
    text : str
        A recipe's yaml. Its comments and its other lines stay.
    settings : dict
        Key -> text, as behind ``--key=``; a dot leads into a mapping.
        ``method`` is the name of another file that ``peft`` includes, or the
        path of one.

    Returns
    -------
    str

    Example
    -------
    >>> yaml = "lr: !ref <a>  # why\\npeft: !include:m/lora.yaml {}\\n"
    >>> settings = {"lr": "0.1", "method": "dora", "peft.method.r": "8"}
    >>> print(with_settings(yaml, settings), end="")
    lr: 0.1  # why
    peft: !include:m/dora.yaml {method: {r: 8}}
    """
    for key, value in settings.items():
        if key == "method":
            path = value if value.endswith(".yaml") else rf"\g<2>{value}.yaml"
            text = re.sub(
                r"^(peft: *!include:)(\S*/)?[^\s/]+", rf"\g<1>{path}", text,
                count=1, flags=re.MULTILINE,
            )  # fmt: skip
            continue
        if is_place(key) and not re.fullmatch(r"[\w./-]*", value):
            value = json.dumps(value, ensure_ascii=False)
        start, end, value = _place(text, key.split("."), value)
        text = f"{text[:start]}{value}{text[end:]}"
    return text


def _place(text, path, value):
    """Where in a yaml a value goes: start, end and how it is written there."""
    node, depth = YAML().compose(text), 0
    while isinstance(node, MappingNode) and depth < len(path):
        inner = {name.value: part for name, part in node.value}
        if path[depth] not in inner:
            break
        node, depth = inner[path[depth]], depth + 1
    start, end = node.start_mark.index, node.end_mark.index
    if depth == len(path):  # of what is no flow, the end is the next line
        end = start + len(text[start:end].rstrip())
        # Nothing may stand right behind a colon.
        return start, end, " " * (text[start - 1 : start] == ":") + value
    for part in reversed(path[depth + 1 :]):
        value = f"{{{part}: {value}}}"
    value = f"{path[depth]}: {value}"
    if depth == 0:  # a key that the yaml leaves out
        return len(text), len(text), f"{value}\n"
    # What an !include: or a {} has more to it.
    return end - 1, end - 1, ", " * bool(node.value) + value


def _flow(node):
    """A tree of texts as a yaml in one line."""
    if isinstance(node, str):
        return node
    inside = ", ".join(f"{key}: {_flow(part)}" for key, part in node.items())
    return f"{{{inside}}}"
