"""Write batches of prepared creatives, for those who want files of batches rather than Arrow.

    python -m hf_datasets.tunein.write_batches --data_dir s3://lab/prepared/tunein --output_dir s3://lab/batches

A command of its own beside `hf_datasets.prepare`: it reads the Parquet files that this made, so nothing raw is fetched
or unpickled again, and other batches of the same rows cost no other `prepare`. What is written:

    latest_embeddings/batch_{segment:05d}_{i:05d}.safetensors   segments count from 1, the batches of each from 0
    latest_embeddings/manifest.json                             last: what is in them, and which rows are in none

A batch holds `text` (B, 384), `video` (B, 512), `audio` and `back_audio` (frames of all creatives, width) with
`audio_lengths` and `back_audio_lengths` (B,) int32, `targets` (B,), and `present` (B, 4) bool, which says what of
text, video, audio and back_audio is real; its metadata `creative_ids` is a JSON list. Numbers are float32 and as
stored: nothing is normalised, nothing projected.

Segments are `segment_size` rows of the data in their order; no more than one of them is in memory. A run that was
stopped goes on when it is repeated: batches are functions of the rows and the settings, so those that lie there
already are told by their content (by their ETag on S3) and not written again, and all ends with the same bytes.
"""

import argparse
import fnmatch
import functools
import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from system.process import answer_at_once, give_back_freed_memory, one_line_errors
from system.text import plural

FOLDER, MANIFEST = "latest_embeddings", "manifest.json"
POLICIES = ("random", "zeros", "mean", "drop")


@dataclass(frozen=True)
class Settings:
    """What the batches depend on, beside the rows.

    `missing` says what stands for an embedding that is not there, always with `present` false: `random` is noise by
    seed, id and modality, `zeros` is zeros, `mean` the mean of those that are there (of their frames, for sounds), and
    with `drop` a creative that lacks one is left out. A sound that is made up has one frame.
    """

    batch_size: int = 16
    segment_size: int = 512  # rows
    missing: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "segment_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name} {getattr(self, name)}: give 1 or more")
        if self.missing not in POLICIES:
            raise ValueError(f"--missing {self.missing}: it takes one of {', '.join(POLICIES)}")


def parse(arguments: list[str] | None) -> tuple[str, str, Settings]:
    """The command line: where the data are, where the batches go, and what they depend on."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_datasets.tunein.write_batches",
        description="Write batches of prepared creatives as safetensors files, with a manifest.",
        formatter_class=functools.partial(argparse.ArgumentDefaultsHelpFormatter, width=119),
    )
    parser.add_argument(
        "--data_dir", metavar="FOLDER", default=str(Path(__file__).parent), help="prepared data, folder or s3:// URL"
    )
    parser.add_argument("--output_dir", metavar="FOLDER", required=True, help=f"folder or s3:// URL; gets {FOLDER}/")
    parser.add_argument("--batch_size", type=int, default=Settings.batch_size, help="creatives a batch")
    parser.add_argument("--segment_size", type=int, default=Settings.segment_size, help="rows in memory at once")
    parser.add_argument(
        "--missing", metavar="HOW", default=Settings.missing, help=f"embeddings not there: {', '.join(POLICIES)}"
    )
    parser.add_argument("--seed", type=int, default=Settings.seed, help="of the noise that `random` is")
    args = parser.parse_args(arguments)
    return args.data_dir, args.output_dir, Settings(args.batch_size, args.segment_size, args.missing, args.seed)


if __name__ == "__main__":
    answer_at_once(parse, "write_batches")
    give_back_freed_memory()  # before Arrow is imported

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import yaml
from tqdm import tqdm

from system.storage import S3FileManager

from ..output import Place, place, write_bytes
from .raw import MODALITIES, SOUNDS, VECTORS

WRITERS = 8  # batches on their way at once
COLUMNS = ["creative_id", "target", *MODALITIES, *(f"{kind}_frames" for kind in SOUNDS)]


def write_batches(data_dir: str | Path, output_dir: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Write the batches and the manifest, which is returned; ValueError for bad input."""
    settings = settings or Settings()
    files = data_files(place(data_dir, "--data_dir"))
    output = place(output_dir)
    output.make(FOLDER)
    with output.only_one(FOLDER):
        head = {"source": [file.rsplit("/", 1)[-1] for file in files], **asdict(settings)}
        _forget_other(output, head)
        standins = survey(files, settings.missing)
        there = output.digests(FOLDER)
        batches: list[dict] = []
        dropped: list[dict] = []
        with tqdm(desc="writing", unit="segment", delay=1) as bar:
            for number, segment in enumerate(read_segments(files, settings.segment_size), start=1):
                kept, out = _keep(segment, settings.missing)
                dropped += out
                batches += _write_segment(output, number, kept, standins, settings, there)
                del segment, kept  # before the next one is read
                bar.update()
        if not batches:
            raise ValueError(
                f"{data_dir}: no creative can be in a batch; {len(dropped)} are left out, see defects.csv"
            )
        manifest = head | {
            "creatives": sum(len(batch["creative_ids"]) for batch in batches),
            "missing_counts": {kind: sum(batch["missing"][kind] for batch in batches) for kind in MODALITIES},
            "batches": batches,
            "dropped": dropped,
        }
        write_bytes(output, f"{FOLDER}/{MANIFEST}", (json.dumps(manifest, indent=1) + "\n").encode())
        names = {f"{FOLDER}/{batch['file']}" for batch in batches}
        output.remove(name for name in there if name.endswith(".safetensors") and name not in names)
    return manifest


def data_files(source: Place) -> list[str]:
    """Paths or URLs of the Parquet files that `load_dataset` would serve from a prepared folder, in their order."""
    text = source.read_text(".huggingface.yaml")
    if text is None:
        text = (source.read_text("README.md") or "").removeprefix("---\n").partition("\n---\n")[0]
    configs = (yaml.safe_load(text) or {}).get("configs") or []
    served = [config for config in configs if config.get("default")] or configs[:1]
    found = [
        name
        for config in served
        for file in config["data_files"]
        for name in sorted(source.sizes(file["path"].rpartition("/")[0]))
        if fnmatch.fnmatchcase(name, file["path"])
    ]
    if not found:
        raise ValueError(
            f"--data_dir {source} holds no prepared creatives; run python -m hf_datasets.prepare tunein --raw_dir "
            f"FOLDER --output_dir {source}"
        )
    return [source.where(name) for name in found]


def read_segments(files: list[str], size: int, columns: list[str] = COLUMNS) -> Iterator[pa.Table]:
    """The rows, `size` at a time; each file is fetched once, the next one ahead."""
    manager = S3FileManager.shared()
    held: pa.Table | None = None
    for i, file in enumerate(files):
        manager.prefetch_files(files[i : i + 2])
        with manager.lease(file) as path:
            for batch in pq.ParquetFile(path).iter_batches(batch_size=min(size, 64), columns=columns):
                rows = pa.Table.from_batches([batch])
                held = rows if held is None else pa.concat_tables([held, rows])
                del batch, rows
                while len(held) >= size:
                    segment, held = held.slice(0, size), held.slice(size)
                    yield segment
                    del segment
    if held is not None and len(held):
        yield held


def survey(files: list[str], missing: str) -> dict[str, np.ndarray]:
    """The mean of each modality, (width,): what `mean` fills in; for the others only its width is looked for."""
    sums: dict[str, np.ndarray] = {}
    counts = dict.fromkeys(MODALITIES, 0)
    for table in read_segments(files, 64, [name for name in COLUMNS if name not in ("creative_id", "target")]):
        for kind in MODALITIES:
            frames = Frames(table, kind).all()
            if len(frames):
                sums[kind] = sums.get(kind, 0.0) + frames.sum(axis=0, dtype=np.float64)
                counts[kind] += len(frames)
        if missing != "mean" and len(sums) == len(MODALITIES):
            break
    absent = [kind for kind in MODALITIES if kind not in sums]
    if absent:
        raise ValueError(
            f"no creative has {' or '.join(absent)}, so its width is not known; see missed_embeddings.csv"
        )
    return {kind: (sums[kind] / counts[kind]).astype(np.float32) for kind in MODALITIES}


class Frames:
    """One modality of some rows: `frames[row]` is (frames, width) float32, (1, width) of text and video, or None."""

    def __init__(self, table: pa.Table, kind: str) -> None:
        column = table[kind].combine_chunks()
        self.values, self.offsets = column.values.to_numpy(), column.offsets.to_numpy()
        self.there = column.is_valid().to_numpy(zero_copy_only=False)
        self.counts = table[f"{kind}_frames"].to_numpy() if kind in SOUNDS else self.there.astype(np.int32)

    def __getitem__(self, row: int) -> np.ndarray | None:
        if not self.there[row]:
            return None
        return self.values[self.offsets[row] : self.offsets[row + 1]].reshape(self.counts[row], -1)

    def all(self) -> np.ndarray:
        """The frames of all rows, (frames, width); of no width where there are none."""
        found = [self[row] for row in np.flatnonzero(self.there)]
        return np.concatenate(found) if found else np.empty((0, 0), np.float32)


def _forget_other(output: Place, head: dict[str, Any]) -> None:
    """Take away the manifest of other batches: while these are written none says that they are whole."""
    text = output.read_text(f"{FOLDER}/{MANIFEST}")
    if text is not None:
        try:
            old = json.loads(text)
        except ValueError:
            old = {}
        if {name: old.get(name) for name in head} != head:
            output.remove([f"{FOLDER}/{MANIFEST}"])


def _keep(segment: pa.Table, missing: str) -> tuple[pa.Table, list[dict]]:
    """The rows that go into batches, and why the others do not."""
    lacks = {"target": segment["target"].is_null().to_numpy()}
    if missing == "drop":
        lacks |= {kind: segment[kind].is_null().to_numpy() for kind in MODALITIES}
    out = np.logical_or.reduce(list(lacks.values()))
    if not out.any():
        return segment, []
    ids = segment["creative_id"].to_pylist()
    dropped = [
        {"id": ids[row], "lacks": [name for name, none in lacks.items() if none[row]]} for row in np.flatnonzero(out)
    ]
    return segment.filter(pa.array(~out)), dropped


def _write_segment(
    output: Place,
    number: int,
    rows: pa.Table,
    standins: dict[str, np.ndarray],
    settings: Settings,
    there: dict[str, str],
) -> list[dict]:
    """Write the batches of one segment that do not lie there yet; returns what the manifest says of all."""
    entries = []
    with ThreadPoolExecutor(WRITERS) as pool:
        writing = []
        for i, start in enumerate(range(0, len(rows), settings.batch_size)):
            name = f"batch_{number:05d}_{i:05d}.safetensors"
            ids, tensors = make_batch(rows.slice(start, settings.batch_size), standins, settings)
            data = safetensors.numpy.save(tensors, {"creative_ids": json.dumps(ids)})
            absent = (~tensors["present"]).sum(axis=0)
            entries.append(
                {
                    "file": name,
                    "bytes": len(data),
                    "sha256": hashlib.sha256(data).hexdigest(),
                    "creative_ids": ids,
                    "missing": dict(zip(MODALITIES, map(int, absent), strict=True)),
                    "tensors": {
                        key: {"shape": list(value.shape), "dtype": str(value.dtype)} for key, value in tensors.items()
                    },
                }
            )
            if there.get(f"{FOLDER}/{name}") != hashlib.md5(data, usedforsecurity=False).hexdigest():
                writing.append(pool.submit(write_bytes, output, f"{FOLDER}/{name}", data))
        for done in writing:
            done.result()
    return entries


def make_batch(
    rows: pa.Table, standins: dict[str, np.ndarray], settings: Settings
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Ids and tensors of one batch; see the module's docstring."""
    ids = rows["creative_id"].to_pylist()
    tensors: dict[str, np.ndarray] = {}
    present = np.zeros((len(ids), len(MODALITIES)), bool)
    for place_, kind in enumerate(MODALITIES):
        found = Frames(rows, kind)
        present[:, place_] = found.there
        parts = [
            found[row] if found.there[row] else standin(kind, name, standins[kind], settings)
            for row, name in enumerate(ids)
        ]
        tensors[kind] = np.concatenate(parts)
        if kind not in VECTORS:
            tensors[f"{kind}_lengths"] = np.array([len(part) for part in parts], np.int32)
    tensors["targets"] = rows["target"].to_numpy().astype(np.float32)
    tensors["present"] = present
    return ids, tensors


def standin(kind: str, name: str, mean: np.ndarray, settings: Settings) -> np.ndarray:
    """What stands for an embedding that is not there, (1, width)."""
    if settings.missing == "zeros":
        return np.zeros((1, len(mean)), np.float32)
    if settings.missing == "mean":
        return mean[None]
    key = json.dumps([settings.seed, name, kind]).encode()
    noise = np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
    return noise.standard_normal((1, len(mean)), dtype=np.float32)


def main(arguments: list[str] | None = None) -> None:
    """The command line; bad input ends in one line on stderr and exit code 1."""
    with one_line_errors("write_batches", "stopped. Finished batches are kept: run this again to continue."):
        manifest = write_batches(*parse(arguments))
    absent = ", ".join(f"{kind} {count:,}" for kind, count in manifest["missing_counts"].items())
    print(
        f"{plural(manifest['creatives'], 'creative')} in {plural(len(manifest['batches']), 'batch', 'batches')}; "
        f"made up: {absent}"
    )
    print(f"in none: {plural(len(manifest['dropped']), 'creative')}; {FOLDER}/{MANIFEST} names them")


if __name__ == "__main__":
    main()
