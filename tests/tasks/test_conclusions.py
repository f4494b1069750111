"""Test the last lines of a run: the main score and verdict of each target, and the next command."""

import json
import re
import shlex
from pathlib import Path

import pytest

import run_predict
from launch.ending import last_lines
from launch.run import load_task, parse_run
from tasks import TASKS
from tests.helpers.configs import OF_TASK
from tests.helpers.facts import attention, detection, eda, emotion
from tests.helpers.run_folders import numbers

FACTS = {"attention": attention, "detection": detection, "eda": eda, "emotion": emotion}


@pytest.mark.parametrize("name", TASKS)
def test_each_conclusion_line_has_a_score_and_a_verdict(name: str) -> None:
    task, results = load_task(name), json.loads(json.dumps(FACTS[name].make_facts()["test"]))
    means = {f"{value:z.3f}" for path, value in numbers(results).items() if path.endswith("/mean")}
    for line in task.conclusion(results).splitlines():
        score, verdict = re.fullmatch(r".*? (-?\d\.\d{3}) \[.*; verdict: (.+)", line).groups()
        assert score in means
        assert "*" not in verdict  # no Markdown on the terminal


@pytest.mark.parametrize("name", TASKS)
def test_the_next_command_predicts_or_scores_with_the_new_model(name: str, tmp_path: Path) -> None:
    task, results = load_task(name), FACTS[name].make_facts()["test"]
    run = parse_run([str(OF_TASK[name]), "--output_dir", str(tmp_path)])
    facts = {"test": results, "training": {}, "model": {"modalities": ["text", "audio"]}}
    last_line = last_lines(run, facts, tmp_path).splitlines()[-1]
    program, rest = ("run_predict", f"recording{task.suffixes[0]}") if task.suffixes else ("run_eval", "--side all")
    assert last_line == f"next: python {program}.py {tmp_path} {rest}"


def test_the_next_command_of_a_text_model_passes_text(tmp_path: Path) -> None:
    run = parse_run([str(OF_TASK["emotion"]), "--output_dir", str(tmp_path)])
    facts = {"test": FACTS["emotion"].make_facts()["test"], "training": {}, "model": {"modalities": ["text"]}}
    command = shlex.split(
        last_lines(run, facts, tmp_path).splitlines()[-1].removeprefix("next: python run_predict.py")
    )
    assert run_predict.parse(command).sounds == []
    assert run_predict.parse(command).text
