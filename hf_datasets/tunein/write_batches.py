"""Write prepared creatives as safetensors files, one per training batch, with a manifest.

    python -m hf_datasets.tunein.write_batches --data_dir s3://lab/prepared/tunein --output_dir s3://lab/batches

It reads the Parquet files that `hf_datasets.prepare` wrote, so other batches of the same rows do not need another
`prepare`. The output is:

    latest_embeddings/batch_{segment:05d}_{i:05d}.safetensors   segments count from 1, the batches of each from 0
    latest_embeddings/manifest.json                             written last; lists the batches and the rows in none

A batch has `text` (B, 384), `video` (B, 512), `audio` and `back_audio` (frames of all creatives, width), their numbers
of frames `audio_lengths` and `back_audio_lengths` (B,) int32, `targets` (B,), and `present` (B, 4) bool, False for a
text, video, audio or back_audio that was filled in. Its metadata `creative_ids` is a JSON list. Numbers are float32,
as stored, neither normalized nor projected.

A segment is `segment_size` consecutive rows, and one segment is in memory at a time. An interrupted run continues when
it is repeated: batches depend only on the rows and settings, so existing files with the right content (by ETag on S3)
are kept, and the result has the same bytes.
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

from system.process import one_line_errors, parse_before_imports, return_freed_memory
from system.text import plural

FOLDER, MANIFEST = "latest_embeddings", "manifest.json"
POLICIES = ("random", "zeros", "mean", "drop")


@dataclass(frozen=True)
class Settings:
    """Settings on which the batches depend.

    `missing` selects how a missing embedding is filled in (with `present` False; a sound gets one frame): `random` is
    noise that depends on seed, id and modality, `zeros` is zeros, and `mean` is the mean of the existing embeddings,
    or of their frames. `drop` leaves out creatives that lack an embedding.
    """

    batch_size: int = 16
    segment_size: int = 512  # rows
    missing: str = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "segment_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"--{name}={getattr(self, name)}: must be at least 1. Give a positive number.")
        if self.missing not in POLICIES:
            raise ValueError(f"--missing={self.missing}: unknown. Choose one of {', '.join(POLICIES)}.")


def parse(arguments: list[str] | None) -> tuple[str, str, Settings]:
    """Return --data_dir, --output_dir and the settings."""
    parser = argparse.ArgumentParser(
        prog="python -m hf_datasets.tunein.write_batches",
        description="Write batches of prepared creatives as safetensors files, with a manifest.",
        formatter_class=functools.partial(argparse.ArgumentDefaultsHelpFormatter, width=119),
    )
    parser.add_argument(
        "--data_dir", metavar="FOLDER", default=str(Path(__file__).parent), help="prepared data, folder or s3:// URL"
    )
    parser.add_argument(
        "--output_dir", metavar="FOLDER", required=True, help=f"folder or s3:// URL in which {FOLDER}/ is created"
    )
    parser.add_argument("--batch_size", type=int, default=Settings.batch_size, help="creatives per batch")
    parser.add_argument("--segment_size", type=int, default=Settings.segment_size, help="rows in memory at once")
    parser.add_argument(
        "--missing",
        metavar="HOW",
        default=Settings.missing,
        help=f"how to fill in missing embeddings: {', '.join(POLICIES)}",
    )
    parser.add_argument("--seed", type=int, default=Settings.seed, help="seed of the noise of `random`")
    args = parser.parse_args(arguments)
    return args.data_dir, args.output_dir, Settings(args.batch_size, args.segment_size, args.missing, args.seed)


if __name__ == "__main__":
    # Wrong arguments and --help are answered before the imports below, which take seconds.
    parse_before_imports(parse, "write_batches")
    return_freed_memory()  # has to run before Arrow is imported, which chooses its allocator then

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors.numpy
import yaml
from tqdm import tqdm

from system.storage import S3FileManager

from ..output import Location, open_location, write_bytes
from .raw import MODALITIES, SOUNDS, VECTORS

WRITERS = 8  # threads that write or upload batches
COLUMNS = ["creative_id", "target", *MODALITIES, *(f"{kind}_frames" for kind in SOUNDS)]


def write_batches(data_dir: str | Path, output_dir: str | Path, settings: Settings | None = None) -> dict[str, Any]:
    """Write the batches and the manifest, and return the manifest; ValueError for bad input."""
    settings = settings or Settings()
    files = data_files(open_location(data_dir, "--data_dir"))
    output = open_location(output_dir)
    output.make(FOLDER)
    with output.exclusive(FOLDER):
        head = {"source": [file.rsplit("/", 1)[-1] for file in files], **asdict(settings)}
        _remove_outdated_manifest(output, head)
        means = modality_means(files, settings.missing)
        existing = output.digests(FOLDER)
        batches: list[dict] = []
        dropped: list[dict] = []
        with tqdm(desc="writing", unit="segment", delay=1) as bar:
            for number, segment in enumerate(read_segments(files, settings.segment_size), start=1):
                rows, dropped_rows = _drop_unusable(segment, settings.missing)
                dropped += dropped_rows
                batches += _write_segment(output, number, rows, means, settings, existing)
                del segment, rows  # frees them before the next segment is read
                bar.update()
        if not batches:
            raise ValueError(
                f"{data_dir}: no creative fits into a batch, {len(dropped)} are left out. See defects.csv for the "
                "reasons."
            )
        manifest = head | {
            "creatives": sum(len(batch["creative_ids"]) for batch in batches),
            "missing_counts": {kind: sum(batch["missing"][kind] for batch in batches) for kind in MODALITIES},
            "batches": batches,
            "dropped": dropped,
        }
        write_bytes(output, f"{FOLDER}/{MANIFEST}", (json.dumps(manifest, indent=1) + "\n").encode())
        names = {f"{FOLDER}/{batch['file']}" for batch in batches}
        output.remove(name for name in existing if name.endswith(".safetensors") and name not in names)
    return manifest


def data_files(source: Location) -> list[str]:
    """Return the paths or URLs of the Parquet files of a prepared folder, in the order of `load_dataset`."""
    text = source.read_text(".huggingface.yaml")
    if text is None:
        text = (source.read_text("README.md") or "").removeprefix("---\n").partition("\n---\n")[0]
    configs = (yaml.safe_load(text) or {}).get("configs") or []
    default_configs = [config for config in configs if config.get("default")] or configs[:1]
    names = [
        name
        for config in default_configs
        for file in config["data_files"]
        for name in sorted(source.sizes(file["path"].rpartition("/")[0]))
        if fnmatch.fnmatchcase(name, file["path"])
    ]
    if not names:
        raise ValueError(
            f"--data_dir={source}: no prepared creatives. Run python -m hf_datasets.prepare tunein --raw_dir FOLDER "
            f"--output_dir {source}"
        )
    return [source.where(name) for name in names]


def read_segments(files: list[str], size: int, columns: list[str] = COLUMNS) -> Iterator[pa.Table]:
    """Yield `size` rows at a time. Each file is downloaded once, and the next one is prefetched."""
    manager = S3FileManager.shared()
    pending: pa.Table | None = None
    for i, file in enumerate(files):
        manager.prefetch_files(files[i : i + 2])
        with manager.lease(file) as path:
            # Small batches, because `pending` can have one more than a segment.
            for batch in pq.ParquetFile(path).iter_batches(batch_size=min(size, 64), columns=columns):
                rows = pa.Table.from_batches([batch])
                pending = rows if pending is None else pa.concat_tables([pending, rows])
                del batch, rows  # these names would keep their memory while the caller uses a segment
                while len(pending) >= size:
                    segment, pending = pending.slice(0, size), pending.slice(size)
                    yield segment
                    del segment
    if pending is not None and len(pending):
        yield pending


def modality_means(files: list[str], missing: str) -> dict[str, np.ndarray]:
    """Return the mean (width,) of each modality; for settings other than `mean`, of the first rows, for the width."""
    sums: dict[str, np.ndarray] = {}
    counts = dict.fromkeys(MODALITIES, 0)
    for table in read_segments(files, 64, [name for name in COLUMNS if name not in ("creative_id", "target")]):
        for kind in MODALITIES:
            frames = Frames(table, kind).all()
            if len(frames):
                sums[kind] = sums.get(kind, 0.0) + frames.sum(axis=0, dtype=np.float64)
                counts[kind] += len(frames)
        if missing != "mean" and len(sums) == len(MODALITIES):
            break  # the widths are known, and the means are not used
    absent = [kind for kind in MODALITIES if kind not in sums]
    if absent:
        raise ValueError(
            f"no creative has {' or '.join(absent)}, so its width is unknown. See missed_embeddings.csv for reasons."
        )
    return {kind: (sums[kind] / counts[kind]).astype(np.float32) for kind in MODALITIES}


class Frames:
    """One modality of a table: `frames[row]` is (frames, width) float32, (1, width) for text and video, or None."""

    def __init__(self, table: pa.Table, kind: str) -> None:
        column = table[kind].combine_chunks()
        self.values, self.offsets = column.values.to_numpy(), column.offsets.to_numpy()
        self.present = column.is_valid().to_numpy(zero_copy_only=False)
        self.counts = table[f"{kind}_frames"].to_numpy() if kind in SOUNDS else self.present.astype(np.int32)

    def __getitem__(self, row: int) -> np.ndarray | None:
        if not self.present[row]:
            return None
        return self.values[self.offsets[row] : self.offsets[row + 1]].reshape(self.counts[row], -1)

    def all(self) -> np.ndarray:
        """Return the frames of all rows, (frames, width); (0, 0) if there are none."""
        frames = [self[row] for row in np.flatnonzero(self.present)]
        return np.concatenate(frames) if frames else np.empty((0, 0), np.float32)


def _remove_outdated_manifest(output: Location, head: dict[str, Any]) -> None:
    """Remove a manifest of other rows or settings, which would be wrong while the new batches are written."""
    text = output.read_text(f"{FOLDER}/{MANIFEST}")
    if text is not None:
        try:
            old = json.loads(text)
        except ValueError:
            old = {}
        if {name: old.get(name) for name in head} != head:
            output.remove([f"{FOLDER}/{MANIFEST}"])


def _drop_unusable(segment: pa.Table, missing: str) -> tuple[pa.Table, list[dict]]:
    """Return the rows for batches, and the manifest's entries of the other rows."""
    lacks = {"target": segment["target"].is_null().to_numpy()}
    if missing == "drop":
        lacks |= {kind: segment[kind].is_null().to_numpy() for kind in MODALITIES}
    unusable = np.logical_or.reduce(list(lacks.values()))
    if not unusable.any():
        return segment, []
    ids = segment["creative_id"].to_pylist()
    dropped = [
        {"id": ids[row], "lacks": [name for name, is_missing in lacks.items() if is_missing[row]]}
        for row in np.flatnonzero(unusable)
    ]
    return segment.filter(pa.array(~unusable)), dropped


def _write_segment(
    output: Location,
    number: int,
    rows: pa.Table,
    means: dict[str, np.ndarray],
    settings: Settings,
    existing: dict[str, str],
) -> list[dict]:
    """Write the batches of a segment, except existing ones, and return the manifest's entries of all of them."""
    entries = []
    with ThreadPoolExecutor(WRITERS) as pool:
        writing = []
        for i, start in enumerate(range(0, len(rows), settings.batch_size)):
            name = f"batch_{number:05d}_{i:05d}.safetensors"
            ids, tensors = make_batch(rows.slice(start, settings.batch_size), means, settings)
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
            # MD5, because it is the ETag of an S3 object that was uploaded in one piece.
            if existing.get(f"{FOLDER}/{name}") != hashlib.md5(data, usedforsecurity=False).hexdigest():
                writing.append(pool.submit(write_bytes, output, f"{FOLDER}/{name}", data))
        for future in writing:
            future.result()  # raises the error of the write
    return entries


def make_batch(
    rows: pa.Table, means: dict[str, np.ndarray], settings: Settings
) -> tuple[list[str], dict[str, np.ndarray]]:
    """Return the ids and the tensors of a batch; the module's docstring has their shapes."""
    ids = rows["creative_id"].to_pylist()
    tensors: dict[str, np.ndarray] = {}
    present = np.zeros((len(ids), len(MODALITIES)), bool)
    for column, kind in enumerate(MODALITIES):
        frames = Frames(rows, kind)
        present[:, column] = frames.present
        parts = [
            frames[row] if frames.present[row] else substitute(kind, name, means[kind], settings)
            for row, name in enumerate(ids)
        ]
        tensors[kind] = np.concatenate(parts)
        if kind not in VECTORS:
            tensors[f"{kind}_lengths"] = np.array([len(part) for part in parts], np.int32)
    tensors["targets"] = rows["target"].to_numpy().astype(np.float32)
    tensors["present"] = present
    return ids, tensors


def substitute(kind: str, name: str, mean: np.ndarray, settings: Settings) -> np.ndarray:
    """Return the value of a missing embedding, (1, width)."""
    if settings.missing == "zeros":
        return np.zeros((1, len(mean)), np.float32)
    if settings.missing == "mean":
        return mean[None]
    # Seeded by creative and modality, so that the noise does not depend on the batch size or on other rows.
    key = json.dumps([settings.seed, name, kind]).encode()
    noise = np.random.default_rng(int.from_bytes(hashlib.blake2b(key, digest_size=16).digest()))
    return noise.standard_normal((1, len(mean)), dtype=np.float32)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; bad input exits with one line on stderr and code 1."""
    with one_line_errors("write_batches", "stopped. Finished batches are kept: run this again to continue."):
        manifest = write_batches(*parse(arguments))
    absent = ", ".join(f"{kind} {count:,}" for kind, count in manifest["missing_counts"].items())
    print(
        f"{plural(manifest['creatives'], 'creative')} in {plural(len(manifest['batches']), 'batch', 'batches')}; "
        f"filled in: {absent}"
    )
    print(f"left out: {plural(len(manifest['dropped']), 'creative')}, listed in {FOLDER}/{MANIFEST}")


if __name__ == "__main__":
    main()
