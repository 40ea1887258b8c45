"""Axis groups: which indices of which axes of which tensors have to be cut together.

Every position of an axis carries a label. ``find`` gives each output of a layer a label of its own
and sends the labels on (``spread``), forwards and backwards, over the relations that tables of
operators state (``elementwise``, ``products``, ``movement``, ``reshapes``, ``reductions``,
``attention``; joined in ``tables``). Labels that meet at one position become one (``labels``).
A Reshape that folds axes is cut along one of them: where several would do, all are tried. A label
that reaches an axis in no relation, an input or an output of the model, or a sum of two
activations ends the matter with a code and a sentence. What is left is a group (``members``,
``describe``, ``groups``): for every tensor the positions that belong to each unit.

``sizes`` knows the sizes that exporters compute, ``taint`` where sizes of cut axes go, ``repairs``
what has to change besides tensors, and ``cut`` changes all of it through the ``Rewriter``.

Nothing is guessed: an operator that is in no table, or is used in a way that no table expects, is
a reason. Cutting equals multiplying by zero in all that reads the units (``consumes``), since every
relation is position by position along the axis; tests compare both on random graphs.
"""
