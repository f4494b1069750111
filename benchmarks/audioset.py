"""Time and memory for AudioSet's two million rows: reading, preparing, building pools, sampling.

The weak tables are the real ones, from FELTSOUND_REAL_DATA or ../shared/data. The strong tables are synthetic and have
the size of the real ones (see `synthesize_strong`), except for real events of the target if the data has them. Nine of
ten clips get the path of a sound that is never opened, because about that share is still available online.
"""

# R rows, P pairs of row and label, E events

import argparse
import functools
import gc
import itertools
import json
import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets  # noqa: F401 - training imports it too, so its imports are not part of a cold start
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from benchmarks.timing import compare, print_ratio, print_table, print_value, ratio
from hf_datasets.audioset.table_formats import read_labels, read_strong, read_weak
from media.audioset import Labels, id_uniforms, ontology_from_labels
from system.process import keep_freed_memory
from tasks.detection.mining import MiningSettings, MiningTable, write_arrays
from tasks.detection.pools import ClipPools, PoolSettings, build_pools
from tasks.detection.sampler import SamplerSettings, TwoTierBatchSampler

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = "/t/dd00002"  # Baby cry, infant cry
UNBALANCED, OTHERS = "unbalanced_train_segments.csv", ("balanced_train_segments.csv", "eval_segments.csv")
TRAIN_STRONG = {"clips": 103_463, "events": 934_821, "used": 447}  # sizes of the official tables
EVAL_STRONG = {"clips": 16_996, "events": 139_538, "used": 416}
SECONDS, SHORTEST = 10.0, 0.05  # s, of a clip and of an event
HAS_AUDIO = 0.9  # share of the clips
COLUMNS = (
    "clip_id", "subset", "labels.list.element", "events.list.element.label", "events.list.element.start_seconds",
    "events.list.element.end_seconds", "events.list.element.present", "strongly_labelled",
    "audio.bytes",  # enough to see whether a row has audio, so that no paths are read
    "audio_seconds", "defects.list.element.what",
)  # fmt: skip
BATCH, WORLD = 32, 8  # clips per rank and step, ranks
GC_OFF = "pandas, garbage collection off"
MEGABYTE = 2**10  # in KiB, the kernel's unit
RETURNING = {"MALLOC_MMAP_THRESHOLD_": "65536", "ARROW_DEFAULT_MEMORY_POOL": "system"}  # give freed memory back
LHOTSE_CUTS = 100_000  # a subset of the clips, because lhotse needs a Python object per cut
# `python -m hf_datasets.prepare`, which also prints its peak memory: that of wait4 would include the parent's memory
BUILD = (
    "import sys; from hf_datasets.prepare import main; main(sys.argv[1:]); "
    "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')))"
)
# Narrow types, which keep the columns of two million rows small.
NARROW = {
    "labels": pa.list_(pa.int16()),
    "events": pa.list_(
        pa.struct(
            {"label": pa.int16(), "start_seconds": pa.float32(), "end_seconds": pa.float32(), "present": pa.bool_()}
        )
    ),
}


def synthesize_strong(
    weak: pa.Table,
    labels: Labels,
    strong: Labels,
    clips: int,
    events: int,
    used: int,
    real: pa.Table | None,
    seed: int,
) -> pa.Table:
    """Make a table of strong labels in the official columns, with exactly these numbers of events, clips and labels.

    Clips are drawn from the weak rows, and each has at least one event. Half of the events have a weak label of their
    clip, the others a label drawn by 1 / rank; all `used` labels occur. The median length of an event is 0.83 s, its
    position is uniform.

    Args:
        real: real events of the target (see `read_strong`); None for none.
    """
    dice = np.random.default_rng(seed)
    weak = weak.select(["ytid", "start_seconds", "labels"])
    real_ids = pa.array([], pa.string()) if real is None else real["ytid"].unique()
    is_real = pc.is_in(weak["ytid"], value_set=real_ids).to_numpy(zero_copy_only=False)
    others = dice.permutation(np.flatnonzero(~is_real))[: clips - int(is_real.sum())]
    rows = np.sort(np.concatenate([np.flatnonzero(is_real), others]))
    count = events - (0 if real is None else len(real))  # of synthetic events
    mids = [mid for mid in strong.mids if mid != TARGET][: used - (real is not None)]
    events_of_row = 1 + dice.multinomial(count - len(rows), np.full(len(rows), 1 / len(rows)))
    clip = np.repeat(rows, events_of_row)  # (E,)
    by_rank = 1 / np.arange(1, len(mids) + 1)
    label = dice.permutation(len(mids))[dice.choice(len(mids), count, p=by_rank / by_rank.sum())]
    lists = weak["labels"].combine_chunks()
    edges, codes = lists.offsets.to_numpy(), lists.values.to_numpy()
    code_of_mid = {mid: number for number, mid in enumerate(mids)}
    weak_label = np.array([code_of_mid.get(mid, -1) for mid in labels.mids])
    weak_label = weak_label[codes[edges[clip] + (dice.random(count) * np.diff(edges)[clip]).astype(int)]]
    label = np.where((weak_label >= 0) & (dice.random(count) < 0.5), weak_label, label)
    label[dice.choice(count, len(mids), replace=False)] = np.arange(len(mids))  # each label occurs
    length = np.clip(0.83 * np.exp(dice.normal(0, 1, count)), SHORTEST, SECONDS)
    start = np.round(dice.random(count) * (SECONDS - length), 3)
    columns = {
        "ytid": weak["ytid"].take(pa.array(clip)),
        "clip_start_ms": pa.array((weak["start_seconds"].to_numpy()[clip] * 1e3).round().astype(np.int64)),
        "start_seconds": pa.array(start),
        "end_seconds": pa.array(np.round(np.minimum(start + length, SECONDS), 3)),
        "label": pa.array(mids).take(pa.array(label)),
    }
    table = pa.table(columns)
    table = table if real is None else pa.concat_tables([table, real.select(list(columns))])
    segments = pc.binary_join_element_wise(table["ytid"], table["clip_start_ms"].cast(pa.string()), "_")
    names = ["segment_id", "start_time_seconds", "end_time_seconds", "label"]
    return pa.table([segments, *(table[name] for name in ("start_seconds", "end_seconds", "label"))], names=names)


def real_folder() -> Path:
    """Return the folder of the real tables; exit if there is none."""
    folder = Path(os.environ.get("FELTSOUND_REAL_DATA", REPOSITORY.parent / "shared" / "data")) / "audioset" / "meta"
    if not folder.is_dir():
        sys.exit(f"{folder}: not found. Set FELTSOUND_REAL_DATA to a folder with audioset/meta/{UNBALANCED}.xz.")
    return folder


def make_raw(meta: Path, folder: Path) -> Path:
    """Make a folder of all of AudioSet's tables, unpacked."""
    folder.mkdir()
    with lzma.open(meta / f"{UNBALANCED}.xz") as packed, open(folder / UNBALANCED, "wb") as file:
        shutil.copyfileobj(packed, file, 2**20)
    for name in (*OTHERS, "class_labels_indices.csv", "mid_to_display_name.tsv", "ontology.json"):
        shutil.copyfile(meta / name, folder / name)
    labels, strong = (
        read_labels((meta / name).read_bytes(), name)
        for name in ("class_labels_indices.csv", "mid_to_display_name.tsv")
    )
    tables = {name: read_weak((folder / name).read_bytes(), labels, name) for name in (UNBALANCED, *OTHERS)}
    train = pa.concat_tables([tables[UNBALANCED], tables[OTHERS[0]]]).combine_chunks()
    for side, weak, size in (("train", train, TRAIN_STRONG), ("eval", tables[OTHERS[1]], EVAL_STRONG)):
        files = sorted((meta / "strong").glob(f"bc_*_{side}.tsv"))
        real = pa.concat_tables([read_strong(file.read_bytes(), str(file)) for file in files]) if files else None
        table = synthesize_strong(weak, labels, strong, **size, real=real, seed=0)
        with open(folder / f"audioset_{side}_strong.tsv", "wb") as file:
            file.write(("\t".join(table.column_names) + "\n").encode())  # write_csv puts names in quotes
            options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
            pa.csv.write_csv(table, file, options)
    return folder


def parse_ours(path: Path, labels: Labels) -> tuple[np.ndarray, ...]:
    """Return ids, start and end in s (R,), offsets into the labels (R + 1,), and codes of labels (P,) int16."""
    table = read_weak(path.read_bytes(), labels, str(path))
    lists = table["labels"].combine_chunks()
    times = (table[name].to_numpy() for name in ("start_seconds", "end_seconds"))
    return table["ytid"], *times, lists.offsets.to_numpy(), lists.values.to_numpy()


def parse_pandas(path: Path, labels: Labels) -> tuple[np.ndarray, ...]:
    """Return the same as `parse_ours`, by pandas' C reader."""
    # Lists are split in Python, which is faster than Series.str.split and explode.
    names = ["ytid", "start", "end", "labels"]
    frame = pd.read_csv(path, skiprows=3, header=None, names=names, skipinitialspace=True, na_filter=False)
    code = {mid: number for number, mid in enumerate(labels.mids)}
    lists = [text.split(",") for text in frame["labels"].tolist()]
    lengths = np.fromiter(map(len, lists), np.int32, len(lists))
    edges = np.concatenate(([0], np.cumsum(lengths)))
    codes = np.fromiter(map(code.__getitem__, itertools.chain.from_iterable(lists)), np.int16, edges[-1])
    return frame["ytid"], frame["start"].to_numpy(), frame["end"].to_numpy(), edges, codes


def parse_pandas_uncollected(path: Path, labels: Labels) -> tuple[np.ndarray, ...]:
    """Return the same with garbage collection off."""
    # Otherwise the collector walks through the millions of lists and strings again and again.
    gc.disable()
    try:
        return parse_pandas(path, labels)
    finally:
        gc.enable()


def measure_parse(path: Path, labels: Labels, rounds: int) -> list[tuple]:
    """Compare readers of the largest weak table; return the lines for scripts."""
    rivals, read = {"feltsound": parse_ours, "pandas": parse_pandas, GC_OFF: parse_pandas_uncollected}, {}

    def parse(name: str) -> None:
        read.pop(name, None)  # free the result of the last round first
        read[name] = rivals[name](path, labels)

    timings = compare({name: functools.partial(parse, name) for name in rivals}, rounds, warmup=0)
    (ids, *ours), (peer_ids, *peers), _ = (read[name] for name in rivals)
    if not all(np.array_equal(a, b) for a, b in zip(ours, peers, strict=True)) or ids.to_pylist() != list(peer_ids):
        raise RuntimeError("feltsound and pandas read different tables")
    print(f"\n{UNBALANCED}, {path.stat().st_size / 1e6:.0f} MB, to ids, times and codes of labels; equal results")
    print_table(timings)
    ours, peers = timings["feltsound"], {"": timings["pandas"], "_gc_off": timings[GC_OFF]}
    lines = [(print_ratio, f"csv_parse_vs_pandas{name}", ratio(peer, ours)) for name, peer in peers.items()]
    return [*lines, (print_value, "csv_parse_seconds", min(ours.seconds), "s")]


def measure_build(raw: Path, output: Path) -> list[tuple]:
    """Time the whole command that prepares the tables, including imports; return the lines for scripts."""
    command = [sys.executable, "-c", BUILD, "audioset", "--raw_dir", str(raw), "--output_dir", str(output)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, check=False)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise RuntimeError(f"prepare failed: {done.stderr[-500:]}")
    peak = int(done.stdout.split()[-2]) / MEGABYTE
    return [
        (print_value, "metadata_build_seconds", seconds, "s"),
        (print_value, "metadata_build_peak_memory", peak, "MiB"),
    ]


def give_sounds(prepared: Path) -> None:
    """Add paths of sounds to HAS_AUDIO of the clips in prepared tables, chosen by a hash of the id."""
    for path in sorted((prepared / "data").glob("*.parquet")):
        file = pq.ParquetFile(path)
        table, rows = file.read(), file.metadata.row_group(0).num_rows
        ids, subset = table["clip_id"].combine_chunks(), table["subset"].combine_chunks()
        paths = pc.binary_join_element_wise("/data/audioset/audio/", subset, "_segments/Y", ids, ".wav", "")
        missing = pa.array(id_uniforms(ids, 1) >= HAS_AUDIO)
        paths = pc.if_else(missing, None, paths)
        audio = pa.StructArray.from_arrays([pa.nulls(len(table), pa.binary()), paths], ["bytes", "path"], mask=missing)
        table = table.set_column(table.schema.get_field_index("audio"), "audio", audio)
        pq.write_table(table, path, compression="zstd", use_dictionary=False, row_group_size=rows)


def read_columns(prepared: Path) -> pa.Table:
    """Read the columns that pools are built from, from prepared tables."""

    def read(path: Path) -> pa.Table:
        table = pq.ParquetFile(path, read_dictionary=["subset"]).read(columns=list(COLUMNS), use_threads=False)
        for name, narrow in NARROW.items():
            table = table.set_column(table.schema.get_field_index(name), name, table[name].cast(narrow))
        return table

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        return pa.concat_tables(threads.map(read, sorted((prepared / "data").glob("*.parquet"))))


def make_sampler(prepared: Path, vocabulary: tuple) -> tuple[TwoTierBatchSampler, ClipPools]:
    """Build pools and a sampler from prepared tables."""
    pools = build_pools(read_columns(prepared), *vocabulary, PoolSettings(), clip_seconds=1.0)
    return TwoTierBatchSampler.from_pools(pools, SamplerSettings(), BATCH, seed=0, world_size=WORLD), pools


def of_slots(pools: ClipPools, slots: int) -> TwoTierBatchSampler:
    """Return a sampler with about this many slots per epoch; positives are repeated to reach it."""
    settings = SamplerSettings()
    positives = np.resize(pools.positives, int(slots * settings.positive_share))
    return TwoTierBatchSampler(positives, pools.strong, pools.weak, BATCH, 0, WORLD, explicit=pools.explicit)


def resident() -> tuple[float, float]:
    """Return the current and the peak memory of this process, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    values = {line.split()[0]: int(line.split()[1]) / MEGABYTE for line in lines if line.startswith("Vm")}
    return values["VmRSS:"], values["VmHWM:"]


def full_table(pools: ClipPools) -> MiningTable:
    """Return a table of hard negatives that is filled to its capacity."""
    mining = MiningTable(MiningSettings(), pools)
    dice = np.random.default_rng(0)
    items = dice.choice(len(pools.items), 2 * mining.settings.mining_capacity, replace=False)
    mining.apply(0, items, dice.uniform(0.5, 1, len(items)).astype(np.float32))
    return mining


def measure_sampler(prepared: Path, folder: Path) -> dict[str, float]:
    """Measure time and memory of the sampler in this process."""
    if "MALLOC_MMAP_THRESHOLD_" not in os.environ:
        keep_freed_memory()  # as in training
    vocabulary = ontology_from_labels(json.loads((prepared / "labels.json").read_text()))
    figures, (before, _), start = {}, resident(), time.perf_counter()
    sampler, pools = make_sampler(prepared, vocabulary)
    figures["cold_start"] = time.perf_counter() - start
    figures["peak"] = resident()[1] - before
    sampler.plan(0)
    figures["memory"] = resident()[0] - before
    mining = full_table(pools)
    hard = mining.hardest()
    for name, slots in (("100k", 100_000), ("1m", 1_000_000)):
        sampler = of_slots(pools, slots)
        sampler.set_hard(*hard)
        seconds = []
        for epoch in (1, 2, 3):
            start = time.perf_counter()
            sampler.set_epoch(epoch)
            next(iter(sampler))
            seconds.append(time.perf_counter() - start)
        figures[name], figures[f"slots_{name}"] = min(seconds), len(sampler) * BATCH
    state = mining.state_dict() | {f"plan/{name}": value for name, value in sampler.state_dict().items()}
    write_arrays(folder / "state.npz", state)
    return figures | {"state": (folder / "state.npz").stat().st_size, "items": len(pools.items)}


def sampler_in_new_process(prepared: Path, **environment: str) -> dict[str, float]:
    """Run `measure_sampler` in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.audioset", "--of_prepared", str(prepared)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed: {done.stderr[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_lhotse(prepared: Path, rounds: int) -> list[tuple]:
    """Compare sampling an epoch with lhotse's weighted sampler on cuts of the same clips; return lines for scripts."""
    from lhotse import CutSet, MonoCut
    from lhotse.dataset.sampling.weighted_simple import WeightedSimpleCutSampler

    vocabulary = ontology_from_labels(json.loads((prepared / "labels.json").read_text()))
    _, pools = make_sampler(prepared, vocabulary)
    sampler = of_slots(pools, LHOTSE_CUTS // 2)
    drawn = len(sampler) * BATCH
    items = np.random.default_rng(0).choice(np.unique(pools.weak.items), LHOTSE_CUTS, replace=False)
    cuts = CutSet([MonoCut(id=str(item), start=0.0, duration=SECONDS, channel=0) for item in items])
    sizes = np.bincount(pools.weak.labels)
    weights = np.bincount(pools.weak.items, weights=1 / np.sqrt(sizes)[pools.weak.labels])[items]
    peer = WeightedSimpleCutSampler(cuts, weights.tolist(), num_samples=drawn, max_cuts=BATCH, world_size=1, rank=0)
    timings = compare(
        {"feltsound": lambda: sum(map(len, sampler)), "lhotse": lambda: sum(map(len, peer))}, rounds=rounds, warmup=1
    )
    print(
        f"\nan epoch of {drawn:,} items in batches of {BATCH}, without set-up: lhotse from {LHOTSE_CUTS:,} cuts, "
        f"weighted by the root of the label's size, ours from all {len(pools.items):,} items, label after label"
    )
    print_table(timings)
    return [(print_ratio, "plan_vs_lhotse_weighted", ratio(timings["lhotse"], timings["feltsound"]))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--full", action="store_true", help="three times as many rounds")
    parser.add_argument("--of_prepared", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if arguments.of_prepared:
            print(json.dumps(measure_sampler(arguments.of_prepared, folder)))
            return
        rounds = 6 if arguments.full else 2
        meta = real_folder()
        raw = make_raw(meta, folder / "raw")
        labels = read_labels((raw / "class_labels_indices.csv").read_bytes(), "class_labels_indices.csv")
        lines = measure_parse(raw / UNBALANCED, labels, rounds)
        lines += measure_build(raw, folder / "prepared")
        give_sounds(folder / "prepared")
        runs = [sampler_in_new_process(folder / "prepared") for _ in range(rounds)]
        best = {figure: min(run[figure] for run in runs) for figure in runs[0]}
        lean = sampler_in_new_process(folder / "prepared", **RETURNING)
        print(
            f"\n{best['items']:,.0f} items of the target {TARGET}; epochs of {best['slots_100k']:,.0f} and "
            f"{best['slots_1m']:,.0f} slots in batches of {BATCH} on {WORLD} ranks, 50,000 hard negatives"
        )
        lines += measure_lhotse(folder / "prepared", 3 * rounds)
        lines += [
            (print_value, "sampler_cold_start_seconds", best["cold_start"], "s"),
            (print_value, "set_epoch_100k_slots_seconds", best["100k"], "s"),
            (print_value, "set_epoch_1m_slots_seconds", best["1m"], "s"),
            (print_value, "sampler_memory", lean["memory"], "MiB"),
            (print_value, "sampler_cold_start_peak_memory", lean["peak"], "MiB"),
            (print_value, "sampler_state", best["state"], "bytes"),
        ]
    print()
    for show, *line in lines:
        show(*line)


if __name__ == "__main__":
    main()
