import { serve } from "@hono/node-server";
import { Hono } from "hono";
import { etag as etagMiddleware } from "hono/etag";
import { bodies, etag, hostname, listenPort } from "./bodies.mjs";

const app = new Hono();
if (etag) {
  app.use(etagMiddleware());
}
app.get("/repeating/:size", (c) => c.text(bodies.get(c.req.param("size"))));
serve({ fetch: app.fetch, hostname, port: listenPort });
