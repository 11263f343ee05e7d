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
  }
}

/**
 * Somebody else has changed, made or removed the resource since it was read
 * (412). Nothing was written.
 */
export class ConflictError extends HTTPError {
  /**
   * @param {Parameters<typeof HTTPError>[1]} response
   * @param {string | null} currentETag
   * @param {string | null} yourETag
   */
  constructor(response, currentETag, yourETag) {
    super("the resource has changed since it was read, nothing was written", response);
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

  /** @param {Options} [options] */
  constructor({ fetch, onResponse = () => {}, maxEntries = 100 } = {}) {
    this.#fetch = fetch ?? ((...args) => globalThis.fetch(...args));
    this.#onResponse = onResponse;
    this.#maxEntries = maxEntries;
  }

  /**
   * Reads a resource. If it is remembered, the server is asked whether it has
   * changed, and sends a body only if so (RFC 9110 §13.1.2).
   *
   * @param {string} url
   * @returns {Promise<Representation>}
   * @throws {HTTPError} if the server has no such resource, for example
   */
  async get(url) {
    const known = this.#cache.get(url);
    const headers = known ? { "If-None-Match": known.tag } : {};
    const answer = await this.#send("GET", url, headers, undefined, known);
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
    return this.#write(url, value, { "If-Match": tag }, tag);
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
    return this.#write(url, value, { "If-None-Match": "*" }, null);
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
        current = error.current;
      }
    }
  }

  async #write(url, value, condition, tag) {
    const content = JSON.stringify(value);
    const headers = { ...condition, "Content-Type": "application/json" };
    const answer = await this.#send("PUT", url, headers, content);
    if (!answer.ok) throw await this.#refused(answer, tag);

    // What was remembered is not the current state any more. The answer has
    // the new one if it says so (RFC 9110 §8.7), and its tag is of what was
    // sent if it has nothing else to show (§9.3.4).
    this.#cache.delete(url);
    if (answer.tag && answer.shows(url)) {
      return this.#remember(url, answer.json(), answer.tag, answer.bytes);
    }
    if (answer.tag && answer.text === "") {
      return this.#remember(url, JSON.parse(content), answer.tag, byteLength(content));
    }
    try {
      return await this.get(url);
    } catch {
      return { value: JSON.parse(content), tag: null }; // the write is done all the same
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

  async #send(method, url, condition, body, known) {
    const response = await this.#fetch(url, {
      method,
      headers: { Accept: "application/json", ...condition },
      body,
      // The browser's own cache would answer with a 200 where the server
      // answered with a 304, and so hide it.
      cache: "no-store",
    });
    const text = await response.text();
    // The length of compressed content is only known by this field.
    const bytes = text === "" ? 0 : Number(response.headers.get("Content-Length") ?? byteLength(text));
    const tag = response.headers.get("ETag");
    const saved = response.status === 304 && known ? known.bytes : 0;
    const sent = Object.keys(condition).find((name) => name.startsWith("If-"));
    this.#onResponse({
      method, url, status: response.status, tag, bytes, saved,
      condition: sent ? `${sent}: ${condition[sent]}` : null,
    });
    return {
      method, url, text, tag, bytes,
      status: response.status,
      ok: response.ok,
      json: () => JSON.parse(text),
      shows: (resource) => {
        const location = response.headers.get("Content-Location");
        if (text === "" || location === null || !response.url) return false;
        return new URL(location, response.url).href === new URL(resource, response.url).href;
      },
    };
  }
}

/** Returns the error for an answer, which is none of success. */
function failure(answer, tag = null) {
  let problem = null;
  try {
    problem = JSON.parse(answer.text);
  } catch {
    // not every server, nor every proxy, explains itself in JSON
  }
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

function byteLength(text) {
  return new TextEncoder().encode(text).length;
}
