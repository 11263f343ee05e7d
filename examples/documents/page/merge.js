/**
 * Compares texts line by line, and merges two changes of one text.
 *
 * @module
 */

/**
 * A line, and what became of it from one text to the other.
 * @typedef {{ kind: "same" | "added" | "removed", line: string }} Line
 */

/**
 * Returns the pairs of indices at which two lists have equal lines, in order
 * and as many as there can be (a longest common subsequence).
 *
 * @param {string[]} a
 * @param {string[]} b
 * @returns {[number, number][]}
 */
function matches(a, b) {
  // lengths[i][j] is that of what a from i on and b from j on have in common.
  const lengths = Array.from({ length: a.length + 1 }, () => new Uint32Array(b.length + 1));
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      lengths[i][j] = a[i] === b[j] ? lengths[i + 1][j + 1] + 1 : Math.max(lengths[i + 1][j], lengths[i][j + 1]);
    }
  }
  const pairs = [];
  for (let i = 0, j = 0; i < a.length && j < b.length;) {
    if (a[i] === b[j]) pairs.push([i++, j++]);
    else if (lengths[i + 1][j] >= lengths[i][j + 1]) i++;
    else j++;
  }
  return pairs;
}

/**
 * Returns what became of the lines of one text in another one.
 *
 * @param {string} before
 * @param {string} after
 * @returns {Line[]}
 */
export function diff(before, after) {
  const a = before.split("\n");
  const b = after.split("\n");
  const lines = [];
  let i = 0, j = 0;
  for (const [nextI, nextJ] of [...matches(a, b), [a.length, b.length]]) {
    while (i < nextI) lines.push({ kind: "removed", line: a[i++] });
    while (j < nextJ) lines.push({ kind: "added", line: b[j++] });
    if (i < a.length) lines.push({ kind: "same", line: a[i] });
    i++;
    j++;
  }
  return lines;
}

/**
 * Merges two changes of one text. Where both have changed the same lines,
 * theirs and then ours are in the result, for somebody to choose from.
 *
 * @param {string} base What both were made of.
 * @param {string} theirs
 * @param {string} ours
 * @returns {{ text: string, overlaps: number }}
 */
export function merge(base, theirs, ours) {
  const [b, t, o] = [base, theirs, ours].map((text) => text.split("\n"));
  const inTheirs = new Map(matches(b, t));
  const inOurs = new Map(matches(b, o));
  const merged = [];
  let overlaps = 0;
  let i = 0, j = 0, k = 0;
  for (let next = 0; next <= b.length; next++) {
    // The text is cut at the lines that all three have, and at the end.
    const end = next === b.length;
    if (!end && !(inTheirs.has(next) && inOurs.has(next))) continue;
    const nextJ = end ? t.length : inTheirs.get(next);
    const nextK = end ? o.length : inOurs.get(next);
    const was = b.slice(i, next), they = t.slice(j, nextJ), we = o.slice(k, nextK);
    if (same(they, was) || same(they, we)) {
      merged.push(...we);
    } else if (same(we, was)) {
      merged.push(...they);
    } else {
      merged.push(...they, ...we);
      overlaps++;
    }
    if (!end) merged.push(b[next]);
    i = next + 1;
    j = nextJ + 1;
    k = nextK + 1;
  }
  return { text: merged.join("\n"), overlaps };
}

/**
 * @param {string[]} a
 * @param {string[]} b
 */
function same(a, b) {
  return a.length === b.length && a.every((line, i) => line === b[i]);
}
