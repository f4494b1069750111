"""Preparing and reading TuneIn's stored embeddings: `python -m benchmarks.tunein`, 16,889 creatives in 244 batches.

The rival is a straightforward version: unpickle every file into pandas, merge by id, and write one pickle per batch of
16. Both read from and write to a store with a latency of 30 ms (folder_server.py), like the real data, and a local
folder. Each run is the whole command, including imports. Then all batches are read once as numpy arrays: prepared rows
through `datasets`, 16 at a time, safetensors batches, and the rival's pickles.

`--streaming` measures instead how long a run on prepared creatives (200 MB, in the store) takes until the end of its
first step, without imports, and how much it has fetched by then, streamed and copied.
"""

import argparse
import contextlib
import itertools
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.folder_server import SENT
from benchmarks.timing import Timing, compare, print_ratio, print_table, print_value, ratio

CREATIVES, BATCHES = 16_889, 244  # of the real data
TEXT, VIDEO, SOUND = 384, 512, 256  # numbers per vector or frame
FEWEST, MOST = 2, 30  # frames of a sound
BATCH_SIZE, LATENCY = 16, 0.03  # s
STREAMED, STREAMED_BATCHES = 5_500, 80  # creatives, about 200 MB in 10 shards
MEGABYTE = 2**10  # in KiB
PAGE = os.sysconf("SC_PAGE_SIZE") // 2**10  # KiB
SAMPLED = 0.01  # s between readings of memory


def make_raw(folder: Path, count: int, batches: int) -> None:
    """Make a raw tree of noise, which like real embeddings does not compress."""
    rng = np.random.default_rng(0)
    ids = [str(10_000 + i) for i in range(count)]
    (folder / "audio_embeddings").mkdir(parents=True)
    cells = []
    for number, group in enumerate(np.array_split(rng.permutation(ids), batches), start=1):
        sounds: dict[str, list] = {"id": [str(name) for name in group]}
        for name in ("audio", "backaudio"):
            sounds[name] = [
                rng.standard_normal((int(frames), SOUND), dtype=np.float32)
                for frames in rng.integers(FEWEST, MOST + 1, len(group))
            ]
        (folder / "audio_embeddings" / f"embedding_batch_{number}.pkl").write_bytes(pickle.dumps(sounds))
        cells.append(str(sounds["id"]))
    for modality, width in (("text", TEXT), ("video", VIDEO)):
        names = [str(name) for name in rng.permutation(ids)]
        vectors = [rng.standard_normal((1, width), dtype=np.float32) for _ in names]
        table = {"creative_id": names, "embeddings": vectors}
        (folder / f"rf_{modality}_embeddings.pkl").write_bytes(pickle.dumps(table))
    labels = "".join(f"{name},{rng.standard_normal():.4f}\n" for name in ids)
    (folder / "labels.csv").write_text("creative_id,attention_data_completed\n" + labels)
    (folder / "sound_indexes.csv").write_text("index\n" + "".join(f'"{cell}"\n' for cell in cells))


def naive(raw: str, output: str) -> None:
    """Prepare in the straightforward way: all into pandas, a left join, one pickle per batch."""
    import io

    import pandas as pd

    if raw.startswith("s3://"):
        import boto3

        client = boto3.client("s3")

        def read(name: str) -> bytes:
            bucket, _, key = raw.removeprefix("s3://").partition("/")
            return client.get_object(Bucket=bucket, Key=f"{key}/{name}")["Body"].read()

        def write(name: str, data: bytes) -> None:
            bucket, _, key = output.removeprefix("s3://").partition("/")
            client.put_object(Bucket=bucket, Key=f"{key}/{name}", Body=data)
    else:
        Path(output).mkdir(parents=True)

        def read(name: str) -> bytes:
            return Path(raw, name).read_bytes()

        def write(name: str, data: bytes) -> None:
            Path(output, name).write_bytes(data)

    def table(name: str, columns: list[str]) -> pd.DataFrame:
        frame = pd.DataFrame(pickle.loads(read(name)))
        frame.columns = columns
        return frame

    text = table("rf_text_embeddings.pkl", ["id", "text"])
    video = table("rf_video_embeddings.pkl", ["id", "video"])
    count = len(pd.read_csv(io.BytesIO(read("sound_indexes.csv"))))
    names = [f"audio_embeddings/embedding_batch_{number}.pkl" for number in range(1, count + 1)]
    sounds = pd.concat([table(name, ["id", "audio", "back_audio"]) for name in names])
    labels = pd.read_csv(io.BytesIO(read("labels.csv")), dtype={"creative_id": str})
    rows = labels.rename(columns={"creative_id": "id"})
    for other in (text, video, sounds):
        rows = rows.merge(other, on="id", how="left")
    for number, start in enumerate(range(0, len(rows), BATCH_SIZE)):
        part = rows.iloc[start : start + BATCH_SIZE]
        batch = {name: list(part[name]) for name in ("id", "text", "video", "audio", "back_audio")}
        write(
            f"batch_{number:05d}.pickle",
            pickle.dumps(batch | {"targets": part["attention_data_completed"].to_numpy()}),
        )


def resident(process: int, parent: bytes = b"") -> int:
    """Return the memory of a process and its children in KiB; shared pages count for each process."""
    total = 0
    with contextlib.suppress(OSError):  # the process has just ended
        folder = Path(f"/proc/{process}")
        command = (folder / "cmdline").read_bytes()
        if command == parent:  # forked but not yet executed, so its memory is that of its parent
            return 0
        total = int((folder / "statm").read_text().split()[1]) * PAGE
        for children in (folder / "task").glob("*/children"):
            total += sum(resident(int(child), command) for child in children.read_text().split())
    return total


def run(*command: str) -> float:
    """Run one of our modules; return the peak memory of it and its children together, in MiB."""
    arguments = [sys.executable, "-m", *command]
    child = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    peak = 0
    while child.poll() is None:
        peak = max(peak, resident(child.pid))
        time.sleep(SAMPLED)
    if child.returncode:
        raise RuntimeError(f"{' '.join(arguments)}: failed. Run it to see why.")
    return peak / MEGABYTE


@contextlib.contextmanager
def store(folder: Path) -> Iterator[None]:
    """Serve the folder as s3://; set the environment so that all clients, also in children, use it and no other."""
    command = [sys.executable, "-m", "benchmarks.folder_server", str(folder), str(LATENCY)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    saved = dict(os.environ)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",  # the server does not parse checksums after a body
    }
    try:
        yield
    finally:
        server.kill()
        server.wait()
        os.environ.clear()
        os.environ.update(saved)


def prepare_side_by_side(raw: str, output: str, folder: Path, rounds: int, suffix: str = "") -> None:
    """Time both; print the table, the ratio and the memory. The output of the last round stays in `folder`."""
    peaks: dict[str, float] = {}
    last = {"naive": "", "ours": ""}
    number = itertools.count()

    def rival(name: str, *command: str) -> None:
        if last[name]:
            shutil.rmtree(folder / last[name])
        last[name] = f"{name}{next(number)}"
        arguments = [argument.replace("OUTPUT", f"{output}/{last[name]}") for argument in command]
        peaks[name] = max(peaks.get(name, 0), run(*arguments))

    rivals = {
        "naive": lambda: rival("naive", "benchmarks.tunein", "--naive", raw, "OUTPUT"),
        "ours": lambda: rival("ours", "hf_datasets.prepare", "tunein", "--raw_dir", raw, "--output_dir", "OUTPUT"),
    }
    timings = compare(rivals, rounds=rounds, warmup=0)
    print(f"from and to {output}")
    print_table(timings)
    print_ratio(f"prepare_vs_naive{suffix}", ratio(timings["naive"], timings["ours"]))
    for name, peak in peaks.items():
        print_value(f"peak_memory_{name}{suffix}", peak, "MiB")
    print_value(f"memory_ratio{suffix}", peaks["naive"] / peaks["ours"], "times less")
    for name, written in last.items():
        (folder / written).rename(folder / name)


def read_all(folder: Path, rounds: int) -> None:
    """Time reading every batch once as numpy arrays, in each format."""
    import datasets
    import safetensors.numpy

    safetensors_files = sorted((folder / "batches" / "latest_embeddings").glob("*.safetensors"))
    pickles = sorted((folder / "naive").glob("*.pickle"))
    columns = ["text", "video", "audio", "audio_frames", "back_audio", "back_audio_frames", "target"]
    with tempfile.TemporaryDirectory() as cache:
        rows = datasets.load_dataset(str(folder / "ours"), split="train", cache_dir=cache)
        rows = rows.select_columns(columns).with_format("numpy")

        def arrow() -> float:
            return sum(len(batch["target"]) for batch in rows.iter(BATCH_SIZE))

        def tables() -> float:
            total = 0.0
            for batch in rows.with_format("arrow").iter(BATCH_SIZE):
                for name in ("text", "video", "audio", "back_audio"):
                    total += batch[name].combine_chunks().flatten().to_numpy().sum()
            return total

        def tensors() -> float:
            return sum(
                value.sum() for path in safetensors_files for value in safetensors.numpy.load_file(path).values()
            )

        def pickled() -> float:
            total = 0.0
            for path in pickles:
                batch = pickle.loads(path.read_bytes())
                total += sum(np.concatenate(batch[name]).sum() for name in ("text", "video", "audio", "back_audio"))
            return total

        timings = compare(
            {"pickles": pickled, "safetensors": tensors, "Arrow, flat": tables, "Arrow, numpy rows": arrow},
            rounds=rounds,
            warmup=1,
        )
    print(f"reading all batches of {BATCH_SIZE} once")
    print_table(timings)
    for name, word in (("safetensors", "safetensors"), ("Arrow, flat", "arrow"), ("Arrow, numpy rows", "arrow_rows")):
        print_ratio(f"read_{word}_vs_pickles", ratio(timings["pickles"], timings[name]))


def first_step(dataset: str, streaming: str, folder: str) -> None:
    """Set up a run as run_train.py does and train one step; write the time to `seconds` in the folder."""
    from benchmarks.training import new_model, prepared
    from training.build import build_trainer

    options = ["--dataset", dataset, "--streaming", streaming, "--max_steps", "1", "--use_cpu", "true"]
    start = time.perf_counter()
    run, extractor, data = prepared("configs/tunein_attention.json", *options, "--output_dir", folder)
    build_trainer(run, new_model(run, extractor, data), extractor, data).train()
    Path(folder, "seconds").write_text(str(time.perf_counter() - start))


def compare_first_steps(folder: Path, rounds: int) -> None:
    """Compare seconds and bytes until the first step of training, streamed and copied, with empty caches."""
    seconds: dict[str, list[float]] = {"copied": [], "streamed": []}
    fetched: dict[str, int] = {}

    def sent() -> int:
        with urllib.request.urlopen(os.environ["AWS_ENDPOINT_URL"] + SENT) as answer:
            return int(answer.read())

    def start(name: str) -> None:
        before = sent()
        with tempfile.TemporaryDirectory() as cache:
            os.environ["HF_DATASETS_CACHE"] = cache
            streaming = json.dumps(name == "streamed")
            run("benchmarks.tunein", "--first_step", "s3://lab/prepared", streaming, f"{cache}/run")
            seconds[name].append(float(Path(cache, "run", "seconds").read_text()))
        fetched[name] = sent() - before

    make_raw(folder / "raw", STREAMED, STREAMED_BATCHES)
    prepared = folder / "lab" / "prepared"
    run("hf_datasets.prepare", "tunein", "--raw_dir", str(folder / "raw"), "--output_dir", str(prepared))
    shards = [path.stat().st_size for path in prepared.rglob("*.parquet")]
    print(
        f"{STREAMED:,} creatives in {len(shards)} shards, {sum(shards) / 1e6:.0f} MB, latency {1000 * LATENCY:.0f} ms"
    )
    with store(folder):
        for _ in range(rounds):
            for name in seconds:
                start(name)
    timings = {name: Timing(tuple(values)) for name, values in seconds.items()}
    print_table(timings)
    print_ratio("first_step_streamed_vs_copied", ratio(timings["copied"], timings["streamed"]))
    for name, timing in timings.items():
        print_value(f"first_step_{name}_seconds", timing.median, "s")
        print_value(f"first_step_{name}_fetched", fetched[name] / 1e6, "MB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--small", action="store_true", help="an eighth of the creatives (all: 3 min, 4 GB of disk)")
    parser.add_argument("--rounds", type=int, default=2, help="of each measurement, 2 or more")
    parser.add_argument("--naive", nargs=2, metavar=("RAW", "OUTPUT"), help="run the rival alone")
    parser.add_argument("--streaming", action="store_true", help="measure the first step of streamed runs alone")
    parser.add_argument("--first_step", nargs=3, metavar=("DATASET", "STREAMING", "FOLDER"), help="run one of these")
    args = parser.parse_args()
    if args.naive:
        return naive(*args.naive)
    if args.first_step:
        return first_step(*args.first_step)
    if args.streaming:
        with tempfile.TemporaryDirectory() as temporary:
            return compare_first_steps(Path(temporary), args.rounds)
    count, batches = (CREATIVES // 8, BATCHES // 8) if args.small else (CREATIVES, BATCHES)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        make_raw(folder / "lab" / "raw", count, batches)
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
        print(f"{count:,} creatives in {batches} batches, {size / 1e6:,.0f} MB, {os.cpu_count()} cores")
        with store(folder):
            prepare_side_by_side("s3://lab/raw", "s3://lab", folder / "lab", args.rounds)
        for name in ("naive", "ours"):
            shutil.rmtree(folder / "lab" / name)
        raw, output = str(folder / "lab" / "raw"), str(folder / "lab")
        prepare_side_by_side(raw, output, folder / "lab", args.rounds, "_folder")
        start = time.perf_counter()
        peak = run(
            "hf_datasets.tunein.write_batches", "--data_dir", str(folder / "lab" / "ours"),
            "--output_dir", str(folder / "lab" / "batches"),
        )  # fmt: skip
        print_value("write_batches", time.perf_counter() - start, "s")
        print_value("write_batches_peak_memory", peak, "MiB")
        read_all(folder / "lab", args.rounds)


if __name__ == "__main__":
    main()
