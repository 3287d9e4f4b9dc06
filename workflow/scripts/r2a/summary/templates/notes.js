// Shows the note of a number (its n and test) under the pointer or focus.
(() => {
  const note = document.getElementById("note");

  function tell(event) {
    const place = event.target.closest?.("[data-note]");
    note.hidden = !place;
    if (!place) return;
    note.textContent = place.dataset.note;
    place.setAttribute("aria-describedby", "note");
    const box = place.getBoundingClientRect(), size = note.getBoundingClientRect();
    note.style.left = `${Math.max(8, Math.min(innerWidth - size.width - 8, box.left))}px`;
    note.style.top = `${box.bottom + size.height + 8 < innerHeight ? box.bottom + 4 : Math.max(4, box.top - size.height - 4)}px`;
  }

  for (const kind of ["mouseover", "focusin"]) document.addEventListener(kind, tell);
  for (const kind of ["focusout", "scroll"]) document.addEventListener(kind, () => { note.hidden = true; }, true);
  addEventListener("keydown", (event) => { if (event.key === "Escape") note.hidden = true; });
})();
