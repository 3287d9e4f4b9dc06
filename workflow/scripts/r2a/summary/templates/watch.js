"use strict";
// Loads the page again every few seconds, but not while someone selects text in it.
setInterval(() => {
  if (getSelection().isCollapsed) location.reload();
}, 1000 * Number(document.body.dataset.seconds));

