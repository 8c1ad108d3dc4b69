"""How much memory does a text file take? Corpora of growing size, each tokenized, gone through and read in a process of
its own.

    python benchmarks/text_memory.py [--megabytes 4 16 64]     measure, write results/text_memory.json, print the table
    python benchmarks/text_memory.py --table                   the table from results/text_memory.json

Sentences are random words. `private` is the most memory of the process that nothing but the process can free
(RssAnon); `resident` is its peak with the pages of files that the system may drop at any time (VmHWM). Both are given
beside those of the smallest corpus' process after its imports.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results" / "text_memory.json"
BATCHES = 200


def status(key: str) -> float:
    """A line of /proc/self/status, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:")) / 1024


def write(path: Path, megabytes: float) -> None:
    """A corpus of documents of 30 sentences."""
    rng = np.random.default_rng(0)
    words = np.array(["".join(rng.choice(list("abcdefgh"), rng.integers(2, 8))) for _ in range(3000)])
    with path.open("w") as file:
        while file.tell() < megabytes * 1e6:
            for _ in range(30):
                file.write(" ".join(rng.choice(words, rng.integers(5, 40))) + ".\n")
            file.write("\n")


def measure(folder: str) -> None:
    """Prints what one corpus takes, as JSON."""
    from datamodules import TextFile  # noqa: PLC0415  (what the imports take is not the corpus')

    began = {key: status(key) for key in ("RssAnon", "VmHWM")}
    peak, done = [began["RssAnon"]], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            peak.append(max(peak.pop(), status("RssAnon")))

    watcher = threading.Thread(target=watch)
    watcher.start()
    start = time.process_time()
    data = TextFile(f"{folder}/corpus.txt", tokenizer=f"{folder}/tokenizer.json", max_tokens=128, batch_size=64)
    data.prepare_data()
    data.setup("fit")
    tokenized = time.process_time() - start
    loader = data.train_dataloader()
    start = time.process_time()
    loader.sampler.order()
    order = time.process_time() - start
    for _, _ in zip(range(BATCHES), loader, strict=False):
        pass
    done.set()
    watcher.join()
    found = {
        "pairs": loader.sampler.n,
        "private_mb": round(peak[0] - began["RssAnon"], 1),
        "resident_mb": round(status("VmHWM") - began["VmHWM"], 1),
        "imports_mb": round(began["VmHWM"], 1),
        "tokenize_cpu_s": round(tokenized, 1),
        "order_cpu_s": round(order, 2),
    }
    print(json.dumps(found))


def table(rows: list[dict[str, float]]) -> str:
    """The rows in Markdown."""
    head = "| text, MB | pairs | private, MB more | resident, MB more | order of an epoch, s |"
    lines = [head, "|---|---|---|---|---|"]
    for row in rows:
        cells = (row[key] for key in ("megabytes", "pairs", "private_mb", "resident_mb", "order_cpu_s"))
        lines.append(f"| {' | '.join(f'{cell:,}' for cell in cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", nargs="*", type=float, default=[4.0, 16.0, 64.0])
    parser.add_argument("--table", action="store_true", help="print the table and end")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.measure)
    if args.table:
        return print(table(json.loads(RESULTS.read_text())))
    rows = []
    for megabytes in args.megabytes:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder, "corpus.txt"), megabytes)
            words = ["-m", "ssl_lightning", "tokenizer", "--files", __file__, "--output", f"{folder}/tokenizer.json"]
            subprocess.run([sys.executable, *words, "--vocab_size", "2000"], check=True, capture_output=True)
            done = subprocess.run(
                [sys.executable, __file__, "--measure", folder], check=True, capture_output=True, text=True
            )
        rows.append({"megabytes": megabytes, **json.loads(done.stdout.splitlines()[-1])})
        print(json.dumps(rows[-1]), flush=True)
    RESULTS.write_text(json.dumps(rows, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
