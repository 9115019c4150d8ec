"""Files and folders that command lines and yamls name."""

import os
import re

from ser_peft.errors import InputError

__all__ = ["is_place", "place"]

PLACES = re.compile(
    r"backbone|text_backbone|init_from|teacher|states|log_config|method"
    r"|\w+_(folder|file|path|dir)"
)


def is_place(key):
    """Whether a key names a file, a folder, or a model that may be one.

    Example
    -------
    >>> [is_place(key) for key in ("output_folder", "teacher", "classes")]
    [True, True, False]
    """
    return PLACES.fullmatch(key) is not None


def place(text, key):
    """Path or name as it was written, a leading ``~`` expanded.

    Arguments
    ---------
    text : str
        Nothing else in it means anything: it may hold a ``#``, a ``:``,
        quotes, braces.
    key : str
        Key or flag that it was given for, for the message.

    Returns
    -------
    str
        Expanded.

    Raises
    ------
    InputError
        If there is no such user, or it is not UTF-8.

    Example
    -------
    >>> place("run #2", "output_folder")
    'run #2'
    """
    path = os.path.expanduser(text)
    if path.startswith("~"):
        raise InputError(
            f"{key}: {text}: there is no user {path.split('/')[0][1:]}; write "
            f"./{text} if that is its name"
        )
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{key}: {path.encode(errors='replace').decode()}: the name is "
            "not UTF-8; rename it"
        ) from error
    return path
