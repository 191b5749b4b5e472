"""Commands about the program itself: the stages, where things are, a model size, this machine."""

from openherd.cli.arguments import Parser
from openherd.core.errors import ConfigError
from openherd.stages import STAGES, where


def stages_text() -> str:
    """The table of stages."""
    return "\n".join(f"  {s.name:<20}{s.section:<7}{s.summary}" for s in STAGES)


def command_stages(arguments: list[str]) -> None:
    """`openherd stages`"""
    Parser(prog="openherd stages", description="The stages in the paper's order.").parse_args(arguments)
    print(stages_text())


def command_where(arguments: list[str]) -> int:
    """`openherd where`"""
    parser = Parser(prog="openherd where", description="Which module does what.")
    parser.add_argument("query", metavar="WORD|SECTION", help="'annealing', or the paper's section: '3.4.2'")
    query = parser.parse_args(arguments).query
    found = where(query)
    for section, module, what in found:
        print(f"{section:<8}{module}\n{'':<8}{what}")
    if not found:
        raise ConfigError("where", f"nothing about {query!r}", do="see 'openherd stages'")
    return 0


def command_model(arguments: list[str]) -> None:
    """`openherd model`"""
    parser = Parser(prog="openherd model", description="Shapes, parameters, FLOPs and cache of a model size; nothing is built.")
    parser.add_argument("name", help="llama3-405b, for one; 'list' prints all")
    parser.add_argument(
        "--sequence-length", type=int, default=8_192, metavar="TOKENS", help="for the FLOPs per token (default 8192)"
    )
    given = parser.parse_args(arguments)
    from openherd.model.table import model_text

    print(model_text(given.name, given.sequence_length))


def command_doctor(arguments: list[str]) -> None:
    """`openherd doctor`"""
    Parser(prog="openherd doctor", description="What this machine offers, in words.").parse_args(arguments)
    from openherd.model.device import doctor_text

    print(doctor_text())
