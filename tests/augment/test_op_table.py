"""The op table, and ops that a user names as `package.module:attribute`."""

import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image, ImageFilter

from kdaug_jax import augment
from kdaug_jax.augment import Colours, Op, apply_ops, policies
from kdaug_jax.augment.engine import build_table
from kdaug_jax.augment.ops.table import KERNELS, LUT_SOURCES, OPS, SQUARES
from kdaug_jax.errors import ArgumentError, ConfigError
from kdaug_jax.experiment import views
from tests.augment.drawn import draw_many
from tests.augment.images import photographs, through_pillow

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
SIZE = (12, 10)
IMAGES = photographs(8, *SIZE)[:4]
FILL = np.array([9, 8, 7], np.uint8)


@pytest.fixture
def examples(monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))


def engine(*ops, images=IMAGES, fill=FILL):
    """Applies each op to the image of its number."""
    images, table = images[: len(ops)], build_table(ops, SIZE)
    op_ids = np.arange(len(ops), dtype=np.int32)[:, None]
    offsets = np.zeros((len(ops), 1, 2), np.uint32)
    return np.asarray(apply_ops(images, op_ids, offsets, table, Colours(fill, fill)))


def user_module(tmp_path, monkeypatch, name, text):
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_rows_name_their_function_and_kernels():
    for name, row in OPS.items():
        assert getattr(augment, name, row.function) is row.function, name
        assert set(row.kernels) <= set(KERNELS) and row.lut_source in LUT_SOURCES
    assert SQUARES == ("cutout", "erase_square", "cutout_fast")


def test_the_table_is_described():
    text = augment.describe_ops()
    assert len(text.splitlines()) == 2 + len(OPS)
    assert "| `posterize` | bits kept | a whole number 0..8 |  | yes |" in text
    assert "| `equalize` |  |  | looks at the image | yes |" in text


@pytest.mark.parametrize(
    "op, message",
    [
        (Op("invert", 3), "invert has value 3; it takes none"),
        (Op("solarize"), "solarize has value None; must be a number 0..256 .threshold"),
        (Op("posterize", 2.5), "posterize has value 2.5; must be a whole number 0..8 .bits"),
        (Op("rotate", float("nan")), "rotate has value nan; must be a number .degrees"),
        (Op("color", -1.0), "color has value -1.0; must be a number of 0 or more .factor"),
        (Op("equalise"), "unknown op 'equalise'; did you mean equalize"),
        (Op("ops_stencil:edge"), "ops_stencil has no 'edge'; did you mean edge_enhance"),
        (Op("ops_stencil:np"), "op ops_stencil:np is a module; must be a function"),
        (Op("no_such_module:op"), "there is no module 'no_such_module'"),
        (Op("ops_geometric:SCALE_X", 0.5), "SCALE_X has value 0.5; must be a number -0.4..0.4"),
    ],
)
def test_ops_and_values_are_validated(examples, op, message):
    with pytest.raises(ArgumentError, match=message):
        build_table((op,), SIZE)


def test_the_stencil_example_is_pillow_alone_in_the_engine_and_in_a_policy(examples):
    import ops_stencil

    expected = through_pillow(lambda image: image.filter(ImageFilter.EDGE_ENHANCE), IMAGES)
    np.testing.assert_array_equal([ops_stencil.edge_enhance(image) for image in IMAGES], expected)
    op = Op("ops_stencil:edge_enhance")
    np.testing.assert_array_equal(engine(op, op, op, op), expected)
    rgba = np.concatenate([IMAGES, IMAGES[..., :1]], axis=3)
    made = engine(op, images=rgba, fill=np.append(FILL, FILL[:1]))
    np.testing.assert_array_equal(made[0], ops_stencil.edge_enhance(rgba[0]))
    policy = policies.randaugment(1, 9, ops=(op.name,), size=SIZE)
    assert policy.ops == (policies.IDENTITY, op)
    # Through a view, as a config names it.
    apply = views.build_augment(f"randaugment(1, 9, ops=('{op.name}',))")
    keys = jax.random.split(jax.random.key(0), len(IMAGES))
    np.testing.assert_array_equal(apply(keys, IMAGES), expected)


def test_the_geometric_example_moves_pixels_as_pillow(examples):
    import ops_geometric

    name = "ops_geometric:SCALE_X"

    def pillow(method, share):
        matrix = ops_geometric.scale_x_matrix(share, *SIZE)
        return lambda image: image.transform(
            image.size, Image.Transform.AFFINE, matrix, method, fillcolor=tuple(FILL.tolist())
        )

    ops = (Op(name, 0.3), Op(name, -0.2), Op(name, 0.3, "bilinear"), Op(name, 0.0))
    made = engine(*ops, Op("ops_geometric:flip_y"), images=np.repeat(IMAGES[:1], 5, axis=0))
    expected = [
        through_pillow(pillow(Image.Resampling[op.resample.upper()], op.value), IMAGES[:1])[0]
        for op in ops
    ]
    np.testing.assert_array_equal(made, [*expected, IMAGES[0, ::-1]])
    np.testing.assert_array_equal(
        ops_geometric.SCALE_X.function(IMAGES[0], 0.3, FILL, "bilinear"), expected[2]
    )
    # Levels reach the end of the range, with either sign; the traced magnitude picks them.
    policy = policies.randaugment(1, 15, ops=(name, "Rotate"), size=SIZE)
    rows = draw_many(policy, 200, m=np.int32(30))
    drawn = {policy.ops[row].value for row in rows.ravel() if policy.ops[row].name == name}
    assert drawn == {0.4, -0.4}


@pytest.mark.parametrize("name", ["ops_stencil", "ops_geometric"])
def test_the_examples_run(examples, capsys, name):
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert capsys.readouterr().out.endswith("% of the values changed\n")


def test_functions_get_the_level(tmp_path, monkeypatch):
    module = user_module(tmp_path, monkeypatch, "ops_levels", """
import jax.numpy as jnp
def darken(image, level):
    return (image.astype(jnp.float32) * (1 - level)).astype(jnp.uint8)
""")
    policy = policies.randaugment(1, 15, ops=(f"{module}:darken",), size=SIZE)
    assert [op.value for op in policy.ops[1:]] == [level / 30 for level in range(31)]
    keys = jax.random.split(jax.random.key(0), len(IMAGES))
    made = augment.apply_policy(policy, keys, np.full_like(IMAGES, 200), 0)
    assert np.asarray(made == 100).all()


WRONG = """
import jax.numpy as jnp
def floats(image): return image / 255
def cropped(image): return image[1:]
def nothing(image): pass
def buggy(image): raise ValueError("operands could not be broadcast")
def missing(image, level): return image[jnp.array([[0]])] + {}["x"]
"""


@pytest.mark.parametrize(
    "op, message",
    [
        ("floats", r"returned float32\[12,10,3\]; must return uint8\[12,10,3\]"),
        ("cropped", r"returned uint8\[11,10,3\]; must return uint8\[12,10,3\]"),
        ("nothing", r"returned a NoneType; must return uint8\[12,10,3\]"),
    ],
)
def test_what_returns_no_image_is_refused_by_name(tmp_path, monkeypatch, op, message):
    module = user_module(tmp_path, monkeypatch, "ops_wrong", WRONG)
    with pytest.raises(ArgumentError, match=f"op {module}:{op} {message}"):
        policies.randaugment(1, 9, ops=(f"{module}:{op}",), size=SIZE)
    with pytest.raises(ConfigError, match=f"^views.x.randaugment: op {module}:{op} returned"):
        views.build_augment(f"randaugment(1, 9, ops=('{module}:{op}',))")


@pytest.mark.parametrize("op, error", [("buggy", ValueError), ("missing", KeyError)])
def test_programming_errors_of_an_op_keep_their_type(tmp_path, monkeypatch, op, error):
    module = user_module(tmp_path, monkeypatch, "ops_wrong", WRONG)
    with pytest.raises(error) as caught:
        views.build_augment(f"randaugment(1, 9, ops=('{module}:{op}',))")
    assert type(caught.value) is error
    assert any(entry.name == op for entry in caught.traceback)


@pytest.mark.parametrize("error", [ValueError, TypeError, IndexError])
def test_programming_errors_of_a_draw_keep_their_type(error):
    def draw(key, hparams):
        raise error("planted")

    policy = policies.Policy((policies.IDENTITY,), draw, 1)
    with pytest.raises(error, match="^planted") as caught:
        augment.apply_policy(policy, jax.random.split(jax.random.key(0), 4), jnp.asarray(IMAGES), 0)
    assert type(caught.value) is error


def test_a_file_of_sub_policies_may_name_ops_from_outside(examples, tmp_path):
    path = tmp_path / "policy.json"
    path.write_text('{"levels": "fast", "sub_policies": [[["ops_geometric:SCALE_X", 1, 0.5]]]}')
    policy = policies.autoaugment(str(path), size=SIZE)
    assert {op.value for op in policy.ops} == {None, 0.2, -0.2}
