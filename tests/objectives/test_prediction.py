"""BYOL and MoCo v3 against the recorded cases of the official codes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from dino_jax.config.section import section
from dino_jax.models.build import HEADS
from dino_jax.objectives.base import Outputs
from dino_jax.objectives.build import build_objectives
from dino_jax.objectives.byol import NORM_FLOOR, ByolObjective, regression_loss
from dino_jax.objectives.mocov3 import Mocov3Objective, contrastive_loss
from dino_jax.objectives.sphere import to_sphere
from dino_jax.optim.schedules import Constant
from tests.objectives.branches import log_softmax, run

BOTH = {"byol": ByolObjective(Constant(1.0)), "mocov3": Mocov3Objective(Constant(1.0))}


def byol_rows(x, y):
    return regression_loss(to_sphere(x, NORM_FLOOR), to_sphere(y, NORM_FLOOR))


def test_the_regression_loss_of_byol_and_its_gradient_equal_official(golden):
    arrays = golden("ssl/b_losses")
    x, y = jnp.asarray(arrays["x"]), jnp.asarray(arrays["y"])
    np.testing.assert_allclose(byol_rows(x, y), arrays["regression_loss"], rtol=1e-6)
    grad = jax.grad(lambda x: jnp.mean(byol_rows(x, y)))(x)
    scale = np.abs(arrays["grad_x_of_mean"]).max()  # 1e6 or so at the vector of length 0
    np.testing.assert_allclose(grad, arrays["grad_x_of_mean"], rtol=1e-5, atol=1e-7 * scale)


def test_lengths_are_those_of_byol_also_at_zero(golden):
    arrays = golden("ssl/b_losses")
    unit = to_sphere(jnp.asarray(arrays["x"]), NORM_FLOOR)
    np.testing.assert_allclose(unit, arrays["l2_normalize_x"], rtol=0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.2, 1.0])
def test_the_contrastive_loss_of_moco_and_its_gradient_equal_official(golden, temperature):
    arrays = golden("ssl/c_contrastive")
    q, k = (jnp.asarray(arrays[f"contrastive/{name}"]) for name in "qk")

    def loss(q):
        return contrastive_loss(to_sphere(q, 1e-12), to_sphere(k, 1e-12), temperature)[0]

    value, grad = jax.value_and_grad(loss)(q)
    case = f"contrastive/T{temperature}"
    np.testing.assert_allclose(value, arrays[f"{case}/loss"], rtol=1e-6)
    np.testing.assert_allclose(grad, arrays[f"{case}/grad_q"], rtol=0, atol=1e-6)


def test_two_official_processes_are_one_global_batch(golden):
    arrays = golden("ssl/c_contrastive")
    ranks = arrays["contrastive/two_ranks/loss_rank"]
    np.testing.assert_allclose(np.mean(ranks), arrays["contrastive/T0.2/loss"], rtol=1e-6)
    np.testing.assert_allclose(
        arrays["contrastive/two_ranks/grad_q_over_2"],
        arrays["contrastive/T0.2/grad_q"],
        rtol=0,
        atol=1e-7,
    )


def draw(images=6, views=2, dim=5, seed=0):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(size=(2, images, views, dim)).astype(np.float32)
    return {"cls": student}, {"cls": teacher[:, :2]}


def unit_views(tokens):
    x = np.moveaxis(tokens["cls"].astype(np.float64), 1, 0)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize("name", BOTH)
def test_views_are_compared_with_the_targets_of_the_others_in_both_directions(name):
    student, teacher = draw()
    (q1, q2), (k1, k2) = unit_views(student), unit_views(teacher)
    outcome, _ = run(BOTH[name], student, teacher, {}, {})
    if name == "byol":
        wanted = np.mean(((q1 - k2) ** 2).sum(-1)) + np.mean(((q2 - k1) ** 2).sum(-1))
    else:
        tables = [log_softmax(q @ k.T / 0.2) for q, k in ((q1, k2), (q2, k1))]
        wanted = -2 * 0.2 * sum(np.mean(np.diagonal(table)) for table in tables)
        hits = [np.mean(t.argmax(-1) == np.arange(6)) for t in tables]
        np.testing.assert_allclose(outcome.metrics["accuracy"], np.mean(hits), rtol=1e-6)
    np.testing.assert_allclose(outcome.loss, wanted, rtol=1e-5)
    apart = [((q1[i] - q1[j]) ** 2).sum() for i in range(6) for j in range(6) if i != j]
    np.testing.assert_allclose(
        outcome.metrics["uniformity"], np.log(np.mean(np.exp(-2 * np.array(apart)))), rtol=1e-5
    )
    alignment = np.mean(((q1 - q2) ** 2).sum(-1))
    np.testing.assert_allclose(outcome.metrics["alignment"], alignment, rtol=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_more_views_of_the_student_are_more_pairs_of_the_same_mean(name):
    student, teacher = draw(views=3)
    whole, _ = run(BOTH[name], student, teacher, {}, {})
    q, k = unit_views(student), unit_views(teacher)
    pairs = [(0, 1), (1, 0), (2, 0), (2, 1)]
    if name == "byol":
        losses = [np.mean(((q[i] - k[j]) ** 2).sum(-1)) for i, j in pairs]
    else:
        tables = [log_softmax(q[i] @ k[j].T / 0.2) for i, j in pairs]
        losses = [-0.4 * np.mean(np.diagonal(table)) for table in tables]
    np.testing.assert_allclose(whole.loss, 2 * np.mean(losses), rtol=1e-5)


@pytest.mark.parametrize("name", BOTH)
def test_every_view_goes_through_every_head_by_itself_and_targets_have_no_gradient(name):
    calls = []

    def outputs(role, x):
        def project(head, x):
            calls.append((role, head, x.shape))
            return x

        return Outputs(tuple({"cls": x[:, v]} for v in range(2)), ("global",) * 2, project)

    def loss(student, teacher):
        branches = {"student": outputs("student", student), "teacher": outputs("teacher", teacher)}
        return BOTH[name](branches, {}, {}, jnp.asarray(0)).loss

    student, teacher = draw()
    grads = jax.grad(loss, argnums=(0, 1))(student["cls"], teacher["cls"])
    assert np.abs(grads[0]).max() > 0 and not np.any(grads[1])
    assert calls == [
        *[("student", "projector", (6, 5))] * 2,
        *[("student", "predictor", (6, 5))] * 2,
        *[("teacher", "projector", (6, 5))] * 2,
    ]


def build(heads, kind="byol", **changes):
    objectives = ConfigDict({kind: dict(kind=kind, **changes)})
    sections = {
        name: section(name, given, HEADS[given["kind"]].Config) for name, given in heads.items()
    }
    length = dict(learner="student", total_steps=10, steps_per_epoch=5)
    return build_objectives(objectives, sections, **length)[kind]


PROJECTOR = dict(kind="mlp", of="cls", out_dim=8)
PREDICTOR = dict(kind="mlp", of="projector", out_dim=8)


def test_a_predictor_is_a_head_on_the_projector():
    heads = dict(projector=PROJECTOR, predictor=PREDICTOR)
    assert build(heads, "mocov3", temperature=0.5).temperature == 0.5
    needs = build(heads).needs
    assert needs.heads == ("projector",) and needs.views_apart and not needs.whole_batch
    assert build(heads, "mocov3").needs.whole_batch


@pytest.mark.parametrize(
    ("heads", "message"),
    [
        (dict(a=PROJECTOR), r"byol.projector is 'projector'; config.network.heads has \['a'\]"),
        (
            dict(projector=PROJECTOR),
            r"byol.predictor is 'predictor', which does not exist; it must be a head with "
            r"--config.network.heads.predictor.of=projector",
        ),
        (dict(projector=PROJECTOR, predictor=PROJECTOR), "'predictor', which takes 'cls'; it must"),
        (
            dict(projector=PROJECTOR, predictor=PREDICTOR | dict(out_dim=9)),
            r"compares the 9 outputs of predictor with the 8 of projector; set .*out_dim=8",
        ),
    ],
)
def test_heads_that_do_not_fit_are_clear_errors(heads, message):
    with pytest.raises(ValueError, match=message):
        build(heads)
