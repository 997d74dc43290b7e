"""The layout: roles and splits, decided once, printable, and overridable by a strict file."""

import json

import pytest
import torch

from taskvec.checkpoint.checkpoint import Checkpoint
from taskvec.checkpoint.layout import Layout
from taskvec.checkpoint.roles import Split
from taskvec.checkpoint.source import TensorSpec
from taskvec.errors import ParameterError, UnknownName
from taskvec.ops.dtypes import dtype_of

SHAPES = {
    "wte.weight": (50, 4),
    "h.0.attn.c_attn.weight": (4, 12),
    "h.0.attn.c_attn.bias": (12,),
    "h.1.attn.c_attn.weight": (4, 9),
    "visual.attn.in_proj_weight": (12, 4),
    "blocks.0.attn.qkv.weight": (12, 4),
    "grouped.qkv.weight": (18, 6),
    "attention.query_key_value.weight": (12, 4),
    "conv.weight": (8, 3, 3, 3),
    "row.weight": (1, 8),
    "logit_scale": (),
    "empty.weight": (0, 4),
}
SPECS = {n: TensorSpec(s, dtype_of("F32")) for n, s in SHAPES.items()} | {
    "position_ids": TensorSpec((4, 4), dtype_of("I64")),
    "mask": TensorSpec((4, 4), dtype_of("BOOL")),
}


def written(tmp_path, text):
    path = tmp_path / "layout.yml"
    path.write_text(text)
    return path


def test_roles_come_from_shape_and_dtype_alone():
    layout = Layout.of(SPECS)
    assert layout.names("skip") == ["position_ids", "mask"]
    assert layout.names("other") == ["h.0.attn.c_attn.bias", "conv.weight", "row.weight", "logit_scale", "empty.weight"]
    assert len(layout.names("matrix")) == 7
    assert list(layout) == list(SPECS)
    assert all(layout[name].split is None for name in layout)


def test_fused_projections_are_split_when_asked_for_and_when_the_parts_are_square():
    layout = Layout.of(SPECS, splits="fused-qkv")
    assert {n: str(layout[n].split) for n in layout if layout[n].split} == {
        "h.0.attn.c_attn.weight": "columns 3",
        "visual.attn.in_proj_weight": "rows 3",
        "blocks.0.attn.qkv.weight": "rows 3",
        "grouped.qkv.weight": "rows 3",
    }


@pytest.mark.parametrize(("axis", "shape"), [("rows", (12, 5)), ("columns", (5, 12))])
def test_the_pieces_of_a_split_put_together_are_the_matrix(axis, shape):
    matrix = torch.randn(shape)
    pieces = [matrix[index] for index in Split(axis, 3).pieces(shape)]
    assert len({p.shape for p in pieces}) == 1
    assert torch.equal(torch.cat(pieces, dim=0 if axis == "rows" else 1), matrix)


def test_a_split_of_gpt2_gives_the_projections_of_its_own_code():
    matrix = torch.randn(4, 12)
    query, key, value = (matrix[i] for i in Split("columns", 3).pieces(matrix.shape))
    hidden = torch.randn(2, 4)
    for ours, theirs in zip((query, key, value), (hidden @ matrix).split(4, dim=1), strict=True):
        torch.testing.assert_close(hidden @ ours, theirs)


def test_a_file_overrides_roles_and_splits_and_the_first_pattern_decides(tmp_path):
    text = """
roles:
  wte.weight: other       # an embedding
  "*row*": other
  "h.0.*": skip
  "h.*": other
splits:
  "blocks.*": rows 6
  "visual*in_proj_weight": none
"""
    layout = Layout.of(SPECS, written(tmp_path, text), splits="fused-qkv")
    assert layout["wte.weight"].role == "other"
    assert [layout[f"h.{i}.attn.c_attn.weight"].role for i in (0, 1)] == ["skip", "other"]
    assert layout["blocks.0.attn.qkv.weight"].split == Split("rows", 6)
    assert layout["visual.attn.in_proj_weight"].split is None
    assert layout["grouped.qkv.weight"].split == Split("rows", 3)


def test_a_file_may_name_the_splits(tmp_path):
    path = written(tmp_path, "splits: fused-qkv\n")
    assert Layout.of(SPECS, path)["visual.attn.in_proj_weight"].split == Split("rows", 3)
    assert Layout.of(SPECS, path, splits="none")["visual.attn.in_proj_weight"].split is None


def test_an_empty_file_changes_nothing(tmp_path):
    assert Layout.of(SPECS, written(tmp_path, "# nothing\n")) == Layout.of(SPECS)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("role:\n  a: skip\n", r"layout\.yml', line 1: unknown key 'role'\.\nFix: did you mean 'roles'\?"),
        ("roles:\n  wte.weight: matrx\n", r"line 2: no role named 'matrx'\.\nFix: did you mean 'matrix'\?"),
        ("roles:\n  wte.weight: {a: b}\n", r"line 2: no role named 'a table'"),
        (
            "\n\nroles:\n  wte.wieght: other\n",
            r"line 4: the pattern 'wte\.wieght' fits no tensor\.\nFix: .*'wte\.weight'",
        ),
        ('roles:\n  "x*": other\n', r"line 2: the pattern 'x\*' fits no tensor"),
        (
            "roles:\n  conv.weight: matrix\n",
            r"line 2: tensor 'conv\.weight' is F32\[8, 3, 3, 3\] and cannot .* role matrix",
        ),
        ("roles:\n  mask: other\n", r"line 2: tensor 'mask' is BOOL\[4, 4\] and cannot have the role other"),
        ("roles:\n  mask: skip\n  mask: skip\n", r"line 3: the key 'mask' occurs twice"),
        ("roles:\n  - mask\n", r"line 1: 'roles' is not a table from patterns to values"),
        ("roles: all\n", r"line 1: 'roles' is not a table"),
        ("roles:\n  ? [a, b]\n  : skip\n", r"line 2: a key must be a name"),
        ("splits: fused-kqv\n", r"line 1: no splits named 'fused-kqv'\.\nFix: did you mean 'fused-qkv'\?"),
        (
            "splits:\n  wte.weight: rows 3\n",
            r"line 2: tensor 'wte\.weight' is F32\[50, 4\] and cannot be split into rows 3",
        ),
        ("splits:\n  wte.weight: rows 0\n", r"line 2: 'rows 0' is not a split"),
        ("splits:\n  wte.weight: row 2\n", r"line 2: 'row 2' is not a split\.\nFix: did you mean 'rows 3'\?"),
        ("splits:\n  conv.weight: rows 2\n", r"line 2: tensor 'conv\.weight' is .* and cannot be split"),
        ("- a\n", r"is not a table"),
        ("roles: [\n", r"is not valid YAML: .*line 2"),
        ("roles:\n  !!python/object/apply:os.system ['true']: skip\n", "line 2: a key must be a name"),
        ("\0", "is not valid YAML"),
    ],
)
def test_what_a_file_cannot_mean_is_refused_with_its_line(text, message, tmp_path):
    with pytest.raises(ParameterError, match=message):
        Layout.of(SPECS, written(tmp_path, text))


def test_a_missing_or_binary_file_is_refused(tmp_path):
    with pytest.raises(ParameterError, match=r"gone\.yml' cannot be read"):
        Layout.of(SPECS, tmp_path / "gone.yml")
    (tmp_path / "b.yml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ParameterError, match=r"b\.yml' cannot be read"):
        Layout.of(SPECS, tmp_path / "b.yml")


def test_unknown_splits_and_names_are_refused():
    with pytest.raises(ParameterError, match=r"no splits named 'qkv'\.\nFix: known: none, fused-qkv"):
        Layout.of(SPECS, splits="qkv")
    with pytest.raises(UnknownName, match=r"no tensor named 'wte' in the layout"):
        Layout.of(SPECS)["wte"]


def test_a_layout_cannot_be_changed():
    layout = Layout.of(SPECS)
    with pytest.raises(AttributeError):
        layout.places = {}
    with pytest.raises(TypeError):
        layout.places["wte.weight"] = layout["mask"]


def test_a_layout_prints_as_a_table_and_as_json():
    layout = Layout.of({n: SPECS[n] for n in ("visual.attn.in_proj_weight", "mask")}, splits="fused-qkv")
    assert str(layout) == (
        "name                        tensor      role    split\n"
        "visual.attn.in_proj_weight  F32[12, 4]  matrix  rows 3\n"
        "mask                        BOOL[4, 4]  skip"
    )
    assert json.loads(layout.to_json()) == {
        "layout": [
            {
                "name": "visual.attn.in_proj_weight",
                "shape": [12, 4],
                "dtype": "F32",
                "role": "matrix",
                "split": "rows 3",
            },
            {"name": "mask", "shape": [4, 4], "dtype": "BOOL", "role": "skip", "split": None},
        ]
    }


def test_a_checkpoint_has_a_layout(tmp_path):
    checkpoint = Checkpoint.from_tensors({"in_proj_weight": torch.zeros(6, 2), "b": torch.zeros(3)})
    assert checkpoint.layout().names("matrix") == ["in_proj_weight"]
    assert checkpoint.layout(splits="fused-qkv")["in_proj_weight"].split == Split("rows", 3)
    assert checkpoint.layout(written(tmp_path, "roles: {b: skip}"))["b"].role == "skip"
