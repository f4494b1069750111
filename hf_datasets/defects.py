"""What can be wrong with a recording: every kind of defect by name, with its unit and meaning.

A builder never drops or repairs a bad input. It keeps the row and says in the row's `defects` column what it found;
`prepare` counts the same list and writes it to `defects.csv`. What to leave out is the experiment's decision.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from system.text import csv_text


@dataclass(frozen=True)
class DefectKind:
    """One kind of defect. `refused` kinds are not published by `prepare` unless the user says `--keep_unreadable`."""

    name: str
    unit: str
    meaning: str
    refused: bool = False


_OF_SIGNALS = (
    DefectKind("unreadable_audio", "bytes", "the sound file does not decode; its bytes are kept as found", True),
    DefectKind("unreadable_eda", "bytes", "the EDA file does not parse or has no usable time column", True),
    DefectKind("non_numeric_cell", "cells", "text in a number column; the cell is kept as NaN or null", True),
    DefectKind("unusable_recording", "", "a recording that has no place in its song's row; it is left out", True),
    DefectKind("audio_missing", "", "no sound file for this song"),
    DefectKind("eda_missing", "", "no EDA file for this song"),
    DefectKind("missing_annotation", "", "no ratings of arousal and valence (27 short clips in the real PMEmo)"),
    DefectKind("missing_dynamic_annotation", "", "no arousal and valence over time"),
    DefectKind("missing_annotation_file", "", "a whole annotation file is not there; its values are null"),
    DefectKind("clip_shorter_than_annotation", "s", "length of a clip that ends before ratings start (15.5 s)"),
    DefectKind("chorus_duration_mismatch", "s", "audio length minus (chorus_end_time - chorus_start_time)"),
    DefectKind("eda_longer_than_audio", "s", "EDA goes on after the sound ends, by more than half a sample"),
    DefectKind("eda_shorter_than_audio", "s", "EDA stops before the sound ends, by more than half a sample"),
    DefectKind("irregular_time", "s", "largest deviation of a time step from the median step, above 1 ms"),
    DefectKind("unexpected_rate", "Hz", "EDA rate by its times or the listening time, when not the data set's"),
    DefectKind("unclear_rate", "Hz", "samples over listening time fit no usual rate; the data set's own is taken"),
    DefectKind("start_time_line", "s", "a signal begins with the time of its recording; the line is taken off"),
    DefectKind("skipped_song", "s", "the listener stopped so long before the sound's end"),
    DefectKind("replayed_song", "trials", "the listener heard this song so often; each time is a trial"),
    DefectKind("empty_file", "", "a signal's file holds nothing; the trial is without that signal"),
    DefectKind("signal_missing", "", "no BVP, HR or TEMP file for this trial"),
    DefectKind("missing_personality", "", "the listener is not in the personality table"),
    DefectKind("too_short_trial", "s", "seconds with a number in them, below 10 s"),
    DefectKind("nan_run", "s", "longest stretch without numbers"),
    DefectKind("negative_eda", "uS", "smallest value, below zero: physically impossible, an offset"),
    DefectKind("out_of_range", "uS", "largest value, above 60 uS"),
    DefectKind("steep_slope", "uS/s", "steepest step between two samples, above 10 uS/s"),
    DefectKind("flat_eda", "uS", "range over the whole trial, below 0.1 uS"),
    DefectKind("few_levels", "levels", "number of different values, below 50: mostly quantisation steps"),
    DefectKind("duplicate_listener", "", "the listener has more than one column in this file; all are kept"),
    DefectKind("odd_listener_id", "", "the listener's name is not of the data set's form"),
    DefectKind("stray_blanks_in_header", "columns", "column names with blanks around them (stripped)"),
    DefectKind("not_in_metadata", "", "files or annotations for a song that the table of songs does not list"),
    DefectKind("duplicate_metadata_row", "rows", "rows of metadata.csv for this song; the first is taken"),
    DefectKind("duplicate_annotation_row", "rows", "annotation rows for one song and time; the first is taken"),
    DefectKind("unexpected_file", "", "a file that belongs to no song by its name; it is left out"),
)
_OF_CLIPS = (
    DefectKind("clip_missing", "", "no sound file of this clip below the folder of sounds"),
    DefectKind("clip_too_small", "bytes", "its file is smaller than a wav's header (44 bytes): a failed download"),
    DefectKind("clip_is_folder", "", "a folder has the name of its file"),
    DefectKind("clip_unreadable", "bytes", "its file is no sound by its header, or does not decode if that is tried"),
    DefectKind("clip_too_long", "s", "its file is longer than the excerpt, by more than 0.5 s; it is not used"),
    DefectKind("clip_too_short", "s", "its file is shorter than the excerpt, by more than 0.5 s; it is used"),
    DefectKind("duplicate_file", "files", "other files of this clip; the one named is used"),
    DefectKind("wrong_folder", "", "its file lies in the folder of another subset or part; it is used"),
    DefectKind("other_excerpt", "s", "a strong table means an excerpt that starts so much later; it is not used"),
    DefectKind("event_outside", "s", "an event begins so long after the excerpt's end"),
    DefectKind("unclaimed_files", "files", "sound files of one folder that belong to no clip; they are left out"),
    DefectKind("not_opened", "files", "sound files that were found by name and size only"),
    DefectKind("audio_not_given", "", "no sounds were looked for; rows have labels alone"),
    DefectKind("group_not_given", "clips", "clips of a list without a group; each counts as a recording of its own"),
    DefectKind("group_unmatched", "rows", "rows of a table of groups that name no clip of the data set"),
    DefectKind("missing_table", "", "a table that is not there, and what that means"),
    DefectKind("table_left_out", "", "a table that is there in another form, which is taken"),
    DefectKind("own_label", "labels", "labels of people's own lists that AudioSet does not have"),
)
_OF_UTTERANCES = (
    DefectKind("video_missing", "", "no clip of this utterance among those of its split; its text can be used"),
    DefectKind("video_unreadable", "bytes", "its clip's container cannot be opened (such as no moov atom)"),
    DefectKind("cut_too_long", "s", "length of a clip above 30 s, or above 3 times and 10 s more than its row says"),
    DefectKind("cut_too_short", "s", "length of a clip's sound below 0.3 s; the sound is not used"),
    DefectKind("no_sound_track", "", "its clip has pictures alone"),
    DefectKind("no_pictures", "", "its clip has sound alone"),
    DefectKind("many_channels", "channels", "its clip has surround sound, which decoding mixes down"),
    DefectKind("twin_clip", "", "its clip is there twice; the one called final_videos_test... is taken"),
    DefectKind("prefixed_clip", "", "its clip is there under the name final_videos_test... alone; it is used"),
    DefectKind("double_clip", "files", "other files of its clip in other folders; the one named is used"),
    DefectKind("empty_text", "", "its cell of text is empty; sound and pictures can be used"),
    DefectKind("sentiment_mismatch", "", "its sentiment is not the one that all rows of its emotion have"),
    DefectKind("unreadable_time", "", "a time that is not of the form 0:01:15,500; it is null"),
    DefectKind("no_duration", "s", "its end minus its start, zero or less"),
    DefectKind("long_by_table", "s", "it lasts so long by its row, above 30 s: it was cut wrongly"),
    DefectKind("time_backwards", "s", "it starts so long before the row before it in its dialogue"),
    DefectKind("duplicate_utterance", "rows", "other rows of this split, dialogue and utterance; the first is taken"),
    DefectKind("table_not_utf8", "lines", "lines of a table that are not UTF-8; they are read as Windows-1252"),
    DefectKind("control_characters", "characters", "C1 controls in a table, read as Windows-1252 has them"),
    DefectKind("split_missing", "", "a split whose table is not there; it is left out"),
    DefectKind("split_count", "rows", "a split that does not have as many rows as MELD (9,989, 1,109 and 2,610)"),
    DefectKind("no_clips", "rows", "a split without clips: its rows have text alone"),
    DefectKind("orphan_clips", "files", "clips of one folder that belong to no row; orphan_clips.csv names them"),
    DefectKind(
        "side_files", "files", "files of one folder called ._* or *.*.mp4, which are no clips; they are skipped"
    ),
)
_OF_CREATIVES = (
    DefectKind("batch_unreadable", "bytes", "the batch of sounds that the index names is damaged, or no data", True),
    DefectKind("batch_missing", "", "the batch of sounds that the index names is not there"),
    DefectKind("not_in_index", "", "no batch of sounds lists it in the index"),
    DefectKind("not_in_batch", "", "the batch of sounds that the index names does not hold it"),
    DefectKind("not_in_file", "", "the file of this modality does not list it"),
    DefectKind("empty_embedding", "", "its entry is None, or empty"),
    DefectKind("not_numbers", "", "its entry is no array of numbers"),
    DefectKind("not_finite", "numbers", "numbers of its entry that are NaN or infinite; the entry is not used"),
    DefectKind("other_width", "numbers", "width of its entry, not that of the others; the entry is not used"),
    DefectKind("duplicate_id", "entries", "further entries of its id in one file; the first is taken"),
    DefectKind("target_missing", "", "its cell of the target is empty, NaN or n/a; it is null"),
    DefectKind("strangers_in_batch", "ids", "ids in its batch that the index does not list there; they are left out"),
    DefectKind("undeclared_ids", "ids", "ids of a file that labels.csv does not have; they are left out"),
    DefectKind("batch_not_indexed", "", "a batch of sounds beyond the last row of the index; it is left out"),
)
_OF_FILES = (DefectKind("name_not_utf8", "", "a file whose name is not UTF-8; it is left out, rename it"),)
SIGNAL_DEFECTS = tuple(kind.name for kind in _OF_SIGNALS + _OF_FILES)  # of data sets of sounds and skin conductance
CLIP_DEFECTS = tuple(kind.name for kind in _OF_CLIPS + _OF_FILES)  # of data sets of clips that an id names
UTTERANCE_DEFECTS = tuple(kind.name for kind in _OF_UTTERANCES + _OF_FILES)  # of data sets of utterances with clips
CREATIVE_DEFECTS = tuple(kind.name for kind in _OF_CREATIVES + _OF_FILES)  # of data sets of stored embeddings
KINDS: dict[str, DefectKind] = {
    kind.name: kind for kind in _OF_SIGNALS + _OF_CLIPS + _OF_UTTERANCES + _OF_CREATIVES + _OF_FILES
}


def make_defect(what: str, how_much: float | None = None, listener: str | None = None, detail: str = "") -> dict:
    """One entry of a row's `defects` column; the unit is the kind's."""
    assert what in KINDS, what
    how_much = None if how_much is None else round(float(how_much), 6)  # float noise helps nobody
    return {"listener": listener, "what": what, "how_much": how_much, "unit": KINDS[what].unit, "detail": detail}


def defects_csv(rows: Iterable[tuple[str, dict]], row: str = "song") -> str:
    """The text of `defects.csv` for (row, defect) pairs, in the order given; `row` is what a row is."""
    lines = [[row, "listener", "what", "how_much", "unit", "detail"]]
    for song, defect in rows:
        how_much = "" if defect["how_much"] is None else repr(defect["how_much"])
        lines.append([song, defect["listener"] or "", defect["what"], how_much, defect["unit"], defect["detail"]])
    return csv_text(lines)


def defects_table(rows: Iterable[tuple[str, dict]]) -> str:
    """Counts by kind, one line a kind that occurs, with the number of rows and what the kind means."""
    pairs = [(defect["what"], song) for song, defect in rows]
    counts = Counter(what for what, _ in pairs)
    songs = Counter(what for what, _ in set(pairs))
    lines = [f"{'count':>7} {'rows':>6}  what"]
    for name, kind in KINDS.items():
        if counts[name]:
            unit = f" [{kind.unit}]" if kind.unit else ""
            lines.append(f"{counts[name]:>7} {songs[name]:>6}  {name}{unit}: {kind.meaning}")
    return "\n".join(lines) if counts else "no defects found"


def located(name: str, error: Exception) -> str:
    """What an error says, after the file's name."""
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return f"{name}: {reason.removeprefix(f'{name}: ')}"
