/**
 * A client for JSON resources that have ETags. It reads a resource again
 * without its body where that is unchanged (304), and never overwrites what
 * somebody else has saved in between (412). This file needs no other one: copy
 * it into your project. It runs in browsers, and in Node from version 18 on.
 *
 * ```js
 * import { ETagClient, ConflictError } from "./client.js";
 *
 * const client = new ETagClient();
 * const { value, tag } = await client.get("/api/documents/1");
 *
 * try {
 *   await client.update("/api/documents/1", { ...value, title: "New" }, tag);
 * } catch (error) {
 *   if (!(error instanceof ConflictError)) throw error;
 *   show(error.current.value); // what somebody else has saved
 * }
 *
 * // or, for a change that can be made to any state of the resource:
 * await client.updateWithRetry("/api/counters/1", (c) => ({ ...c, n: c.n + 1 }));
 *
 * // a part of a resource, and a new one in a collection:
 * await client.patch("/api/documents/1", { title: "New" });
 * const { location } = await client.post("/api/documents", { title: "Another" });
 * ```
 *
 * @module
 */

/**
 * A state of a resource.
 * @typedef {object} Representation
 * @property {any} value What its JSON means. It is a copy, and may be changed.
 * @property {string | null} tag Its entity tag as the server wrote it, with
 *   its quotes; null if it has none.
 */

/**
 * What a POST was answered with.
 * @typedef {object} Posted
 * @property {string | null} location Where the new resource is, if one was made.
 * @property {any} value The answer, null if it is empty.
 * @property {string | null} tag The tag of the new resource, if the answer shows it.
 */

/**
 * A response, as `onResponse` is told of it.
 * @typedef {object} ResponseInfo
 * @property {string} method
 * @property {string} url
 * @property {number} status
 * @property {string | null} tag The ETag of the response.
 * @property {string | null} condition The precondition that was sent, such as
 *   `If-Match: "1"`.
 * @property {number} bytes The length of the response's body on the wire.
 * @property {number} saved The length of the body that a 304 spared, else 0.
 */

/**
 * @typedef {object} Options
 * @property {typeof globalThis.fetch} [fetch] Sends the requests. Wrap the
 *   global one to add credentials, a timeout or a base URL.
 * @property {(info: ResponseInfo) => void} [onResponse] Is called for each
 *   response, in the order in which they are complete.
 * @property {number} [maxEntries] How many resources are remembered. Default:
 *   100.
 * @property {number} [retries] How often a request is repeated that was answered
 *   with 503 and a Retry-After, as where another write is not done yet. Default: 3.
 * @property {number} [maxWait] The longest Retry-After that is waited for, in
 *   seconds. Default: 10.
 */

/** The server's answer was none that the client can use. */
export class HTTPError extends Error {
  /**
   * @param {string} message
   * @param {{ method: string, url: string, status: number, problem: any }} response
   */
  constructor(message, { method, url, status, problem }) {
    super(message);
    this.name = new.target.name;
    this.method = method;
    this.url = url;
    this.status = status;
    /** The body of the response if it is JSON, such as that of RFC 9457. */
    this.problem = problem;
    /**
     * Why the server refused the request, in one word, if it says so.
     * @type {string | null}
     */
    this.reason = problem?.reason ?? null;
  }
}

/** The server's answer was one of success, but not in JSON. */
export class NotJSONError extends HTTPError {
  /**
   * @param {{ method: string, url: string, status: number }} response
   * @param {string | null} type Its Content-Type.
   * @param {string} text Its body.
   */
  constructor(response, type, text) {
    const shown = text.length > 60 ? `${text.slice(0, 60)}…` : text;
    const what = text === "" ? "is empty" : `is not JSON but ${type ?? "of no type"}: ${shown}`;
    super(`${response.method} ${response.url} was answered with ${response.status}, and the body ${what}`, { ...response, problem: null });
    /** The body as it came. */
    this.text = text;
  }
}

/**
 * The resource is in another state than the write was meant for (412): somebody
 * else has changed, made or removed it. Nothing was written. With a `reason` other
 * than `stale` and `exists` the server could not compare the states, and the
 * message tells why.
 */
export class ConflictError extends HTTPError {
  /**
   * @param {Parameters<typeof HTTPError>[1]} response
   * @param {string | null} currentETag
   * @param {string | null} yourETag
   */
  constructor(response, currentETag, yourETag) {
    const { reason, detail } = response.problem ?? {};
    super(reason && reason !== "stale" && detail ? detail : "the resource has changed since it was read, nothing was written", response);
    /** The tag that the resource had when the write was refused. */
    this.currentETag = currentETag;
    /** The tag that the write was meant for. */
    this.yourETag = yourETag;
    /**
     * What the resource is now, read again after the conflict: null if it is
     * gone, and undefined if it could not be read (see `cause`). To write all
     * the same, use the tag in here: it is that of the state in here.
     * @type {Representation | null | undefined}
     */
    this.current = undefined;
  }
}

/**
 * The server asks for a precondition (428), and got none. This client always
 * sends one: something on the way has dropped it.
 */
export class PreconditionRequiredError extends HTTPError {
  /** @param {Parameters<typeof HTTPError>[1]} response */
  constructor(response) {
    super("the server got the write without its precondition, nothing was written", response);
  }
}

/**
 * A write was not sent, since there is no tag that says which state of the
 * resource it is to change.
 */
export class MissingTagError extends Error {
  /** @param {string} url */
  constructor(url) {
    super(`no tag is known for ${url}: read it before it is written`);
    this.name = "MissingTagError";
    this.url = url;
  }
}

/**
 * Reads and writes JSON resources. What it has read is remembered and shared
 * by all who use one client, so make one for each user.
 */
export class ETagClient {
  /** @type {Map<string, { value: any, tag: string, bytes: number }>} */
  #cache = new Map();
  #fetch;
  #onResponse;
  #maxEntries;
  #retries;
  #maxWait;

  /** @param {Options} [options] */
  constructor({ fetch, onResponse = () => {}, maxEntries = 100, retries = 3, maxWait = 10 } = {}) {
    this.#fetch = fetch ?? ((...args) => globalThis.fetch(...args));
    this.#onResponse = onResponse;
    this.#maxEntries = maxEntries;
    this.#retries = retries;
    this.#maxWait = maxWait;
  }

  /**
   * Reads a resource. If it is remembered, the server is asked whether it has
   * changed, and sends a body only if so (RFC 9110 §13.1.2).
   *
   * @param {string} url
   * @returns {Promise<Representation>}
   * @throws {HTTPError} if the server has no such resource, for example
   * @throws {NotJSONError} if the resource is none in JSON
   */
  async get(url) {
    const known = this.#cache.get(url);
    const headers = known ? { "If-None-Match": known.tag } : {};
    const answer = await this.#send("GET", url, headers, { known });
    if (answer.status === 304 && known) {
      return { value: structuredClone(known.value), tag: known.tag };
    }
    if (!answer.ok) {
      this.#cache.delete(url);
      throw failure(answer);
    }
    return this.#remember(url, answer.json(), answer.tag, answer.bytes);
  }

  /**
   * Replaces a resource, if it is still in the state that the tag is of.
   *
   * @param {string} url
   * @param {any} value
   * @param {string | null} [tag] The tag of what the change was made to.
   *   Default: that of what this client has last read. Give it if time passes
   *   between the read and the write, as with a form that somebody fills in.
   * @returns {Promise<Representation>} The new state. Its tag is null if the
   *   write is done, but neither the answer nor another read told it.
   * @throws {ConflictError} if it is in another state
   * @throws {MissingTagError} if there is no tag; then nothing is sent
   */
  async update(url, value, tag = this.#cache.get(url)?.tag ?? null) {
    if (!tag) throw new MissingTagError(url);
    return this.#write("PUT", url, value, { "If-Match": tag }, { tag });
  }

  /**
   * Changes a part of a resource, if it is still in the state that the tag is
   * of.
   *
   * @param {string} url
   * @param {any} change By default what RFC 7396 has: members to set, and to
   *   remove where they are null.
   * @param {string | null} [tag] As in `update`.
   * @param {{ type?: string }} [options] The media type of the change. Default:
   *   `application/merge-patch+json`.
   * @returns {Promise<Representation>} The new state. If the write is done but
   *   nothing tells what it made, the value is undefined and the tag null.
   * @throws {ConflictError} if it is in another state
   * @throws {MissingTagError} if there is no tag; then nothing is sent
   */
  async patch(url, change, tag = this.#cache.get(url)?.tag ?? null, { type = "application/merge-patch+json" } = {}) {
    if (!tag) throw new MissingTagError(url);
    return this.#write("PATCH", url, change, { "If-Match": tag }, { tag, type });
  }

  /**
   * Hands a value to a resource, such as a collection that makes a new member
   * of it. It has a precondition only if it is given a tag: only so it is told
   * apart from one that was sent already, should its answer get lost.
   *
   * @param {string} url
   * @param {any} value
   * @param {string | null} [tag] The tag of the resource at `url`, if its state
   *   matters. Default: none.
   * @returns {Promise<Posted>}
   * @throws {ConflictError} if that is in another state
   */
  async post(url, value, tag = null) {
    const answer = await this.#send("POST", url, tag ? { "If-Match": tag } : {}, {
      content: JSON.stringify(value), type: "application/json",
    });
    if (!answer.ok) throw await this.#refused(answer, tag);
    this.#cache.delete(url); // a collection has changed by its new member
    const { location } = answer;
    const made = location !== null && answer.tag !== null && answer.shows(location);
    const posted = answer.text === "" ? null : answer.json();
    if (made) this.#remember(location, posted, answer.tag, answer.bytes);
    return { location, value: posted, tag: made ? answer.tag : null };
  }

  /**
   * Makes a resource, unless there is one (RFC 9110 §13.1.2).
   *
   * @param {string} url
   * @param {any} value
   * @returns {Promise<Representation>}
   * @throws {ConflictError} if there is one
   */
  async create(url, value) {
    return this.#write("PUT", url, value, { "If-None-Match": "*" });
  }

  /**
   * Removes a resource, if it is still in the state that the tag is of.
   *
   * @param {string} url
   * @param {string | null} [tag] As in `update`.
   * @throws {ConflictError} if it is in another state
   * @throws {MissingTagError} if there is no tag; then nothing is sent
   */
  async remove(url, tag = this.#cache.get(url)?.tag ?? null) {
    if (!tag) throw new MissingTagError(url);
    const answer = await this.#send("DELETE", url, { "If-Match": tag });
    if (!answer.ok) throw await this.#refused(answer, tag);
    this.#cache.delete(url);
  }

  /**
   * Changes a resource, whatever its state: if somebody else was faster, the
   * change is made again to what they have saved. Of those who change one
   * resource at the same time, one gets through in each round.
   *
   * Only a conflict is followed by another attempt. After an answer that was
   * lost, nobody knows whether the change has been made.
   *
   * @param {string} url
   * @param {(current: any) => any} change Returns the new state, given the
   *   current one; it may be called several times, and may be async.
   * @param {{ attempts?: number }} [options] How often to write at the most.
   *   Default: 5.
   * @returns {Promise<Representation>} The new state, as from `update`.
   * @throws {ConflictError} if there were conflicts at all attempts, or the
   *   resource is gone
   */
  async updateWithRetry(url, change, { attempts = 5 } = {}) {
    if (!(attempts >= 1)) throw new RangeError(`invalid attempts ${attempts}: must be 1 or more`);
    const known = this.#cache.get(url);
    let current = known ? { value: structuredClone(known.value), tag: known.tag } : await this.get(url);
    for (let attempt = 1; ; attempt++) {
      const value = await change(current.value);
      if (value === undefined) throw new TypeError("change must return the new state");
      try {
        return await this.update(url, value, current.tag);
      } catch (error) {
        if (!(error instanceof ConflictError) || !error.current || attempt >= attempts) throw error;
        if (error.reason !== null && error.reason !== "stale") throw error; // it would be so again
        current = error.current;
      }
    }
  }

  async #write(method, url, value, condition, { tag = null, type = "application/json" } = {}) {
    const content = JSON.stringify(value);
    const answer = await this.#send(method, url, condition, { content, type });
    if (!answer.ok) throw await this.#refused(answer, tag);

    // What was remembered is not the current state any more. The answer has
    // the new one if it says so (RFC 9110 §8.7), and its tag is of what was
    // sent by PUT if it has nothing else to show (§9.3.4).
    this.#cache.delete(url);
    const whole = method === "PUT";
    try {
      if (answer.tag && answer.shows(url)) {
        return this.#remember(url, answer.json(), answer.tag, answer.bytes);
      }
      if (answer.tag && answer.text === "" && whole) {
        return this.#remember(url, JSON.parse(content), answer.tag, byteLength(content));
      }
      return await this.get(url);
    } catch {
      return { value: whole ? JSON.parse(content) : undefined, tag: null }; // the write is done all the same
    }
  }

  /** Returns the error for a write that was refused. */
  async #refused(answer, tag) {
    const error = failure(answer, tag);
    if (!(error instanceof ConflictError)) return error;
    try {
      error.current = await this.get(answer.url);
    } catch (cause) {
      error.cause = cause;
      if (cause instanceof HTTPError && (cause.status === 404 || cause.status === 410)) {
        error.current = null;
      }
    }
    return error;
  }

  #remember(url, value, tag, bytes) {
    this.#cache.delete(url);
    if (tag) {
      this.#cache.set(url, { value: structuredClone(value), tag, bytes });
      if (this.#cache.size > this.#maxEntries) {
        this.#cache.delete(this.#cache.keys().next().value); // the oldest
      }
    }
    return { value, tag };
  }

  /**
   * Sends a request, and again after a while if the server has no time for it.
   * What has no precondition is repeated only where the server tells, by a
   * reason, that it has not done it.
   */
  async #send(method, url, condition, options) {
    for (let retry = 0; ; retry++) {
      const answer = await this.#sendOnce(method, url, condition, options);
      if (answer.status !== 503 || retry >= this.#retries) return answer;
      const wait = answer.retryAfter;
      if (wait === null || wait > this.#maxWait) return answer;
      if (method === "POST" && !condition["If-Match"] && !parse(answer.text)?.reason) return answer;
      await new Promise((resolve) => setTimeout(resolve, wait * 1000));
    }
  }

  async #sendOnce(method, url, condition, { content, type, known } = {}) {
    const response = await this.#fetch(url, {
      method,
      headers: { Accept: "application/json", ...condition, ...(type && { "Content-Type": type }) },
      body: content,
      // The browser's own cache would answer with a 200 where the server
      // answered with a 304, and so hide it.
      cache: "no-store",
    });
    const text = await response.text();
    const field = (name) => response.headers.get(name);
    // The length of compressed content is only known by this field.
    const bytes = text === "" ? 0 : Number(field("Content-Length") ?? byteLength(text));
    const tag = field("ETag");
    const saved = response.status === 304 && known ? known.bytes : 0;
    const [sent] = Object.keys(condition);
    const { status } = response;
    this.#onResponse({
      method, url, status, tag, bytes, saved,
      condition: sent ? `${sent}: ${condition[sent]}` : null,
    });
    return {
      method, url, text, tag, bytes, status,
      ok: response.ok,
      location: field("Location"),
      retryAfter: seconds(field("Retry-After")),
      json: () => {
        const value = parse(text);
        if (value === undefined) throw new NotJSONError({ method, url, status }, field("Content-Type"), text);
        return value;
      },
      shows: (resource) => {
        const location = field("Content-Location");
        if (text === "" || location === null || !response.url) return false;
        return new URL(location, response.url).href === new URL(resource, response.url).href;
      },
    };
  }
}

/** Returns the error for an answer, which is none of success. */
function failure(answer, tag = null) {
  const problem = parse(answer.text) ?? null; // not every server, nor every proxy, explains itself in JSON
  const response = { method: answer.method, url: answer.url, status: answer.status, problem };
  switch (answer.status) {
    case 412:
      return new ConflictError(response, problem?.currentETag ?? answer.tag, problem?.yourETag ?? tag);
    case 428:
      return new PreconditionRequiredError(response);
    default:
      return new HTTPError(problem?.detail ?? problem?.error ?? `${answer.method} ${answer.url} was answered with ${answer.status}`, response);
  }
}

/** Returns what a text in JSON means, undefined if it is none. */
function parse(text) {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** Returns how long a Retry-After asks to wait, null if it is none (RFC 9110 §10.2.3). */
function seconds(field) {
  if (field === null) return null;
  if (/^\d+$/.test(field)) return Number(field);
  const date = Date.parse(field);
  return Number.isNaN(date) ? null : Math.max(0, (date - Date.now()) / 1000);
}

function byteLength(text) {
  return new TextEncoder().encode(text).length;
}
