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
    if (refused) this.#sums.prevented++;
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
      this.#do(() => this.#save(this.#base?.tag));
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

  /** Reads the document; what is in the form and not saved is given up. */
  async load() {
    const before = this.#base?.tag;
    this.#fill(await this.#client.get(documentURL));
    this.#say(before === undefined ? "" : before === this.#base.tag
      ? "Nothing has changed: the server sent no body."
      : `Read what ${this.#base.value.author} has saved.`);
  }

  /** Saves what is in the form, if the document is still what the tag is of. */
  async #save(tag) {
    if (this.#base === null) throw new MissingTagError(documentURL); // it could not be read
    const value = { ...this.#base.value, ...this.#form(), author: this.#name };
    const resolving = this.#theirs !== null;
    try {
      this.#fill(await this.#client.update(documentURL, value, tag));
    } catch (error) {
      if (!(error instanceof ConflictError) || !error.current) throw error;
      this.#showConflict(error.current);
      return;
    }
    this.#say("Saved.", "good");
    if (resolving) this.#parts.text.focus();
  }

  /**
   * Adds a line to the document, as a program would that needs nobody to
   * decide: if somebody was faster, it adds the line to what they have saved.
   */
  async #sign() {
    if (this.#isDirty()) {
      this.#say("Save or reload first: signing is for what is saved.", "warn");
      return;
    }
    let attempts = 0;
    const signed = await this.#client.updateWithRetry(documentURL, (current) => {
      attempts++;
      return { ...current, text: `${current.text.trimEnd()}\n– ${this.#name}\n`, author: this.#name };
    });
    this.#fill(signed);
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
    this.#fill(theirs);
    this.#parts.title.value = title;
    this.#parts.text.value = text.text;
    this.#showDirty();
    this.#say(text.overlaps === 0
      ? "Both changes are in the text. Read it, then save."
      : "You both changed the same lines. Choose from both in the text, then save.", "warn");
    this.#parts.text.focus();
  }

  #fill(representation) {
    this.#base = representation;
    this.#theirs = null;
    this.#parts.title.value = representation.value.title;
    this.#parts.text.value = representation.value.text;
    showTag(this.#parts.tag, representation.tag);
    this.#parts.conflict.hidden = true;
    this.#parts.form.hidden = false;
    this.#root.classList.remove("in-conflict");
    this.#showDirty();
  }

  #showConflict(theirs) {
    const parts = this.#parts;
    const who = theirs.value.author;
    this.#theirs = theirs;
    parts["conflict-heading"].textContent = `${who === this.#name ? "You were" : `${who} was`} faster`;
    parts["conflict-text"].textContent =
      "Your save was refused, and nothing is lost. Here is what each of you has changed:";
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
