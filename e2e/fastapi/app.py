"""A products API in FastAPI.

With TAGS=own it has tags made from version numbers, and checks If-Match itself.
"""

import os

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Response
from pydantic import BaseModel

OWN_TAGS = os.environ.get("TAGS") == "own"


class Product(BaseModel):
    name: str
    price: float


class Change(BaseModel):
    name: str | None = None
    price: float | None = None


app = FastAPI()
products: dict[int, dict] = {}
versions: dict[int, int] = {}


def find(product_id: int) -> dict:
    if product_id not in products:
        raise HTTPException(404, "no such product")
    return products[product_id]


def tag(response: Response, product_id: int) -> None:
    if OWN_TAGS:
        response.headers["ETag"] = f'"{product_id}-{versions[product_id]}"'


def check(product_id: int, if_match: str | None) -> None:
    if not OWN_TAGS or if_match in (None, "*"):
        return
    if f'"{product_id}-{versions[product_id]}"' not in [member.strip() for member in if_match.split(",")]:
        raise HTTPException(412, "the product has another version")


@app.get("/products")
async def list_products() -> list[dict]:
    return list(products.values())


@app.post("/products", status_code=201)
async def create(product: Product) -> dict:
    product_id = len(versions) + 1
    versions[product_id] = 1
    products[product_id] = {"id": product_id, "name": product.name, "price": product.price}
    return products[product_id]


@app.get("/products/{product_id}")
async def read(product_id: int, response: Response) -> dict:
    product = find(product_id)
    tag(response, product_id)
    return product


@app.put("/products/{product_id}")
async def replace(product_id: int, product: Product, response: Response, if_match: str | None = Header(None)) -> dict:
    stored = find(product_id)
    check(product_id, if_match)
    stored.update(name=product.name, price=product.price)
    versions[product_id] += 1
    tag(response, product_id)
    return stored


@app.patch("/products/{product_id}")
async def change(product_id: int, change: Change, response: Response, if_match: str | None = Header(None)) -> dict:
    stored = find(product_id)
    check(product_id, if_match)
    for name in ("name", "price"):
        if getattr(change, name) is not None:
            stored[name] = getattr(change, name)
    versions[product_id] += 1
    tag(response, product_id)
    return stored


@app.delete("/products/{product_id}", status_code=204)
async def remove(product_id: int, if_match: str | None = Header(None)) -> None:
    find(product_id)
    check(product_id, if_match)
    del products[product_id]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), log_level="warning")
