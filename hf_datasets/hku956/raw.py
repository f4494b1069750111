"""Read the raw HKU956 tree: find its root, assign files and table rows to trials, and parse the signals.

    1. physiological_signals/<participant>/<SIGNAL>/<song_no>_<song_id>.csv     one value per line, no header
    2. original_song_audio.csv           song_id,link: location of the song on the web, on S3 or on this machine
    3. AV_ratings.csv                    participant_id,song_no,song_id,...,play_duration
    4. participant_personality.csv       participant_id,Extroversion_score,...
    audio/<song_id>.mp3                  not in the download: your own files, here, in the folder given as audio_root,
                                         or at the link, unless that is a web address

A trial is identified by participant, song_no and song: people may hear a song again under another number.
"""

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import numpy as np

from system.storage import S3FileManager, S3Object, is_remote

from ..csv_tables import MISSING, decode_text, parse_number, read_table
from ..defects import make_defect
from ..raw_files import SYNTHETIC_MARKER, RawFolder

SIGNALS_FOLDER = "1. physiological_signals"
LINKS, RATINGS_TABLE = "2. original_song_audio.csv", "3. AV_ratings.csv"
PERSONALITY_TABLE = "4. participant_personality.csv"
AUDIO_FOLDER = "audio"
AUDIO_SUFFIXES = (".mp3", ".wav", ".flac", ".ogg", ".opus")  # in order of preference
KINDS = ("EDA", "BVP", "HR", "TEMP")
UNREAD = "IBI"  # intervals between heart beats have no fixed rate, and HR has the same information
PERSONALITY = ("extroversion", "agreeableness", "conscientiousness", "emotional_stability", "openness")
RATINGS_OF_TRIAL = ("valence_rating", "arousal_rating", "play_duration")
NAME = re.compile(r"(\d+)_(\d+)\.csv")
UNIX_TIME = 1e9  # s, in 2001. Files of Empatica's E4 begin with a Unix time; no signal has values this large.
MEANT = "folder that HKU956 was unpacked to"


@dataclass
class RawTrial:
    """A listening: the paths of its signals by kind, relative to the root, and its values in the tables."""

    participant: str
    song_no: int
    song_id: str
    files: dict[str, str] = field(default_factory=dict)
    ratings: dict[str, float | None] = field(default_factory=dict)
    categories: dict[str, str | None] = field(default_factory=dict)
    personality: dict[str, float | None] | None = None
    defects: list[dict] = field(default_factory=list)


@dataclass
class RawSong:
    """A song and its trials."""

    song_id: str
    link: str | None = None
    audio: str | None = None  # path relative to the audio root, or a full path or URL
    trials: list[RawTrial] = field(default_factory=list)
    defects: list[dict] = field(default_factory=list)


@dataclass
class RawTree:
    """A tree: its songs, ordered by id, its defects that belong to no song, and a digest of its files."""

    root: RawFolder  # with the used files only
    sounds: RawFolder
    songs: list[RawSong]
    defects: list[dict]
    synthetic: bool
    digest: str  # of the path, size and content of all used files
    size: int  # bytes of all used files


def find_root(raw_dir: str | Path) -> RawFolder:
    """Return the only folder at or below `raw_dir` with signals; ValueError for none or several."""
    folder = RawFolder.open(raw_dir, MEANT)
    roots = {name.split(f"{SIGNALS_FOLDER}/")[0] for name in folder.files if f"{SIGNALS_FOLDER}/" in name}
    if not folder.files:
        raise ValueError(f"--raw_dir={raw_dir}: the folder is empty. Give the {MEANT}.")
    if len(roots) > 1:
        paths = ", ".join(folder.where(root) for root in sorted(roots)[:3])
        raise ValueError(f"--raw_dir={raw_dir}: several trees ({paths}). Give one of them.")
    if not roots:
        raise ValueError(f"--raw_dir={raw_dir}: no files in '{SIGNALS_FOLDER}' at any depth. Give the {MEANT}.")
    return folder.below(roots.pop().rstrip("/"))


def read_tree(raw_dir: str | Path, audio_root: str | Path | None) -> RawTree:
    """Read the tables, and list and hash all used files; the builder reads sounds and signals later, song by song."""
    root = find_root(raw_dir)
    defects: list[dict] = []
    trials, used = _list_trials(root, defects)
    used += _read_ratings(root, trials, defects)
    used += _read_personality(root, trials, defects)
    songs: dict[str, RawSong] = {}
    for trial in trials.values():
        songs.setdefault(trial.song_id, RawSong(trial.song_id)).trials.append(trial)
    used += _read_links(root, songs, defects)
    sounds = _find_sounds(root, audio_root, songs)
    for song in songs.values():
        song.trials.sort(key=lambda trial: (trial.participant, trial.song_no))
        _note_replays(song)
    synthetic = SYNTHETIC_MARKER in root.files
    used += [SYNTHETIC_MARKER] if synthetic else []
    audio_files = [song.audio for song in songs.values() if song.audio]
    (tables, size), (audio, audio_size) = root.digest(used), sounds.digest(audio_files)
    # Shorter ids first, so that numbers are in numeric order.
    ordered = sorted(songs.values(), key=lambda song: (len(song.song_id), song.song_id))
    return RawTree(
        root.only(used), sounds.only(audio_files), ordered, defects, synthetic, f"{tables}-{audio}", size + audio_size
    )


def read_signal(data: bytes) -> tuple[np.ndarray, float | None, list[str]]:
    """Parse a signal file; ValueError if it is not text or has several columns.

    Returns:
        The values (samples,), NaN for lines without a number; the start time in s if the file begins with one; and the
        lines with text.
    """
    lines = decode_text(data).strip().splitlines()
    if any("," in line.strip().strip(",") for line in lines[:2]):
        raise ValueError(f"has several columns ({lines[0][:40]!r}). There should be one value per line.")
    # numpy is fast and reads all good files. `_parse_slowly` finds out what is wrong with the others.
    try:
        if b"_" in data or not data.isascii():
            raise ValueError("numpy reads 1_0 as 10, and digits of other scripts")
        values, texts = np.array(lines, dtype=np.float64), []
        if np.isinf(values).any():
            raise ValueError("numpy reads infinity as a number")
    except ValueError:
        values, texts = _parse_slowly(lines)
    start = None
    if len(values) and UNIX_TIME < values[0]:
        start = float(values[0])
        # The E4 writes the rate in the second line.
        values = values[2:] if len(values) > 1 and values[1] in (1.0, 4.0, 32.0, 64.0) else values[1:]
    return values, start, texts


def settle_rate(samples: int, play_duration: float | None, usual: float) -> tuple[float, bool]:
    """Choose the rate in Hz at which `samples` last `play_duration` s, and return whether there is one.

    Candidates are the rates of wristbands, the `usual` one first. It is the answer if no rate matches, or if
    `play_duration` is unknown.
    """
    if not play_duration:
        return usual, True
    tolerance = max(2.0, 0.05 * play_duration)  # s; signals begin and end a little before or after the song
    for rate in (usual, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0):
        if abs(samples / rate - play_duration) <= tolerance:
            return rate, True
    return usual, False


def _parse_slowly(lines: list[str]) -> tuple[np.ndarray, list[str]]:
    values, texts = np.full(len(lines), np.nan), []
    for i, line in enumerate(lines):
        try:
            values[i] = parse_number(line.strip().strip(","))
        except ValueError:
            texts.append(line)
    return values, texts


def _list_trials(root: RawFolder, defects: list[dict]) -> tuple[dict[tuple, RawTrial], list[str]]:
    trials: dict[tuple, RawTrial] = {}
    used = []
    for name in root.names(SIGNALS_FOLDER):
        parts = name.split("/")
        match = NAME.fullmatch(parts[-1])
        if len(parts) == 4 and parts[2] == UNREAD:
            continue
        if len(parts) != 4 or parts[2] not in KINDS or match is None:
            defects.append(make_defect("unexpected_file", detail=name))
            continue
        key = parts[1], int(match[1]), match[2]
        trial = trials.setdefault(key, RawTrial(*key))
        trial.files[parts[2]] = name
        used.append(name)
    return trials, used


def _read_ratings(root: RawFolder, trials: dict[tuple, RawTrial], defects: list[dict]) -> list[str]:
    if RATINGS_TABLE not in root.files:
        defects.append(make_defect("missing_annotation_file", detail=RATINGS_TABLE))
        return []
    seen = set()
    for row in read_table(root, RATINGS_TABLE, ("participant_id", "song_no", "song_id", "play_duration"), defects):
        number = _integer(row["song_no"])
        if number is None:
            detail = f"{RATINGS_TABLE} song_no: {row['song_no']!r}"
            defects.append(make_defect("non_numeric_cell", 1, row["participant_id"], detail))
            continue
        key = row["participant_id"], number, str(_integer(row["song_id"]) or row["song_id"])
        trial = trials.setdefault(key, RawTrial(*key))
        if key in seen:
            detail = f"{RATINGS_TABLE}: song_no {number}"
            trial.defects.append(make_defect("duplicate_annotation_row", 2, trial.participant, detail))
            continue
        seen.add(key)
        trial.ratings = {name: _cell(row, name, trial) for name in RATINGS_OF_TRIAL}
        trial.categories = {name: row.get(name) or None for name in ("valence", "arousal")}
    for key in trials.keys() - seen:
        detail = f"no row in {RATINGS_TABLE} for song_no {key[1]}"
        trials[key].defects.append(make_defect("missing_annotation", None, key[0], detail))
    return [RATINGS_TABLE]


def _read_personality(root: RawFolder, trials: dict[tuple, RawTrial], defects: list[dict]) -> list[str]:
    if PERSONALITY_TABLE not in root.files:
        defects.append(make_defect("missing_annotation_file", detail=PERSONALITY_TABLE))
        return []
    scores = {}
    for row in read_table(root, PERSONALITY_TABLE, ("participant_id",), defects):
        scores[row["participant_id"]] = {name: _number(row.get(f"{name}_score", "")) for name in PERSONALITY}
    for participant in sorted({key[0] for key in trials} - scores.keys()):
        defects.append(make_defect("missing_personality", None, participant))
    for trial in trials.values():
        trial.personality = scores.get(trial.participant)
    return [PERSONALITY_TABLE]


def _read_links(root: RawFolder, songs: dict[str, RawSong], defects: list[dict]) -> list[str]:
    listed = {}
    if LINKS in root.files:
        rows = read_table(root, LINKS, ("song_id", "link"), defects)
        listed = {str(_integer(row["song_id"]) or row["song_id"]): row["link"] or None for row in rows}
    else:
        defects.append(make_defect("missing_annotation_file", detail=LINKS))
    for song in songs.values():
        song.link = listed.get(song.song_id)
        if listed and song.song_id not in listed:
            song.defects.append(make_defect("not_in_metadata", detail=f"no row in {LINKS}"))
    return [LINKS] if LINKS in root.files else []


def _find_sounds(root: RawFolder, audio_root: str | Path | None, songs: dict[str, RawSong]) -> RawFolder:
    """Set the sound file of each song (named after the song, else given by its link); return the folder of sounds."""
    if audio_root is None:
        sounds = root.below(AUDIO_FOLDER)
    else:
        sounds = RawFolder.open(audio_root, "folder that holds <song_id>.mp3 (or .wav, ...)", "--audio_root").below("")
    by_stem: dict[str, list[str]] = {}
    for suffix in AUDIO_SUFFIXES:  # outer loop, so that each list is in order of preference
        for name in sounds.files:
            if name.lower().endswith(suffix):
                by_stem.setdefault(PurePosixPath(name).stem, []).append(name)
    for song in songs.values():
        song.audio = by_stem.get(song.song_id, [None])[0]
    # Only for songs that the folder does not have, because every look-up of a file on S3 costs a request.
    linked = _find_linked(root, [song for song in songs.values() if song.audio is None])
    sounds.files |= linked
    for song in songs.values():
        if song.audio is None and (path := _path_of(root, song.link)) in linked:
            song.audio = path
        if song.audio is None:
            song.defects.append(make_defect("audio_missing", detail=song.link or ""))
    return sounds


def _find_linked(root: RawFolder, songs: list[RawSong]) -> dict[str, S3Object | None]:
    """Return the files that the songs' links point to, those on S3 with size and ETag; web addresses are ignored."""
    paths = {path for song in songs if (path := _path_of(root, song.link))}
    remote = {path for path in paths if is_remote(path)}
    local: dict[str, S3Object | None] = {path: None for path in paths - remote if Path(path).is_file()}
    try:
        return local | (S3FileManager.shared().describe_files(remote) if remote else {})
    except OSError as error:
        raise ValueError(f"{LINKS}: {error}") from error


def _path_of(root: RawFolder, link: str | None) -> str | None:
    """Return a link as a full path or an s3:// URL, None for a web address. Paths are relative to the table."""
    if not link or link.startswith("s3://"):
        return link or None
    if is_remote(link):
        return None
    if is_remote(root.location) and not os.path.isabs(link):
        return root.where(link)
    return os.path.abspath(os.path.join(root.location, link))


def _note_replays(song: RawSong) -> None:
    participants = [trial.participant for trial in song.trials]
    for participant in sorted({name for name in participants if participants.count(name) > 1}):
        song.defects.append(make_defect("replayed_song", participants.count(participant), participant))


def _cell(row: dict[str, str], name: str, trial: RawTrial) -> float | None:
    text = row.get(name, "")
    value = _number(text)
    if value is None and text.lower() not in MISSING:
        detail = f"{RATINGS_TABLE} {name}: {text!r}"
        trial.defects.append(make_defect("non_numeric_cell", 1, trial.participant, detail))
    return value


def _number(text: str) -> float | None:
    try:
        value = parse_number(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _integer(text: str) -> int | None:
    value = _number(text)
    return int(value) if value is not None and value == int(value) else None
