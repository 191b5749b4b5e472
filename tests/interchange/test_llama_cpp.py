"""Our GGUF files in llama.cpp itself: 64 greedy tokens and their log-probabilities, and its tokenizer. Slow, and asked for by hand.

llama-cpp-python has no wheel, and building it takes about 35 minutes on two cores:

    OPENHERD_LLAMA_CPP=build scripts/test --slow tests/interchange/test_llama_cpp.py

or OPENHERD_LLAMA_CPP=/path/to/python of an environment that has it.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from interchange_models import META, SHAPES, sharp_model
from openherd.cli import main
from openherd.inference.engine import generate
from openherd.inference.sampling import Sampling
from openherd.model.weights import load_model, save_model
from openherd.tokenizer.dialog import encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer
from openherd.tokenizer.tools import call

WANTED = os.environ.get("OPENHERD_LLAMA_CPP")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not WANTED, reason="OPENHERD_LLAMA_CPP=build, or a Python with llama-cpp-python, asks for it"),
]
CONFIGS = {
    "llama-3.1": replace(META, d_feed_forward=192, max_positions=512),
    "three-kv-heads": replace(SHAPES["three-kv-heads-80-wide"], d_feed_forward=96, vocabulary=576, max_positions=512),
    "tied": replace(SHAPES["tied-one-layer-128-wide"], vocabulary=560, max_positions=512),
    "64-wide-scaled": replace(SHAPES["64-wide"], vocabulary=576, max_positions=512),
}
TEXTS = [
    "def f(x):\n    return 12345 + x  # naïve\r\n\n\n",
    " It's 東京, Übung und 'WE'LL' 🙂 \t\t end   ",
    "<|eot_id|> is ordinary here",
    "".join(chr(c) for c in range(1, 400)),
]
SCRIPT = """
import json, sys, numpy as np
from llama_cpp import Llama, llama_cpp as c
if b"AMX_INT8 = 1" in c.llama_print_system_info():  # 0.3.36 uses the matrix unit for q8_0 before it is set up, and dies
    defaults = c.llama_model_default_params
    def without():
        found = defaults()
        found.use_extra_bufts = False
        return found
    c.llama_model_default_params = without
asked = json.load(sys.stdin)
llama = Llama(asked["file"], n_ctx=512, n_threads=2, n_gpu_layers=0, logits_all=True, verbose=False, type_k=0, type_v=0)
prompt, tokens, found = asked["prompt"], [], []
llama.eval(prompt)
for _ in range(64):
    logits = llama.scores[llama.n_tokens - 1].astype(np.float64)
    token = int(logits.argmax())
    tokens.append(token)
    found.append((logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())).tolist())
    llama.eval([token])
words = [llama.tokenize(t.encode(), add_bos=False, special=False) for t in asked["texts"]]
begins = llama.tokenize(b"a", add_bos=True)[0]
from llama_cpp.llama_chat_format import Jinja2ChatFormatter
template = llama.metadata["tokenizer.chat_template"]
text = Jinja2ChatFormatter(template, eos_token="<|end_of_text|>", bos_token="<|begin_of_text|>")(messages=asked["dialog"]).prompt
dialog = llama.tokenize(text.encode(), add_bos=False, special=True)
print(json.dumps({"tokens": tokens, "logprobs": found, "words": words, "begins": begins, "dialog": dialog}))
"""
DIALOG = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is 6 times 7?"},
    {"role": "assistant", "content": "", "tool_calls": [call("f", {"x": [6, 7]})]},
    {"role": "tool", "content": "42"},
]


@pytest.fixture(scope="module")
def python(tmp_path_factory) -> Path:
    """A Python that has llama-cpp-python."""
    if WANTED != "build":
        return Path(str(WANTED))
    place = tmp_path_factory.mktemp("llama-cpp")
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    subprocess.run([place / "bin/python", "-m", "pip", "install", "-q", "llama-cpp-python==0.3.36"], check=True, timeout=7_200)
    return place / "bin/python"


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
@pytest.mark.parametrize("shape", CONFIGS)
def test_llama_cpp_gives_the_same(shape, kind, python, tokenizer_directory, tmp_path, capsys):
    model = sharp_model(CONFIGS[shape]).to(torch.bfloat16 if kind == "bf16" else torch.float16).float()
    save_model(model, tmp_path / "model")
    words = Tokenizer.load(tokenizer_directory)
    words.save(tmp_path / "model")
    assert main(["export", str(tmp_path / "model"), "--to", "gguf", "--out", str(tmp_path / "m.gguf"), "--type", kind]) == 0
    prompt = torch.randint(500, (40,), generator=torch.Generator().manual_seed(5)).tolist()
    asked = {"file": str(tmp_path / "m.gguf"), "prompt": prompt, "texts": TEXTS, "dialog": DIALOG}
    done = subprocess.run([python, "-c", SCRIPT], input=json.dumps(asked), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    ours = load_model(tmp_path / "model")
    text = prompt + found["tokens"]
    with torch.no_grad():
        logprobs = ours(torch.tensor([text]))[0].log_softmax(-1)[len(prompt) - 1 : -1]
    theirs = torch.tensor(found["logprobs"])
    largest = float((logprobs - theirs).abs().max())
    same = sum(a == b for a, b in zip(generate(ours, [prompt], Sampling(max_new_tokens=64), ())[0], found["tokens"], strict=True))
    likeliest = int((logprobs.argmax(-1) == torch.tensor(found["tokens"])).sum())
    with capsys.disabled():
        figures = f"largest log-probability difference {largest:.2g}, likeliest {likeliest} of 64, greedy {same} of 64"
        print(f"\n{shape:16}{kind:6}{figures} (log-probabilities down to {float(logprobs.min()):.3g})")
    bound = {"f16": 0.01, "bf16": 0.05, "q8_0": 0.2}[kind]  # with q8_0 llama.cpp computes with activations of eight bits, too
    assert largest < bound * float(logprobs.abs().max())
    assert likeliest >= {"f16": 63, "bf16": 60, "q8_0": 50}[kind]
    assert found["words"] == [words.encode(t) for t in TEXTS]
    assert found["begins"] == words.bos_id
    assert found["dialog"] == encode_dialog(words, DIALOG, generation_prompt=True).ids
