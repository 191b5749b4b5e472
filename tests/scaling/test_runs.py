"""Runs from CSV files: columns by their names, groups, numbers that cannot be; and the commands."""

import json

import numpy as np
import pytest

from known_laws import made
from openherd.cli import main
from openherd.cli.arguments import count
from openherd.core.errors import InputError
from openherd.scaling.runs import read_runs


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def test_columns_by_any_of_their_names(tmp_path):
    a = read_runs(write(tmp_path / "a.csv", "N,D,loss\n1e7,2e8,4.0\n"))[0]
    b = read_runs(write(tmp_path / "b.csv", "Model Size,Training FLOP,loss,hue\n1e7,1.2e16,4.0,red\n"), drop_highest=0)[0]
    c = read_runs(write(tmp_path / "c.csv", "params,flops,tokens,loss_c4,loss_wiki\n1e7,1.2e16,2e8,4.0,5.0\n"))[0]
    for runs in (a, b, c):
        assert (runs.parameters[0], runs.tokens[0], runs.loss[0]) == (1e7, pytest.approx(2e8), 4.0)
        assert runs.flops[0] == pytest.approx(1.2e16)
    assert read_runs(tmp_path / "c.csv", loss_column="loss_wiki")[0].loss[0] == 5.0


def test_groups(tmp_path):
    file = write(tmp_path / "a.csv", "dataset,site,n,d,loss\nweb,x,1e7,2e8,4\nweb,y,2e7,2e8,3.9\ncode,x,1e7,2e8,2\n")
    assert [(r.group, len(r)) for r in read_runs(file)] == [({"dataset": "web"}, 2), ({"dataset": "code"}, 1)]
    assert [r.group for r in read_runs(file, ["dataset", "site"])][1] == {"dataset": "web", "site": "y"}
    assert [len(r) for r in read_runs(file, ["none"])] == [3]


def test_rows_without_a_number_are_counted(tmp_path):
    (runs,) = read_runs(write(tmp_path / "a.csv", "n,d,loss\n1e7,2e8,4\n2e7,,3\n3e7,2e8,nan\n"))
    assert (len(runs), runs.left_out) == (1, {"a number is missing": 2})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n,d,loss\n1e7,12,4\n", r"line 2: d = 12; allowed: tokens as a plain count"),
        ("n,d,loss\n1e7,2e8,300\n", r"line 2: loss = 300; allowed: nats per token, 0.01 to 20"),
        ("n,d,loss\n70,2e8,3\n", r"n = 70; allowed: parameters as a plain count"),
        ("n,d,loss\n1e7,2e8,low\n", r"loss = 'low'; allowed: a number"),
        ("n,loss\n1e7,4\n", r"no column of tokens and none of FLOPs; allowed: a column named tokens.*the header has: n, loss"),
        ("d,loss\n1e7,4\n", r"no column of parameters; allowed"),
        ("n,d\n1e7,2e8\n", r"no column of loss; allowed: a column named loss.*loss_"),
        ("n,d,loss\n", "no rows"),
        ("n,d,loss\n1e7,2e8\n", "line 2: 2 values; allowed: 3"),
        ("n,d,loss\n1e7,,4\n", "no run among 1 rows"),
    ],
)
def test_what_cannot_be_is_refused_with_its_line(text, message, tmp_path):
    with pytest.raises(InputError, match=message):
        read_runs(write(tmp_path / "a.csv", text))


def test_unknown_columns_are_refused(tmp_path):
    file = write(tmp_path / "a.csv", "dataset,n,d,loss\nweb,1e7,2e8,4\n")
    with pytest.raises(InputError, match=r"'datset'; did you mean 'dataset'"):
        read_runs(file, ["datset"])
    with pytest.raises(InputError, match=r"no column 'los'"):
        read_runs(file, loss_column="los")
    with pytest.raises(InputError, match="no such file"):
        read_runs(tmp_path / "none.csv")


@pytest.fixture
def table(tmp_path):
    runs = made(0.002)
    rows = "".join(f"{n},{d},{loss}\n" for n, d, loss in zip(runs.parameters, runs.tokens, runs.loss, strict=True))
    return write(tmp_path / "runs.csv", f"n,d,loss\n{rows}")


def test_the_fit_command(table, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["scaling", "fit", str(table), "--law", "parametric", "--draws", "100", "--json", "--page", str(page)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"E", "A", "B", "alpha", "beta", "objective", "intervals"} <= set(found)
    low, high = found["intervals"]["alpha"]
    assert low < found["alpha"] < high
    assert "How far each run" in page.read_text(encoding="utf-8")
    assert main(["scaling", "fit", str(table), "--law", "overtrain"]) == 2
    assert "--all-runs" in capsys.readouterr().err
    assert main(["scaling", "fit", str(table), "--law", "overtrain", "--all-runs", "--draws", "100"]) == 0
    assert "eta" in capsys.readouterr().out


def test_one_object_a_group(tmp_path, capsys):
    rows = []
    for name, floor in (("web", 1.8), ("code", 1.1)):
        for c in (1e17, 1e18):
            best = np.sqrt(c / 120)
            rows += [
                f"{name},{c},{n},{c / 6 / n},{floor + 1e17 / c * 0.1 + 0.1 * np.log(n / best) ** 2}\n"
                for n in best * 2.0 ** np.arange(-2, 3)
            ]
    file = write(tmp_path / "runs.csv", f"dataset,flops,n,d,loss\n{''.join(rows)}")
    arguments = [
        "scaling",
        "fit",
        str(file),
        "--law",
        "isoflop",
        "--by",
        "dataset",
        "--minimum",
        "parabola",
        "--draws",
        "100",
        "--json",
    ]
    assert main(arguments) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [f["group"] for f in found] == [{"dataset": "web"}, {"dataset": "code"}]
    for fit in found:
        assert fit["exponent"] == pytest.approx(0.5, abs=0.01)
        assert fit["coefficient"] == pytest.approx(120**-0.5, rel=0.3)


def test_a_group_that_cannot_be_fitted_leaves_the_others(tmp_path, capsys):
    rows = "".join(f"web,{n},{d},{2 + 400 / n**0.34 + 900 / d**0.31}\n" for n in (1e7, 1e8, 1e9) for d in (1e9, 1e10, 1e11))
    file = write(tmp_path / "runs.csv", f"dataset,n,d,loss\n{rows}code,1e7,1e9,2.0\n")
    assert main(["scaling", "fit", str(file), "--law", "parametric", "--draws", "100", "--json"]) == 1
    told = capsys.readouterr()
    assert [json.loads(line)["group"] for line in told.out.splitlines()] == [{"dataset": "web"}]
    assert "code: 1 runs of 1 sizes" in told.err


def test_counts_as_people_write_them():
    assert [count(t) for t in ("8B", "15T", "3.8e25", "250k", "12")] == [8e9, 15e12, 3.8e25, 250e3, 12.0]
