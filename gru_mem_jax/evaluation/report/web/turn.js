// One turn: its gates, what it thought, what it did to the memory, all that it wrote.

const TAG = /<\/?(?:think|check|update|next)>/;
const KEPT_WORDS = 16; // of an unchanged stretch of memory, at both of its ends

let wholeMemory = false; // show unchanged words too

/** A gate; a constrained turn says how likely it was to open. */
function gate(name, value, open, shut, probability) {
  if (value === null) return null;
  const word = value.said ? open : shut;
  const wanted = value.due === value.said ? "" : ` should be ${value.due ? open : shut}`;
  return el(
    "span",
    { class: `gate ${name} ${value.said ? "open" : ""} ${value.wrong ? "wrong" : ""}` },
    `${name} `,
    el("b", {}, word),
    probability === undefined ? null : `, P(${open}) ${probability.toFixed(2)}`,
    value.wrong ? ` ✗${wanted}` : null,
  );
}

function turnFacts(turn) {
  const shared = turn.shared ? ` (${thousands(turn.shared)} shared)` : "";
  return (
    ` · ${thousands(turn.in)} tokens in${shared}, ${thousands(turn.out)} out · ` +
    duration(turn.seconds)
  );
}

function chunkText(chunk) {
  if (!chunk) return el("p", { class: "quiet" }, "Its text was not kept.");
  const runs = chunk.runs.map(([kind, text], i) => [kind, i ? text : text.trimStart()]);
  return el("p", { class: "prose", dir: "auto" }, runs.map(runOf));
}

function runOf([kind, text]) {
  if (kind === "skipped")
    return el("span", { class: "skipped" }, ` … ${thousands(+text)} characters … `);
  return kind === "text" ? text : el("mark", { class: kind }, text);
}

/** What stands between <think> and </think>, if that is there. */
function thought(text) {
  const begin = text.indexOf("<think>");
  const end = text.indexOf("</think>");
  if (begin < 0 || end < begin) return null;
  const inner = text.slice(begin + 7, end).trim();
  return inner ? el("p", { class: "think", dir: "auto" }, inner) : null;
}

function memoryChange(turn, before, after) {
  if (before === after) {
    const kept = turn.update ? "written again, unchanged" : "kept";
    if (wholeMemory && after)
      return el("p", { class: "memory", dir: "auto" }, after);
    return el("p", { class: "quiet" }, after ? `memory ${kept}` : "memory empty");
  }
  const runs = wordDiff(before, after);
  return el(
    "p",
    { class: "memory", dir: "auto" },
    runs.map(([kind, text]) => {
      if (kind === "new") return el("ins", {}, text);
      if (kind === "gone") return el("del", {}, text);
      return unchanged(text);
    }),
    turn.cut ? el("span", { class: "bad" }, " (cut at its budget)") : null,
  );
}

function unchanged(text) {
  const words = wordsOf(text);
  if (wholeMemory || words.length <= 2 * KEPT_WORDS + 4) return text;
  const inner = words.slice(KEPT_WORDS, -KEPT_WORDS);
  const more = el(
    "button",
    { type: "button", class: "fold", onclick: () => more.replaceWith(inner.join("")) },
    `… ${counted(inner.length, "word")} …`,
  );
  const first = words.slice(0, KEPT_WORDS).join("");
  return [first, more, " ", words.slice(-KEPT_WORDS).join("")];
}

/** All that the policy wrote, its tags marked; built when it is opened. */
function completion(turn) {
  const details = el("details", {}, el("summary", {}, "completion", turnFacts(turn)));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    const raw = el("pre", { class: "raw", dir: "auto" });
    let rest = turn.text;
    for (let found; (found = TAG.exec(rest)) !== null; ) {
      addTo(raw, [rest.slice(0, found.index), el("span", { class: "tag" }, found[0])]);
      rest = rest.slice(found.index + found[0].length);
    }
    const cut = el("b", { class: "bad" }, " (cut at its budget)");
    addTo(raw, [rest, turn.long ? cut : null]);
    details.append(raw);
  });
  return details;
}
