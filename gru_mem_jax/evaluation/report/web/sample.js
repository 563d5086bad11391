// One trajectory: its question and answer, the strip, and chunk beside turn.

/** Draws a sample into #sample; `turn` is the number of the one to go to, or null. */
async function showSample(sample, turn) {
  const place = document.getElementById("sample");
  current = { sample, turn: null, turns: [], marks: null };
  const mine = current;
  const body = el("div", { class: "transcript" });
  const head = sampleHead(sample);
  place.replaceChildren(head, body);
  place.scrollTop = 0;
  if (sample.block === null) {
    addTo(body, [el("p", { class: "quiet" }, noTrajectory(sample))]);
    return;
  }
  if (!CAN_UNPACK) return;
  let turns;
  let chunks;
  try {
    [turns, chunks] = await Promise.all([
      unpack(sample.block),
      sample.document === null ? [] : unpack(sample.document),
    ]);
  } catch (error) {
    addTo(body, [el("p", { class: "bad" }, `It cannot be unpacked: ${error.message}`)]);
    return;
  }
  if (mine !== current) return; // another was picked meanwhile
  completeTurns(turns);
  const marks = marksOf(sample, chunks);
  Object.assign(current, { turns, marks });
  const picture = strip(sample, turns, marks, (number) => goToTurn(number, true));
  const bar = el("div", { class: "strip-box", tabindex: 0 }, picture);
  bar.setAttribute("aria-label", "Chunks of the document");
  body.append(bar, legendOf(sample, turns, marks), el("div", { class: "rows" }));
  drawRows(sample, turns, chunks, marks);
  // A turn that is gone to stands below the picture, which stays in view.
  body.style.setProperty("--above", `${bar.offsetHeight + 24}px`);
  if (turn !== null) goToTurn(turn, false);
  highlightSearch();
}

function noTrajectory(sample) {
  if (sample.failed !== null) return "It failed before anything was read.";
  return "Its turns were not kept.";
}

function marksOf(sample, chunks) {
  const attack = chunks.flatMap((chunk, number) =>
    chunk.runs.some(([kind]) => kind === "attack") ? [number] : [],
  );
  return { evidence: new Set(sample.evidence), attack: new Set(attack) };
}

function sampleHead(sample) {
  const said =
    sample.failed !== null
      ? el("span", { class: "bad" }, `failed: ${sample.failed}`)
      : (sample.answer ?? el("span", { class: "quiet" }, "no answer"));
  return el(
    "header",
    { class: "sample-head" },
    el(
      "p",
      { class: "where" },
      modeName(sample.mode),
      ` · ${[sample.set, sample.context, sample.policy].filter(Boolean).join(" · ")}`,
      ` · question ${sample.number}`,
      sample.name ? el("span", { class: "quiet" }, ` (${sample.name})`) : null,
    ),
    el("h2", { dir: "auto" }, sample.question),
    el(
      "dl",
      { class: "answers" },
      el("dt", {}, "answer"),
      el("dd", { dir: "auto" }, verdict(sample), " ", said),
      el("dt", {}, "gold"),
      el("dd", { dir: "auto" }, joined(sample.gold)),
    ),
    el("ul", { class: "facts" }, facts(sample).map((fact) => el("li", {}, fact))),
    siblings(sample),
  );
}

function joined(answers) {
  return answers.flatMap((answer, i) =>
    i ? [el("span", { class: "quiet" }, " / "), answer] : [answer],
  );
}

function verdict(sample) {
  if (sample.score >= 1) return el("b", { class: "good" }, "✓ right");
  if (sample.score <= 0) return el("b", { class: "bad" }, "✗ wrong");
  return el("b", { class: "bad" }, `${percent(sample.score)}%`);
}

function facts(sample) {
  const words = [`read ${sample.read} of ${counted(sample.chunks, "chunk")}`];
  if (sample.passes > 1 || sample.turns > sample.read)
    words[0] += ` in ${passText(sample.passes)}, ${counted(sample.turns, "turn")}`;
  if (sample.exit !== null) words.push(exitText(sample));
  else if (sample.stop) words.push(`stopped: ${sample.stop.replaceAll("_", " ")}`);
  if (sample.wrongUpdates) words.push(counted(sample.wrongUpdates, "wrong update"));
  if (sample.captured !== null)
    words.push(`captured ${sample.captured[0]} of ${sample.captured[1]} spans`);
  if (sample.retained !== null && sample.retained[1])
    words.push(`retained ${sample.retained[0]} of ${sample.retained[1]}`);
  if (sample.wellFormed !== null && sample.wellFormed < 1)
    words.push(`${percent(sample.wellFormed)}% of turns well formed`);
  words.push(
    duration(sample.seconds),
    `${counted(sample.tokensIn, "token")} in, ${thousands(sample.tokensOut)} out`,
    `scored by ${sample.scoring}`,
  );
  return words;
}

function exitText(sample) {
  const away = sample.distance;
  if (sample.exit === "exact") return "exit at the last evidence";
  const distance = away === null ? "" : `${counted(Math.abs(away), "chunk")} too `;
  return `exit ${distance}${sample.exit}`;
}

/** The same question in the other modes, and by the other policies. */
function siblings(sample) {
  const same = data.samples.filter(
    (other) =>
      other.folder === sample.folder &&
      other.set === sample.set &&
      other.context === sample.context &&
      other.number === sample.number,
  );
  const twin = data.samples.find(
    (other) =>
      sample.twin !== null &&
      other.name === sample.twin &&
      ["folder", "set", "mode", "policy"].every((key) => other[key] === sample[key]),
  );
  if (same.length < 2 && !twin) return null;
  const several = new Set(same.map((other) => other.policy)).size > 1;
  return el(
    "nav",
    { class: "siblings", "aria-label": "The same question" },
    same.map((other) =>
      el(
        "a",
        { href: `#t=${other.id}`, "aria-current": other === sample ? "true" : null },
        mark(other),
        " ",
        modeName(other.mode),
        several ? ` ${other.policy}` : "",
        el("span", { class: "quiet" }, ` ${other.read}/${other.chunks}`),
      ),
    ),
    twin ? el("a", { href: `#t=${twin.id}` }, mark(twin), " without the attack") : null,
  );
}

function legendOf(sample, turns, marks) {
  const entries = [["cell evidence", "evidence"]];
  if (marks.attack.size) entries.push(["cell attack", "attack"]);
  if (GATED.includes(sample.mode)) {
    entries.push(["cell update open", "update gate open"]);
    if (!inPasses(turns)) entries.push(["cell exit open", "exit gate open"]);
    if (turns.some((turn) => turn.step === "merge"))
      entries.push(["refused", "read again, not merged"]);
    entries.push(["cell shut wrong", "against the label"]);
  }
  return el(
    "p",
    { class: "strip-legend" },
    entries.map(([kind, text]) => {
      const picture = shape("svg", { width: 12, height: 12, viewBox: "0 0 12 12" });
      picture.append(shape("rect", { x: 1, y: 1, width: 10, height: 10, class: kind }));
      return el("span", {}, picture, ` ${text}`);
    }),
    el(
      "label",
      {},
      el("input", {
        type: "checkbox",
        checked: wholeMemory,
        onchange: (event) => {
          wholeMemory = event.target.checked;
          showSample(sample, current.turn);
        },
      }),
      " unchanged memory too",
    ),
  );
}

function drawRows(sample, turns, chunks, marks) {
  const rows = document.querySelector("#sample .rows");
  const several = inPasses(turns);
  turns.forEach((turn, number) => {
    const row =
      turn.chunk === null
        ? answerRow(sample, turn)
        : chunkRow(sample, turn, chunks[turn.chunk], marks);
    row.dataset.turn = number;
    row.addEventListener("click", () => goToTurn(number, false));
    const heading = several ? stepHeading(turns, number) : null;
    if (heading !== null) rows.append(heading);
    rows.append(row);
  });
  const own = turns.filter((turn) => turn.chunk !== null).map((turn) => turn.chunk);
  const read = new Set(own).size;
  if (read < chunks.length) rows.append(unread(chunks, read, marks));
}

function chunkRow(sample, turn, chunk, marks) {
  const { before, after } = turn;
  const { update, exit } = gatesOf(sample, turn, turn.chunk);
  const head = el(
    "h3",
    {},
    `chunk ${turn.chunk + 1}`,
    placeText(turn) ? el("span", { class: "quiet" }, ` ${placeText(turn)}`) : null,
    badge("evidence", marks.evidence.has(turn.chunk)),
    badge("attack", marks.attack.has(turn.chunk)),
  );
  const scanned = turn.step === "scan" && !turn.taken && before !== after;
  const kept = scanned ? "candidate" : "memory";
  const fate = fateText(turn);
  const gates = el(
    "p",
    { class: "gates" },
    gate("update", update, "yes", "no", turn.updateProbability),
    gate("exit", exit, "end", "continue", turn.exitProbability),
    el("span", { class: "quiet" }, `${kept} ${counted(turn.tokens, "token")}`),
  );
  const quiet = !marks.evidence.has(turn.chunk) && before === after && !turn.problem;
  return el(
    "section",
    { class: `row ${quiet ? "still" : ""}` },
    el("div", { class: "chunk" }, head, chunkText(chunk)),
    el(
      "div",
      { class: "turn" },
      gates,
      turn.problem
        ? el("p", { class: "bad" }, `malformed: ${turn.problem}`)
        : null,
      thought(turn.text),
      memoryChange(turn, before, after),
      fate === null ? null : el("p", { class: "quiet small" }, fate),
      completion(turn),
    ),
  );
}

function badge(name, shown) {
  return shown ? el("span", { class: `badge ${name}` }, name) : null;
}

function answerRow(sample, turn) {
  const memory = turn.after;
  return el(
    "section",
    { class: "row answer" },
    el(
      "div",
      { class: "chunk" },
      el("h3", {}, "answer"),
      memory
        ? [
            el("p", { class: "quiet" }, "from the memory"),
            el("p", { class: "memory", dir: "auto" }, memory),
          ]
        : el("p", { class: "quiet" }, "without a memory"),
    ),
    el(
      "div",
      { class: "turn" },
      el("p", { class: "prose", dir: "auto" }, turn.text),
      el(
        "dl",
        { class: "answers" },
        el("dt", {}, "answer"),
        el("dd", {}, verdict(sample), " ", sample.answer ?? "none"),
        el("dt", {}, "gold"),
        el("dd", {}, joined(sample.gold)),
      ),
      el("p", { class: "quiet small" }, `answer${turnFacts(turn)}`),
    ),
  );
}

/** The chunks after the exit; built when they are opened. */
function unread(chunks, read, marks) {
  const rest = chunks.slice(read);
  const held = rest.filter((_, i) => marks.evidence.has(read + i)).length;
  const note = held ? `, ${held} of them with evidence` : "";
  const summary = `${counted(rest.length, "chunk")} never read${note}`;
  const details = el("details", { class: "unread" }, el("summary", {}, summary));
  details.addEventListener("toggle", () => {
    if (!details.open || details.childElementCount > 1) return;
    rest.forEach((chunk, i) => {
      const number = read + i;
      const head = el(
        "h3",
        {},
        `chunk ${number + 1}`,
        badge("evidence", marks.evidence.has(number)),
        badge("attack", marks.attack.has(number)),
      );
      details.append(el("div", { class: "chunk" }, head, chunkText(chunk)));
    });
  });
  return details;
}

/** Marks a turn as the one that is looked at, and brings it into view. */
function goToTurn(number, smooth) {
  const last = current.turns.length - 1;
  if (last < 0) return;
  current.turn = Math.max(0, Math.min(last, number));
  for (const node of document.querySelectorAll("#sample [data-turn]")) {
    const here = +node.getAttribute("data-turn") === current.turn;
    node.classList.toggle("here", here);
    if (here && node.matches(".row")) {
      const behavior = smooth ? "smooth" : "instant";
      node.scrollIntoView({ block: "start", behavior });
    }
  }
  rememberTurn(current.turn);
}
