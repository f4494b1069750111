"""The readers that `benchmarks.mutations` attacks, each with small valid files."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

import hf_datasets.audioset.synthesize
import hf_datasets.folder.synthesize
import hf_datasets.hku956.synthesize
import hf_datasets.meld.synthesize
import hf_datasets.pmemo.synthesize
import hf_datasets.tunein.synthesize
from hf_datasets.audioset.own_lists import read_lists
from hf_datasets.audioset.tree import read_tree as read_audioset
from hf_datasets.folder.metadata import read_folder
from hf_datasets.folder.recording import read_signal as read_folder_signal
from hf_datasets.hku956.raw import read_signal as read_hku956_signal
from hf_datasets.hku956.raw import read_tree as read_hku956
from hf_datasets.meld.raw import read_tree as read_meld
from hf_datasets.pmemo.raw import read_eda
from hf_datasets.pmemo.raw import read_tree as read_pmemo
from hf_datasets.tunein.raw import read_tree as read_tunein
from launch.run import parse_run
from media.audio import audio_seconds, read_audio, read_audio_blocks
from media.biosignal import process_eda
from media.eda_settings import EdaSettings
from media.video import probe_clip, read_clip
from modeling import SIGNAL_CONFIGS, FusionConfig
from tasks.emotion.subtitles import read_utterances

RATE = 8000  # Hz
SUBTITLES = {
    "srt": "1\n00:00:01,000 --> 00:00:02,500\nYou <i>came</i>!\n\n2\n00:00:03,000 --> 00:00:04,000\nI did.\n",
    "vtt": "WEBVTT\n\n00:01.000 --> 00:02.500\nYou came &amp; went!\n\n01:00:03.000 --> 01:00:04.000\nI did.\n",
    "csv": 'start,end,text\n1.0,2.5,You came!\n0:03.0,0:04.0,"I, too."\n',
}
LISTS = {
    "pos_strong": "segment_id\tstart_time_seconds\tend_time_seconds\tlabel\tgroup\n"
    "abcdefghijk_30000\t0.5\t2.25\t/m/0t3\tone\nlmnopqrstuv_0\t1\t10\t/m/0t3\t\n",
    "neg_strong": "filename,onset,offset,event_label,present\n"
    'street/1.wav,0,4.5,"Dog, bark",PRESENT\nstreet/2.wav,1.0,2.0,Speech,NOT_PRESENT\n',
    "weak": "# Segments csv\n# num_segs=2\n# YTID, start_seconds, end_seconds, positive_labels\n"
    'abcdefghijk, 30.000, 40.000, "/m/09x0r,/t/dd00003"\nlmnopqrstuv, 0.000, 10.000, "/m/04rlf"\n',
    "weak_own": "clip_id,start_seconds,end_seconds,labels\nabcdefghijk,30.0,40.0,Speech; Baby cry\n"
    "lmnopqrstuv,0,9,/m/04rlf\n",
    "group": "clip_id,group\nabcdefghijk,one\nlmnopqrstuv,two\n",
}


@dataclass(frozen=True)
class Reader:
    """A function that reads one file, valid files for it, and the errors that it documents."""

    name: str  # also part of the seed of its cases
    files: tuple[Path, ...]
    read: Callable[[Path], object]
    names_file: bool = True  # false: the caller puts the file name before the message
    errors: tuple[type[BaseException], ...] = (ValueError,)


def all_readers(folder: Path) -> list[Reader]:
    """Return all readers; write their files below `folder`."""
    return [
        *readers_of_trees(folder / "trees"),
        *readers_of_signals(folder / "trees"),
        *readers_of_media(folder / "media", folder / "trees"),
        *readers_of_settings(folder / "settings"),
    ]


def readers_of_trees(folder: Path) -> list[Reader]:
    """Return the readers of tables and pickles; each reads a whole small raw tree."""
    tunein, pmemo, hku956, meld, audioset, songs = (
        folder / name for name in ("tunein", "pmemo", "hku956", "meld", "audioset", "folder")
    )
    hf_datasets.tunein.synthesize.synthesize(tunein, num_creatives=12, defects="none")
    hf_datasets.pmemo.synthesize.synthesize(pmemo, 2, 2, seconds=(20.0, 21.0), defects="none")
    hf_datasets.hku956.synthesize.synthesize(hku956, 3, 3, 2, seconds=(20.0, 21.0), defects="none")
    hf_datasets.meld.synthesize.synthesize(meld, 8, 8, 8, defects="none")
    hf_datasets.audioset.synthesize.synthesize(audioset, 40, 20, defects="none")
    hf_datasets.folder.synthesize.synthesize(songs, 2, 2, seconds=(20.0, 21.0))
    return [
        Reader("TuneIn pickles", files(tunein, "*.pkl"), lambda path: read_tunein(tunein)),
        Reader("TuneIn tables", files(tunein, "*.csv"), lambda path: read_tunein(tunein)),
        Reader("PMEmo tables", files(pmemo, "metadata.csv", "*annotations.csv"), lambda path: read_pmemo(pmemo)),
        Reader("HKU956 tables", files(hku956, "[2-9]*/*.csv", "[2-9]*.csv"), lambda path: read_hku956(hku956, None)),
        Reader("MELD tables", files(meld, "*.csv"), lambda path: read_meld(meld, False)),
        Reader(
            "AudioSet tables",
            files(audioset, "*.csv", "*.tsv", "*.json"),
            lambda path: read_audioset(str(audioset), None, ["Baby cry, infant cry"], {}),
        ),
        Reader("folder's metadata.csv", files(songs, "metadata.csv"), lambda path: read_folder(songs)),
    ]


def readers_of_signals(trees: Path) -> list[Reader]:
    """Return the readers of skin conductance, which also process the signals."""

    def process(values: np.ndarray, rate: float) -> None:
        process_eda(values, rate, EdaSettings())

    def pmemo(path: Path) -> None:
        _, columns, _ = read_eda(path.read_bytes())
        for values in columns.T[1:]:
            process(values, 50.0)

    def hku956(path: Path) -> None:
        values, _, _ = read_hku956_signal(path.read_bytes())
        process(values, 4.0)

    def folder(path: Path) -> None:
        process(read_folder_signal(path.read_bytes(), None).values, 4.0)

    return [
        Reader("PMEmo signals", files(trees / "pmemo", "*_EDA.csv"), pmemo, names_file=False),
        Reader("HKU956 signals", files(trees / "hku956", "EDA/*.csv"), hku956, names_file=False),
        Reader("folder's signals", files(trees / "folder", "signals/*.csv"), folder, names_file=False),
    ]


def readers_of_media(folder: Path, trees: Path) -> list[Reader]:
    """Return the readers of sounds and clips."""
    folder.mkdir(parents=True)
    sound = 0.3 * np.sin(np.arange(2 * RATE) / 5)
    formats = {
        "wav": "PCM_16",
        "flac": "PCM_16",
        "ogg": "VORBIS",
        "mp3": "MPEG_LAYER_III",
        "aiff": "PCM_24",
        "au": "ULAW",
    }
    for name, subtype in formats.items():
        soundfile.write(folder / f"sound.{name}", sound, RATE, subtype, format=name.upper())
    for clip in files(trees / "meld", "*.mp4")[:3]:
        shutil.copyfile(clip, folder / clip.name)

    def read_at_once(path: Path) -> None:
        read_audio(path, 2 * RATE)

    def read_in_blocks(path: Path) -> None:
        audio_seconds(path)
        for _ in read_audio_blocks(path):
            pass

    def read_video(path: Path) -> None:
        probe_clip(path)
        read_clip(path, num_frames=4, size=(32, 32), audio_rate=RATE)

    return [
        Reader("sounds", files(folder, "sound.*"), read_at_once),
        Reader("sounds in blocks", files(folder, "sound.*"), read_in_blocks),
        Reader("clips", files(folder, "*.mp4"), read_video),
    ]


def readers_of_settings(folder: Path) -> list[Reader]:
    """Return the readers of lists of sounds, subtitles, run configs and model configs."""
    folder.mkdir(parents=True)
    for list_type, text in LISTS.items():
        (folder / f"list-{list_type}.txt").write_text(text, encoding="utf-8")
    for suffix, text in SUBTITLES.items():
        (folder / f"subtitles.{suffix}").write_text(text, encoding="utf-8")
    for config in Path("configs").glob("*.json"):
        shutil.copyfile(config, folder / config.name)
    models = []
    for config_class in (*SIGNAL_CONFIGS, FusionConfig):
        config_class().save_pretrained(folder / config_class.model_type)
        models.append(folder / config_class.model_type / "config.json")
    return [
        Reader("own lists", files(folder, "list-*"), own_list),
        Reader("subtitles", files(folder, "subtitles.*"), read_utterances),
        Reader("configs of runs", tuple(sorted(folder.glob("*.json"))), run_config, errors=(SystemExit,)),
        Reader("configs of models", tuple(models), model_config, names_file=False),
    ]


def own_list(path: Path) -> None:
    """Read a list; its type is part of the file name."""
    list_type = path.stem.removeprefix("list-").removesuffix("_own")
    read_lists({list_type: [str(path)]})


def run_config(path: Path) -> None:
    """Read a config as run_train.py does."""
    parse_run([str(path)])


def model_config(path: Path) -> None:
    """Read the config of a saved model, with errors of transformers on one line, as programs print them."""
    try:
        AutoConfig.from_pretrained(path.parent)
    except (ValueError, OSError, StrictDataclassError) as error:
        raise ValueError(" ".join(str(error).split())) from error


def files(folder: Path, *patterns: str) -> tuple[Path, ...]:
    """Return the files below a folder that match, sorted; at least one must exist."""
    matching = sorted({path for pattern in patterns for path in folder.rglob(pattern)})
    assert matching, f"{folder} has no {patterns}"
    return tuple(matching)
