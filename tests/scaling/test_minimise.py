"""The batch minimiser: known minima, and every row as if it were alone."""

import numpy as np

from openherd.scaling.minimise import minimise


def rosenbrock(x, _):
    a, b = x.T
    value = (1 - a) ** 2 + 100 * (b - a**2) ** 2
    return value, np.stack([-2 * (1 - a) - 400 * a * (b - a**2), 200 * (b - a**2)], axis=-1)


def test_rosenbrock_from_many_starts():
    starts = np.random.default_rng(0).uniform(-2, 2, (40, 2))
    found = minimise(rosenbrock, starts)
    np.testing.assert_allclose(found.x_SP, 1, atol=1e-4)
    assert found.value_S.max() < 1e-8


def test_a_row_alone_arrives_where_it_does_among_others():
    starts = np.random.default_rng(1).uniform(-2, 2, (7, 2))
    together = minimise(rosenbrock, starts).x_SP
    alone = np.concatenate([minimise(rosenbrock, starts[i : i + 1]).x_SP for i in range(7)])
    np.testing.assert_array_equal(together, alone)


def test_each_row_may_have_its_own_problem():
    goals = np.arange(12.0).reshape(6, 2)
    found = minimise(lambda x, which: (((x - goals[which]) ** 2).sum(1), 2 * (x - goals[which])), np.zeros((6, 2)))
    np.testing.assert_allclose(found.x_SP, goals, atol=1e-6)
