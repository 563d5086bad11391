// The page: which view, the theme, tables that sort, keys, and the start.

const THEMES = ["auto", "light", "dark"];

/** Shows what the URL's fragment names: a trajectory (#t=ID&turn=3), or a section. */
function follow() {
  const words = new URLSearchParams(location.hash.slice(1));
  const id = words.get("t");
  const browsing = id !== null || location.hash === "#trajectories";
  document.body.dataset.view = browsing ? "trajectories" : "report";
  for (const tab of document.querySelectorAll("#tabs a")) {
    const own = (tab.hash === "#trajectories") === browsing;
    if (own) tab.setAttribute("aria-current", "page");
    else tab.removeAttribute("aria-current");
  }
  if (!browsing) {
    const section = document.getElementById(location.hash.slice(1));
    if (section) section.scrollIntoView();
    else window.scrollTo(0, 0);
    return;
  }
  if (!data.samples.length) return;
  const turn = words.get("turn");
  const sample =
    data.samples.find((each) => each.id === id) ??
    (id === null ? (current.sample ?? shown[0] ?? data.samples[0]) : null);
  if (sample === null) {
    const line = el("p", { class: "bad" }, `No trajectory ${id} is in this page.`);
    document.getElementById("sample").replaceChildren(line);
    return;
  }
  let number = Number.parseInt(turn, 10) - 1;
  if (Number.isNaN(number)) number = null;
  if (sample !== current.sample) showSample(sample, number);
  else if (number !== null && number !== current.turn) goToTurn(number, false);
  markCurrent(true);
}

/** Keeps the turn in the URL, without a step back for each. */
function rememberTurn(number) {
  const hash = `#t=${current.sample.id}&turn=${number + 1}`;
  if (location.hash !== hash) history.replaceState(null, "", hash);
}

function startTheme() {
  const button = document.getElementById("theme");
  const use = (theme) => {
    document.documentElement.dataset.theme = theme;
    button.textContent = { auto: "◐", light: "○", dark: "●" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}`);
    button.title = `Colours: ${theme}`;
  };
  let theme = "auto";
  try {
    theme = localStorage.getItem("gru-mem-theme") ?? theme;
  } catch {
    // no storage for files: the choice lasts as long as the page
  }
  use(THEMES.includes(theme) ? theme : "auto");
  button.hidden = false;
  button.addEventListener("click", () => {
    const now = document.documentElement.dataset.theme;
    const next = THEMES[(THEMES.indexOf(now) + 1) % THEMES.length];
    use(next);
    try {
      localStorage.setItem("gru-mem-theme", next);
    } catch {
      // as above
    }
  });
}

/** A click on a heading sorts the rows of each group; a further one turns them. */
function startTables() {
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = [...table.querySelectorAll("thead tr:last-child th")];
    heads.forEach((head, column) => {
      const button = el("button", { type: "button" }, ...head.childNodes);
      head.replaceChildren(button);
      button.addEventListener("click", () => sortBy(table, heads, column));
    });
  }
  for (const select of document.querySelectorAll("select[data-rows]")) {
    select.closest("label").hidden = false;
    select.addEventListener("change", () => {
      const place = document.getElementById(select.dataset.rows);
      for (const group of place.querySelectorAll("[data-group]"))
        group.hidden = select.value !== "" && group.dataset.group !== select.value;
    });
  }
}

function sortBy(table, heads, column) {
  const head = heads[column];
  const down = head.getAttribute("aria-sort") === "descending";
  for (const each of heads) each.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "ascending" : "descending");
  const value = (row) => {
    const cell = row.cells[column];
    const text = cell.dataset.value ?? cell.textContent.trim();
    const number = Number(text);
    return text === "" || Number.isNaN(number) ? text : number;
  };
  const order = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if (typeof x === "number" && typeof y === "number") return x - y;
    if (typeof x !== typeof y) return typeof x === "number" ? 1 : -1;
    return x.localeCompare(y);
  };
  for (const body of table.tBodies) {
    const rows = [...body.rows].filter((row) => !row.matches(".mean, .title"));
    rows.sort((a, b) => (down ? order(a, b) : order(b, a)));
    const after = body.querySelector(".mean");
    for (const row of rows) body.insertBefore(row, after);
  }
}

/** The entries of the legend take the lines of their mode out of all plots. */
function startPlots() {
  for (const entry of document.querySelectorAll("#plot-legend button")) {
    entry.disabled = false;
    entry.addEventListener("click", () => {
      const off = entry.getAttribute("aria-pressed") === "true";
      entry.setAttribute("aria-pressed", String(!off));
      for (const node of document.querySelectorAll("svg [data-mode]"))
        if (node.dataset.mode === entry.dataset.mode) node.classList.toggle("off", off);
    });
  }
}

const KEYS = {
  j: () => step(1),
  ArrowDown: () => step(1),
  k: () => step(-1),
  ArrowUp: () => step(-1),
  "]": () => goToTurn((current.turn ?? -1) + 1, false),
  "[": () => goToTurn((current.turn ?? 1) - 1, false),
  "/": () => document.getElementById("search").focus(),
};

function startKeys() {
  const help = document.getElementById("help");
  const button = document.getElementById("help-button");
  button.hidden = false;
  button.addEventListener("click", () => help.showModal());
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || help.open) return;
    if (event.target.closest?.("input:not([type=checkbox]), select")) {
      if (event.key === "Escape") event.target.blur();
      return;
    }
    if (event.key === "?") help.showModal();
    else if (document.body.dataset.view !== "trajectories" || !KEYS[event.key]) return;
    else KEYS[event.key]();
    event.preventDefault();
  });
}

startTheme();
startTables();
startPlots();
startKeys();
if (data.samples.length) startBrowsing();
document.getElementById("no-unpacking").hidden = CAN_UNPACK || !data.samples.length;
window.addEventListener("hashchange", follow);
follow();
