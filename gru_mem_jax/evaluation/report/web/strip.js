// One trajectory at a glance: evidence, both gates and the memory's size by chunk.

const LANE = 17; // height of a lane
const BARS = 46; // height of the memory's bars
const LABELS = 62; // width of the lanes' names

/**
 * The picture of a sample.
 *
 * @param sample of the index.
 * @param turns of its block.
 * @param marks of chunks: {evidence: Set, attack: Set}.
 * @param pick called with the number of a turn that is clicked.
 */
function strip(sample, turns, marks, pick) {
  if (inPasses(turns)) return passStrip(sample, turns, marks, pick);
  const memory = turns.filter((turn) => turn.chunk !== null);
  const chunks = Math.max(sample.chunks, memory.length, 1);
  const cell = cellWidth(chunks);
  const width = LABELS + chunks * cell + 2;
  const lanes = GATED.includes(sample.mode)
    ? ["evidence", "update", "exit"]
    : ["evidence"];
  const floor = lanes.length * LANE + BARS; // where the bars stand
  const height = floor + 22;
  const picture = stripPicture(
    width,
    height,
    `${memory.length} of ${counted(chunks, "chunk")} read: evidence, gates and ` +
      "memory size",
  );
  lanes.forEach((name, lane) => picture.append(labelled(name, 0, lane * LANE + 12)));
  picture.append(labelled("memory", 0, floor - 2));
  const most = Math.max(1, ...memory.map((turn) => turn.tokens));
  for (let chunk = 0; chunk < chunks; chunk++) {
    const turn = memory[chunk];
    const x = LABELS + chunk * cell;
    const column = shape("g", { "data-turn": turn ? chunk : null });
    column.append(...cells(sample, turn, marks, chunk, { x, cell, most, floor }));
    const tip = turnTip(sample, turn, marks, chunk);
    const whole = { x, y: 0, width: cell, height: floor + 2, class: "hit" };
    column.append(shape("rect", whole, tip));
    if (turn) column.addEventListener("click", () => pick(chunk));
    picture.append(column);
  }
  const unread = (chunks - memory.length) * cell;
  if (memory.length > 0 && unread > 70)
    picture.append(
      labelled(
        "never read",
        LABELS + ((memory.length + chunks) * cell) / 2,
        floor - BARS / 2 + 4,
        "middle",
      ),
    );
  for (const chunk of ticks(chunks))
    picture.append(
      labelled(
        chunk + 1,
        LABELS + (chunk + 0.5) * cell,
        floor + 17,
        "middle",
      ),
    );
  return picture;
}

function cells(sample, turn, marks, chunk, { x, cell, most, floor }) {
  const gap = cell > 8 ? 2 : 1;
  const size = { width: cell - gap, height: LANE - 4, rx: 2 };
  const at = (lane) => ({ x: x + gap / 2, y: lane * LANE + 2, ...size });
  const evidence = marks.evidence.has(chunk) ? "evidence" : "none";
  const kind = marks.attack.has(chunk) ? "attack" : evidence;
  const shapes = [shape("rect", { ...at(0), class: `cell ${kind}` })];
  if (!turn) return shapes;
  const gates = gatesOf(sample, turn, chunk);
  for (const [lane, name] of [
    [1, "update"],
    [2, "exit"],
  ]) {
    const gate = gates[name];
    if (gate === null) continue;
    const said = gate.said ? "open" : "shut";
    const kind = `cell ${name} ${said} ${gate.wrong ? "wrong" : ""}`;
    shapes.push(shape("rect", { ...at(lane), class: kind }));
  }
  const tall = Math.max(1, (turn.tokens / most) * (BARS - 4));
  shapes.push(
    shape("rect", {
      x: x + gap / 2,
      y: floor - tall,
      width: cell - gap,
      height: tall,
      class: "bar",
    }),
  );
  return shapes;
}

function turnTip(sample, turn, marks, chunk) {
  const words = [`chunk ${chunk + 1}`];
  if (turn && placeText(turn)) words.unshift(placeText(turn));
  if (marks.evidence.has(chunk)) words.push("evidence");
  if (marks.attack.has(chunk)) words.push("attack");
  if (!turn) return [...words, "never read"].join(", ");
  const { update, exit } = gatesOf(sample, turn, chunk);
  if (update) words.push(`update ${update.said ? "yes" : "no"}${bang(update)}`);
  if (exit) words.push(`${exit.said ? "end" : "continue"}${bang(exit)}`);
  return [...words, fateText(turn), `memory ${counted(turn.tokens, "token")}`]
    .filter((word) => word !== null)
    .join(", ");
}

/** The picture of a reading, named for those who do not see it. */
function stripPicture(width, height, label) {
  return shape("svg", {
    class: "strip",
    width,
    height,
    viewBox: `0 0 ${width} ${height}`,
    role: "img",
    "aria-label": label,
  });
}

function cellWidth(chunks) {
  return Math.max(5, Math.min(20, Math.floor(860 / chunks)));
}

function bang(gate) {
  return gate.wrong ? " (wrong)" : "";
}

function labelled(text, x, y, anchor = "start") {
  const node = shape("text", { x, y, "text-anchor": anchor });
  node.textContent = text;
  return node;
}

/** Chunks whose numbers stand below: about twelve. */
function ticks(chunks) {
  const steps = [1, 2, 5, 10, 20, 25, 50, 100, 200, 500, 1000, 2000, 5000];
  const step = steps.find((each) => chunks / each <= 12) ?? chunks;
  const shown = step > 2 ? [0] : [];
  for (let chunk = step; chunk <= chunks; chunk += step) shown.push(chunk - 1);
  return shown;
}

/**
 * What both gates said, and whether that was wrong by the labels.
 *
 * Each is {said, due, wrong}, or null where the mode has no such gate. Of a malformed
 * turn the update gate is wrong whatever it said. Of a chunk with evidence that has
 * several turns it is enough that one opens it.
 */
function gatesOf(sample, turn, chunk) {
  if (!GATED.includes(sample.mode) || turn.update === undefined)
    return { update: null, exit: null };
  const labelled = sample.evidence.length > 0;
  const last = Math.max(...sample.evidence);
  const due = chunk >= last;
  const over = chunk === sample.chunks - 1; // the text ends: nothing is late
  const held = sample.evidence.includes(chunk);
  const update = held ? !turn.found : turn.update || !!turn.problem;
  const exit = turn.exit !== due && !(over && !turn.exit);
  return {
    update: { said: turn.update, due: held, wrong: labelled && update },
    exit: {
      said: turn.exit,
      due,
      wrong: labelled && exit && sample.mode === "with_exit_gate",
    },
  };
}
