// The difference between two texts, word by word: E. Myers, "An O(ND) difference
// algorithm" (1986), on what lies between the words that both begin and end with.

const MOST_EDITS = 1500; // more, and everything between is shown as replaced

/** Words with the white space after each. */
function wordsOf(text) {
  return text.match(/\S+\s*|\s+/g) ?? [];
}

/**
 * Runs of [kind, text]: "same", "gone" (of `before` only), "new" (of `after` only).
 * The runs of "same" and "new" together are `after`.
 */
function wordDiff(before, after) {
  const old = wordsOf(before);
  const now = wordsOf(after);
  const a = old.map((word) => word.trim());
  const b = now.map((word) => word.trim());
  let start = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  let end = 0;
  const least = Math.min(a.length, b.length) - start;
  while (end < least && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const inner = editScript(
    a.slice(start, a.length - end),
    b.slice(start, b.length - end),
  );
  const kinds = [
    ...Array(start).fill("same"),
    ...inner,
    ...Array(end).fill("same"),
  ];
  const runs = [];
  let i = 0;
  let j = 0;
  for (const kind of kinds) {
    const word = kind === "gone" ? old[i] : now[j];
    if (kind !== "new") i++;
    if (kind !== "gone") j++;
    add(runs, kind, word);
  }
  return runs;
}

/** Adds a word to the runs; one that went is parted from what stands before it. */
function add(runs, kind, word) {
  const last = runs.at(-1);
  if (kind === "gone" && last && !/\s$/.test(last[1])) word = ` ${word}`;
  if (last && last[0] === kind) last[1] += word;
  else runs.push([kind, word]);
}

/** The shortest list of "same", "gone", "new" that turns `a` into `b`. */
function editScript(a, b) {
  const most = Math.min(a.length + b.length, MOST_EDITS);
  const reach = new Int32Array(2 * most + 3);
  const offset = most + 1;
  const history = [];
  for (let edits = 0; edits <= most; edits++) {
    history.push(reach.slice(offset - edits - 1, offset + edits + 2));
    for (let k = -edits; k <= edits; k += 2) {
      const down =
        k === -edits || (k !== edits && reach[offset + k - 1] < reach[offset + k + 1]);
      let x = down ? reach[offset + k + 1] : reach[offset + k - 1] + 1;
      while (x < a.length && x - k < b.length && a[x] === b[x - k]) x++;
      reach[offset + k] = x;
      if (x >= a.length && x - k >= b.length) return traced(a, b, history);
    }
  }
  return [...Array(a.length).fill("gone"), ...Array(b.length).fill("new")];
}

function traced(a, b, history) {
  const kinds = [];
  let x = a.length;
  let y = b.length;
  for (let edits = history.length - 1; edits > 0; edits--) {
    const reach = history[edits]; // of diagonal k at index k + edits + 1
    const k = x - y;
    const left = reach[k + edits];
    const right = reach[k + edits + 2];
    const down = k === -edits || (k !== edits && left < right);
    const fromX = down ? right : left;
    const fromY = fromX - (down ? k + 1 : k - 1);
    while (x > fromX && y > fromY) {
      kinds.push("same");
      x--;
      y--;
    }
    kinds.push(down ? "new" : "gone");
    x = fromX;
    y = fromY;
  }
  while (x > 0) {
    kinds.push("same");
    x--;
  }
  return kinds.reverse();
}
