"""Commands that exchange models and tokenizers with other programs: import, export, tokenizer."""

from pathlib import Path

from openherd.cli.arguments import Parser, model_directory, new_file
from openherd.cli.running import run_stage


def command_import(arguments: list[str]) -> int:
    """`openherd import`: the stage, its source named first, and the check printed."""
    words = ["--check", "false"] if "--no-check" in arguments else []
    rest = [a for a in arguments if a != "--no-check"]
    if rest and not rest[0].startswith("-"):
        rest.insert(0, "--source")
    run = run_stage("import", [*rest, *words], "openherd import SOURCE --out DIR [--no-check], or with more of these options:")
    from openherd.interchange.check import Check

    found = run.metrics["check"]
    print(f"check: {Check(**found).text() if isinstance(found, dict) else found}")
    return 0


def command_export(arguments: list[str]) -> None:
    """`openherd export`"""
    parser = Parser(prog="openherd export", description="A model to where others use it, with the check that nothing changed.")
    parser.add_argument("directory", type=Path, metavar="DIR", help="a run, a stage's run directory, or a model directory")
    formats = "hf: a Hugging Face directory; meta: consolidated.00.pth and params.json; gguf: one file for llama.cpp and ollama"
    parser.add_argument("--to", required=True, choices=("hf", "meta", "gguf"), help=formats)
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the directory, or the GGUF file, to write")
    parser.add_argument(
        "--type", default="", choices=("f16", "bf16", "q8_0"), help="of a GGUF file's weights (default: their own, f16 for fp32)"
    )
    parser.add_argument("--no-check", action="store_true", help="do not compare; the manifest says so")
    given = parser.parse_args(arguments)
    from openherd.interchange.exporting import export

    print(export(model_directory(given.directory), given.to, given.out, given.type, not given.no_check))


def command_tokenizer_compare(arguments: list[str]) -> None:
    """`openherd tokenizer compare`"""
    parser = Parser(prog="openherd tokenizer compare", description="Two tokenizers on the same text, by language.")
    what = "a rank file (tokenizer.model), a directory with tokenizer.json, or a run directory"
    parser.add_argument("first", type=Path, metavar="A", help=what)
    parser.add_argument("second", type=Path, metavar="B", help="another")
    on = "the text: .parquet or .jsonl with 'text' and perhaps 'language', .txt, a folder of .txt by language, or a run directory"
    parser.add_argument("--on", type=Path, required=True, metavar="DATA", help=on)
    parser.add_argument("--page", type=new_file, metavar="FILE", help="also write a page with a picture")
    given = parser.parse_args(arguments)
    from openherd.tokenizer.compare import compare

    print(compare(given.first, given.second, given.on, given.page))


def command_tokenizer_convert(arguments: list[str]) -> None:
    """`openherd tokenizer convert`"""
    description = "Meta's rank file (tokenizer.model) to a directory with tokenizer.json, or such a directory to a rank file."
    parser = Parser(prog="openherd tokenizer convert", description=description)
    parser.add_argument(
        "source", type=Path, metavar="SOURCE", help="a rank file, a directory with tokenizer.json, or a run directory"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="PATH", help="the directory or the rank file to write")
    given = parser.parse_args(arguments)
    from openherd.tokenizer.files import convert

    print(convert(given.source, given.out))
