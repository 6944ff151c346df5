// The try-out page. Texts are only ever set as text: nothing that a query or an item holds can become markup.
"use strict";

(() => {
  const about = JSON.parse(document.getElementById("data").textContent).page;
  const at = (id) => document.getElementById(id);
  const SVG = "http://www.w3.org/2000/svg";
  let found = null; // the search that is shown
  let chosen = null; // key of the item whose details are shown
  let asked = 0; // number of the latest request for results or details: an older answer is not shown

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (value !== null && value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
    }
    element.append(...children.filter((child) => child !== null));
    return element;
  }

  const hidden = (text) => make("span", { class: "hidden" }, text);
  const percent = (share) => `${Math.round(100 * share)} %`;
  const fixed = (value, digits = 2) => (value === null || value === undefined ? "–" : value.toFixed(digits));
  const ms = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en")} ms`;
  const total = (stages) => stages.reduce((sum, stage) => sum + stage.ms, 0);

  async function call(name, body) {
    let answer;
    try {
      answer = await fetch(`api/${name}`, {
        method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
      });
    } catch {
      throw new Error("darl try does not answer. Is it still running?");
    }
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.error || `darl try answers with status ${answer.status}.`);
    return told;
  }

  function complain(...texts) {
    at("trouble").replaceChildren(...texts.filter(Boolean).map((text) => make("p", { class: "bad" }, text)));
  }

  // ---- a search

  async function search(query) {
    const mine = ++asked;
    if (!query.trim()) {
      at("status").textContent = "Type a query.";
      return;
    }
    at("status").textContent = "Searching …";
    complain();
    let answer;
    try {
      answer = await call("search", { query });
    } catch (err) {
      if (mine !== asked) return;
      at("status").textContent = found ? `Below are still the results for “${found.query}”.` : "";
      complain(err.message);
      return;
    }
    if (mine !== asked) return;
    found = answer;
    document.title = `${query} – Try out`;
    const flagged = found.versions.map((version, n) => {
      const ood = version.rows.filter((row) => row.is_ood).length;
      return ood ? `${ood} of ${version.rows.length} hits are out of distribution for ${about.versions[n].label}` : "";
    });
    const hits = found.versions[0].rows.length;
    at("status").textContent = hits
      ? [`${hits} hits for “${query}”`, differences(), ...flagged].filter(Boolean).join("; ") + "."
      : `The first stage finds nothing for “${query}”.`;
    complain(...found.versions.map((version, n) =>
      version.problem && `${about.versions[n].label}: ${version.problem}`));
    at("results").hidden = !hits;
    if (hits) {
      showStages();
      showOrders();
      choose(found.versions[0].rows[0].item);
    }
  }

  function differences() {
    if (found.versions.length < 2) return "";
    const [one, other] = found.versions.map((version) => version.rows.map((row) => row.item));
    const moved = other.filter((item, place) => one[place] !== item).length;
    return moved ? `${moved} of ${other.length} places differ between the versions` : "both versions agree on their order";
  }

  function showStages() {
    const parts = [["First stage", found.first.stages], ...found.versions.map((version, n) =>
      [about.versions[n].label, version.stages])];
    at("stages").replaceChildren(make("h2", { class: "hidden" }, "Latency by stage"), ...parts.map(([label, stages]) => {
      const bar = make("div", { class: "bar", "aria-hidden": "true" });
      const longest = Math.max(...parts.map((part) => total(part[1])), 0.1);
      for (const [n, stage] of stages.entries()) {
        const piece = make("span", { class: `kind-${n % 4}` });
        piece.style.width = `${(100 * stage.ms) / longest}%`;
        bar.append(piece);
      }
      const list = make("ul", {}, ...stages.map((stage, n) => make("li", { class: `kind-${n % 4}` },
        `${stage.name} ${ms(stage.ms)}${stage.detail ? ` (${stage.detail})` : ""}`)));
      return make("div", { class: "stages" }, make("strong", {}, `${label} `, make("span", { class: "muted" }, ms(total(stages)))),
        bar, list);
    }));
  }

  // ---- the orders, side by side

  function showOrders() {
    const rest = found.versions.map((version, n) => order(
      `Reranked by ${about.versions[n].label}`,
      [["Place", "place"], ["Item", "name"], ["Grade", "grade"]],
      version.rows.map((row, place) => [
        row.item, [String(place + 1), move(row.was, place + 1)], grade(row, about.versions[n], found.items[row.item].id)]),
    ));
    const first = order("First stage", [["Place", "place"], ["Item", "name"], ["Score", "score"]],
      found.first.rows.map((row, place) => [row.item, [String(place + 1)], [fixed(row.score, 1)]]));
    const parts = [first];
    for (const table of rest) parts.push(lines(), table);
    at("orders").style.setProperty("--columns",
      ["minmax(0, 1fr)", ...rest.map(() => "2.75rem minmax(0, 1.35fr)")].join(" "));
    at("split").className = rest.length === 1 ? "beside" : "";
    at("orders").replaceChildren(...parts);
    drawMoves();
  }

  function order(title, head, rows) {
    const heads = head.map(([name, kind]) => make("th", { scope: "col", class: kind }, name));
    const body = rows.map(([key, place, last]) => {
      const item = found.items[key];
      const button = make("button", {
        type: "button", class: "item", "aria-pressed": "false", dir: "auto", onclick: () => choose(key, true),
      }, item.title);
      const row = make("tr", {}, make("th", { scope: "row", class: "place" }, ...place),
        make("td", { class: "name" }, make("div", { class: "brief" }, button,
          make("span", { class: "rest", dir: "auto" }, item.rest || item.id))),
        make("td", { class: head[2][1] }, ...last));
      row.dataset.item = key;
      return row;
    });
    return make("table", {}, make("caption", {}, title), make("thead", {}, make("tr", {}, ...heads)),
      make("tbody", {}, ...body));
  }

  function move(was, now) {
    if (!was) return make("span", { class: "move" }, "new");
    if (was === now) return make("span", { class: "move" }, make("span", { "aria-hidden": "true" }, "="), hidden("unmoved"));
    const up = was > now;
    return make("span", { class: `move ${up ? "up" : "down"}` },
      make("span", { "aria-hidden": "true" }, `${up ? "▲" : "▼"} ${Math.abs(was - now)}`),
      hidden(` ${up ? "up" : "down"} ${Math.abs(was - now)}, was ${was}`));
  }

  function grade(row, version, id) {
    if (row.grade === null) return [make("span", { class: "muted" }, "not scored")];
    const parts = [chances(row.grade_probs), make("div", { class: "says" },
      `${version.grades[row.grade]} ${percent(row.grade_probs[row.grade])}`)];
    const given = found.judged.grades[id];
    const badges = [];
    if (row.is_ood) badges.push(make("span", { class: "badge ood", title: "out of distribution" }, "OOD"));
    if (given !== undefined) {
      const same = given === row.grade;
      badges.push(make("span", { class: `badge ${same ? "right" : "wrong"}` },
        `${same ? "=" : "≠"} ${version.grades[given] ?? given}`, hidden(" judged")));
    }
    if (badges.length) parts.push(make("div", { class: "says" }, ...badges));
    return parts;
  }

  // The share of each grade, lowest first; the higher, the darker. The numbers are in the details.
  function chances(probs) {
    const bar = make("div", { class: "chances", "aria-hidden": "true" });
    for (const [n, share] of probs.entries()) {
      const piece = make("span");
      piece.style.flex = `${share} 0 0`;
      piece.style.setProperty("--ink", `${(100 * n) / (probs.length - 1)}%`);
      bar.append(piece);
    }
    return bar;
  }

  function lines() {
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "moves");
    svg.setAttribute("aria-hidden", "true");
    return svg;
  }

  function drawMoves() {
    for (const svg of document.querySelectorAll("svg.moves")) {
      const box = svg.getBoundingClientRect();
      if (!box.width) continue;
      const [left, right] = [svg.previousElementSibling, svg.nextElementSibling].map((table) => new Map(
        [...table.querySelectorAll("tbody tr")].map((row) => {
          const place = row.getBoundingClientRect();
          return [row.dataset.item, (place.top + place.bottom) / 2 - box.top];
        })));
      svg.setAttribute("viewBox", `0 0 ${box.width} ${box.height}`);
      const paths = [];
      for (const key of new Set([...left.keys(), ...right.keys()])) {
        const path = document.createElementNS(SVG, "path");
        const [a, b] = [left.get(key), right.get(key)];
        // Only the end of a line whose other end is beyond what is shown.
        const [x1, y1] = a === undefined ? [0.55 * box.width, b + 16] : [0, a];
        const [x2, y2] = b === undefined ? [0.45 * box.width, a + 16] : [box.width, b];
        const middle = (x1 + x2) / 2;
        path.setAttribute("d", `M${x1} ${y1} C${middle} ${y1} ${middle} ${y2} ${x2} ${y2}`);
        path.setAttribute("class", y2 < y1 - 1 ? "up" : y2 > y1 + 1 ? "down" : "same");
        path.classList.toggle("chosen", key === chosen);
        paths.push([key === chosen, path]);
      }
      svg.replaceChildren(...paths.sort((one, other) => one[0] - other[0]).map(([, path]) => path));
    }
  }

  // ---- one item

  async function choose(key, byHand = false) {
    chosen = key;
    for (const row of document.querySelectorAll("#orders tbody tr")) {
      row.classList.toggle("chosen", row.dataset.item === key);
      row.querySelector(".item").setAttribute("aria-pressed", String(row.dataset.item === key));
    }
    drawMoves();
    const mine = found;
    const item = found.items[key];
    const title = make("h2", { id: "details-title", tabindex: "-1", dir: "auto" }, item.title);
    const reading = about.versions.map(() => make("div", {}, make("p", { class: "muted" }, "Comparing tokens …")));
    const back = make("button", { type: "button", class: "back", onclick: toList }, "Back to the list (Escape)");
    at("details").replaceChildren(title, make("p", { class: "muted" }, `Item ${item.id}`), back, ...judging(key),
      make("div", { class: "whys" }, ...about.versions.map((version, n) =>
        make("div", {}, make("h3", {}, heading(version, n, key)), reading[n]))), figures(key));
    if (byHand) {
      title.focus({ preventScroll: true });
      if (title.getBoundingClientRect().bottom > innerHeight) title.scrollIntoView({ block: "center" });
    }
    for (const [n, part] of reading.entries()) {
      let answer;
      try {
        answer = await call("why", { search: mine.search, item: key, version: n });
      } catch (err) {
        answer = { text: "", problem: err.message };
      }
      if (mine !== found || key !== chosen) return;
      part.replaceChildren(...(answer.pieces ? tokens(answer) : [
        make("p", { class: "reading", dir: "auto" }, answer.text), make("p", { class: "muted" }, answer.problem)]));
    }
  }

  function toList() {
    const rows = document.querySelectorAll("#orders table:last-child tr.chosen .item, #orders tr.chosen .item");
    rows[rows.length - 1]?.focus();
  }

  function heading(version, n, key) {
    const place = found.versions[n].places[key];
    const where = place ? `place ${place}` : "beyond the hits shown";
    return about.versions.length === 1 ? `Why: ${where}` : `${version.label}: ${where}`;
  }

  function tokens(answer) {
    const { pieces, levels } = answer;
    const level = (value) => levels.filter((bound) => value >= bound).length;
    const spans = pieces.map((piece) => make("span", {}, piece.text));
    let pressed = null;
    const buttons = answer.tokens.map((token, n) => make("button", {
      type: "button", class: "token", "aria-pressed": "false",
      onclick: () => {
        pressed = pressed === n ? null : n;
        buttons.forEach((button, other) => button.setAttribute("aria-pressed", String(other === pressed)));
        shade(pressed);
      },
      onmouseenter: () => shade(n), onmouseleave: () => shade(pressed), onfocus: () => shade(n), onblur: () => shade(pressed),
    }, token));
    // By one token of the query, or by the one that is most like it.
    function shade(n) {
      for (const [place, piece] of pieces.entries()) {
        if (!piece.similar) continue;
        const value = n === null ? Math.max(...piece.similar) : piece.similar[n];
        spans[place].className = `level-${level(value)}`;
        spans[place].title = n === null
          ? `${fixed(value)}: most like ${answer.tokens[piece.similar.indexOf(value)]}` : `${fixed(value)}: like ${answer.tokens[n]}`;
      }
    }
    shade(null);
    const compared = pieces.filter((piece) => piece.similar);
    const rows = answer.tokens.map((token, n) => {
      const best = compared.length ? compared.reduce((one, other) => (other.similar[n] > one.similar[n] ? other : one)) : null;
      return make("tr", {}, make("th", { scope: "row", class: "name" }, buttons[n]),
        make("td", { class: "name", dir: "auto" }, best ? best.text : "–"), make("td", {}, best ? fixed(best.similar[n]) : "–"));
    });
    const names = ["query token", "closest in the item", "cosine"];
    const legend = make("p", { class: "scale" }, "Underlined by similarity to ", make("strong", {}, "any token of the query"),
      ", or to the one chosen below: ", make("span", { class: "reading" }, ...levels.flatMap((bound, n) => [
        make("span", { class: `level-${n + 1}` }, `${fixed(bound)} and more`), n < levels.length - 1 ? ", " : ""])),
      ". Of all tokens of the candidates, 10, 5, 2 and 0.5 % reach these. The model also weighs the query's tokens by rarity.");
    return [
      make("p", { class: "reading", dir: "auto" }, ...spans),
      answer.chunks > 1 ? make("p", { class: "muted" }, `Chunk ${answer.chunk} of ${answer.chunks}, the best-scoring one.`) : null,
      make("table", { class: "tokens" }, make("caption", { class: "hidden" }, "Tokens of the query"), make("thead", {}, make("tr", {},
        ...names.map((name, n) => make("th", { scope: "col", class: n < 2 ? "name" : null }, name)))), make("tbody", {}, ...rows)),
      levels.length ? legend : null,
    ].filter(Boolean);
  }

  function figures(key) {
    const rows = found.versions.map((version) => version.rows.find((row) => row.item === key));
    const lines = [["score", (row) => fixed(row.score)]];
    about.versions[0].grades.forEach((name, n) => lines.push(
      [`probability of ${name}`, (row, version) => (version.grades[n] === name && row.grade_probs ? percent(row.grade_probs[n]) : "–")]));
    lines.push(["OOD score", (row) => (row.ood_score === null ? "–"
      : `${fixed(row.ood_score)}${row.is_ood ? " (OOD)" : ""}`)]);
    lines.push(["OOD distance", (row) => fixed(row.ood_distance)]);
    const cell = (row, n, format) => make("td", {}, row ? format(row, about.versions[n]) : "–");
    return make("div", { class: "wide", role: "region", "aria-label": "Scores", tabindex: "0" }, make("table", {}, make("caption", {}, "Scores"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "name" }, "figure"),
        ...about.versions.map((version) => make("th", { scope: "col" }, version.label)))),
      make("tbody", {}, ...lines.map(([name, format]) => make("tr", {}, make("th", { scope: "row", class: "name" }, name),
        ...rows.map((row, n) => cell(row, n, format)))))));
  }

  // ---- judgments

  function judging(key) {
    if (!about.judgments) return [];
    const id = found.items[key].id;
    const given = found.judged.grades[id];
    const said = make("p", { role: "status" });
    const save = async (value, button) => {
      const mine = found;
      complain();
      try {
        const { judged } = await call("judge", { search: mine.search, item: key, grade: value });
        mine.judged = judged;
        if (mine !== found) return;
        showOrders();
        const again = judging(key)[0];
        if (key !== chosen) return;
        at("judging").replaceWith(again);
        for (const row of document.querySelectorAll("#orders tbody tr")) {
          row.classList.toggle("chosen", row.dataset.item === key);
          row.querySelector(".item").setAttribute("aria-pressed", String(row.dataset.item === key));
        }
        again.querySelector(`[data-grade="${value ?? given}"]`)?.focus();
        again.querySelector("[role=status]").textContent = value === null ? "Taken back." : "Saved.";
      } catch (err) {
        complain(`Not saved: ${err.message}`);
        button.focus();
      }
    };
    const buttons = about.versions[0].grades.map((name, n) => {
      const button = make("button", { type: "button", "aria-pressed": String(n === given), "data-grade": n }, name);
      button.addEventListener("click", () => save(n, button));
      return button;
    });
    if (found.judged.here.includes(id)) {
      const undo = make("button", { type: "button" }, "Take back");
      undo.addEventListener("click", () => save(null, undo));
      buttons.push(undo);
    }
    return [make("fieldset", { id: "judging" }, make("legend", {}, "Right grade"), ...buttons, said,
      make("p", { class: "muted" }, `Goes to ${about.judgments}.`))];
  }

  // ---- the page

  function fromAddress() {
    const query = new URLSearchParams(location.search).get("q") ?? "";
    at("query").value = query;
    search(query);
  }

  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    const query = at("query").value;
    if (!query.trim()) return;
    history.pushState(null, "", `?${new URLSearchParams({ q: query })}`);
    search(query);
  });
  at("details").addEventListener("keydown", (event) => { if (event.key === "Escape") toList(); });
  addEventListener("popstate", fromAddress);
  addEventListener("resize", drawMoves);
  fromAddress();
})();
