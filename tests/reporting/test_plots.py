"""Figures that all tasks share show the numbers of the record."""

from reporting.plots import plot_learning
from tests.helpers.facts import training_log


def test_learning_curves_are_those_of_the_log() -> None:
    log = training_log("rmse")
    training = {"log": log, "best_checkpoint_step": 150, "chosen_by": "eval_rmse"}
    expected = {
        name: [[entry["step"], entry[name]] for entry in log if name in entry]
        for name in ("loss", "eval_loss", "eval_rmse")
    }
    losses, decision = plot_learning(training).axes
    assert [line.get_xydata().tolist() for line in losses.lines[:2]] == [expected["loss"], expected["eval_loss"]]
    assert decision.lines[0].get_xydata().tolist() == expected["eval_rmse"]
    assert [panel.lines[-1].get_xdata() for panel in (losses, decision)] == [[150, 150]] * 2
    assert plot_learning(training | {"log": []}) is None
