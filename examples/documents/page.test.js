// Tests of client.js and merge.js: node --test page.test.js
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";

import { ConflictError, ETagClient, HTTPError, MissingTagError, NotJSONError, PreconditionRequiredError } from "./page/client.js";
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
    if (how.other?.(request, body, send, response)) return;
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

test("a part of a resource is changed", async (t) => {
  const seen = [];
  const { url, client, change, told } = await start(t, {
    before: (request) => {
      if (request.method === "PATCH") seen.push(request.headers["content-type"], request.headers["if-match"]);
    },
  });
  await assert.rejects(client.patch(url, { n: 2 }), MissingTagError);
  await client.get(url);
  // the answer has a tag, but who sent a part does not know the whole by it
  assert.deepEqual(await client.patch(url, { n: 2 }), { value: { n: 2 }, tag: '"2"' });
  assert.deepEqual(seen, ["application/merge-patch+json", '"1"']);
  assert.equal(told(), "GET 200, PATCH 204, GET 200");
  change({ n: 5 });
  const error = await client.patch(url, { n: 3 }, '"2"', { type: "application/json-patch+json" }).catch((e) => e);
  assert.ok(error instanceof ConflictError);
  assert.deepEqual(error.current, { value: { n: 5 }, tag: '"3"' });
  assert.deepEqual(seen.slice(2), ["application/json-patch+json", '"2"']);
});

test("a part is changed even if nothing tells what became of the whole", async (t) => {
  let written = false;
  const { url, client } = await start(t, {
    answer: (send) => {
      written = true;
      send(204);
    },
    broken: (request) => written && request.method === "GET",
  });
  await client.get(url);
  assert.deepEqual(await client.patch(url, { n: 2 }), { value: undefined, tag: null });
});

test("a new member is posted to a collection", async (t) => {
  const posts = [];
  const { url, client, told } = await start(t, {
    other: (request, body, send) => {
      if (request.method !== "POST") return false;
      posts.push(request.headers["if-match"] ?? null);
      if (request.url === "/it/none") send(204);
      else send(201, JSON.parse(body), { Location: "/it/7", "Content-Location": "/it/7", ETag: '"7"' });
      return true;
    },
  });
  await client.get(url);
  // by a fetch of its own, since there is no page that a path would belong to
  const at = new ETagClient({ fetch: (path, init) => fetch(new URL(path, url), init) });
  assert.deepEqual(await at.post("/it", { n: 7 }), { location: "/it/7", value: { n: 7 }, tag: '"7"' });
  assert.deepEqual(await client.post(`${url}/none`, { n: 8 }, '"1"'), { location: null, value: null, tag: null });
  assert.deepEqual(posts, [null, '"1"']);
  await assert.rejects(at.update("/it", { n: 1 }), MissingTagError);
  await assert.rejects(at.update("/it/7", { n: 1 }), ConflictError); // it was sent, and so its tag was known
  assert.equal(told(), "GET 200, POST 204");
});

test("what the server has no time for is sent again", async (t) => {
  for (const [method, busy, answered, options] of [
    ["update", { after: "0", times: 2 }, [503, 503, 204]],
    ["update", { after: new Date(0).toUTCString(), times: 1 }, [503, 204]],
    ["update", { after: "0", times: 2, silent: true }, [503, 503, 204]],
    ["update", { after: "0", times: 9 }, [503, 503, 503, 503]],
    ["update", { after: "0", times: 9 }, [503], { retries: 0 }],
    ["update", { after: "11", times: 1 }, [503]],
    ["update", { after: "2", times: 1 }, [503], { maxWait: 1 }],
    ["update", { after: "soon", times: 1 }, [503]],
    ["update", { times: 1 }, [503]],
    ["get", { after: "0", times: 1 }, [503, 200]],
    ["post", { after: "0", times: 1 }, [503, 204]],
    ["post", { after: "0", times: 1, silent: true }, [503]], // it may have been done
  ]) {
    let left = 0;
    const { url, log } = await start(t, {
      other: (request, body, send) => {
        if (left-- > 0) {
          send(503, busy.silent ? "busy" : { reason: "busy", detail: "Another write is not done yet." }, busy.after ? { "Retry-After": busy.after } : {});
          return true;
        }
        if (request.method === "POST") send(204);
        return request.method === "POST";
      },
    });
    const client = new ETagClient({ ...options, onResponse: (info) => log.push(info) });
    left = busy.times;
    const result = await client[method](url, { n: 2 }, method === "update" ? '"1"' : null).catch((e) => e);
    const statuses = log.map(({ status }) => status);
    assert.deepEqual(statuses.slice(0, answered.length), answered, `${method} ${JSON.stringify(busy)}`);
    if (answered.at(-1) !== 503) {
      assert.ok(!(result instanceof Error), result);
      continue;
    }
    assert.equal(statuses.length, answered.length);
    assert.ok(result instanceof HTTPError);
    assert.equal(result.status, 503);
    assert.equal(result.reason, busy.silent ? null : "busy");
  }
});

test("a body that is not JSON is said to be none", async (t) => {
  let page = "<!doctype html><title>Log in</title>" + "<p>please</p>".repeat(10);
  const { url, client } = await start(t, {
    other: (request, body, send, response) => {
      if (request.method !== "GET") return false;
      response.writeHead(200, { "Content-Type": "text/html", ETag: '"1"' }).end(page);
      return true;
    },
  });
  const error = await client.get(url).catch((e) => e);
  assert.ok(error instanceof NotJSONError);
  assert.ok(error instanceof HTTPError);
  assert.equal(error.message, `GET ${url} was answered with 200, and the body is not JSON but text/html: <!doctype html><title>Log in</title><p>please</p><p>please</…`);
  assert.equal(error.text, page);
  assert.equal(error.status, 200);
  // nothing of it is remembered
  await assert.rejects(client.update(url, { n: 2 }), MissingTagError);
  // the write is done: what can't be read is what it has become
  assert.deepEqual(await client.update(url, { n: 2 }, '"1"'), { value: { n: 2 }, tag: '"2"' });
  page = "";
  await assert.rejects(new ETagClient().get(url), { name: "NotJSONError", message: `GET ${url} was answered with 200, and the body is empty` });
});

test("a conflict tells its reason", async (t) => {
  for (const [reason, message, tries] of [
    ["stale", "the resource has changed since it was read, nothing was written", 2],
    ["no_tag", "The resource has no ETag.", 1],
    [undefined, "the resource has changed since it was read, nothing was written", 2],
  ]) {
    const { url, client, log } = await start(t, {
      other: (request, body, send) => {
        if (request.method === "PUT") send(412, { reason, detail: "The resource has no ETag." });
        return request.method === "PUT";
      },
    });
    const error = await client.updateWithRetry(url, (c) => c, { attempts: 2 }).catch((e) => e);
    assert.ok(error instanceof ConflictError);
    assert.equal(error.reason, reason ?? null);
    assert.equal(error.message, message);
    // what another attempt would not change is not attempted again
    assert.equal(log.filter(({ method }) => method === "PUT").length, tries);
  }
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
