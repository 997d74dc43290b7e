"""Everything the algebra does not do is a typed refusal that names what it was given and says how to go on."""

import cmath
import operator
import re
from decimal import Decimal

import numpy as np
import pytest
import torch

import taskvec as tv
from models import CountingSource, raw, same
from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.errors import NonFiniteError, ParameterError, SchemaError, SpaceError, TaskVecError, UnknownName
from taskvec.vector import TaskVector

BASE = Checkpoint.from_tensors({"w": torch.tensor([1.0, 2.0]), "n": torch.tensor([1, 2])})
TUNED = Checkpoint.from_tensors({"w": torch.tensor([1.5, 0.0]), "n": torch.tensor([1, 2])})
TAU = TUNED - BASE
FREE = TaskVector.from_tensors({"w": torch.tensor([1.0, 1.0])})


def point(**tensors: torch.Tensor) -> Checkpoint:
    return Checkpoint.from_tensors(tensors)


# --- operations that do not exist ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operation", "message", "fix"),
    [
        (lambda: BASE + TUNED, "Checkpoint + Checkpoint is not defined: two points have no sum", "subtract the base"),
        (lambda: sum([BASE, TUNED]), "sum() of checkpoints is not defined", "sum task vectors"),
        (lambda: 2 * BASE, "a Checkpoint has no multiple: it is a point", "scale a task vector"),
        (lambda: BASE * 0.5, "a Checkpoint has no multiple", "scale a task vector"),
        (lambda: BASE / 2, "a Checkpoint has no multiple", "scale a task vector"),
        (lambda: 1 - BASE, "int - Checkpoint is not defined", "subtract two checkpoints"),
        (lambda: -BASE, "-Checkpoint is not defined: a point has no opposite", "negate a task vector"),
        (lambda: BASE + 1, "Checkpoint + int is not defined", "add a TaskVector"),
        (lambda: BASE - 1.0, "Checkpoint - float is not defined", "add a TaskVector"),
        (lambda: BASE + torch.ones(2), "Checkpoint + Tensor is not defined", "add a TaskVector"),
        (lambda: TAU + BASE, "TaskVector + Checkpoint is not defined", "write base + vector"),
        (lambda: TAU - BASE, "TaskVector - Checkpoint is not defined", "subtract two task vectors"),
        (lambda: TAU + 1, "TaskVector + int is not defined", "add two task vectors"),
        (lambda: 1 + TAU, "TaskVector + int is not defined", "add two task vectors"),
        (lambda: TAU + 0.0, "TaskVector + float is not defined", "add two task vectors"),
        (lambda: TAU + False, "TaskVector + bool is not defined", "add two task vectors"),
        (lambda: TAU - 1, "TaskVector - int is not defined", "subtract two task vectors"),
        (lambda: 1 - TAU, "int - TaskVector is not defined", "subtract two task vectors"),
        (lambda: TAU * TAU, "TaskVector * TaskVector is not defined", "scale by a single number"),
        (lambda: TAU / TAU, "TaskVector / TaskVector is not defined", "scale by a single number"),
        (lambda: 1 / TAU, "int / TaskVector is not defined", "divide the vector by a number"),
        (lambda: TAU * BASE, "TaskVector * Checkpoint is not defined", "scale by a single number"),
        (lambda: TAU * "2", "TaskVector * str is not defined", "scale by a single number"),
        (lambda: TAU * True, "TaskVector * bool is not defined", "scale by a single number"),
        (lambda: TAU * np.bool_(True), "TaskVector * bool is not defined", "scale by a single number"),
        (lambda: TAU * torch.tensor(True), "TaskVector * Tensor is not defined", "scale by a single number"),
        (lambda: TAU * None, "TaskVector * NoneType is not defined", "scale by a single number"),
        (lambda: TAU * 1j, "TaskVector * complex is not defined", "scale by a single number"),
        (lambda: TAU * torch.ones(1), "TaskVector * Tensor is not defined", "scale by a single number"),
        (lambda: TAU * [2], "TaskVector * list is not defined", "scale by a single number"),
        (lambda: TAU.dot(BASE), "dot of a TaskVector with Checkpoint is not defined", "give a TaskVector"),
    ],
)
def test_an_operation_that_does_not_exist_is_refused_with_a_fix(operation, message, fix):
    with pytest.raises(SpaceError, match=f"{re.escape(message)}[\\s\\S]*Fix: .*{re.escape(fix)}"):
        operation()


@pytest.mark.parametrize("name", ["pow", "floordiv", "mod", "matmul", "and_", "lt"])
def test_other_operators_are_type_errors(name):
    with pytest.raises(TypeError, match=r"not supported between|unsupported operand"):
        getattr(operator, name)(TAU, TAU)


def test_the_whole_message_of_the_sum_of_two_checkpoints():
    with pytest.raises(TypeError) as refused:
        BASE + TUNED
    assert str(refused.value) == (
        "Checkpoint + Checkpoint is not defined: two points have no sum.\n"
        "Fix: subtract the base first, e.g. base + (a - base) + (b - base)."
    )


# --- numbers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -cmath.inf, 10**400, np.float32("inf"), Decimal("sNaN")])
@pytest.mark.parametrize("operation", [operator.mul, operator.truediv])
def test_a_scale_has_to_be_finite(scale, operation):
    with pytest.raises(ParameterError, match=r"a task vector cannot be scaled by .{1,40}[.]\nFix: use a finite number"):
        operation(TAU, scale)


@pytest.mark.parametrize("zero", [0, 0.0, -0.0])
def test_division_by_zero_is_refused(zero):
    with pytest.raises(ParameterError, match="a task vector cannot be divided by 0"):
        TAU / zero


@pytest.mark.parametrize(
    "operation", [lambda: 1e200 * (1e200 * FREE), lambda: FREE / 1e-310 / 10, lambda: 1e308 * FREE + 1e308 * FREE]
)
def test_a_coefficient_beyond_float64_is_refused(operation):
    with pytest.raises(ParameterError, match="the coefficient of deltas in memory is beyond float64's range"):
        operation()


# --- models that do not fit together ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tuned", "message"),
    [
        (point(w=torch.ones(2)), r"tensor 'v' is in the base but not in the tuned model \(0 only in .*, 1 only in"),
        (
            point(w=torch.ones(2), v=torch.ones(1), u=torch.ones(1)),
            "tensor 'u' is in the tuned model but not in the base",
        ),
        (
            point(w=torch.ones(3), v=torch.ones(1)),
            r"tensor 'w' is F32\[3\] in the tuned model and F32\[2\] in the base",
        ),
        (point(w=torch.ones(2, 1), v=torch.ones(1)), r"tensor 'w' is F32\[2, 1\] in the tuned model and F32\[2\]"),
        (point(w=torch.ones(2).int(), v=torch.ones(1)), "tensor 'w' is I32 in the tuned model and F32 in the base"),
        (point(w=torch.ones(2), v=torch.ones(1).bool()), "tensor 'v' is BOOL in the tuned model and F32 in the base"),
    ],
)
def test_two_models_of_different_names_shapes_or_kinds_have_no_difference(tuned, message):
    with pytest.raises(SchemaError, match=message + r"[\s\S]*Fix: "):
        tuned - point(w=torch.zeros(2), v=torch.zeros(1))


@pytest.mark.parametrize("operation", [operator.add, operator.sub, TaskVector.dot], ids=lambda f: f.__name__)
def test_two_vectors_of_different_shapes_or_names_do_not_combine(operation):
    wider = point(w=torch.ones(3), n=torch.tensor([1, 2]))
    with pytest.raises(SchemaError, match=r"tensor 'w' is F32\[2\] in .* and F32\[3\] in"):
        operation(TAU, wider - wider)
    more = point(w=torch.ones(2), v=torch.ones(1))
    with pytest.raises(SchemaError, match=r"tensor 'v' is moved by .* and not known to"):
        operation(TAU, more - more)


@pytest.mark.parametrize(
    ("vector", "message"),
    [
        ({"x": torch.ones(2)}, "deltas in memory moves the tensor 'x', which the model in memory does not have"),
        ({"w": torch.ones(3)}, r"deltas in memory moves 'w' as F32\[3\]; in the model in memory it is F32\[2\]"),
        ({"n": torch.ones(2)}, r"deltas in memory moves 'n', which is I64\[2\] in the model in memory; only floating"),
    ],
)
def test_a_vector_that_does_not_fit_the_base_is_refused_before_anything_is_read(vector, message):
    with pytest.raises(SchemaError, match=message + r"[\s\S]*Fix: apply it to the base it was cut from"):
        BASE + TaskVector.from_tensors(vector)


def test_a_vector_that_leaves_out_a_tensor_of_the_base_is_refused():
    larger = point(w=torch.ones(2), v=torch.ones(1), n=torch.tensor([1, 2]))
    with pytest.raises(SchemaError, match=r"has the tensor 'v', which .* does not know"):
        larger + TAU


def test_integer_deltas_are_refused():
    with pytest.raises(SchemaError, match=r"delta 'n' is I64\[1\]; only floating-point tensors move"):
        TaskVector.from_tensors({"n": torch.ones(1, dtype=torch.int64)})


@pytest.mark.parametrize("wrong", [torch.tensor([1, 3]), torch.tensor([2, 2])])
def test_integers_that_differ_are_refused_where_they_are_read_or_written(wrong, tmp_path):
    tuned = point(w=torch.ones(2), n=wrong)
    message = r"tensor 'n' \(I64\[2\]\) differs between the tuned model and the base, and I64 tensors cannot move"
    for scale in (1, 0.5):
        edited = BASE + scale * (tuned - BASE)
        with pytest.raises(SchemaError, match=message):
            edited["n"]
        with pytest.raises(SchemaError, match=message):
            edited.save(tmp_path / "out.safetensors")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_tensor_suggests_the_nearest():
    with pytest.raises(UnknownName, match=r"does not move a tensor named 'ww'\.\nFix: did you mean 'w'\?"):
        TAU["ww"]


# --- another base ----------------------------------------------------------------------------------------------------


def other_base(tmp_path) -> tuple[Checkpoint, TaskVector]:
    """A base that differs in one bit, and a vector cut from it, both on disk."""
    for name, w in (("base", [1.0, 2.0]), ("other", [1.0, 2.0000002]), ("tuned", [5.0, 6.0])):
        point(w=torch.tensor(w)).save(tmp_path / f"{name}.safetensors")
    base, other, tuned = (Checkpoint.open(tmp_path / f"{n}.safetensors") for n in ("base", "other", "tuned"))
    return base, tuned - other


@pytest.mark.parametrize("scale", [1, 0.3, 0])
def test_a_vector_cut_from_another_base_is_refused_with_both_fingerprints(scale, tmp_path):
    base, vector = other_base(tmp_path)
    edited = base + scale * vector
    with pytest.raises(SchemaError, match="was cut from another base: tensor 'w' has the hash") as refused:
        edited["w"]
    assert str(vector.base_fingerprint) in str(refused.value)
    assert base.fingerprint() in str(refused.value)
    assert "vector.rebased()" in str(refused.value)
    with pytest.raises(SchemaError, match="was cut from another base"):
        edited.save(tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_what_was_added_from_another_base_is_refused_even_when_it_cancels(tmp_path):
    base, vector = other_base(tmp_path)
    own = Checkpoint.open(tmp_path / "tuned.safetensors") - base
    with pytest.raises(SchemaError, match="was cut from another base"):
        (base + (own + vector - vector))["w"]


def test_vectors_of_two_bases_whose_fingerprints_are_known_do_not_combine(tmp_path):
    base, vector = other_base(tmp_path)
    own = Checkpoint.open(tmp_path / "tuned.safetensors") - base
    first, second = base.fingerprint(), str(vector.base_fingerprint)
    for operation in (operator.add, operator.sub, TaskVector.dot):
        with pytest.raises(SchemaError, match=f"from two bases: .* from {first}, .* from {second}"):
            operation(own, vector)


def test_a_rebased_vector_applies_to_another_base_on_purpose(tmp_path):
    base, vector = other_base(tmp_path)
    assert (base + vector.rebased())["w"].tolist() == [5.0, torch.tensor(2.0).add(torch.tensor(3.9999998)).item()]


def test_a_base_that_differs_in_integers_only_is_another_base():
    other = point(w=torch.tensor([1.0, 2.0]), n=torch.tensor([1, 3]))
    edited = other + TAU
    edited["w"]
    with pytest.raises(SchemaError, match="was cut from another base: tensor 'n'"):
        edited["n"]


def test_a_partial_vector_of_a_smaller_base_is_refused_and_not_a_lookup_error():
    small = point(w=torch.ones(1))
    vector = TaskVector.from_tensors({"w": torch.ones(1)}, base=small)
    edited = point(w=torch.ones(1), v=torch.ones(1)) + vector
    with pytest.raises(SchemaError, match="was cut from another base: tensor 'v' has the hash none there"):
        edited["v"]


# --- NaN and Inf -----------------------------------------------------------------------------------------------------

BAD = [float("nan"), float("inf"), float("-inf")]
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64], ids=str)


def refuse_everywhere(edited: Checkpoint, message: str, tmp_path) -> None:
    with pytest.raises(NonFiniteError, match=message):
        edited["w"]
    with pytest.raises(NonFiniteError, match=message):
        edited.save(tmp_path / "out.safetensors")
    assert list(tmp_path.glob("out*")) == []


@dtypes
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("scale", [1, 0.5, 0])
def test_nan_or_inf_in_the_base_is_refused_naming_tensor_and_model(dtype, bad, scale, tmp_path):
    base, tuned = point(w=torch.tensor([1.0, bad], dtype=dtype)), point(w=torch.ones(2, dtype=dtype))
    edited = base + scale * (tuned - base)
    refuse_everywhere(edited, r"tensor 'w' has NaN or Inf in the base \(the model in memory\)[\s\S]*Fix: rep", tmp_path)


@dtypes
@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("scale", [1, 0.5])
def test_nan_or_inf_in_the_tuned_model_is_refused_naming_tensor_and_model(dtype, bad, scale, tmp_path):
    torch_model = {"w": torch.tensor([1.0, bad], dtype=dtype)}
    Checkpoint.from_tensors(torch_model).save(tmp_path / "tuned.safetensors", allow_nonfinite=True)
    tuned, base = tv.Checkpoint.open(tmp_path / "tuned.safetensors"), point(w=torch.ones(2, dtype=dtype))
    edited = base + scale * (tuned - base)
    refuse_everywhere(edited, r"tensor 'w' has NaN or Inf in the tuned model \('.*tuned\.safetensors'\)", tmp_path)


@pytest.mark.parametrize("bad", BAD)
def test_a_vector_with_nan_or_inf_has_no_values_norm_or_inner_product(bad):
    vector = TaskVector.from_tensors({"w": torch.tensor([1.0, bad])})
    with pytest.raises(NonFiniteError, match="the delta of tensor 'w' in deltas in memory is not finite in float32"):
        vector["w"]
    for other in (vector, FREE):
        with pytest.raises(NonFiniteError, match="the inner product of deltas in memory and deltas in memory is not"):
            vector.dot(other)
    with pytest.raises(NonFiniteError, match="tensor 'w' has NaN or Inf in deltas in memory"):
        (BASE + vector)["w"]


def test_inner_products_beyond_float64_are_refused_whatever_their_signs():
    huge = TaskVector.from_tensors({"w": torch.tensor([1e200, 1.0], dtype=torch.float64), "v": torch.ones(1)})
    with pytest.raises(NonFiniteError, match="inner product"):
        huge.norm()
    large = torch.tensor([1e154], dtype=torch.float64)
    assert TaskVector.from_tensors({"a": large}).norm() == 1e154
    for tensors in ({"a": large, "b": large}, {"a": large.repeat(70_000)}):
        with pytest.raises(NonFiniteError, match="inner product"):
            TaskVector.from_tensors(tensors).norm()
    up, down = (torch.tensor([x], dtype=torch.float64) for x in (1e200, -1e200))
    with pytest.raises(NonFiniteError, match="inner product"):
        TaskVector.from_tensors({"a": up, "b": up}).dot(TaskVector.from_tensors({"a": up, "b": down}))


@pytest.mark.parametrize(
    ("dtype", "large"),
    [(torch.float32, 3e38), (torch.bfloat16, 3e38), (torch.float16, 6e4), (torch.float8_e4m3fn, 400.0)],
    ids=str,
)
def test_a_result_beyond_the_range_of_its_dtype_is_refused_naming_both(dtype, large, tmp_path):
    base, tuned = point(w=torch.zeros(2).to(dtype)), point(w=torch.tensor([large, 0.0]).to(dtype))
    edited = base + 2 * (tuned - base)
    refuse_everywhere(edited, r"tensor 'w': base \+ delta is beyond the range of .*[\s\S]*Fix: use a smaller", tmp_path)
    edited.save(tmp_path / "wide.safetensors", dtype="float64")
    assert Checkpoint.open(tmp_path / "wide.safetensors")["w"].tolist() == [2 * float(tuned["w"][0]), 0.0]


def test_a_tuned_model_beyond_the_range_of_another_output_dtype_is_refused(tmp_path):
    base, tuned = point(w=torch.zeros(1)), point(w=torch.tensor([1e30]))
    with pytest.raises(NonFiniteError, match=r"tensor 'w': base [+] delta is beyond the range of F16"):
        (base + (tuned - base)).save(tmp_path / "out.safetensors", dtype="float16")


@dtypes
def test_non_finite_numbers_are_written_bit_for_bit_when_they_are_allowed(dtype, tmp_path):
    base = point(w=torch.tensor([float("nan"), 1.0, float("inf"), -0.0], dtype=dtype))
    tuned = point(w=torch.tensor([float("-inf"), float("nan"), 2.0, 0.0], dtype=dtype))
    (base + (tuned - base)).save(tmp_path / "tuned.safetensors", allow_nonfinite=True)
    (base + 0 * (tuned - base)).save(tmp_path / "base.safetensors", allow_nonfinite=True)
    assert same(Checkpoint.open(tmp_path / "tuned.safetensors")["w"], tuned["w"])
    assert same(Checkpoint.open(tmp_path / "base.safetensors")["w"], base["w"])
    (base + 0.5 * (tuned - base)).save(tmp_path / "half.safetensors", allow_nonfinite=True)
    assert torch.isfinite(Checkpoint.open(tmp_path / "half.safetensors")["w"]).tolist() == [False, False, False, True]


@pytest.mark.parametrize("dtype", ["int64", "bool", "float8_e8m0fnu"])
def test_a_model_is_not_written_in_a_dtype_that_holds_no_numbers_of_its_kind(dtype, tmp_path):
    with pytest.raises(ParameterError, match="is not a floating-point type"):
        BASE.save(tmp_path / "out.safetensors", dtype=dtype)


def test_refusals_of_values_read_no_more_than_the_first_bad_block():
    n = 1 << 20
    tensors = {"w": torch.ones(n)}
    tensors["w"][3] = float("nan")
    source = CountingSource(tensors)
    base = Checkpoint(source)
    with pytest.raises(NonFiniteError, match="tensor 'w'"):
        (base + TaskVector.from_tensors({"w": torch.zeros(n)}))["w"]
    assert source.read["w"] < n


def test_every_refusal_is_a_task_vec_error_with_its_two_sentences_apart():
    with pytest.raises(TaskVecError) as refused:
        TAU * TAU
    assert (refused.value.fact, refused.value.fix) == (
        "TaskVector * TaskVector is not defined.",
        "scale by a single number.",
    )
    assert raw(BASE["w"]) == raw(torch.tensor([1.0, 2.0]))
