"""Who may ask, and how much."""

import asyncio

import pytest

from ser_peft.service import Limits
from ser_peft.service.guard import Guard

TOKEN = "a token of many characters"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
MB = 1_000_000


def ask(guard, chunks=(), pause=0.0, **headers):
    """Post a body in pieces; returns the status and how many were taken."""
    headers = {"host": "localhost:8000", **headers}
    left, sent, taken = [*chunks], [], 0

    async def receive():
        nonlocal taken
        await asyncio.sleep(pause)
        taken += 1
        body = left.pop(0) if left else b""
        return {"type": "http.request", "body": body, "more_body": bool(left)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "method": "POST", "path": "/v1/predict",
        "query_string": b"", "scheme": "http", "http_version": "1.1",
        "server": ("127.0.0.1", 8000), "root_path": "",
        "headers": [
            (key.replace("_", "-").encode(), value.encode())
            for key, value in headers.items()
        ],
    }  # fmt: skip
    asyncio.run(guard(scope, receive, send))
    return sent[0]["status"], taken


async def reader(scope, receive, send):
    """An application that takes all it gets."""
    from starlette.exceptions import HTTPException

    status, more = 200, True
    while more:
        try:
            more = (await receive())["more_body"]
        except HTTPException as error:
            status, more = error.status_code, False
    await send({"type": "http.response.start", "status": status})
    await send({"type": "http.response.body", "body": b""})


@pytest.mark.parametrize(
    ("claimed", "chunks", "code", "most"),
    [
        # read by the application, and then thrown away so that a client that
        # is still sending gets the answer instead of a reset connection
        (10 * MB, 10, 413, 0 + 3),
        (None, 10, 413, 4 + 3),  # chunked: nothing is claimed
        (100, 10, 413, 4 + 3),  # a lie
        (None, 5, 413, 5),
        (3 * MB, 3, 200, 3),
        (None, 3, 200, 3),
    ],
)
def test_no_more_is_read_than_is_taken(claimed, chunks, code, most):
    guard = Guard(reader, Limits(max_mb=3))
    claim = {} if claimed is None else {"content_length": str(claimed)}
    assert ask(guard, [bytes(MB)] * chunks, **claim) == (code, most)
    assert guard.slots == 128


def test_a_refused_client_is_not_waited_for_long(monkeypatch):
    monkeypatch.setattr("ser_peft.service.guard.LINGER", 0.05)
    guard = Guard(reader, Limits(max_mb=3))
    assert ask(guard, [b"a"] * 9, pause=10, content_length="9999999") == (
        413,
        0,
    )


def test_a_request_that_stops_coming_is_given_up(monkeypatch):
    monkeypatch.setattr("ser_peft.service.guard.SLOWEST", 0.05)
    guard = Guard(reader, Limits())
    assert ask(guard, [b"a", b"b"], pause=0.01) == (200, 2)
    assert ask(guard, [b"a", b"b"], pause=10)[0] == 408
    assert guard.slots == 128


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "evil.example"}, 403),  # whose address is now 127.0.0.1
        ({"host": ""}, 403),
        ({"origin": "http://localhost:8000"}, 200),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://localhost:9999"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://["}, 400),
        ({"host": "["}, 400),
        ({"content_length": "x"}, 400),
    ],
)
def test_pages_of_others_are_refused(headers, code):
    assert ask(Guard(reader, Limits()), **headers)[0] == code


@pytest.fixture(scope="module")
def guarded(served, model, run):
    with served(model, run, token=TOKEN) as client:
        yield client


PATHS = (
    "/healthz /openapi.json / /config /gradio_api/info /gradio_api/upload "
    "/theme.css /v1/predict /nowhere"
).split()


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(
    "given", ["", "Bearer", "Bearer wrong", f"Basic {TOKEN}", "Bearer ä"]
)
def test_nothing_without_the_token(guarded, path, given):
    headers = {"Authorization": given.encode()}
    for method in ("GET", "POST"):
        response = guarded.request(method, path, headers=headers)
        assert response.status_code == 401
        assert "tiny" not in response.text  # the model's name
    if path in PATHS[:2]:
        assert response.json()["error"].startswith("token missing or wrong")
        assert response.headers["www-authenticate"] == "Bearer"


def test_programs_send_the_token(guarded):
    assert guarded.get("/healthz", headers=BEARER).json()["ready"]
    assert guarded.post("/v1/predict", headers=BEARER).status_code == 422


def test_people_type_it_once(guarded):
    page = guarded.get("/")
    assert page.status_code == 401 and 'type="password"' in page.text
    wrong = guarded.post("/login", data={"token": "wrong"})
    assert wrong.status_code == 401 and "not the token" in wrong.text
    for form in ({}, {"token": "x" * 9999}):
        assert guarded.post("/login", data=form).status_code in (401, 413)
    right = guarded.post(
        "/login", data={"token": TOKEN}, follow_redirects=False
    )
    assert right.status_code == 303 and right.headers["location"] == "/"
    cookie = right.headers["set-cookie"]
    assert "; HttpOnly" in cookie and "; SameSite=strict" in cookie
    assert TOKEN not in cookie
    assert "tiny ä" in guarded.get("/").text
    # Not for programs, which pages of others could make a browser call.
    assert guarded.get("/healthz").status_code == 401
    guarded.cookies.clear()
    assert guarded.get("/").status_code == 401


def test_browsers_are_told_to_load_nothing_from_elsewhere(client):
    policy = client.get("/").headers["content-security-policy"]
    assert policy.startswith("default-src 'self'")
    assert "http" not in policy and "*" not in policy
