// The filters of a written page. It carries a number of views, drawn by the same code as the served page's; which of
// them is shown is kept in the URL's fragment. For what it does not carry it writes the command that does.
"use strict";

(() => {
  const { views, command } = charts.data.page;
  const NAMES = ["model", "slice", "window"], TIMES = ["since", "until"];
  const form = document.querySelector("form.filters"), missing = document.getElementById("missing");
  const shown = document.getElementById("shown"), parts = [...document.querySelectorAll("[data-part]")];
  const first = parts.map((part) => [...part.childNodes]), all = charts.data.charts;

  const quoted = (text) => (/^[\w./:=-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const seconds = (time) => { const ms = Date.parse(`${time}Z`); return Number.isNaN(ms) ? null : ms / 1000; };

  function show() {
    if (location.hash === "#main") return; // the link to the content
    const asked = new URLSearchParams(location.hash.slice(1));
    const value = (name) => asked.get(name) ?? "";
    for (const name of [...NAMES, ...TIMES]) form.elements[name].value = value(name);
    const [since, until] = TIMES.map((name) => (seconds(value(name)) === null ? "" : value(name)));
    const place = views.findIndex((view) => NAMES.every((name) => view[name] === value(name)));
    missing.hidden = place >= 0;
    parts.forEach((part, n) => {
      const template = document.querySelector(`template[data-view="${place}"]`);
      const nodes = place === 0 ? first[n] : template ? [...template.content.children[n].cloneNode(true).childNodes] : [];
      part.replaceChildren(...nodes);
    });
    if (place < 0) {
      const options = { model: "--model", slice: "--slice", window: "--at", since: "--since", until: "--until" };
      const given = [...NAMES, ...TIMES].filter((name) => value(name));
      const words = given.flatMap((name) => [options[name], quoted(name === "slice" ? value(name).slice(1) : value(name))]);
      missing.querySelector("code").textContent = [command, ...words].join(" ");
      charts.show({});
      shown.textContent = "";
      return;
    }
    charts.show(views[place].charts ?? all, since && seconds(since), until && seconds(until));
    cut(since, until);
    const at = views[place].at, outside = at && ((since && at < since) || (until && at >= until));
    const named = NAMES.filter((name) => value(name)).map((name) => form.elements[name].selectedOptions[0].text);
    const span = [since && `from ${since.replace("T", " ")}`, until && `to ${until.replace("T", " ")}`].filter(Boolean);
    const what = [...named, span.join(" ")].filter(Boolean).join(", ");
    shown.textContent = (what && `Shown: ${what}.`) + (outside ? ` The window that is looked into, ${at.replace("T", " ")}, is outside.` : "");
  }

  // Whole windows are chosen, by their start; they stand in the first column of tables over time.
  function cut(since, until) {
    for (const table of document.querySelectorAll("[data-part] table")) {
      if (!table.querySelector("th").textContent.endsWith("(UTC)")) continue;
      for (const row of table.tBodies[0].rows) {
        const text = row.cells[0].textContent.replace(" ", "T"), start = text.length === 10 ? `${text}T00:00` : text;
        row.hidden = Boolean((since && start < since) || (until && start >= until));
      }
    }
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const asked = [...new FormData(form)].filter(([, value]) => value);
    location.hash = new URLSearchParams(asked).toString();
  });
  addEventListener("hashchange", show);
  form.hidden = false;
  if (location.hash) show();
})();
