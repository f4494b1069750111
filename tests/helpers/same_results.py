"""Check that a refactoring changes no result: run the samples before and after it, and compare all their files.

    python tests/helpers/same_results.py save /tmp/before                  # in a checkout of the old commit
    python tests/helpers/same_results.py save /tmp/after                   # in the new one, on the same machine
    python tests/helpers/same_results.py compare /tmp/before /tmp/after    # --allow '*/report.html' accepts changes
    python tests/helpers/same_results.py old /tmp/before                   # the new code on the old run folders

`save` takes about 6 minutes on two idle cores; `--only eda_tcn eda_null` runs a part of it.
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import soundfile

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ("eda_tcn", "baby_cry", "meld_sample", "tunein_attention")
# These depend on the time, the machine or the installed packages. The first is for JSON, the second for pages.
NOISY_KEYS = re.compile(r"data_wait_share|versions|transformers_version|.*_runtime|.*_per_second")
NOISY_TEXT = re.compile(r"Versions: [^<\n]*|[\d.]+ % of the time")
PICTURE = re.compile(r"data:image/png;base64,[^\"]*")  # compared as a separate file
LONG_RECORDS = ("splits.json", "tokenizer.json")


def commands(runs: Path, results: Path) -> dict[str, list[str | Path]]:
    """Return all commands by name; each reads models and inputs from `runs` and writes to `results` / name."""

    def train(name: str, config: str, *keys: str) -> list[str | Path]:
        folder = results / name
        return ["run_train.py", f"configs/{config}.json", "--num_threads", "2", "--output_dir", folder, *keys]

    def evaluate(model: str, *data: str) -> list[str | Path]:
        return ["run_eval.py", runs / model, *data, "--output_dir", results / f"{model}-eval"]

    def predict(name: str, inputs: str, file: str, *options: str | Path) -> list[str | Path]:
        folder, model = results / name, name.partition("-")[0]
        outputs = ["--output", folder / file, "--plot", folder / "plot.png"]
        return ["run_predict.py", runs / model, runs / "inputs" / inputs, *outputs, *options]

    plan = "launch.explain_plan" if (ROOT / "launch/explain_plan.py").exists() else "training.explain_plan"
    lines = runs / "inputs/lines.csv"
    return {
        **{name: train(name, name) for name in CONFIGS},
        "eda_null": train("eda_null", "eda_tcn", "--dataset_config", "sample_null", "--num_train_epochs", "3"),
        "eda_resumed-whole": train("eda_resumed-whole", "eda_tcn", "--num_train_epochs", "4"),
        "eda_resumed": train("eda_resumed", "eda_tcn", "--num_train_epochs", "4"),
        "eda_tcn-eval": evaluate("eda_tcn", "hf_datasets/pmemo"),
        "tunein_attention-eval": evaluate("tunein_attention", "hf_datasets/tunein", "--side", "all"),
        "eda_tcn-predict": predict("eda_tcn-predict", "songs", "predictions.csv"),
        "baby_cry-predict": predict("baby_cry-predict", "sounds", "events.csv"),
        "meld_sample-predict": predict("meld_sample-predict", "clip.mp4", "emotions.json", "--text", "You came!"),
        "meld_sample-lines": predict("meld_sample-lines", "clip.mp4", "emotions.json", "--utterances", lines),
        "baby_cry-plan": ["-m", plan, "configs/baby_cry.json", "--num_threads", "2", "--epoch", "3", "--batch", "9"],
    }


def write_inputs(folder: Path) -> None:
    """Write recordings to predict: a few from the samples, and a stereo sweep with another sampling rate."""
    for name, pattern, count in (
        ("songs", "pmemo/sample/sample-train", 2),
        ("sounds", "audioset/sample/sample-eval", 8),
    ):
        (folder / name).mkdir(parents=True, exist_ok=True)
        (sample,) = (ROOT / "hf_datasets").glob(f"{pattern}-*.parquet")
        for audio in pq.read_table(sample, columns=["audio"]).slice(0, count)["audio"].to_pylist():
            (folder / name / audio["path"]).write_bytes(audio["bytes"])
        seconds = np.arange(20 * 44100) / 44100
        sweep = 0.3 * np.sin(2 * np.pi * (200 + 40 * seconds) * seconds)
        soundfile.write(folder / name / "sweep.wav", np.stack([sweep, sweep[::-1]], 1), 44100)
    (sample,) = (ROOT / "hf_datasets/meld/sample").glob("sample-test-*.parquet")
    (folder / "clip.mp4").write_bytes(pq.read_table(sample, columns=["clip"])["clip"][0].as_py()["bytes"])
    (folder / "lines.csv").write_text("start,end,text\n0,0.5,You came!\n0.4,1,I am so sorry.\n", encoding="utf-8")


def run(names: Sequence[str], runs: Path, results: Path) -> None:
    """Run commands one after the other, and write their output to name.stdout."""
    with tempfile.TemporaryDirectory() as cache:  # empty, because an old cache would hide changed features
        environment = os.environ | {"HF_HOME": cache, "HF_HUB_OFFLINE": "1"}
        environment |= {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "passive"}  # spinning threads slow a busy machine
        for name in names:
            start, folder = time.monotonic(), results / name
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            command = [sys.executable, *map(str, commands(runs, results)[name])]
            if name == "eda_resumed":
                kill_after_epoch(2, folder, command, environment)
                command += ["--resume_from_checkpoint", "true"]
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(f"{name}: {' '.join(command)}: failed\n{done.stderr[-4000:]}")
            folder.with_name(f"{name}.stdout").write_text(done.stdout, encoding="utf-8")
            print(f"{name}: {time.monotonic() - start:.0f} s", flush=True)


def kill_after_epoch(epoch: int, folder: Path, command: Sequence[str], environment: dict[str, str]) -> None:
    """Start a run, and kill it and its workers when the checkpoint of an epoch is complete."""
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, **quiet)
    saved = 0
    while saved < epoch:
        if process.poll() is not None:
            raise SystemExit(f"{folder}: the run ended before it could be killed. Run it again.")
        for state in folder.glob("checkpoint-*/trainer_state.json"):
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):  # just removed, or partly written
                saved = max(saved, json.loads(state.read_text(encoding="utf-8"))["epoch"])
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def collect(names: Sequence[str], runs: Path, results: Path) -> dict[str, Any]:
    """Return the results of each command, without parts that depend on time and folders."""
    collected = {}
    for name in names:
        collected[name] = {path.name: content(path, runs, results) for path in sorted((results / name).iterdir())}
        printed = (results / f"{name}.stdout").read_text(encoding="utf-8")
        lines = [line for line in printed.splitlines() if not line.startswith("{")]  # the Trainer's log has times
        collected[name]["stdout"] = digest(without_folders("\n".join(lines), runs, results))
    if "eda_resumed" in collected:
        weights = [collected[name]["model.safetensors"] for name in ("eda_resumed", "eda_resumed-whole")]
        collected["eda_resumed"]["has the weights of a run that was never stopped"] = weights[0] == weights[1]
    return collected


def content(path: Path, runs: Path, results: Path) -> Any:
    """Return the JSON of a file, the digests of its columns, or its digest."""
    if path.is_dir() or path.suffix == ".py":  # code may change in a refactoring
        return "exists"
    if path.suffix == ".parquet":
        table = pq.read_table(path)
        columns = {name: digest(repr(table[name].to_pylist())) for name in table.column_names}
        return {"schema": str(table.schema.remove_metadata()), "columns": columns}
    if path.suffix not in (".csv", ".html", ".json", ".md"):
        return digest(path.read_bytes())
    text = without_folders(path.read_text(encoding="utf-8"), runs, results)
    if path.suffix == ".json":
        record = without_noise(json.loads(text))
        return digest(json.dumps(record)) if path.name in LONG_RECORDS else record
    return digest(NOISY_TEXT.sub("", PICTURE.sub("", text)))


def without_folders(text: str, *folders: Path) -> str:
    for folder in folders:
        text = text.replace(str(folder), "FOLDER")
    return text.replace(str(ROOT), "ROOT")


def without_noise(record: Any) -> Any:
    if isinstance(record, dict):
        return {key: without_noise(value) for key, value in record.items() if not NOISY_KEYS.fullmatch(key)}
    return [without_noise(value) for value in record] if isinstance(record, list) else record


def digest(content: str | bytes) -> str:
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def leaves(record: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each value in a record."""
    if isinstance(record, (dict, list)) and record:
        for key, value in record.items() if isinstance(record, dict) else enumerate(record):
            yield from leaves(value, f"{path}/{key}" if path else str(key))
    else:
        yield path, json.dumps(record)


def compare(before: dict[str, Any], after: dict[str, Any], allowed: Sequence[str] = ()) -> int:
    """Print every difference between runs that both records have; return 1 if one is not allowed, otherwise 0."""
    if before.keys() != after.keys():
        print(f"only in one record, not compared: {', '.join(sorted(before.keys() ^ after.keys()))}")
    both = [name for name in before if name in after]
    old, new = (dict(leaves({name: results[name] for name in both})) for results in (before, after))
    different = [path for path in old | new if old.get(path) != new.get(path)]
    refused = [path for path in different if not any(fnmatch(path, pattern) for pattern in allowed)]
    for path in different:
        values = " -> ".join(results.get(path, "(missing)")[:60] for results in (old, new))
        print(f"{'different' if path in refused else 'allowed'}: {path}: {values}")
    print(
        f"{len(refused)} differences" if refused else f"same: {len(old) - len(different)} values of {len(both)} runs"
    )
    return int(bool(refused) or not both)


def main(argv: list[str]) -> int:
    names = list(commands(Path(), Path()))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(dest="action", required=True)
    for action, folders in {"save": ["folder"], "compare": ["before", "after"], "old": ["before"]}.items():
        options = actions.add_parser(action)
        for folder in folders:
            options.add_argument(folder, type=Path)
        if action == "save":
            options.add_argument("--only", nargs="+", choices=sorted({name.partition("-")[0] for name in names}))
        else:
            options.add_argument("--allow", nargs="+", default=[], help="paths that may differ; * and ? are wildcards")
    arguments = parser.parse_args(argv)

    if arguments.action == "save":
        folder = arguments.folder.resolve()
        names = [name for name in names if not arguments.only or name.partition("-")[0] in arguments.only]
        write_inputs(folder / "inputs")
        run(names, folder, folder)
        results = json.dumps(collect(names, folder, folder), indent=1)
        (folder / "results.json").write_text(results + "\n", encoding="utf-8")
        return 0
    before = json.loads((arguments.before / "results.json").read_text(encoding="utf-8"))
    if arguments.action == "compare":
        after = json.loads((arguments.after / "results.json").read_text(encoding="utf-8"))
        return compare(before, after, arguments.allow)
    runs = arguments.before.resolve()
    names = [name for name in names if name in before and name.endswith(("-eval", "-predict", "-lines"))]
    with tempfile.TemporaryDirectory() as results:
        run(names, runs, Path(results))
        return compare({name: before[name] for name in names}, collect(names, runs, Path(results)), arguments.allow)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
