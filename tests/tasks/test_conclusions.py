"""The last lines of a run: the main score and the verdict of each target."""

import json
import re

import pytest

from launch.run import load_task
from tasks import TASKS
from tests.helpers.facts import attention, detection, eda, emotion
from tests.helpers.run_folders import numbers

FACTS = {"attention": attention, "detection": detection, "eda": eda, "emotion": emotion}


@pytest.mark.parametrize("name", TASKS)
def test_each_line_of_a_conclusion_has_a_score_of_the_model_and_a_verdict(name: str) -> None:
    task, results = load_task(name), json.loads(json.dumps(FACTS[name].make_facts()["test"]))
    means = {f"{value:z.3f}" for path, value in numbers(results).items() if path.endswith("/mean")}
    for line in task.conclusion(results).splitlines():
        score, verdict = re.fullmatch(r".*? (-?\d\.\d{3}) \[.*; verdict: (.+)", line).groups()
        assert score in means
        assert "*" not in verdict  # Markdown is for pages
