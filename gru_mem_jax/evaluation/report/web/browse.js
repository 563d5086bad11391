// The list of trajectories: filters, search, and which one is shown.

const GATED = ["without_exit_gate", "with_exit_gate", "reread", "parallel"];
const CHOICES = ["mode", "set", "context", "policy"];
const WRONG = {
  answer: (sample) => sample.score < 1,
  exit: (sample) => sample.exit !== null && sample.exit !== "exact",
  update: (sample) => sample.wrongUpdates > 0,
  form: (sample) => sample.wellFormed !== null && sample.wellFormed < 1,
};

let current = { sample: null, turn: null, turns: [], marks: null };
let shown = []; // samples that pass the filters, in the order of the list
let found = null; // ids of the samples whose text has what is searched; null: no search
let searching = 0; // number of the search that runs

function modeName(mode) {
  const name = el("span", { class: "mode" }, data.modes[mode] ?? mode);
  name.dataset.mode = mode;
  return name;
}

function mark(sample) {
  if (sample.score >= 1) return el("span", { class: "good", title: "right" }, "✓");
  if (sample.score <= 0) return el("span", { class: "bad", title: "wrong" }, "✗");
  return el("span", { class: "bad" }, percent(sample.score));
}

/** Fills the filters with what there is, and listens to them. */
function startBrowsing() {
  for (const name of CHOICES) {
    const select = document.getElementById(`pick-${name}`);
    const values = [...new Set(data.samples.map((sample) => sample[name]))];
    for (const value of values) {
      const text = name === "mode" ? data.modes[value] : value;
      select.append(el("option", { value }, text));
    }
    select.closest("label").hidden = values.length < 2;
    select.addEventListener("change", filter);
  }
  for (const box of document.querySelectorAll("#wrong input")) {
    const number = data.samples.filter(WRONG[box.value]).length;
    box.nextElementSibling.textContent += ` ${thousands(number)}`;
    box.disabled = number === 0;
    box.addEventListener("change", filter);
  }
  const field = document.getElementById("search");
  let wait;
  for (const event of ["input", "search"]) // "search": cleared by Escape
    field.addEventListener(event, () => {
      clearTimeout(wait);
      wait = setTimeout(() => search(field.value), 200);
    });
  document.getElementById("list").addEventListener("click", (event) => {
    const row = event.target.closest("a");
    if (row && window.innerWidth <= 760) leaveList();
  });
  filter();
}

/** On a narrow screen the list makes room for what was picked. */
function leaveList() {
  document.getElementById("sample").scrollIntoView({ block: "start" });
}

function filter() {
  const wanted = Object.fromEntries(
    CHOICES.map((name) => [name, document.getElementById(`pick-${name}`).value]),
  );
  const wrong = [...document.querySelectorAll("#wrong input:checked")];
  shown = data.samples.filter(
    (sample) =>
      CHOICES.every((name) => !wanted[name] || sample[name] === wanted[name]) &&
      wrong.every((box) => WRONG[box.value](sample)) &&
      (found === null || found.has(sample.id)),
  );
  drawList();
}

function drawList() {
  const list = document.getElementById("list");
  list.replaceChildren(...shown.map(listRow));
  const all = data.samples.length;
  const every = `${thousands(all)} ${all === 1 ? "trajectory" : "trajectories"}`;
  const some = `${thousands(shown.length)} of ${thousands(all)}`;
  document.getElementById("count").textContent = shown.length === all ? every : some;
  markCurrent(false);
}

function listRow(sample) {
  const several = !document.getElementById("pick-policy").closest("label").hidden;
  const details = [sample.set, sample.context, several && sample.policy]
    .filter(Boolean)
    .join(" · ");
  const wrong = [];
  if (sample.failed !== null) wrong.push("failed");
  if (sample.distance) wrong.push(exitText(sample));
  if (sample.wrongUpdates) wrong.push(counted(sample.wrongUpdates, "wrong update"));
  return el(
    "li",
    {},
    el(
      "a",
      { href: `#t=${sample.id}`, "data-id": sample.id },
      el(
        "span",
        { class: "line" },
        mark(sample),
        modeName(sample.mode),
        el("span", { class: "notes" }, `${sample.read}/${sample.chunks}`),
      ),
      el("span", { class: "question", dir: "auto" }, sample.question),
      el("span", { class: "line quiet" }, details),
      wrong.length ? el("span", { class: "line bad" }, wrong.join(" · ")) : null,
    ),
  );
}

function markCurrent(scroll) {
  for (const row of document.querySelectorAll("#list a")) {
    const here = row.dataset.id === current.sample?.id;
    if (here) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (here && scroll) keepInView(row);
  }
}

function keepInView(row) {
  const list = document.getElementById("list");
  const [box, outer] = [row.getBoundingClientRect(), list.getBoundingClientRect()];
  if (box.top < outer.top) list.scrollTop -= outer.top - box.top;
  if (box.bottom > outer.bottom) list.scrollTop += box.bottom - outer.bottom;
}

/** Goes to the next (1) or previous (-1) trajectory of the list. */
function step(by) {
  if (!shown.length) return;
  const at = shown.findIndex((sample) => sample.id === current.sample?.id);
  const to = at < 0 ? 0 : Math.max(0, Math.min(shown.length - 1, at + by));
  location.hash = `#t=${shown[to].id}`;
}

/** Looks for words in questions, answers, documents and completions, in that order. */
async function search(words) {
  const mine = ++searching;
  const said = document.getElementById("searched");
  const wanted = words.trim().toLocaleLowerCase();
  said.textContent = "";
  found = null;
  if (!wanted) {
    filter();
    highlightSearch();
    return;
  }
  const has = (text) => text.toLocaleLowerCase().includes(wanted);
  found = new Set();
  const rest = [];
  for (const sample of data.samples) {
    const own = [sample.question, sample.answer ?? "", sample.name, ...sample.gold];
    if (own.some(has)) found.add(sample.id);
    else if (sample.block !== null && CAN_UNPACK) rest.push(sample);
  }
  filter();
  highlightSearch();
  const documents = new Map();
  let number = 0;
  for (const sample of rest) {
    const places = [sample.block, sample.document].filter((block) => block !== null);
    for (const block of places) {
      if (!documents.has(block)) documents.set(block, textIn(block, has));
      if (await documents.get(block)) found.add(sample.id);
      if (mine !== searching) return; // it was replaced by another
    }
    if (++number % 50 === 0 || number === rest.length) {
      const on = `searching, ${number} of ${rest.length}`;
      said.textContent = number < rest.length ? on : "";
      filter();
    }
  }
}

/** Whether a block has a text: in what a reader sees, not in the JSON around it. */
async function textIn(block, has) {
  const text = await rawText(block);
  return strings(JSON.parse(text)).some(has);
}

function strings(value) {
  if (!Array.isArray(value)) return [];
  return value.map((part) =>
    part.runs
      ? part.runs.map(([kind, text]) => (kind === "skipped" ? "\n" : text)).join("")
      : `${part.text}\n${part.memory ?? ""}`,
  );
}

/** Marks what is searched in the trajectory that is shown, where the browser can. */
function highlightSearch() {
  if (!window.CSS?.highlights) return;
  CSS.highlights.delete("found");
  const wanted = document.getElementById("search").value.trim().toLocaleLowerCase();
  if (!wanted) return;
  const ranges = [];
  const place = document.getElementById("sample");
  const walk = document.createTreeWalker(place, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const text = node.data.toLocaleLowerCase();
    if (text.length !== node.data.length) continue; // rare letters: places would differ
    for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
      const range = new Range();
      range.setStart(node, at);
      range.setEnd(node, at + wanted.length);
      ranges.push(range);
    }
  }
  CSS.highlights.set("found", new Highlight(...ranges));
}
