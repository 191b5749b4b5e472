"""Commands that plan a run: plan, plan check, plan calibrate, plan tutorial, plan failures."""

import json
import sys
from pathlib import Path

from openherd.cli.arguments import EXIT_DIFFERS, Parser, check_least, count, new_file
from openherd.core.errors import ConfigError


def command_plan(arguments: list[str]) -> int:
    """`openherd plan`; the exit code says whether anything fits."""
    parser = Parser(
        prog="openherd plan",
        description="The fastest layouts of a model on so many GPUs, before anything is paid: memory and time by part, days, "
        "energy and money, with the error on measured runs; and why others do not fit. Needs no GPU.",
        epilog="Others: 'openherd plan check FILE...', measured runs against predictions; 'openherd plan calibrate FILE', "
        "constants from your own runs; 'openherd plan tutorial', its figures of energy and efficiency with the arithmetic; "
        "'openherd plan failures', a run that fails, simulated. Guides: docs/planning.md, docs/failures.md",
    )
    parser.add_argument("model", metavar="MODEL", help="llama3-405b, for one; 'openherd model list' names all")
    parser.add_argument("--gpus", type=int, required=True, metavar="N", help="all of them")
    parser.add_argument(
        "--hardware", default="h100", metavar="NAME", help="a100-40g, a100-80g, h100, h200, b200, ... (default h100)"
    )
    parser.add_argument("--precision", default="bf16", metavar="DTYPE", help="bf16, fp16, fp8, mxfp8, nvfp4 (default bf16)")
    engines = "whose memory and overlap: llama3 (the paper's, default), ours, torchtitan, megatron"
    parser.add_argument("--engine", default="llama3", metavar="NAME", help=engines)
    parser.add_argument("--seq", type=int, default=8_192, metavar="TOKENS", help="of a sequence (default 8192)")
    parser.add_argument("--batch-tokens", type=int, default=16_777_216, metavar="TOKENS", help="of a step (default 16777216)")
    parser.add_argument("--tokens", type=count, default=15.6e12, metavar="TOKENS", help="of the run (default 15.6e12)")
    parser.add_argument(
        "--layout",
        default="",
        metavar="TP=8,...",
        help="this one alone: tp, cp, pp, dp, v, micro, recompute, sharding, replicas, layers",
    )
    parser.add_argument("--best", type=int, default=5, metavar="N", help="layouts shown (default 5)")
    exports = "print the best layout, or --layout's, as recipe, torchtitan or megatron arguments"
    parser.add_argument("--export", default="", metavar="FORMAT", help=exports)
    parser.add_argument("--constants", type=Path, metavar="FILE", help="what 'openherd plan calibrate --out FILE' wrote")
    parser.add_argument("--json", action="store_true", help="everything, in bytes and seconds, as JSON")
    parser.add_argument("--page", type=new_file, metavar="FILE", help="also write pictures of memory and time by part")
    money = parser.add_argument_group("energy, carbon, money and failures; prices are rough defaults of ours: give your own")
    money.add_argument(
        "--power-w", type=float, metavar="W", help="of a GPU with its share of the server (default: the server's rating)"
    )
    money.add_argument("--pue", type=float, default=1.1, help="power of the building over that of the servers (default 1.1)")
    money.add_argument(
        "--kg-per-kwh", type=float, default=0.414, metavar="KG", help="CO2 of a kWh (default 0.414: Llama 3.1's model card)"
    )
    money.add_argument("--hour-usd", type=float, metavar="USD", help="of a GPU hour (default by hardware)")
    money.add_argument("--price-usd", type=float, metavar="USD", help="of a GPU (default by hardware)")
    money.add_argument(
        "--restart-s", type=float, default=600.0, metavar="S", help="from a failure until training goes on (default 600)"
    )
    money.add_argument(
        "--checkpoint-s", type=float, default=10.0, metavar="S", help="that training waits for a checkpoint (default 10)"
    )
    given = parser.parse_args(arguments)
    from openherd.planning.command import plan

    text, fits = plan(given)
    print(text)
    return 0 if fits else EXIT_DIFFERS


def command_plan_check(arguments: list[str]) -> None:
    """`openherd plan check`"""
    parser = Parser(
        prog="openherd plan check",
        description="Measured runs against predictions: one JSON object a line and file, with absolute relative errors of step "
        "time and memory. Files are known by their header: vTrain, llm-foundry, Megatron-Bridge, torchtitan, published tables, or "
        "your own (docs/planning.md).",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="CSV")
    parser.add_argument("--half", choices=("all", "fitted", "held-out"), default="all", help="of the rows (default all)")
    parser.add_argument("--constants", type=Path, metavar="FILE", help="what 'openherd plan calibrate --out FILE' wrote")
    parser.add_argument("--rows", type=int, default=0, metavar="N", help="also the N rows that are most off, on stderr")
    parser.add_argument("--page", type=new_file, metavar="FILE", help="also write a picture: predicted against measured")
    given = parser.parse_args(arguments)
    from openherd.planning.command import check_files

    lines, worst = check_files(given)
    for line in lines:
        print(line)
    for line in worst:
        print(line, file=sys.stderr)


def command_plan_calibrate(arguments: list[str]) -> None:
    """`openherd plan calibrate`"""
    parser = Parser(
        prog="openherd plan calibrate",
        description="Fit the planner's constants to measured runs, on every second row, and say how far off the others are.",
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE", help="CSV of any kind that 'openherd plan check' knows")
    parser.add_argument("--out", type=new_file, metavar="FILE", help="write the constants (TOML) for --constants")
    parser.add_argument("--from-nothing", action="store_true", help="do not begin with the planner's own constants")
    given = parser.parse_args(arguments)
    from openherd.planning.command import calibrate_files

    print(calibrate_files(given))


def command_plan_tutorial(arguments: list[str]) -> None:
    """`openherd plan tutorial`"""
    description = "The tutorial's figures of energy, homes and money, and of efficiency by parameters, with the arithmetic."
    Parser(prog="openherd plan tutorial", description=description).parse_args(arguments)
    from openherd.planning.cost import tutorial_text

    print(tutorial_text())


def command_plan_failures(arguments: list[str]) -> None:
    """`openherd plan failures`"""
    parser = Parser(
        prog="openherd plan failures",
        description="Simulate a run that fails: effective time, days, the best checkpoint interval, what one change buys.",
    )
    parser.add_argument("--nodes", type=int, metavar="N", help="of the run (default the paper's 2048, of 8 GPUs)")
    parser.add_argument("--days", type=float, metavar="D", help="of wall time (default the paper's 54)")
    parser.add_argument("--work-days", type=float, metavar="D", help="instead: days of undisturbed work to be done")
    rates = parser.add_argument_group("how often what fails")
    rates.add_argument(
        "--rates",
        default="llama3",
        help="published: llama3 (default: Table 5 and 47 planned stops), rsc1 (6.5 per 1,000 node-days)",
    )
    rates.add_argument(
        "--log", type=Path, metavar="LOG.csv", help="your own: cause, and maybe time, kind, takes_node, down_minutes, count"
    )
    rates.add_argument("--log-nodes", type=int, default=0, metavar="N", help="nodes that the log is of")
    rates.add_argument(
        "--log-days", type=float, default=0.0, metavar="D", help="days that it covers (default: the span of its times)"
    )
    rates.add_argument(
        "--stragglers", type=float, default=0.0, metavar="N", help="nodes that turn slow, per 1,000 node-days (default 0)"
    )
    assumed = parser.add_argument_group("how the run lives with it (the paper does not say; the defaults are assumed)")
    for option, what in (
        ("checkpoint-minutes", "of work between checkpoints"),
        ("pause-s", "that a checkpoint stops the run"),
        ("write-s", "that it then takes in the background; 0: synchronous, all in the pause"),
        ("detect-minutes", "until a stop is seen"),
        ("restart-minutes", "until the run works again"),
        ("planned-minutes", "of a planned stop"),
        ("spares", "nodes that stand by"),
        ("spare-minutes", "more where a spare is taken in; 0: hot"),
        ("repair-hours", "of a node, on average"),
        ("slowdown", "of the whole run by one straggler"),
        ("straggler-minutes", "until it is found"),
    ):
        assumed.add_argument(f"--{option}", type=int if option == "spares" else float, metavar="X", help=what)
    parser.add_argument("--runs", type=int, default=10_000, help="simulated (default 10000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-compare", action="store_true", help="leave out the best interval and what one change buys")
    parser.add_argument("--page", type=new_file, metavar="FILE.html", help="write the pictures as one page")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    check_least({"--runs": (given.runs, 100)})
    if given.days is not None and given.work_days is not None:
        raise ConfigError("openherd plan failures", "--days and --work-days", allowed="one of them")
    if given.log is None and (given.log_nodes or given.log_days):
        raise ConfigError("--log-nodes, --log-days", "without --log", allowed="with --log LOG.csv")
    from openherd.planning.causes import Cause, published, read_log
    from openherd.planning.failures import RunPlan
    from openherd.planning.reliability import assess, reliability_text

    plan = RunPlan(**{n: v for n in RunPlan.__dataclass_fields__ if (v := getattr(given, n, None)) is not None})
    causes = read_log(given.log, given.log_nodes, given.log_days) if given.log else published(given.rates)
    if not 0 <= given.stragglers < 1e5:
        raise ConfigError("--stragglers", f"{given.stragglers:g}", allowed="0 or more per 1,000 node-days")
    if given.stragglers:
        causes.append(Cause(name="straggler", per_node_day=given.stragglers / 1e3, kind="straggler"))
    found = assess(plan, causes, given.runs, given.seed, not given.no_compare)
    print(json.dumps(found) if given.json else reliability_text(found, causes))
    if given.page:
        from openherd.planning.failures_page import write_failures_page

        write_failures_page(given.page, found, plan, causes, given.seed)
