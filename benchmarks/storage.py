"""Fetch 200 objects of 400 to 600 KB from a store with a latency of 30 ms: `python -m benchmarks.storage`.

All rivals fetch the same objects into files of a fresh folder, in one run, from a local server process
(object_server.py) that answers after 30 ms. The floor is 16 kept-alive HTTP connections that write responses to files
without checks. Rivals that fetch in parallel have a warm-up and then take turns in three rounds; the best counts.
Rivals that fetch one object after the other are timed once. Those that need several requests per object fetch only
SLOW_SHARE of the objects, and their time is scaled up (marked in the table).

The waiting time is that of a loop over 150 files with 20 ms of work per file, without prefetching and with a window
of 8 files.
"""

import argparse
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

OBJECTS, LATENCY, WORKERS = 200, 0.03, 16  # s of latency
SLOW_SHARE = 0.2  # share of the objects for the slowest rivals
ITEMS, WORK, WINDOW = 150, 0.02, 8  # s of work per item
HITS = 20_000  # calls for cached files, to average a few microseconds


def start_server() -> tuple[subprocess.Popen, int]:
    """Start the store and return it with its port; set the environment so that every client uses it and no other."""
    command = [sys.executable, "-m", "benchmarks.object_server", str(OBJECTS), str(LATENCY)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    port = int(server.stdout.readline())
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ |= {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",  # otherwise clients wait for a metadata server that does not exist
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    return server, port


KEYS = [f"{i:04d}.wav" for i in range(OBJECTS)]
URLS = [f"s3://bench/{key}" for key in KEYS]


def ours(folder: Path, urls: list[str]) -> None:
    """Prefetch all, then get each."""
    from system.storage import S3FileManager

    files = S3FileManager(cache_dir=folder, max_workers=WORKERS)
    files.prefetch_files(urls)
    for url in urls:
        files.download_file(url)
    files.close()


def floor(port: int) -> Callable[[Path, list[str]], None]:
    """Return a rival that uses plain kept-alive connections without checks."""

    def fetch(folder: Path, urls: list[str]) -> None:
        def work(share: list[str]) -> None:
            connection = http.client.HTTPConnection("127.0.0.1", port)
            for url in share:
                connection.request("GET", "/" + url.removeprefix("s3://"))
                (folder / url.rsplit("/", 1)[1]).write_bytes(connection.getresponse().read())
            connection.close()

        with ThreadPoolExecutor(WORKERS) as pool:
            list(pool.map(work, [urls[i::WORKERS] for i in range(WORKERS)]))

    return fetch


def boto3_sequential(folder: Path, urls: list[str]) -> None:
    import boto3

    client = boto3.client("s3")
    for url in urls:
        body = client.get_object(Bucket="bench", Key=url.rsplit("/", 1)[1])["Body"].read()
        (folder / url.rsplit("/", 1)[1]).write_bytes(body)


def boto3_download_file(folder: Path, urls: list[str]) -> None:
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=WORKERS))

    def fetch(url: str) -> None:
        key = url.rsplit("/", 1)[1]
        client.download_file("bench", key, str(folder / key))

    with ThreadPoolExecutor(WORKERS) as pool:
        list(pool.map(fetch, urls))


def s3fs_get(folder: Path, urls: list[str]) -> None:
    import s3fs

    fs = s3fs.S3FileSystem(skip_instance_cache=True)
    fs.get(urls, [str(folder / url.rsplit("/", 1)[1]) for url in urls])


def fsspec_cache(protocol: str) -> Callable[[Path, list[str]], None]:
    """Return a rival that opens one object after the other through a cache on disk."""

    def fetch(folder: Path, urls: list[str]) -> None:
        import fsspec

        for url in urls:
            with fsspec.open(f"{protocol}::{url}", **{protocol: {"cache_storage": str(folder)}}) as file:
                file.read()

    return fetch


def download_manager(folder: Path, urls: list[str]) -> None:
    """Download all URLs at once with the DownloadManager of `datasets`."""
    import datasets

    datasets.disable_progress_bars()
    config = datasets.DownloadConfig(cache_dir=folder, disable_tqdm=True)
    datasets.DownloadManager(download_config=config).download(urls)


def timed(fetch: Callable[[Path, list[str]], None], urls: list[str]) -> float:
    """Return the seconds to fetch all URLs into a fresh folder."""
    folder = Path(tempfile.mkdtemp())
    try:
        start = time.perf_counter()
        fetch(folder, urls)
        return time.perf_counter() - start
    finally:
        shutil.rmtree(folder)


def warm_hit_us() -> float:
    """Return the microseconds of one call for a cached file."""
    from system.storage import S3FileManager

    files = S3FileManager(max_workers=WORKERS)
    urls = URLS[:50]
    for url in urls:
        files.download_file(url)
    start = time.perf_counter()
    for i in range(HITS):
        files.download_file(urls[i % len(urls)])
    return 1e6 * (time.perf_counter() - start) / HITS


def waiting(window: int) -> float:
    """Return the seconds that a loop over ITEMS files waits for them."""
    from system.storage import S3FileManager

    files = S3FileManager(max_workers=WORKERS)
    files.download_file(URLS[-1])  # open a connection first
    waited = 0.0
    for i, url in enumerate(URLS[:ITEMS]):
        if window:
            files.prefetch_files(URLS[i : i + window + 1])
        start = time.perf_counter()
        files.download_file(url)
        waited += time.perf_counter() - start
        time.sleep(WORK)
    files.close()
    return waited


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ten rounds, and the slow ones on all objects")
    options = parser.parse_args()
    os.environ.pop("HF_HUB_OFFLINE", None)  # with it, `datasets` refuses even a local server
    server, port = start_server()
    try:
        measure(port, rounds=10 if options.full else 3, share=1.0 if options.full else SLOW_SHARE)
    finally:
        server.kill()


def measure(port: int, rounds: int, share: float) -> None:
    """Print the table, then the lines for scripts."""
    from benchmarks.timing import print_ratio, print_value

    many_at_once = {
        "floor: 16 raw connections": floor(port),
        "feltsound": ours,
        "boto3 download_file, 16 threads": boto3_download_file,
        "s3fs get": s3fs_get,
        "datasets DownloadManager": download_manager,
    }
    seconds: dict[str, list[float]] = {name: [] for name in many_at_once}
    for turn in range(rounds + 1):
        for name, fetch in many_at_once.items():
            taken = timed(fetch, URLS)
            if turn:  # the first turn is a warm-up
                seconds[name].append(taken)
    best = {name: min(values) for name, values in seconds.items()}
    best["boto3 get_object, one after the other"] = timed(boto3_sequential, URLS)
    subset = URLS[: round(share * OBJECTS)]
    for protocol in ("filecache", "simplecache"):
        best[f"fsspec {protocol}, one after the other"] = timed(fsspec_cache(protocol), subset) / share
    print(f"{OBJECTS} objects of 0.4 to 0.6 MB, latency {1000 * LATENCY:.0f} ms; fsspec's caches: {share:.0%}, scaled")
    print(f"{'':40} seconds  times floor")
    for name, taken in sorted(best.items(), key=lambda pair: pair[1]):
        print(f"{name:40} {taken:7.2f}  {taken / best['floor: 16 raw connections']:11.1f}")

    mine = best["feltsound"]
    without, with_window = waiting(0), waiting(WINDOW)
    print(f"{ITEMS} items, {1000 * WORK:.0f} ms of work each: waited {without:.2f} s, prefetching {with_window:.3f} s")
    print_ratio("cold_vs_sequential_boto3", best["boto3 get_object, one after the other"] / mine)
    print_ratio("cold_vs_boto3_download_file", best["boto3 download_file, 16 threads"] / mine)
    print_ratio("cold_vs_s3fs_get", best["s3fs get"] / mine)
    print_ratio("cold_vs_datasets_download_manager", best["datasets DownloadManager"] / mine)
    print_ratio("cold_vs_fsspec_filecache", best["fsspec filecache, one after the other"] / mine)
    print_ratio("cold_vs_fsspec_simplecache", best["fsspec simplecache, one after the other"] / mine)
    print_ratio("wait_hidden_by_prefetch", without / with_window)
    print_value("cold_times_floor", mine / best["floor: 16 raw connections"], "")
    print_value("warm_hit_us", warm_hit_us(), "us")


if __name__ == "__main__":
    main()
