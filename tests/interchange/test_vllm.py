"""Our model directories in vLLM itself, on a processor: greedy tokens, its tokenizer and its chat template. Slow.

Runs where `.venv-vllm` has vLLM's CPU build (docs/serving.md says how it is made).
"""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import pytest
import torch

from interchange_models import SHAPES, sharp_model
from miniature import ROOT
from openherd.inference.engine import generate, score
from openherd.inference.sampling import Sampling
from openherd.model.weights import save_model
from openherd.tokenizer.dialog import encode_dialog
from openherd.tokenizer.tokenizer import Tokenizer

PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not PYTHON.exists(), reason="no vLLM in .venv-vllm")]
ALONE = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
WRITTEN = 48
DIALOG = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is 6 times 7?"}]
SCRIPT = """
import json, sys
from vllm import LLM, SamplingParams
asked = json.load(sys.stdin)
llm = LLM(asked["model"], dtype="float32", enforce_eager=True, max_model_len=128, max_num_seqs=4)
given = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
settings = SamplingParams(temperature=0, max_tokens=asked["written"], ignore_eos=True, logprobs=0)
answers = [found.outputs[0] for found in llm.generate(given, settings, use_tqdm=False)]
tokenizer = llm.get_tokenizer()
json.dump({
    "tokens": [list(a.token_ids) for a in answers],
    "logprobs": [[step[token].logprob for token, step in zip(a.token_ids, a.logprobs)] for a in answers],
    "dialog": tokenizer.apply_chat_template(asked["dialog"], add_generation_prompt=True, return_dict=False),
}, open(asked["out"], "w"))
"""


@pytest.mark.parametrize("shape", ["64-wide", "tied-one-layer-128-wide"])  # vLLM has no heads of 16 on processors
def test_vllm_writes_the_same(shape, tokenizer_directory, tmp_path):
    directory, out = tmp_path / "model", tmp_path / "found.json"
    shutil.copytree(tokenizer_directory, directory)
    words = Tokenizer.load(directory)
    config = replace(SHAPES[shape], vocabulary=words.vocabulary + 16)
    model = sharp_model(config)
    save_model(model, directory, bos=words.bos_id, eos=sorted(words.stop_ids))
    prompts = [[words.bos_id, *words.encode(text)] for text in ("def f(x):\n    return 12345 + x", "It's 東京 🙂", "a")]
    asked = {"model": str(directory), "prompts": prompts, "written": WRITTEN, "dialog": DIALOG, "out": str(out)}
    given = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | ALONE
    done = subprocess.run(
        [PYTHON, "-c", SCRIPT], input=json.dumps(asked), env=given, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr[-2_000:]
    found = json.loads(out.read_text())
    assert found["tokens"] == generate(model, prompts, Sampling(max_new_tokens=WRITTEN), ())
    for theirs, ours in zip(found["logprobs"], score(model, prompts, found["tokens"]), strict=True):
        assert torch.tensor(theirs) == pytest.approx(ours, abs=1e-3)
    assert found["tokens"] != generate(sharp_model(replace(config, rope_theta=1e4)), prompts, Sampling(max_new_tokens=WRITTEN), ())
    assert found["dialog"] == encode_dialog(words, DIALOG, generation_prompt=True).ids
