"""The committed sample of AudioSet has the difficulties of the real data."""

import io
import json
import re
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

from hf_datasets.audioset import synthesize as synthesizer
from hf_datasets.audioset.synthesize import synthesize
from hf_datasets.names import HERE
from media.audio import read_audio
from media.audioset import ontology_from_labels
from tests.helpers.prepared_data import contents
from tests.helpers.raw_trees.audioset import CRY, kinds


@pytest.fixture(scope="module")
def sample() -> dict[str, list[dict]]:
    return {
        path.name.split("-")[1]: pq.read_table(path).to_pylist()
        for path in (HERE / "audioset" / "sample").glob("*.parquet")
    }


def test_the_sample_has_the_difficulties_of_audioset(sample):
    record = json.loads((HERE / "audioset" / "sample" / "labels.json").read_text())
    labels, _ = ontology_from_labels(record)
    cry = labels.mids.index(CRY)
    rows = [row for split in ("train", "eval") for row in sample[split]]
    ids = [row["clip_id"] for row in rows]
    assert any(ytid.startswith("-") for ytid in ids)
    assert sum("_" in ytid for ytid in ids) > 10
    weak = {row["clip_id"] for row in rows if cry in row["labels"]}
    strong = {row["clip_id"] for row in rows if any(e["label"] == cry and e["present"] for e in row["events"])}
    assert 0.3 < len(strong - weak) / len(strong) < 0.7
    assert len(weak - strong) > 5
    assert any(not e["present"] for row in sample["train"] for e in row["events"])
    cries = [e for row in rows for e in row["events"] if e["label"] == cry and e["present"]]
    lengths = [e["end_seconds"] - e["start_seconds"] for e in cries]
    assert 0.4 < np.mean(np.array(lengths) < 1) < 0.8
    lost = Counter(kind for row in rows for kind in kinds(row))
    assert 0.05 < lost["clip_missing"] / len(rows) < 0.1
    assert {"clip_too_short", "clip_unreadable", "clip_too_small", "duplicate_file"} <= lost.keys()
    assert any(soundfile.info(io.BytesIO(row["audio"]["bytes"])).samplerate == 48000 for row in rows if row["audio"])


def test_loudness_does_not_reveal_the_target(sample):
    """The area under the ROC curve of a clip's level, and of its peak, is near 0.5."""
    cry = [*dict(synthesizer.LABELS)].index(CRY)
    levels, targets = [], []
    for row in sample["train"] + sample["eval"]:
        if row["audio"] is not None:
            audio, _ = read_audio(row["audio"]["bytes"])
            levels.append([np.sqrt(np.mean(audio**2)), np.abs(audio).max()])
            targets.append(cry in row["labels"] or any(e["label"] == cry and e["present"] for e in row["events"]))
    targets, levels = np.array(targets), np.array(levels)
    for level in levels.T:
        above = level[targets][:, None] > level[~targets][None]
        assert 0.38 < above.mean() < 0.62  # 70 against 130 clips: two standard deviations are 0.085


def test_the_same_seed_gives_the_same_tree_and_unlinked_sounds_are_shuffled(tmp_path):
    trees = {}
    for name, linked in (("a", True), ("b", True), ("null", False)):
        synthesize(tmp_path / name, 12, 6, seed=4, defects="none", linked=linked, suffix=".wav")
        trees[name] = contents(tmp_path / name / "AudioSet")
    assert trees["a"] == trees["b"]
    sounds = [name for name in trees["a"] if name.endswith(".wav")]
    tables = [name for name in trees["a"] if not name.endswith((".wav", "SYNTHETIC"))]
    assert all(trees["a"][name] == trees["null"][name] for name in tables)
    assert all(trees["a"][name] != trees["null"][name] for name in sounds)
    assert sorted(trees["a"][name] for name in sounds) == sorted(trees["null"][name] for name in sounds)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_train": 5}, "num_train=5"),
        ({"scheme": "none"}, "scheme='none'.*mission"),
        ({"num_train": 20}, r"num_train=20\b.*defects='all'.*\b40\b"),
    ],
)
def test_impossible_options_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        synthesize(tmp_path, **options)


@pytest.mark.slow
def test_the_example_in_the_card_gives_the_shapes_in_its_comments(monkeypatch):
    card = (HERE / "audioset" / "README.md").read_text()
    section = card.split("## Batches without a Trainer")[1].split("\n## ")[0]
    (example,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    monkeypatch.chdir(HERE.parent)
    names: dict = {}
    exec(example, names)
    assert names["audio"].shape == (16, 16000)
    assert names["audio"].abs().max() <= 1
    assert names["label"].sum() == 4
