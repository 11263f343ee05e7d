import express from "express";
import { bodies, etag, hostname, listenPort } from "./bodies.mjs";

const app = express();
app.set("etag", etag ? "weak" : false);
app.get("/repeating/:size", (req, res) => {
  res.type("text/plain").send(bodies.get(req.params.size));
});
app.listen(listenPort, hostname);
