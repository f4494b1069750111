"""Training speed on a GPU, compared with the limits of the card and with peers: `python -m benchmarks.gpu`.

    python -m benchmarks.gpu --output benchmarks/results/<card>.md
    python -m benchmarks.gpu --small --device cpu

A step is forward, backward and fused AdamW on one batch of noise that stays on the device. Models: the TCN and the
WaveNet of benchmarks.models with a larger batch, compared with pytorch-tcn and a textbook WaveNet; the detector of
configs/baby_cry.json on windows of one second; the fusion of configs/tunein_attention.json on embeddings of TuneIn's
widths; and the fusion of configs/meld_fusion.json (BERT base, r3d_18, spectrogram) with all parts trained. Each runs
in float32 (with TF32 products on a GPU) and under bfloat16 autocast, eager and through torch.compile. The cases of one
model take turns. A case that fails becomes a row with the error.

Ceilings are measured first: one square matrix product in each precision, and one copy of a large tensor. The
operations of a step are those of its matrix products and convolutions, forward and backward, as torch counts them.
The bytes that a step must move at least are the batch (read once), each tensor that the forward pass keeps for the
backward pass (written once, read once) and ten float32 numbers per weight: read forward and backward, gradient written
and read, weight and two moments read and written. Both are counted on our uncompiled model, and the same count is used
for the peer. (A compiled model may keep less and recompute it.)

Peak memory is torch's, for one step, on top of weights, moments and batch. The Trainer's run uses configs/eda_tcn.json
on its sample, started as in the README, without validation and checkpoints.
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
# Not float16, which would need loss scaling, so another step.
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
MODES = ("eager", "compiled")
NUMBERS_A_WEIGHT = 10  # numbers read or written per weight and step, see above
FLOAT32, MEBIBYTE = 4, 2**20  # bytes
TIME_FOR_MODELS = 400  # s; cases that would start later are left out, so that everything fits in eight minutes
DETECTION_FRAMES = 51  # frames of a one-second window in configs/baby_cry.json
EMBEDDINGS = {"text": 384, "video": 512, "audio": 512, "back_audio": 448}  # widths of TuneIn's embeddings
COLUMNS = (
    "training", "model", "precision", "mode", "items/s", "ms per step", "peak MiB", "of matmul", "of copy",
    "first step s",
)  # fmt: skip
NEEDED_BY_THE_TRAINER = ("datasets", "librosa", "soundfile", "soxr", "av", "evaluate", "accelerate", "sklearn")


@dataclass(frozen=True)
class Subject:
    """A training task: our model, its peers and a batch."""

    name: str
    models: dict[str, Callable[[], nn.Module]]  # "ours" first
    batch: dict[str, torch.Tensor]

    @property
    def items(self) -> int:
        return len(self.batch["labels"])


@dataclass
class Case:
    """One way to train one model, and its measurements."""

    model: str
    precision: str
    mode: str
    first_seconds: float = 0.0  # of the first step, including compilation
    peak: int | None = None  # bytes; None: not measured
    timing: Timing | None = None
    error: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        return self.model, self.precision, self.mode


@dataclass(frozen=True)
class Work:
    """The operations and the bytes of one step of our model."""

    flops: int
    moved: int  # bytes


def settings_of(config: str) -> dict[str, Any]:
    """Return the model settings of one of our configs."""
    return json.loads((REPOSITORY / "configs" / f"{config}.json").read_text(encoding="utf-8"))["model_config"]


def subjects(small: bool, device: str) -> Iterator[Subject]:
    """Yield all subjects, one at a time, so that only one is in memory."""
    size = Size(batch=2, frames=64, channels=8, blocks=2, stacks=1, layers=2) if small else Size(batch=256)
    for name in ("tcn", "wavenet"):
        models = {"ours": partial(RIVALS[name], size), "peer": partial(RIVALS[f"{name}_peer"], size)}
        yield Subject(name, models, size.noise(device))
    yield detection(4 if small else 4096, device)
    yield embeddings(8 if small else 8192, device)
    yield clips(small, device)


def detection(items: int, device: str) -> Subject:
    """Return the detector of a baby's cry with windows (B, T, F)."""
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
    """Return the fusion of TuneIn's embeddings (B, T, E): T is 1 for text and video, 16 for the sounds."""
    config = FusionConfig(embedding_sizes=EMBEDDINGS, **settings_of("tunein_attention"))
    batch = {"labels": torch.randn(items, device=device)}
    for name, width in EMBEDDINGS.items():
        frames = 16 if "audio" in name else 1
        batch[f"{name}_embeddings"] = torch.randn(items, frames, width, device=device)
        batch[f"{name}_mask"] = torch.ones(items, frames, dtype=torch.long, device=device)
    return Subject("fusion_embeddings", {"ours": lambda: Ours(FusionForRegression(config))}, batch)


def clips(small: bool, device: str) -> Subject:
    """Return the fusion of MELD's text (B, L), video (B, 3, N, H, W) and sound (B, T, F), with all parts trained."""
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
    if device == "cuda":
        torch.cuda.synchronize()


def fastest(run: Callable[[], object], device: str, times: int = 20) -> float:
    """Return the seconds of the fastest call; on a GPU by its own clock, because launches are asynchronous."""
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
            started = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - started)
    return min(seconds)


def ceilings(small: bool, device: str) -> dict[str, float]:
    """Return the operations per second of a square matrix product by precision, and the bytes per second of a copy."""
    flops = 2 * (512 if small else 8192) ** 3
    speeds = {
        name: flops / fastest(matrix_product(flops, device, dtype), device) for name, dtype in PRECISIONS.items()
    }
    source = torch.zeros((16 if small else 4096) * MEBIBYTE, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    speeds["copy"] = 2 * len(source) / fastest(lambda: target.copy_(source), device)  # each byte is read and written
    return speeds


@contextlib.contextmanager
def counted(model: nn.Module, batch: dict[str, torch.Tensor], work: dict[str, Work], name: str) -> Iterator[None]:
    """Count the work of the step inside the block into `work[name]`."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    inputs = {value.untyped_storage().data_ptr(): value.nbytes for value in batch.values()}
    saved: dict[int, int] = {}  # address -> bytes of storages that are kept for the backward pass

    # By storage, because several saved tensors can be views of one storage.
    def save(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights | inputs.keys():
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(save, lambda saved: saved),
    ):
        yield
    numbers = sum(p.numel() for p in model.parameters())
    moved = sum(inputs.values()) + 2 * sum(saved.values()) + NUMBERS_A_WEIGHT * FLOAT32 * numbers
    work[name] = Work(counter.get_total_flops(), moved)


def measure(subject: Subject, options: argparse.Namespace, deadline: float) -> tuple[list[Case], dict[str, Work]]:
    """Measure all cases of a subject; return them, and the work of our step in each precision."""
    torch._dynamo.reset()  # otherwise earlier subjects count towards dynamo's limit of recompilations
    device, rounds = options.device, 3 if options.small else 20
    work: dict[str, Work] = {}
    cases = [Case(*key) for key in itertools.product(subject.models, PRECISIONS, MODES)]
    if options.small:  # compilation takes most of the time on a CPU
        cases = [case for case in cases if case.mode == "eager" or case.precision == "float32"]
    steps = {}
    for case in cases:
        print(f"{subject.name}: {' '.join(case.key)}", file=sys.stderr, flush=True)
        try:
            if time.monotonic() > deadline:
                raise TimeoutError(f"left out, because {TIME_FOR_MODELS} s had passed")
            steps[case.key] = begin(subject, case, device, options.compiler, work)
        except Exception as error:  # any error (out of memory, a compiler bug) is the result of this case
            case.error = in_a_cell(error)
        free(device)
    try:
        timings = compare(steps, rounds, warmup=1, synchronize=partial(synchronize, device))
    except Exception as error:
        timings, failure = {}, in_a_cell(error)
    for case in cases:
        case.timing = timings.get(case.key)
        if case.timing is None and case.error is None:
            case.error = failure
    return cases, work


def in_a_cell(error: Exception) -> str:
    """Format an error as a cell of a Markdown table."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200].replace('|', '/')}"


def free(device: str) -> None:
    """Free the memory of a failed case."""
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()


def begin(subject: Subject, case: Case, device: str, compiler: str, work: dict[str, Work]) -> Callable[[], None]:
    """Return the step of a new model, after measuring the time of a first step and the memory of a second one."""
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
    """Return the Trainer's items per second, and the share of its time that it waits for data."""
    missing = [name for name in NEEDED_BY_THE_TRAINER if importlib.util.find_spec(name) is None]
    if missing:
        raise ModuleNotFoundError(f"missing packages: {', '.join(missing)}")
    from benchmarks.training import OFF  # imported here, because it needs the same packages

    launch = [sys.executable, "-m", "accelerate.commands.launch", "--config_file"]
    launch += [f"accelerate_configs/{'one_gpu' if device == 'cuda' else 'cpu'}.yaml", "run_train.py"]
    with tempfile.TemporaryDirectory() as folder:
        run = ["configs/eda_tcn.json", "--dataset_config", "sample", "--output_dir", folder, "--max_steps", str(steps)]
        done = subprocess.run([*launch, *run, *OFF], cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"run_train.py: exit status {done.returncode}. {done.stderr.strip()[-300:]}")
        training = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))["training"]
    return {
        "trainer_items_per_second": training["log"][-1]["train_samples_per_second"],
        "trainer_data_wait_share": training["data_wait_share"],
    }


def print_cases(subject: Subject, cases: list[Case], work: dict[str, Work], ceiling: dict[str, float]) -> None:
    """Print one Markdown row per case."""
    for case in cases:
        cells = [subject.name, *case.key]
        if case.timing is None:
            print(f"| {' | '.join(cells)} | {case.error} | | | | | |")
            continue
        seconds = case.timing.median
        peak = "" if case.peak is None else f"{case.peak / MEBIBYTE:,.0f}"
        shares = ["", ""]
        if case.precision in work:
            reached = shares_of(work[case.precision], seconds, case.precision, ceiling)
            shares = [f"{100 * share:.2g} %" for share in reached]
        speed = [f"{subject.items / seconds:,.0f}", f"{1e3 * seconds:.2f}"]
        print(f"| {' | '.join([*cells, *speed, peak, *shares, f'{case.first_seconds:.1f}'])} |")


def shares_of(work: Work, seconds: float, precision: str, ceiling: dict[str, float]) -> tuple[float, float]:
    """Return which shares of the matrix product's and of the copy's speed a step reaches."""
    return work.flops / seconds / ceiling[precision], work.moved / seconds / ceiling["copy"]


def print_figures(
    subject: Subject, cases: list[Case], work: dict[str, Work], ceiling: dict[str, float], device: str
) -> None:
    """Print the lines for scripts."""
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
    """Print the card, the command and the versions."""
    gpu = options.device == "cuda"
    card = torch.cuda.get_device_name() if gpu else f"CPU ({torch.get_num_threads()} threads)"
    print(f"# {card}\n\n    {' '.join(['python -m benchmarks.gpu', *sys.argv[1:]])}\n")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}, transformers {transformers.__version__}, ", end="")
    print(f"Python {platform.python_version()}; torch.compile by {options.compiler}.", end=" ")
    print("float32 is TF32 in matrix products and convolutions." if gpu else "")
    print("`benchmarks/gpu.py` describes how operations and bytes are counted.\n")


def print_ceilings(ceiling: dict[str, float]) -> None:
    print("| ceiling | |\n|---|---|")
    for name in PRECISIONS:
        print(f"| matrix product, {name} | {ceiling[name] / 1e12:.3g} TFLOP/s |")
    print(f"| copy | {ceiling['copy'] / 1e9:.4g} GB/s |\n")


def print_training_of_eda(options: argparse.Namespace) -> dict[str, float]:
    """Print and return the figures of the Trainer's run; without one, print why."""
    try:
        figures = train_eda(options.device, steps=20 if options.small else 400)
    except (ImportError, RuntimeError) as error:
        print(f"The Trainer's run is left out: {' '.join(str(error).split())}.\n")
        return {}
    print("The Trainer's run of `configs/eda_tcn.json`, batches of 16:", end=" ")
    print("{:,.0f} items/s, {:.3f} of the time waiting for data.\n".format(*figures.values()))
    return figures


def report(options: argparse.Namespace) -> None:
    """Measure everything and print a page of Markdown."""
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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--small", action="store_true", help="sizes for a CPU; compiled in float32 only")
    compilers = {"choices": ("inductor", "aot_eager"), "default": "inductor"}
    parser.add_argument("--compiler", **compilers, help="aot_eager only traces, and needs no C++ compiler")
    parser.add_argument("--output", type=Path, help="write the page to this file as well")
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch finds no GPU. Use --device cpu --small.")
    if options.device == "cpu" and not options.small:
        parser.error("--device cpu: these models and batches are sized for a GPU. Add --small.")
    page = io.StringIO()
    with contextlib.redirect_stdout(page):
        report(options)
    print(page.getvalue())
    if options.output:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        # Written to a draft and renamed, so that an interrupted program leaves no partial page.
        draft = options.output.with_name(f".{options.output.name}.part")
        draft.write_text(page.getvalue(), encoding="utf-8")
        os.replace(draft, options.output)


if __name__ == "__main__":
    main()
