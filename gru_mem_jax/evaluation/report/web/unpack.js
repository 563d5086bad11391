// What the page holds (embed.py): an index of all trajectories, and their blocks, each
// JSON, deflated, in base64, which are unpacked when they are looked at.

const data = JSON.parse(document.getElementById("index").textContent);

const CAN_UNPACK = typeof DecompressionStream === "function";
const MOST_KEPT = 24; // blocks whose values are kept
const kept = new Map();

/** A promise of a block's value. */
function unpack(number) {
  let value = kept.get(number);
  kept.delete(number);
  if (value === undefined) value = inflate(number);
  kept.set(number, value); // the newest is the last
  if (kept.size > MOST_KEPT) kept.delete(kept.keys().next().value);
  return value;
}

async function inflate(number) {
  return JSON.parse(await rawText(number));
}

/** The JSON text of a block; nothing is kept. */
async function rawText(number) {
  const packed = document.getElementById(`block-${number}`).textContent;
  const binary = atob(packed);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream();
  const inflated = stream.pipeThrough(new DecompressionStream("deflate"));
  return new Response(inflated).text();
}
