"""Which measurements are planned for which options."""

from collections.abc import Callable

import pytest

from unichoir.benchmark.plan import BenchmarkOptions, Candidate, Cell, Variant, make_plan
from unichoir.errors import ConfigError
from unichoir.network.config import NAMED_CONFIGS


def named(*names: str) -> list[Candidate]:
    return [Candidate(name=name, model=NAMED_CONFIGS[name]) for name in names]


def int8(config: str) -> Variant:
    return Variant(config=config, engine="onnx", precision="int8")


TORCH = Variant(config="dense-225m", engine="torch", precision="fp32")
SHORT, LONG = Cell(kind="utterance", seconds=10.0), Cell(kind="utterance", seconds=60.0)


def test_default_plan_leaves_out_what_takes_long_and_says_so() -> None:
    plan = make_plan(named("dense-225m", "moe-1b", "dense-1b"), BenchmarkOptions())
    assert [variant.name for variant in plan.cells] == [
        "dense-225m torch fp32",
        "dense-225m onnx fp32",
        "dense-225m onnx int8",
        "moe-1b torch fp32",
        "moe-1b onnx int8",
        "moe-1b onnx int8, uniform load",
        "dense-1b torch fp32",
        "dense-1b onnx int8",
    ]
    assert LONG in plan.cells[int8("moe-1b")]
    assert LONG not in plan.cells[TORCH]
    left_out = "; ".join(plan.left_out)
    assert "moe-1b onnx fp32" in left_out
    assert "dense-1b onnx fp32" in left_out
    assert "utterances of 60 s and batches of 8" in left_out


def test_full_plan_leaves_out_nothing() -> None:
    plan = make_plan(named("dense-225m", "moe-1b"), BenchmarkOptions(full=True, memory_gb=100))
    assert not plan.left_out
    assert Variant(config="moe-1b", engine="onnx", precision="fp32") in plan.cells
    assert {LONG, Cell(kind="encoder", seconds=10.0, rows=8)} <= set(plan.cells[TORCH])


def test_few_variants_are_in_memory_at_a_time() -> None:
    plan = make_plan(named("dense-225m", "moe-1b", "dense-1b"), BenchmarkOptions())
    first, *others = plan.sessions()
    trained = {each for each in plan.cells if each.precision == "int8" and each.load == "trained"}
    assert {variant for variant, _ in first.work} == trained
    assert set(first.ends) == {int8("dense-225m"), int8("dense-1b")}
    guests = [each for each in plan.cells if each not in trained]
    assert [{variant for variant, _ in session.work} - trained for session in others] == [{each} for each in guests]
    ended = [variant for session in plan.sessions() for variant in session.ends]
    assert sorted(map(repr, ended)) == sorted(map(repr, plan.cells))
    for session, later in zip(plan.sessions(), others, strict=False):
        assert not {variant for variant, _ in later.work} & set(session.ends)


def test_what_is_compared_is_measured_side_by_side() -> None:
    (session,) = [
        session
        for session in make_plan(named("dense-225m", "moe-1b"), BenchmarkOptions()).sessions()
        if any(variant == TORCH for variant, _ in session.work)
    ]
    places = [session.work.index(each) for each in ((int8("moe-1b"), SHORT), (TORCH, SHORT))]
    assert abs(places[0] - places[1]) == 1
    # Only what is compared is repeated.
    assert [cell for variant, cell in session.work if variant == int8("moe-1b")] == [SHORT]


def test_comparisons_of_what_is_measured() -> None:
    titles = [each.title for each in make_plan(named("dense-225m", "moe-1b"), BenchmarkOptions()).comparisons]
    assert titles == [
        "moe-1b onnx int8 / dense-225m torch fp32: 10 s",
        "moe-1b onnx int8 / dense-225m onnx int8: 10 s",
        "moe-1b onnx int8 / dense-225m onnx int8: 60 s",
        "moe-1b onnx int8 / moe-1b torch fp32: chunk of 0.64 s",
        "dense-225m onnx int8: each of 16 streams / 1 stream",
        "moe-1b onnx int8: each of 16 streams / 1 stream",
        "moe-1b onnx int8 / moe-1b onnx int8, uniform load: encoder, 10 s",
    ]
    titles = [each.title for each in make_plan(named("dense-225m", "moe-1b-fine"), BenchmarkOptions()).comparisons]
    assert titles == [
        "moe-1b-fine onnx int8 / dense-225m onnx int8: 10 s",
        "moe-1b-fine onnx int8 / dense-225m onnx int8: 60 s",
        "dense-225m onnx int8: each of 16 streams / 1 stream",
        "moe-1b-fine onnx int8: each of 16 streams / 1 stream",
        "moe-1b-fine onnx int8 / moe-1b-fine onnx int8, uniform load: encoder, 10 s",
    ]
    options = BenchmarkOptions(engines=("onnx",), precisions=("int8",), seconds=(60.0,), batch=(), chunk_size=0)
    titles = [each.title for each in make_plan(named("dense-225m", "moe-1b-fine"), options).comparisons]
    assert titles == [
        "moe-1b-fine onnx int8 / dense-225m onnx int8: 60 s",
        "moe-1b-fine onnx int8 / moe-1b-fine onnx int8, uniform load: encoder, 60 s",
    ]


def test_a_model_that_cannot_stream_is_not_asked_to(tiny: Callable[..., Candidate]) -> None:
    plan = make_plan([tiny(conv_causal=False)], BenchmarkOptions())
    assert {cell.kind for cells in plan.cells.values() for cell in cells} == {"utterance", "encoder"}


def test_torch_is_left_out_where_only_int8_is_wanted(tiny: Callable[..., Candidate]) -> None:
    plan = make_plan([tiny()], BenchmarkOptions(precisions=("int8",)))
    assert {variant.engine for variant in plan.cells} == {"onnx"}
    assert "torch" in plan.left_out[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"engines": ("onnx", "tensorrt")}, "unknown engine 'tensorrt' .*torch, onnx"),
        ({"precisions": ("int4",)}, "unknown precision 'int4' .*fp32, int8"),
        ({"engines": ()}, "unknown engine"),
        ({"engines": ("torch",), "precisions": ("int8",)}, "for int8 the engine must be onnx"),
        ({"seconds": (0.5,)}, "at least 1 s"),
        ({"streams": (0,)}, "streams"),
    ],
)
def test_options_that_make_no_sense(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        BenchmarkOptions(**changes)


def test_too_little_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"preparing moe-1b needs about .* GB, more than the 3 GB"):
        make_plan(named("moe-1b"), BenchmarkOptions(memory_gb=3))
    many = [Candidate(name=f"copy{number}", model=NAMED_CONFIGS["dense-1b"]) for number in range(10)]
    with pytest.raises(ConfigError, match="side by side"):
        make_plan(many, BenchmarkOptions(engines=("onnx",), precisions=("int8",)))
