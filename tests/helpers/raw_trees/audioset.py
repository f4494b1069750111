"""A small raw tree in AudioSet's format whose clips have known defects."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import soundfile

from hf_datasets.audioset.builder import AudiosetBuilder
from hf_datasets.prepare import main
from tests.helpers import prepared_data

SPEECH, MUSIC, CRYING, CRY, WHIMPER = "/m/09x0r", "/m/04rlf", "/m/0463cq4", "/t/dd00002", "/m/07qz6j3"
TONE = "/t/dd00138"  # a strong label that is neither a weak label nor in the ontology
SECONDS = 2.0  # length of the excerpts
LABELS = {SPEECH: "Speech", CRYING: "Crying, sobbing", CRY: "Baby cry, infant cry", WHIMPER: "Whimper", MUSIC: "Music"}
PART = "unbalanced_train_segments/unbalanced_train_segments_part00"


def weak_table(rows: list[tuple[str, float, list[str]]]) -> str:
    """Return a weak table in the official format, with correct counts in its header."""
    labels = [mid for _, _, mids in rows for mid in mids]
    head = (
        f"# Segments csv\n# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    lines = [f'{i}, {start:.3f}, {start + SECONDS:.3f}, "{",".join(mids)}"\n' for i, start, mids in rows]
    return head + "".join(lines)


def strong_table(rows: list[tuple], present: bool = False) -> str:
    head = ["segment_id", "start_time_seconds", "end_time_seconds", "label", *(["present"] if present else [])]
    return "".join("\t".join(map(str, row)) + "\n" for row in [head, *rows])


def write_tables(folder: Path) -> None:
    """Write labels, their names and the ontology."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f'{number},{mid},"{name}"' for number, (mid, name) in enumerate(LABELS.items())]
    (folder / "class_labels_indices.csv").write_text("\n".join(["index,mid,display_name", *lines]) + "\n")
    names = {**LABELS, TONE: "Brief tone"}
    (folder / "mid_to_display_name.tsv").write_text("".join(f"{mid}\t{name}\n" for mid, name in sorted(names.items())))
    children = {"/m/09l8g": [SPEECH, CRYING], CRYING: [CRY, WHIMPER]}
    nodes = [
        {"id": mid, "name": name, "child_ids": children.get(mid, [])}
        for mid, name in {"/m/09l8g": "Human voice", **LABELS}.items()
    ]
    (folder / "ontology.json").write_text(json.dumps(nodes))


def write_wav(path: Path, seconds: float = SECONDS, rate: int = 8000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).uniform(-0.5, 0.5, (round(seconds * rate), channels))
    soundfile.write(path, noise, rate)
    return path


# Clip id -> the defect that the builder must report, None for none.
FATES = {
    "found_plain": None,
    "-found_dash": None,
    "_under_scor": None,
    "stereo48kHz": None,
    "cut_off_wav": "clip_too_short",
    "wrong_place": "wrong_folder",
    "twice_there": "duplicate_file",
    "missing_one": "clip_missing",
    "zero_bytes_": "clip_too_small",
    "a_folder_is": "clip_is_folder",
    "no_sound_at": "clip_unreadable",
    "much_longer": "clip_too_long",
}
LOST = {"clip_missing", "clip_too_small", "clip_is_folder", "clip_unreadable", "clip_too_long"}  # the row has no audio


def rows_of(raw: Path, tmp_path: Path, **options) -> list[dict]:
    """Return all rows of a tree, training rows first."""
    options.setdefault("raw_dir", raw / "metadata")
    options.setdefault("audio_root", raw / "audio")
    return prepared_data.rows_of(AudiosetBuilder(cache_dir=str(tmp_path / "cache"), **options))


def by_id(rows: list[dict]) -> dict[str, dict]:
    rows_by_id = {row["clip_id"]: row for row in rows}
    assert len(rows_by_id) == len(rows)
    return rows_by_id


def kinds(row: dict) -> list[str]:
    return [defect["what"] for defect in row["defects"]]


def run(*arguments: object) -> None:
    main(["audioset", *map(str, arguments)])


def complaint(*arguments: object) -> str:
    return prepared_data.complaint(main, "audioset", *arguments)


def read_csv(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def own_options(own: Path) -> dict:
    return {
        "raw_dir": own,
        "audio_root": own / "audio",
        "target": "my bell",
        "pos_strong_paths": [own / "bell_train.tsv", own / "bell_eval.tsv"],
        "neg_strong_paths": [own / "other.csv"],
        "weak_paths": [own / "weak.csv"],
    }
