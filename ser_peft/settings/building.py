"""Objects that a yaml builds: its Brain, and errors of building in one line."""

from contextlib import contextmanager
from pydoc import ErrorDuringImport, locate
from traceback import walk_tb

from ruamel.yaml import YAMLError

from ser_peft.errors import BAD_ARGUMENTS, InputError
from ser_peft.settings.yamls import read_yaml, tag_of

__all__ = ["brain_of", "building"]

_OF_NAMES = (ErrorDuringImport, ImportError, YAMLError)
_OF_BUILDING = (*_OF_NAMES, *BAD_ARGUMENTS)


@contextmanager
def building(hparams_file):
    """Raise errors of HyperPyYAML's building as errors of a yaml.

    Arguments
    ---------
    hparams_file : str
        Path of the yaml, for messages.

    Raises
    ------
    InputError
        If the yaml names an object that does not exist, or gives it
        arguments that it does not take.
    """
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        # HyperPyYAML does not tell what it was building, its frames do.
        frames = [f for f, _ in walk_tb(error.__traceback__)]
        frames = [f for f in frames if "hyperpyyaml" in f.f_code.co_filename]
        if not frames or not isinstance(error, _OF_BUILDING):
            raise
        if isinstance(error, _OF_NAMES):
            raise InputError(f"{hparams_file}: {error}") from error
        names = [f.f_locals.get("callable_string") for f in frames]
        called = [*filter(None, names), "yaml"][-2:][0]
        if str(error.args[:1]).startswith("('Invalid argument"):
            reason = ": ".join(map(str, error.args))  # in HyperPyYAML's words
            raise InputError(f"{hparams_file}: {reason}") from error
        ours = called.startswith("ser_peft.")
        if ours and not isinstance(error, ValueError):
            raise  # a bug
        raise InputError(
            f"{hparams_file}: {called}: {str(error) or type(error).__name__}"
        ) from error


def brain_of(hparams_file, overrides):
    """Class that a yaml's ``brain`` names.

    Arguments
    ---------
    hparams_file, overrides
        From `parse_arguments`.

    Returns
    -------
    type
        The Brain.

    Raises
    ------
    InputError
        If there is no such class.
    """
    _, tree = read_yaml(hparams_file, overrides)
    node = overrides.get("brain", tree.get("brain"))
    name = tag_of(node).removeprefix("!name:")
    try:
        found = locate(name) if name else None
    except ErrorDuringImport as error:
        raise InputError(f"{hparams_file}: brain: {error}") from error
    if not isinstance(found, type):
        raise InputError(
            f"{hparams_file}: brain: '{name}' is no Brain; give "
            "!name:ser_peft.training.EmotionBrain, or your own class's name"
        )
    return found
