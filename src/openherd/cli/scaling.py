"""Commands of scaling laws: fit, ladder, advise, forecast."""

import argparse
import shlex
import sys
from pathlib import Path

from openherd.cli.arguments import EXIT_DIFFERS, Parser, check_least, count, counts, new_file
from openherd.core.errors import ConfigError, OpenherdError


def command_scaling(arguments: list[str]) -> None:
    """`openherd scaling`"""
    text = "Scaling laws (paper 3.2.1). Commands: fit, ladder, advise, forecast; each has a --help."
    parser = Parser(prog="openherd scaling", description=text)
    parser.add_argument("what", choices=("fit", "ladder", "advise", "forecast"))
    parser.parse_args(arguments)


def command_scaling_fit(arguments: list[str]) -> int:
    """`openherd scaling fit`"""
    from openherd.scaling.told import LAWS

    parser = Parser(
        prog="openherd scaling fit",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Fit a scaling law to finished runs, with bootstrap intervals.\n\n"
        + "\n".join(f"  {law:<12}{text}" for law, text in LAWS.items()),
    )
    parser.add_argument("runs", type=Path, metavar="RUNS.csv", help="parameters, tokens or FLOPs, loss (nats per token), by row")
    parser.add_argument("--law", required=True, choices=tuple(LAWS))
    parser.add_argument(
        "--by",
        default="",
        metavar="COLUMN,...",
        help="a fit for each group of rows (default: by known labels; none pools)",
    )
    parser.add_argument("--loss", default="", metavar="COLUMN", help="which loss (default: loss, else the first loss_...)")
    parser.add_argument(
        "--drop-highest",
        type=int,
        metavar="N",
        help="leave out the N highest losses (default 0; 5 of Epoch's table, as they did)",
    )
    parser.add_argument("--all-runs", action="store_true", help="overtrain: fit to every run, not to the smallest alone")
    parser.add_argument(
        "--minimum",
        default="akima",
        choices=("akima", "parabola"),
        help="isoflop: how an optimum is found; the paper: parabola",
    )
    parser.add_argument(
        "--noise", type=float, default=0.002, metavar="NATS", help="isoflop: of a loss between seeds (default 0.002, Porian et al.)"
    )
    fitting_arguments(parser)
    parser.add_argument("--page", type=new_file, metavar="FILE.html", help="write the pictures of the fit as one page")
    parser.add_argument("--json", action="store_true", help="one object a line, one for each group")
    given = parser.parse_args(arguments)
    check_least({"--draws": (given.draws, 100), "--drop-highest": (given.drop_highest or 0, 0)})
    if not 0 < given.noise < 1:
        raise ConfigError("--noise", f"{given.noise:g}", allowed="more than 0, less than 1 nat")
    from openherd.scaling.fit import fit_parametric
    from openherd.scaling.isoflop import fit_isoflop
    from openherd.scaling.overtrain import fit_overtrain
    from openherd.scaling.runs import read_runs
    from openherd.scaling.told import fit_text, json_lines

    fits, failed = [], []
    for runs in read_runs(given.runs, [name for name in given.by.split(",") if name], given.loss, given.drop_highest):
        try:
            if given.law == "parametric":
                fit = fit_parametric(runs, given.draws, given.seed)
            elif given.law == "overtrain":
                fit = fit_overtrain(runs, given.all_runs, given.draws, given.seed)
            else:
                fit = fit_isoflop(runs, given.minimum, given.noise, given.draws, given.seed)
        except OpenherdError as error:  # the other groups may have what a law needs
            failed.append(error)
            continue
        fits.append((runs, fit))
    if not fits:
        raise failed[0]
    print(json_lines([fit.plain() for _, fit in fits]) if given.json else "\n\n".join(fit_text(fit) for _, fit in fits))
    if given.page:
        from openherd.scaling.page import write_page

        write_page(given.page, fits, given.minimum)
    for reason in failed:
        print(f"openherd: {reason}", file=sys.stderr)
    return EXIT_DIFFERS if failed else 0


def command_scaling_advise(arguments: list[str]) -> None:
    """`openherd scaling advise`"""
    parser = Parser(
        prog="openherd scaling advise",
        description="The size and tokens of the least loss for a budget, and what over-training costs and saves.",
    )
    parser.add_argument("--flops", type=count, metavar="C", help="the budget: training, and serving with --served-tokens")
    parser.add_argument("--served-tokens", type=count, default=0.0, metavar="T", help="tokens that the model will read and write")
    parser.add_argument("--parameters", type=count, metavar="N", help="instead of a budget: this size, 8B for one, ...")
    parser.add_argument("--tokens", type=count, metavar="D", help="... on so many tokens, beside the optimal model of its loss")
    parser.add_argument(
        "--law",
        default="epoch",
        help="a published law: epoch (default), hoffmann; llama3: the paper's, of optimal tokens alone",
    )
    parser.add_argument("--runs", type=Path, metavar="RUNS.csv", help="fit the law to these runs instead; gives intervals")
    fitting_arguments(parser)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    model = given.parameters is not None and given.tokens is not None
    if model == (given.flops is not None) or (given.parameters is None) != (given.tokens is None):
        raise ConfigError(
            "openherd scaling advise", "neither a budget nor a model, or both", allowed="--flops, or --parameters and --tokens"
        )
    check_least({"--draws": (given.draws, 100)})
    from openherd.scaling import advise, told
    from openherd.scaling.fit import fit_parametric
    from openherd.scaling.runs import POSSIBLE, read_runs

    for option in ("flops", "parameters", "tokens"):
        low, high, allowed = POSSIBLE[option]
        if (value := getattr(given, option)) is not None and not low <= value <= high:
            raise ConfigError(f"--{option}", f"{value:g}", allowed=allowed)
    if not 0 <= given.served_tokens < float("inf"):
        raise ConfigError("--served-tokens", f"{given.served_tokens:g}", allowed="0 or more")
    if given.law == "llama3" and not given.runs:
        if model or given.served_tokens:
            raise ConfigError("--law", "'llama3' gives optimal tokens alone, no loss", allowed="epoch or hoffmann here, or --runs")
        found = advise.llama_3(given.flops)
        text = told.llama_3_text(found)
    else:
        if given.runs:
            groups = read_runs(given.runs)
            if len(groups) > 1:
                raise ConfigError(given.runs, f"{len(groups)} groups of runs", allowed="one", do="keep one group in the file")
            law = advise.Law.fitted(fit_parametric(groups[0], given.draws, given.seed), str(given.runs))
        else:
            law = advise.Law.published(given.law)
        found = (
            advise.compare(law, given.parameters, given.tokens) if model else advise.advise(law, given.flops, given.served_tokens)
        )
        text = told.comparison_text(found) if model else told.advice_text(found)
    print(told.json_lines([found]) if given.json else text)


def command_scaling_forecast(arguments: list[str]) -> None:
    """`openherd scaling forecast`"""
    parser = Parser(
        prog="openherd scaling forecast",
        description="Foretell a benchmark's accuracy: FLOPs to the normalised NLL of the right answer, that to accuracy.",
    )
    text = "columns flops, nll (nats per character of the right answer), accuracy; a row may lack flops, or accuracy"
    parser.add_argument("scores", type=Path, metavar="SCORES.csv", help=text)
    parser.add_argument("--flops", type=count, action="append", required=True, metavar="C", help="may be given again")
    parser.add_argument("--chance", type=float, default=0.25, metavar="P", help="accuracy of guessing (default 0.25: four choices)")
    fitting_arguments(parser)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    check_least({"--draws": (given.draws, 100)})
    from openherd.scaling.forecast import forecast, read_scores
    from openherd.scaling.runs import POSSIBLE
    from openherd.scaling.told import forecast_text, json_lines

    low, high, allowed = POSSIBLE["flops"]
    for value in given.flops:
        if not low <= value <= high:
            raise ConfigError("--flops", f"{value:g}", allowed=allowed)
    found = forecast(read_scores(given.scores), given.flops, given.chance, given.draws, given.seed)
    print(json_lines([found]) if given.json else forecast_text(found))


def command_scaling_ladder(arguments: list[str]) -> None:
    """`openherd scaling ladder`"""
    parser = Parser(
        prog="openherd scaling ladder",
        description="Write a recipe that trains a ladder of models, fits scaling laws to them, and foretells the larger ones.",
    )
    parser.add_argument("recipe", type=Path, help="a recipe whose data stages are used, to token-shards")
    parser.add_argument("--flops", type=counts, required=True, metavar="C,...", help="the budgets; the paper: 6e18 to 1e22")
    parser.add_argument("--held-out", type=counts, required=True, metavar="C,...", help="larger budgets, foretold and not fitted")
    parser.add_argument("--sizes", required=True, metavar="NAME,...", help="model sizes to choose from: 'openherd model list'")
    parser.add_argument(
        "--sizes-per-budget", type=int, default=4, metavar="N", help="the nearest to the expected optimum (default 4)"
    )
    parser.add_argument(
        "--tokens-per-parameter", type=float, default=20.0, metavar="R", help="expected at the optimum (default 20)"
    )
    parser.add_argument("--sequence-length", type=int, default=8_192, metavar="T", help="tokens (default 8192)")
    ends = "at the smallest and largest"
    parser.add_argument(
        "--batch-tokens", type=counts, default=(250e3, 4e6), metavar="A,B", help=f"{ends} budget (default the paper's 250K,4M)"
    )
    parser.add_argument(
        "--learning-rates", type=counts, default=(4e-4, 2e-4), metavar="A,B", help=f"{ends} of --rate-sizes (default 4e-4,2e-4)"
    )
    parser.add_argument(
        "--rate-sizes", type=counts, default=(40e6, 16e9), metavar="A,B", help="sizes of these rates (default the paper's 40M,16B)"
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="SETTING=VALUE", help="of every run; or STAGE.SETTING=VALUE, of a data stage"
    )
    parser.add_argument("--out", type=new_file, required=True, metavar="RECIPE.toml", help="the recipe to write")
    given = parser.parse_args(arguments)
    for option in ("batch_tokens", "learning_rates", "rate_sizes"):
        if len(getattr(given, option)) != 2:
            raise ConfigError(f"--{option.replace('_', '-')}", f"{len(getattr(given, option))} numbers", allowed="two: A,B")
    check_least({"--sizes-per-budget": (given.sizes_per_budget, 4), "--sequence-length": (given.sequence_length, 8)})
    for option in ("flops", "held_out", "batch_tokens", "learning_rates", "rate_sizes", "tokens_per_parameter"):
        values = getattr(given, option)
        for value in values if isinstance(values, tuple) else (values,):
            if not 0 < value < float("inf"):
                raise ConfigError(f"--{option.replace('_', '-')}", f"{value:g}", allowed="more than 0")
    from openherd.scaling.rungs import ladder_recipe, recipe_text, rungs

    runs = rungs(
        given.flops,
        given.held_out,
        [name for name in given.sizes.split(",") if name],
        given.sequence_length,
        given.sizes_per_budget,
        given.tokens_per_parameter,
        given.batch_tokens,
        given.learning_rates,
        given.rate_sizes,
    )
    recipe = ladder_recipe(given.recipe, runs, given.held_out, given.sequence_length, given.set, given.out.stem)
    about = f"A ladder of {len(runs)} runs for scaling laws (paper 3.2.1), on the data of {given.recipe.name}."
    given.out.write_text(recipe_text(recipe, shlex.join(["openherd", "scaling", "ladder", *arguments]), about), encoding="utf-8")
    for run in runs:
        held = "  foretold" if run.flops in given.held_out else ""
        steps = f"{run.steps:>9,} steps of {run.batch_tokens:,} tokens"
        print(f"{run.name:<24}{run.flops:>10.3g} FLOPs{steps}, rate {run.learning_rate:g}{held}")
    print(f"{given.out}: run it with 'openherd run {given.out} --out DIR'")


def fitting_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of everything with bootstrap intervals."""
    parser.add_argument("--draws", type=int, default=1_000, metavar="N", help="bootstrap samples behind an interval (default 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of the samples (default 0)")
