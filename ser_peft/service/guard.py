"""What every request passes first: who may ask, and how much."""

import asyncio
import contextlib
import hmac
import re
import secrets
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse

from ser_peft.report.rendering import render

__all__ = ["Guard", "refusal"]

LOCAL = {"localhost", "127.0.0.1", "::1"}
REST = ("/v1/", "/healthz", "/openapi.json")
"""Beginnings of addresses for programs."""
PAGE = re.compile(
    r"/|/(config|theme\.css|favicon\.ico|manifest\.json)"
    r"|/(assets|static|svelte)/.*"
    r"|/gradio_api/(upload|upload_progress|startup-events|info|cancel"
    r"|queue/(join|data)|heartbeat/\w+|file=/.*)"
)
"""Addresses that the page asks for: of Gradio's, those that fetch from other
servers, convert or log, are not among them."""
COOKIE = "ser_peft_session"
FORM = 4096
"""Bytes of the form that takes a token."""
SLOWEST = 30
"""Seconds in which the next piece of a request must come."""
LINGER = 5
"""Seconds in which what a refused client still sends is thrown away: closing
earlier would reset the connection, and the client may never read why."""
POLICY = (
    "default-src 'self' data: blob: 'unsafe-inline' 'unsafe-eval'; "
    "frame-ancestors 'self'; form-action 'self'; base-uri 'self'"
)
"""Content security policy: the page loads nothing from elsewhere. Gradio's own
scripts are inline and compile functions."""


class Guard:
    """ASGI middleware: token, host, origin, size, and number of requests.

    The application gets nothing of a request's body before it has passed,
    and no more of it than is allowed, whatever its headers say.

    Arguments
    ---------
    app : callable
        ASGI application.
    limits : ser_peft.service.serving.Limits
        What clients may send.
    token : str, optional
        Programs send it as ``Authorization: Bearer``; people type it into a
        form once, and get a cookie. Without one only this machine's own
        names are answered to, so that no web page can reach the service by
        a name that it made up.
    """

    def __init__(self, app, limits, token=None):
        self.app, self.token = app, token
        self.most = int(limits.max_mb * 1e6)
        self.slots = limits.max_requests
        self.session = secrets.token_urlsafe(32)

    async def __call__(self, scope, receive, send):
        """Serve a request, or refuse it."""
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close"})
        request = Request(scope, receive)

        async def send_closed(message):
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    (b"content-security-policy", POLICY.encode()),
                    (b"x-content-type-options", b"nosniff"),
                    (b"referrer-policy", b"same-origin"),
                ]
            await send(message)

        posts = request.method == "POST"
        try:
            self._check_origin(request)
            if self.token and scope["path"] == "/login" and posts:
                body = _Body(receive, FORM)
                response = await self._login(Request(scope, body.receive))
                return await response(scope, receive, send_closed)
            self._check_token(request)
            if not (_is_rest(request) or PAGE.fullmatch(scope["path"])):
                raise HTTPException(404, "nothing here")
            self._check_size(request)
            if posts and not self.slots:
                raise HTTPException(
                    503,
                    "too many requests at once; come back in a second",
                    {"Retry-After": "1"},
                )
        except HTTPException as error:
            response = refusal(request, error)
            if error.status_code == 401 and not _is_rest(request):
                response = _form("", 401)
            if posts:
                await _throw_away(receive, self.most)
            return await response(scope, receive, send_closed)
        self.slots -= posts
        body = _Body(receive, self.most)
        try:
            await self.app(scope, body.receive, send_closed)
        finally:
            self.slots += posts

    def _check_origin(self, request):
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        try:
            name = urlsplit(f"//{host}").hostname
            other = origin and urlsplit(origin).netloc != host
        except ValueError:
            raise HTTPException(400, "Host or Origin: no address") from None
        if not self.token and name not in LOCAL:
            raise HTTPException(
                403, "this service answers to localhost alone; start it with "
                "a token to reach it by another name",
            )  # fmt: skip
        if other:
            raise HTTPException(403, "asked by the page of another site")

    def _check_token(self, request):
        if not self.token:
            return
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        known = kind.lower() == "bearer" and _same(given.strip(), self.token)
        cookie = request.cookies.get(COOKIE, "")
        if not known and (_is_rest(request) or not _same(cookie, self.session)):
            raise HTTPException(
                401, "token missing or wrong; send 'Authorization: Bearer "
                "TOKEN'", {"WWW-Authenticate": "Bearer"},
            )  # fmt: skip

    def _check_size(self, request):
        try:
            size = int(request.headers.get("content-length", 0))
        except ValueError:
            raise HTTPException(400, "Content-Length: no number") from None
        if size > self.most:
            raise _too_large(self.most)

    async def _login(self, request):
        async with request.form() as form:
            given = form.get("token")
        if not isinstance(given, str) or not _same(given.strip(), self.token):
            await asyncio.sleep(1)  # guessing takes its time
            return _form("This is not the token.", 401)
        response = RedirectResponse("/", 303)
        response.set_cookie(
            COOKIE,
            self.session,
            httponly=True,
            samesite="strict",
            secure=request.url.scheme == "https",
        )
        return response


class _Body:
    """A request's body that ends where it is too large, or stops coming."""

    def __init__(self, receive, most):
        self._receive, self.left, self.whole = receive, most, False
        self.most = most

    async def receive(self):
        """Next message, see the ASGI specification."""
        if self.whole:  # what is left is to wait for the client to go
            return await self._receive()
        try:
            message = await asyncio.wait_for(self._receive(), SLOWEST)
        except asyncio.TimeoutError:
            raise HTTPException(408, "the request stopped coming") from None
        self.left -= len(message.get("body", b""))
        self.whole = not message.get("more_body", False)
        if self.left < 0:
            if not self.whole:
                await _throw_away(self._receive, self.most)
            raise _too_large(self.most)
        return message


async def _throw_away(receive, most):
    """Let a client finish what it sends, within bounds."""

    async def read(left):
        more = True
        while more and left > 0:
            message = await receive()
            left -= len(message.get("body", b""))
            more = message.get("more_body", False)

    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(read(most), LINGER)


def refusal(request, error):
    """Response to a request that is refused: one line of JSON.

    Arguments
    ---------
    request : starlette.requests.Request
        Request.
    error : starlette.exceptions.HTTPException
        Reason.

    Returns
    -------
    starlette.responses.JSONResponse
        ``{"error": ...}``
    """
    line = " ".join(str(error.detail).split())
    return JSONResponse({"error": line}, error.status_code, error.headers)


def _too_large(most):
    return HTTPException(
        413, f"larger than {most / 1e6:g} MB, which is the most that is taken "
        "here; send less at once",
        {"Connection": "close"},
    )  # fmt: skip


def _is_rest(request):
    return request.scope["path"].startswith(REST)


def _same(given, wanted):
    """Compare in a time that tells nothing."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _form(failed, status):
    return HTMLResponse(render("login", {}, failed=failed), status)
