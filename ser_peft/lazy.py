"""Packages whose names are imported when they are asked for."""

from importlib import import_module

__all__ = ["lazy"]


def lazy(package, modules):
    """Make a package's ``__getattr__`` and ``__all__``.

    So `import ser_peft` does not wait for torch, and ONNX files are run where
    there is no torch.

    Arguments
    ---------
    package : str
        Name of the package, ``__name__``.
    modules : dict
        Module of the package -> names that the package hands on, separated
        by spaces.

    Returns
    -------
    getattr : callable
        The package's ``__getattr__``.
    names : list of str
        The package's ``__all__``.

    Example
    -------
    >>> getattr, names = lazy("ser_peft.data", {"audio": "read_audio resample"})
    >>> names, getattr("resample").__module__
    (['read_audio', 'resample'], 'ser_peft.data.audio')
    """
    places = {n: module for module, all in modules.items() for n in all.split()}

    def find(name):
        if name not in places:
            raise AttributeError(f"module {package} has no attribute {name}")
        return getattr(import_module(f"{package}.{places[name]}"), name)

    return find, sorted(places)
