"""JSON from outside: whole, of the right types, or refused in one line."""

import functools
import json
import math
import reprlib
from pathlib import Path
from typing import Annotated

from pydantic import PlainValidator, TypeAdapter, ValidationError
from pydantic_core import PydanticCustomError

from ser_peft.errors import InputError
from ser_peft.io import refuse_pointer

__all__ = [
    "Name",
    "Number",
    "Place",
    "Scalar",
    "Text",
    "fit",
    "parse",
    "read_json",
]

LARGEST = 64 << 20
"""Size of the largest JSON file of a model that is read, bytes."""
LARGEST_NUMBER = 2.0**63
"""No number is larger: squares of it are finite in float32."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = 60


def _checked(value, fits, what):
    if not fits:
        raise PydanticCustomError("wrong", "should be {what}", {"what": what})
    return value


# Not pydantic's `str`, which refuses the surrogates that names of files have
# where they are not UTF-8.


def _text(value):
    return _checked(value, isinstance(value, str), "text")


def _name(value):
    return _checked(value, _text(value).strip(), "text that is not empty")


def _place(value):
    return _checked(value, "\0" not in _name(value), "a path")


def _number(value):
    fits = isinstance(value, (int, float)) and not isinstance(value, bool)
    fits = fits and abs(value) <= LARGEST_NUMBER
    return _checked(value, fits, "a finite number")


def _scalar(value):
    if type(value) in (int, float):
        return _number(value)
    fits = value is None or isinstance(value, (str, bool))
    return _checked(value, fits, "text or a number")


Text = Annotated[str, PlainValidator(_text)]
"""Any text."""
Name = Annotated[str, PlainValidator(_name)]
"""Text that is not empty."""
Place = Annotated[str, PlainValidator(_place)]
"""Name of a file or folder."""
Number = Annotated[float, PlainValidator(_number)]
"""A finite number, whole or not."""
Scalar = Annotated[str | float | bool | None, PlainValidator(_scalar)]
"""Text, a finite number, true, false or null."""


def read_json(path, schema, wrong, advice, missing=None, largest=LARGEST):
    """Read a JSON file that anybody may have written.

    Arguments
    ---------
    path : str or Path
        UTF-8 file. NaN, Infinity and keys that are there twice are refused.
    schema : type
        Anything that pydantic validates, as a model or ``dict[str, int]``.
    wrong : str
        Message if the content does not fit, as "describes no model".
    advice : str
        Advice for the message, as "save it again".
    missing : str, optional
        Advice if the file cannot be opened; `advice` by default.
    largest : int
        Size of the largest file that is read, bytes.

    Returns
    -------
    object
        The content, as the schema makes it.

    Raises
    ------
    InputError
        If it cannot be read, is no JSON, or does not fit: names the file,
        the key and the value.

    Example
    -------
    >>> path = getfixture("tmp_path") / "ages.json"
    >>> _ = path.write_text('{"anna": 31, "ben": NaN}')
    >>> try:
    ...     read_json(path, dict[Name, Number], "has no ages", "correct it")
    ... except InputError as error:
    ...     print(str(error).partition("ages.json")[2])
    : has no ages (not valid JSON: ben: nan is no number); correct it
    """
    path = Path(path)
    if path.exists() and not path.is_file():  # a pipe would never end
        raise InputError(f"{path}: is no file; {advice}")
    refuse_pointer(path)
    try:
        with open(path, "rb") as file:
            text = file.read(largest + 1)
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); {missing or advice}"
        ) from error
    if len(text) > largest:
        raise InputError(f"{path}: more than {largest >> 20} MB; {advice}")
    return parse(path, text, schema, wrong, advice)


def parse(path, text, schema, wrong, advice):
    """Read JSON by a schema.

    Arguments
    ---------
    path : str or Path
        Source of the JSON, for the message.
    text : bytes
        JSON in UTF-8.
    schema, wrong, advice
        See `read_json`.

    Returns
    -------
    object
        The content, as the schema makes it.

    Raises
    ------
    InputError
        See `read_json`.
    """
    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=_object)
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: {wrong} (not valid JSON: {error}); {advice}"
        ) from error
    return fit(path, content, schema, wrong, advice)


def fit(path, content, schema, wrong, advice):
    """Validate the content of a JSON file by a schema.

    Arguments
    ---------
    path : str or Path
        Source of the JSON, for the message.
    content : object
        From `json`.
    schema, wrong, advice
        See `read_json`.

    Returns
    -------
    object
        The content, as the schema makes it.

    Raises
    ------
    InputError
        If it does not fit: names the file, the key and the value.

    Example
    -------
    >>> fit("a.json", {"a": "b"}, dict[str, int], "is no table", "mend it")
    Traceback (most recent call last):
    ...
    ser_peft.errors.InputError: a.json: is no table (a: should be a valid \
integer, unable to parse string as an integer, not 'b'); mend it
    """
    try:
        return _adapter(schema).validate_python(content)
    except ValidationError as error:
        raise InputError(
            f"{path}: {wrong} ({_first(error)}); {advice}"
        ) from error


_adapter = functools.cache(TypeAdapter)


def _object(pairs):
    """Content of a JSON object, whose keys and numbers make sense."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"{twice!r} is there {keys.count(twice)} times")
    for key, value in pairs:
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{key}: {value} is no number")
    return content


def _first(error):
    """The first thing that is wrong: key, reason, value."""
    first = error.errors(include_url=False)[0]
    *place, key = first["loc"] or [""]
    if first["type"] == "missing":
        where = f"{', '.join(map(str, place))}: " if place else ""
        return f"{where}has no '{key}'"
    where = f"{', '.join(map(str, first['loc']))}: " if first["loc"] else ""
    message = first["msg"].replace("Input should", "should", 1)
    more = error.error_count() - 1
    more = f" (and {more} more)" * (more > 0)
    return f"{where}{message}, not {_repr.repr(first['input'])}{more}"
