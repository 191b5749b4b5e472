"""Commands that look at what curation did: data page, data explain, data diff."""

from pathlib import Path

from openherd.cli.arguments import Parser, new_file


def command_data_explain(arguments: list[str]) -> None:
    """`openherd data explain`"""
    parser = Parser(prog="openherd data explain", description="One document's whole story: where it was read, what each stage did.")
    parser.add_argument("key", metavar="URL|ID", help="its address as it was read, its id, or the beginning of its id")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or the directory of one of its stages")
    given = parser.parse_args(arguments)
    from openherd.data.curated import curated
    from openherd.data.story import stories, story_text
    from openherd.runner import open_runs

    found = stories(curated(open_runs(given.run), given.run), given.key)
    print("\n\n".join(map(story_text, found)))
