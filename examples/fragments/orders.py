"""One page in four forms: pushserver serve examples/fragments/orders.py; http://localhost:8080/."""

from itertools import count
from pathlib import Path
from random import choice, randint

from pushserver import PushServer

HERE = Path(__file__).parent
GOODS = ["Tea", "Coffee", "Milk & honey", "Bread", "<b>Cake</b>"]

app = PushServer(templates=HERE / "templates", static=HERE / "static", pages=HERE / "files")
numbers = count(1)


@app.source("orders", every=3, event="order", template="order.html")
def order():
    return {"item": choice(GOODS), "pieces": randint(1, 9), "note": f"No. {next(numbers)}"}
