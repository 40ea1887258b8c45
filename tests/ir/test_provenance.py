"""What a written model still says of where its nodes came from."""

from __future__ import annotations

import onnx_ir as ir

from planish.ir.provenance import ORIGIN_KEY, without_implied_origins

TEXT = """
<ir_version: 9, opset_import: ["" : 17]>
g (float[2] x) => (float[2] z) {
    y = Relu (x)
    z = Neg (y)
}
"""


def test_only_nodes_that_stand_for_others_keep_their_origin() -> None:
    model = ir.from_onnx_text(TEXT)
    own, other = model.graph
    own.name, other.name = "first", "second"
    own.metadata_props[ORIGIN_KEY] = "first"
    other.metadata_props[ORIGIN_KEY] = "first|gone"
    own.metadata_props["another"] = "kept"
    with without_implied_origins(model):
        assert list(own.metadata_props) == ["another"]
        assert other.metadata_props[ORIGIN_KEY] == "first|gone"
    assert list(own.metadata_props) == [ORIGIN_KEY, "another"]
