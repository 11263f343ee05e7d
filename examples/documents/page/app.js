import { ConflictError, ETagClient, HTTPError, MissingTagError, PreconditionRequiredError } from "./client.js";
import { diff, merge } from "./merge.js";

const documentURL = "/api/documents/trip";
const number = new Intl.NumberFormat("en");

/** Returns a copy of a template's content, and its elements by their data-part. */
function instantiate(id) {
  const root = document.getElementById(id).content.firstElementChild.cloneNode(true);
  const parts = {};
  for (const element of root.querySelectorAll("[data-part]")) parts[element.dataset.part] = element;
  return { root, parts };
}

/** Returns a tag that fits into a line; its beginning tells two tags apart. */
function shorten(text) {
  return text.replace(/"([^"]{8})[^"]{3,}"/g, '"$1…"');
}

/** Shows a tag, and all of it to who points at it. */
function showTag(element, text) {
  element.textContent = text ? shorten(text) : "–";
  element.title = text ?? "";
}

/** What went over the wire, and what it adds up to. */
class Traffic {
  #sums = { requests: 0, bytes: 0, saved: 0, prevented: 0 };

  /**
   * @param {string} who
   * @param {import("./client.js").ResponseInfo} info
   */
  add(who, info) {
    const refused = info.status === 412 || info.status === 428;
    this.#sums.requests++;
    this.#sums.bytes += info.bytes;
    this.#sums.saved += info.saved;
    // What a 428 refuses names no state, and so it may have overwritten nothing.
    if (info.status === 412 && info.method !== "GET") this.#sums.prevented++;
    for (const [name, sum] of Object.entries(this.#sums)) {
      document.getElementById(`sum-${name}`).textContent = number.format(sum);
    }

    const { root, parts } = instantiate("row");
    root.dataset.status = info.status;
    root.dataset.method = info.method;
    root.classList.add(refused ? "refused" : info.status === 304 ? "unchanged" : "sent");
    parts.who.textContent = who;
    parts.who.dataset.who = who;
    parts.method.textContent = info.method;
    parts.url.textContent = info.url;
    parts.code.textContent = info.status;
    parts.meaning.textContent = meaning(info);
    showTag(parts.condition, info.condition);
    showTag(parts.tag, info.tag);
    parts.bytes.textContent = `${number.format(info.bytes)} B`;
    parts.saved.textContent = info.saved ? `${number.format(info.saved)} B` : "–";
    for (const cell of root.cells) cell.classList.toggle("none", cell.textContent === "–");
    document.getElementById("log").prepend(root);
    document.getElementById("traffic-status").textContent =
      `${who}: ${info.method}, ${info.status} ${meaning(info)}, ${info.bytes} bytes`;
  }
}

function meaning({ method, status }) {
  switch (status) {
    case 200: return method === "GET" ? "sent in full" : "saved";
    case 304: return "not modified";
    case 412: return "changed since, refused";
    case 428: return "no tag, refused";
    case 503: return "busy, tried again";
    default: return "";
  }
}

/** One person's view of the document. */
class Editor {
  #name;
  #client;
  #root;
  #parts;
  /** What the form was filled with: all that is saved is a change to it. */
  #base = null;
  /** What somebody else has saved in between, while there is a conflict. */
  #theirs = null;
  #busy = false;

  constructor(name, traffic) {
    this.#name = name;
    this.#client = new ETagClient({ onResponse: (info) => traffic.add(name, info) });
    const { root, parts } = instantiate("editor");
    this.#root = root;
    this.#parts = parts;

    const prefix = name.toLowerCase();
    root.id = prefix;
    root.setAttribute("aria-labelledby", `${prefix}-heading`);
    const heading = root.querySelector("h2");
    heading.id = `${prefix}-heading`;
    heading.textContent = name;
    root.querySelector(".avatar").textContent = name[0];
    for (const field of ["title", "text"]) {
      parts[field].id = `${prefix}-${field}`;
      parts[`${field}-label`].htmlFor = parts[field].id;
      parts[field].addEventListener("input", () => this.#showDirty());
    }
    for (const part of ["conflict", "theirs", "yours"]) {
      const label = parts[part === "conflict" ? "conflict-heading" : `${part}-label`];
      label.id = `${prefix}-${part}-label`;
      parts[part].setAttribute("aria-labelledby", label.id);
    }

    parts.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.save();
    });
    parts.reload.addEventListener("click", () => this.#do(() => this.load()));
    parts.sign.addEventListener("click", () => this.#do(() => this.#sign()));
    parts.take.addEventListener("click", () => this.#do(() => this.#takeTheirs()));
    parts.keep.addEventListener("click", () => this.#do(() => this.#save(this.#theirs?.tag ?? null)));
    parts.merge.addEventListener("click", () => this.#do(() => this.#merge()));
  }

  get root() {
    return this.#root;
  }

  /** Whether there is something in the form that would be lost with the page. */
  get unsaved() {
    return this.#isDirty();
  }

  /** Saves what is in the form, unless there is a conflict to decide first. */
  save() {
    if (this.#theirs !== null) return;
    this.#do(() => this.#save(this.#base?.tag));
  }

  /** Reads the document. What is in the form and not saved stays there. */
  async load() {
    const before = this.#base?.tag;
    const read = await this.#client.get(documentURL);
    if (!this.#receive(read)) return;
    if (before === undefined) this.#say("");
    else if (before !== read.tag) this.#say(`Read what ${read.value.author} has saved.`);
    else if (this.#isDirty()) this.#say("Nothing has changed but your text, which is not saved yet.", "warn");
    else this.#say("Nothing has changed: the server sent no body.");
  }

  /**
   * Shows a state of the document, and reports whether it could. If it is
   * another one than the unsaved text in the form was made of, somebody has to
   * choose. What was typed while the request was on its way is such text.
   */
  #receive(representation) {
    if (!this.#isDirty()) {
      this.#fill(representation);
    } else if (representation.tag !== this.#base.tag) {
      this.#showConflict(representation, "Nothing is lost");
      return false;
    }
    return true;
  }

  /** Saves what is in the form, if the document is still what the tag is of. */
  async #save(tag) {
    if (this.#base === null) throw new MissingTagError(documentURL); // it could not be read
    const sent = this.#form();
    const resolving = this.#theirs !== null;
    let saved;
    try {
      saved = await this.#client.update(documentURL, { ...this.#base.value, ...sent, author: this.#name }, tag);
    } catch (error) {
      if (!(error instanceof ConflictError) || !error.current) throw error;
      this.#showConflict(error.current, "Your save was refused, and nothing is lost");
      return;
    }
    const typed = this.#form(); // while the request was on its way
    const more = typed.title !== sent.title || typed.text !== sent.text;
    this.#fill(saved, more ? typed : saved.value);
    this.#say(more ? "Saved, but for what you have typed since." : "Saved.", "good");
    if (resolving) this.#parts.text.focus();
  }

  /**
   * Adds a line to the document, as a program would that needs nobody to
   * decide: if somebody was faster, it adds the line to what they have saved.
   */
  async #sign() {
    if (this.#isDirty()) {
      this.#say("Save first: signing is for what is saved.", "warn");
      return;
    }
    let attempts = 0;
    const signed = await this.#client.updateWithRetry(documentURL, (current) => {
      attempts++;
      return { ...current, text: `${current.text.trimEnd()}\n– ${this.#name}\n`, author: this.#name };
    });
    if (!this.#receive(signed)) return;
    this.#say(attempts === 1 ? "Signed." : `Signed, at attempt ${attempts}: somebody had saved in between.`, "good");
  }

  #takeTheirs() {
    this.#fill(this.#theirs);
    this.#say(`This is what ${this.#base.value.author} has saved.`);
    this.#parts.text.focus();
  }

  #merge() {
    const theirs = this.#theirs;
    const base = this.#base.value;
    const ours = this.#form();
    const text = merge(base.text, theirs.value.text, ours.text);
    const title = ours.title === base.title ? theirs.value.title : ours.title;
    this.#fill(theirs, { title, text: text.text });
    this.#say(text.overlaps === 0
      ? "Both changes are in the text. Read it, then save."
      : "You both changed the same lines. Choose from both in the text, then save.", "warn");
    const change = firstChange(ours.text, text.text);
    if (change === null && title !== ours.title) {
      this.#parts.title.focus();
      this.#parts.title.select();
      return;
    }
    this.#parts.text.focus();
    if (change !== null) show(this.#parts.text, ...change);
  }

  /** Fills in the form, with a state of the document or with a change to it. */
  #fill(representation, form = representation.value) {
    this.#base = representation;
    this.#theirs = null;
    for (const name of ["title", "text"]) {
      const field = this.#parts[name];
      field.readOnly = false;
      if (field.value !== form[name]) field.value = form[name]; // else it keeps its cursor
    }
    showTag(this.#parts.tag, representation.tag);
    this.#parts.conflict.hidden = true;
    this.#parts.form.hidden = false;
    this.#root.classList.remove("in-conflict");
    this.#showDirty();
  }

  #showConflict(theirs, what) {
    const parts = this.#parts;
    const who = theirs.value.author;
    this.#theirs = theirs;
    parts["conflict-heading"].textContent = `${who === this.#name ? "You were" : `${who} was`} faster`;
    parts["conflict-text"].textContent =
      `${what}. Here is what each of you has changed:`;
    parts["theirs-label"].textContent = `Theirs, saved by ${who}`;
    parts["yours-label"].textContent = "Yours, not saved";
    this.#showChanges(parts.theirs, theirs.value);
    this.#showChanges(parts.yours, this.#form());
    parts.form.hidden = true;
    parts.conflict.hidden = false;
    this.#root.classList.add("in-conflict");
    this.#say("Not saved: choose one.", "warn");
    parts["conflict-heading"].focus();
  }

  /** Shows what has become of the document that was read. */
  #showChanges(element, value) {
    const base = this.#base.value;
    const title = value.title === base.title
      ? [{ kind: "same", line: value.title }]
      : [{ kind: "removed", line: base.title }, { kind: "added", line: value.title }];
    element.replaceChildren(
      ...pair(title).map((line) => showLine(line, "title-line")),
      ...pair(fold(diff(base.text, value.text))).map((line) => showLine(line)),
    );
  }

  #form() {
    return { title: this.#parts.title.value, text: this.#parts.text.value };
  }

  #isDirty() {
    const { title, text } = this.#form();
    return this.#base !== null && (title !== this.#base.value.title || text !== this.#base.value.text);
  }

  #showDirty() {
    this.#parts.dirty.hidden = !this.#isDirty();
  }

  #say(message, mood = "") {
    this.#parts.status.textContent = message;
    this.#parts.status.dataset.mood = mood;
  }

  /**
   * Runs one action at a time. The buttons stay enabled meanwhile, since a
   * button that is disabled loses the focus.
   */
  async #do(action) {
    if (this.#busy) return;
    this.#busy = true;
    this.#root.setAttribute("aria-busy", "true");
    try {
      await action();
    } catch (error) {
      this.#say(explain(error), "bad");
    } finally {
      this.#busy = false;
      this.#root.removeAttribute("aria-busy");
    }
  }

  start() {
    return this.#do(() => this.load());
  }
}

/** Returns from where to where a text first has other lines than before, null if it has none. */
function firstChange(before, after) {
  let at = 0, from = null;
  for (const { kind, line } of diff(before, after)) {
    if (kind === "same" && from !== null) break;
    if (kind !== "same") from ??= at;
    if (kind !== "removed") at += line.length + 1;
  }
  return from === null ? null : [from, Math.max(from, at - 1)];
}

/** Selects a part of a field of several lines, and scrolls it into view. */
function show(field, from, to) {
  field.setSelectionRange(from, to);
  // How far down a text is, wrapped as it is there, only a field can tell.
  const ruler = field.cloneNode();
  ruler.removeAttribute("id");
  Object.assign(ruler.style, { position: "absolute", visibility: "hidden", height: "0", minHeight: "0", width: `${field.offsetWidth}px` });
  field.after(ruler);
  ruler.value = field.value.slice(0, from);
  const top = ruler.scrollHeight;
  ruler.remove();
  field.scrollTop = top - field.clientHeight / 3;
}

function explain(error) {
  if (error instanceof ConflictError) return "Not saved: the document is gone, or can’t be read.";
  if (error instanceof MissingTagError) return "Not saved: reload first, so that it is known what you change.";
  if (error instanceof PreconditionRequiredError) return "Not saved: the server did not get the tag.";
  if (error instanceof HTTPError) return `That did not work: ${error.message}.`;
  console.error(error);
  return "The server can’t be reached.";
}

const signs = { added: "+", removed: "−", same: "", folded: "" };
const spoken = { added: "added: ", removed: "removed: " };

function showLine({ kind, line, from = 0, to = 0 }, ...classes) {
  const element = document.createElement("div");
  element.classList.add("line", kind, ...classes);
  const sign = document.createElement("span");
  sign.className = "sign";
  sign.setAttribute("aria-hidden", "true");
  sign.textContent = signs[kind];
  const text = document.createElement(kind === "added" ? "ins" : kind === "removed" ? "del" : "span");
  if (spoken[kind]) {
    const how = document.createElement("span");
    how.className = "visually-hidden";
    how.textContent = spoken[kind];
    text.append(how);
  }
  if (from < to) {
    const changed = document.createElement("mark");
    changed.textContent = line.slice(from, to);
    text.append(line.slice(0, from), changed, line.slice(to));
  } else {
    text.append(line);
  }
  element.append(sign, text);
  return element;
}

/**
 * Finds the lines that were changed rather than added or removed, and what of
 * them was: all but the words that a line begins and ends with as before.
 */
function pair(lines) {
  const paired = lines.map((line) => ({ ...line }));
  for (let i = 0; i + 1 < paired.length; i++) {
    const [old, now] = paired.slice(i, i + 2);
    if (old.kind !== "removed" || now.kind !== "added") continue;
    if (paired[i - 1]?.kind === "removed" || paired[i + 2]?.kind === "added") continue;
    const a = old.line.split(/\b/), b = now.line.split(/\b/);
    let start = 0, end = 0;
    while (start < Math.min(a.length, b.length) && a[start] === b[start]) start++;
    while (end < Math.min(a.length, b.length) - start && a.at(-1 - end) === b.at(-1 - end)) end++;
    if (start + end === 0) continue;
    const length = (words) => words.join("").length;
    for (const [entry, words] of [[old, a], [now, b]]) {
      entry.from = length(words.slice(0, start));
      entry.to = length(words.slice(0, words.length - end));
    }
  }
  return paired;
}

/** Leaves out the lines that are the same, but for those beside a change. */
function fold(lines) {
  const near = (i) => lines.slice(Math.max(0, i - 1), i + 2).some(({ kind }) => kind !== "same");
  const folded = [];
  for (let i = 0; i < lines.length; i++) {
    if (near(i)) {
      folded.push(lines[i]);
      continue;
    }
    let end = i;
    while (end < lines.length && !near(end)) end++;
    const count = end - i;
    folded.push(...count < 3 ? lines.slice(i, end) : [{ kind: "folded", line: `${count} lines are the same` }]);
    i = end - 1;
  }
  return folded;
}

const traffic = new Traffic();
const editors = ["Ana", "Ben"].map((name) => new Editor(name, traffic));
document.getElementById("editors").append(...editors.map((editor) => editor.root));

// As in any other editor, Ctrl+S (or Cmd+S) saves: the text that has the focus,
// or all there is to be saved.
document.addEventListener("keydown", (event) => {
  if (!(event.ctrlKey || event.metaKey) || event.altKey || event.shiftKey || event.key.toLowerCase() !== "s") return;
  event.preventDefault();
  const focused = editors.filter(({ root }) => root.contains(event.target));
  for (const editor of focused.length > 0 ? focused : editors.filter(({ unsaved }) => unsaved)) editor.save();
});

// Who closes the page is asked first, if there is something to lose.
addEventListener("beforeunload", (event) => {
  if (editors.some(({ unsaved }) => unsaved)) event.preventDefault();
});

// client.js sends no write without a tag, but other programs do.
document.getElementById("blind").addEventListener("click", async () => {
  try {
    const response = await fetch(documentURL, {
      method: "PUT",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ title: "Overwritten", text: "All gone.", author: "Nobody" }),
    });
    const text = await response.text();
    traffic.add("A script", {
      method: "PUT", url: documentURL, status: response.status, tag: response.headers.get("ETag"),
      condition: null, bytes: new TextEncoder().encode(text).length, saved: 0,
    });
  } catch {
    document.getElementById("traffic-status").textContent = "The server can’t be reached.";
  }
});

for (const editor of editors) await editor.start();
