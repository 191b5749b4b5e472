"""What is asked of curated data on the command line."""

from pathlib import Path

from openherd.cli.arguments import Parser, check_least, new_file
from openherd.core.errors import ConfigError


def command_data_dry_run(arguments: list[str]) -> None:
    """`openherd data dry-run`"""
    parser = Parser(prog="openherd data dry-run", description="What each limit of heuristics would drop, with examples.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or the directory of its stage heuristics")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another limit, in TOML")
    given = parser.parse_args(arguments)
    import tomllib

    from openherd.data.heuristics import dry_run_text
    from openherd.runner import open_stage

    try:
        changes = tomllib.loads("\n".join(given.set))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("--set", f"not TOML ({error})", allowed="NAME=VALUE") from None
    print(dry_run_text(open_stage(given.run, "heuristics"), changes))


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


def command_data_page(arguments: list[str]) -> None:
    """`openherd data page`"""
    parser = Parser(prog="openherd data page", description="One page about what curation kept and dropped, to browse.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a run, or the directory of one of its stages")
    parser.add_argument("--out", type=new_file, required=True, metavar="FILE", help="the page to write")
    from openherd.core.config import load_config, parse_value, settings_of
    from openherd.data.browsing import BrowsingConfig, data_page
    from openherd.runner import open_runs

    settings = settings_of(BrowsingConfig)
    for setting in settings:
        option = f"--{setting.name.replace('_', '-')}"
        parser.add_argument(option, metavar="N", help=f"{setting.description} (default: {setting.default})")
    given = parser.parse_args(arguments)
    values = {s.name: parse_value(s, text) for s in settings if (text := getattr(given, s.name)) is not None}
    config = load_config(BrowsingConfig, values, "openherd data page")
    page = data_page(config, open_runs(given.run), given.run)
    given.out.write_text(page, encoding="utf-8")
    print(f"{given.out}: {len(page.encode()) / 1e6:.1f} MB")


def command_data_diff(arguments: list[str]) -> None:
    """`openherd data diff`"""
    description = "Which documents one curation keeps and another drops, by stage and reason; texts that differ; changed settings."
    parser = Parser(prog="openherd data diff", description=description)
    parser.add_argument("first", type=Path, metavar="A", help="a run, a run file of a sweep, or the directory of a stage")
    parser.add_argument("second", type=Path, metavar="B")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="documents named of each kind (default 3)")
    parser.add_argument("--memory-gb", type=float, default=1.0, metavar="GB", help="memory of the comparison (default 1)")
    given = parser.parse_args(arguments)
    check_least({"--examples": (given.examples, 0)})
    if given.memory_gb <= 0:
        raise ConfigError("--memory-gb", f"{given.memory_gb:g}", allowed="more than 0")
    from openherd.data.comparison import changed_settings, compare, comparison_text
    from openherd.data.curated import curated
    from openherd.runner import open_runs

    first, second = (curated(open_runs(path), path) for path in (given.first, given.second))
    found = compare(first, second, given.examples, given.memory_gb)
    settings = changed_settings(*({stage.name: stage.run for stage in stages} for stages in (first, second)))
    print(comparison_text(found, settings, first, second))
