// Building the page from text that may be hostile: it only ever becomes text nodes.

// What reorders or hides text, as `words.visible` has it.
const ODD = new RegExp(
  "[\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u200b\\u200e\\u200f" +
    "\\u2028-\\u202e\\u2060-\\u2064\\u2066-\\u206f\\ufeff\\ufff9-\\ufffb" +
    "\\ud800-\\udfff\\u{e0000}-\\u{e007f}]",
  "gu",
);

/** An element; children are elements, or text that is shown as it is. */
function el(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else node.setAttribute(key, value === true ? "" : value);
  }
  addTo(node, children);
  return node;
}

/** Adds children to an element; what would reorder or hide text is spelt out. */
function addTo(node, children) {
  for (const child of children.flat(2)) {
    if (child === null || child === undefined || child === false) continue;
    if (child instanceof Node) node.append(child);
    else addText(node, String(child));
  }
}

function addText(node, text) {
  let done = 0;
  for (const found of text.matchAll(ODD)) {
    if (found.index > done) node.append(text.slice(done, found.index));
    const code = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const mark = document.createElement("span");
    mark.className = "odd";
    mark.title = "a character that reorders or hides text";
    mark.textContent = `U+${code}`;
    node.append(mark);
    done = found.index + found[0].length;
  }
  if (done < text.length) node.append(text.slice(done));
}

/** An element of an SVG picture. */
function shape(name, attributes = {}, title = null) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== null && value !== undefined) node.setAttribute(key, value);
  }
  if (title !== null) {
    const tip = document.createElementNS("http://www.w3.org/2000/svg", "title");
    tip.textContent = title;
    node.append(tip);
  }
  return node;
}

function thousands(number) {
  return number.toLocaleString("en-US");
}

function counted(number, noun) {
  return `${thousands(number)} ${noun}${number === 1 ? "" : "s"}`;
}

function duration(seconds) {
  if (seconds < 1) return `${Math.round(1000 * seconds)} ms`;
  return `${seconds < 100 ? seconds.toFixed(1) : Math.round(seconds)} s`;
}

/** A score as tables show it: 100 or 66.7. */
function percent(score) {
  return `${+(100 * score).toFixed(1)}`;
}
