"""Training on a GPU against what the card can do, and against peers: `python -m benchmarks.gpu`.

    python -m benchmarks.gpu --output benchmarks/results/<card>.md
    python -m benchmarks.gpu --small --device cpu

A step is forward, backward and fused AdamW on one batch of noise that stays on the device. Models: the TCN and the
WaveNet of benchmarks.models with a larger batch, beside pytorch-tcn and a textbook WaveNet; the detector of
configs/baby_cry.json on windows of one second; the fusion of configs/tunein_attention.json on embeddings of TuneIn's
widths; and that of configs/meld_fusion.json (BERT base, r3d_18, spectrogram) with all of its parts trained. Each runs
in float32 (on a GPU its products in TF32) and under bfloat16 autocast, as it is and through torch.compile. The cases
of one model take turns; one that fails is a row that says why.

Ceilings are measured first: one square matrix product in each precision, and one copy of a large tensor. A step's
operations are those of its matrix products and convolutions, forward and backward, as torch counts them. The bytes
that it has to move at least are the batch (read once), each tensor that its forward pass keeps for its backward pass
(written once, read once) and ten float32 numbers a weight: read forward and backward, gradient written and read,
weight and two moments read and written. Both are counted on our model as it is, uncompiled; its peer is judged by the
same count. (What is compiled may keep less, and compute it again.)

Peak memory is torch's, of a step, on top of weights, moments and batch. The Trainer's run is that of
configs/eda_tcn.json on its sample, started as in the README, without validation and checkpoints.
"""

import argparse
import contextlib
import gc
import importlib.util
import io
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.models import RIVALS, Ours, Size, matrix_product, training_step
from benchmarks.timing import Timing, compare, print_ratio, print_value, ratio
from modeling import FusionConfig, FusionForEmotion, FusionForRegression, TcnConfig, TcnForAudioClassification

REPOSITORY = Path(__file__).resolve().parent.parent
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("eager", "compiled")
NUMBERS_A_WEIGHT = 10  # that a step reads or writes of it, see above
FLOAT32, MEBIBYTE = 4, 2**20  # bytes
TIME_FOR_MODELS = 400  # s; a case that would begin later is left out, so that the rest fits in eight minutes
DETECTION_FRAMES = 51  # of a window of one second in configs/baby_cry.json
EMBEDDINGS = {"text": 384, "video": 512, "audio": 512, "back_audio": 448}  # numbers of TuneIn's
COLUMNS = (
    "training", "model", "precision", "mode", "items/s", "ms a step", "peak MiB", "of matmul", "of copy",
    "first step s",
)  # fmt: skip
NEEDED_BY_THE_TRAINER = ("datasets", "librosa", "soundfile", "soxr", "av", "evaluate", "accelerate", "sklearn")


@dataclass(frozen=True)
class Subject:
    """What is trained: our model, and whoever does the same."""

    name: str
    models: dict[str, Callable[[], nn.Module]]  # "ours" first
    batch: dict[str, torch.Tensor]

    @property
    def items(self) -> int:
        return len(self.batch["labels"])


@dataclass
class Case:
    """One way to train one model, and what was measured of it."""

    model: str
    precision: str
    mode: str
    first_seconds: float = 0.0  # of the first step, compiling included
    peak: int | None = None  # bytes; None where it is not known
    timing: Timing | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.model, self.precision, self.mode


@dataclass(frozen=True)
class Work:
    """What a step of our model has to do."""

    flops: int
    moved: int  # bytes


def settings_of(config: str) -> dict[str, Any]:
    """The model's settings in one of our configs."""
    return json.loads((REPOSITORY / "configs" / f"{config}.json").read_text(encoding="utf-8"))["model_config"]


def subjects(small: bool, device: str) -> Iterator[Subject]:
    """One after the other, so that only one is in memory."""
    size = Size(batch=2, frames=64, channels=8, blocks=2, stacks=1, layers=2) if small else Size(batch=256)
    for name in ("tcn", "wavenet"):
        models = {"ours": partial(RIVALS[name], size), "peer": partial(RIVALS[f"{name}_peer"], size)}
        yield Subject(name, models, size.noise(device))
    yield detection(4 if small else 4096, device)
    yield embeddings(8 if small else 8192, device)
    yield clips(small, device)


def detection(items: int, device: str) -> Subject:
    """The detector of a baby's cry on windows (B, T, F)."""
    config = TcnConfig(
        input_size=64, num_labels=1, problem_type="multi_label_classification", **settings_of("baby_cry")
    )
    batch = {
        "input_features": torch.randn(items, DETECTION_FRAMES, config.input_size, device=device),
        "attention_mask": torch.ones(items, DETECTION_FRAMES, dtype=torch.long, device=device),
        "labels": torch.randint(2, (items, 1), device=device).float(),
    }
    return Subject("detection", {"ours": lambda: Ours(TcnForAudioClassification(config))}, batch)


def embeddings(items: int, device: str) -> Subject:
    """The fusion of TuneIn's embeddings (B, T, E): one of text and of pictures, sixteen over time of the sounds."""
    config = FusionConfig(embedding_sizes=EMBEDDINGS, **settings_of("tunein_attention"))
    batch = {"labels": torch.randn(items, device=device)}
    for name, width in EMBEDDINGS.items():
        times = 16 if "audio" in name else 1
        batch[f"{name}_embeddings"] = torch.randn(items, times, width, device=device)
        batch[f"{name}_mask"] = torch.ones(items, times, dtype=torch.long, device=device)
    return Subject("fusion_embeddings", {"ours": lambda: Ours(FusionForRegression(config))}, batch)


def clips(small: bool, device: str) -> Subject:
    """The fusion of MELD's text (B, L), pictures (B, 3, N, height, width) and sound (B, T, F), trained throughout."""
    settings = settings_of("meld_sample" if small else "meld_fusion") | {"freeze_text": False, "freeze_video": False}
    if small:
        settings["text_config"] = json.loads((REPOSITORY / "configs/tiny_bert/config.json").read_text("utf-8"))
    items, tokens, frames, pixels, spectra = (4, 8, 4, 16, 16) if small else (32, 32, 16, 112, 128)
    config = FusionConfig(**settings)
    batch = {
        "input_ids": torch.randint(100, (items, tokens), device=device),
        "pixel_values": torch.randn(items, 3, frames, pixels, pixels, device=device),
        "input_features": torch.randn(items, spectra, config.num_mel_bins, device=device),
        "labels": torch.randint(3, (items, 2), device=device),
    }
    for mask, length in (("attention_mask", tokens), ("frame_mask", frames), ("features_mask", spectra)):
        batch[mask] = torch.ones(items, length, dtype=torch.long, device=device)
    return Subject("fusion_clips", {"ours": lambda: Ours(FusionForEmotion(config))}, batch)


def synchronize(device: str) -> None:
    """Wait for what a GPU has been given to do."""
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(run: Callable[[], object], device: str, times: int = 20) -> float:
    """Seconds of the fastest of some calls, by the device's own clock where it is a GPU."""
    run()
    seconds = []
    for _ in range(times):
        if device == "cuda":
            start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            run()
            stop.record()
            stop.synchronize()
            seconds.append(start.elapsed_time(stop) / 1e3)
        else:
            begin = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - begin)
    return min(seconds)


def ceilings(small: bool, device: str) -> dict[str, float]:
    """Floating-point operations a second of a square matrix product by precision, and bytes a second of a copy."""
    flops = 2 * (512 if small else 8192) ** 3
    found = {name: flops / fastest(matrix_product(flops, device, kind), device) for name, kind in PRECISIONS.items()}
    source = torch.zeros((16 if small else 4096) * MEBIBYTE, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    found["copy"] = 2 * len(source) / fastest(lambda: target.copy_(source), device)  # each byte is read and written
    return found


@contextlib.contextmanager
def counted(model: nn.Module, batch: dict[str, torch.Tensor], found: dict[str, Work], name: str) -> Iterator[None]:
    """Put into `found` what the step inside the block had to do."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    given = {value.untyped_storage().data_ptr(): value.nbytes for value in batch.values()}
    kept: dict[int, int] = {}  # storages that the backward pass waits for, by address: their bytes

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights | given.keys():
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with FlopCounterMode(display=False) as counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda kept: kept):
        yield
    numbers = sum(p.numel() for p in model.parameters())
    moved = sum(given.values()) + 2 * sum(kept.values()) + NUMBERS_A_WEIGHT * FLOAT32 * numbers
    found[name] = Work(counter.get_total_flops(), moved)


def measure(subject: Subject, options: argparse.Namespace, deadline: float) -> tuple[list[Case], dict[str, Work]]:
    """All cases of a subject, and what a step of ours has to do in each precision."""
    torch._dynamo.reset()  # else earlier subjects count towards how often one function may be compiled
    device, rounds = options.device, 3 if options.small else 20
    work: dict[str, Work] = {}
    cases = [Case(*key) for key in itertools.product(subject.models, PRECISIONS, MODES)]
    if options.small:
        cases = [case for case in cases if case.mode == "eager" or case.precision == "float32"]
    steps = {}
    for case in cases:
        print(f"{subject.name}: {' '.join(case.key)}", file=sys.stderr, flush=True)
        try:
            if time.monotonic() > deadline:
                raise TimeoutError(f"left out, for {TIME_FOR_MODELS} s had passed")
            steps[case.key] = begin(subject, case, device, options.compiler, work)
        except Exception as error:  # whatever it is, it is the result of this case
            case.error = in_a_cell(error)
        free(device)
    try:
        timings = compare(steps, rounds, warmup=1, synchronize=partial(synchronize, device))
    except Exception as error:
        timings, why = {}, in_a_cell(error)
    for case in cases:
        case.timing = timings.get(case.key)
        if case.timing is None and case.error is None:
            case.error = why
    return cases, work


def in_a_cell(error: Exception) -> str:
    """An error as a cell of a Markdown table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].replace('|', '/')}"


def free(device: str) -> None:
    """Give back what a case that failed has left."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def begin(subject: Subject, case: Case, device: str, compiler: str, work: dict[str, Work]) -> Callable[[], None]:
    """A new model's step, after a first one whose time and a second whose memory are noted."""
    torch.manual_seed(0)
    model = subject.models[case.model]().to(device)
    compiled = torch.compile(model, backend=compiler) if case.mode == "compiled" else model
    step = training_step(compiled, bf16=case.precision == "bfloat16")
    counting = case.model == "ours" and case.mode == "eager"
    start = time.perf_counter()
    with counted(model, subject.batch, work, case.precision) if counting else contextlib.nullcontext():
        step(subject.batch)
    synchronize(device)
    case.first_seconds = time.perf_counter() - start
    if device == "cuda":
        model.zero_grad()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step(subject.batch)
        synchronize(device)
        case.peak = torch.cuda.max_memory_allocated() - before
    return lambda: step(subject.batch)


def train_eda(device: str, steps: int) -> dict[str, float]:
    """The Trainer's items a second and the share of its time that waited for data."""
    missing = [name for name in NEEDED_BY_THE_TRAINER if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"the Trainer's run needs {', '.join(missing)}, not installed here")
    from benchmarks.training import OFF  # which needs them too

    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launch += [f"accelerate_configs/{'one_gpu' if device == 'cuda' else 'cpu'}.yaml", "run_train.py"]
    with tempfile.TemporaryDirectory() as folder:
        run = ["configs/eda_tcn.json", "--dataset_config", "sample", "--output_dir", folder, "--max_steps", str(steps)]
        done = subprocess.run([*launch, *run, *OFF], cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"run_train.py ended with {done.returncode}: {done.stderr.strip()[-300:]}")
        training = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))["training"]
    return {
        "trainer_items_per_second": training["log"][-1]["train_samples_per_second"],
        "trainer_data_wait_share": training["data_wait_share"],
    }


def print_cases(subject: Subject, cases: list[Case], work: dict[str, Work], ceiling: dict[str, float]) -> None:
    """A Markdown row a case."""
    for case in cases:
        cells = [subject.name, *case.key]
        if case.timing is None:
            print(f"| {' | '.join(cells)} | {case.error} | | | | | |")
            continue
        seconds = case.timing.median
        peak = "" if case.peak is None else f"{case.peak / MEBIBYTE:,.0f}"
        shares = ["", ""]
        if case.precision in work:
            found = shares_of(work[case.precision], seconds, case.precision, ceiling)
            shares = [f"{100 * share:.2g} %" for share in found]
        speed = [f"{subject.items / seconds:,.0f}", f"{1e3 * seconds:.2f}"]
        print(f"| {' | '.join([*cells, *speed, peak, *shares, f'{case.first_seconds:.1f}'])} |")


def shares_of(work: Work, seconds: float, precision: str, ceiling: dict[str, float]) -> tuple[float, float]:
    """What part of the matrix product's and of the copy's speed a step reaches."""
    return work.flops / seconds / ceiling[precision], work.moved / seconds / ceiling["copy"]


def print_figures(
    subject: Subject, cases: list[Case], work: dict[str, Work], ceiling: dict[str, float], device: str
) -> None:
    """The lines for scripts."""
    timings = {case.key: case.timing for case in cases if case.timing is not None}
    for (model, precision, mode), timing in timings.items():
        name = f"{subject.name}_{precision}_{mode}_{device}"
        if model != "ours":
            continue
        print_value(f"{name}_items_per_second", subject.items / timing.median, "items/s")
        if precision in work:
            matmul, copy = shares_of(work[precision], timing.median, precision, ceiling)
            print_ratio(f"{name}_vs_matmul_ceiling", matmul)
            print_ratio(f"{name}_vs_copy_ceiling", copy)
        rivals = {"peer": ("peer", precision, mode)}
        rivals |= {"eager": (model, precision, "eager")} if mode == "compiled" else {}
        rivals |= {"float32": (model, "float32", mode)} if precision == "bfloat16" else {}
        for rival, key in rivals.items():
            if key in timings:
                print_ratio(f"{name}_vs_{rival}", ratio(timings[key], timing))


def print_head(options: argparse.Namespace) -> None:
    """The card, the command, and what else a figure depends on."""
    gpu = options.device == "cuda"
    card = torch.cuda.get_device_name() if gpu else f"CPU ({torch.get_num_threads()} threads)"
    print(f"# {card}\n\n    {' '.join(['python -m benchmarks.gpu', *sys.argv[1:]])}\n")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, transformers {transformers.__version__}, ", end="")
    print(f"Python {platform.python_version()}; torch.compile by {options.compiler}.", end=" ")
    print("float32 is TF32 in matrix products and convolutions." if gpu else "")
    print("How things are counted stands in `benchmarks/gpu.py`.\n")


def print_ceilings(ceiling: dict[str, float]) -> None:
    """What the device can do, as a table."""
    print("| ceiling | |\n|---|---|")
    for name in PRECISIONS:
        print(f"| matrix product, {name} | {ceiling[name] / 1e12:.3g} TFLOP/s |")
    print(f"| copy | {ceiling['copy'] / 1e9:.4g} GB/s |\n")


def print_training_of_eda(options: argparse.Namespace) -> dict[str, float]:
    """What the Trainer's run gave, or why there was none; its figures."""
    try:
        found = train_eda(options.device, steps=20 if options.small else 400)
    except (ImportError, RuntimeError) as error:
        print(f"The Trainer's run is left out: {' '.join(str(error).split())}.\n")
        return {}
    print("The Trainer's run of `configs/eda_tcn.json`, batches of 16:", end=" ")
    print("{:,.0f} items/s, {:.3f} of the time waiting for data.\n".format(*found.values()))
    return found


def report(options: argparse.Namespace) -> None:
    """Measure everything, and print a page of Markdown."""
    device, began = options.device, time.monotonic()
    if device == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32, as cuDNN's convolutions have it by default
    print_head(options)
    ceiling = ceilings(options.small, device)
    print_ceilings(ceiling)
    trained = print_training_of_eda(options)
    print(f"| {' | '.join(COLUMNS)} |\n|{len(COLUMNS) * '---|'}")
    measured = []
    for subject in subjects(options.small, device):
        cases, work = measure(subject, options, began + TIME_FOR_MODELS)
        print_cases(subject, cases, work, ceiling)
        measured.append((subject, cases, work))
    print("\n```")
    for name in PRECISIONS:
        print_value(f"matmul_{name}_{device}", ceiling[name] / 1e12, "TFLOP/s")
    print_value(f"copy_{device}", ceiling["copy"] / 1e9, "GB/s")
    for name, value in trained.items():
        print_value(f"{name}_{device}", value, "items/s" if "items" in name else "of training time")
    for subject, cases, work in measured:
        print_figures(subject, cases, work, ceiling, device)
    print_value(f"benchmark_seconds_{device}", time.monotonic() - began, "s")
    print("```")


def main() -> None:
    """Measure, print, and write the page if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="what a CPU can do; compiled in float32 only")
    compilers = {"choices": ("inductor", "aot_eager"), "default": "inductor"}
    parser.add_argument("--compiler", **compilers, help="aot_eager only traces, and needs no C++ compiler")
    parser.add_argument("--output", type=Path, help="write the page to this file as well")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU here; take --device cpu --small")
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu: these models and batches are sized for a GPU; add --small")
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        report(options)
    print(said.getvalue())
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        draft = options.output.with_name(f".{options.output.name}.part")
        draft.write_text(said.getvalue(), encoding="utf-8")
        os.replace(draft, options.output)


if __name__ == "__main__":
    main()
