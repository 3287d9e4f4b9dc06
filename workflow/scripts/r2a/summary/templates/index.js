"use strict";
// Two studies side by side, by model and dataset. All values enter the page as text.
(() => {
  const studies = JSON.parse(document.getElementById("studies").textContent);
  const table = document.getElementById("compared");
  if (!table) return;

  function element(tag, attributes, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  const picks = ["one", "other"].map((id) => document.getElementById(id));
  picks.forEach((pick, k) => {
    pick.append(...studies.map(({ study }, number) => element("option", { value: number }, study)));
    pick.value = String(Math.min(k, studies.length - 1));
    pick.addEventListener("change", compare);
  });

  const mark = (cell) => cell.sign ? [element("span", { class: cell.sign > 0 ? "mark" : "mark down" }, cell.sign > 0 ? "▲" : "▼")] : [];

  const rowOf = (study, { model, dataset }) => study.rows.find((one) => one.model === model && one.dataset === dataset);

  function shown(study, subject, column) {
    const cell = rowOf(study, subject).cells[study.columns.indexOf(column)];
    if (!cell) return element("td", { class: "number faint" }, "–");
    const [value, interval] = cell.text.split(" [");
    return element("td", { class: cell.is_small ? "number small" : "number", "data-note": cell.note },
      value, ...(interval ? [" ", element("small", {}, `[${interval}`)] : []), ...mark(cell));
  }

  function compare() {
    const both = picks.map((pick) => studies[Number(pick.value)]);
    const columns = [...new Set(both.flatMap((study) => study.columns))];
    const subjects = new Map(both.flatMap((study) => study.rows.map((row) => [JSON.stringify([row.model, row.dataset]), row])));
    const having = (row) => both.filter((study) => rowOf(study, row));
    const models = [...new Set([...subjects.values()].map((row) => row.model))];
    const rows = models.flatMap((model) => [...subjects.values()].filter((row) => row.model === model));
    rows.sort((one, other) => having(other).length - having(one).length); // rows that both studies have come first
    table.replaceChildren(
      element("thead", {}, element("tr", {}, ...["Model", "Dataset", "Study"].map((name) => element("th", { scope: "col" }, name)),
        ...columns.map((name) => element("th", { scope: "col", class: "number" }, name[0].toUpperCase() + name.slice(1))))),
      ...rows.map((row) => element("tbody", { class: "pair-of-rows" }, ...having(row).map((study, k, there) => element("tr", {},
        ...(k === 0 ? [element("th", { rowspan: there.length, scope: "rowgroup" }, row.model),
          element("td", { rowspan: there.length }, row.dataset)] : []),
        element("td", {}, study.study), ...columns.map((name) => shown(study, row, name)))))));
  }

  compare();
})();
