// Draws the charts of a page with uPlot, from the page's data. Colours come from page.css, so that they follow the theme;
// a dash and a mark of its own tell each series apart without them. Texts are only ever set as text.
"use strict";

const charts = (() => {
  const MARKS = ["circle", "square", "diamond", "triangle", "cross", "plus"];
  const DASHES = [[], [8, 4], [2, 3], [10, 3, 2, 3], [5, 5], [1, 4]];
  const LEAST_P = 1e-5;
  const LONGEST_LABEL = 24;
  const COUNTS = [...Array(12).keys()].flatMap((power) => [1, 2, 5].map((step) => step * 10 ** power));
  const day = "{D} {MMM}";
  const TIMES = [
    [31536000, "{YYYY}", null, null, null, null, null, null, 1],
    [2419200, "{MMM}", "\n{YYYY}", null, null, null, null, null, 1],
    [86400, day, "\n{YYYY}", null, null, null, null, null, 1],
    [3600, "{HH}:{mm}", `\n${day} {YYYY}`, null, `\n${day}`, null, null, null, 1],
    [60, "{HH}:{mm}", `\n${day} {YYYY}`, null, `\n${day}`, null, null, null, 1],
    [1, "{HH}:{mm}:{ss}", `\n${day} {YYYY}`, null, `\n${day}`, null, null, null, 1],
  ];
  const held = document.getElementById("data");
  const data = held ? JSON.parse(held.textContent) : {};
  const drawn = new Map();
  let span = [null, null]; // of time that is shown; null: as far as there is something

  const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();
  const two = (number) => String(number).padStart(2, "0");

  function formatTime(seconds) {
    const t = new Date(seconds * 1000);
    return `${t.getUTCFullYear()}-${two(t.getUTCMonth() + 1)}-${two(t.getUTCDate())} ${two(t.getUTCHours())}:${two(t.getUTCMinutes())}`;
  }

  function format(unit, value) {
    if (value === null || value === undefined) return "–";
    if (unit === "percent") return `${(100 * value).toFixed(1)} %`;
    if (unit === "count") return Math.round(value).toLocaleString("en");
    if (unit === "ms") return `${value.toFixed(1)} ms`;
    return String(Number(value.toPrecision(3)));
  }

  function trace(path, mark, x, y, r) {
    if (mark === "circle") path.arc(x, y, r, 0, 2 * Math.PI);
    else if (mark === "square") path.rect(x - r, y - r, 2 * r, 2 * r);
    else if (mark === "diamond") { path.moveTo(x, y - 1.3 * r); path.lineTo(x + 1.3 * r, y); path.lineTo(x, y + 1.3 * r); path.lineTo(x - 1.3 * r, y); path.closePath(); }
    else if (mark === "triangle") { path.moveTo(x, y - 1.2 * r); path.lineTo(x + 1.2 * r, y + r); path.lineTo(x - 1.2 * r, y + r); path.closePath(); }
    else if (mark === "cross") { for (const s of [1, -1]) { path.moveTo(x - r, y - s * r); path.lineTo(x + r, y + s * r); } }
    else { path.moveTo(x - r, y); path.lineTo(x + r, y); path.moveTo(x, y - r); path.lineTo(x, y + r); }
  }

  // What uPlot does not draw by itself: bands, marks, the level, vertical lines and flags.
  function overlay(chart) {
    return (u) => {
      const { ctx, bbox } = u, pixel = devicePixelRatio;
      const at = (value, scale) => u.valToPos(value, scale, true);
      ctx.save();
      ctx.beginPath();
      ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
      ctx.clip();
      ctx.setLineDash([]); // uPlot leaves that of its last line
      ctx.font = `${12 * pixel}px system-ui, sans-serif`;
      chart.series.forEach((series, place) => {
        if (series.kind === "bars" || series.kind === "guide") return;
        const ink = colour(`series-${place + 1}`), r = 3 * pixel;
        ctx.strokeStyle = ctx.fillStyle = ink;
        ctx.lineWidth = 1.5 * pixel;
        const few = chart.x.length <= 120;
        // Marks of one name stand side by side, so that their intervals can be told apart.
        const aside = chart.names.length && series.kind === "marks" ? 9 * pixel * (place - (chart.series.length - 1) / 2) : 0;
        chart.x.forEach((x, i) => {
          const value = series.values[i];
          if (value === null) return;
          const left = at(x, "x") + aside, y = at(limit(chart, value), "y");
          if (series.low && few && series.low[i] !== null) {
            ctx.beginPath();
            ctx.moveTo(left, at(limit(chart, series.low[i]), "y"));
            ctx.lineTo(left, at(limit(chart, series.high[i]), "y"));
            ctx.stroke();
          }
          if (few || series.kind === "marks") {
            ctx.beginPath();
            trace(ctx, MARKS[place], left, y, r);
            ctx.fill();
            if (place > 3) ctx.stroke();
          }
        });
      });
      if (chart.level) {
        const y = at(chart.level[0], "y");
        ctx.strokeStyle = ctx.fillStyle = colour("text");
        ctx.setLineDash([6 * pixel, 4 * pixel]);
        ctx.lineWidth = pixel;
        ctx.beginPath();
        ctx.moveTo(bbox.left, y);
        ctx.lineTo(bbox.left + bbox.width, y);
        ctx.stroke();
        ctx.setLineDash([]);
        ctx.textAlign = "right";
        ctx.strokeStyle = colour("back"); // a halo, where a line passes behind the words
        ctx.lineWidth = 4 * pixel;
        ctx.strokeText(chart.level[1], bbox.left + bbox.width - 4 * pixel, y - 5 * pixel);
        ctx.fillText(chart.level[1], bbox.left + bbox.width - 4 * pixel, y - 5 * pixel);
      }
      ctx.textAlign = "left";
      const ends = [-Infinity, -Infinity, -Infinity, -Infinity]; // of what is written in each row
      for (const [x, whole] of chart.marks) {
        const label = shorten(whole, LONGEST_LABEL);
        const left = at(x, "x");
        ctx.strokeStyle = colour("edge");
        ctx.fillStyle = colour("muted");
        ctx.lineWidth = pixel;
        ctx.beginPath();
        ctx.moveTo(left, bbox.top);
        ctx.lineTo(left, bbox.top + bbox.height);
        ctx.stroke();
        const width = ctx.measureText(label).width;
        const fits = left + width + 8 * pixel < bbox.left + bbox.width;
        const from = fits ? left + 4 * pixel : left - 4 * pixel - width;
        const row = Math.max(0, ends.findIndex((end) => end < from));
        ends[row] = Math.max(ends[row], from + width + 8 * pixel);
        ctx.fillText(label, from, bbox.top + (12 + 14 * row) * pixel);
      }
      ctx.strokeStyle = colour("bad");
      ctx.lineWidth = 2 * pixel;
      for (const i of chart.flagged.at) {
        const values = chart.series.map((series) => series.values[i]).filter((value) => value !== null);
        if (!values.length) continue;
        ctx.beginPath();
        ctx.arc(at(chart.x[i], "x"), at(limit(chart, chart.unit === "p" ? Math.min(...values) : Math.max(...values)), "y"), 8 * pixel, 0, 2 * Math.PI);
        ctx.stroke();
      }
      ctx.restore();
    };
  }

  const limit = (chart, value) => (chart.unit === "p" ? Math.max(value, LEAST_P) : value);

  function range(chart) {
    if (chart.unit === "p") return [LEAST_P / 2, 2];
    const all = chart.series.flatMap((series) => [series.values, series.low || [], series.high || []]).flat().filter((value) => value !== null);
    const level = chart.level ? [chart.level[0]] : [];
    const top = chart.top ?? 1.12 * Math.max(0, ...limits(all), ...level);
    const low = 1.12 * Math.min(0, ...limits(all), ...level);
    const high = chart.unit === "percent" ? Math.min(top, 1) : top;
    return [low, high > low ? high : low + 1];
  }

  // Of a logarithmic axis only the powers of ten are drawn.
  const power = (value) => (Math.abs(Math.log10(value) - Math.round(Math.log10(value))) < 1e-9 ? value : null);

  function limits(values) {
    let low = Infinity, high = -Infinity;
    for (const value of values) { if (value < low) low = value; if (value > high) high = value; }
    return values.length ? [low, high] : [];
  }

  // From end to end of what is drawn: a mark may follow the last point.
  function extent(chart) {
    const marked = chart.marks.map(([x]) => x);
    const [first, last] = [Math.min(chart.x[0], ...marked), Math.max(chart.x[chart.x.length - 1], ...marked)];
    const pad = first === last ? (chart.time ? 43200 : 0.5) : chart.names.length ? 0.5 : 0.03 * (last - first);
    return [first - pad, last + pad];
  }

  function options(chart, width, tell) {
    const axis = { stroke: colour("muted"), grid: { stroke: colour("line"), width: 1 }, ticks: { stroke: colour("line"), width: 1 }, font: "12px system-ui, sans-serif" };
    const [first, last] = [chart.x[0], chart.x[chart.x.length - 1]];
    const named = chart.names.length > 0;
    const few = chart.x.length <= 120;
    const series = chart.series.map((s, place) => {
      const ink = colour(`series-${place + 1}`);
      const bars = s.kind === "bars";
      return {
        label: s.name, stroke: s.kind === "marks" ? "transparent" : ink, width: bars ? 1 : 2, dash: bars ? [] : DASHES[place],
        fill: bars ? ink : undefined, paths: bars ? uPlot.paths.bars({ size: [0.7, 60] }) : undefined, points: { show: false }, spanGaps: false,
      };
    });
    const bands = [];
    if (!few) {
      chart.series.forEach((s, place) => {
        if (!s.low) return;
        const ink = colour(`series-${place + 1}`);
        series.push({ label: "", stroke: "transparent", points: { show: false } }, { label: "", stroke: "transparent", points: { show: false } });
        bands.push({ series: [series.length, series.length - 1], fill: `color-mix(in srgb, ${ink} 25%, transparent)` });
      });
    }
    return {
      width, height: chart.height, bands, tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "UTC"), legend: { show: false },
      cursor: { y: false, drag: { x: true, y: false }, points: chart.labels.length ? { show: false } : { size: 9 } },
      scales: {
        x: { time: chart.time, range: (u, low, high) => (low === first && high === last ? extent(chart) : [low, high]) },
        y: chart.unit === "p" ? { distr: 3, range: range(chart) } : { range: range(chart) },
      },
      axes: [named ? { ...axis, ...names(chart) } : chart.time ? { ...axis, values: TIMES, space: 64 } : axis, {
        ...axis, size: 64, incrs: chart.unit === "count" ? COUNTS : undefined, grid: { ...axis.grid, filter: (u, splits) => (chart.unit === "p" ? splits.map(power) : splits) },
        values: (u, ticks) => ticks.map((value) => (value === null ? "" : format(chart.unit, value))),
      }],
      series: [{}, ...series],
      hooks: { draw: [overlay(chart)], setCursor: [(u) => tell(chart.labels.length ? nearest(u, chart) : u.cursor.idx)], setSelect: [(u) => choose(u)] },
    };
  }

  // An axis of names, cut to the room that each has.
  function names(chart) {
    return {
      splits: (u, place, low, high) => chart.x.filter((x) => x >= low && x <= high),
      values: (u, ticks) => ticks.map((x) => shorten(chart.names[chart.x.indexOf(x)], Math.max(3, Math.floor((u.width - 80) / ticks.length / 7)))),
    };
  }

  const shorten = (text, most) => (text.length > most ? `${text.slice(0, most - 1)}…` : text);

  // The point that the pointer is nearest to, of a chart whose points have labels.
  function nearest(u, chart) {
    if (u.cursor.idx === null || u.cursor.idx === undefined) return null;
    let found = null, least = Infinity;
    chart.x.forEach((x, i) => {
      for (const { values } of chart.series) {
        if (values[i] === null) continue;
        const apart = (u.valToPos(x, "x") - u.cursor.left) ** 2 + (u.valToPos(values[i], "y") - u.cursor.top) ** 2;
        if (apart < least) { found = i; least = apart; }
      }
    });
    return found;
  }

  // Whoever listens learns which span was drawn with the mouse: {from, to} in the units of x.
  function choose(u) {
    if (u.select.width < 3) return;
    const detail = { from: u.posToVal(u.select.left, "x"), to: u.posToVal(u.select.left + u.select.width, "x") };
    u.root.dispatchEvent(new CustomEvent("darl-select", { bubbles: true, detail }));
  }

  function columns(chart) {
    const values = chart.series.map((series) => series.values.map((value) => (value === null ? null : limit(chart, value))));
    if (chart.x.length > 120) for (const s of chart.series) if (s.low) values.push(s.low, s.high);
    return [chart.x, ...values];
  }

  function swatch(place, kind) {
    const space = "http://www.w3.org/2000/svg";
    const svg = document.createElementNS(space, "svg");
    svg.setAttribute("width", "34"); svg.setAttribute("height", "12"); svg.setAttribute("aria-hidden", "true");
    const add = (name, values) => {
      const one = document.createElementNS(space, name);
      for (const [key, value] of Object.entries(values)) one.setAttribute(key, value);
      svg.append(one);
    };
    const ink = `var(--series-${place + 1})`;
    if (kind === "bars") add("rect", { x: 11, y: 1, width: 12, height: 10, fill: ink });
    else {
      if (kind === "line" || kind === "guide") add("line", { x1: 0, x2: 34, y1: 6, y2: 6, stroke: ink, "stroke-width": 2, "stroke-dasharray": DASHES[place].join(" ") });
      const shape = {
        circle: "M14 6a3 3 0 1 0 6 0a3 3 0 1 0-6 0z", square: "M14 3h6v6h-6z", diamond: "M17 2l4 4l-4 4l-4-4z",
        triangle: "M17 2l4 7h-8z", cross: "M14 3l6 6M20 3l-6 6", plus: "M13 6h8M17 2v8",
      }[MARKS[place]];
      if (kind !== "guide") add("path", { d: shape, fill: ink, stroke: ink });
    }
    return svg;
  }

  function legend(chart) {
    const list = document.createElement("ul");
    list.className = "legend";
    chart.series.forEach((series, place) => {
      const item = document.createElement("li");
      item.append(swatch(place, series.kind), series.name + (series.low ? ", with its interval" : ""));
      list.append(item);
    });
    if (chart.flagged.at.length) {
      const item = document.createElement("li");
      item.textContent = `◯ ${chart.flagged.name}`;
      list.append(item);
    }
    return list;
  }

  function draw(place) {
    const chart = data.charts[place.dataset.chart];
    drawn.get(place)?.destroy();
    place.replaceChildren();
    if (!chart.x.length) { place.textContent = "Nothing to draw."; return; }
    const readout = place.nextElementSibling?.classList.contains("readout") ? place.nextElementSibling : document.createElement("p");
    if (!readout.parentNode) {
      readout.className = "readout";
      readout.setAttribute("aria-hidden", "true"); // the table says the same
      place.after(readout, legend(chart));
    }
    const tell = (i) => {
      if (i === null || i === undefined) { readout.textContent = ""; return; }
      const x = chart.labels[i] ?? chart.names[i] ?? (chart.time ? formatTime(chart.x[i]) : format("number", chart.x[i]));
      const shown = chart.labels.length ? chart.series.filter((series) => series.values[i] !== null) : chart.series;
      const values = shown.map((series) => {
        const interval = series.low && series.low[i] !== null ? ` (${format(chart.unit, series.low[i])} to ${format(chart.unit, series.high[i])})` : "";
        return `${series.name} ${format(chart.unit, series.values[i])}${interval}`;
      });
      readout.textContent = `${x}: ${values.join("; ")}${chart.flagged.at.includes(i) ? `; ${chart.flagged.name}` : ""}`;
    };
    const plot = new uPlot(options(chart, place.clientWidth, tell), columns(chart), place);
    drawn.set(place, plot);
    if (chart.time && (span[0] !== null || span[1] !== null)) {
      const [low, high] = extent(chart);
      const [min, max] = [span[0] ?? low, span[1] ?? high];
      if (min < max) plot.setScale("x", { min, max });
    }
  }

  function drawAll() {
    for (const place of document.querySelectorAll("[data-chart]")) draw(place);
  }

  drawAll();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  const resized = new ResizeObserver((entries) => {
    for (const { target } of entries) {
      const plot = drawn.get(target);
      if (plot && plot.width !== target.clientWidth && target.clientWidth) plot.setSize({ width: target.clientWidth, height: data.charts[target.dataset.chart].height });
    }
  });
  const observe = () => { for (const place of document.querySelectorAll("[data-chart]")) resized.observe(place); };
  observe();

  // Draw other charts, in places that have replaced the former ones.
  function show(others, from, to) {
    for (const plot of drawn.values()) plot.destroy();
    drawn.clear();
    resized.disconnect();
    data.charts = others;
    span = [from || null, to || null];
    drawAll();
    observe();
  }

  return { data, drawn, drawAll, show };
})();
