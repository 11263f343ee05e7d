// The bodies that every server sends, and what it was told to do.

const digits = "0123456789abcdef";

export const bodies = new Map(
  [1 << 10, 64 << 10, 1 << 20].map((size) => [
    String(size),
    Array.from({ length: size }, (_, i) => digits[(i * 7) % 16]).join(""),
  ]),
);

export const etag = process.env.ETAG_BENCH_ETAG === "on";

const [hostname, port] = process.env.ETAG_BENCH_ADDRESS.split(":");
export { hostname };
export const listenPort = Number(port);
