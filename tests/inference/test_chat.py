"""The chat in the terminal: lines in, answers and replies out, against answers to the same dialogs made alone."""

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import threading

import pytest

from miniature import environment
from openherd.cli import main
from openherd.inference import chat
from openherd.inference.engine import stream
from openherd.inference.sampling import Sampling
from openherd.model.weights import load_model
from openherd.posttraining.sft import DIALOGS, read_dialogs
from openherd.tokenizer.dialog import encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer
from small_server import CONTEXT, write_directory

WRITTEN = 12


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return write_directory(tmp_path_factory.mktemp("model"))


@pytest.fixture
def talk(directory, monkeypatch, capsys):
    """A function that feeds lines to `openherd chat`; returns what it printed, and on standard error."""
    monkeypatch.setattr(chat, "open_model", lambda path, *_: load_model(path))

    def run(*lines, options=()):
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert main(["chat", str(directory), "--max-new-tokens", str(WRITTEN), *options]) == 0
        return capsys.readouterr()

    return run


@pytest.fixture
def alone(directory):
    """A function that answers a dialog, given as texts of a user and an assistant by turns."""
    model, tokenizer = load_model(directory), Tokenizer.load(directory)

    def answer(*texts, system="", temperature=0.0):
        turns = [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(texts)]
        prompt = encode_dialog(tokenizer, [*chat.opening(system), *turns], generation_prompt=True).ids
        sampling = Sampling(max_new_tokens=WRITTEN, temperature=temperature)
        return "".join(stream(model, tokenizer, prompt, sampling, tokenizer.stop_ids))

    return answer


def test_answers_know_what_was_said_until_it_is_forgotten(talk, alone):
    first = alone("One.")
    second = alone("One.", first, "Two.")
    assert second != alone("Two.")
    assert talk("One.", "", "Two.", "/new", " Two. ") == (f"{first}\n{second}\n{alone('Two.')}\n", "")
    assert talk("One.", "/quit", "Two.") == (f"{first}\n", "")


def test_the_oldest_turns_are_not_read_where_the_context_is_full(talk, alone):
    long = "abcdefgh " * (CONTEXT // 16)
    assert talk(long, long).out == f"{alone(long)}\n" * 2


def test_a_system_message_holds_from_the_next_question_on(talk, alone):
    said = talk("/system", "/system Be brief.", "One.", "/system -", "/new", "One.", options=("--system", "Be kind."))
    brief = alone("One.", system="Be brief.")
    assert brief != alone("One.")
    told = "system message: Be kind.\nsystem message: Be brief.\n"
    assert said == (f"{told}{brief}\nsystem message: none\n{alone('One.')}\n", "")


def test_a_temperature_holds_from_the_next_question_on(talk, alone):
    warm = alone("One.", temperature=1.5)
    assert warm != alone("One.")
    said = talk("/temperature 1.5", "/temperature", "One.", *(f"/temperature {x}".strip() for x in ("hot", "-1", "nan", "")))
    assert said.out == f"temperature: 1.5\ntemperature: 1.5\n{warm}\ntemperature: 1.5\n"
    assert said.err.splitlines() == [
        "temperature: 'hot'; allowed: a number; 0 takes the likeliest token",
        "sampling.temperature: -1.0; allowed: 0 (greedy) or more",
        "sampling.temperature: nan; allowed: 0 (greedy) or more",
    ]


def test_what_is_saved_can_be_trained_on(talk, alone, directory, tmp_path):
    file, other = tmp_path / DIALOGS, tmp_path / "no" / "such"
    paths = file, other, "~nobody-here/x", file
    said = talk("/save", f"/save {file}", "/system Sí.", "One.", *(f"/save {path}" for path in paths), "Two.")
    first = alone("One.", system="Sí.")
    assert said.out == f"system message: Sí.\n{first}\n{file}: 2 messages and the system message\n" + (
        alone("One.", first, "Two.", system="Sí.") + "\n"
    )
    assert said.err.splitlines() == [
        "/save: no file; give one: /save chat.jsonl",
        "/save: nothing was said yet",
        f"{other}: cannot be written (No such file or directory)",
        "~nobody-here/x: cannot be written (No such file or directory)",
        f"{file}: exists already; another name, or /save! to overwrite it",
    ]
    dialog = [
        {"role": "system", "content": "Sí."},
        {"role": "user", "content": "One."},
        {"role": "assistant", "content": first},
    ]
    assert [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] == [{"messages": dialog}]

    class Dialogs:
        file = staticmethod(tmp_path.joinpath)

    tokenizer = Tokenizer.load(directory)
    assert read_dialogs(Dialogs, tokenizer) == [encode_dialog(tokenizer, dialog)]
    assert talk("Two.", f"/save! {file}").err == ""
    assert json.loads(file.read_text())["messages"][0] == {"role": "user", "content": "Two."}


def test_help_names_every_command_and_others_go_nowhere(talk, alone):
    said = talk("/help", "/sytem Be brief.", "/", " /etc")
    assert [line.split()[0] for line in said.out.splitlines()[: len(chat.COMMANDS)]] == [*chat.COMMANDS]
    assert said.out.endswith(f"\n{alone('/etc')}\n")
    lines = said.err.splitlines()
    assert [line.split(":")[0] for line in lines] == ["/sytem", "/"]
    assert all(name in line for name in chat.COMMANDS for line in lines)


def test_a_question_that_is_too_long_leaves_the_conversation_as_it_was(talk, alone):
    said = talk("One.", "x y " * CONTEXT, "Two.")
    assert said.out == f"{alone('One.')}\n{alone('One.', alone('One.'), 'Two.')}\n"
    assert said.err.startswith("prompt: ")


def test_input_that_is_no_text_is_one_line(directory, monkeypatch, capsys):
    monkeypatch.setattr(chat, "open_model", lambda path, *_: load_model(path))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n"), encoding="utf-8"))
    assert main(["chat", str(directory)]) == 2
    assert capsys.readouterr().err == "openherd: standard input: not UTF-8\n"


def test_an_interrupted_answer_is_kept_as_far_as_it_came(talk, monkeypatch, tmp_path):
    def interrupted(*_):
        yield from pieces
        signal.raise_signal(signal.SIGINT)
        yield "never"

    pieces = ["Well", ", then"]
    monkeypatch.setattr(chat, "stream", interrupted)
    assert talk("One.", f"/save {tmp_path / 'a.jsonl'}").out.startswith("Well, then\n")
    saved = json.loads((tmp_path / "a.jsonl").read_text())["messages"]
    assert [message["content"] for message in saved] == ["One.", "Well, then"]
    pieces = []  # a question without an answer is forgotten
    assert talk("One.", "/save x").err == "/save: nothing was said yet\n"


SCRIPT = """
import fcntl, sys, termios, time
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
from openherd.cli import main
from openherd.inference import chat
from openherd.model.weights import load_model
def stream(*_):
    yield "Well"
    while True:
        time.sleep(0.01)
chat.open_model, chat.stream = lambda path, *_: load_model(path), stream
sys.exit(main(["chat", sys.argv[1]]))
"""


def test_a_terminal(directory):
    """Ctrl-C stops an answer, an arrow brings the last line back, and Ctrl-C at the prompt leaves."""
    pty = pytest.importorskip("pty")
    ours, theirs = pty.openpty()
    command = [sys.executable, "-c", SCRIPT, str(directory)]
    given = environment() | {"TERM": "dumb"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=given, start_new_session=True)
    os.close(theirs)
    late = threading.Timer(300, process.kill)  # ends a `read` of what never comes
    late.start()
    said = b""

    def until(text):
        nonlocal said
        while text not in said:
            said += os.read(ours, 1_000)
        said = said.partition(text)[2]

    try:
        until(b"> ")
        os.write(ours, b"One.\n")
        until(b"Well")
        os.write(ours, b"\x03")
        until(b"> ")
        os.write(ours, b"\x1b[A")
        until(b"One.")
        for _ in range(12):  # a Ctrl-C that comes between Python's look for one and its wait for a key is seen at the next
            os.write(ours, b"\x03")
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
                break
        assert process.returncode == 0
    finally:
        late.cancel()
        process.kill()
        os.close(ours)
