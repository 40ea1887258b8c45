from __future__ import annotations

from random import Random

import onnx_ir as ir
import pytest

from planish.ir.editing.order import Order


def empty(count: int = 0) -> tuple[ir.Graph, list[ir.Node]]:
    nodes = [ir.node("Relu", [], name=f"n{i}") for i in range(count)]
    return ir.Graph([], [], nodes=nodes), nodes


@pytest.mark.parametrize("start", [0, 1, 5])
def test_the_order_is_that_of_the_graph_whatever_comes_and_goes(start: int) -> None:
    random, (graph, nodes) = Random(start), empty(start)
    order = Order(graph)
    for step in range(400):
        if nodes and random.random() < 0.4:
            node = nodes.pop(random.randrange(len(nodes)))
            graph.remove(node)
            order.remove(node)
        else:
            place, node = random.randint(0, len(nodes)), ir.node("Neg", [], name=f"m{step}")
            follower = nodes[place] if place < len(nodes) else None
            graph.append(node) if follower is None else graph.insert_before(follower, node)
            nodes.insert(place, node)
            order.insert(node, follower)
        assert len(order) == len(nodes)
        assert nodes == list(graph) == sorted(nodes, key=order.number)
        assert [order.follower(n) for n in nodes] == [*nodes[1:], None][: len(nodes)]


def test_there_is_always_room_at_one_place() -> None:
    graph, (first, last) = empty(2)
    order = Order(graph)
    made = [ir.node("Neg", [], name=f"m{i}") for i in range(1000)]
    for node in made:
        graph.insert_before(last, node)
        order.insert(node, last)
    assert sorted([last, *made, first], key=order.number) == [first, *made, last]
    assert order.before(made[-1], last)
    assert not order.before(made[-1], made[-2])
