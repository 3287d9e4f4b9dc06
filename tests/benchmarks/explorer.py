"""From a selection in the explorer to its picture, on a trace of 10,000 tokens in headless Chromium.

make bench-explorer writes results/benchmarks/explorer.csv: selection (an answer's token, or a reasoning's sentence),
n, median_ms, p95_ms. The clock runs from the selection until the frame that shows it has been painted.
"""

import random
import sys
import tempfile
from pathlib import Path

import chromium
import numpy as np
import pandas as pd
from explorer_stores import write_study

OUTPUT = Path("results/benchmarks/explorer.csv")
N_SELECTIONS = 100
READY = """
const done = arguments[arguments.length - 1];
(function look() { document.querySelector('#text .line span') ? done(true) : setTimeout(look, 20); })();
"""
MEASURE = """
const [ranges, done] = arguments, milliseconds = [];
const painted = () => new Promise((resolve) => requestAnimationFrame(() => {
  const channel = new MessageChannel();  // its message is handled once the frame has been painted
  channel.port1.onmessage = () => resolve(performance.now());
  channel.port2.postMessage(null);
}));
(async () => {
  for (const [first, last] of ranges) {
    await painted();
    const start = performance.now();
    r2aExplorer.select(first, last);
    milliseconds.push(await painted() - start);
  }
  done(milliseconds);
})();
"""


def main() -> None:
    if chromium.obstacle():
        sys.exit(chromium.obstacle())
    with tempfile.TemporaryDirectory() as folder:
        page = write_study(
            Path(folder) / "pretended", {"long": ("Where do you face?", "1 left west\n" * 2500, "you face west. " * 20)}
        )
        driver = chromium.start(Path(folder))
        try:
            driver.get(f"file://{page}#source=1.2")
            driver.execute_async_script(READY)
            rows, n_tokens = driver.execute_script(
                "return [r2aExplorer.trace().rows, r2aExplorer.trace().tokens.length]"
            )
            draw = random.Random(0)
            answer = [[row, row] for row in draw.choices(rows, k=N_SELECTIONS)]
            starts = [draw.randrange(20, n_tokens - len(rows) - 40) for _ in range(N_SELECTIONS)]
            reasoning = [[start, start + 20] for start in starts]
            found = []
            for name, ranges in {"answer token": answer, "reasoning sentence": reasoning}.items():
                milliseconds = driver.execute_async_script(MEASURE, ranges)
                median, high = np.percentile(milliseconds, [50, 95])
                found.append({"selection": name, "n": len(ranges), "median_ms": median, "p95_ms": high})
        finally:
            driver.quit()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(found).to_csv(OUTPUT, index=False, float_format="%.1f")
    print(f"{n_tokens} tokens\n{OUTPUT.read_text()}")


if __name__ == "__main__":
    main()
