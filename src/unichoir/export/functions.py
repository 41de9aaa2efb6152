"""Functions of int8 layers in exported graphs.

A graph calls each int8 layer as one node of the domain `unichoir`. The body of the function says what the node
computes, in operators of ONNX and ONNX Runtime, so the graph runs anywhere. Where the library of `unichoir/native` is
available, its kernels compute the nodes instead.

    Linear_<codes>[_<activation>]   x (..., K), weight (K, M), scale (M), bias (M): (..., M), or half of it with glu
    Experts_<activation>            x (N, D), gates (N, K), experts (N, K), scale_1 (E, H), bias_1 (E, H),
                                    scale_2 (E, D), bias_2 (E, D), E times w_1 (D, H), E times w_2 (H, D): (N, D)
"""

import onnx_ir as ir
from onnx import parser

from unichoir.export.quantize import ZERO_POINT, least_peak, peak_to_scale

DOMAIN = "unichoir"
OPSET = 18
LINEAR, EXPERTS = "Linear", "Experts"
WEIGHTS_OF_EXPERTS = 7
"""The number of the first weight among the inputs of `Experts`."""
_ACTIVATIONS = {
    "": "{y} = Identity ({x})",
    "swish": "{y} = com.microsoft.QuickGelu <alpha: float = 1.0> ({x})",
    "gelu": "{y} = com.microsoft.Gelu ({x})",
    "relu": "{y} = Relu ({x})",
    "glu": """
        value, gate = Split <axis: int = -1, num_outputs: int = 2> ({x})
        opening = Sigmoid (gate)
        {y} = Mul (value, opening)""",
}


def linear_name(codes: str, activation: str = "") -> str:
    """Return the name of a linear layer whose input has `codes` and whose output passes through `activation`."""
    return "_".join([LINEAR, codes, *([activation] if activation else [])])


def add_functions(model: ir.Model) -> None:
    """Add the functions that the graph calls to `model`."""
    for node in model.graph:
        key = (DOMAIN, node.op_type, "")
        if node.domain != DOMAIN or key in model.functions:
            continue
        kind, *variant = node.op_type.split("_")
        num_experts = (len(node.inputs) - WEIGHTS_OF_EXPERTS) // 2
        text = _experts(num_experts, *variant) if kind == EXPERTS else _linear(*variant)
        model.functions[key] = ir.serde.deserialize_function(parser.parse_function(text))
    if model.functions:
        model.graph.opset_imports.update({DOMAIN: 1, "com.microsoft": 1})


def _linear(codes: str, activation: str = "") -> str:
    return _function(
        linear_name(codes, activation),
        "x, weight, scale, bias",
        f"""
        {_quantize("x", codes, "q", "s")}
        {_product("q", "s", codes, "weight", "scale", "bias", "z")}
        {_ACTIVATIONS[activation].format(y="y", x="z")}""",
    )


def _experts(num_experts: int, activation: str) -> str:
    """Return the text for experts.

    The copies of the frames are sorted by expert, as in `network.dispatch`. Copies that belong to no expert have the
    number E and come last; their results are zeros.
    """
    each = range(num_experts)

    def layer(number: int, codes: str, size: str, y: str) -> str:
        """Multiply the rows of every expert by its weights; q and s are the codes and scales of all rows."""
        rows, scales = (", ".join(f"{name}_{number}_{e}" for e in [*each, "rest"]) for name in "qs")
        outputs = ", ".join(f"y_{number}_{e}" for e in each)
        products = "".join(product(f"{number}_{e}", e, number, codes) for e in each)
        return f"""
        {rows} = Split <axis: int = 0> (q_{number}, counts)
        {scales} = Split <axis: int = 0> (s_{number}, counts)
        {products}
        sizes_{number} = Concat <axis: int = 0> (rest, {size})
        nothing_{number} = Expand (nought, sizes_{number})
        {y} = Concat <axis: int = 0> ({outputs}, nothing_{number})"""

    def product(i: str, e: int, number: int, codes: str) -> str:
        return f"""
        number_{i} = Constant <value = int64 {{{e}}}> ()
        scale_{i} = Gather <axis: int = 0> (scale_{number}, number_{i})
        bias_{i} = Gather <axis: int = 0> (bias_{number}, number_{i})
        {_product(f"q_{i}", f"s_{i}", codes, f"w_{i}", f"scale_{i}", f"bias_{i}", f"y_{i}")}"""

    weights = [f"w_{number}_{e}" for number in (1, 2) for e in each]
    numbers = ", ".join(map(str, range(num_experts + 1)))
    return _function(
        f"{EXPERTS}_{activation}",
        ", ".join(["x, gates, experts, scale_1, bias_1, scale_2, bias_2", *weights]),
        f"""
        nought = Constant <value = float {{0.0}}> ()
        first = Constant <value = int64 {{0}}> ()
        step = Constant <value = int64 {{1}}> ()
        rows = Constant <value = int64[1] {{0}}> ()
        columns = Constant <value = int64[1] {{1}}> ()
        numbers = Constant <value = int64[{num_experts + 1}] {{{numbers}}}> ()
        expert = Reshape (experts, last)
        expert_column = Unsqueeze (expert, columns)
        is_chosen = Equal (expert_column, numbers)
        chosen = Cast <to: int = 7> (is_chosen)
        seen = CumSum (chosen, first)
        counts = ReduceSum <keepdims: int = 0> (chosen, rows)
        begins = CumSum <exclusive: int = 1> (counts, first)
        begin = Gather (begins, expert)
        seen_of_expert = GatherElements <axis: int = 1> (seen, expert_column)
        seen_row = Squeeze (seen_of_expert, columns)
        end = Add (begin, seen_row)
        place = Sub (end, step)
        copies = Shape (expert)
        count = Squeeze (copies)
        copy = Range (first, count, step)
        top_k = Shape <start: int = 1, end: int = 2> (experts)
        frame = Div (copy, top_k)
        unsorted = ConstantOfShape <value = int64[1] {{0}}> (copies)
        source = ScatterElements <axis: int = 0> (unsorted, place, frame)
        number_of_none = Constant <value = int64[1] {{{num_experts}}}> ()
        rest = Gather (counts, number_of_none)
        hidden_size = Shape <start: int = 1, end: int = 2> (scale_1)
        size = Shape <start: int = 1, end: int = 2> (scale_2)
        {_quantize("x", "symmetric", "q", "s")}
        q_1 = Gather (q, source)
        s_1 = Gather (s, source)
        {layer(1, "symmetric", "hidden_size", "sums")}
        {_ACTIVATIONS[activation].format(y="units", x="sums")}
        {_quantize("units", activation, "q_2", "s_2")}
        {layer(2, activation, "size", "outputs")}
        sizes = Shape (experts)
        all_sizes = Concat <axis: int = 0> (sizes, size)
        outputs_of_copies = Gather (outputs, place)
        outputs_of_frames = Reshape <allowzero: int = 1> (outputs_of_copies, all_sizes)
        gates_column = Unsqueeze (gates, last)
        gated = Mul (outputs_of_frames, gates_column)
        y = ReduceSum <keepdims: int = 0> (gated, columns)""",
    )


def _function(name: str, inputs: str, body: str) -> str:
    zeros = "\n".join(f"zero_{codes} = Constant <value = uint8 {{{zero}}}> ()" for codes, zero in ZERO_POINT.items())
    return f"""
    <domain: "{DOMAIN}", opset_import: ["": {OPSET}, "com.microsoft": 1]>
    {name} ({inputs}) => (y) {{
        one = Constant <value = float {{1.0}}> ()
        last = Constant <value = int64[1] {{-1}}> ()
        {zeros}
        {body}
    }}"""


def _quantize(x: str, codes: str, q: str, s: str) -> str:
    """Return the text for q and s, codes and scales of the frames x, as in `quantize.quantize_frames`.

    QuantizeLinear with a scale per frame would include the division, but requires frames in rows and one zero point per
    frame. That takes more nodes, which dominate the time with few frames.
    """
    return f"""
        {q}_values = {"Abs" if codes == "symmetric" else "Identity"} ({x})
        {q}_peak = ReduceMax <keepdims: int = 1> ({q}_values, last)
        {q}_least = Constant <value = float {{{least_peak(codes)}}}> ()
        {q}_range = Max ({q}_peak, {q}_least)
        {q}_factor = Constant <value = float {{{peak_to_scale(codes)}}}> ()
        {s} = Mul ({q}_range, {q}_factor)
        {q}_steps = Div ({x}, {s})
        {q} = QuantizeLinear ({q}_steps, one, zero_{codes})"""


def _product(q: str, s: str, codes: str, weight: str, scale: str, bias: str, y: str) -> str:
    """Return the text for y, as in `quantize.product`."""
    return f"""
        {y}_sums = com.microsoft.MatMulIntegerToFloat ({q}, {weight}, one, {scale}, zero_{codes})
        {y}_scaled = Mul ({y}_sums, {s})
        {y} = Add ({y}_scaled, {bias})"""
