"""Write a raw AudioSet-shaped tree of synthetic clips: no video, nobody was recorded.

    python -m hf_datasets.audioset.synthesize --output_dir raw_audioset --num_train 600 --num_eval 200

Clips of ten seconds hold one to three of the sounds of synthetic_sounds.py over noise, each at its own level, so that
loudness tells nothing. The tables have AudioSet's formats, MIDs and names, and what makes AudioSet hard:

- Half of the clips with a strong "Baby cry" event lack the weak label, as in the real data.
- Some clips have weak labels only, some strong ones too; frames say where a cry was looked for and is not.
- Ids hold `_` and begin with `-`; files are missing, cut off, broken, empty, there twice, or at another rate.

With `--linked no` the sounds of each split are dealt out anew: labels and events look the same and tell nothing.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import soundfile
from tqdm import tqdm

from ..synthesizing import run_synthesizer
from .damage import CLIPS_FOR_DAMAGE, damage
from .synthetic_sounds import RATE, TARGET, VOICES, Voice, noise, write_sound
from .table_formats import ROWS_A_PART

SECONDS = 10.0  # of a clip
FRAME = 0.96  # s, of the tables of presence
Scheme = Literal["mission", "ids", "times", "y_times", "segments"]
SCHEMES: tuple[str, ...] = get_args(Scheme)
ALPHABET = np.array(list("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"))
LABELS = (  # those of AudioSet's weak labels that are used, in their order
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
STRONG_ONLY = (("/t/dd00138", "Brief tone"),)  # as in the real data, neither a weak label nor in the ontology
NODES = {  # name and children of the ontology's part that they are in
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

# The committed config. With linked=False it is a negative control, from which nothing can be learnt.
SAMPLES = {"sample": {"num_train": 160, "num_eval": 60, "seed": 3, "defects": "few"}}
BUILD = {"embed_audio": True}  # what their builder is given beside the tree


@dataclass
class Clip:
    """One clip: where it comes from, what is heard in it when (voice, start, end), and what the tables say of it."""

    number: int
    ytid: str
    subset: str
    start: int  # s in the video
    events: list[tuple[Voice, float, float]] = field(default_factory=list)
    strong: bool = False
    framed: bool = False
    weak_target: bool = True  # whether the weak labels tell of the target, if it is heard


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
    """Write `output_dir/AudioSet`: tables in `metadata/`, sounds in `audio/`; returns how it was made.

    Args:
        defects: "none", "few" (files missing, cut off, broken, empty, double, at another rate) or "all" (damage.py).
        scheme: how files are named: "mission" (Y<id> in the folders of subsets and parts), "ids" (<id>), "times"
            (<id>_<start>_<end>), "y_times" (the same after a Y) or "segments" (<id>_<ms>), the latter in one folder.
        linked: whether labels tell of the sounds; if not, each split's sounds are dealt out anew among its clips.
        suffix: format of the sounds; a ".wav" is quickly written, an ".ogg" has other bytes each time.
    """
    if num_train < 10 or num_eval < 5:
        raise ValueError(f"num_train = {num_train}, num_eval = {num_eval}: give at least 10 and 5 clips")
    if scheme not in SCHEMES:
        raise ValueError(f"scheme = {scheme!r}: it takes one of {', '.join(SCHEMES)}")
    if defects != "none" and num_train < CLIPS_FOR_DAMAGE:
        raise ValueError(
            f"num_train={num_train}: damage needs {CLIPS_FOR_DAMAGE} clips. Give more, or add --defects none."
        )
    root = Path(output_dir) / "AudioSet"
    tables, sounds = root / "metadata", root / "audio"
    tables.mkdir(parents=True, exist_ok=True)
    origin = (
        f"Synthetic: {num_train} clips for training, {num_eval} for evaluation, seed {seed}, defects {defects}, "
        f"scheme {scheme}, {'linked' if linked else 'dealt out anew'}, libsndfile {soundfile.__libsndfile_version__}"
    )
    (tables / "SYNTHETIC").write_text(origin + "\n")
    clips = plan_clips(num_train, num_eval, seed)
    write_tables(tables, clips)
    heard = _dealt_out(clips, seed) if not linked else {clip.ytid: clip for clip in clips}
    paths = {}
    for clip in tqdm(clips, desc="synthesizing", unit="clip"):
        paths[clip.ytid] = sounds / file_name(clip, scheme, suffix)
        paths[clip.ytid].parent.mkdir(parents=True, exist_ok=True)
        write_sound(paths[clip.ytid], render(heard[clip.ytid], seed))
    damage(root, [(clip.ytid, clip.subset, paths[clip.ytid]) for clip in clips], defects)
    return origin


def plan_clips(num_train: int, num_eval: int, seed: int) -> list[Clip]:
    """What every clip is to hold. A third of them hold the target, most of these beside other sounds."""
    rng = np.random.default_rng([seed, 0])
    ids = _draw_ids(rng, num_train + num_eval)
    clips = []
    for number, ytid in enumerate(ids):
        subset = "eval" if number >= num_train else "balanced_train" if number % 5 == 4 else "unbalanced_train"
        own = np.random.default_rng([seed, 1, number])
        start = int(own.choice([0, 10, 20, 30, 30, 30, 30, 70, 120, 210, 460]))
        clip = Clip(number, ytid, subset, start)
        has_target = number % 3 == 1
        clip.strong = own.uniform() < (0.8 if subset == "eval" else 0.7)
        clip.framed = own.uniform() < 0.5
        clip.weak_target = not clip.strong or (number // 3) % 2 == 0
        clip.events = _plan_events(own, has_target)
        clips.append(clip)
    return clips


def _plan_events(rng: np.random.Generator, has_target: bool) -> list[tuple[Voice, float, float]]:
    shares = np.array([voice.share for voice in VOICES])
    count = int(rng.choice([1, 2, 3], p=[0.4, 0.4, 0.2]))
    drawn = rng.choice(len(VOICES), count, replace=False, p=shares / shares.sum()).tolist()
    chosen = ([0] if has_target else []) + drawn
    events = []
    for number in chosen:
        voice = VOICES[number]
        lengths = rng.uniform(*voice.lengths, int(rng.integers(voice.counts[0], voice.counts[1] + 1)))
        gaps = rng.dirichlet(np.ones(len(lengths) + 1)) * max(SECONDS - lengths.sum() - 0.1 * len(lengths), 0)
        begin = 0.0
        for gap, length in zip(gaps, lengths, strict=False):
            begin += gap
            end = min(begin + length, SECONDS)
            if end - begin > 0.1:
                events.append((voice, round(begin, 3), round(end, 3)))
            begin = end + 0.1
    return sorted(events, key=lambda event: event[1:])


def render(clip: Clip, seed: int) -> np.ndarray:
    """The clip's sound (samples,) within -1 and 1: each voice 3 to 18 dB above the noise, all at a random level."""
    rng = np.random.default_rng([seed, 2, clip.number])
    sound = _at_level(noise(rng, SECONDS), 1.0)
    levels = {voice.mids: 10 ** (rng.uniform(3, 18) / 20) for voice in VOICES}
    for voice, begin, end in clip.events:
        first, last = round(begin * RATE), round(end * RATE)
        sound[first:last] += _at_level(voice.make(rng, (last - first) / RATE)[: last - first], levels[voice.mids])
    return sound * 10 ** (rng.uniform(-26, -8) / 20) / np.abs(sound).max()


def _at_level(sound: np.ndarray, level: float) -> np.ndarray:
    return sound * level / max(np.sqrt(np.mean(sound**2)), 1e-9)


def file_name(clip: Clip, scheme: str, suffix: str) -> str:
    """Where a clip's file lies below the folder of sounds."""
    if scheme == "mission":
        folder = f"{clip.subset}_segments/"
        if clip.subset == "unbalanced_train":
            folder += f"unbalanced_train_segments_part{clip.number // ROWS_A_PART:02d}/"
        return f"{folder}Y{clip.ytid}{suffix}"
    times = f"{clip.ytid}_{clip.start:.3f}_{clip.start + SECONDS:.3f}"
    names = {"ids": clip.ytid, "times": times, "y_times": f"Y{times}", "segments": f"{clip.ytid}_{clip.start * 1000}"}
    return names[scheme] + suffix


def write_tables(folder: Path, clips: list[Clip]) -> None:
    """All tables in their published formats."""
    rows = [f'{number},{mid},"{name}"\n' for number, (mid, name) in enumerate(LABELS)]
    (folder / "class_labels_indices.csv").write_text("index,mid,display_name\n" + "".join(rows))
    strong = sorted((*LABELS, *STRONG_ONLY))
    (folder / "mid_to_display_name.tsv").write_text("".join(f"{mid}\t{name}\n" for mid, name in strong))
    (folder / "ontology.json").write_text(json.dumps(_ontology(), indent=1) + "\n")
    for subset in ("unbalanced_train", "balanced_train", "eval"):
        _write_weak(folder / f"{subset}_segments.csv", [clip for clip in clips if clip.subset == subset])
    for side in ("train", "eval"):
        of_side = [clip for clip in clips if clip.subset.endswith(side)]
        _write_strong(folder / f"audioset_{side}_strong.tsv", [clip for clip in of_side if clip.strong])
        name = "audioset_eval_strong_framed_posneg" if side == "eval" else "baby_cry_framed_train"
        _write_framed(folder / f"{name}.tsv", [clip for clip in of_side if clip.framed and clip.strong])


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
        heard = list(dict.fromkeys(voice.mids[0] for voice, _, _ in clip.events))
        heard = [mid for mid in heard if mid != TARGET or clip.weak_target]
        labels += heard
        lines.append(f'{clip.ytid}, {clip.start:.3f}, {clip.start + SECONDS:.3f}, "{",".join(heard)}"\n')
    head = (
        "# Segments csv created by hf_datasets.audioset.synthesize\n"
        f"# num_ytids={len(clips)}, num_segs={len(clips)}, num_unique_labels={len(set(labels))}, "
        f"num_positive_labels={len(labels)}\n# YTID, start_seconds, end_seconds, positive_labels\n"
    )
    path.write_text(head + "".join(lines))


def _write_strong(path: Path, clips: list[Clip]) -> None:
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel\n"]
    for clip in clips:
        for voice, begin, end in clip.events:
            for mid in voice.mids:
                lines.append(f"{clip.ytid}_{clip.start * 1000}\t{begin:.3f}\t{end:.3f}\t{mid}\n")
    path.write_text("".join(lines))


def _write_framed(path: Path, clips: list[Clip]) -> None:
    lines = ["segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tpresent\n"]
    for clip in clips:
        cries = [(begin, end) for voice, begin, end in clip.events if voice.mids[0] == TARGET]
        for frame in range(int(SECONDS / FRAME)):
            begin, end = frame * FRAME, (frame + 1) * FRAME
            present = any(first < end and last > begin for first, last in cries)
            word = "PRESENT" if present else "NOT_PRESENT"
            lines.append(f"{clip.ytid}_{clip.start * 1000}\t{begin:.2f}\t{end:.2f}\t{TARGET}\t{word}\n")
    path.write_text("".join(lines))


def _draw_ids(rng: np.random.Generator, count: int) -> list[str]:
    """Ids as YouTube's; the first ones have what breaks readers."""
    ids = dict.fromkeys(("--a_synth00", "_Y_synth_-1", "Ysynth_2__z", "-synthetic3"))
    while len(ids) < count:
        ids["".join(rng.choice(ALPHABET, 11))] = None
    return list(ids)[:count]


def _dealt_out(clips: list[Clip], seed: int) -> dict[str, Clip]:
    """For each clip another one of its split, whose sound it gets."""
    dealt = {}
    for side in (True, False):
        own = [clip for clip in clips if (clip.subset == "eval") == side]
        order = np.random.default_rng([seed, 3, int(side)]).permutation(len(own))
        for place, other in zip(order, np.roll(order, 1), strict=True):
            dealt[own[place].ytid] = own[other]
    return dealt


def main(arguments: list[str] | None = None) -> None:
    """Run the command line."""
    run_synthesizer(
        "audioset",
        synthesize,
        arguments,
        "Write a raw AudioSet-shaped tree of synthetic clips.",
        "AudioSet/ is made in here",
        num_train="clips of the train split",
        num_eval="clips of the eval split",
        scheme="how the sound files are named",
        linked="no: labels tell nothing of the sounds",
    )


if __name__ == "__main__":
    main()
