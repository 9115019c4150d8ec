"""A model as a Hugging Face Space: the page, without the rest."""

import shutil
from importlib.metadata import distribution
from pathlib import Path

import gradio as gr
import yaml
from packaging.requirements import Requirement

from ser_peft.errors import InputError
from ser_peft.inference import load_model, models_in, read_model
from ser_peft.inference.export import export
from ser_peft.io import atomic_path
from ser_peft.service.about import About
from ser_peft.service.page import STYLE, make_page
from ser_peft.service.serving import Limits, Service

__all__ = ["export_space", "launch"]

APP = '''"""Names the emotion of speech; see README.md."""

from pathlib import Path

from ser_peft.service import launch

launch(Path(__file__).with_name("model"), {name!r})
'''
PYTHON = "3.11"


def export_space(model, out, merge=False, backbone=None, text_backbone=None):
    """Write a folder that is a Space, once it is pushed to the hub.

    The package goes with it, so that it runs this version.

    Arguments
    ---------
    model : str or Path
        A finished run, its ``model/`` folder, or a model's name.
    out : str or Path
        New folder: ``app.py``, ``requirements.txt``, ``README.md``,
        ``model/``, and the package.
    merge, backbone, text_backbone
        See `ser_peft.inference.export.export`.

    Raises
    ------
    InputError
        If `out` is there already, or the Space could not find the encoder.
    """
    out = Path(out)
    if out.exists():
        raise InputError(f"{out}: is there already; give a new folder")
    name = About.of(model).name
    package = distribution("ser_peft")
    about = f"ser_peft-{package.version}.dist-info"
    needed = [
        str(line)
        for line in map(Requirement, package.requires)
        if not line.marker or line.marker.evaluate({"extra": ""})
    ]
    front = {
        "title": f"Speech emotion recognition: {name}",
        "sdk": "gradio",
        "sdk_version": gr.__version__,
        "python_version": PYTHON,
        "app_file": "app.py",
    }
    with atomic_path(out) as tmp:
        tmp.mkdir()
        export(model, tmp / "model", merge, backbone, text_backbone)
        for described in models_in(*read_model(tmp / "model")).values():
            for key in ("backbone", "text_backbone"):
                if described.get(key, key) is None:
                    raise InputError(
                        f"{model}: its encoder is a folder of this machine, "
                        "where a Space cannot find it; give --merge, or "
                        f"--{key} with a Hugging Face id"
                    )
        shutil.copytree(
            Path(__file__).parents[1],
            tmp / "ser_peft",
            ignore=shutil.ignore_patterns("__pycache__"),
        )
        # So that the package knows its version.
        (tmp / about).mkdir()
        (tmp / about / "METADATA").write_text(
            package.read_text("METADATA") or package.read_text("PKG-INFO"),
            "utf-8",
        )
        (tmp / "app.py").write_text(APP.format(name=name), "utf-8")
        (tmp / "requirements.txt").write_text("\n".join([*needed, ""]))
        (tmp / "README.md").write_text(
            f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n"
            "The model card is in model/README.md, if there is one.\n",
            "utf-8",
        )


def launch(model, name):
    """Show the page of a model until the process is ended.

    Arguments
    ---------
    model : str or Path
        Model folder.
    name : str
        Its name.
    """
    limits = Limits()
    recognizer = load_model(model).optimize_for_inference()
    about = About(name, About.of(model).card)
    with Service(recognizer, about, limits) as service:
        make_page(service).launch(
            max_file_size=int(limits.max_mb * 1e6),
            share=False,
            ssr_mode=False,
            **STYLE,
        )
