// Texts are only ever set as text: nothing that a query or an item holds can become markup.
"use strict";

const at = (id) => document.getElementById(id);
const given = new URLSearchParams(location.search).get("rater");
let rater = given || "";
let shown = null;
let total = 0;
let busy = false;

async function call(path, body) {
  const how = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  const answer = await fetch(path, how);
  const told = await answer.json().catch(() => ({ error: `The page's server answers ${answer.status}.` }));
  if (!answer.ok) throw new Error(told.error || `The page's server answers ${answer.status}.`);
  return told;
}

// One thing at a time: a key pressed before the last answer is on disk would grade a pair that nobody has read.
async function alone(work) {
  if (busy) return;
  busy = true;
  try {
    at("trouble").textContent = "";
    await work();
  } catch (err) {
    at("trouble").textContent = `Not saved: ${err.message || err}`;
  } finally {
    busy = false;
  }
}

function tell(progress) {
  total = progress.total;
  const done = progress.graded + progress.skipped;
  at("rater").textContent = progress.rater;
  at("progress").max = total;
  at("progress").value = done;
  at("count").textContent = `${done} of ${total}` + (progress.skipped ? `, ${progress.skipped} skipped` : "");
}

function mark() {
  for (const button of at("grades").children) {
    button.setAttribute("aria-pressed", String(shown.answered && shown.grade === Number(button.dataset.grade)));
  }
  at("skip").setAttribute("aria-pressed", String(shown.answered && shown.grade === null));
}

async function show(place) {
  shown = await call(`api/task?${new URLSearchParams({ rater, place })}`);
  at("place").textContent = `Pair ${shown.place + 1} of ${total}`;
  at("query").textContent = shown.query;
  at("need").textContent = shown.need;
  at("need-part").hidden = !shown.need;
  at("item").textContent = shown.item;
  at("image-part").hidden = !shown.image;
  at("image").hidden = at("no-image").hidden = true;
  if (shown.image) at("image").src = shown.image;
  else at("image").removeAttribute("src");
  mark();
  at("pair").focus({ preventScroll: true });
  window.scrollTo(0, 0);
}

async function finished() {
  at("status").textContent = "Everything is answered. You can close this page, or go back with p.";
  const told = await call("api/agreement");
  at("agreements").replaceChildren(...told.agreement.map((one) => {
    const line = document.createElement("li");
    const kappa = one.quadratic;
    const range = kappa.low === null ? "" : ` [${kappa.low.toFixed(2)}, ${kappa.high.toFixed(2)}]`;
    line.textContent = `${one.raters.join(" and ")}: ` +
      (kappa.mean === null ? "kappa is not defined" : `quadratic kappa ${kappa.mean.toFixed(2)}${range}`) +
      ` on ${one.pairs} pairs`;
    return line;
  }));
  at("agreement").hidden = told.agreement.length === 0;
}

function grade(value) {
  return alone(async () => {
    const told = await call("api/answer", { rater, task: shown.task, grade: value });
    tell(told);
    shown.answered = true;
    shown.grade = value;
    mark();
    at("status").textContent = "Saved.";
    if (told.next === null) await finished();
    else await show(told.next);
  });
}

function undo() {
  return alone(async () => {
    const told = await call("api/undo", { rater });
    tell(told);
    at("status").textContent = told.undone ? "Taken back." : "There is nothing to take back.";
    if (told.undone) await show(told.next);
  });
}

function move(step) {
  return alone(() => show((shown.place + step + total) % total));
}

// Never the last pair's image beside this one's text: it is shown when it is there.
at("image").addEventListener("load", () => { at("image").hidden = false; });
at("image").addEventListener("error", () => { at("no-image").hidden = !at("image").hasAttribute("src"); });

function start() {
  return alone(async () => {
    const job = await call(`api/job?${new URLSearchParams(given ? { rater: given } : {})}`);
    rater = job.rater;
    tell(job);
    const keys = new Map();
    at("grades").replaceChildren(...job.grades.map((one) => {
      const button = document.createElement("button");
      button.type = "button";
      button.dataset.grade = one.grade;
      const key = document.createElement("kbd");
      key.textContent = one.key;
      button.append(key, ` ${one.name}`);
      if (one.key) {
        button.setAttribute("aria-keyshortcuts", one.key);
        keys.set(one.key, () => grade(one.grade));
      }
      button.addEventListener("click", () => grade(one.grade));
      return button;
    }));
    for (const [id, key, work] of [["previous", "p", () => move(-1)], ["next", "n", () => move(1)],
      ["skip", "s", () => grade(null)], ["undo", "u", undo]]) {
      at(id).addEventListener("click", work);
      keys.set(key, work);
    }
    document.addEventListener("keydown", (event) => {
      if (!at("keys").checked || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
      const work = keys.get(event.key.toLowerCase());
      if (!work || !shown) return;
      event.preventDefault();
      work();
    });
    await show(job.first === null ? 0 : job.first);
    if (job.first === null) await finished();
  });
}

start();
