"""One process that serves a model: page and programs."""

import ipaddress
import os
import signal
import socket
from contextlib import asynccontextmanager

import gradio as gr
import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from ser_peft.errors import InputError
from ser_peft.service.guard import Guard, refusal
from ser_peft.service.page import STYLE, make_page
from ser_peft.service.rest import router

__all__ = ["application", "serve"]

SHORTEST = 16
"""Characters of a token."""
GRACE = 60
"""Seconds that requests have to end after a signal."""


def application(service, token=None):
    """ASGI application of a service.

    Arguments
    ---------
    service : ser_peft.service.serving.Service
        Service; starts and ends with the application.
    token : str, optional
        Token that clients must have, see `Guard`.

    Returns
    -------
    Guard
        Its ``page`` is the `gradio.Blocks`.
    """

    @asynccontextmanager
    async def lifespan(_):
        with service:
            yield

    app = FastAPI(
        title=f"ser_peft: {service.about.name}",
        version=service.about.version,
        lifespan=lifespan,
        docs_url=None,  # they load scripts from elsewhere
        redoc_url=None,
    )
    app.include_router(router(service))
    app.add_exception_handler(StarletteHTTPException, refusal)

    @app.exception_handler(RequestValidationError)
    async def wrong(request, error):
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"][1:]))
        return refusal(
            request, HTTPException(422, f"{where}: {first['msg'].lower()}")
        )

    @app.exception_handler(Exception)
    async def failed(request, error):
        line = "an error of the service; its log says which"
        return refusal(request, HTTPException(500, line))

    blocks = make_page(service)
    gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        max_file_size=int(service.limits.max_mb * 1e6),
        show_error=False,
        **STYLE,
    )
    blocks.has_launched = True  # or Gradio would read any file it is told to
    guard = Guard(app, service.limits, token)
    guard.page = blocks
    return guard


class _Server(uvicorn.Server):
    """Ends the page's streams, which never end by themselves."""

    async def shutdown(self, sockets=None):
        """See `uvicorn.Server`."""
        self.config.app.page.app.stop_event.set()
        await super().shutdown(sockets)


def serve(service, host="127.0.0.1", port=8000, token=None):
    """Serve until a signal, then answer what is there and end.

    Arguments
    ---------
    service : callable
        Gives the `Service`; called when host, port and token are fine.
    host : str
        Address to listen on.
    port : int
        Port; 0 for a free one.
    token : str, optional
        Token that clients must have.

    Raises
    ------
    InputError
        If the host can be reached from elsewhere and there is no token, or
        if the port is taken.
    """
    if token is not None and (len(token) < SHORTEST or not token.isascii()):
        raise InputError(
            f"--token: give {SHORTEST} characters of ASCII or more, as of "
            "`openssl rand -hex 16`"
        )
    if not token and not _is_loopback(host):
        raise InputError(
            f"--host {host}: other machines reach it, so it needs a token; "
            "give --token or set SER_PEFT_TOKEN"
        )
    with _listen(host, port) as listening:
        app = application(service(), token)
        # As after Ctrl-C, what is open is closed, and what is left removed.
        signal.signal(signal.SIGTERM, _leave)
        port = listening.getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{port} is ready", flush=True)
        config = uvicorn.Config(
            app,
            log_level="warning",
            timeout_graceful_shutdown=GRACE,
            server_header=False,
        )
        _Server(config).run([listening])


def _leave(*_):
    raise SystemExit(0)


def _is_loopback(host):
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listen(host, port):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except (OSError, OverflowError) as error:
        number = getattr(error, "errno", None)
        reason = os.strerror(number) if number else str(error)
        raise InputError(
            f"--host {host} --port {port}: {reason.lower()}; give others"
        ) from error
