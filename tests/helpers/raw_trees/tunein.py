"""A small raw tree of TuneIn whose values tell which creative they belong to, its rows and its batches."""

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy

from hf_datasets.prepare import main as prepare_main
from hf_datasets.tunein.raw import MODALITIES
from hf_datasets.tunein.synthesize import dump, index_cell

WIDTH = 8  # of the small trees' sounds


def prepare(raw: Path, output: Path, *options: str) -> list[dict]:
    """Prepare a raw tree by the command, and return its rows."""
    prepare_main(["tunein", "--raw_dir", str(raw), "--output_dir", str(output), *options])
    return rows_of(output)


def rows_of(output: Path) -> list[dict]:
    return [row for path in sorted((output / "data").glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def missed(output: Path) -> list[list[str]]:
    header, *lines = (output / "missed_embeddings.csv").read_text().splitlines()
    assert header == "id,modality,reason,batch"
    return [line.split(",") for line in lines]


def vector(name: str, kind: str, width: int = WIDTH) -> np.ndarray:
    """Return an embedding whose value tells its creative and its modality."""
    return np.full((1, width), float(name) + MODALITIES.index(kind) / 8, np.float32)


def sound(name: str, kind: str) -> np.ndarray:
    frames = 1 + int(name) % 3
    return np.repeat(vector(name, kind), frames, axis=0) + np.arange(frames, dtype=np.float32)[:, None] / 32


class Tree:
    """A small raw tree whose files can be changed before they are written."""

    def __init__(self, ids: list[str], batches: list[list[str]]) -> None:
        self.ids, self.batches = ids, batches
        self.text = {name: vector(name, "text") for name in ids}
        self.video = {name: vector(name, "video") for name in ids}
        self.targets: dict[str, str] = {name: str(float(name) / 2) for name in ids}
        self.cells = [index_cell(group, "list") for group in batches]
        self.sounds = [
            {
                "id": list(group),
                "audio": [sound(name, "audio") for name in group],
                "backaudio": [sound(name, "back_audio") for name in group],
            }
            for group in batches
        ]
        self.with_ids = True

    def write(self, folder: Path) -> Path:
        (folder / "audio_embeddings").mkdir(parents=True)
        for kind in ("text", "video"):
            table = getattr(self, kind)
            dump(folder / f"rf_{kind}_embeddings.pkl", {"creative_id": [*table], "embeddings": [*table.values()]}, 4)
        for number, sounds in enumerate(self.sounds, start=1):
            dump(folder / "audio_embeddings" / f"embedding_batch_{number}.pkl", sounds, 4)
        head = "creative_id," if self.with_ids else ""
        lines = [f"{name},{cell}" if self.with_ids else cell or '""' for name, cell in self.targets.items()]
        (folder / "labels.csv").write_text("\n".join([f"{head}attention_data_completed", *lines]) + "\n")
        (folder / "sound_indexes.csv").write_text("index\n" + "".join(f'"{cell}"\n' for cell in self.cells))
        return folder


def small_tree() -> Tree:
    """Return seven creatives in two batches; some ids are parts of others, text and video have different orders."""
    tree = Tree(["12", "112", "1", "1120", "5", "2", "7"], [["1120", "112", "5"], ["1", "7", "12", "2"]])
    tree.text = dict(sorted(tree.text.items()))
    tree.video = dict(reversed(tree.video.items()))
    return tree


def assert_right(row: dict) -> None:
    """Assert that the embeddings and the target of a row belong to its id."""
    name = row["creative_id"]
    for kind in ("text", "video"):
        if row[f"has_{kind}"]:
            assert row[kind] == vector(name, kind)[0].tolist()
    for kind in ("audio", "back_audio"):
        if row[f"has_{kind}"]:
            frames = np.reshape(row[kind], (row[f"{kind}_frames"], -1))
            np.testing.assert_array_equal(frames, sound(name, kind))
        else:
            assert row[kind] is None
            assert row[f"{kind}_frames"] == 0
    assert row["target"] in (None, float(name) / 2)


def read_batches(folder: Path) -> list[tuple[list[str], dict[str, np.ndarray]]]:
    """Return ids and tensors of every batch, in the order of the manifest."""
    batches = []
    for entry in json.loads((folder / "latest_embeddings" / "manifest.json").read_text())["batches"]:
        path = folder / "latest_embeddings" / entry["file"]
        with safetensors.safe_open(path, "numpy") as file:
            ids = json.loads(file.metadata()["creative_ids"])
        batches.append((ids, safetensors.numpy.load_file(path)))
    return batches


def split(tensors: dict[str, np.ndarray], kind: str) -> list[np.ndarray]:
    return np.split(tensors[kind], np.cumsum(tensors[f"{kind}_lengths"])[:-1])
