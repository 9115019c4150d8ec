"""What the page's own addresses give away: nothing."""

from pathlib import Path

import pytest

from ser_peft.service import About, Service, make_page


@pytest.fixture(scope="module")
def private(run):
    """Files that no client may have."""
    package = Path(__file__).resolve().parents[2] / "ser_peft"
    return [
        Path("/etc/passwd"),
        run / "model" / "model.json",
        run / "model" / "head.safetensors",
        package / "service" / "page.py",
        Path.cwd() / "setup.py",
        Path("/proc/self/environ"),
    ]


def test_no_file_of_the_server_is_given(client, private):
    for path in private:
        assert path.exists()
        for asked in (
            f"/gradio_api/file={path}",
            f"/file={path}",
            f"/gradio_api/file=..{path}",
            f"/gradio_api/file={client.service.folder}/../..{path}",
            f"/gradio_api/file=%2e%2e{path}",
            f"/gradio_api/file/{path}",
            f"/static/..{path}",
            f"/assets/..{path}",
        ):
            response = client.get(asked)
            assert response.status_code in (403, 404), asked
            assert path.read_bytes()[:20] not in response.content


def functions(client):
    """Number of each function of the page -> how many inputs it has."""
    return {
        one["id"]: len(one["inputs"])
        for one in client.get("/config").json()["dependencies"]
    }


def call(client, number, data):
    """Call a function as the page's scripts do; returns what it sent back."""
    session = {"session_hash": "s"}
    body = {"fn_index": number, "data": data, **session}
    joined = client.post("/gradio_api/queue/join", json=body)
    if joined.status_code != 200:
        return joined.text
    return client.get("/gradio_api/queue/data", params=session).text


def test_no_file_of_the_server_is_read(client, private, clips):
    """Even sound: a client could ask what is in a recording of another."""
    numbers = functions(client)
    assert numbers
    for path in [*private, clips[0], "http://127.0.0.1:1/a.wav"]:
        one = {"path": str(path), "meta": {"_type": "gradio.FileData"}}
        for data in (one, [one], str(path)):
            for number, inputs in numbers.items():
                text = call(client, number, [data] * inputs)
                assert '"success":false' in text and "neutral" not in text
    assert not [p for p in client.service.folder.rglob("*") if p.is_file()]
    assert all(path.exists() for path in private)


def test_functions_are_no_interface(client):
    about = client.get("/gradio_api/info").json()
    assert about["named_endpoints"] == about["unnamed_endpoints"] == {}


def test_nothing_is_fetched_for_a_client(client):
    for asked in ("proxy=http://a/x", "file=http://a/x", "process_recording"):
        for path in (f"/{asked}", f"/gradio_api/{asked}"):
            assert client.get(path).status_code == 404
            assert client.post(path).status_code == 404


def test_an_upload_too_large_is_refused(client):
    files = {"files": ("a.wav", bytes(1_100_000))}
    response = client.post("/gradio_api/upload", files=files)
    assert response.status_code == 413
    assert not [p for p in client.service.folder.rglob("*") if p.is_file()]


def test_an_uploaded_clip_is_answered(client, model, clips):
    """As the browser does it; see test_serve for a real one."""
    files = {"files": (clips[1].name, clips[1].read_bytes())}
    (path,) = client.post("/gradio_api/upload", files=files).json()
    assert Path(path).parents[1] == client.service.folder
    one = {"path": path, "meta": {"_type": "gradio.FileData"}}
    number = min(functions(client))
    text = call(client, number, [one])
    (expected,) = model.predict(clips[1])
    assert f'"label":"{expected["label"]}"' in text.replace('": "', '":"')


def test_the_model_card_is_shown_where_there_is_one(run, caplog):
    nothing = About.of(run)
    assert nothing.name == "tiny ä" and "no model card" in nothing.card
    card = run / "model" / "README.md"
    card.write_text("---\nlicense: mit\n---\n# A card\n\n---\nits text\n")
    try:
        about = About.of(run / "model")
    finally:
        card.unlink()
    assert about.name == "tiny ä"
    assert "# A card\n\n---\nits text" in about.card
    assert "license" not in about.card


def test_nobody_is_told_of_a_start(model, run):
    """Gradio counts its users unless it is told not to."""
    service = Service(model, About.of(run))
    blocks = make_page(service)
    assert not blocks.analytics_enabled
    assert not blocks.share
    config = str(blocks.get_config_file())
    assert "googleapis" not in config and str(run) not in config


def test_no_address_passes_for_another(client):
    for path in (
        "/config%23/x",
        "/healthz%3Fx",
        "/x/../monitoring",
    ):
        assert client.get(path).status_code == 404
