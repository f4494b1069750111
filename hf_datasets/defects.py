"""Every kind of defect in raw data, with its unit and meaning.

A builder never drops or repairs a bad input. It keeps the row and lists the defects in the row's `defects` column;
`prepare` counts them and writes them to `defects.csv`. Each experiment decides for itself which rows to leave out.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from system.text import csv_text


@dataclass(frozen=True)
class DefectKind:
    """A kind of defect. `prepare` publishes no rows with a `refused` kind unless it gets `--keep_unreadable`."""

    name: str
    unit: str
    meaning: str
    refused: bool = False


_OF_SIGNALS = (
    DefectKind("unreadable_audio", "bytes", "the sound file does not decode; its bytes are kept as found", True),
    DefectKind("unreadable_eda", "bytes", "the EDA file does not parse or has no usable time column", True),
    DefectKind("non_numeric_cell", "cells", "text in a number column; the cell is kept as NaN or null", True),
    DefectKind("unusable_recording", "", "a recording that does not fit into its song's row; it is left out", True),
    DefectKind("audio_missing", "", "no sound file for this song"),
    DefectKind("eda_missing", "", "no EDA file for this song"),
    DefectKind("missing_annotation", "", "no ratings of arousal and valence (27 short clips in the real PMEmo)"),
    DefectKind("missing_dynamic_annotation", "", "no arousal and valence over time"),
    DefectKind("missing_annotation_file", "", "an annotation file is missing; its values are null"),
    DefectKind("clip_shorter_than_annotation", "s", "length of a clip that ends before ratings start (15.5 s)"),
    DefectKind("chorus_duration_mismatch", "s", "audio length minus (chorus_end_time - chorus_start_time)"),
    DefectKind("eda_longer_than_audio", "s", "EDA continues after the sound ends, by more than half a sample"),
    DefectKind("eda_shorter_than_audio", "s", "EDA stops before the sound ends, by more than half a sample"),
    DefectKind("irregular_time", "s", "largest deviation of a time step from the median step, above 1 ms"),
    DefectKind("unexpected_rate", "Hz", "EDA rate by its times or the listening time, if not the data set's rate"),
    DefectKind("unclear_rate", "Hz", "samples over listening time match no usual rate; the data set's rate is used"),
    DefectKind("start_time_line", "s", "a signal begins with the time of its recording; that line is removed"),
    DefectKind("skipped_song", "s", "the listener stopped this long before the end of the sound"),
    DefectKind("replayed_song", "trials", "how often the listener heard this song; each time is a trial"),
    DefectKind("empty_file", "", "a signal file is empty; the trial does not have that signal"),
    DefectKind("signal_missing", "", "no BVP, HR or TEMP file for this trial"),
    DefectKind("missing_personality", "", "the listener is not in the personality table"),
    DefectKind("too_short_trial", "s", "seconds of the trial with numbers, below 10 s"),
    DefectKind("nan_run", "s", "longest stretch without numbers"),
    DefectKind("negative_eda", "uS", "smallest value, below zero: physically impossible, an offset"),
    DefectKind("out_of_range", "uS", "largest value, above 60 uS"),
    DefectKind("steep_slope", "uS/s", "steepest step between two samples, above 10 uS/s"),
    DefectKind("flat_eda", "uS", "range over the whole trial, below 0.1 uS"),
    DefectKind("few_levels", "levels", "number of different values, below 50: mostly quantisation steps"),
    DefectKind("duplicate_listener", "", "the listener has more than one column in this file; all are kept"),
    DefectKind("odd_listener_id", "", "the listener's name does not look like those of the data set"),
    DefectKind("stray_blanks_in_header", "columns", "column names with blanks around them (stripped)"),
    DefectKind("not_in_metadata", "", "files or annotations for a song that is not in the table of songs"),
    DefectKind("duplicate_metadata_row", "rows", "rows of metadata.csv for this song; the first is used"),
    DefectKind("duplicate_annotation_row", "rows", "annotation rows for one song and time; the first is used"),
    DefectKind("unexpected_file", "", "a file whose name matches no song; it is left out"),
)
_OF_CLIPS = (
    DefectKind("clip_missing", "", "no sound file for this clip"),
    DefectKind("clip_too_small", "bytes", "the file is smaller than a wav header (44 bytes): a failed download"),
    DefectKind("clip_is_folder", "", "a folder has the name of the clip's file"),
    DefectKind("clip_unreadable", "bytes", "the file has no header of a sound file, or does not decode (if checked)"),
    DefectKind("clip_too_long", "s", "the file is longer than the excerpt, by more than 0.5 s; it is not used"),
    DefectKind("clip_too_short", "s", "the file is shorter than the excerpt, by more than 0.5 s; it is used"),
    DefectKind("duplicate_file", "files", "other files of this clip; the one named is used"),
    DefectKind("wrong_folder", "", "the file is in the folder of another subset or part; it is used"),
    DefectKind("other_excerpt", "s", "a strong table has an excerpt that starts this much later; it is not used"),
    DefectKind("event_outside", "s", "an event begins this long after the end of the excerpt"),
    DefectKind("unclaimed_files", "files", "sound files in one folder that belong to no clip; they are left out"),
    DefectKind("not_opened", "files", "sound files that were checked by name and size only"),
    DefectKind("audio_not_given", "", "no folder of sounds was given; rows have labels only"),
    DefectKind("group_not_given", "clips", "clips of a list without a group; each counts as a separate recording"),
    DefectKind("group_unmatched", "rows", "rows of a table of groups that match no clip of the data set"),
    DefectKind("missing_table", "", "a table that is missing, and the consequence"),
    DefectKind("table_left_out", "", "a table that also exists in another form, which is used instead"),
    DefectKind("own_label", "labels", "labels of your own lists that AudioSet does not have"),
)
_OF_UTTERANCES = (
    DefectKind("video_missing", "", "no clip for this utterance in its split; its text can be used"),
    DefectKind("video_unreadable", "bytes", "the clip's container cannot be opened (for example: no moov atom)"),
    DefectKind("cut_too_long", "s", "length of a clip above 30 s, or above 3 times and 10 s more than its row says"),
    DefectKind("cut_too_short", "s", "length of a clip's sound below 0.3 s; the sound is not used"),
    DefectKind("no_sound_track", "", "the clip has pictures only"),
    DefectKind("no_pictures", "", "the clip has sound only"),
    DefectKind("many_channels", "channels", "the clip has surround sound, which decoding mixes down"),
    DefectKind("twin_clip", "", "the clip exists twice; the one called final_videos_test... is used"),
    DefectKind("prefixed_clip", "", "the clip exists only under the name final_videos_test...; it is used"),
    DefectKind("double_clip", "files", "other files of the clip in other folders; the one named is used"),
    DefectKind("empty_text", "", "the text cell is empty; sound and pictures can be used"),
    DefectKind("sentiment_mismatch", "", "the sentiment differs from that of all other rows with this emotion"),
    DefectKind("unreadable_time", "", "a time that is not of the form 0:01:15,500; it is null"),
    DefectKind("no_duration", "s", "end minus start, zero or less"),
    DefectKind("long_by_table", "s", "duration by the row, above 30 s: the clip was cut wrongly"),
    DefectKind("time_backwards", "s", "the row starts this long before the previous row of its dialogue"),
    DefectKind("duplicate_utterance", "rows", "other rows of this split, dialogue and utterance; the first is used"),
    DefectKind("table_not_utf8", "lines", "lines of a table that are not UTF-8; they are read as Windows-1252"),
    DefectKind("control_characters", "characters", "C1 control characters in a table; they are read as Windows-1252"),
    DefectKind("split_missing", "", "a split whose table is missing; it is left out"),
    DefectKind("split_count", "rows", "a split with another number of rows than in MELD (9,989, 1,109 and 2,610)"),
    DefectKind("no_clips", "rows", "a split without clips: its rows have text only"),
    DefectKind("orphan_clips", "files", "clips in one folder that belong to no row; orphan_clips.csv lists them"),
    DefectKind(
        "side_files", "files", "files in one folder called ._* or *.*.mp4, which are no clips; they are skipped"
    ),
)
_OF_CREATIVES = (
    DefectKind("batch_unreadable", "bytes", "the batch of sounds that the index names is damaged or not data", True),
    DefectKind("batch_missing", "", "the batch of sounds that the index names is missing"),
    DefectKind("not_in_index", "", "the index lists it in no batch of sounds"),
    DefectKind("not_in_batch", "", "the batch of sounds that the index names does not have it"),
    DefectKind("not_in_file", "", "the file of this modality does not list it"),
    DefectKind("empty_embedding", "", "its entry is None or empty"),
    DefectKind("not_numbers", "", "its entry is not an array of numbers"),
    DefectKind("not_finite", "numbers", "numbers of its entry that are NaN or infinite; the entry is not used"),
    DefectKind("other_width", "numbers", "width of its entry, if it differs from the others; the entry is not used"),
    DefectKind("duplicate_id", "entries", "further entries with its id in one file; the first is used"),
    DefectKind("target_missing", "", "its target cell is empty, NaN or n/a; the target is null"),
    DefectKind("strangers_in_batch", "ids", "ids in its batch that the index does not list there; they are left out"),
    DefectKind("undeclared_ids", "ids", "ids of a file that labels.csv does not have; they are left out"),
    DefectKind("batch_not_indexed", "", "a batch of sounds beyond the last row of the index; it is left out"),
)
_OF_FILES = (DefectKind("name_not_utf8", "", "a file whose name is not UTF-8; it is left out. Rename it"),)
SIGNAL_DEFECTS = tuple(kind.name for kind in _OF_SIGNALS + _OF_FILES)  # data sets of sounds and skin conductance
CLIP_DEFECTS = tuple(kind.name for kind in _OF_CLIPS + _OF_FILES)  # data sets of clips, identified by an id
UTTERANCE_DEFECTS = tuple(kind.name for kind in _OF_UTTERANCES + _OF_FILES)  # data sets of utterances with clips
CREATIVE_DEFECTS = tuple(kind.name for kind in _OF_CREATIVES + _OF_FILES)  # data sets of stored embeddings
KINDS: dict[str, DefectKind] = {
    kind.name: kind for kind in _OF_SIGNALS + _OF_CLIPS + _OF_UTTERANCES + _OF_CREATIVES + _OF_FILES
}


def make_defect(what: str, how_much: float | None = None, listener: str | None = None, detail: str = "") -> dict:
    """Return an entry of a row's `defects` column; the unit comes from the kind.

    Args:
        what: name of a kind in KINDS.
        how_much: size of the defect, in the unit of the kind.
        listener: None if the defect concerns the whole row.
        detail: for people, such as the name of the file.
    """
    assert what in KINDS, what
    # Rounded, so that the last bits of floats do not make the Parquet files of two machines differ.
    how_much = None if how_much is None else round(float(how_much), 6)
    return {"listener": listener, "what": what, "how_much": how_much, "unit": KINDS[what].unit, "detail": detail}


def defects_csv(rows: Iterable[tuple[str, dict]], row: str = "song") -> str:
    """Return the text of `defects.csv`, one line per (row id, defect) pair; `row` is the header of the id column."""
    lines = [[row, "listener", "what", "how_much", "unit", "detail"]]
    for row_id, defect in rows:
        how_much = "" if defect["how_much"] is None else repr(defect["how_much"])
        lines.append([row_id, defect["listener"] or "", defect["what"], how_much, defect["unit"], defect["detail"]])
    return csv_text(lines)


def defects_table(rows: Iterable[tuple[str, dict]]) -> str:
    """Return a table for the terminal: one line per kind that occurs, with its count, number of rows and meaning."""
    pairs = [(defect["what"], row_id) for row_id, defect in rows]
    counts = Counter(what for what, _ in pairs)
    row_counts = Counter(what for what, _ in set(pairs))
    lines = [f"{'count':>7} {'rows':>6}  what"]
    for name, kind in KINDS.items():
        if counts[name]:
            unit = f" [{kind.unit}]" if kind.unit else ""
            lines.append(f"{counts[name]:>7} {row_counts[name]:>6}  {name}{unit}: {kind.meaning}")
    return "\n".join(lines) if counts else "no defects found"


def located(name: str, error: Exception) -> str:
    """Return the message of an error, prefixed with the file's name unless it begins with that already."""
    reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
    return f"{name}: {reason.removeprefix(f'{name}: ')}"
