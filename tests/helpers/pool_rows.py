"""Rows of AudioSet as a table, with a small vocabulary, and pools built from them."""

from dataclasses import replace

import pyarrow as pa

from media.audioset import Labels, Ontology
from tasks.detection.pools import ClipPools, PoolSettings, build_pools

NAMES = ("Speech", "Music", "Cry", "Baby cry", "Whimper", "Dog", "Bark", "Rain")
SPEECH, MUSIC, CRY, BABY, WHIMPER, DOG, BARK, RAIN = range(8)
LABELS = Labels(tuple(f"/m/{name}" for name in NAMES), NAMES)
PARENTS = {"/m/Baby cry": ("/m/Cry",), "/m/Whimper": ("/m/Cry",), "/m/Bark": ("/m/Dog",)}
ONTOLOGY = Ontology(
    dict(zip(LABELS.mids, NAMES, strict=True)),
    {mid: tuple(child for child, above in PARENTS.items() if mid in above) for mid in LABELS.mids},
    {mid: PARENTS.get(mid, ()) for mid in LABELS.mids},
)
PLAIN = PoolSettings(target=["Baby cry"], head_labels=["Speech", "Music"], head_trim="none", validation_fraction=0.0)
EVENT = pa.struct(
    [("label", pa.int64()), ("start_seconds", pa.float32()), ("end_seconds", pa.float32()), ("present", pa.bool_())]
)
DEFECT = pa.struct([("listener", pa.string()), ("what", pa.string())])


def clip(
    name: str, labels=(), events=(), subset="unbalanced_train", strong=None, audio=True, seconds=10.0, group=None
) -> dict:
    """Return one row; events are (label, start, end), or (label, start, end, False) for a confirmed absence."""
    return {
        "clip_id": name,
        "group": group,
        "subset": subset,
        "labels": list(labels),
        "events": [
            {"label": label, "start_seconds": start, "end_seconds": end, "present": not absent}
            for label, start, end, *absent in events
        ],
        "strongly_labelled": any(len(event) == 3 for event in events) if strong is None else strong,
        "audio": {"bytes": None, "path": f"/data/Y{name}.wav"} if audio else None,
        "audio_seconds": seconds if audio else None,
        "defects": [] if audio else [{"listener": None, "what": "audio_missing"}],
    }


def table_of(rows: list[dict], code: str = "int64") -> pa.Table:
    """Return the rows as a table of two chunks, because tables of `datasets` can have several."""
    schema = pa.schema(
        {
            "clip_id": pa.string(),
            "group": pa.string(),
            "subset": pa.string(),
            "labels": pa.list_(pa.type_for_alias(code)),
            "events": pa.list_(EVENT),
            "strongly_labelled": pa.bool_(),
            "audio": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
            "audio_seconds": pa.float32(),
            "defects": pa.list_(DEFECT),
        }
    )
    half = len(rows) // 2
    return pa.concat_tables(pa.Table.from_pylist(part, schema) for part in (rows[:half], rows[half:]))


def pools_of(rows: list[dict], options: PoolSettings = PLAIN, seconds: float = 1.0, **changed) -> ClipPools:
    return build_pools(table_of(rows), LABELS, ONTOLOGY, replace(options, **changed), seconds)
