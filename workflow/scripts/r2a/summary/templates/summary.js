"use strict";
// Figures are compressed in the page and unpacked when their tab is opened; tables sort; links open their target.
(() => {
  const all = (selector, inside = document) => [...inside.querySelectorAll(selector)];

  // ---- figures

  async function unpacked(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (letter) => letter.charCodeAt(0));
    return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
  }

  let glyphs = null; // outlines of letters, which all figures share

  async function unpack(figure) {
    const picture = figure.querySelector("img");
    if (picture.hasAttribute("src") || figure.dataset.isWaiting) return;
    figure.dataset.isWaiting = "yes";
    glyphs ??= unpacked("packed-glyphs").then(JSON.parse);
    const [vectors, outlines] = await Promise.all([unpacked(`packed-${figure.id}`), glyphs]);
    const whole = vectors.replace(/<path id="([A-Za-z]\w*-[0-9a-f]+)"(?! d=)/g, (start, name) =>
      name in outlines ? `${start} d="${outlines[name]}"` : start);
    picture.src = URL.createObjectURL(new Blob([whole], { type: "image/svg+xml" }));
  }

  const unpackShown = (box) => box.open && all('[role="tabpanel"]:not([hidden]) .drawn', box).forEach(unpack);

  for (const box of all(".figures")) box.addEventListener("toggle", () => unpackShown(box));

  // ---- tabs

  function choose(tab) {
    for (const other of all('[role="tab"]', tab.parentNode)) {
      const isChosen = other === tab;
      other.setAttribute("aria-selected", String(isChosen));
      other.tabIndex = isChosen ? 0 : -1;
      document.getElementById(other.getAttribute("aria-controls")).hidden = !isChosen;
    }
    unpackShown(tab.closest("details"));
  }

  for (const list of all('[role="tablist"]')) {
    const tabs = all('[role="tab"]', list);
    for (const tab of tabs) tab.addEventListener("click", () => choose(tab));
    list.addEventListener("keydown", (event) => {
      const here = tabs.indexOf(document.activeElement);
      const next = { ArrowRight: here + 1, ArrowLeft: here - 1, Home: 0, End: tabs.length - 1 }[event.key];
      if (next === undefined || here < 0) return;
      event.preventDefault();
      const tab = tabs.at(next % tabs.length);
      tab.focus();
      choose(tab);
    });
  }

  // ---- links into folded parts

  function reveal() {
    const target = document.getElementById(location.hash.slice(1));
    if (!target) return;
    for (let place = target; place; place = place.parentElement) {
      if (place.tagName === "DETAILS") place.open = true;
      if (place.getAttribute("role") === "tabpanel" && place.hidden) choose(document.getElementById(place.getAttribute("aria-labelledby")));
    }
    target.scrollIntoView();
  }

  addEventListener("hashchange", reveal);
  document.addEventListener("click", (event) => {
    if (event.target.closest?.("a")?.hash === location.hash && location.hash) reveal(); // the hash does not change then
  });

  // ---- tables

  const worth = (row, column) => {
    const cell = row.cells[column], value = cell.dataset.value;
    return value === undefined ? cell.textContent.trim() : Number.parseFloat(value);
  };

  for (const button of all("th button")) {
    button.addEventListener("click", () => {
      const head = button.closest("th"), body = head.closest("table").tBodies[0], column = head.cellIndex;
      const way = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      for (const other of all("th", head.parentNode)) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", way > 0 ? "ascending" : "descending");
      const order = (one, other) => {
        const [a, b] = [worth(one, column), worth(other, column)];
        if (Number.isNaN(a) || Number.isNaN(b)) return Number.isNaN(a) - Number.isNaN(b); // unknown values come last
        return way * (typeof a === "string" ? a.localeCompare(b, "en", { numeric: true }) : a - b);
      };
      body.append(...[...body.rows].sort(order));
    });
  }

  // ---- the current section

  const links = new Map(all('#contents a[href^="#"]').map((link) => [link.hash.slice(1), link]));
  const seen = new Set();
  const watch = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) seen[isIntersecting ? "add" : "delete"](target.id);
    const first = [...links.keys()].find((id) => seen.has(id));
    for (const [id, link] of links) if (id === first) link.setAttribute("aria-current", "true"); else link.removeAttribute("aria-current");
  }, { rootMargin: "-10% 0px -60% 0px" });
  for (const section of all("main > section")) watch.observe(section);

  // Nothing can be opened on paper; only open figures are printed.
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = all("details:not(.figures):not([open])");
    for (const box of opened) box.open = true;
  });
  addEventListener("afterprint", () => { for (const box of opened) box.open = false; });
  reveal();
})();
