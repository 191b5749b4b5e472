"""A tiny model behind a real server on loopback, in a thread of the test's process."""

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path

import httpx2 as httpx
import openai

from openherd.inference.engine import Engine, EngineConfig
from openherd.model.config import ModelConfig
from openherd.model.weights import load_model, save_model
from openherd.serving.served import Served
from openherd.serving.server import Server, create_app, listen
from openherd.serving.service import ServerConfig
from openherd.tokenizer.files import write_tokenizer
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.train import learn
from tiny import tiny_model

CONTEXT = 512
SECONDS = 60  # that a test waits for what must come


def write_directory(path: Path) -> Path:
    """A model directory."""
    write_tokenizer(learn([Path(openai.__file__).read_text(encoding="utf-8")], 300), path, CONTEXT)
    tokenizer = Tokenizer.load(path)
    shape = ModelConfig(
        n_layers=1, d_model=32, n_heads=2, n_kv_heads=1, head_width=16, d_feed_forward=48, vocabulary=tokenizer.vocabulary,
        max_positions=CONTEXT,
    )  # fmt: skip
    save_model(tiny_model(shape), path, bos=tokenizer.bos_id, eos=sorted(tokenizer.stop_ids))
    return path


def load(directory: Path, name: str = "tiny", **settings) -> Served:
    """The model with a small cache."""
    config = EngineConfig(**{"most_texts": 8, "cache_bytes": 1 << 19, **settings})
    tokenizer = Tokenizer.load(directory)
    return Served(name, Engine(load_model(directory), tokenizer, config), tokenizer)


@dataclass
class Running:
    """A server that runs in a thread."""

    served: Served
    service: object
    server: Server
    loop: asyncio.AbstractEventLoop
    url: str
    said: list[str]

    def client(self, **more) -> openai.OpenAI:
        """OpenAI's own."""
        return openai.OpenAI(**{"base_url": f"{self.url}/v1", "api_key": "none", "max_retries": 0, "timeout": SECONDS, **more})

    def post(self, path: str, **more) -> httpx.Response:
        """A plain request."""
        return httpx.post(f"{self.url}{path}", timeout=SECONDS, **more)

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds, of `blocks`."""
        return self.served.engine.scheduler.blocks.available()

    @property
    def blocks(self) -> int:
        """All of them."""
        return self.served.engine.scheduler.blocks.count

    def wait_for(self, condition, what: str) -> None:
        """Until something holds."""
        for _ in range(SECONDS * 100):
            if condition():
                return
            threading.Event().wait(0.01)
        raise AssertionError(what)

    @property
    def at_rest(self) -> bool:
        """Whether nothing is left of any request."""
        worker = self.service.worker
        idle = not (worker.tickets or worker._jobs or self.served.engine.busy)
        return idle and self.free_blocks == self.blocks and not self.server.server_state.tasks


@contextlib.contextmanager
def running(*models: Served, guard=None, page=None, **settings):
    """A server on loopback, ended and checked for what it left."""
    config = ServerConfig(port=0, **settings)
    app = create_app(models, config, guard, *([page] if page else []))
    listener = listen(config.host, 0)
    said: list[str] = []
    server = Server(app, config, said.append)
    ready = threading.Event()
    loops = []

    async def main() -> None:
        loops.append(asyncio.get_running_loop())
        task = asyncio.ensure_future(server.serve(sockets=[listener]))
        while not server.started:
            await asyncio.sleep(0.005)
        ready.set()
        await task

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(SECONDS)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield Running(models[0], app.state.service, server, loops[0], url, said)
    finally:
        with contextlib.suppress(RuntimeError):
            loops[0].call_soon_threadsafe(server.end)
        thread.join(SECONDS)
        listener.close()
        assert not thread.is_alive()
        assert not app.state.service.worker.alive
