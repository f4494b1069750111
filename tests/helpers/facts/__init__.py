"""Records of made-up runs, one module per task, in the shape of a run's metrics.json."""

from typing import Any

SCRIPT = "<script>alert('label')</script>"  # a name that must reach a page as text


def run_facts(
    task: str, name: str, data: dict, model: dict, training: dict, test: dict, **more: Any
) -> dict[str, Any]:
    """Return the record of a run that trained and tested a model on a synthetic sample."""
    return {
        "name": name,
        "task": task,
        "data": {
            "config": "sample",
            "files": {"train-0a1b2c-00000-of-00001.parquet": "5e" * 32},
            "synthetic": True,
            "split_warning": None,
            "control": None,
            **data,
        },
        "split": {"sha256": "ab" * 32},
        "base": None,
        "model": {"auto_map": {}, **model},
        "parameters": 313_226,
        "receptive_field_seconds": None,
        "training": {"processes": 1, "precision": "no", "data_wait_share": 0.1, **training},
        "test": test,
        "versions": {"torch": "2.12"},
        "threads": 1,
        **more,
    }


def training_log(metric: str) -> list[dict[str, float]]:
    """Return losses of 190 steps, and the scores of three validations by a metric that rises."""
    log: list[dict[str, float]] = [{"step": 10 * step, "loss": 1.9 * 0.9**step} for step in range(1, 20)]
    return log + [{"step": 50 * k, "eval_loss": 1.5 / k, f"eval_{metric}": 0.5 + 0.02 * k} for k in range(1, 4)]
