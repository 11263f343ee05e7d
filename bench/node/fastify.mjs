import fastifyEtag from "@fastify/etag";
import Fastify from "fastify";
import { bodies, etag, hostname, listenPort } from "./bodies.mjs";

const app = Fastify();
if (etag) {
  await app.register(fastifyEtag);
}
app.get("/repeating/:size", (request, reply) => {
  reply.type("text/plain").send(bodies.get(request.params.size));
});
await app.listen({ host: hostname, port: listenPort });
