"""What users of a service should know of its model."""

import json
import re
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from ser_peft.inference.loading import read_model
from ser_peft.report.rendering import render

__all__ = ["About"]


@dataclass(frozen=True)
class About:
    """What is known of a model.

    Arguments
    ---------
    name : str
        Name, never a path.
    card : str
        Its model card, Markdown without front matter; empty without one.
    described : dict
        Its ``model.json``, see `read_model`.
    results : dict
        Its ``results.json``; empty where the model is not beside it.
    """

    name: str
    card: str = ""
    described: dict = field(default_factory=dict)
    results: dict = field(default_factory=dict)

    @property
    def version(self):
        """Version of ser_peft."""
        return version("ser_peft")

    def page(self):
        """HTML about the model."""
        return render("about", {}, about=self, r=self.results)

    @classmethod
    def of(cls, model):
        """Collect what lies beside a model.

        Arguments
        ---------
        model : str or Path
            A finished run, its ``model/`` folder, or a released model's name.

        Returns
        -------
        About

        Raises
        ------
        InputError
            If there is no model.
        """
        folder, described = read_model(model)
        run = folder.parent if folder.name == "model" else folder
        card, results = folder / "README.md", run / "results.json"
        text = card.read_text("utf-8") if card.is_file() else ""
        name = Path(model).resolve().name
        return cls(
            run.name if name == "model" else name,
            re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL),
            described,
            json.loads(results.read_text("utf-8")) if results.is_file() else {},
        )
