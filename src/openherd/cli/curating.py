"""What is asked of curated data on the command line."""

from pathlib import Path

from openherd.cli.arguments import Parser
from openherd.core.errors import ConfigError


def command_data_dry_run(arguments: list[str]) -> None:
    """`openherd data dry-run`"""
    parser = Parser(prog="openherd data dry-run", description="What each limit of heuristics would drop, with examples.")
    parser.add_argument("run", type=Path, metavar="RUN", help="a finished run of heuristics")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="another limit, in TOML")
    given = parser.parse_args(arguments)
    import tomllib

    from openherd.core.rundir import Run
    from openherd.data.heuristics import dry_run_text

    try:
        changes = tomllib.loads("\n".join(given.set))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("--set", f"not TOML ({error})", allowed="NAME=VALUE") from None
    run = Run.open(given.run)
    print(dry_run_text(run, run.input("documents"), changes))
