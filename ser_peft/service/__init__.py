"""A model as a service: a page for people, addresses for programs."""

from ser_peft.errors import extra

with extra("serve"):
    from ser_peft.service.about import About, about
    from ser_peft.service.page import page
    from ser_peft.service.server import application, serve
    from ser_peft.service.serving import Limits, Service

__all__ = [
    "About",
    "Limits",
    "Service",
    "about",
    "application",
    "page",
    "serve",
]
