"""What users of a service should know of its model."""

import logging
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from ser_peft.errors import InputError
from ser_peft.inference.card import read_card
from ser_peft.inference.onnx import is_onnx

__all__ = ["About"]

logger = logging.getLogger(__name__)

UNKNOWN = "Nothing is known of its training and its test: it has no model card."


@dataclass(frozen=True)
class About:
    """What is known of a model.

    Arguments
    ---------
    name : str
        Name, never a path.
    card : str
        Its model card, Markdown.
    """

    name: str
    card: str = UNKNOWN

    @property
    def version(self):
        """Version of ser_peft."""
        return version("ser_peft")

    @classmethod
    def of(cls, model):
        """Collect what lies beside a model.

        Arguments
        ---------
        model : str or Path
            Whatever `load_model` takes.

        Returns
        -------
        About
        """
        path = Path(model).resolve()
        run = path.name == "model" and path.parent.name
        name = run or path.name
        if is_onnx(model):  # a file alone
            return cls(name)
        try:
            return cls(name, read_card(model).text)
        except InputError as error:
            logger.warning("%s", error)
            return cls(name)
