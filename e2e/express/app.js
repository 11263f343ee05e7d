// A products API in Express. Express makes weak tags by itself, and strong
// ones if it is told to; it does not check If-Match.
import express from "express";

const app = express();
if (process.env.TAGS === "own") {
  app.set("etag", "strong");
}
app.use(express.json());

const products = new Map();
let lastId = 0;

app.get("/products", (req, res) => {
  res.json([...products.values()]);
});

app.post("/products", (req, res) => {
  const product = { id: ++lastId, name: req.body.name, price: req.body.price };
  products.set(product.id, product);
  res.status(201).json(product);
});

app.param("id", (req, res, next, id) => {
  req.product = products.get(Number(id));
  if (!req.product) {
    return res.status(404).json({ error: "no such product" });
  }
  next();
});

app.get("/products/:id", (req, res) => {
  res.json(req.product);
});

app.put("/products/:id", (req, res) => {
  req.product.name = req.body.name;
  req.product.price = req.body.price;
  res.json(req.product);
});

app.patch("/products/:id", (req, res) => {
  Object.assign(req.product, req.body);
  res.json(req.product);
});

app.delete("/products/:id", (req, res) => {
  products.delete(req.product.id);
  res.status(204).end();
});

app.listen(Number(process.env.PORT), "127.0.0.1");
