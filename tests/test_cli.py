"""The command line: exit codes, one line for what a person can mend, and help that holds every setting."""

import dataclasses
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
from pathlib import Path

import pytest

import openherd
from miniature import RUN
from openherd.cli import COMMANDS, NOT_FOR_PEOPLE, command, main, refusal
from openherd.cli.running import split_values
from openherd.core.config import settings_of
from openherd.core.records import read_jsonl
from openherd.report.terminal import run_table
from openherd.runner import StageFunction, open_runs, open_stage
from openherd.stages import PARTS, STAGES
from toy_stages import use_toy_stages


@pytest.fixture
def run(miniature_run, tmp_path, monkeypatch):
    """The finished miniature run, from the folder that holds it; nothing in it may be changed."""
    monkeypatch.chdir(miniature_run)
    return Path(RUN)


def refused(capsys, *arguments) -> str:
    """What is said of a command that ends with exit code 2: one line, on standard error alone."""
    capsys.readouterr()
    try:
        code = main([str(a) for a in arguments])
    except SystemExit as left:  # argparse's own
        code = left.code
    said = capsys.readouterr()
    lines = [line for line in said.err.splitlines() if not re.match(r" *\d+/\d+ | {6}\d|\d+ of ", line)]
    assert (code, said.out, len(lines)) == (2, "", 1), said
    assert lines[0].startswith("openherd")
    return lines[0]


def test_help_in_80_columns(capsys):
    assert main(["--help"]) == main([]) == main(["help"]) == 0
    text = capsys.readouterr().out
    for name in [*COMMANDS, *(stage.name for stage in STAGES)]:
        assert re.search(rf"^  {name}\b", text, re.MULTILINE), name
    assert max(map(len, text.splitlines())) <= 80


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help(name, capsys):
    with pytest.raises(SystemExit) as left:
        main(["help", name])
    assert left.value.code == 0
    assert f"openherd {name}" in capsys.readouterr().out


def test_help_of_commands_of_two_words(capsys):
    for arguments in (["data"], ["data", "--help"], ["help", "data"]):
        assert main(arguments) == 0
        text = capsys.readouterr().out
        assert text.startswith("usage: openherd data COMMAND ...\n")
        assert re.findall(r"^  data ([\w-]+)", text, re.MULTILINE) == ["page", "explain", "diff", "dry-run"]
    with pytest.raises(SystemExit):
        main(["help", "data", "explain"])
    assert "usage: openherd data explain" in capsys.readouterr().out


@pytest.mark.parametrize("name", [stage.name for stage in STAGES])
def test_a_stages_help_has_every_setting_with_default_and_description(name, capsys):
    with pytest.raises(SystemExit) as left:
        main([name, "--help"])
    assert left.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    stage = StageFunction.load(name, "test")
    for setting in settings_of(stage.config_class):
        default = "required" if setting.default is dataclasses.MISSING else f"default {setting.default!r}"
        shown = f"--{setting.name.replace('_', '-')} VALUE {setting.description} ({setting.type_text}; {default})"
        # argparse breaks lines at hyphens too.
        assert shown.replace(" ", "") in text.replace(" ", ""), setting.name
    for given in stage.inputs:
        assert f"--{given.replace('_', '-')} PATH" in text


def test_stages_and_where(capsys):
    assert main(["stages"]) == 0
    listed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert listed == [stage.name for stage in STAGES]
    for query, module in (
        ("3.4.2", "openherd.training.long_context"),
        ("annealing", "openherd.training.anneal"),
        ("GQA", "openherd.model.attention"),
        ("3.1 minhash", "openherd.data.dedup_documents"),
    ):
        assert main(["where", query]) == 0
        assert module in capsys.readouterr().out.split("\n")[0]
    assert main(["where", "3.1"]) == 0
    sections = re.findall(r"^(\d\S*)", capsys.readouterr().out, re.MULTILINE)
    assert set(sections) == {s.section for s in STAGES if s.section.startswith("3.1")}
    assert "nothing about 'gibberish'; see 'openherd stages'" in refused(capsys, "where", "gibberish")
    assert "nothing about ''" in refused(capsys, "where", "")


def test_the_parts_that_where_names_are_there():
    source = Path(openherd.__file__).parent.parent
    assert [module for _, module, _ in PARTS if not (source / f"{module.replace('.', '/')}.py").exists()] == []


def test_the_405b_by_its_numbers(capsys):
    assert main(["model", "llama3-405b"]) == 0
    text = capsys.readouterr().out
    assert "405,853,388,800" in text
    assert f"{2 * 126 * 8 * 128 * 2:,}" in text  # keys and values, layers, heads, width, bytes
    assert main(["model", "list"]) == 0
    assert "herd-2m" in capsys.readouterr().out


def test_doctor_speaks_of_this_machine(capsys):
    assert main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert sys.version.split()[0] in text
    assert "precision = 'auto' means" in text


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["runn"], "openherd: command line: unknown command 'runn'; did you mean 'run'?"),
        (["plan", "chek", "x.csv"], "openherd: command line: unknown command 'plan chek'; did you mean 'plan check'?"),
        (["data", "explane", "x"], "openherd: command line: unknown command 'data explane'; did you mean 'data explain'?"),
        (["data", "x"], "openherd: command line: unknown command 'data x'; "),
        (["where"], "openherd where: the following arguments are required: WORD|SECTION; see 'openherd where --help'"),
        (["run", "r.toml"], "openherd run: the following arguments are required: --out; see 'openherd run --help'"),
        (["run", "none.toml", "--out", "x"], "openherd: none.toml: no such file; give the path of a TOML file"),
        (["model", "llama4"], "openherd: model: unknown size 'llama4'; "),
        (["model", "llama3-8b", "--sequence-length", "0"], "openherd: --sequence-length: 0; allowed: 1 or more"),
        (["sft", "--base", "none", "--dialogs", "none", "--out", "x"], "openherd: none: no finished run directory; "),
        (["sources", "--pages", "none", "--out", "x"], "openherd: none: no such file; allowed: a file, a folder, a glob"),
        (["language", "--documents", "a", "--documents", "b", "--out", "x"], "openherd: openherd language --documents: 2 paths; "),
        (["sources", "--pages", "", "--out", "x"], "openherd: openherd sources --pages: an empty name; allowed: a run directory"),
        (["sources", "--pages", ".", "--sourse", "a", "--out", "x"], "openherd sources: unrecognized arguments: --sourse a; "),
        (["sources", "--pages", ".", "--on-damage", "a", "--out", "x"], "openherd: openherd sources: on_damage = \"a\"; allowed: "),
        (["sources", "--pages", ".", "--source-patterns", '{a="("}', "--out", "x"], "openherd: sources: source_patterns: '('; "),
        (["chat", "."], "openherd: .: no run here; give a directory that `openherd run` wrote"),
        (["generate", ".", "x", "--top-p", "2"], "openherd: .: no run here"),
        (["show", "."], "openherd: .: no run here"),
        (["diff", ".", "."], "openherd: .: no run here"),
        (["clean", "."], "openherd: .: no run here; give the --out directory of `openherd run`"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(arguments, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = refused(capsys, *arguments)
    assert said.startswith(line)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("pretrain.stepz=1", "--set: stage 'pretrain' has no setting 'stepz'; did you mean 'steps'?"),
        ("pretrian.steps=1", "no stage 'pretrian' in recipes/laptop.toml; did you mean 'pretrain'?"),
        ("pretrain.steps=0.5", "recipes/laptop.toml, stage 'pretrain': steps = 0.5; allowed: a valid integer; (optimizer steps"),
        ("pretrain.size=herd-9m", "pretrain: unknown size 'herd-9m'"),
        ("pretrain.sequence_lengths=[-5, 0]", "pretrain: sequence length -5, batch_tokens 256; allowed: at least 1"),
        ("pretrain.batch_tokens=[100, 200]", "pretrain: batch_tokens = 100; allowed: a multiple of the sequence length 128"),
        ("pretrain.ramp_tokens=[]", "0 ramp_tokens; allowed: as many sequence_lengths as batch_tokens"),
        ("long-context.stage_steps=[1]", "long-context: 2 sequence_lengths, stage_steps [1]; allowed: as many of one"),
        ("anneal.averaged_checkpoints=5000", "anneal: averaged_checkpoints = 5000 in 0.1 of 300 steps; allowed: one for each"),
        ("seed=x", "--set: seed = 'x'; allowed: an integer"),
        ("steps", "--set: 'steps'; allowed: stage.setting=value, or seed=value"),
    ],
)
def test_settings_are_checked_before_anything_runs(change, message, capsys, miniature_run, tmp_path, monkeypatch):
    monkeypatch.chdir(miniature_run)
    assert message in refused(capsys, "run", "recipes/laptop.toml", "--out", tmp_path / "x", "--set", change)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("stage = [1, 2]", "r.toml, stage 1: does not say which stage"),
        ("name = 'x'", "r.toml: no stages"),
        ("base = 'r.toml'", "r.toml: is its own base"),
        ("base = 'other.toml'\n[change]\nx = 3", "change = {'x': 3}; allowed: tables [change.STAGE] of settings"),
        ("base = 'other.toml'\n[change.y]\nz = 3", "changes stage 'y', which other.toml does not have"),
        ("seed = true\n[[stage]]\nuse = 'sources'", "seed = True; allowed: an integer"),
        ("[[stage]]\nuse = 'sources'\ninputs = 3", "inputs = 3; allowed: a table"),
        ("[[stage]]\nuse = 'sources'\ninputs = { pages = './no*' }", "r.toml, stage 'sources', input 'pages': ./no*: no such file"),
        (
            "[[stage]]\nuse = 'sources'\ninputs = { pages = './a.txt' }\nrequire = 'documents_out > e'",
            "require = 'documents_out > e'",
        ),
    ],
)
def test_recipes_that_are_wrong(text, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.toml").write_text(text)
    Path("a.txt").write_text("x")
    Path("other.toml").write_text("[[stage]]\nuse = 'sources'\ninputs = { pages = './a.txt' }")
    assert message in refused(capsys, "run", "r.toml", "--out", "x")


def test_a_corpus_of_which_nothing_is_kept_is_told_at_once(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pages").mkdir()
    Path("pages/a.txt").write_text("Der Hirte hält die Herde zusammen, und abends treibt er sie in den Stall. " * 5)
    Path("r.toml").write_text(
        "[[stage]]\nuse = 'sources'\ninputs = { pages = './pages' }\n"
        "[[stage]]\nuse = 'extraction'\ninputs = { documents = 'sources' }\n"
        "[[stage]]\nuse = 'language'\ninputs = { documents = 'extraction' }\nlanguages = ['en']\n"
        "[[stage]]\nuse = 'heuristics'\ninputs = { documents = 'language' }\n"
    )
    said = refused(capsys, "run", "r.toml", "--out", "x")
    assert "stage 'language' kept none of 1 documents ('language' 1); look at its dropped.parquet" in said
    assert set(open_runs(Path("x"))) == {"sources", "extraction", "language"}  # what was made stays


def test_a_truncated_warc_and_a_full_disk(run, capsys, tmp_path, monkeypatch):
    pages = open_stage(run, "python-docs").file("pages.warc.gz").read_bytes()
    (tmp_path / "cut.warc.gz").write_bytes(pages[: len(pages) // 2])
    said = refused(capsys, "sources", "--pages", tmp_path / "cut.warc.gz", "--out", tmp_path / "x")
    assert re.search(r"cut.warc.gz, byte [\d,]+: damaged: .*; fetch the file again, or set on_damage = 'skip'", said)

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    (tmp_path / "a.txt").write_text("A herd.")
    arguments = ["sources", "--pages", tmp_path / "a.txt", "--out", tmp_path / "y"]
    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        assert "No space left on device; make room or give another --out, then the same command goes on" in refused(
            capsys, *arguments
        )
    assert main([str(a) for a in arguments]) == 0


def test_pages_where_texts_are_needed_and_texts_where_pages_are(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text("The herd is kept together. " * 20)
    for form in ("pages", "documents"):
        assert main(["sources", "--pages", "a.txt", "--form", form, "--engine", "{ processes = 1 }", "--out", form]) == 0
    for stage in (
        "language", "language-split", "language-quotas", "heuristics", "dedup-documents", "dedup-lines", "pii", "code-reasoning",
        "holdout", "mix-documents", "cluster-documents", "label-documents",
    ):  # fmt: skip
        said = refused(capsys, stage, "--documents", "pages", "--out", stage)
        assert said == "openherd: pages/documents.parquet: pages without text; run extraction on them before", stage
    said = refused(capsys, "train-classifier", "--positives", "pages", "--negatives", "pages", "--out", "classifier")
    assert "pages without text" in said
    said = refused(capsys, "train-classifier", "--out", "of-nothing")
    assert said == "openherd: classifier: no pair of inputs; allowed: positives and negatives, or labels alone"
    said = refused(capsys, "extraction", "--documents", "documents", "--out", "extraction")
    assert said == "openherd: documents/documents.parquet: texts and no pages; leave extraction out"


def test_what_may_not_be_read_is_told_as_such(capsys, tmp_path, monkeypatch):
    (tmp_path / "a.paths").write_text("b.txt\n")

    def refuse(file, *_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(file))

    monkeypatch.setattr("openherd.core.rundir.file_sha256", refuse)
    said = refused(capsys, "sources", "--pages", tmp_path / "a.paths", "--out", tmp_path / "x")
    assert f"a.paths: {os.strerror(errno.EACCES)}; see who may read and write it or give another --out" in said


def test_errors_behind_a_librarys_own_are_found():
    behind = RuntimeError("cannot write")
    behind.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert refusal(behind).errno == errno.EDQUOT
    assert refusal(RuntimeError(f"writer: {os.strerror(errno.ENOSPC)}")).errno == errno.ENOSPC
    assert refusal(RuntimeError("something else")) is None


def test_ctrl_c_ends_with_130_and_the_same_command_goes_on(capsys, tmp_path, monkeypatch):
    use_toy_stages(monkeypatch)
    monkeypatch.setenv("TOY_TRACE", str(tmp_path / "trace"))
    (tmp_path / "n.txt").write_text("4")
    (tmp_path / "r.toml").write_text(
        f"[[stage]]\nuse = 'toy-read'\ninputs = {{ numbers = '{tmp_path}/n.txt' }}\n"
        "[[stage]]\nuse = 'toy-scale'\ninputs = { value = 'toy-read' }\n"
    )
    arguments = ["run", str(tmp_path / "r.toml"), "--out", str(tmp_path / "x")]

    def interrupt(*_):
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    with monkeypatch.context() as pressed:
        pressed.setattr("toy_stages.mean_estimate", interrupt)
        assert main(arguments) == 130
    signal.signal(signal.SIGINT, before)
    assert capsys.readouterr().err.endswith("\nopenherd: stopped; the same command resumes\n")
    assert set(open_runs(tmp_path / "x")) == {"toy-read"}
    assert main(arguments) == 0
    assert set(open_runs(tmp_path / "x")) == {"toy-read", "toy-scale"}


def test_show_diff_and_clean_on_a_run(run, capsys):
    assert main(["show", str(run)]) == 0
    table = capsys.readouterr().out
    places = open_runs(run)
    rows = table.splitlines()[1 : len(places) + 1]
    assert [line.split()[0] for line in rows] == [stage.name for stage in STAGES if stage.name in places]
    assert main(["show", str(places["sft"].path)]) == 0
    assert places["sft"].digest in capsys.readouterr().out
    assert main(["diff", str(run), str(run)]) == 0
    assert capsys.readouterr().out.count("the same run") == len(places)
    assert main(["diff", str(places["pretrain"].path), str(places["anneal"].path)]) == 0
    text = capsys.readouterr().out
    assert text.startswith("pretrain, anneal:\n")
    assert re.search(r"metric +tokens ", text)
    assert main(["clean", str(run), "--dry-run"]) == 0
    assert capsys.readouterr().out == "nothing to remove\n"
    assert "stage 'anneal' has no input 'dialogs'" in refused(capsys, "show", "--mask", places["anneal"].path)
    assert "--dialog: 99999; allowed: 0 to" in refused(capsys, "show", "--mask", run, "--dialog", "99999")


def test_show_mask_brackets_the_answer_alone(run, capsys):
    dialog = next(read_jsonl(open_stage(run, "dialogs").file("train.jsonl")))
    assert main(["show", str(run), "--mask"]) == 0
    shown = capsys.readouterr().out.split("\ndialog 0 of ")[0]
    marked = "".join(part.partition("›")[0] for part in shown.split("‹")[1:])
    assert marked == dialog["messages"][-1]["content"] + "<|eot_id|>"


def test_weights_that_were_damaged_are_not_used(run, capsys, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run, copy)
    assert main(["show", str(copy), "--verify"]) == 0
    assert "every output has the SHA-256" in capsys.readouterr().out
    weights = open_stage(copy, "sft").file("model/model.safetensors")
    data = bytearray(weights.read_bytes())
    data[len(data) // 2] ^= 1
    weights.write_bytes(data)
    for arguments in (["show", copy, "--verify"], ["generate", copy, "Hello"], ["chat", copy]):
        assert "model.safetensors: damaged: its SHA-256 is not the manifest's" in refused(capsys, *arguments)


def test_a_narrow_terminal_gets_two_lines_a_stage(run):
    runs = [(name, done, True) for name, done in open_runs(run).items()]
    wide, narrow = (run_table(Path("r.toml"), run, runs, width) for width in (0, 80))
    assert run_table(Path("r.toml"), run, runs, 300) == wide
    table = narrow.split("* was done before")[0].splitlines()
    assert len(table) == 1 + 2 * len(runs)
    assert max(map(len, table)) <= 80
    for text in (wide, narrow):
        for name, done, _ in runs:
            assert f"{name}/{done.path.name}" in text
        assert "This model is a toy" in text


def test_generate_answers_and_continues(run, capsys, monkeypatch):
    question = run_question(run)
    assert main(["generate", str(run), question, "--max-new-tokens", "6"]) == 0
    said = capsys.readouterr().out
    monkeypatch.setattr("sys.stdin", io.StringIO(question))
    assert main(["generate", str(run), "-", "--max-new-tokens", "6"]) == 0
    assert capsys.readouterr().out == said
    sampled = ["--text", "--temperature", "1", "--top-p", "0.9", "--max-new-tokens", "12", "--seed"]
    texts = []
    for seed in ("1", "1", "2"):
        assert main(["generate", str(run), "The", *sampled, seed]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] != texts[2]
    for wrong, told in (
        (["--temperature", "-1"], "sampling.temperature: -1.0; allowed: 0"),
        (["--top-p", "0"], "sampling.top_p: 0.0; allowed: "),
        (["--max-new-tokens", "0"], "max-new-tokens: 0; allowed: at least 1"),
    ):
        assert told in refused(capsys, "generate", run, "x", *wrong)
    assert "tokens; allowed: under 256, the model's context" in refused(capsys, "generate", run, "a long story " * 200)


def run_question(run: Path) -> str:
    """The question that the table of a run proposes."""
    table = run_table(None, run, [(name, done, True) for name, done in open_runs(run).items()])
    return re.search(r"^ask +(.+)$", table, re.MULTILINE)[1]


def test_the_question_that_is_proposed_is_one_of_the_runs(run):
    asked = [row["messages"][0]["content"] for row in read_jsonl(open_stage(run, "dialogs").file("heldout_phrasings.jsonl"))]
    assert run_question(run) in asked


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("1,2,3", ["1", "2", "3"]),
        ("[256, 256],[512,512]", ["[256, 256]", "[512,512]"]),
        ('["a,b"],c', ['["a,b"]', "c"]),
        ("{a=1,b=2}, {a=2}", ["{a=1,b=2}", "{a=2}"]),
        ('"x,y",z', ['"x,y"', "z"]),
        ("1e-3", ["1e-3"]),
    ],
)
def test_values_of_a_sweep(text, values):
    assert split_values(text) == values


def test_a_sweep_refuses_what_it_would_forget(capsys, run, tmp_path):
    arguments = ["sweep", "recipes/laptop.toml", "--out", tmp_path / "x"]
    twice = ["--set", "sft.epochs=1", "--set", "sft.epochs=2"]
    assert "'sft.epochs=2'; allowed: stage.setting=value,value,..., each setting once" in refused(capsys, *arguments, *twice)
    assert "--seeds: 0; allowed: 1 or more" in refused(capsys, *arguments, "--seeds", "0")
    assert "has no setting 'epoch'; did you mean 'epochs'?" in refused(capsys, *arguments, "--set", "sft.epoch=1,2")
    assert not (tmp_path / "x").exists()


def test_a_pipe_that_closes_is_no_error(run, monkeypatch):
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Closed())
    monkeypatch.setattr("sys.stderr", io.StringIO())
    assert main(["show", str(run)]) == 0


def test_the_run_file_is_plain(run):
    document = json.loads((run / "run.json").read_text())
    assert set(document) == {"recipe", "file", "seed", "stages"}
    assert not (run / "run.unfinished.json").exists()


def test_every_command_has_its_function_in_the_module_that_the_table_names():
    for name in [*COMMANDS, *NOT_FOR_PEOPLE]:
        assert command(name).__name__ == f"command_{name.replace(' ', '_').replace('-', '_')}"
        assert command(name).__module__ == f"openherd.cli.{ {**COMMANDS, **NOT_FOR_PEOPLE}[name] }"
