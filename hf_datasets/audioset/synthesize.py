"""Write raw data in AudioSet's layout, with synthetic clips.

    python -m hf_datasets.audioset.synthesize --output_dir raw_audioset --num_train 600 --num_eval 200

Each ten-second clip has one to three of the sounds in synthetic_sounds.py over noise. Every clip has a random level,
so loudness does not reveal the label. The tables have AudioSet's formats, MIDs, names and difficulties:

- Half of the clips with a strong "Baby cry" event lack the weak label, as in the real data.
- Some clips have weak labels only, others strong labels too; frames also mark the absence of a cry.
- Ids contain `_` or begin with `-`. Some files are missing, cut off, broken, empty, duplicated or at another rate.

With `--linked no` the sounds of each split are shuffled among its clips: labels and events look the same, but nothing
can be learned from them.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile
from tqdm import tqdm

from ..synthesizing import run_synthesizer
from .damage import MIN_CLIPS_FOR_DAMAGE, damage
from .synthetic_sounds import RATE, SOUND_CLASSES, TARGET, SoundClass, noise, write_sound
from .table_formats import ROWS_PER_PART

SECONDS = 10.0  # length of a clip, s
FRAME = 0.96  # length of a frame in the framed tables, s
Scheme = Literal["mission", "ids", "times", "y_times", "segments"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"))
LABELS = (  # a selection of AudioSet's weak labels, in the official order
    ("/m/09x0r", "Speech"),
    ("/t/dd00001", "Baby laughter"),
    ("/m/0463cq4", "Crying, sobbing"),
    ("/t/dd00002", "Baby cry, infant cry"),
    ("/m/07qz6j3", "Whimper"),
    ("/m/05tny_", "Bark"),
    ("/m/07qrkrw", "Meow"),
    ("/m/04rlf", "Music"),
    ("/m/06mb1", "Rain"),
    ("/m/07yv9", "Vehicle"),
    ("/m/03kmc9", "Siren"),
    ("/m/046dlr", "Alarm clock"),
)
STRONG_ONLY = (("/t/dd00138", "Brief tone"),)  # neither a weak label nor in the ontology, also in the real data
NODES = {  # the part of the ontology that contains LABELS: name and children of each node
    "/m/0dgw9r": ("Human sounds", ("/m/09l8g",)),
    "/m/09l8g": ("Human voice", ("/m/09x0r", "/m/0463cq4", "/m/01j3sz")),
    "/m/01j3sz": ("Laughter", ("/t/dd00001",)),
    "/m/0463cq4": ("Crying, sobbing", ("/t/dd00002", "/m/07qz6j3")),
    "/m/0jbk": ("Animal", ("/m/068hy",)),
    "/m/068hy": ("Domestic animals, pets", ("/m/0bt9lr", "/m/01yrx")),
    "/m/0bt9lr": ("Dog", ("/m/05tny_",)),
    "/m/01yrx": ("Cat", ("/m/07qrkrw",)),
    "/m/059j3w": ("Natural sounds", ("/m/0838f",)),
    "/m/0838f": ("Water", ("/m/06mb1",)),
    "/t/dd00041": ("Sounds of things", ("/m/07yv9", "/m/07pp_mv")),
    "/m/07pp_mv": ("Alarm", ("/m/03kmc9", "/m/046dlr")),
}

SAMPLES = {"sample": {"num_train": 160, "num_eval": 60, "seed": 3, "defects": "few"}}  # the committed config
BUILD = {"embed_audio": True}  # options of the builder for SAMPLES


@dataclass
class Clip:
    """A planned clip: its origin, its events, and which tables list it."""

    number: int
    ytid: str
    subset: str
    start: int  # s in the video
    events: list[tuple[SoundClass, float, float]] = field(default_factory=list)  # with start and end, s
    strong: bool = False  # in a strong table
    framed: bool = False  # in a framed table
    weak_target: bool = True  # if the target occurs, the weak labels include it


def synthesize(
    output_dir: Path,
    num_train: int = 160,
    num_eval: int = 60,
    seed: int = 0,
    defects: Literal["none", "few", "all"] = "all",
    scheme: Scheme = "mission",
    linked: bool = True,
    suffix: str = ".mp3",
) -> str:
    """Write tables to `output_dir/AudioSet/metadata` and sounds to `output_dir/AudioSet/audio`.

    Args:
        output_dir: is created if necessary.
        num_train: clips of the train split.
        num_eval: clips of the eval split.
        seed: the same seed gives the same tree.
        defects: "none", "few" (missing, cut off, broken, empty or duplicate files, other rates) or "all" (damage.py).
        scheme: names of the sound files: "mission" (Y<id> in folders of subsets and parts), or all in one folder:
            "ids" (<id>), "times" (<id>_<start>_<end>), "y_times" (Y<id>_<start>_<end>) or "segments" (<id>_<ms>).
        linked: whether the labels match the sounds. If not, the sounds of each split are shuffled among its clips,
            which is a negative control.
        suffix: format of the sounds; ".wav" is fastest, ".ogg" differs from run to run.

    Returns:
        A line that describes how the tree was made.
    """
    if num_train < 10 or num_eval < 5:
        raise ValueError(f"num_train={num_train}, num_eval={num_eval}: too few. Give at least 10 and 5.")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme={scheme!r}: must be one of {', '.join(SCHEMES)}.")
    if defects != "none" and num_train < MIN_CLIPS_FOR_DAMAGE:
        raise ValueError(
            f"num_train={num_train}: too few for defects={defects!r}. Give {MIN_CLIPS_FOR_DAMAGE} or more, "
            "or add --defects none."
        )
    root = Path(output_dir) / "AudioSet"
    tables, sounds = root / "metadata", root / "audio"
    tables.mkdir(parents=True, exist_ok=True)
    origin = (
        f"Synthetic: {num_train} clips for training, {num_eval} for evaluation, seed {seed}, defects {defects}, "
        f"scheme {scheme}, {'linked' if linked else 'shuffled'}, libsndfile {soundfile.__libsndfile_version__}"
    )
    (tables / "SYNTHETIC").write_text(origin + "\n")
    clips = plan_clips(num_train, num_eval, seed)
    write_tables(tables, clips)
    sources = _shuffle_sounds(clips, seed) if not linked else {clip.ytid: clip for clip in clips}
    paths = {}
    for clip in tqdm(clips, desc="synthesizing", unit="clip"):
        paths[clip.ytid] = sounds / file_name(clip, scheme, suffix)
        paths[clip.ytid].parent.mkdir(parents=True, exist_ok=True)
        write_sound(paths[clip.ytid], render(sources[clip.ytid], seed))
    damage(root, [(clip.ytid, clip.subset, paths[clip.ytid]) for clip in clips], defects)
    return origin


def plan_clips(num_train: int, num_eval: int, seed: int) -> list[Clip]:
    """Plan the clips. A third of them contain the target, mixed with other sounds."""
    # A random stream of its own for each purpose and clip: changing one clip leaves the others unchanged.
    rng = np.random.default_rng([seed, 0])
    ids = _draw_ids(rng, num_train + num_eval)
    clips = []
    for number, ytid in enumerate(ids):
        subset = "eval" if number >= num_train else "balanced_train" if number % 5 == 4 else "unbalanced_train"
        own = np.random.default_rng([seed, 1, number])
        start = int(own.choice([0, 10, 20, 30, 30, 30, 30, 70, 120, 210, 460]))  # real excerpts often start at 30 s
        clip = Clip(number, ytid, subset, start)
        has_target = number % 3 == 1
        clip.strong = own.uniform() < (0.8 if subset == "eval" else 0.7)
        clip.framed = own.uniform() < 0.5
        # Half of the strongly labelled clips lack the weak label. Other clips need it: no other table has their cries.
        clip.weak_target = not clip.strong or (number // 3) % 2 == 0
        clip.events = _plan_events(own, has_target)
        clips.append(clip)
    return clips


def _plan_events(rng: np.random.Generator, has_target: bool) -> list[tuple[SoundClass, float, float]]:
    """Draw the events of a clip, with start and end in s."""
    shares = np.array([sound_class.share for sound_class in SOUND_CLASSES])
    count = int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    drawn = rng.choice(len(SOUND_CLASSES), count, replace=False, p=shares / shares.sum()).tolist()
    chosen = ([0] if has_target else []) + drawn  # class 0 is the target, whose share is 0
    events = []
    for number in chosen:
        sound_class = SOUND_CLASSES[number]
        lengths = rng.uniform(
            *sound_class.lengths, int(rng.integers(sound_class.counts[0], sound_class.counts[1] + 1))
        )
        gaps = rng.dirichlet(np.ones(len(lengths) + 1)) * max(SECONDS - lengths.sum() - 0.1 * len(lengths), 0)
        begin = 0.0
        for gap, length in zip(gaps, lengths, strict=False):
            begin += gap
            end = min(begin + length, SECONDS)
            if end - begin > 0.1:  # s; drops events that the end of the clip cuts short
                events.append((sound_class, round(begin, 3), round(end, 3)))
            begin = end + 0.1
    return sorted(events, key=lambda event: event[1:])


def render(clip: Clip, seed: int) -> np.ndarray:
    """Return the clip's sound (samples,) between -1 and 1: each sound 3 to 18 dB above the noise."""
    rng = np.random.default_rng([seed, 2, clip.number])
    sound = _at_level(noise(rng, SECONDS), 1.0)
    levels = {sound_class.mids: 10 ** (rng.uniform(3, 18) / 20) for sound_class in SOUND_CLASSES}
    for sound_class, begin, end in clip.events:
        first, last = round(begin * RATE), round(end * RATE)
        event = sound_class.make(rng, (last - first) / RATE)[: last - first]
        sound[first:last] += _at_level(event, levels[sound_class.mids])
    # The peak gets a random level of -26 to -8 dB, so that loudness does not reveal the label.
    return sound * 10 ** (rng.uniform(-26, -8) / 20) / np.abs(sound).max()


def _at_level(sound: np.ndarray, level: float) -> np.ndarray:
    return sound * level / max(np.sqrt(np.mean(sound**2)), 1e-9)


def file_name(clip: Clip, scheme: str, suffix: str) -> str:
    """Return the path of a clip's file, below the folder of sounds."""
    if scheme == "mission":
        folder = f"{clip.subset}_segments/"
        if clip.subset == "unbalanced_train":
            folder += f"unbalanced_train_segments_part{clip.number // ROWS_PER_PART:02d}/"
        return f"{folder}Y{clip.ytid}{suffix}"
    times = f"{clip.ytid}_{clip.start:.3f}_{clip.start + SECONDS:.3f}"
    names = {"ids": clip.ytid, "times": times, "y_times": f"Y{times}", "segments": f"{clip.ytid}_{clip.start * 1000}"}
    return names[scheme] + suffix


def write_tables(folder: Path, clips: list[Clip]) -> None:
    """Write all tables in their published formats."""
    rows = [f'{number},{mid},"{name}"\n' for number, (mid, name) in enumerate(LABELS)]
    (folder / "class_labels_indices.csv").write_text("index,mid,display_name\n" + "".join(rows))
    strong = sorted((*LABELS, *STRONG_ONLY))
    (folder / "mid_to_display_name.tsv").write_text("".join(f"{mid}\t{name}\n" for mid, name in strong))
    (folder / "ontology.json").write_text(json.dumps(_ontology(), indent=1) + "\n")
    for subset in ("unbalanced_train", "balanced_train", "eval"):
        _write_weak(folder / f"{subset}_segments.csv", [clip for clip in clips if clip.subset == subset])
    for split in ("train", "eval"):
        of_split = [clip for clip in clips if clip.subset.endswith(split)]
        _write_strong(folder / f"audioset_{split}_strong.tsv", [clip for clip in of_split if clip.strong])
        name = "audioset_eval_strong_framed_posneg" if split == "eval" else "baby_cry_framed_train"
        _write_framed(folder / f"{name}.tsv", [clip for clip in of_split if clip.framed and clip.strong])


def _ontology() -> list[dict]:
    names = dict(LABELS) | {mid: name for mid, (name, _) in NODES.items()}
    return [
        {
            "id": mid,
            "name": name,
            "description": "",
            "citation_uri": "",
            "positive_examples": [],
            "child_ids": list(NODES[mid][1]) if mid in NODES else [],
            "restrictions": [],
        }
        for mid, name in names.items()
    ]


def _write_weak(path: Path, clips: list[Clip]) -> None:
    lines, labels = [], []
    for clip in clips:
        mids = list(dict.fromkeys(sound_class.mids[0] for sound_class, _, _ in clip.events))
        mids = [mid for mid in mids if mid != TARGET or clip.weak_target]
        labels += mids
        lines.append(f'{clip.ytid}, {clip.start:.3f}, {clip.start + SECONDS:.3f}, "{",".join(mids)}"\n')
    head = (
        "# Segments csv created by hf_datasets.audioset.synthesize\n"
        f"# num_ytids={len(clips)}, num_segs={len(clips)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    path.write_text(head + "".join(lines))


def _write_strong(path: Path, clips: list[Clip]) -> None:
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"]
    for clip in clips:
        for sound_class, begin, end in clip.events:
            for mid in sound_class.mids:
                lines.append(f"{clip.ytid}_{clip.start * 1000}\t{begin:.3f}\t{end:.3f}\t{mid}\n")
    path.write_text("".join(lines))


def _write_framed(path: Path, clips: list[Clip]) -> None:
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent\n"]
    for clip in clips:
        cries = [(begin, end) for sound_class, begin, end in clip.events if sound_class.mids[0] == TARGET]
        for frame in range(int(SECONDS / FRAME)):
            begin, end = frame * FRAME, (frame + 1) * FRAME
            present = any(first < end and last > begin for first, last in cries)
            cell = "PRESENT" if present else "NOT_PRESENT"
            lines.append(f"{clip.ytid}_{clip.start * 1000}\t{begin:.2f}\t{end:.2f}\t{TARGET}\t{cell}\n")
    path.write_text("".join(lines))


def _draw_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Draw unique ids in YouTube's format."""
    # The first ones break readers that split at `_`, strip `Y`, or take a leading `-` for an option.
    ids = dict.fromkeys(("--a_synth00", "_Y_synth_-1", "Ysynth_2__z", "-synthetic3"))
    while len(ids) < count:
        ids["".join(rng.choice(ALPHABET, 11))] = None
    return list(ids)[:count]


def _shuffle_sounds(clips: list[Clip], seed: int) -> dict[str, Clip]:
    """Assign each clip the sound of another clip of its split; returns that clip by id."""
    sources = {}
    for is_eval in (True, False):
        of_split = [clip for clip in clips if (clip.subset == "eval") == is_eval]
        order = np.random.default_rng([seed, 3, int(is_eval)]).permutation(len(of_split))
        # A cycle through a random order, so that no clip keeps its own sound.
        for receiver, source in zip(order, np.roll(order, 1), strict=True):
            sources[of_split[receiver].ytid] = of_split[source]
    return sources


def main(arguments: list[str] | None = None) -> None:
    run_synthesizer(
        "audioset",
        synthesize,
        arguments,
        "Write raw data in AudioSet's layout, with synthetic clips.",
        "the folder AudioSet/ is created in here",
        num_train="clips of the train split",
        num_eval="clips of the eval split",
        scheme="naming scheme of the sound files",
        linked="no: sounds are shuffled, so labels do not match them",
    )


if __name__ == "__main__":
    main()
