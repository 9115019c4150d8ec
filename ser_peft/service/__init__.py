"""A model as a service: a page for people, addresses for programs."""

from ser_peft.lazy import lazy

__getattr__, __all__ = lazy(
    __name__,
    {
        "about": "About",
        "batching": "Batcher",
        "page": "make_page",
        "server": "application serve",
        "serving": "Limits Service TooLong",
        "space": "export_space launch",
    },
)
