"""A real server on loopback, with two models that nobody trained, and a real Chromium."""

import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from miniature import environment
from openherd.model.config import ModelConfig
from openherd.model.weights import save_model
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model

CONTEXT = 2048
CORPUS = [f"The module number{i} does this. The class number{i} does that, and {'nothing ' * i}else." for i in range(20)]
# No sandbox: CI runs as root. The rest keeps the browser from asking its maker for anything.
CHROMIUM = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
STARTS_S = 120
# Greedy, so that no answer ends early (see `write_models`), and short.
SETTINGS = {"sampling": {"temperature": "0", "max_tokens": "24"}}


def write_models(folder: Path) -> list[Path]:
    """Two model directories. The tokens that end an answer have logit 0, and so are never the likeliest."""
    write_tokenizer(learn(iter(CORPUS), 300), folder / "tokenizer", CONTEXT)
    tokenizer = Tokenizer.load(folder / "tokenizer")
    directories = []
    for seed, name in enumerate(("first", "second")):
        shape = {"n_layers": 2, "d_model": 32, "n_heads": 4, "n_kv_heads": 2, "head_width": 8, "d_feed_forward": 64}
        model = tiny_model(ModelConfig(**shape, vocabulary=tokenizer.vocabulary, max_positions=CONTEXT), seed)
        with torch.no_grad():
            model.head.weight[sorted(tokenizer.stop_ids)] = 0
        directory = folder / name
        directory.mkdir()
        save_model(model, directory, bos=tokenizer.bos_id, eos=sorted(tokenizer.stop_ids))
        tokenizer.save(directory)
        directories.append(directory)
    return directories


class Server:
    """`openherd serve` as a process of its own; it can be killed and started again at the same address."""

    def __init__(self, folder: Path, *options: str) -> None:
        first, second = write_models(folder)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}/"
        self.log = folder / "log.txt"
        self.command = [
            sys.executable,
            "-m",
            "openherd",
            "serve",
            str(first),
            "--port",
            str(port),
            "--model",
            f"second={second}",
            *options,
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns when it answers."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, env=environment(), stdout=log, stderr=log, start_new_session=True)
        until = time.monotonic() + STARTS_S
        while time.monotonic() < until and self.process.poll() is None:
            try:
                return urllib.request.urlopen(f"{self.address}health", timeout=5).close()
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                time.sleep(0.1)
        raise AssertionError(f"the server does not answer: {self.log.read_text(encoding='utf-8')[-2000:]}")

    def kill(self) -> None:
        """At once, as a crash does."""
        if self.process:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def ask(self, **body: Any) -> Any:
        """A chat completion, without the page."""
        data = json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}v1/chat/completions", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            return json.load(response)


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    running = Server(tmp_path_factory.mktemp("server"))
    running.start()
    yield running
    running.kill()


@pytest.fixture(scope="package")
def browser() -> Iterator[Any]:
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if not found:
        pytest.skip("needs Chromium: apt-get install chromium fonts-dejavu-core")
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright, of the group dev")
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=list(CHROMIUM))
        yield launched
        launched.close()


class Pages:
    """Pages that are watched: what they ask for beyond this machine, and their errors."""

    def __init__(self, browser: Any, server: Server) -> None:
        self.browser, self.server = browser, server
        self.contexts: list[Any] = []
        self.outside: list[str] = []
        self.errors: list[tuple[Any, str]] = []

    def open(
        self, settings: dict[str, Any] | None = None, path: str = "", same_as: Any = None, init: str = "", **options: Any
    ) -> Any:
        """The page in a browser of its own (`same_as`: in that page's), with settings kept before."""
        context = same_as.context if same_as else self.context(settings or {}, init, **options)
        page = context.new_page()
        page.expected = []
        page.on("pageerror", lambda error: self.errors.append((page, str(error))))
        page.on("console", lambda said: said.type in ("error", "warning") and self.errors.append((page, said.text)))
        self.load(page, path)
        return page

    def context(self, settings: dict[str, Any], init: str, **options: Any) -> Any:
        """A browser without anything of others."""
        context = self.browser.new_context(**{"viewport": {"width": 1280, "height": 800}, "reduced_motion": "reduce", **options})
        context.set_default_timeout(20_000)
        context.route(
            re.compile(rf"^(?!{re.escape(self.server.address)}|blob:)"),
            lambda route: self.outside.append(route.request.url) or route.abort(),
        )
        kept = json.dumps(json.dumps(SETTINGS | settings))
        context.add_init_script(f"try {{ localStorage['openherd.settings'] ??= {kept} }} catch {{}}\n{init}")
        self.contexts.append(context)
        return context

    def load(self, page: Any, path: str = "") -> None:
        """Returns when the page knows the models."""
        page.goto(self.server.address + path, wait_until="domcontentloaded")
        page.locator("#models option:not([value='No model yet'])").first.wait_for(state="attached")

    def clear(self, page: Any) -> None:
        """The page as it opens first."""
        page.unroute_all()
        page.expected = []
        page.mouse.move(0, 0)
        page.goto(f"{self.server.address}health")  # a page of the same storage that writes nothing there
        page.evaluate("localStorage.clear(), sessionStorage.clear()")
        self.load(page)

    def check(self) -> None:
        """Nothing was asked for beyond this machine, and no page had an error but those that `page.expected` matches."""
        outside, errors = (
            [*self.outside],
            [text for page, text in self.errors if not any(re.search(e, text) for e in page.expected)],
        )
        self.outside.clear()
        self.errors.clear()
        assert (outside, errors) == ([], [])

    def close(self) -> None:
        for context in self.contexts:
            context.close()


@pytest.fixture
def open_page(browser: Any, server: Server) -> Iterator[Callable[..., Any]]:
    """A function that opens the page (`Pages.open`); they are closed and checked at the end of the test."""
    pages = Pages(browser, server)
    yield pages.open
    pages.close()
    pages.check()


@pytest.fixture(scope="package")
def standing(browser: Any, server: Server) -> Iterator[tuple[Pages, Any]]:
    """One page for many tests: a browser of its own for each took as long as the tests."""
    pages = Pages(browser, server)
    yield pages, pages.open()
    pages.close()


@pytest.fixture
def page(standing: tuple[Pages, Any]) -> Iterator[Any]:
    """The page as it opens first."""
    pages, page = standing
    pages.clear(page)
    yield page
    pages.check()


@pytest.fixture
def say() -> Callable[..., Any]:
    """A function that sends a message, and by default waits until all answers have ended; returns the last answers."""

    def send(page: Any, text: str, wait: bool = True) -> Any:
        page.get_by_label("Message", exact=True).fill(text)
        page.keyboard.press("Enter")
        last = page.locator(".exchange").last
        last.locator(".prompt").get_by_text(text, exact=True).wait_for()
        if wait:
            page.locator("#send").wait_for()
        return last.locator(".answer")

    return send
