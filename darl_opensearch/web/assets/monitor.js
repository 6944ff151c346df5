// A span that is drawn on a chart goes into the form, which asks the server for its figures.
"use strict";

document.addEventListener("darl-select", ({ detail }) => {
  const text = (seconds) => new Date(1000 * seconds).toISOString().slice(0, 16);
  const form = document.querySelector("form.filters");
  form.elements.since.value = text(detail.from);
  form.elements.until.value = text(detail.to);
});
