"""JSON from outside: whole, of the right types, or refused in one line."""

import json
import reprlib
from pathlib import Path
from typing import Annotated

from pydantic import PlainValidator, ValidationError
from pydantic_core import PydanticCustomError

from ser_peft.errors import InputError

__all__ = ["Name", "Number", "Place", "Scalar", "Text", "read_json"]

LARGEST = 2.0**63
"""No number is larger: squares of it are finite in float32."""

_repr = reprlib.Repr()
_repr.maxstring = _repr.maxlong = _repr.maxother = 60


def _wrong(what):
    return PydanticCustomError("wrong", "should be {what}", {"what": what})


# Functions, not pydantic's `str`: names of files that are no UTF-8 have
# surrogates, which that one refuses.


def _text(value):
    if not isinstance(value, str):
        raise _wrong("text")
    return value


def _name(value):
    if not _text(value).strip():
        raise _wrong("text that is not empty")
    return value


def _place(value):
    if "\0" in _name(value):
        raise _wrong("a path")
    return value


def _number(value):
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not abs(value) <= LARGEST
    ):
        raise _wrong("a finite number")
    return value


def _scalar(value):
    if value is None or isinstance(value, (str, bool)):
        return value
    if not isinstance(value, (int, float)):
        raise _wrong("text or a number")
    return _number(value)


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


def read_json(path, schema, missing, advice):
    """Read a JSON file that anybody may have written.

    Arguments
    ---------
    path : str or Path
        UTF-8. NaN, Infinity and keys that are there twice are refused.
    schema : pydantic.TypeAdapter
        What its content must be.
    missing : str
        What to do if there is no such file.
    advice : str
        What to do if there is another thing wrong.

    Returns
    -------
    dict or list
        Its content, of this schema.

    Raises
    ------
    InputError
        If it cannot be read, is no JSON, or is not of the schema: names
        where, the key and the value.

    Example
    -------
    >>> from pydantic import TypeAdapter
    >>> path = getfixture("tmp_path") / "ages.json"
    >>> _ = path.write_text('{"anna": 31, "ben": NaN}')
    >>> ages = TypeAdapter(dict[Name, Number])
    >>> try:
    ...     read_json(path, ages, "make it", "correct it")
    ... except InputError as error:
    ...     print(str(error).partition("ages.json")[2])
    : not valid JSON (NaN is no number of JSON); correct it
    """
    path = Path(path)
    try:
        if path.exists() and not path.is_file():  # a pipe would never end
            raise InputError(f"{path}: is no file; {advice}")
        content = json.loads(
            path.read_text(encoding="utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
        )
    except InputError:
        raise
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file; {missing}") from error
    except OSError as error:
        raise InputError(
            f"{path}: cannot be read ({error.strerror}); {advice}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise InputError(
            f"{path}: not valid JSON ({error}); {advice}"
        ) from error
    try:
        return schema.validate_python(content, strict=True)
    except ValidationError as error:
        raise InputError(f"{_first(path, error)}; {advice}") from error


def _unique(pairs):
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in content if keys.count(key) > 1)
        raise ValueError(f"{twice!r} is there {keys.count(twice)} times")
    return content


def _no_constant(name):
    raise ValueError(f"{name} is no number of JSON")


def _first(path, error):
    """One line about the first thing that is wrong."""
    first = error.errors(include_url=False)[0]
    *place, key = first["loc"] or [""]
    where = f"{path}: {', '.join(map(str, place))}" if place else str(path)
    if first["type"] == "missing":
        return f"{where} has no '{key}'"
    where = ", ".join(map(str, [path, *first["loc"]])).replace(", ", ": ", 1)
    message = first["msg"].replace("Input should", "should", 1)
    value = _repr.repr(first["input"])
    more = error.error_count() - 1
    more = f" (and {more} more)" * (more > 0)
    return f"{where}: {message}, not {value}{more}"
