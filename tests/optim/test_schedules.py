"""The schedules against the tables that the official code recorded, on the host and inside jit."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dino_jax.optim import schedules

META = json.loads((Path(__file__).parents[1] / "golden/v1/schedules_meta.json").read_text())
SETTINGS = sorted(META)
# DINOv2: epochs of 1250 steps (tiny: 10), batch, base rate, epochs, warm-ups, decay, momentum.
V2 = {
    "tiny": dict(epoch=10, batch=2048, lr=4e-3, epochs=12, warmup=3, hot=4, wd=0.4, m=0.992),
    "vitl16_short": dict(
        epoch=1250, batch=2048, lr=4e-3, epochs=100, warmup=10, hot=30, wd=0.4, m=0.992
    ),
    "vitl14": dict(epoch=1250, batch=3072, lr=2e-4, epochs=500, warmup=80, hot=30, wd=0.2, m=0.994),
}


def build_v2(case):
    """The four schedules of DINOv2 by their recorded names."""
    length = dict(total_steps=case["epochs"] * case["epoch"], steps_per_epoch=case["epoch"])
    total = dict(total_steps=length["total_steps"])
    peak = schedules.scale_learning_rate(case["lr"], case["batch"], 1024, "sqrt")
    return {
        "lr": schedules.build_warmup_cosine(peak, 1e-6, warmup_epochs=case["warmup"], **length),
        "wd": schedules.build_cosine(0.04, case["wd"], **total),
        "momentum": schedules.build_cosine(case["m"], 1.0, **total),
        "teacher_temp": schedules.build_teacher_temperature(
            0.04, 0.07, warmup_epochs=case["hot"], every="step", **length
        ),
    }


def build_lr(meta):
    return schedules.build_warmup_cosine(
        meta["peak_lr"],
        meta["min_lr"],
        warmup_epochs=meta["warmup_epochs"],
        total_steps=meta["epochs"] * meta["niter_per_epoch"],
        steps_per_epoch=meta["niter_per_epoch"],
    )


def build_temperature(meta):
    return schedules.build_teacher_temperature(
        meta["warmup_teacher_temp"],
        meta["teacher_temp"],
        warmup_epochs=meta["warmup_teacher_temp_epochs"],
        total_steps=meta["epochs"] * meta["niter_per_epoch"],
        steps_per_epoch=meta["niter_per_epoch"],
    )


@pytest.mark.parametrize("setting", SETTINGS)
def test_schedules_equal_the_official_tables(golden, setting):
    recorded, meta = golden("v1/schedules"), META[setting]
    total = meta["epochs"] * meta["niter_per_epoch"]
    steps = np.arange(total)
    cosine = schedules.build_cosine
    tables = {
        "lr": build_lr(meta)(steps),
        "wd": cosine(meta["wd"], meta["wd_end"], total_steps=total)(steps),
        "momentum": cosine(meta["momentum"], 1.0, total_steps=total)(steps),
    }
    for name, table in tables.items():
        assert table.dtype == np.float64
        np.testing.assert_allclose(table, recorded[f"{setting}/{name}"], rtol=0, atol=1e-9)
    temperature = build_temperature(meta)(steps)
    per_step = np.repeat(recorded[f"{setting}/teacher_temp"], meta["niter_per_epoch"])
    np.testing.assert_allclose(temperature, per_step, rtol=0, atol=1e-9)


@pytest.mark.parametrize("setting", V2)
def test_schedules_equal_those_of_dinov2_also_past_the_end(golden, setting):
    recorded, case = golden("v2/d_schedules"), V2[setting]
    names = recorded.files
    steps = recorded[f"{setting}/iters"] if f"{setting}/iters" in names else np.arange(125)
    for name, schedule in build_v2(case).items():
        wanted = recorded[f"{setting}/{name}"]
        np.testing.assert_allclose(schedule(steps), wanted, rtol=1e-9, atol=1e-12, err_msg=name)
        traced = jax.jit(schedule)(jnp.asarray(steps))
        np.testing.assert_allclose(traced, wanted, rtol=2e-6, atol=1e-9, err_msg=name)


@pytest.mark.parametrize("setting", [s for s in SETTINGS if META[s]["base_lr"] is not None])
def test_learning_rate_scales_with_the_batch_as_the_official_one(setting):
    meta = META[setting]
    peak = schedules.scale_learning_rate(meta["base_lr"], meta["total_batch"])
    assert peak == pytest.approx(meta["peak_lr"], rel=1e-12)


def test_learning_rate_scales_from_another_reference_batch():
    assert schedules.scale_learning_rate(0.3, 512, 1024) == pytest.approx(0.15, rel=1e-12)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_host_step_gives_a_float_equal_to_the_table(setting):
    lr = build_lr(META[setting])
    table = lr(np.arange(lr.total_steps))
    for step in (0, np.int32(1), lr.total_steps - 1):
        assert isinstance(lr(step), float)
        assert lr(step) == table[step]


@pytest.mark.parametrize(
    "schedule",
    [
        schedules.Constant(0.07),
        schedules.Cosine(0.04, 0.4, 1_250_000),
        schedules.Cosine(0.996, 1.0, 1_250_000),
        schedules.WarmupCosine(2e-3, 1e-6, 1_250_000, 12_500),
        schedules.TeacherTemperature(0.04, 0.07, 30, 1250),
        schedules.TeacherTemperature(0.04, 0.07, 999, 1251),
    ],
)
def test_traced_steps_give_the_host_values_in_float32_also_after_a_million_steps(schedule):
    near = [0, 1, 1249, 1250, 12_499, 12_500, 999_999, 1_000_000, 1_249_999, 1_250_000, 1_300_000]
    steps = np.concatenate([near, np.arange(0, 1_250_000, 997)])
    traced = jax.jit(schedule)(jnp.asarray(steps))
    assert traced.dtype == jnp.float32
    assert traced.shape == steps.shape
    np.testing.assert_allclose(traced, schedule(steps), rtol=2e-6, atol=0)
    one = jax.jit(schedule)(jnp.int32(999_999))
    assert one.shape == ()
    np.testing.assert_allclose(one, schedule(999_999), rtol=2e-6, atol=0)


def test_warmup_starts_at_zero_and_gives_the_peak_twice():
    lr = schedules.WarmupCosine(peak=0.5, final=0.1, total_steps=10, warmup_steps=4)
    np.testing.assert_array_equal(lr(np.arange(5)), [0, 0.5 / 3, 1.0 / 3, 0.5, 0.5])
    assert jax.jit(lr)(jnp.int32(0)) == 0


def test_a_warmup_of_one_step_is_a_zero():
    lr = schedules.WarmupCosine(peak=0.5, final=0.1, total_steps=4, warmup_steps=1)
    np.testing.assert_allclose(lr(np.arange(3)), [0, 0.5, 0.4], rtol=1e-12)


def test_a_warmup_as_long_as_the_run_ends_at_the_peak():
    lr = schedules.build_warmup_cosine(0.5, 0.1, warmup_epochs=2, total_steps=6, steps_per_epoch=3)
    np.testing.assert_allclose(lr(np.arange(7)), [*np.linspace(0, 0.5, 6), 0.1], rtol=1e-12)


@pytest.mark.parametrize(
    ("schedule", "final"),
    [
        (schedules.Cosine(0.04, 0.4, 10), 0.4),
        (schedules.WarmupCosine(1.0, 1e-6, 10, 3), 1e-6),
        (schedules.TeacherTemperature(0.04, 0.07, 2, 5), 0.07),
    ],
)
def test_steps_past_the_end_give_the_final_value(schedule, final):
    past = np.array([10, 11, 1000])
    np.testing.assert_array_equal(schedule(past), final)
    np.testing.assert_array_equal(schedule(jnp.asarray(past)), np.float32(final))


def test_temperature_without_warmup_is_final_from_the_first_step():
    assert schedules.TeacherTemperature(0.04, 0.07, 0, 5)(0) == 0.07


def test_temperature_with_one_warmup_epoch_starts_with_the_warmup_value():
    table = schedules.TeacherTemperature(0.04, 0.07, 1, 2)(np.arange(4))
    np.testing.assert_array_equal(table, [0.04, 0.04, 0.07, 0.07])


def test_fractional_epochs_round_to_steps():
    assert schedules.epochs_to_steps(0.5, 25) == 12
    assert schedules.epochs_to_steps(1.3, 10) == 13
    lr = schedules.build_warmup_cosine(
        1.0, 0.0, warmup_epochs=0.7, total_steps=25, steps_per_epoch=10
    )
    assert lr.warmup_steps == 7


def test_a_fractional_step_is_refused():
    with pytest.raises(TypeError, match="integer step, got float"):
        schedules.Constant(1.0)(1.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="integer step, got float32"):
        schedules.Cosine(0.0, 1.0, 5)(jnp.float32(1))


def test_a_warmup_longer_than_the_run_names_both_lengths_and_the_remedy():
    with pytest.raises(ValueError, match=r"\(10, 250 steps\).*\(5 epochs, 125 steps\).*at most 5 "):
        schedules.build_warmup_cosine(
            1e-3, 1e-6, warmup_epochs=10, total_steps=125, steps_per_epoch=25
        )


def test_a_temperature_warmup_longer_than_the_run_names_both_lengths_and_the_remedy():
    with pytest.raises(ValueError, match=r"\(30\).*\(12.5 epochs, 125 steps\).*at most 12 "):
        schedules.build_teacher_temperature(
            0.04, 0.07, warmup_epochs=30, total_steps=125, steps_per_epoch=10
        )


def test_a_fractional_temperature_warmup_is_refused():
    with pytest.raises(
        ValueError,
        match=r"must be a whole number, as the temperature moves once per epoch; use 1 or 2",
    ):
        schedules.build_teacher_temperature(
            0.04, 0.07, warmup_epochs=1.5, total_steps=50, steps_per_epoch=10
        )


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: schedules.scale_learning_rate(-1.0, 256), "base_lr must not be negative, got -1"),
        (lambda: schedules.scale_learning_rate(1.0, 0), "batch_size must be positive, got 0"),
        (lambda: schedules.epochs_to_steps(-1, 5), "epochs must not be negative, got -1"),
        (lambda: schedules.epochs_to_steps(1, 0), "steps_per_epoch must be positive, got 0"),
        (lambda: schedules.build_cosine(0.1, -0.2, total_steps=3), "final must not be negative"),
        (lambda: schedules.build_cosine(0.1, 0.2, total_steps=0), "total_steps must be positive"),
        (
            lambda: schedules.build_warmup_cosine(
                1.0, float("nan"), warmup_epochs=0, total_steps=5, steps_per_epoch=5
            ),
            "final must not be negative, got nan",
        ),
        (
            lambda: schedules.build_teacher_temperature(
                0.0, 0.07, warmup_epochs=1, total_steps=5, steps_per_epoch=5
            ),
            "warmup_teacher_temperature must be positive, got 0",
        ),
    ],
)
def test_values_out_of_range_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()
