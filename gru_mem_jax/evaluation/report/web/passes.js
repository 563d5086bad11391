// Runs in which a chunk may have several turns: passes, scans and merges.

const MERGED = 30; // height of a pass's bars of memory

/**
 * Fills in what a block leaves out of its turns.
 *
 * `before` is the memory that a turn saw, `after` that it left or, of a scan, would
 * leave; `taken`: whether that became the memory; `again`: whether a scan's chunk was
 * read again to be merged; `found`: whether any turn on the chunk opened its gate.
 */
function completeTurns(turns) {
  const found = new Set();
  const merges = new Set();
  let seen = "";
  for (const turn of turns) {
    turn.pass ??= 1;
    turn.step ??= "read";
    turn.before ??= seen;
    turn.after = turn.memory ?? turn.before;
    const scan = turn.step === "scan";
    turn.taken = scan ? !!turn.merged : !!turn.update;
    seen = scan ? turn.before : turn.after;
    if (turn.update && !turn.problem) found.add(turn.chunk);
    if (turn.step === "merge") merges.add(`${turn.pass} ${turn.chunk}`);
  }
  for (const turn of turns) {
    turn.found = found.has(turn.chunk);
    turn.again = turn.step === "scan" && merges.has(`${turn.pass} ${turn.chunk}`);
  }
}

function inPasses(turns) {
  return turns.some((turn) => turn.pass > 1 || turn.step !== "read");
}

/**
 * The picture of such a run: pass by pass a lane of the chunks with the gates that were
 * open, and below it the memory where a chunk was merged (or read in order), then the
 * answer. Arguments as of `strip`.
 */
function passStrip(sample, turns, marks, pick) {
  const read = turns.filter((turn) => turn.chunk !== null);
  const passes = Math.max(...read.map((turn) => turn.pass));
  const chunks = Math.max(sample.chunks, 1);
  const cell = cellWidth(chunks);
  const lanes = lanesOf(read, passes);
  const floor = lanes.at(-1).floor;
  const width = Math.max(LABELS + chunks * cell + 2, 220);
  const height = floor + 42;
  const merges = read.filter((turn) => turn.taken && turn.step !== "read").length;
  const picture = stripPicture(
    width,
    height,
    `${counted(chunks, "chunk")} in ${passText(passes)}: evidence, update gates, ` +
      (merges ? `${merges} merged` : "memory size"),
  );
  picture.append(labelled("evidence", 0, 12));
  const gap = cell > 8 ? 2 : 1;
  const box = (chunk) => ({ x: LABELS + chunk * cell + gap / 2, width: cell - gap });
  for (let chunk = 0; chunk < chunks; chunk++) {
    const kind = marks.evidence.has(chunk) ? "evidence" : "none";
    const own = marks.attack.has(chunk) ? "attack" : kind;
    const place = { ...box(chunk), y: 2, height: LANE - 4, rx: 2 };
    picture.append(shape("rect", { ...place, class: `cell ${own}` }));
  }
  const scanned = read.some((turn) => turn.step === "scan");
  lanes.forEach(({ top, floor, bars }, lane) => {
    picture.append(labelled(`pass ${lane + 1}`, 0, top + 12));
    if (!bars) return;
    picture.append(labelled(scanned ? "merged" : "memory", 0, floor - 3));
    const line = { x: LABELS, y: floor, width: chunks * cell, height: 1 };
    picture.append(shape("rect", { ...line, class: "cell" }));
  });
  const most = Math.max(1, ...read.map((turn) => (turn.taken ? turn.tokens : 0)));
  turns.forEach((turn, number) => {
    if (turn.chunk === null) return;
    const { top, floor: base } = lanes[turn.pass - 1];
    const column = shape("g", { "data-turn": number });
    const own = box(turn.chunk);
    if (turn.step !== "merge") {
      const { update } = gatesOf(sample, turn, turn.chunk);
      const said = update.said ? "open" : "shut";
      const kind = `cell update ${said} ${update.wrong ? "wrong" : ""}`;
      const place = { ...own, y: top + 2, height: LANE - 4, rx: 2 };
      column.append(shape("rect", { ...place, class: kind }));
    }
    if (turn.taken || turn.step === "read") {
      const tall = Math.max(1, (turn.tokens / most) * (MERGED - 6));
      const place = { ...own, y: base - tall, height: tall };
      column.append(shape("rect", { ...place, class: "bar" }));
    } else if (turn.step === "merge") {
      const place = { ...own, y: base - 6, height: 5 };
      column.append(shape("rect", { ...place, class: "refused" }));
    }
    const begin = turn.step === "merge" ? top + LANE : top;
    const end = turn.step === "scan" && !turn.taken ? top + LANE : base;
    const x = LABELS + turn.chunk * cell;
    const whole = { x, y: begin, width: cell, height: end - begin, class: "hit" };
    column.append(shape("rect", whole, turnTip(sample, turn, marks, turn.chunk)));
    column.addEventListener("click", () => pick(number));
    picture.append(column);
  });
  for (const chunk of ticks(chunks))
    picture.append(
      labelled(
        chunk + 1,
        LABELS + (chunk + 0.5) * cell,
        floor + 15,
        "middle",
      ),
    );
  const last = turns.length - 1;
  if (last >= 0 && turns[last].chunk === null)
    picture.append(answerMark(sample, floor + 22, () => pick(last), last));
  return picture;
}

/** Where each pass stands: its gates from `top`, its bars of memory on `floor`. */
function lanesOf(read, passes) {
  let top = LANE;
  return Array.from({ length: passes }, (_, lane) => {
    const own = read.filter((turn) => turn.pass === lane + 1);
    const bars = own.some((turn) => turn.taken || turn.step !== "scan");
    const begin = top;
    const floor = begin + LANE + (bars ? MERGED : 0);
    top = floor + 4;
    return { top: begin, floor, bars };
  });
}

function answerMark(sample, y, pick, number) {
  const mark = shape("g", { "data-turn": number });
  const right = sample.score >= 1;
  const word = right ? "✓ right" : sample.score <= 0 ? "✗ wrong" : "partly right";
  mark.append(labelled("answer", 0, y + 12));
  const said = labelled(word, LABELS + 4, y + 12);
  said.classList.add(right ? "good" : "bad");
  const whole = { x: 0, y, width: LABELS + 80, height: 17, class: "hit" };
  mark.append(said, shape("rect", whole, "the answer turn"));
  mark.addEventListener("click", pick);
  return mark;
}

function passText(passes) {
  return `${thousands(passes)} pass${passes === 1 ? "" : "es"}`;
}

/** "pass 2, scan": of a run in passes; else nothing. */
function placeText(turn) {
  if (turn.step === "read") return turn.pass > 1 ? `pass ${turn.pass}` : "";
  return `pass ${turn.pass}, ${turn.step}`;
}

/** A heading where a pass, or its merging, begins; else null. */
function stepHeading(turns, number) {
  const turn = turns[number];
  const before = turns[number - 1];
  if (turn.chunk === null) return null;
  const same = before?.pass === turn.pass && before.step === turn.step;
  if (same && (turn.step !== "scan" || before.before === turn.before)) return null;
  let end = number + 1;
  while (
    turns[end]?.chunk !== null &&
    turns[end]?.pass === turn.pass &&
    turns[end].step === turn.step &&
    (turn.step !== "scan" || turns[end].before === turn.before)
  )
    end++;
  const own = turns.slice(number, end);
  return el(
    "h3",
    { class: "step" },
    `Pass ${turn.pass}${turn.step === "read" ? "" : `: ${turn.step}`}`,
    el("span", { class: "quiet" }, ` ${stepText(turn.step, own)}`),
  );
}

function stepText(step, own) {
  const open = own.filter((turn) => turn.update);
  const many = counted(own.length, "chunk");
  if (step === "read")
    return `${many} in order, ${counted(open.length, "update gate")} open`;
  if (step === "merge") {
    const names = own.map((turn) => turn.chunk + 1).join(", ");
    return `read again in order, each against the memory so far: ${names}`;
  }
  const memory = own[0].before ? "the memory" : "an empty memory";
  return `${many} side by side against ${memory}, ${counted(open.length, "gate")} open`;
}

/** What became of a scan's or a merge's candidate, in words; null of other turns. */
function fateText(turn) {
  if (turn.step === "read" || !turn.update)
    return turn.step === "merge" ? "the memory stays" : null;
  if (turn.step === "merge") return "merged";
  if (turn.taken) return "merged as it is: the first of its scan";
  if (turn.again) return "not taken as it is: read again to be merged";
  return turn.before === turn.after ? "changes nothing" : "not merged";
}
