// Tests of client.js and merge.js: node --test page.test.js
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { ConflictError, ETagClient, HTTPError, MissingTagError, PreconditionRequiredError } from "./page/client.js";
import { diff, merge } from "./page/merge.js";

/**
 * Starts a server of one resource, whose tag is its version, and a client of
 * it. What the server does otherwise than a good one is in `how`.
 */
async function start(t, how = {}) {
  const resource = { value: { n: 1 }, version: 1, gone: false };
  const change = (value) => {
    resource.value = value;
    resource.version++;
  };
  const server = createServer(async (request, response) => {
    let body = "";
    for await (const chunk of request) body += chunk;
    const tag = how.tagless ? null : `"${resource.version}"`;
    const send = (status, value, fields = {}) => {
      response.writeHead(status, tag ? { ETag: `"${resource.version}"`, ...fields } : fields);
      response.end(value === undefined ? "" : JSON.stringify(value));
    };
    const expected = request.headers["if-match"];
    how.before?.(request, change, resource);
    if (how.broken?.(request)) return send(502, "no JSON object");
    if (request.method === "GET") {
      if (resource.gone) return send(404, { error: "gone" });
      if (request.headers["if-none-match"] === `"${resource.version}"`) return send(304);
      return send(200, resource.value);
    }
    if (how.dropsPreconditions) return send(428, { title: "Precondition Required" });
    const holds = expected ? !resource.gone && expected === `"${resource.version}"` : resource.gone;
    if (!holds) {
      return send(412, how.plain ? undefined : { currentETag: `"${resource.version}"`, yourETag: expected ?? "*" });
    }
    if (request.method === "DELETE") {
      resource.gone = true;
      return send(204);
    }
    resource.gone = false;
    change({ ...JSON.parse(body), ...how.adds });
    return how.answer ? how.answer(send, resource, request) : send(204);
  });
  await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => server.close());
  t.after(() => server.closeAllConnections?.());
  const log = [];
  const client = new ETagClient({ onResponse: (info) => log.push(info) });
  const told = () => log.map(({ method, status }) => `${method} ${status}`).join(", ");
  return { url: `http://127.0.0.1:${server.address().port}/it`, client, resource, change, log, told };
}

test("a second read is answered without a body", async (t) => {
  const { url, client, log, told, change } = await start(t);
  const first = await client.get(url);
  assert.deepEqual(first, { value: { n: 1 }, tag: '"1"' });
  first.value.n = "changed by the caller";
  assert.deepEqual(await client.get(url), { value: { n: 1 }, tag: '"1"' });
  change({ n: 2 });
  assert.deepEqual(await client.get(url), { value: { n: 2 }, tag: '"2"' });
  assert.equal(told(), "GET 200, GET 304, GET 200");
  assert.deepEqual(log[0], { method: "GET", url, status: 200, tag: '"1"', condition: null, bytes: 7, saved: 0 });
  assert.deepEqual(log[1], { method: "GET", url, status: 304, tag: '"1"', condition: 'If-None-Match: "1"', bytes: 0, saved: 7 });
});

test("a resource without a tag is not remembered, and not written", async (t) => {
  const { url, client, told } = await start(t, { tagless: true });
  assert.equal((await client.get(url)).tag, null);
  assert.equal((await client.get(url)).tag, null);
  await assert.rejects(client.update(url, { n: 2 }), MissingTagError);
  await assert.rejects(client.remove(url), MissingTagError);
  assert.equal(told(), "GET 200, GET 200");
});

test("a write without an earlier read is not sent", async (t) => {
  const { url, client, told } = await start(t);
  await assert.rejects(client.update(url, { n: 2 }), MissingTagError);
  await assert.rejects(client.update(url, { n: 2 }, null), MissingTagError);
  assert.equal(told(), "");
});

test("the new state is known after a write", async (t) => {
  const cases = {
    "from what was sent": [{}, "PUT 204"],
    "from the answer": [{
      adds: { by: "server" },
      answer: (send, resource, request) => send(200, resource.value, { "Content-Location": request.url }),
    }, "PUT 200"],
    "from another read, as the answer is something else": [{
      adds: { by: "server" },
      answer: (send) => send(200, { done: true }),
    }, "PUT 200, GET 200"],
    "from another read, as the answer has no tag": [{
      answer: (send) => send(204, undefined, { ETag: [] }),
    }, "PUT 204, GET 200"],
  };
  for (const [name, [how, requests]] of Object.entries(cases)) {
    await t.test(name, async (t) => {
      const { url, client, resource, told } = await start(t, how);
      const { tag } = await client.get(url);
      const saved = await client.update(url, { n: 2 }, tag);
      assert.deepEqual(saved, { value: resource.value, tag: '"2"' });
      assert.deepEqual(await client.get(url), saved);
      assert.equal(told(), `GET 200, ${requests}, GET 304`);
    });
  }
});

test("a write is done even if the read after it fails", async (t) => {
  let written = false;
  const { url, client } = await start(t, {
    answer: (send) => {
      written = true;
      send(200, { done: true });
    },
    broken: (request) => written && request.method === "GET",
  });
  await client.get(url);
  assert.deepEqual(await client.update(url, { n: 2 }), { value: { n: 2 }, tag: null });
  await assert.rejects(client.update(url, { n: 3 }), MissingTagError);
});

test("a conflict shows both tags and what there is now", async (t) => {
  for (const plain of [false, true]) {
    const { url, client, change, told } = await start(t, { plain });
    const { tag } = await client.get(url);
    change({ n: 5 });
    const error = await client.update(url, { n: 2 }, tag).catch((e) => e);
    assert.ok(error instanceof ConflictError);
    assert.ok(error instanceof HTTPError);
    assert.equal(error.name, "ConflictError");
    assert.equal(error.status, 412);
    assert.equal(error.currentETag, '"2"');
    assert.equal(error.yourETag, '"1"');
    assert.deepEqual(error.current, { value: { n: 5 }, tag: '"2"' });
    assert.equal(told(), "GET 200, PUT 412, GET 200");
    await client.update(url, { n: 6 }, error.current.tag);
  }
});

test("a conflict with a removal has nothing to show", async (t) => {
  const { url, client, resource } = await start(t);
  await client.get(url);
  resource.gone = true;
  const error = await client.update(url, { n: 2 }).catch((e) => e);
  assert.ok(error instanceof ConflictError);
  assert.equal(error.current, null);
  await assert.rejects(client.updateWithRetry(url, (c) => c), HTTPError);
});

test("a conflict that can't be read is one all the same", async (t) => {
  let reads = 0;
  const { url, client, change } = await start(t, { broken: (request) => request.method === "GET" && reads++ > 0 });
  await client.get(url);
  change({ n: 5 });
  const error = await client.update(url, { n: 2 }).catch((e) => e);
  assert.ok(error instanceof ConflictError);
  assert.equal(error.current, undefined);
  assert.equal(error.cause.status, 502);
});

test("a precondition that was lost on the way has an error of its own", async (t) => {
  const { url, client } = await start(t, { dropsPreconditions: true });
  await client.get(url);
  const error = await client.update(url, { n: 2 }).catch((e) => e);
  assert.ok(error instanceof PreconditionRequiredError);
  assert.equal(error.status, 428);
  assert.equal(error.problem.title, "Precondition Required");
});

test("what exists is not created again, and what changed is not removed", async (t) => {
  const { url, client, change, resource, log } = await start(t);
  await assert.rejects(client.create(url, { n: 9 }), ConflictError);
  assert.equal(log[0].condition, "If-None-Match: *");
  await client.get(url);
  change({ n: 2 });
  await assert.rejects(client.remove(url, '"1"'), ConflictError);
  await client.remove(url);
  assert.equal(resource.gone, true);
  assert.deepEqual((await client.create(url, { n: 3 })).value, { n: 3 });
});

test("a change is made again to what somebody else has saved", async (t) => {
  let others = 2; // who save between our read and our write
  const { url, client, resource, told } = await start(t, {
    before: (request, change, { value }) => {
      if (request.method === "PUT" && others-- > 0) change({ n: value.n + 10 });
    },
  });
  const saved = await client.updateWithRetry(url, async (current) => ({ n: current.n + 1 }));
  assert.deepEqual(saved, { value: { n: 22 }, tag: '"4"' });
  assert.deepEqual(resource.value, { n: 22 });
  assert.equal(told(), "GET 200, PUT 412, GET 200, PUT 412, GET 200, PUT 204");
});

test("a change is not tried for ever", async (t) => {
  const { url, client, told } = await start(t, {
    before: (request, change) => {
      if (request.method === "PUT") change({ n: 0 });
    },
  });
  await assert.rejects(client.updateWithRetry(url, (c) => c, { attempts: 2 }), ConflictError);
  assert.equal(told(), "GET 200, PUT 412, GET 200, PUT 412, GET 200");
  await assert.rejects(client.updateWithRetry(url, () => {}), TypeError);
  await assert.rejects(client.updateWithRetry(url, (c) => c, { attempts: 0 }), RangeError);
});

test("no more is remembered than asked for", async (t) => {
  const { url, log } = await start(t);
  const client = new ETagClient({ maxEntries: 2, onResponse: (info) => log.push(info) });
  for (const query of ["a", "b", "c", "c", "b", "a"]) await client.get(`${url}?${query}`);
  assert.deepEqual(log.map(({ status }) => status), [200, 200, 200, 304, 304, 200]);
});

test("lines are compared", () => {
  const told = (before, after) => diff(before, after).map(({ kind, line }) => `${{ same: " ", added: "+", removed: "-" }[kind]}${line}`);
  assert.deepEqual(told("a\nb\nc", "a\nb\nc"), [" a", " b", " c"]);
  assert.deepEqual(told("a\nb\nc", "a\nx\nc"), [" a", "-b", "+x", " c"]);
  assert.deepEqual(told("a", "a\nb"), [" a", "+b"]);
  assert.deepEqual(told("b", "a\nb"), ["+a", " b"]);
  assert.deepEqual(told("a\n\nb\n\nc", "a\n\nc"), [" a", " ", "-b", "-", " c"]);
});

test("changes are merged", () => {
  const base = "a\nb\nc\nd\ne";
  for (const [name, theirs, ours, text, overlaps] of [
    ["neither", base, base, base, 0],
    ["theirs alone", "a\nB\nc\nd\ne", base, "a\nB\nc\nd\ne", 0],
    ["ours alone", base, "a\nb\nc\nd\nE", "a\nb\nc\nd\nE", 0],
    ["both, in other places", "A\nb\nc\nd\ne", "a\nb\nc\nd\ne\nf", "A\nb\nc\nd\ne\nf", 0],
    ["both, the same", "a\nX\nc\nd\ne", "a\nX\nc\nd\ne", "a\nX\nc\nd\ne", 0],
    ["both, in one place", "a\nX\nc\nd\ne", "a\nY\nc\nd\ne", "a\nX\nY\nc\nd\ne", 1],
    ["one removes, one adds", "a\nc\nd\ne", "a\nb\nc\nd\nd2\ne", "a\nc\nd\nd2\ne", 0],
    ["one removes what one changes", "a\nc\nd\ne", "a\nY\nc\nd\ne", "a\nY\nc\nd\ne", 1],
    ["nothing is left of theirs", "", base, "", 0],
  ]) {
    assert.deepEqual(merge(base, theirs, ours), { text, overlaps }, name);
  }
});
