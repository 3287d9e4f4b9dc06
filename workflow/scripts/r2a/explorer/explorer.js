"use strict";
// Shows the contents of `data/`. All data enter the page as text or numbers, never as markup.

const r2aExplorer = (() => {
  const find = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  const SEGMENTS = ["bos", "prompt", "think_open", "reasoning", "think_close", "answer", "eos"];
  const CONDITIONS = { with_reasoning: "with reasoning", without_reasoning: "without reasoning" };
  const MEANS = { rfhs: "Reasoning-Focus Heads, mean", all: "all heads, mean" };
  const MEASURES = { // of a sentence: label and unit
    belief_change: ["change of belief in the answer", "nat"], effect: ["suppression in all heads", "nat lost"],
    effect_rfh: ["suppression in the RFHs", "nat lost"], read_rfh: ["reading by the RFHs", "attention per token"],
    importance: ["importance by resampling", "nat"],
  };
  const LINE = 20, ITEM = 44;

  // ---------------------------------------------------------------- data, loaded on demand

  const waiting = new Map(), taken = new Map();

  function take(name, content) {
    taken.set(name, content);
    waiting.get(name)?.(content);
  }

  function load(name, place = `data/${name}.js`) {
    if (taken.has(name)) return Promise.resolve(taken.get(name));
    return new Promise((resolve, reject) => {
      waiting.set(name, resolve);
      const script = document.createElement("script");
      script.src = place;
      script.onerror = () => reject(new Error(`${place} is missing: copy the whole folder explorer`));
      script.onload = () => script.remove();
      document.head.append(script);
    });
  }

  const HALVES = new Float32Array(65536); // every float16's value
  for (let bits = 0; bits < 65536; bits++) {
    const exponent = (bits >> 10) & 31, fraction = bits & 1023;
    const size = exponent === 0 ? fraction * 2 ** -24
      : exponent === 31 ? (fraction ? NaN : Infinity) : (1 + fraction / 1024) * 2 ** (exponent - 15);
    HALVES[bits] = bits & 32768 ? -size : size;
  }

  // A matrix {shape, values}, decoded on first use and then kept.
  function matrix(holder, key) {
    const packed = holder[key];
    if (packed.values) return packed;
    const bytes = Uint8Array.from(atob(packed.float16), (letter) => letter.charCodeAt(0));
    const halves = new Uint16Array(bytes.buffer);
    packed.values = Float32Array.from(halves, (bits) => HALVES[bits]);
    delete packed.float16;
    return packed;
  }

  // ---------------------------------------------------------------- elements of the page

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) made[name] = value; else made.setAttribute(name, value);
    }
    made.append(...children);
    return made;
  }

  function drawn(tag, attributes, text) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function fill(select, options, chosen) {
    select.replaceChildren(...options.map(([value, label]) => element("option", { value }, label)));
    select.value = options.some(([value]) => value === chosen) ? chosen : options[0]?.[0];
  }

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  // Black or white, whichever is easier to read on a colour ("red, green, blue") of this alpha over paper ("#rrggbb").
  function inkOn(rgb, alpha, paper) {
    const light = rgb.split(",").map((value, k) => {
      const mixed = (alpha * value + (1 - alpha) * Number.parseInt(paper.slice(1 + 2 * k, 3 + 2 * k), 16)) / 255;
      return mixed <= 0.04045 ? mixed / 12.92 : ((mixed + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * light[0] + 0.7152 * light[1] + 0.0722 * light[2] > 0.179 ? "#000000" : "#ffffff"; // WCAG's luminance
  }

  const number = (value) => value === null || Number.isNaN(value) ? "–"
    : Math.abs(value) >= 0.001 || value === 0 ? value.toFixed(3) : value.toExponential(1);
  const shown = (token) => token.replace(/\n/g, "⏎").replace(/\t/g, "⇥");

  // ---------------------------------------------------------------- formulas in a trace's text

  const PROSE = ["prompt", "reasoning", "answer"];
  const CLOSING = { "$$": "$$", "$": "$", "\\[": "\\]", "\\(": "\\)" };
  const OPENING = /\$\$?|\\[[(]|\\boxed\{|\\begin\{(equation|align|aligned|alignat|gather|gathered|split|cases|array|[pbvBV]?matrix)\*?\}/g;
  const LONGEST = 2000; // characters; longer formulas are not rendered

  // The formulas in a text: {start, stop, tex, isDisplay}.
  function formulasIn(text) {
    const found = [];
    OPENING.lastIndex = 0;
    for (let opening; (opening = OPENING.exec(text));) {
      const [mark] = opening, start = opening.index, from = OPENING.lastIndex, near = text.slice(from, from + LONGEST);
      if (text[start - 1] === "\\") continue; // an escaped dollar, or a line break within a formula
      const isWhole = mark.endsWith("}") || mark.endsWith("{"), closing = CLOSING[mark] ?? mark.replace("begin", "end");
      const inside = mark.endsWith("{") ? closingBrace(near) : near.indexOf(closing);
      if (inside < (isWhole ? 0 : 1)) continue;
      const stop = from + inside + (mark.endsWith("{") ? 1 : closing.length);
      // a price is not a formula
      if (mark === "$" && (/^\s|\s$|\n/.test(near.slice(0, inside)) || /\d/.test(text[stop] ?? ""))) continue;
      found.push({ start, stop, tex: isWhole ? text.slice(start, stop) : near.slice(0, inside),
        isDisplay: mark === "$$" || mark === "\\[" || mark.startsWith("\\begin") });
      OPENING.lastIndex = stop;
    }
    return found;
  }

  // Where a group with an open brace ends; -1 if it does not.
  function closingBrace(text) {
    for (let k = 0, depth = 1; k < text.length; k++) {
      if (text[k] === "\\") k++;
      else if (text[k] === "{") depth++;
      else if (text[k] === "}" && --depth === 0) return k;
    }
    return -1;
  }

  // Runs of tokens [first, last] that contain formulas, with their pieces: text, or a formula of `formulasIn`.
  function formulaUnits(tokens, bounds) {
    const units = [];
    for (const [k, name] of SEGMENTS.entries()) {
      if (!PROSE.includes(name)) continue;
      const text = tokens.slice(bounds[k], bounds[k + 1]).join("");
      let token = bounds[k], place = 0, unit = null; // place: where the token begins
      for (const formula of formulasIn(text)) {
        while (place + tokens[token].length <= formula.start) place += tokens[token++].length;
        if (unit?.last !== token) units.push(unit = { first: token, start: place, formulas: [] });
        while (place + tokens[token].length < formula.stop) place += tokens[token++].length;
        Object.assign(unit, { last: token, stop: place + tokens[token].length, text });
        unit.formulas.push(formula);
      }
    }
    for (const unit of units) {
      let place = unit.start;
      const pieces = unit.formulas.flatMap((formula) => {
        const before = unit.text.slice(place, formula.start);
        place = formula.stop;
        return [before, formula];
      });
      unit.pieces = [...pieces, unit.text.slice(place, unit.stop)].filter(Boolean);
      unit.isDisplay = unit.formulas.some(({ isDisplay }) => isDisplay);
      unit.endsLine = unit.text.slice(place, unit.stop).includes("\n");
      // its approximate width in letters: a command counts as one
      unit.columns = unit.pieces.reduce((n, piece) => n + (piece.tex ?? piece).replace(/\\[a-zA-Z]+|\\./g, "x").replace(/[{}^_$&\s]/g, "").length + 1, 0);
      delete unit.text;
    }
    return units;
  }

  const katexOptions = (isDisplay) => ({ displayMode: isDisplay, throwOnError: true, trust: false, strict: "ignore", output: "html", maxExpand: 500, maxSize: 10 });

  // The formula rendered by KaTeX, or its source if KaTeX cannot read it. Nothing in it links, loads or runs.
  function rendered({ tex, isDisplay }) {
    const made = element("span", { class: "formula", role: "img", "aria-label": tex });
    try {
      katex.render(tex, made, katexOptions(isDisplay));
    } catch {
      made.className = "unread";
      made.replaceChildren(shown(tex));
    }
    return made;
  }

  // ---------------------------------------------------------------- a trace's text; only visible lines exist

  class Text {
    constructor(box) {
      this.box = box;
      this.inside = element("div");
      box.append(this.inside);
      this.drawnLines = new Map();
      box.addEventListener("scroll", () => this.render(), { passive: true });
      this.isRendered = false; // whether formulas are rendered
      new ResizeObserver(() => this.lay()).observe(box);
    }

    show(tokens, bounds, cues, units) {
      this.tokens = tokens;
      this.units = new Map(units.map((unit) => [unit.first, unit]));
      this.segment = new Uint8Array(tokens.length);
      SEGMENTS.forEach((_, k) => this.segment.fill(k, bounds[k], bounds[k + 1]));
      this.bounds = bounds;
      this.cues = new Set(cues);
      this.heat = this.chosen = this.served = null;
      this.columns = 0;
      this.box.scrollTop = 0;
      this.lay();
    }

    // Show formulas rendered or token by token; the top line stays in place.
    renderFormulas(isRendered) {
      if (this.isRendered === isRendered) return;
      this.isRendered = isRendered;
      if (!this.units?.size) return;
      const top = this.lines[this.visible()[0]]?.first ?? 0;
      this.columns = 0;
      this.lay();
      this.box.scrollTop = this.tops[this.lineOf[top]];
      this.render();
    }

    // Lines of tokens [first, last), with a title before each segment. A rendered formula is not broken.
    lay() {
      if (!this.tokens) return;
      if (!this.letter) {
        const probe = element("span", { class: "line" }, "0".repeat(100));
        this.inside.append(probe);
        this.letter = probe.getBoundingClientRect().width / 100;
        probe.remove();
      }
      const columns = Math.max(20, Math.floor((this.box.clientWidth - 24) / this.letter));
      if (columns === this.columns) return this.render();
      this.columns = columns;
      this.lines = [];
      this.lineOf = new Int32Array(this.tokens.length);
      let first = 0, width = 0, segment = -1, word = 0, wordWidth = 0; // where the last word begins, and its width so far
      const close = (end) => {
        if (end > first) this.lines.push({ first, last: end });
        for (let t = first; t < end; t++) this.lineOf[t] = this.lines.length - 1;
        first = word = end; width = wordWidth = 0;
      };
      for (let k = 0; k < this.tokens.length; k++) {
        const token = this.tokens[k], unit = this.isRendered ? this.units.get(k) : undefined;
        const size = unit ? unit.columns : Math.max(1, shown(token).length);
        if (unit?.isDisplay) close(k);
        if (/^\s/.test(token) || this.segment[k] !== segment) { word = k; wordWidth = 0; }
        if (this.segment[k] !== segment) {
          close(k);
          segment = this.segment[k];
          const n = this.bounds[segment + 1] - this.bounds[segment];
          if (["prompt", "reasoning", "answer"].includes(SEGMENTS[segment])) {
            this.lines.push({ first: k, last: k, title: `${SEGMENTS[segment]}, ${n} token${n === 1 ? "" : "s"}` });
          }
        } else if (width + size > columns) {
          // break between words if there are any
          const [start, kept] = word > first ? [word, wordWidth] : [k, 0];
          close(start);
          width = wordWidth = kept;
        }
        width += size;
        wordWidth += size;
        if (unit) k = unit.last;
        if (unit ? unit.isDisplay || unit.endsLine : token.includes("\n")) close(k + 1);
      }
      close(this.tokens.length);
      this.heights = new Float64Array(this.lines.length).fill(LINE);
      this.tops = new Float64Array(this.lines.length + 1);
      this.stack(0);
      this.clear();
      this.render();
    }

    // Place the lines below each other, from line k on.
    stack(k) {
      for (; k < this.lines.length; k++) {
        this.tops[k + 1] = this.tops[k] + this.heights[k];
        const line = this.drawnLines.get(k);
        if (line) line.style.top = `${this.tops[k]}px`;
      }
      this.inside.style.height = `${this.tops[k] + 8}px`;
    }

    lineAt(place) {
      let low = 0, high = this.lines.length - 1;
      while (low < high) {
        const middle = (low + high + 1) >> 1;
        if (this.tops[middle] <= place) low = middle; else high = middle - 1;
      }
      return low;
    }

    clear() {
      for (const line of this.drawnLines.values()) line.remove();
      this.drawnLines.clear();
    }

    visible() {
      const { scrollTop: top, clientHeight: height } = this.box;
      return [Math.max(0, this.lineAt(top) - 3), Math.min(this.lines.length, this.lineAt(top + height) + 4)];
    }

    // The height of a line with formulas is known once it is drawn; then other lines may come into view.
    render() {
      if (!this.lines) return;
      for (let isNew = true; isNew;) {
        const [first, last] = this.visible();
        for (const [k, line] of this.drawnLines) if (k < first || k >= last) { line.remove(); this.drawnLines.delete(k); }
        const made = [];
        for (let k = first; k < last; k++) if (!this.drawnLines.has(k)) { this.drawnLines.set(k, this.draw(k)); made.push(k); }
        isNew = this.measure(made);
      }
    }

    // Whether the height of any of these lines differs from the assumed one.
    measure(numbers) {
      const { scrollTop } = this.box, found = numbers.filter((k) => this.drawnLines.get(k)?.classList.contains("tall"))
        .map((k) => [k, this.drawnLines.get(k).offsetHeight]).filter(([k, height]) => height && height !== this.heights[k]);
      if (!found.length) return false;
      let above = 0; // by how much the lines above the view have grown
      for (const [k, height] of found) {
        if (this.tops[k + 1] <= scrollTop) above += height - this.heights[k];
        this.heights[k] = height;
      }
      this.stack(found[0][0]);
      if (above) this.box.scrollTop = scrollTop + above;
      return true;
    }

    draw(k) {
      const { first, last, title } = this.lines[k];
      const line = element("div", { class: title ? "line title" : "line" });
      line.style.top = `${this.tops[k]}px`;
      if (title) line.textContent = title;
      for (let t = first; t < last; t++) {
        const unit = this.isRendered ? this.units.get(t) : undefined, span = element("span");
        [span.token, span.last] = [t, unit?.last ?? t];
        const isCue = this.cues.has(t) || (unit && [...this.cues].some((cue) => cue >= t && cue <= unit.last));
        span.className = SEGMENTS[this.segment[t]] + (isCue ? " cue" : "");
        if (unit) {
          span.append(...unit.pieces.map((piece) => piece.tex === undefined ? shown(piece) : rendered(piece)));
          line.classList.add("tall");
          span.classList.add("unit");
          t = unit.last;
        } else span.textContent = shown(this.tokens[t]);
        this.paint(span);
        line.append(span);
      }
      this.inside.append(line);
      return line;
    }

    paint(span) {
      let heat = 0; // of a formula: the greatest of its tokens
      if (this.heat) for (let t = span.token; t <= span.last; t++) if (Math.abs(this.heat[t]) > Math.abs(heat)) heat = this.heat[t];
      const alpha = Math.sqrt(Math.abs(heat));
      span.style.backgroundColor = alpha > 0.03 ? `rgba(${heat < 0 ? this.cold : this.rgb}, ${alpha.toFixed(2)})` : "";
      span.style.color = alpha > 0.03 ? inkOn(heat < 0 ? this.cold : this.rgb, alpha, this.paper) : "";
      const isChosen = Boolean(this.chosen) && span.last >= this.chosen[0] && span.token <= this.chosen[1];
      if (isChosen || span.isChosen) {
        span.classList.toggle("chosen", isChosen);
        span.classList.toggle("alone", isChosen && span.last >= this.chosen[1] && span.token <= this.chosen[0]);
      }
      span.isChosen = isChosen;
      const share = this.served ? this.served[span.token] : 0;
      span.style.boxShadow = share > 0.01 ? `inset 0 -3px rgba(${this.mark}, ${(0.25 + 0.75 * share).toFixed(2)})` : "";
    }

    // served: 0..1 for each token, shown as an underline; null: none.
    underline(served) {
      this.served = served;
      this.mark = colour("--mark");
      this.repaint();
    }

    // heat: -1..1 for each token; chosen: [first, last] token.
    colour(heat, chosen) {
      this.heat = heat; this.chosen = chosen;
      this.rgb = colour("--heat"); this.cold = colour("--cold"); this.paper = colour("--paper");
      this.repaint();
    }

    repaint() {
      for (const line of this.drawnLines.values()) {
        for (const span of line.children) this.paint(span);
      }
    }

    reveal(token) {
      const top = this.tops[this.lineOf[token]], box = this.box;
      if (top < box.scrollTop || top > box.scrollTop + box.clientHeight - 2 * LINE) {
        box.scrollTop = top - box.clientHeight / 2;
        this.render();
      }
    }
  }

  // ---------------------------------------------------------------- state

  let study, collection, listed, trace, heads, text, otherText;
  const state = { c: "0", t: "0", by: "attention", source: "rfhs", view: "tokens", formulas: "yes", score: "a2r", sel: "", q: "", verdict: "", area: "", condition: "", beside: "" };

  function remember() {
    const kept = Object.entries(state).filter(([, value]) => value !== "");
    history.replaceState(null, "", `#${new URLSearchParams(kept)}`);
  }

  const selection = () => state.sel === "" ? null : state.sel.split("-").map(Number);
  const item = () => collection.traces[Number(state.t)];

  // ---------------------------------------------------------------- the list

  function filtered() {
    const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
    return collection.traces.map((one, k) => [one, k]).filter(([one]) =>
      (!state.verdict || one.verdict === state.verdict) && (!state.area || one.area === state.area)
      && (!state.condition || one.condition === state.condition)
      && words.every((word) => `${one.uid} ${one.question}`.toLowerCase().includes(word)));
  }

  function showList() {
    const values = (key) => [...new Set(collection.traces.map((one) => one[key]).filter(Boolean))].sort();
    for (const key of ["verdict", "area", "condition"]) {
      fill(find(key), [["", "all"], ...values(key).map((value) => [value, CONDITIONS[value] ?? value])], state[key]);
      state[key] = find(key).value;
    }
    find("search").value = state.q;
    listed = filtered();
    const marks = collection.traces.some((one) => one.has_matrix) ? "; ◆ sentence by sentence" : "";
    find("count").textContent = `${listed.length} of ${collection.traces.length} traces; ● attention by token${marks}`;
    drawList();
  }

  function drawList() {
    const box = find("traces"), first = Math.max(0, Math.floor(box.scrollTop / ITEM) - 2);
    const last = Math.min(listed.length, first + Math.ceil(box.clientHeight / ITEM) + 4);
    const end = element("li", { "aria-hidden": "true" });
    end.style.top = `${listed.length * ITEM - 1}px`;
    end.style.height = "1px";
    box.replaceChildren(...listed.slice(first, last).map(([one, k], place) => {
      const made = element("li", { class: String(k) === state.t ? "chosen" : "", onclick: () => open(String(k)) },
        element("div", {}, `${one.has_rows ? "● " : ""}${one.has_matrix ? "◆ " : ""}${one.uid} `, element("span", { class: one.verdict }, one.verdict),
          ` ${CONDITIONS[one.condition].split(" ")[0]}`),
        element("div", { class: "what" }, one.question));
      made.style.top = `${(first + place) * ITEM}px`;
      return made;
    }), end);
  }

  function showChosen() {
    const box = find("traces"), top = listed.findIndex(([, k]) => String(k) === state.t) * ITEM;
    if (top < box.scrollTop || top + ITEM > box.scrollTop + box.clientHeight) box.scrollTop = top - box.clientHeight / 2;
  }

  // ---------------------------------------------------------------- one trace

  let opened; // a promise, kept once everything of the last trace asked for is shown

  function open(number, keepSelection = false) {
    opened = showTrace(number, keepSelection);
    return opened;
  }

  async function showTrace(number, keepSelection) {
    if (state.t !== number && !keepSelection) state.sel = "";
    state.t = number;
    const one = item();
    trace = await load(`${collection.folder}/${number}`);
    if (state.t !== number) return;
    await showText(text, trace, trace.cues ?? []);
    if (state.t !== number) return;
    find("formulas").hidden = !text.units.size;
    pointed = -1;
    const measures = Object.keys(MEASURES).filter((key) => trace.measures?.[key]);
    fill(find("by"), [["attention", "attention"], ...measures.map((key) => [key, MEASURES[key][0]])], state.by);
    showFacts(one);
    await showOther(one);
    showSources();
    find("pair").hidden = one.pair === null;
    if (one.pair !== null) showPair(await load(`${collection.folder}/pair${one.pair}`));
    drawList();
    update();
    const chosen = selection();
    if (chosen) text.reveal(chosen[0]);
  }

  // Show a trace in a pane; KaTeX is loaded for the first trace with formulas.
  async function showText(pane, { tokens, bounds }, cues) {
    const units = formulaUnits(tokens, bounds);
    if (units.length && !taken.has("katex")) {
      const style = await load("katex");
      document.head.append(element("style", {}, style));
    }
    pane.isRendered = state.formulas === "yes";
    pane.show(tokens, bounds, cues, units);
  }

  function showFacts(one) {
    const fact = (name, value) => value ? [element("span", {}, name, element("b", {}, String(value)))] : [];
    find("facts").replaceChildren(
      ...fact("", one.uid), element("span", {}, element("b", { class: one.verdict }, one.verdict), ` (${trace.reason})`),
      ...fact("answer ", trace.answer), ...fact("reference ", trace.reference), ...fact("area ", one.area));
    document.querySelector(".pane h2").textContent = CONDITIONS[one.condition];
  }

  // Other traces of the same problem: in the other condition, and by other models.
  function others(one) {
    return study.collections.filter((there) => there.dataset === collection.dataset).flatMap((there) =>
      there.traces.map((other, k) => ({ there, other, place: `${there.folder}/${k}` })).filter(({ other }) =>
        other.uid === one.uid && other.sample === one.sample && (there !== collection || other.condition !== one.condition)));
  }

  async function showOther(one) {
    const found = others(one).sort((a, b) => (b.there === collection) - (a.there === collection));
    find("other").hidden = !found.length;
    if (!found.length) return;
    const kind = ({ there, other }) => `${there.model}/${other.condition}`;
    const named = ({ there, other }) => (there === collection ? "" : `${there.model_label}, `) + CONDITIONS[other.condition];
    fill(find("beside"), found.map((each) => [kind(each), named(each)]), state.beside);
    const { other, place } = found.find((each) => kind(each) === find("beside").value);
    const beside = await load(place);
    find("other").querySelector("h2 span").className = other.verdict;
    find("other").querySelector("h2 span").textContent = other.verdict;
    await showText(otherText, beside, []);
  }

  // The heads' scores, without their intervals and n.
  const scoreNames = () => Object.keys(heads).filter((name) => !/^(layer|head|is_rfh)$|_(low|high|n)$/.test(name));

  const headNames = () => heads.layer ? heads.layer.map((layer, k) => `${layer}.${heads.head[k]}`) : [];

  function showSources() {
    const names = (trace.attention ? Object.keys(trace.attention) : trace.sources ?? headNames()).filter((name) => !(name in MEANS) && !name.includes("+"));
    if (chosenHeads().length > 1 && chosenHeads().every((name) => names.includes(name))) names.push(state.source);
    const label = (name) => name.includes("+") ? `heads ${name.replaceAll("+", ", ")}, mean` : `head ${name.replace(".", ", ")}${isRfh(name) ? " (RFH)" : ""}`;
    fill(find("source"), [...Object.entries(MEANS), ...names.map((name) => [name, label(name)])], state.source);
    state.source = find("source").value;
  }

  const isRfh = (name) => Boolean(heads.is_rfh?.[headNames().indexOf(name)]);

  // ---------------------------------------------------------------- colours of tokens

  const chosenHeads = () => state.source.split("+");

  // Attention of the chosen source; for several heads their mean, which is kept.
  function chosenRows() {
    const names = chosenHeads();
    if (names.length > 1 && !trace.attention[state.source]) {
      const all = names.map((name) => matrix(trace.attention, name)), mean = new Float32Array(all[0].values.length);
      for (const { values: one } of all) for (let k = 0; k < mean.length; k++) mean[k] += one[k] / names.length;
      trace.attention[state.source] = { shape: all[0].shape, values: mean };
    }
    return matrix(trace.attention, state.source);
  }

  // A value for each token: what the chosen answer tokens attend to, or which answer tokens attend to the chosen ones.
  function values() {
    const found = new Float32Array(trace.tokens.length), chosen = selection(), [first, last] = trace.bounds.slice(5, 7);
    const { shape: [nRows, nKeys], values: rows } = chosenRows();
    const some = nRows < last - first ? `${nRows} of the answer's ${last - first} tokens` : ""; // others' rows are not here
    const isAnswer = chosen && trace.rows.some((row) => row >= chosen[0] && row <= chosen[1]);
    if (chosen && !isAnswer) {
      found.fill(NaN, first, last);
      trace.rows.forEach((row, k) => {
        let mass = 0;
        for (let t = chosen[0]; t <= Math.min(chosen[1], nKeys - 1); t++) mass += rows[k * nKeys + t];
        found[row] = mass;
      });
      const without = some && chosen[0] >= first && chosen[1] < last ? ". What it pays itself is not here" : "";
      return { found, reads: `what each answer token pays to the selection${some && `, of ${some}`}${without}` };
    }
    let n = 0;
    trace.rows.forEach((row, k) => {
      if (chosen && (row < chosen[0] || row > chosen[1])) return;
      n++;
      for (let t = 0; t < nKeys; t++) found[t] += rows[k * nKeys + t];
    });
    for (let t = 0; t < nKeys; t++) found[t] /= n;
    const reads = chosen ? `what ${n === 1 ? "the selected answer token pays" : `${n} selected answer tokens pay, mean`}`
      : `what ${some || "the answer's tokens"} pay, mean. Select some of them to see theirs, or any other token to see which of them attend to it`;
    return { found, reads };
  }

  // The chosen measure of each sentence; null if attention is chosen or the trace was not measured.
  const measured = () => trace.measures?.[state.by] ?? null;

  // A token's sentence (-1 outside of the reasoning), and its numbers in words.
  const sentenceAt = (token) => (trace.sentences ?? []).findIndex((bound, k, all) => token >= bound && token < all[k + 1]);
  const inWords = (s) => s < 0 || !trace.measures ? "" : `sentence ${s + 1}: ` + Object.entries(MEASURES)
    .filter(([key]) => (trace.measures[key]?.[s] ?? null) !== null)
    .map(([key, [label, unit]]) => `${label} ${number(trace.measures[key][s])} (${unit})`).join(", ");

  // A value for each token: that of its sentence.
  function bySentence(values) {
    const found = new Float32Array(trace.tokens.length);
    values.forEach((value, s) => found.fill(value ?? 0, trace.sentences[s], trace.sentences[s + 1]));
    const warning = values.some((value) => value < 0) ? "; below 0 in orange" : "";
    return { found, reads: `each sentence's ${MEASURES[state.by][0]}${warning}. Point at a sentence to see its numbers${trace.matrix ? " and which later sentences need it (underlined)" : ""}; click it to see the answer without it` };
  }

  // Each reasoning sentence's attention: from the answer tokens' rows if they are kept, otherwise the answer's mean.
  function sentenceMass(found) {
    const bounds = trace.sentences, mass = new Float32Array(bounds.length - 1);
    if (measured()) return mass.map((_, s) => measured()[s] ?? 0);
    if (found) {
      for (let s = 0; s < mass.length; s++) for (let t = bounds[s]; t < bounds[s + 1]; t++) mass[s] += found[t];
      return mass;
    }
    const { shape: [, width], values: all } = matrix(trace, "sentence_mass"), used = chosenHeads();
    for (const name of used) {
      const k = trace.sources.indexOf(name);
      for (let s = 0; s < width; s++) mass[s] += all[k * width + s] / used.length;
    }
    return mass;
  }

  // ---- which sentences need a sentence, and the answer without it

  let pointed = -1; // the sentence under the pointer

  // The sentence that contains the selection; -1: none.
  function chosenSentence() {
    const chosen = selection(), s = chosen ? sentenceAt(chosen[0]) : -1;
    return s >= 0 && chosen[1] < trace.sentences[s + 1] ? s : -1;
  }

  // Later sentences with what they lose (nats) if sentence s is hidden, greatest first; null if not measured.
  function served(s) {
    if (!trace.matrix || s < 0) return null;
    const { shape: [, n], values } = matrix(trace, "matrix");
    return [...values.slice(s * n, (s + 1) * n)].map((loss, to) => ({ to, loss })).filter(({ to, loss }) => to > s && loss > 0)
      .sort((a, b) => b.loss - a.loss);
  }

  function underlineServed() {
    const found = measured() ? served(pointed >= 0 ? pointed : chosenSentence()) : null;
    if (!found?.length) { if (text.served) text.underline(null); return; }
    const shares = new Float32Array(trace.tokens.length);
    for (const { to, loss } of found) shares.fill(loss / found[0].loss, trace.sentences[to], trace.sentences[to + 1]);
    text.underline(shares);
  }

  function point(s) {
    if (s === pointed) return;
    pointed = s;
    underlineServed();
  }

  function showWithout() {
    const box = find("without"), s = chosenSentence();
    box.hidden = s < 0 || !measured();
    if (box.hidden) return;
    const { greedy, greedy_without: without, belief, measures, rollouts } = trace, quoted = (answer) => element("b", {}, answer ? `“${shown(answer)}”` : "nothing");
    const answers = (step) => rollouts[step].map(([answer, n], k) => [k ? ", " : "", quoted(answer), ` ${n} times`]).flat();
    const serves = served(s)?.slice(0, 3).flatMap(({ to, loss }, k) => [k ? ", " : "",
      element("button", { onclick: () => { select(trace.sentences[to], trace.sentences[to + 1] - 1); text.reveal(trace.sentences[to]); } }, `sentence ${to + 1}`),
      ` ${number(loss)} nat`]);
    const told = [
      ["Closed before it", [quoted(greedy[s]), `; its own answer has a log-probability of ${number(belief[s])} nat`]],
      ["Closed after it", [quoted(greedy[s + 1]), `; its own answer has a log-probability of ${number(belief[s + 1])} nat`]],
      ["Hidden from what follows", [quoted(without.all[s]), `; its own answer loses ${number(measures.effect[s])} nat`]],
      ["Hidden from the RFHs alone", [quoted(without.rfh[s]), `; its own answer loses ${number(measures.effect_rfh[s])} nat`]],
      ...(rollouts?.[s] ? [["Resampled from before it", answers(s)]] : []),
      ...(rollouts?.[s + 1] ? [["Resampled from after it", answers(s + 1)]] : []),
      ["Needed most by", serves?.length ? serves : [serves ? "no later sentence" : trace.is_matrix_too_large ? "too many sentences to show it here: the store sentences has it"
        : "not measured for this trace; traces marked ◆ have it"]],
    ];
    box.replaceChildren(element("h2", {}, `The answer without sentence ${s + 1} of ${trace.sentences.length - 1}`),
      element("dl", {}, ...told.flatMap(([term, parts]) => [element("dt", {}, term), element("dd", {}, ...parts)])));
  }

  // What to say where a trace's file has no room for all heads that were measured on it.
  function withoutHeads(names) {
    const n = names.filter((name) => !(name in MEANS) && !name.includes("+")).length;
    return n < trace.n_heads ? ` ${n} of ${trace.n_heads} heads are here; the stores have all.` : "";
  }

  let current = null; // the values shown, for export

  function update() {
    find("by").value = state.by;
    for (const [id, view] of [["show-tokens", "tokens"], ["show-sentences", "sentences"]]) {
      find(id).setAttribute("aria-pressed", String(state.view === view));
    }
    find("formulas").setAttribute("aria-pressed", String(state.formulas === "yes"));
    find("measure").hidden = !trace.measures;
    find("source").disabled = Boolean(measured());
    const lit = measured() ? bySentence(measured()) : trace.attention ? values() : null;
    const chosen = selection();
    let top = 0;
    if (lit) {
      // the first token is an attention sink; it must not dim the rest
      for (let t = trace.bounds[1]; t < lit.found.length; t++) top = Math.max(top, Math.abs(lit.found[t]) || 0);
      text.colour(lit.found.map((value) => Math.max(-1, Math.min(1, value / (top || 1)))), chosen);
    } else text.colour(null, chosen);
    current = lit && { found: lit.found, top };
    const hasSentences = trace.sentences?.length > 1 && Boolean(lit || trace.sentence_mass);
    find("sentences").hidden = !hasSentences || (state.view === "tokens" && Boolean(lit));
    stripMass = hasSentences ? sentenceMass(lit && !lit.reads.startsWith("what each") ? lit.found : null) : null;
    drawStrip();
    if (!find("sentences").hidden) showSentences(lit && !lit.reads.startsWith("what each") ? lit.found : null, chosen);
    underlineServed();
    showWithout();
    find("told").textContent = lit ? `Colour: ${lit.reads}.${measured() ? "" : withoutHeads(Object.keys(trace.attention))}`
      : hasSentences ? "Only traces marked ● have attention by token; this one has the answer's mean by sentence." + withoutHeads(trace.sources)
        : "This trace has no attention.";
    showLegend(lit ? top : 0, Boolean(lit) && lit.found.some((value) => value < 0));
    showMap();
    remember();
  }

  // The whole trace as a strip: its sentences by their attention, with a frame around the visible text.
  let stripMass = null;

  function drawStrip() {
    const strip = find("strip"), box = text.box, pen = strip.getContext("2d");
    strip.hidden = !stripMass;
    if (!stripMass) return;
    strip.height = box.clientHeight;
    const scale = strip.height / box.scrollHeight, top = Math.max(...stripMass.map(Math.abs)) || 1;
    pen.fillStyle = colour("--panel");
    pen.fillRect(0, 0, 14, strip.height);
    // drawn first, because a sentence of a long trace is thinner than the frame's line
    pen.strokeStyle = colour("--chosen");
    pen.lineWidth = 2;
    pen.strokeRect(1, box.scrollTop * scale + 1, 12, Math.max(3, box.clientHeight * scale - 2));
    stripMass.forEach((value, s) => {
      const from = text.tops[text.lineOf[trace.sentences[s]]] * scale, to = text.tops[text.lineOf[trace.sentences[s + 1] - 1] + 1] * scale;
      pen.fillStyle = `rgba(${colour(value < 0 ? "--cold" : "--heat")}, ${Math.sqrt(Math.abs(value) / top)})`;
      pen.fillRect(2, Math.floor(from), 10, Math.max(1, to - from));
    });
  }

  // The colours of the legend, as [name, alpha], at shares of its width from 0 to 1; from orange on if values are below 0.
  let lowest = 0;
  function shadeAt(share) {
    const value = lowest + (1 - lowest) * share;
    return [value < 0 ? "--cold" : "--heat", Math.sqrt(Math.abs(value))];
  }

  function showLegend(top, isSigned) {
    const [canvas, label] = find("legend").children, pen = canvas.getContext("2d");
    lowest = isSigned ? -1 : 0;
    find("legend").hidden = top === 0;
    pen.clearRect(0, 0, 90, 10);
    for (let x = 0; x < 90; x++) {
      const [name, alpha] = shadeAt(x / 90);
      pen.fillStyle = `rgba(${colour(name)}, ${alpha})`;
      pen.fillRect(x, 0, 1, 10);
    }
    const unit = measured() ? MEASURES[state.by][1] : "of a token's attention";
    label.textContent = `${isSigned ? number(-top) : 0} to ${number(top)} ${unit}`;
  }

  function showSentences(found, chosen) {
    const mass = sentenceMass(found), bounds = trace.sentences, top = Math.max(...mass.map(Math.abs)) || 1;
    find("sentences").replaceChildren(...[...mass].map((value, s) => {
      const bar = element("i");
      bar.style.transform = `scaleX(${Math.abs(value) / top})`;
      bar.className = value < 0 ? "cold" : "";
      const words = trace.tokens.slice(bounds[s], bounds[s + 1]).join("").trim();
      const isChosen = chosen && chosen[0] === bounds[s] && chosen[1] === bounds[s + 1] - 1;
      return element("div", { class: isChosen ? "chosen" : "", onclick: () => select(bounds[s], bounds[s + 1] - 1), onpointerenter: () => point(s) },
        element("span", {}, number(value)), bar, element("span", { title: inWords(s) || words }, words));
    }));
  }

  function select(first, last) {
    state.sel = first === null ? "" : `${Math.min(first, last)}-${Math.max(first, last)}`;
    update();
  }

  // ---------------------------------------------------------------- heads

  function showMap() {
    const box = find("map");
    if (!heads.layer) {
      box.replaceChildren();
      find("head").textContent = "This model has no attention scores.";
      return;
    }
    const nLayers = Math.max(...heads.layer) + 1, nHeads = Math.max(...heads.head) + 1;
    const size = Math.max(4, Math.min(22, 236 / nHeads)), side = size - Math.min(1.5, size / 4), column = heads[state.score];
    const finite = column.filter((value) => value !== null), low = Math.min(...finite), high = Math.max(...finite);
    const chart = drawn("svg", { width: nHeads * size + 18, height: nLayers * size + 16, role: "img",
      "aria-label": `${state.score} of every head, layer by head; the keys [ and ] choose a head` });
    heads.layer.forEach((layer, k) => {
      const name = `${layer}.${heads.head[k]}`, share = (column[k] - low) / (high - low || 1);
      const cell = drawn("rect", {
        x: 16 + heads.head[k] * size, y: layer * size, width: side, height: side,
        fill: `rgba(${colour("--heat")}, ${column[k] === null ? 0 : 0.05 + 0.95 * share})`,
        class: (heads.is_rfh[k] ? "rfh" : "") + (chosenHeads().includes(name) ? " chosen" : ""),
      });
      cell.onmouseenter = () => tell(k);
      cell.onclick = (event) => choose(name, event.shiftKey);
      chart.append(cell);
    });
    for (let layer = 0; layer < nLayers; layer += Math.ceil(nLayers / 14)) {
      chart.append(drawn("text", { x: 0, y: layer * size + size * 0.7 }, String(layer)));
    }
    chart.append(drawn("text", { x: 16, y: nLayers * size + 12 }, "head →"));
    box.replaceChildren(chart);
    const chosen = headNames().indexOf(state.source);
    if (chosen >= 0) tell(chosen);
    else find("head").textContent = `Layer by head, ${state.score} from ${number(low)} to ${number(high)}; Reasoning-Focus Heads are boxed. Point at a head for its scores; click to see its attention, with shift for several.`;
  }

  function tell(k) {
    const told = (name) => {
      const short = (value) => Number.isInteger(value) ? String(value) : number(value);
      const ends = ["low", "high"].map((end) => heads[`${name}_${end}`]?.[k] ?? null);
      return short(heads[name][k]) + (ends.includes(null) ? "" : ` [${ends.map(short).join(", ")}]`);
    };
    const rows = scoreNames().map((name) => element("tr", {}, element("td", {}, name), element("td", {}, told(name))));
    find("head").replaceChildren(`Layer ${heads.layer[k]}, head ${heads.head[k]}${heads.is_rfh[k] ? ", Reasoning-Focus Head" : ""}`,
      element("table", {}, ...rows));
  }

  // Choose a head; with shift, add or remove one.
  function choose(name, isAdded = false) {
    const here = trace.attention ? Object.keys(trace.attention) : trace.sources;
    if (here && !here.includes(name)) {
      const remedy = withoutHeads(here) || (trace.attention ? " attention.row_heads: all keeps it by token." : "");
      find("told").textContent = `Head ${name.replace(".", ", ")}: its attention on this trace is not here.${remedy}`;
      return;
    }
    const before = chosenHeads().filter((one) => !(one in MEANS));
    const after = !isAdded ? [name] : before.includes(name) ? before.filter((one) => one !== name) : [...before, name];
    state.source = after.join("+") || name;
    showSources();
    update();
  }

  // ---------------------------------------------------------------- a pair's patching

  let effect = "", role = 0;

  function showPair(pair) {
    const names = Object.keys(pair.effects), box = find("pair");
    effect = names.includes(effect) ? effect : names.find((name) => name === "resid_pre, clean_to_corrupted") ?? names[0];
    role = Math.min(role, pair.roles.length - 1);
    if (role === 0) role = Math.max(0, pair.roles.indexOf("answer"));
    const pick = element("select", { onchange: () => { effect = pick.value; showPair(pair); } });
    fill(pick, names.map((name) => [name, name.replaceAll("_", " ")]), effect);
    box.replaceChildren(
      element("h2", {}, `Patching, ${pair.probe} probe: ${pair.pair}, ${pair.answers[0]} (clean) against ${pair.answers[1]} (corrupted)`
        + (pair.is_used ? "" : "; left out: a run does not prefer its own answer")),
      element("label", {}, "Patch ", pick), patchMap(pair), patchCurves(pair));
  }

  function patchMap(pair) {
    const { shape: [nLayers, nRoles], values: all } = matrix(pair.effects, effect), wide = 40, high = 15;
    const chart = drawn("svg", { width: 60 + nRoles * wide, height: 62 + nLayers * high, role: "img",
      "aria-label": "share of the clean run's logit difference that a patch restores, layer by token" });
    for (const [k, run] of ["clean", "corrupted"].entries()) {
      chart.append(drawn("text", { x: 0, y: 14 + k * 16 }, run));
      pair.tokens[run].forEach((token, r) => chart.append(drawn("text", { x: 62 + r * wide, y: 14 + k * 16, class: "small" },
        shown(token).trim().slice(0, 7))));
    }
    for (let layer = 0; layer < nLayers; layer++) {
      chart.append(drawn("text", { x: 40, y: 50 + layer * high }, String(layer)));
      for (let r = 0; r < nRoles; r++) {
        const value = all[layer * nRoles + r];
        const cell = drawn("rect", { x: 60 + r * wide, y: 38 + layer * high, width: wide - 2, height: high - 2,
          fill: `rgba(${colour("--heat")}, ${Math.max(0, Math.min(1, value || 0))})`, stroke: colour("--line"),
          class: r === role ? "chosen" : "" });
        cell.append(drawn("title", {}, `${pair.roles[r]}, layer ${layer}: ${number(value)} of the difference restored`));
        cell.onclick = () => { role = r; showPair(pair); };
        chart.append(cell);
      }
    }
    chart.append(drawn("text", { x: 0, y: 54 + nLayers * high }, "layer ↓ token →, share of the clean run's logit difference restored (0 to 1)"));
    return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "patching" }, chart);
  }

  // The chosen token's effect by layer, with the controls of the same component.
  function patchCurves(pair) {
    const component = effect.split(", ")[0], names = Object.keys(pair.effects).filter((name) => name.startsWith(component));
    const width = 360, high = 130, dashes = ["", "6 3", "2 3", "8 2 2 2", "1 2"];
    const chart = drawn("svg", { width: width + 230, height: high + 44, role: "img",
      "aria-label": `share restored at “${pair.roles[role]}” by layer, with the controls` });
    const y = (value) => 10 + high * (1.1 - Math.max(-0.2, Math.min(1.1, value))) / 1.3;
    for (const mark of [0, 1]) {
      chart.append(drawn("line", { x1: 30, x2: width, y1: y(mark), y2: y(mark), stroke: colour("--line") }),
        drawn("text", { x: 8, y: y(mark) + 4 }, String(mark)));
    }
    names.forEach((name, k) => {
      const { shape: [nLayers, nRoles], values: all } = matrix(pair.effects, name);
      const points = [...Array(nLayers).keys()].map((layer) => [30 + (width - 40) * layer / Math.max(1, nLayers - 1), y(all[layer * nRoles + role])])
        .filter(([, place]) => Number.isFinite(place));
      const ink = k === 0 ? `rgb(${colour("--heat")})` : colour("--faint");
      chart.append(drawn("polyline", { points: points.map((point) => point.join(",")).join(" "), fill: "none", stroke: ink,
        "stroke-width": k === 0 ? 2.5 : 1.5, "stroke-dasharray": dashes[k % dashes.length] }),
      drawn("line", { x1: width + 8, x2: width + 36, y1: 18 + k * 18, y2: 18 + k * 18, stroke: ink, "stroke-width": 2, "stroke-dasharray": dashes[k % dashes.length] }),
      drawn("text", { x: width + 42, y: 22 + k * 18 }, name.split(", ")[1].replaceAll("_", " ")));
    });
    chart.append(drawn("text", { x: 30, y: high + 34 }, `${component.replaceAll("_", " ")} at “${pair.roles[role]}”, by layer`));
    return element("div", { class: "scroll", tabindex: "0", role: "group", "aria-label": "patching" }, chart);
  }

  // ---------------------------------------------------------------- export

  function save(content, type, suffix) {
    const name = `${collection.model}_${collection.dataset}_${item().uid}`.replace(/[^\w.-]+/g, "-");
    const link = element("a", { href: URL.createObjectURL(new Blob([content], { type })), download: `${name}.${suffix}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  // A quoted cell of a CSV file, which no spreadsheet reads as a formula.
  const cell = (value) => `"${String(value).replace(/^[=+\-@\t\r]/, "'$&").replaceAll('"', '""')}"`;

  function csv() {
    const rows = [["position", "segment", "token", measured() ? state.by : "attention"].join(",")];
    trace.tokens.forEach((token, t) => rows.push(
      [t, SEGMENTS[text.segment[t]], cell(token), Number.isNaN(current?.found[t] ?? NaN) ? "" : current.found[t].toPrecision(4)].join(",")));
    return rows.join("\n") + "\n";
  }

  // The visible text as a picture; formulas are shown token by token, as colours are by token.
  function svg() {
    text.renderFormulas(false);
    const picture = svgOfTokens();
    text.renderFormulas(state.formulas === "yes");
    return picture;
  }

  function svgOfTokens() {
    const [first, last] = text.visible(), width = text.box.clientWidth, top = first * LINE;
    const chart = drawn("svg", { xmlns: SVG, width, height: (last - first) * LINE + 42,
      "font-family": "DejaVu Sans Mono, monospace", "font-size": 13 });
    chart.append(drawn("rect", { width: "100%", height: "100%", fill: colour("--paper") }));
    for (const [k, line] of text.drawnLines) {
      for (const span of line.children) {
        const x = span.offsetLeft + 8, y = k * LINE - top;
        if (span.style.backgroundColor) {
          chart.append(drawn("rect", { x, y: y + 1, width: span.offsetWidth, height: LINE - 2, fill: span.style.backgroundColor }));
        }
        chart.append(drawn("text", { x, y: y + 15, fill: span.style.color || colour("--ink"), "xml:space": "preserve" }, span.textContent));
      }
      if (!line.children.length) chart.append(drawn("text", { x: 8, y: k * LINE - top + 14, fill: colour("--faint"), "font-size": 11 }, line.textContent));
    }
    if (!find("legend").hidden) {
      const shades = drawn("linearGradient", { id: "shades" });
      for (let share = 0; share <= 1; share += 0.1) {
        const [name, alpha] = shadeAt(share);
        shades.append(drawn("stop", { offset: share, "stop-color": `rgb(${colour(name)})`, "stop-opacity": alpha }));
      }
      chart.append(shades, drawn("rect", { x: 8, y: (last - first) * LINE + 26, width: 90, height: 8, fill: "url(#shades)" }),
        drawn("text", { x: 104, y: (last - first) * LINE + 34, fill: colour("--faint"), "font-size": 11 },
          find("legend").textContent.trim()));
    }
    const what = find(measured() ? "by" : "source").selectedOptions[0].textContent;
    const caption = `${item().uid}, ${collection.model_label}, ${what}`;
    chart.append(drawn("text", { x: 8, y: (last - first) * LINE + 16, fill: colour("--faint"), "font-size": 11 }, caption));
    return new XMLSerializer().serializeToString(chart);
  }

  function savePng() {
    const picture = new Image(), source = svg();
    picture.onload = () => {
      const canvas = element("canvas", { width: picture.width * 2, height: picture.height * 2 }), pen = canvas.getContext("2d");
      pen.scale(2, 2);
      pen.drawImage(picture, 0, 0);
      canvas.toBlob((blob) => save(blob, "image/png", "png"));
    };
    picture.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(source)}`;
  }

  // ---------------------------------------------------------------- events

  function listen() {
    let from = null;
    // The span under the pointer: one token, or the tokens of a formula.
    function spanAt({ target }) {
      for (let place = target; place && place !== text.box; place = place.parentNode) if (place.token !== undefined) return place;
      return null;
    }
    text.box.addEventListener("pointerdown", (event) => {
      const span = spanAt(event);
      if (!span) return;
      const s = measured() ? sentenceAt(span.token) : -1;
      from = event.shiftKey && selection() ? selection()[0] : span.token;
      // if colours are by sentence, a click selects the sentence
      if (s >= 0 && !event.shiftKey) { select(trace.sentences[s], trace.sentences[s + 1] - 1); from = null; }
      else select(from, Math.max(from, span.last));
    });
    text.box.addEventListener("pointermove", (event) => {
      const span = spanAt(event);
      if (!span) return;
      if (from !== null && event.buttons) {
        const [first, last] = [Math.min(from, span.token), Math.max(from, span.last)], chosen = selection();
        if (!chosen || chosen[0] !== first || chosen[1] !== last) select(first, last);
      } else if (measured()) { span.title = inWords(sentenceAt(span.token)); point(sentenceAt(span.token)); }
      else span.title = current ? inTokens(span) : "";
    });
    text.box.addEventListener("pointerleave", () => point(-1));
    find("sentences").addEventListener("pointerleave", () => point(-1));
    addEventListener("pointerup", () => { from = null; });
    text.box.addEventListener("scroll", drawStrip, { passive: true });
    find("strip").onclick = (event) => {
      text.box.scrollTop = event.offsetY / find("strip").height * text.box.scrollHeight - text.box.clientHeight / 2;
    };
    text.box.addEventListener("dblclick", (event) => {
      const bounds = trace.sentences, s = sentenceAt(spanAt(event)?.token);
      if (s >= 0) select(bounds[s], bounds[s + 1] - 1);
    });
    for (const key of ["verdict", "area", "condition"]) {
      find(key).onchange = () => { state[key] = find(key).value; showList(); remember(); };
    }
    find("search").oninput = () => { state.q = find("search").value; showList(); remember(); };
    find("traces").addEventListener("scroll", drawList, { passive: true });
    find("study").onchange = () => { location.href = `../../${encodeURIComponent(find("study").value)}/explorer/index.html`; };
    find("collection").onchange = () => enter(find("collection").value);
    find("by").onchange = () => { state.by = find("by").value; update(); };
    find("source").onchange = () => { state.source = find("source").value; update(); };
    find("beside").onchange = () => { state.beside = find("beside").value; showOther(item()); remember(); };
    find("score").onchange = () => { state.score = find("score").value; update(); };
    find("show-tokens").onclick = () => { state.view = "tokens"; update(); };
    find("show-sentences").onclick = () => { state.view = "sentences"; update(); };
    find("formulas").onclick = switchFormulas;
    document.fonts.addEventListener("loadingdone", () => { // the letters' widths are known now
      for (const pane of [text, otherText]) if (pane.lines) pane.measure([...pane.drawnLines.keys()]);
    });
    find("theme").onclick = () => {
      const isDark = document.documentElement.classList.toggle("dark");
      try { localStorage.setItem("r2a-theme", isDark ? "dark" : "light"); } catch { /* a disk's page may have no storage */ }
      open(state.t, true);
    };
    find("help").onclick = () => find("keys").showModal();
    find("save-csv").onclick = () => save(csv(), "text/csv", "csv");
    find("save-svg").onclick = () => save(svg(), "image/svg+xml", "svg");
    find("copy-svg").onclick = async () => {
      await navigator.clipboard.writeText(svg());
      find("told").textContent = "Copied as SVG.";
    };
    find("save-png").onclick = savePng;
    addEventListener("hashchange", start);
    addEventListener("keydown", onKey);
  }

  // The value of a span's token, or the greatest among a formula's tokens.
  function inTokens({ token, last }) {
    let most = token;
    for (let t = token; t <= last; t++) if (current.found[t] > (current.found[most] || 0)) most = t;
    const which = last > token ? `most of tokens ${token} to ${last}, “${shown(trace.tokens[most]).trim()}”` : token;
    return `${SEGMENTS[text.segment[token]]} ${which}: ${number(current.found[most])}`;
  }

  function switchFormulas() {
    state.formulas = state.formulas === "yes" ? "no" : "yes";
    for (const pane of [text, otherText]) pane.renderFormulas(state.formulas === "yes");
    update();
  }

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || find("keys").open) return;
    if (["INPUT", "SELECT"].includes(event.target.tagName)) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    const chosen = selection(), [first] = trace.rows ?? [trace.bounds[5]];
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], jump = { ArrowUp: -1, ArrowDown: 1 }[event.key];
    if (step) {
      const last = trace.tokens.length - 1, place = (t) => Math.max(0, Math.min(last, t));
      if (!chosen) select(first, first);
      else if (event.shiftKey) select(chosen[0], Math.max(chosen[0], place(chosen[1] + step)));
      else {
        const k = trace.rows?.indexOf(chosen[0]) ?? -1; // from an answer token to the next whose attention is here
        const next = (k >= 0 ? trace.rows[k + step] : undefined) ?? place(chosen[0] + step);
        select(next, next);
      }
      text.reveal(selection()[1]);
    } else if (jump) {
      const here = listed.findIndex(([, k]) => String(k) === state.t), next = listed[here + jump];
      if (next) {
        open(String(next[1]));
        showChosen();
      }
    } else if (event.key === "[" || event.key === "]") {
      const options = [...find("source").options].map((option) => option.value);
      state.source = find("source").value = options.at((options.indexOf(state.source) + (event.key === "]" ? 1 : -1)) % options.length);
      update();
    } else if (event.key === "v") { state.view = state.view === "tokens" ? "sentences" : "tokens"; update(); }
    else if (event.key === "f" && text.units.size) switchFormulas();
    else if (event.key === "/") find("search").focus();
    else if (event.key === "Escape") select(null);
    else if (event.key === "?") find("keys").showModal();
    else return;
    event.preventDefault();
  }

  // ---------------------------------------------------------------- start

  async function enter(number, keep = false) {
    if (!keep) Object.assign(state, { t: "0", sel: "", q: "", verdict: "", area: "", condition: "" });
    state.c = number;
    collection = study.collections[Number(number)];
    heads = await load(`${collection.folder}/heads`);
    fill(find("score"), scoreNames().map((name) => [name, name]), state.score);
    state.score = find("score").value || state.score;
    find("collection").value = number;
    showList();
    if (!keep) {
      const best = listed.find(([one]) => one.has_rows) ?? listed[0];
      if (best) state.t = String(best[1]);
    }
    await open(state.t, true);
    showChosen();
  }

  async function start() {
    for (const [key, value] of new URLSearchParams(location.hash.slice(1))) if (key in state) state[key] = value;
    const isNew = !new URLSearchParams(location.hash.slice(1)).has("t");
    // links from the summary name the model and dataset
    const named = study.collections.findIndex((one) => `${one.model}/${one.dataset}` === state.c);
    if (named >= 0) state.c = String(named);
    if (!study.collections[Number(state.c)]) state.c = "0";
    if (!study.collections[Number(state.c)].traces[Number(state.t)]) state.t = "0";
    await enter(state.c, !isNew);
  }

  async function begin() {
    let theme = null;
    try { theme = localStorage.getItem("r2a-theme"); } catch { /* a disk's page may have no storage */ }
    const isDark = theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    document.documentElement.classList.toggle("dark", isDark);
    study = await load("index");
    document.title = `Trace explorer: ${study.study}`;
    // a page that was copied away from its results lists only its own study
    const studies = await load("studies", "../../explorers.js").catch(() => []);
    fill(find("study"), [...new Set([study.study, ...studies])].map((name) => [name, name]), study.study);
    find("toy").hidden = !study.is_toy;
    fill(find("collection"), study.collections.map((one, k) => [String(k), `${one.model_label}, ${one.dataset_label}`]), state.c);
    text = new Text(find("text"));
    otherText = new Text(find("other").querySelector(".text"));
    listen();
    await start();
  }

  addEventListener("unhandledrejection", (event) => { find("told").textContent = event.reason.message; });
  document.addEventListener("DOMContentLoaded", begin);
  return { take, state, select, inkOn, trace: () => trace, opened: () => opened };
})();
