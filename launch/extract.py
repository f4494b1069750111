"""Compute embeddings of recordings with a pretrained encoder, as Parquet for `datasets` and the attention task.

python -m launch.extract --encoder efficientat_mn04_as --input sounds/ --output embeddings/
python -m launch.extract --encoder efficientat_mn04_as --input hf_datasets/pmemo --output embeddings/ --layer frames
python -m launch.extract --encoder efficientat_mn04_as --input ads/ --output embeddings/ --targets attention.csv
run_train.py configs/tunein_attention.json --dataset embeddings/ --model_config.modalities '["embeddings"]'

There is one row per recording. An unreadable recording has no embeddings, but a reason. A shard gets its final name
when it is complete, so an interrupted command can continue. The encoder always runs on the CPU, so that all shards of
an output have the same numbers.
"""

import argparse
import collections
import csv
import functools
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.start import begin
from system.process import keep_freed_memory, one_line_errors
from training.settings import check_front_end

LAYERS = ("window", "frames")
# A shard is the unit of work: an interrupted command loses at most one per process. Row groups bound the memory.
ROWS_PER_SHARD, ROWS_PER_GROUP = 256, 16


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m launch.extract",
        description="Compute embeddings of recordings with a pretrained encoder, on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--encoder",
        required=True,
        help="Pretrained encoder: a folder, a published weights file, a short name such as efficientat_mn04_as, or a "
        "name on the Hub.",
    )
    parser.add_argument(
        "--revision", default=None, help="Commit or tag of an encoder on the Hub. None uses its default branch."
    )
    parser.add_argument(
        "--input",
        required=True,
        help="Folder of recordings, one recording, or a data set with a column of sounds or clips.",
    )
    parser.add_argument(
        "--dataset_config",
        default=None,
        help="Configuration of the data set, such as `sample`. None uses its default.",
    )
    parser.add_argument("--output", required=True, type=Path, help="Folder for the Parquet files.")
    parser.add_argument(
        "--layer",
        default="window",
        choices=LAYERS,
        help="`window` writes one embedding per window of the encoder, `frames` one per 0.32 s.",
    )
    parser.add_argument(
        "--targets", default=None, type=Path, help="CSV file with the columns id and target, for the attention task."
    )
    parser.add_argument("--rows_per_shard", default=ROWS_PER_SHARD, type=int, help="Recordings per Parquet file.")
    parser.add_argument("--num_proc", default=1, type=int, help="Number of processes.")
    arguments = parser.parse_args(argv)
    for name in ("rows_per_shard", "num_proc"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name}={getattr(arguments, name)}: must be at least 1. Give 1 or more.")
    check_front_end("--encoder", arguments.encoder)
    folder = Path(arguments.input)
    # With Parquet files inside, the folder would be taken for a data set the next time.
    if folder.is_dir() and arguments.output.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--output={arguments.output}: must not be inside --input. Give a folder elsewhere.")
    return arguments


# Check the command line before the imports below, which take seconds.
if __name__ == "__main__":
    begin(parse)

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Features, List, Value
from tqdm import tqdm

from launch.recordings import Recordings, find_recordings
from media.audio import AudioError
from media.clip_files import VideoError
from modeling.modeling_efficientat import FRAMES_PER_EMBEDDING
from system.text import mask_secrets, plural, printable, safe_row
from system.worker_pool import map_in_processes
from tasks.detection.predict import sliding_windows
from training.encoders import Encoder, encoder_once
from training.environment import version

# Shape suffixes: N embeddings of a recording, D embedding size.

# Windows per forward pass. They are from one recording, so that its embeddings do not depend on other recordings.
# Larger batches are slower, because they do not fit the CPU cache.
WINDOWS_AT_ONCE = 8
METADATA = b"feltsound"  # key in the schema metadata of the shards
SHARD_NAME = re.compile(r"part-\d{5}\.parquet")
UNREADABLE = "unreadable.csv"
# Metadata that may differ from that of an existing shard: the same weights can have several names, and a shard whose
# recordings have changed is computed again.
MAY_CHANGE = ("encoder", "recordings")
FEATURES = Features(
    {
        "creative_id": Value(
            "string"
        ),  # id of the recording; the names of the columns are those of the attention task
        "target": Value("float32"),
        "synthetic": Value("bool"),
        "defects": List({name: Value("string") for name in ("what", "detail")}),
        "has_embeddings": Value("bool"),
        "embeddings_frames": Value("int32"),  # N
        "seconds": List(Value("float32")),  # (N,) start of each window, or middle of each frame, in s
        "embeddings": List(Value("float16")),  # (N * D,), flattened row by row
    }
)


@dataclass(frozen=True)
class Extraction:
    """The encoder and the output of one call of this program."""

    encoder: str
    revision: str | None
    layer: str
    output: Path

    def provenance(self) -> dict[str, Any]:
        """Return the facts that determine the embeddings, for the metadata of the shards."""
        loaded = encoder_once(self.encoder, self.revision)
        config, extractor = loaded.model.config, loaded.extractor
        return {
            "encoder": mask_secrets(self.encoder) if "@" in loaded.identity else Path(self.encoder).name,
            "identity": loaded.identity,
            "layer": self.layer,
            "size": config.hidden_size,
            "window_seconds": config.window_seconds,
            "hop_seconds": config.hop_seconds if self.layer == "window" else config.window_seconds,
            "sampling_rate": extractor.sampling_rate,
            "version": version("feltsound"),
        }


@torch.inference_mode()
def embed(encoder: Encoder, layer: str, blocks: Iterable[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return times (N,) in s and embeddings (N, D) of one recording.

    Args:
        layer: "window" for one embedding per window, at the hop of the encoder; "frames" for all frames of windows
            that follow each other without overlap.
        blocks: the recording in blocks (samples,) at the sampling rate of the encoder.
    """
    config, rate = encoder.model.config, encoder.extractor.sampling_rate
    size = round(config.window_seconds * rate)
    hop = round(config.hop_seconds * rate) if layer == "window" else size
    step = FRAMES_PER_EMBEDDING / encoder.extractor.frame_rate  # s
    times, embeddings, samples = [], [], 0

    def count_samples() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    for starts, windows in sliding_windows(count_samples(), size, hop, WINDOWS_AT_ONCE):
        states = encoder.base(**encoder.extractor(list(windows), sampling_rate=rate))
        for start, pooled, frames in zip(starts / rate, states.pooler_output, states.last_hidden_state, strict=True):
            seconds = start + step * np.arange(len(frames)) if layer == "frames" else np.array([start])
            # The last window ends at the end of the sound, so it overlaps the one before. Keep only its later frames.
            new = seconds > times[-1][-1] if times else np.ones(len(seconds), bool)
            if new.any():
                times.append(seconds[new])
                embeddings.append((frames if layer == "frames" else pooled[None]).numpy()[new].astype(np.float16))
    begins = np.concatenate(times)
    # A sound shorter than a window is padded with silence. Drop the frames that start after the end of the sound.
    count = max(int(np.searchsorted(begins, samples / rate)), 1)
    return begins[:count].astype(np.float32), np.concatenate(embeddings)[:count]


def embedding_cells(use: Extraction, recordings: Recordings, place: int, name: str) -> dict[str, Any]:
    """Return the cells of a row that are computed from the sound of a recording."""
    encoder = encoder_once(use.encoder, use.revision)
    try:
        times, embeddings = embed(encoder, use.layer, recordings.blocks(place, encoder.extractor.sampling_rate, name))
    except (AudioError, VideoError, OSError) as error:
        defect = {"what": "unreadable", "detail": printable(mask_secrets(str(error)))}
        return {"defects": [defect], "has_embeddings": False, "embeddings_frames": 0}
    numbers = {"embeddings_frames": len(times), "seconds": times, "embeddings": embeddings.ravel()}
    return {"defects": [], "has_embeddings": True} | numbers


@dataclass(frozen=True)
class Shard:
    """Recordings, and the Parquet file for their rows."""

    file: Path
    recordings: Recordings
    targets: list[float | None]
    metadata: dict[str, Any]  # provenance, and a digest of the recordings

    def write(self, use: Extraction) -> int:
        """Compute and write the rows; return their number."""
        # A worker process loads the encoder itself, so it has to check that the weights are still the same.
        if not use.provenance().items() <= self.metadata.items():
            raise ValueError(f"--encoder={use.encoder}: changed since the start. Restore it, or give a new --output.")
        schema, draft = FEATURES.arrow_schema, self.file.with_name(f".{self.file.name}.draft")
        schema = schema.with_metadata((schema.metadata or {}) | {METADATA: json.dumps(self.metadata).encode()})
        cells = list(zip(self.recordings.ids(), self.targets, self.recordings.synthetic(), strict=True))
        try:
            with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
                for first in range(0, len(cells), ROWS_PER_GROUP):
                    rows = [
                        {"creative_id": name, "target": target, "synthetic": synthetic}
                        | embedding_cells(use, self.recordings, place, name)
                        for place, (name, target, synthetic) in enumerate(cells[first : first + ROWS_PER_GROUP], first)
                    ]
                    writer.write_table(pa.Table.from_pylist(rows, schema))
            os.replace(draft, self.file)
        finally:
            draft.unlink(missing_ok=True)
        return len(cells)


def plan(use: Extraction, recordings: Recordings, targets: dict[str, float], rows_per_shard: int) -> list[Shard]:
    """Divide the recordings into shards."""
    provenance, shards = use.provenance(), []
    for number, first in enumerate(range(0, len(recordings), rows_per_shard)):
        part = recordings.part(first, rows_per_shard)
        ids = part.ids()
        part_targets = [targets.get(name) for name in ids]
        digest = hashlib.sha256(json.dumps([ids, part_targets, part.state()]).encode()).hexdigest()
        file = use.output / f"part-{number:05d}.parquet"
        shards.append(Shard(file, part, part_targets, provenance | {"recordings": digest}))
    return shards


def own_shards(output: Path) -> dict[Path, dict[str, Any]]:
    """Return the metadata of the shards in a folder; raise ValueError if another program wrote one of these files."""
    metadata = {}
    for file in sorted(output.glob("part-*.parquet")):
        if SHARD_NAME.fullmatch(file.name):
            try:
                metadata[file] = json.loads((pq.read_schema(file).metadata or {})[METADATA])
            except (pa.ArrowInvalid, KeyError, ValueError) as error:
                raise ValueError(
                    f"--output={output}: {file.name} was not written by this program. Give another folder."
                ) from error
    return metadata


def unfinished(shards: list[Shard], existing: dict[Path, dict[str, Any]]) -> list[Shard]:
    """Return the shards that are missing, or whose recordings have changed.

    Raises ValueError if an existing shard has another encoder or layer.
    """
    missing = []
    for shard in shards:
        written = existing.get(shard.file)
        for key in [key for key in shard.metadata if key not in MAY_CHANGE] if written else []:
            before, now = (written or {}).get(key), shard.metadata[key]
            if before != now:
                raise ValueError(f"{key}={now!r}: {shard.file} was written with {before!r}. Give another --output.")
        if written is None or written["recordings"] != shard.metadata["recordings"]:
            missing.append(shard)
    return missing


def read_targets(path: Path, ids: set[str]) -> dict[str, float]:
    """Read targets by id from a CSV file with the columns id and target."""
    targets: dict[str, float] = {}
    # utf-8-sig also reads the byte order mark that spreadsheet programs write.
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        if next(reader, None) != ["id", "target"]:
            raise ValueError(f"--targets={path}: line 1: must be the header id,target. Add it.")
        for row in reader:
            place = f"--targets={path}: line {reader.line_num}"
            try:
                name, value = row[0], float(row[1])
            except (IndexError, ValueError) as error:
                raise ValueError(f"{place}: expected an id and a number, got {','.join(row)}") from error
            if not math.isfinite(value) or name in targets or name not in ids:
                problem = "occurs twice" if name in targets else "has no finite target"
                problem = problem if name in ids else f"is not the id of a recording, such as {min(ids)}"
                raise ValueError(f"{place}: {name} {problem}.")
            targets[name] = value
    return targets


def main(argv: list[str]) -> None:
    """Write the missing shards, and list the unreadable recordings."""
    arguments = parse(argv)
    existing = own_shards(arguments.output)
    keep_freed_memory()
    recordings = find_recordings(arguments.input, arguments.dataset_config)
    use = Extraction(arguments.encoder, arguments.revision, arguments.layer, arguments.output)
    ids = collections.Counter(recordings.ids())
    if len(ids) < len(recordings):
        name = ids.most_common(1)[0][0]
        raise ValueError(f"--input={arguments.input}: {ids[name]} recordings have the id {name}. Ids must be unique.")
    targets = read_targets(arguments.targets, set(ids)) if arguments.targets else {}
    arguments.output.mkdir(parents=True, exist_ok=True)
    shards = plan(use, recordings, targets, arguments.rows_per_shard)
    missing = unfinished(shards, existing)
    with tqdm(total=len(recordings), desc="embedding", unit="recording") as bar:
        bar.update(len(recordings) - sum(len(shard.recordings) for shard in missing))
        for count in written_rows(missing, use, arguments.num_proc):
            bar.update(count)
    # With fewer recordings than before, shards of an earlier call are left over.
    for old in existing.keys() - {shard.file for shard in shards}:
        old.unlink()
    failed = list_unreadable(shards, arguments.output / UNREADABLE)
    print(
        f"{arguments.output}: {plural(len(recordings) - failed, 'recording')} in {plural(len(shards), 'shard')}, "
        f"{len(shards) - len(missing)} of which existed; {failed} unreadable"
        + (f", see {arguments.output / UNREADABLE}" if failed else "")
        + (f"; {len(recordings) - len(targets)} without a target" if targets else "")
    )


def _start_worker(threads: int) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)


def written_rows(shards: list[Shard], use: Extraction, num_proc: int) -> Iterator[int]:
    """Write shards in `num_proc` processes; yield the number of rows of each finished shard."""
    # Divide the threads over the processes. With all threads in each process, they would slow each other down.
    threads = max(1, torch.get_num_threads() // num_proc)
    jobs = [(shard, use) for shard in shards]
    for _, count in map_in_processes(Shard.write, jobs, num_proc, functools.partial(_start_worker, threads)):
        yield count


def list_unreadable(shards: list[Shard], path: Path) -> int:
    """Write a CSV file of the unreadable recordings with reasons, if there are any; return their number."""
    rows = []
    for shard in shards:
        table = pq.read_table(shard.file, columns=["creative_id", "defects"])
        rows += [
            (name, defects[0]["detail"]) for name, defects in zip(*table.to_pydict().values(), strict=True) if defects
        ]
    path.unlink(missing_ok=True)
    if rows:
        draft = path.with_name(f".{path.name}.draft")
        with open(draft, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(map(safe_row, [("id", "reason"), *rows]))
        os.replace(draft, path)
    return len(rows)


if __name__ == "__main__":
    with one_line_errors():
        main(sys.argv[1:])
