"""Embeddings of recordings by a pretrained encoder, as Parquet that `datasets` and the attention task read.

python -m launch.extract --encoder efficientat_mn04_as --input sounds/ --output embeddings/
python -m launch.extract --encoder efficientat_mn04_as --input hf_datasets/pmemo --output embeddings/ --layer frames
python -m launch.extract --encoder efficientat_mn04_as --input ads/ --output embeddings/ --targets attention.csv
run_train.py configs/tunein_attention.json --dataset embeddings/ --model_config.modalities '["embeddings"]'

A row is a recording. One that cannot be read has no embeddings, but the reason. A shard gets its name when it is
whole, so that a command that was stopped continues where it was. The encoder runs on the CPU, on which all shards of
an output come out the same.
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
ROWS_PER_SHARD, ROWS_PER_GROUP = 256, 16


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m launch.extract",
        description="Embeddings of recordings by a pretrained encoder, on the CPU.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--encoder", required=True, help="A folder, a published file, a short name, or a Hub name.")
    parser.add_argument("--revision", default=None, help="Of a Hub name: a commit or tag.")
    parser.add_argument("--input", required=True, help="A folder of sounds, or a data set of sounds or clips.")
    parser.add_argument("--dataset_config", default=None, help="Of a data set, such as `sample`.")
    parser.add_argument("--output", required=True, type=Path, help="The folder of the Parquet files.")
    parser.add_argument("--layer", default="window", choices=LAYERS, help="One embedding a window, or every 0.32 s.")
    parser.add_argument("--targets", default=None, type=Path, help="csv with id,target, for the attention task.")
    parser.add_argument("--rows_per_shard", default=ROWS_PER_SHARD, type=int, help="Recordings a file.")
    parser.add_argument("--num_proc", default=1, type=int, help="Processes.")
    arguments = parser.parse_args(argv)
    for name in ("rows_per_shard", "num_proc"):
        if getattr(arguments, name) < 1:
            raise ValueError(f"--{name}={getattr(arguments, name)}: too few. Give 1 or more.")
    check_front_end("--encoder", arguments.encoder)
    folder = Path(arguments.input)
    if folder.is_dir() and arguments.output.resolve().is_relative_to(folder.resolve()):
        raise ValueError(f"--output={arguments.output}: in --input, where it would be read. Name a folder elsewhere.")
    return arguments


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

# N embeddings of a recording, D numbers of one

WINDOWS_AT_ONCE = 8  # of one recording, whose embeddings so depend on no other; more fit a processor's cache less
METADATA = b"feltsound"  # key of the shards' schema metadata
SHARD_NAME = re.compile(r"part-\d{5}\.parquet")
UNREADABLE = "unreadable.csv"
FREE_TO_CHANGE = ("encoder", "recordings")  # a name of the same weights; recordings that changed are embedded again
FEATURES = Features(
    {
        "creative_id": Value("string"),  # the id of the recording; the attention task reads columns of these names
        "target": Value("float32"),
        "synthetic": Value("bool"),
        "defects": List({name: Value("string") for name in ("what", "detail")}),
        "has_embeddings": Value("bool"),
        "embeddings_frames": Value("int32"),  # N
        "seconds": List(Value("float32")),  # (N,) when each window begins, or the middle of each frame
        "embeddings": List(Value("float16")),  # (N * D,), one after the other
    }
)


@dataclass(frozen=True)
class Extraction:
    """What is written, where, and by which encoder."""

    encoder: str
    revision: str | None
    layer: str
    output: Path

    def provenance(self) -> dict[str, Any]:
        """Where the numbers of the shards come from."""
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
    """Times (N,) in seconds and embeddings (N, D) of a recording (blocks of samples), by the windows of its encoder.

    Windows overlap by the encoder's hop. Of frames, windows follow one another; the last one ends where the sound
    does, and of its frames those that are later than all before are kept. A sound shorter than a window has no frames
    of the silence after it.
    """
    config, rate = encoder.model.config, encoder.extractor.sampling_rate
    size = round(config.window_seconds * rate)
    hop = round(config.hop_seconds * rate) if layer == "window" else size
    step = FRAMES_PER_EMBEDDING / encoder.extractor.frame_rate  # s
    times, found, samples = [], [], 0

    def counted() -> Iterator[np.ndarray]:
        nonlocal samples
        for block in blocks:
            samples += len(block)
            yield block

    for starts, windows in sliding_windows(counted(), size, hop, WINDOWS_AT_ONCE):
        states = encoder.base(**encoder.extractor(list(windows), sampling_rate=rate))
        for start, pooled, frames in zip(starts / rate, states.pooler_output, states.last_hidden_state, strict=True):
            seconds = start + step * np.arange(len(frames)) if layer == "frames" else np.array([start])
            new = seconds > times[-1][-1] if times else np.ones(len(seconds), bool)
            if new.any():
                times.append(seconds[new])
                found.append((frames if layer == "frames" else pooled[None]).numpy()[new].astype(np.float16))
    begins = np.concatenate(times)
    count = max(int(np.searchsorted(begins, samples / rate)), 1)  # of those that begin before the sound ends
    return begins[:count].astype(np.float32), np.concatenate(found)[:count]


def embedding_cells(use: Extraction, recordings: Recordings, place: int, name: str) -> dict[str, Any]:
    """The cells of a row that follow from the sound of a recording."""
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
    """Some recordings, and the file that their rows are written to."""

    file: Path
    recordings: Recordings
    targets: list[float | None]
    metadata: dict[str, Any]  # provenance, and a digest of the recordings

    def write(self, use: Extraction) -> int:
        """Write the rows; returns how many. A worker loads the encoder itself, which may have changed by then."""
        if not use.provenance().items() <= self.metadata.items():
            raise ValueError(f"--encoder={use.encoder}: changed since the start. Restore it, or take a new --output.")
        schema, draft = FEATURES.arrow_schema, self.file.with_name(f".{self.file.name}.draft")
        schema = schema.with_metadata((schema.metadata or {}) | {METADATA: json.dumps(self.metadata).encode()})
        known = list(zip(self.recordings.ids(), self.targets, self.recordings.synthetic(), strict=True))
        try:
            with pq.ParquetWriter(draft, schema, compression="zstd") as writer:
                for first in range(0, len(known), ROWS_PER_GROUP):
                    rows = [
                        {"creative_id": name, "target": target, "synthetic": synthetic}
                        | embedding_cells(use, self.recordings, place, name)
                        for place, (name, target, synthetic) in enumerate(known[first : first + ROWS_PER_GROUP], first)
                    ]
                    writer.write_table(pa.Table.from_pylist(rows, schema))
            os.replace(draft, self.file)
        finally:
            draft.unlink(missing_ok=True)
        return len(known)


def plan(use: Extraction, recordings: Recordings, targets: dict[str, float], rows_per_shard: int) -> list[Shard]:
    """The shards of an output."""
    provenance, shards = use.provenance(), []
    for number, first in enumerate(range(0, len(recordings), rows_per_shard)):
        part = recordings.part(first, rows_per_shard)
        ids = part.ids()
        wanted = [targets.get(name) for name in ids]
        digest = hashlib.sha256(json.dumps([ids, wanted, part.state()]).encode()).hexdigest()
        file = use.output / f"part-{number:05d}.parquet"
        shards.append(Shard(file, part, wanted, provenance | {"recordings": digest}))
    return shards


def own_shards(output: Path) -> dict[Path, dict[str, Any]]:
    """The shards in a folder, with their metadata; another program's file of a shard's name is refused."""
    found = {}
    for file in sorted(output.glob("part-*.parquet")):
        if SHARD_NAME.fullmatch(file.name):
            try:
                found[file] = json.loads((pq.read_schema(file).metadata or {})[METADATA])
            except (pa.ArrowInvalid, KeyError, ValueError) as error:
                raise ValueError(
                    f"--output={output}: {file.name} was not written by this program. Name another folder."
                ) from error
    return found


def unfinished(shards: list[Shard], there: dict[Path, dict[str, Any]]) -> list[Shard]:
    """The shards that are not there yet, or whose recordings changed; one of another encoder or layer is refused."""
    missing = []
    for shard in shards:
        written = there.get(shard.file)
        for key in [key for key in shard.metadata if key not in FREE_TO_CHANGE] if written else []:
            before, now = (written or {}).get(key), shard.metadata[key]
            if before != now:
                raise ValueError(f"{shard.file}: {key} is {before!r} there, and {now!r} now. Name another --output.")
        if written is None or written["recordings"] != shard.metadata["recordings"]:
            missing.append(shard)
    return missing


def read_targets(path: Path, ids: set[str]) -> dict[str, float]:
    """Targets by id, from a csv with the columns id and target."""
    targets: dict[str, float] = {}
    with open(path, newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, strict=True)
        if next(reader, None) != ["id", "target"]:
            raise ValueError(f"--targets={path}: its first line is not id,target.")
        for row in reader:
            place = f"--targets={path}: line {reader.line_num}"
            try:
                name, value = row[0], float(row[1])
            except (IndexError, ValueError) as error:
                raise ValueError(f"{place}: not an id and a number: {','.join(row)}") from error
            if not math.isfinite(value) or name in targets or name not in ids:
                reason = "is there twice" if name in targets else "has no finite target"
                reason = reason if name in ids else "is not the id of a recording, such as " + min(ids)
                raise ValueError(f"{place}: {name} {reason}.")
            targets[name] = value
    return targets


def main(argv: list[str]) -> None:
    """Plan the shards, write those that are missing, list what could not be read."""
    arguments = parse(argv)
    there = own_shards(arguments.output)
    keep_freed_memory()
    recordings = find_recordings(arguments.input, arguments.dataset_config)
    use = Extraction(arguments.encoder, arguments.revision, arguments.layer, arguments.output)
    ids = collections.Counter(recordings.ids())
    if len(ids) < len(recordings):
        name = ids.most_common(1)[0][0]
        raise ValueError(f"--input={arguments.input}: {ids[name]} recordings have the id {name}. Name them apart.")
    targets = read_targets(arguments.targets, set(ids)) if arguments.targets else {}
    arguments.output.mkdir(parents=True, exist_ok=True)
    shards = plan(use, recordings, targets, arguments.rows_per_shard)
    missing = unfinished(shards, there)
    with tqdm(total=len(recordings), desc="embedding", unit="recording") as bar:
        bar.update(len(recordings) - sum(len(shard.recordings) for shard in missing))
        for count in written_rows(missing, use, arguments.num_proc):
            bar.update(count)
    for old in there.keys() - {shard.file for shard in shards}:
        old.unlink()
    failed = list_unreadable(shards, arguments.output / UNREADABLE)
    print(
        f"{arguments.output}: {plural(len(recordings) - failed, 'recording')} in {plural(len(shards), 'shard')}, "
        f"{len(shards) - len(missing)} of which were there; {failed} unreadable"
        + (f", see {arguments.output / UNREADABLE}" if failed else "")
        + (f"; {len(recordings) - len(targets)} without a target" if targets else "")
    )


def _start_worker(threads: int) -> None:
    keep_freed_memory()
    torch.set_num_threads(threads)


def written_rows(shards: list[Shard], use: Extraction, num_proc: int) -> Iterator[int]:
    """Write shards, in several processes; gives how many rows each has."""
    threads = max(1, torch.get_num_threads() // num_proc)
    jobs = [(shard, use) for shard in shards]
    for _, count in map_in_processes(Shard.write, jobs, num_proc, functools.partial(_start_worker, threads)):
        yield count


def list_unreadable(shards: list[Shard], path: Path) -> int:
    """A csv of the recordings without embeddings, with the reason, if there are any; returns how many."""
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
