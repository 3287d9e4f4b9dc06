"""Time from a selection in the explorer to its display, among hundreds of traces of 10,000 tokens in headless Chromium.

make bench-explorer writes results/benchmarks/explorer.csv: selection (a token of an answer, a sentence of a reasoning,
or another trace), n, median_ms, p95_ms. The clock runs from the selection until the frame that shows it has been
painted. The traces contain formulas; the first has an answer of hundreds of tokens, of which its file shows a part.
"""

import random
import sys
import tempfile
from pathlib import Path

import chromium
import numpy as np
import pandas as pd
from explorer_stores import write_study

from r2a.traces import Bounds

OUTPUT = Path("results/benchmarks/explorer.csv")
N_TRACES, N_SELECTIONS, N_OPENED = 200, 100, 50
REASONING = ("1 left west\n" * 20 + r"so $x = \frac{1}{2}$ and \[ \sum_k k = 3 \]" + "\n") * 94
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
  for (const range of ranges) {
    await painted();
    const start = performance.now(), before = r2aExplorer.trace();
    if (range) r2aExplorer.select(...range);
    else {
      document.body.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowDown", bubbles: true }));
      while (r2aExplorer.trace() === before) await painted();
    }
    milliseconds.push(await painted() - start);
  }
  done(milliseconds);
})();
"""


def main() -> None:
    if chromium.obstacle():
        sys.exit(chromium.obstacle())
    with tempfile.TemporaryDirectory() as folder:
        texts = {f"trace-{number}": ("Where do you face?", REASONING, "west.") for number in range(N_TRACES)}
        texts["trace-0"] = ("Where do you face?", REASONING, "you face west. " * 100)
        page = write_study(Path(folder) / "pretended", texts)
        driver = chromium.start(Path(folder))
        try:
            driver.get(f"file://{page}#t=0&source=1.2")
            driver.execute_async_script(READY)
            rows, starts = driver.execute_script("return [r2aExplorer.trace().rows, r2aExplorer.trace().bounds]")
            bounds = Bounds(*starts)
            draw = random.Random(0)
            answer = [[row, row] for row in draw.choices(rows, k=N_SELECTIONS)]
            starts = [draw.randrange(bounds.reasoning, bounds.think_close - 20) for _ in range(N_SELECTIONS)]
            reasoning = [[start, start + 20] for start in starts]
            found = []
            selections = {"answer token": answer, "reasoning sentence": reasoning, "another trace": [None] * N_OPENED}
            for name, ranges in selections.items():
                milliseconds = driver.execute_async_script(MEASURE, ranges)
                median, high = np.percentile(milliseconds, [50, 95])
                found.append({"selection": name, "n": len(ranges), "median_ms": median, "p95_ms": high})
        finally:
            driver.quit()
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(found).to_csv(OUTPUT, index=False, float_format="%.1f")
    print(f"{N_TRACES} traces, the first of {bounds.end} tokens\n{OUTPUT.read_text()}")


if __name__ == "__main__":
    main()
