// The part of Markdown that models write, as elements: headings, lists, quotes, tables, fenced code, rules; bold, italic and code in a line.
// Links and images stay text: nothing is fetched, and nothing leads elsewhere than it says.

import { copy, element, iconButton } from "./dom.js";

const FENCE = /^ {0,3}(`{3,}|~{3,}) *([^`\s]*)[^`]*$/;
const HEADING = /^ {0,3}(#{1,6}) +(.*)$/;
const RULE = /^ {0,3}([-*_])(?: *\1){2,} *$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])( +|$)/;
const BAR = /^ {0,3}\|/;
const INLINE = /``(.+?)``|`([^`\n]+)`|\*\*(\S(?:[^*]*?\S)?)\*\*|(?<![\w*])\*(\S(?:[^*\n]*?\S)?)\*(?![\w*])/g;
const DEEPEST = 8; // lists and quotes within one another; deeper ones stay text
const LONGEST = 20_000; // characters of a paragraph whose bold and code are looked for

/** Show a text in `place`. What is the same as in the text before is left as it is, so that a growing answer costs its last block. */
export function show(text, place) {
  const blocks = blocksOf(text.split("\n"), 0);
  blocks.forEach((block, i) => {
    const before = place.children[i];
    if (before?.source === block.source) return;
    const made = block.make();
    made.source = block.source;
    if (before) before.replaceWith(made);
    else place.append(made);
  });
  while (place.children.length > blocks.length) place.lastElementChild.remove();
}

/** The blocks of some lines: {source, make}. */
function blocksOf(lines, depth) {
  const blocks = [];
  for (let i = 0; i < lines.length; ) {
    if (!lines[i].trim()) {
      i += 1;
      continue;
    }
    const [end, make] = blockAt(lines, i, depth);
    blocks.push({ source: lines.slice(i, end).join("\n") + (end < lines.length ? "\n" : ""), make });
    i = end;
  }
  return blocks;
}

/** Where the block that begins at line `i` ends, and a function that makes its element. */
function blockAt(lines, i, depth) {
  const fence = FENCE.exec(lines[i]);
  if (fence) {
    const closing = lines.findIndex((line, j) => j > i && line.trim().startsWith(fence[1]) && !line.trim().replaceAll(fence[1][0], ""));
    const end = closing < 0 ? lines.length : closing;
    return [Math.min(end + 1, lines.length), () => codeBlock(lines.slice(i + 1, end).join("\n"), fence[2])];
  }
  const heading = HEADING.exec(lines[i]);
  // An answer's headings stand below the page's own.
  if (heading) return [i + 1, () => element(`h${Math.min(heading[1].length + 2, 6)}`, direction(depth), ...inline(withoutHashes(heading[2])))];
  if (RULE.test(lines[i])) return [i + 1, () => element("hr")];
  if (depth < DEEPEST && QUOTE.test(lines[i])) {
    const end = endOf(lines, i, (line) => QUOTE.test(line));
    return [end, () => element("blockquote", direction(depth), ...made(lines.slice(i, end).map((line) => line.replace(QUOTE, "")), depth + 1))];
  }
  if (depth < DEEPEST && ITEM.test(lines[i])) return listAt(lines, i, depth);
  if (isTable(lines, i)) return tableAt(lines, i, depth);
  const end = endOf(lines, i + 1, (line, at) => line.trim() && !startsBlock(line) && !isTable(lines, at));
  return [end, () => element("p", direction(depth), ...inline(lines.slice(i, end).join("\n")))];
}

function listAt(lines, first, depth) {
  const indent = ITEM.exec(lines[first])[1].length;
  const isOrdered = (line) => /\d/.test(ITEM.exec(line)[2]);
  const begins = (line) => ITEM.test(line) && ITEM.exec(line)[1].length <= indent + 1;
  const belongs = (line) => /^ */.exec(line)[0].length > indent + 1;
  const items = [];
  let i = first;
  while (i < lines.length && begins(lines[i]) && isOrdered(lines[i]) === isOrdered(lines[first])) {
    const width = Math.min(ITEM.exec(lines[i])[0].length, indent + 5);
    let end = i + 1;
    // What is indented belongs to the item, and so do the lines of a paragraph that goes on.
    while (end < lines.length) {
      const next = lines[end].trim() ? lines[end] : lines[end + 1] ?? "";
      if (!(lines[end].trim() ? belongs(next) || !startsBlock(next) : belongs(next))) break;
      end += 1;
    }
    items.push([lines[i].slice(width), ...lines.slice(i + 1, end).map((line) => line.replace(new RegExp(`^ {0,${width}}`), ""))]);
    i = end;
    if (i < lines.length && !lines[i].trim() && lines[i + 1] !== undefined && begins(lines[i + 1])) i += 1;
  }
  const ordered = isOrdered(lines[first]);
  const start = ordered ? Number.parseInt(ITEM.exec(lines[first])[2], 10) : null;
  return [i, () => element(ordered ? "ol" : "ul", { start, ...direction(depth) }, ...items.map((item) => element("li", {}, ...made(item, depth + 1))))];
}

/** The cells of a table's line. */
const cellsOf = (line) => line.trim().replace(/^\|/, "").replace(/(?<!\\)\|$/, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));

/** Whether a table begins at a line: a row and, below it, a dash for each of its cells. */
function isTable(lines, at) {
  if (!BAR.test(lines[at]) || !BAR.test(lines[at + 1] ?? "")) return false;
  const marks = cellsOf(lines[at + 1]);
  return marks.length === cellsOf(lines[at]).length && marks.every((mark) => /^:?-+:?$/.test(mark));
}

function tableAt(lines, first, depth) {
  const end = endOf(lines, first + 2, (line) => BAR.test(line));
  const sides = cellsOf(lines[first + 1]).map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "right") : null));
  const row = (line, tag) => {
    const cells = cellsOf(line);
    return element("tr", {}, ...sides.map((side, i) => element(tag, { class: side }, ...inline(cells[i] ?? ""))));
  };
  return [end, () => element("div", { class: "table", tabindex: 0, ...direction(depth) }, element(
    "table", {}, element("thead", {}, row(lines[first], "th")), element("tbody", {}, ...lines.slice(first + 2, end).map((line) => row(line, "td"))),
  ))];
}

const startsBlock = (line) => [FENCE, HEADING, RULE, QUOTE, ITEM].some((start) => start.test(line));

/** A block's own direction, left or right by its first letter; inner ones have it from the outermost, which finds no letter otherwise. */
const direction = (depth) => (depth ? {} : { dir: "auto" });

/** A heading's text without the hashes that may close it. No regular expression: those took the square of a row of blanks. */
function withoutHashes(line) {
  const text = line.trimEnd();
  let end = text.length;
  while (text[end - 1] === "#") end -= 1;
  return end === 0 || text[end - 1] === " " ? text.slice(0, end).trimEnd() : text;
}

function endOf(lines, i, holds) {
  while (i < lines.length && holds(lines[i], i)) i += 1;
  return i;
}

const made = (lines, depth) => blocksOf(lines, depth).map((block) => block.make());

/** A line's text and elements. */
function inline(text, depth = 0) {
  if (text.length > LONGEST || depth > 2) return [text];
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(INLINE)) {
    const [whole, ticks, tick, bold, italic] = match;
    parts.push(text.slice(end, match.index));
    const code = ticks ?? tick;
    if (code !== undefined) parts.push(element("code", {}, code));
    else parts.push(element(bold === undefined ? "em" : "strong", {}, ...inline(bold ?? italic, depth + 1)));
    end = match.index + whole.length;
  }
  return [...parts, text.slice(end)].filter((part) => part !== "");
}

function codeBlock(code, language) {
  const button = iconButton("copy", "Copy the code", () => copy(code, button));
  return element(
    "figure", { class: "code" }, element("figcaption", {}, language || "code", button), element("pre", { tabindex: 0 }, element("code", {}, code)),
  );
}
