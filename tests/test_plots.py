"""Figures: what no reader could see otherwise."""

import matplotlib.pyplot as plt
import pytest

from helpers import plots


@pytest.mark.parametrize("count", [1, 2, 4, 5, 7])
def test_a_legend_of_many_labels_stands_beside_the_lines(count):
    series = {f"line {i}": ([0, 1], [i, i]) for i in range(count)}
    with plt.rc_context():
        plots.use_style()  # as `course.start` does
        figure = plots.lines(series, xlabel="x", ylabel="y")
    [axes] = figure.axes
    inside, beside = axes.get_legend(), figure.legends
    assert (inside is not None) == (2 <= count < 5)
    assert len(beside) == (count >= 5)
    if beside:
        figure.canvas.draw()
        assert beside[0].get_window_extent().x0 >= axes.get_window_extent().x1
        assert len(beside[0].get_texts()) == count
    plt.close(figure)


@pytest.mark.parametrize(("count", "filled"), [(2, True), (3, False)])
def test_histograms_that_would_merge_are_outlines(count, filled):
    figure = plots.histograms({str(i): [0.0, 1.0, i] for i in range(count)}, xlabel="x")
    assert [patch.get_fill() for patch in figure.axes[0].patches] == [filled] * count
    plt.close(figure)
