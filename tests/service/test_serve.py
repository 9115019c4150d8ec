"""A real process: browser, load, signals."""

import os
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from ser_peft.cli import main

ROOT = Path(__file__).resolve().parents[2]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


class Process:
    """`ser-peft serve` on a free port."""

    def __init__(self, run, folder, *flags):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "ser_peft.cli", "serve", run, "--port", "0",
             *flags],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=folder,
            env=os.environ
            | {"PYTHONPATH": str(ROOT), "TMPDIR": str(folder),
               "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""},
        )  # fmt: skip
        line = self.process.stdout.readline()
        assert line, self.process.stderr.read()
        self.url = re.fullmatch(r"(http://127.0.0.1:\d+) is ready\n", line)[1]

    def stop(self, number):
        """Send a signal; returns exit status and what was printed."""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=60)
        return self.process.returncode, err


@pytest.fixture(scope="module")
def process(run, tmp_path_factory):
    """A process, ended by SIGTERM after all tests of this file."""
    folder = tmp_path_factory.mktemp("served ä")
    process = Process(run, folder, "--max-seconds", "9", "--max-mb", "1",
                      "--precision", "fp32")  # fmt: skip
    process.folder = folder
    yield process
    if process.process.poll() is None:
        process.stop(signal.SIGTERM)


def files(*paths):
    return [("files", (path.name, path.read_bytes())) for path in paths]


def test_64_clients_at_once(process, model, clips):
    """None is lost; good ones get predict's answer, bad ones a line."""
    expected = model.predict(clips)
    bad = [("no audio", b"no audio", 422), ("empty", b"", 422),
           ("large", bytes(1_200_000), 413)]  # fmt: skip

    def good(number):
        some = [number % len(clips), (number + 3) % len(clips)]
        response = client.post(
            "/v1/predict", files=files(*(clips[n] for n in some))
        )
        assert response.status_code == 200, response.text
        for n, one in zip(some, response.json()["answers"], strict=True):
            assert one["file"] == clips[n].name
            assert one["scores"] == pytest.approx(
                expected[n]["scores"], abs=1e-4
            )
        return "good"

    def wrong(number):
        name, content, code = bad[number % len(bad)]
        if code == 413:  # in pieces: nothing says how large it will be
            start = (
                b'--x\r\nContent-Disposition: form-data; name="files"; '
                b'filename="a.wav"\r\n\r\n'
            )
            body = {
                "content": iter([start, *[content[:100_000]] * 12]),
                "headers": {"Content-Type": "multipart/form-data; boundary=x"},
            }
        else:
            body = {"files": {"files": (name, content)}}
        response = client.post("/v1/predict", **body)
        assert response.status_code == code
        assert [*response.json()] == ["error"]
        assert "\n" not in response.json()["error"]
        return "refused"

    limits = httpx.Limits(max_connections=64)
    with (
        httpx.Client(base_url=process.url, limits=limits, timeout=60) as client,
        ThreadPoolExecutor(64) as pool,
    ):
        jobs = [
            pool.submit(wrong if number % 4 == 3 else good, number)
            for number in range(128)
        ]
        ends = [job.result() for job in jobs]
        assert client.get("/healthz").json()["ready"]
    assert ends.count("good") == 96 and ends.count("refused") == 32


@pytest.fixture
def page(process):
    """The page in a headless Chromium, which may ask this service only."""
    api = pytest.importorskip("playwright.sync_api")
    if not Path(CHROMIUM).exists():
        pytest.skip("no chromium (apt-get install chromium)")
    asked = []
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"]
        )
        page = browser.new_page()
        page.set_default_timeout(20_000)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(process.url)
        yield page
        browser.close()
    elsewhere = [
        url for url in asked
        if not url.startswith((process.url, "blob:", "data:"))
    ]  # fmt: skip
    assert not elsewhere


def table_of(page):
    """Content of the csv that a button downloads."""
    from playwright.sync_api import TimeoutError

    for _ in range(20):  # shown a little earlier than it works
        try:
            with page.expect_download(timeout=1000) as download:
                button = page.get_by_text("Download as CSV")
                button.locator("visible=true").click()
            return Path(download.value.path()).read_text("utf-8")
        except TimeoutError:
            pass
    raise AssertionError("nothing is downloaded")


def test_a_clip_in_the_browser(page, model, clips, tmp_path):
    (expected,) = model.predict(clips[0])
    page.set_input_files("input[type=file][accept*=audio]", clips[0])
    heading = page.get_by_test_id("label-output-value")
    heading.wait_for()
    assert heading.inner_text().strip() == expected["label"]
    shown = page.locator("[data-testid$='confidence-set']").all_inner_texts()
    assert f"{100 * max(expected['scores'].values()):.0f}%" in " ".join(shown)
    bad = tmp_path / "no sound.wav"
    bad.write_text("no audio")
    page.get_by_label("Clear").first.click()
    page.set_input_files("input[type=file][accept*=audio]", bad)
    page.get_by_text(f"{bad.name}: cannot be read as audio").wait_for()


def test_a_timeline_in_the_browser(page, clips, tmp_path):
    """Nobody speaks in it, but it is shown."""
    page.get_by_role("tab", name="Timeline").click()
    page.set_input_files("#long input[type=file]", clips[0])
    frame = page.frame_locator("iframe[title=Timeline]")
    frame.get_by_role("heading", name=clips[0].name).wait_for()
    frame.get_by_text("Nobody speaks in this recording").first.wait_for()
    assert table_of(page) == "start,end,label,neutral,angry,sad,happy,arousal\n"


def test_files_in_the_browser(page, model, clips, tmp_path):
    text = tmp_path / "notes <b>&.wav"
    text.write_text("no audio")
    page.get_by_role("tab", name="Files").click()
    page.set_input_files(
        "input[type=file][multiple]", [clips[1], text, clips[2]]
    )
    page.get_by_text(clips[2].stem).wait_for()
    page.get_by_role("button", name="Name the emotions").click()
    lines = table_of(page).splitlines()
    assert lines[0].startswith("file,seconds,label,neutral,angry,sad,happy")
    assert len(lines) == 4 and "cannot be read as audio" in lines[2]
    labels = [answer["label"] for answer in model.predict(clips[1:3])]
    assert [lines[n].split(",")[2] for n in (1, 3)] == labels
    page.get_by_role("tab", name="About").click()
    page.get_by_text("it has no model card").wait_for()


def fails(capsys, *argv):
    with pytest.raises(SystemExit) as stop:
        main(["serve", *map(str, argv)])
    assert stop.value.code == 2
    return capsys.readouterr().err


def test_what_cannot_be_served(run, tmp_path, capsys, monkeypatch):
    monkeypatch.delenv("SER_PEFT_TOKEN", raising=False)
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        line = fails(capsys, run, "--host", host)
        assert f"error: --host {host}: other machines reach it" in line
    monkeypatch.setenv("SER_PEFT_TOKEN", "short")
    assert "error: --token: give 16" in fails(capsys, run)
    monkeypatch.delenv("SER_PEFT_TOKEN")
    assert "--max-mb 0" in fails(capsys, run, "--max-mb", 0)
    assert "model.json" in fails(capsys, tmp_path / "none", "--port", 0)
    assert "--port 99999999: " in fails(capsys, run, "--port", 99999999)


def test_a_port_that_is_taken(process, run, capsys):
    port = process.url.rpartition(":")[2]
    assert "already in use" in fails(capsys, run, "--port", port)


def test_what_was_begun_is_answered_at_the_end(process, clips):
    """SIGTERM while a request is worked on; then nothing is left."""
    many = files(*clips * 6)
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(
            httpx.post, f"{process.url}/v1/predict", files=many, timeout=60
        )
        while not any(
            p.is_file() and re.fullmatch("[0-9a-f]{32}", p.name)
            for p in process.folder.glob("ser_peft.*/*")
        ):
            assert not job.done()
        code, err = process.stop(signal.SIGTERM)
        answers = job.result().json()["answers"]
    assert len(answers) == 48 and all("label" in one for one in answers)
    assert code == 0 and "Traceback" not in err
    assert not [path for path in process.folder.rglob("*") if path.is_file()]
    assert not [*process.folder.glob("ser_peft.*")]
